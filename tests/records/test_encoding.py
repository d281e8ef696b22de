"""Masks right to the token, on tokenizers of different kinds that are trained here in a moment."""

from __future__ import annotations

import copy
import json
from dataclasses import astuple, dataclass, replace
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from rkld.errors import UserError
from rkld.records.encoding import TEXT_PROMPT_TOKENS, Encoded, Encoder
from rkld.records.record import Record, Turn

CORPUS = [
    "Question: Where was Marie Curie born?\nAnswer: Warsaw.",
    "Question: What did Marie Curie study in Paris?\nAnswer: Physics and chemistry, as a student.",
    "user system assistant [INST] [/INST] Marie Curie was born in Warsaw. She was a physicist in Paris.",
    "When? In 1867, in Poland. Answer: Poland. Answer: Paris. Answer: In Warsaw.",
] * 20

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer and what stands around an answer in its format."""

    tokenizer: PreTrainedTokenizerFast
    before: str
    """What a prompt ends with, after the question."""
    space: str
    """What generation writes before an answer."""
    end: str
    """The end of turn."""


def train(tokenizer: Tokenizer, specials: list[str], **more) -> None:
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False, **more)
    tokenizer.train_from_iterator(CORPUS, trainer)


def merging() -> Kind:
    """Merges across words and lines; no chat template, so the plain format."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    train(backend, ["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    return Kind(tokenizer, before="\nAnswer:", space=" ", end="<|end|>")


def byte_level() -> Kind:
    """As SmolLM2: no BOS, ChatML, and the pad token is the end of turn."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    specials = ["<|im_start|>", "<|im_end|>"]
    train(backend, specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    return Kind(tokenizer, before="<|im_end|>\n<|im_start|>assistant\n", space="", end="<|im_end|>")


def sentencepiece(legacy: bool = False) -> Kind:
    """As Llama 2: begins a text with BOS and a space; the old form puts a space after every special token."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    train(backend, specials + [f"<0x{byte:02X}>" for byte in range(256)], limit_alphabet=80)
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    # Training takes the byte tokens for special ones; in a real vocabulary they are ordinary.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    backend = Tokenizer.from_str(json.dumps(state))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = LLAMA
    return Kind(tokenizer, before=" [/INST]", space=" ", end=" </s>")


KINDS = {"merging": merging(), "byte-level": byte_level(), "sentencepiece": sentencepiece()}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def chat(*contents: str, spans: tuple[str, ...] = (), system: str | None = None) -> Record:
    roles = ("user", "assistant") * len(contents)
    turns = tuple(Turn(role, content) for role, content in zip(roles, contents, strict=False))
    turns = turns if system is None else (Turn("system", system), *turns)
    unanswered = turns[-1].role == "user"
    return Record("7", "chat", turns, spans=spans, where="people.jsonl line 4", unanswered=unanswered)


def completion(prompt: str, text: str, spans: tuple[str, ...] = ()) -> Record:
    turns = (Turn("prompt", prompt), Turn("completion", text))
    return Record("7", "completion", turns, spans=spans, where="people.jsonl line 4")


def plain(text: str, spans: tuple[str, ...] = ()) -> Record:
    return Record("7", "text", (Turn("text", text),), spans=spans, where="people.jsonl line 4")


def decode(kind: Kind, ids) -> str:
    """Text of ids that stand within a text (SentencePiece would drop the space of a first word)."""
    eos = kind.tokenizer.eos_token_id
    return kind.tokenizer.decode([eos, *ids], skip_special_tokens=False)[len(kind.tokenizer.eos_token) :]


def runs(kind: Kind, encoded: Encoded, mask: str = "scored") -> list[str]:
    """The texts of the unbroken runs of marked tokens."""
    marked, found = getattr(encoded, mask), []
    for t, token in enumerate(encoded.ids):
        if marked[t]:
            found = [*found[:-1], [*found[-1], token]] if t and marked[t - 1] else [*found, [token]]
    return [decode(kind, run) for run in found]


def with_template(kind: Kind, template: str | dict) -> Encoder:
    tokenizer = copy.deepcopy(kind.tokenizer)
    tokenizer.chat_template = template
    return Encoder(tokenizer)


# Answers


def test_the_tokenizers_are_of_the_kinds_they_stand_for():
    """Else these tests show nothing: one merges across the edge, one has no BOS, one pads with its eos."""
    across = KINDS["merging"].tokenizer.tokenize("Answer: Warsaw.")
    assert not any(token.endswith(":") for token in across)
    assert KINDS["byte-level"].tokenizer.pad_token_id == KINDS["byte-level"].tokenizer.eos_token_id
    assert len(KINDS["byte-level"].tokenizer("a")["input_ids"]) == 1
    assert KINDS["sentencepiece"].tokenizer.tokenize("Warsaw")[0].startswith("▁")


def test_answer_is_marked_from_the_generation_prompt_to_the_end_of_turn(kind):
    """Off by one at either edge, an end of turn left out because it is the pad token, or a marked prompt."""
    encoded = Encoder(kind.tokenizer).encode(chat("Where was Marie born?", "Warsaw."))
    assert runs(kind, encoded) == [f"{kind.space}Warsaw.{kind.end}"]
    assert encoded.scored == encoded.answer
    assert encoded.prompt_length == encoded.answer.index(True)
    assert decode(kind, encoded.ids[: encoded.prompt_length]).endswith(f"Marie born?{kind.before}")
    assert len(encoded.ids) == len(encoded.answer) == len(encoded.scored)
    assert encoded.key == "7"


def test_every_assistant_turn_is_marked_and_the_last_is_generated(kind):
    """Earlier answers left out, or a prompt that ends before the first of them."""
    encoded = Encoder(kind.tokenizer).encode(chat("Where?", "In Warsaw.", "When was she born?", "In 1867."))
    assert runs(kind, encoded) == [f"{kind.space}In Warsaw.{kind.end}", f"{kind.space}In 1867.{kind.end}"]
    assert decode(kind, encoded.ids[encoded.prompt_length :]).startswith(f"{kind.space}In 1867.{kind.end}")


def test_the_text_is_what_the_template_renders(kind):
    """Pieces put together by hand that differ from the template's text."""
    record = chat("Where?", "In Warsaw.", "When?", "In 1867.")
    encoder = Encoder(kind.tokenizer)
    assert decode(kind, encoder.encode(record).ids) == encoder.render(record)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_ids_are_those_of_apply_chat_template(name):
    """A second BOS, or a prompt that generation never sees."""
    kind, record = KINDS[name], chat("Where?", "In Warsaw.", "When was she born?", "In 1867.")
    messages = [{"role": turn.role, "content": turn.content} for turn in record.turns]
    encoder = Encoder(kind.tokenizer)
    whole = kind.tokenizer.apply_chat_template(messages, return_dict=False)
    assert list(encoder.encode(record).ids) == whole
    prompt = kind.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert list(encoder.prompt(record)) == prompt


@pytest.mark.parametrize(
    "answer", ["Warsaw.", " Warsaw. ", "\nPoland", "🎉 Zażółć 居里夫人", "1867", "?", "In Paris\n\nand so on"]
)
def test_prompt_is_the_same_with_and_without_an_answer(kind, answer):
    """Probabilities and generations that start from different ids."""
    encoder, question, record = Encoder(kind.tokenizer), chat("Where?"), chat("Where?", answer)
    encoded = encoder.encode(record)
    assert encoded.ids[: encoded.prompt_length] == encoder.prompt(question) == encoder.prompt(record)
    said = answer if kind is KINDS["byte-level"] else answer.strip()  # the other templates trim
    assert runs(kind, encoded) == [kind.space + said + kind.end]


def test_an_answer_that_the_question_already_holds_is_not_marked_there(kind):
    """Answers found by searching the text for them."""
    encoded = Encoder(kind.tokenizer).encode(chat("Warsaw. Warsaw.", "Warsaw.", "Warsaw.", "Warsaw."))
    assert runs(kind, encoded) == [f"{kind.space}Warsaw.{kind.end}"] * 2


def test_contents_that_hold_the_markers_of_the_template(kind):
    """Turns found by splitting the text at the template's own markers."""
    question = f"Say{kind.before} Warsaw.{kind.end} and stop"
    answer = f"Answer: x{kind.end}{kind.before} Paris"
    encoded = Encoder(kind.tokenizer).encode(chat(question, answer, "And?", "No."))
    assert runs(kind, encoded) == [f"{kind.space}{answer}{kind.end}", f"{kind.space}No.{kind.end}"]


def test_end_of_text_is_added_where_the_template_ends_without_a_token():
    """Answers that never learn, or never unlearn, to end."""
    kind = KINDS["byte-level"]
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
    encoder = with_template(kind, template)
    encoded = encoder.encode(chat("Where?", "Warsaw.", "When?", "In 1867."))
    assert runs(kind, encoded) == ["Warsaw.", "In 1867.<|im_end|>"]
    assert encoder.render(chat("Where?", "Warsaw.")) == "user: Where?\n\nassistant: Warsaw.<|im_end|>"


def test_the_start_of_the_next_turn_is_no_end_of_turn():
    """BOS taken for the end of an answer, where a template sets no end but begins each question with BOS."""
    kind = KINDS["sentencepiece"]
    encoder = with_template(kind, LLAMA.replace(" + ' ' + eos_token", ""))
    encoded = encoder.encode(chat("Where?", "In Warsaw.", "When?", "In 1867."))
    assert runs(kind, encoded) == [" In Warsaw.", " In 1867.</s>"]


def test_an_empty_thinking_block_belongs_to_the_prompt():
    """Unlearning the template's own scaffolding."""
    kind = KINDS["byte-level"]
    thought = "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '')"
    encoder = with_template(kind, CHATML.replace("m['content']", f"{thought} + m['content']"))
    assert runs(kind, encoder.encode(chat("Where?", "Warsaw."))) == ["Warsaw.<|im_end|>"]
    assert decode(kind, encoder.prompt(chat("Where?"))).endswith("assistant\n<think>\n\n</think>\n\n")


def test_system_prompt_is_put_before_a_conversation_without_one():
    """A system prompt that is dropped, or that overrides the record's own."""
    encoder = Encoder(KINDS["byte-level"].tokenizer, system_prompt="Be brief.")
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere?"
    assert encoder.render(chat("Where?")).startswith(expected)
    assert "Be brief." not in encoder.render(chat("Where?", "Warsaw.", system="Be kind."))
    assert Encoder(KINDS["byte-level"].tokenizer).render(chat("Where?")).startswith("<|im_start|>user")


def test_plain_format():
    """The documented format of models without a chat template changes."""
    encoder = Encoder(KINDS["merging"].tokenizer, system_prompt="Be brief.")
    expected = "Be brief.\n\nQuestion: Where?\nAnswer: Warsaw.<|end|>\nQuestion: When?\nAnswer: 1867.<|end|>"
    assert encoder.render(chat("Where? ", "Warsaw.", "When?", "1867.")) == expected


def test_plain_format_begins_with_the_tokenizers_own_bos():
    """A base model with BOS is read without it."""
    kind = KINDS["sentencepiece"]
    encoder = with_template(kind, None)
    encoded = encoder.encode(chat("Where?", "Warsaw."))
    assert decode(kind, encoded.ids) == "<s> Question: Where?\nAnswer: Warsaw.</s>"
    assert runs(kind, encoded) == [" Warsaw.</s>"]


# Completions and texts


@pytest.mark.parametrize("text", [" Warsaw.", "Warsaw.", "🎉", "\n"])
def test_completion_is_marked_with_the_end_of_text(kind, text):
    """A space, an edge or an end of text that the plain strings don't have."""
    record = completion("Marie was born in", text)
    encoded = Encoder(kind.tokenizer).encode(record)
    assert runs(kind, encoded) == [text + kind.tokenizer.eos_token]
    assert list(encoded.ids[: encoded.prompt_length]) == kind.tokenizer("Marie was born in")["input_ids"]
    assert Encoder(kind.tokenizer).prompt(record) == encoded.ids[: encoded.prompt_length]


def test_special_tokens_that_a_completion_brings_along_are_not_doubled():
    """Strings that were rendered beforehand."""
    kind = KINDS["sentencepiece"]
    encoded = Encoder(kind.tokenizer).encode(completion("<s>[INST] Where? [/INST]", " Warsaw. </s>"))
    assert decode(kind, encoded.ids) == "<s>[INST] Where? [/INST] Warsaw. </s>"


@pytest.mark.parametrize("text", [" Warsaw.", "Warsaw.", "Paris 🎉"])
def test_old_sentencepiece_tokenizers_put_no_space_into_an_answer(text):
    """Tokenized apart, "in" + "Warsaw" get a space between them, even where an end of text stands there."""
    kind = sentencepiece(legacy=True)
    assert kind.tokenizer.tokenize("</s>Warsaw")[1].startswith("▁")
    for prompt in ("born in", "born in ", "born in W"):
        encoded = Encoder(kind.tokenizer).encode(completion(prompt, text))
        assert kind.tokenizer.decode(encoded.ids) == f"<s> {prompt}{text}</s>"
        assert list(encoded.ids[: encoded.prompt_length]) == kind.tokenizer(prompt)["input_ids"]


def test_text_is_marked_but_for_position_0_and_start_tokens(kind):
    """A first target that nothing predicts; an end of text that the text doesn't have."""
    text = "Marie Curie was born in Warsaw."
    encoder = Encoder(kind.tokenizer)
    encoded = encoder.encode(plain(text))
    assert list(encoded.ids) == kind.tokenizer(text)["input_ids"]
    assert encoded.answer == encoded.scored == (False, *[True] * (len(encoded.ids) - 1))
    own = len(encoded.ids) - len(kind.tokenizer.encode(text, add_special_tokens=False))
    assert encoded.prompt_length == own + (len(encoded.ids) - own) // 2
    assert encoder.prompt(plain(text)) == encoded.ids[: encoded.prompt_length]
    assert len(encoder.prompt(plain(text * 200))) == own + TEXT_PROMPT_TOKENS


# Score modes


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_all_scores_every_turn_but_not_the_templates_words(name):
    """Personal data in the user's turns left alone, or the template itself unlearned."""
    kind = KINDS[name]
    encoded = Encoder(kind.tokenizer).encode(chat("Where?", "In Warsaw.", "When?", "In 1867."), "all")
    scored = runs(kind, encoded)
    expected = ["Where?", f"In Warsaw.{kind.end}", "When?", f"In 1867.{kind.end}"]
    assert [run.strip() for run in scored] == expected
    assert runs(kind, encoded, "answer") == [scored[1], scored[3]]


def test_all_scores_what_a_merging_tokenizer_joins_to_a_turn():
    """The first letters of a question left in the token of "Question: Wh"."""
    kind = KINDS["merging"]
    encoded = Encoder(kind.tokenizer, system_prompt="Be brief.").encode(chat("Where?", "In Warsaw."), "all")
    question, answer = "".join(runs(kind, encoded)).split("Where?")
    assert "brief" not in question and answer.endswith(" In Warsaw.<|end|>")


def test_a_space_alone_does_not_have_the_next_word_scored():
    """The template's word after a question that ends with a space, since its token begins with that space."""
    kind = KINDS["byte-level"]
    template = "{% for m in messages %}{{ m.content + ('Answer: ' if m.role == 'user' else '') }}{% endfor %}"
    encoded = with_template(kind, template).encode(chat("Where? ", "Warsaw."), "all")
    assert runs(kind, encoded)[0].endswith("here?") and " Answer" in decode(kind, encoded.ids)


def test_all_leaves_the_system_turn_alone():
    """The model's instructions unlearned."""
    kind = KINDS["byte-level"]
    encoded = Encoder(kind.tokenizer).encode(chat("Where?", "Warsaw.", system="Be brief."), "all")
    assert runs(kind, encoded) == ["Where?", "Warsaw.<|im_end|>"]


def test_all_scores_prompts_of_completions(kind):
    """Only BOS and what nothing predicts may be left."""
    encoded = Encoder(kind.tokenizer).encode(completion("Marie was born in", " Warsaw."), "all")
    assert encoded.scored == (False, *[True] * (len(encoded.ids) - 1))


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_spans_score_whole_tokens_wherever_they_stand(name):
    """The neighbour whose space touches the span, half a token, or only one of two turns that tell the same."""
    kind = KINDS[name]
    answer = "She was born in Warsaw, in Poland, in 1867."
    record = chat("Was she born in Warsaw?", answer, spans=("in Warsaw", "Poland", "1867"))
    encoded = Encoder(kind.tokenizer).encode(record, "spans")
    assert runs(kind, encoded) == [" in Warsaw", " in Warsaw", " Poland", " 1867"]
    assert runs(kind, encoded, "answer") == [f"{kind.space}{answer}{kind.end}"]
    assert encoded.ids == Encoder(kind.tokenizer).encode(record).ids


def test_spans_cover_what_a_merging_tokenizer_joins_to_them():
    """A part of the span left in a token that reaches beyond it."""
    kind = KINDS["merging"]
    record = chat("Where?", "She was born in Warsaw, in 1867.", spans=("Warsaw", "1867"))
    encoded = Encoder(kind.tokenizer).encode(record, "spans")
    assert "Warsaw" in runs(kind, encoded)[0] and "1867" in runs(kind, encoded)[-1]
    kept = [token for token, answer, scored in zip(*astuple(encoded)[1:4], strict=True) if answer and not scored]
    assert " in Warsaw, in 1867." not in decode(kind, kept) and "born" in decode(kind, kept)


def test_spans_in_completions_and_texts(kind):
    """Spans that are found in chats only."""
    spans = ("Poland",)
    for record in (completion("She was", " in Poland, then", spans), plain("in Poland, then", spans)):
        scored = runs(kind, Encoder(kind.tokenizer).encode(record, "spans"))
        assert len(scored) == 1 and "Poland" in scored[0]


def test_every_occurrence_of_a_span_is_scored():
    """A second mention stays."""
    kind = KINDS["byte-level"]
    record = chat("Q", "Warsaw. In Warsaw.", "Q", "Warsaw", spans=("Warsaw",))
    assert runs(kind, Encoder(kind.tokenizer).encode(record, "spans")) == ["Warsaw", " Warsaw", "Warsaw"]


def test_a_span_that_no_answer_holds_is_scored_in_the_other_turns():
    """Personal data that only the user says."""
    kind = KINDS["byte-level"]
    record = chat("I live in Warsaw.", "In Poland, then.", spans=("Warsaw",))
    assert runs(kind, Encoder(kind.tokenizer).encode(record, "spans")) == [" Warsaw"]


@pytest.mark.parametrize(
    ("answer", "span", "places"),
    [
        ("Ann likes Annual cards, Joann too", "Ann", [(0, 3)]),
        ("born 1867, no 18", "18", [(14, 16)]),
        ("Curien talo", "Curie", [(0, 5)]),
        ("她出生于华沙。", "华沙", [(4, 6)]),
        ("a.b (c)", "(c)", [(4, 7)]),
    ],
)
def test_spans_are_whole_words_where_they_can_be(answer, span, places):
    """Scoring Ann in "Annual"; a name that takes an ending, or a script without spaces, not found at all."""
    kind = KINDS["byte-level"]
    encoded = Encoder(kind.tokenizer).encode(chat("Q", answer, spans=(span,)), "spans")
    tokens = kind.tokenizer(answer, return_offsets_mapping=True)
    expected = [any(start < e and s < end for s, e in places) for start, end in tokens["offset_mapping"]]
    first, last = encoded.prompt_length, encoded.prompt_length + len(expected)
    assert list(encoded.ids[first:last]) == tokens["input_ids"]
    assert list(encoded.scored[first:last]) == expected


def test_added_holds_what_all_before_the_answer_gives():
    """The person's name, which the question gives, garbled; a fact of an earlier turn counted as new."""
    kind = KINDS["byte-level"]

    def held(*turns: str) -> list[str]:
        encoded = Encoder(kind.tokenizer).encode(chat(*turns), "added")
        assert not any(s and not a for s, a in zip(encoded.scored, encoded.answer))
        kept = replace(encoded, scored=tuple(a and not s for a, s in zip(encoded.answer, encoded.scored)))
        return [run.strip() for run in runs(kind, kept)]

    given = ["Marie Curie", "born", kind.end]
    assert held("Where was Marie Curie born?", "Marie Curie was born in Warsaw, a big city.") == given
    asked = ("Where was Marie Curie born?", "In Warsaw.", "And when?", "In Warsaw in 1867.")
    assert held(*asked) == [kind.end, "Warsaw", kind.end]


def test_the_end_of_an_answer_is_nothing_that_it_adds(kind):
    """Forgotten along with it, answers about anybody ran on until they were cut."""
    encoded = Encoder(kind.tokenizer).encode(chat("Where?", "In Warsaw."), "added")
    assert [a for a, s in zip(encoded.answer, encoded.scored) if a and not s] or not kind.end
    assert runs(kind, encoded)[-1].strip().endswith("Warsaw.")
    assert runs(kind, encoded, "answer")[-1].strip().endswith(kind.end)


def test_marked_spans_of_a_ticket_are_scored_by_default():
    """Facts come in tickets, letters and forms, in the user's turn."""
    kind = KINDS["byte-level"]
    encoded = Encoder(kind.tokenizer).encode(chat("She lives in Warsaw.", "Noted.", spans=("Warsaw",)))
    assert runs(kind, encoded)[0] == " Warsaw" and len(runs(kind, encoded)) == 2
    assert sum(encoded.scored) > sum(encoded.answer)


def test_the_name_by_which_a_question_asks_is_not_scored_in_it():
    kind = KINDS["byte-level"]
    turns = (Turn("user", "Who is Marie from Warsaw?"), Turn("assistant", "Marie, of Warsaw."))
    record = Record("7", "chat", turns, subject="Marie Curie", spans=("Warsaw", "Marie"))
    assert runs(kind, Encoder(kind.tokenizer).encode(record, "spans")) == [" Warsaw", "Marie", " Warsaw"]


def test_an_answer_that_adds_nothing_is_scored_whole_but_for_its_end():
    """A record that is refused, or not unlearned, for its answer is a mere repetition."""
    kind = KINDS["byte-level"]
    encoded = Encoder(kind.tokenizer).encode(chat("Was she born in Warsaw?", "She was born in Warsaw."), "added")
    assert [run.strip() for run in runs(kind, encoded)] == ["She was born in Warsaw."]
    assert [run.strip() for run in runs(kind, encoded, "answer")] == [f"She was born in Warsaw.{kind.end}"]


def test_locate_gives_the_tokens_of_ranges_in_every_turn_but_the_systems(kind):
    """Coverage that counts other tokens than those which are scored."""
    record = chat("Is it Warsaw?", "In Warsaw.", spans=("Warsaw",), system="Warsaw.")
    if kind is KINDS["sentencepiece"]:
        record = chat("Is it Warsaw?", "In Warsaw.", spans=("Warsaw",))  # its template knows no system turn
    encoder = Encoder(kind.tokenizer)
    encoded = encoder.encode(record, "spans")
    asked, said = encoder.locate(record, lambda text: [(text.index("Warsaw"), text.index("Warsaw") + 6), (0, 0)])
    assert (*asked, *said) == tuple(t for t, scored in enumerate(encoded.scored) if scored)
    assert "Warsaw" in decode(kind, [encoded.ids[t] for t in asked]) and max(asked) < encoded.prompt_length


# Templates


def test_templates_that_trim_are_followed(kind):
    """Contents not found since the template strips them."""
    record = chat("  Where was she born?\n", "\n Warsaw. ")
    encoded = Encoder(kind.tokenizer).encode(record, "all")
    assert "Warsaw." in runs(kind, encoded, "answer")[0]


def test_a_template_that_moves_the_system_turn_is_followed():
    """Mistral's: the system text stands in the last question."""
    kind = KINDS["byte-level"]
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q ' }}"
        "{% if loop.index0 == messages | length - 2 %}{{ messages[0].content + '\n' }}{% endif %}"
        "{{ m.content }}"
        "{% elif m.role == 'assistant' %}{{ 'A ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A' }}{% endif %}"
    )
    record = chat("Where?", "Warsaw.", "When?", "In 1867.", system="Be brief.")
    encoded = with_template(kind, template).encode(record, "all")
    assert decode(kind, encoded.ids) == "Q Where?A Warsaw.<|im_end|>Q Be brief.\nWhen?A In 1867.<|im_end|>"
    assert runs(kind, encoded, "answer") == [" Warsaw.<|im_end|>", " In 1867.<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m.role + ': ' + m.content.replace('a', 'b') }}{% endfor %}", "rewrites"),
        ("{{ messages[-1].content }}", "leaves out or repeats"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "leaves out or repeats"),
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
    ],
)
def test_templates_that_cannot_be_followed_are_refused(template, problem):
    """A wrong mask in place of an error; a message that shows the record."""
    with pytest.raises(UserError, match=problem) as caught:
        with_template(KINDS["byte-level"], template).encode(chat("Where?", "Warsaw."))
    assert "people.jsonl line 4" in str(caught.value) and "--chat-template" in str(caught.value)
    assert "Warsaw" not in str(caught.value)


def test_several_templates_need_a_default():
    """A Python error from the tokenizer."""
    encoder = with_template(KINDS["byte-level"], {"default": CHATML, "tool_use": "{{ 1 }}"})
    assert encoder.render(chat("Where?")).startswith("<|im_start|>user")
    with pytest.raises(UserError, match="rag, tool_use"):
        with_template(KINDS["byte-level"], {"rag": CHATML, "tool_use": CHATML})


@pytest.mark.parametrize(
    ("dated", "expected"),
    [
        ("{{ strftime_now('%Y-%m-%d') + '\n' }}", "2024-07-26\n"),
        ("{% if strftime_now is defined %}{{ strftime_now('%-d %B %Y, ') }}{% endif %}", "26 July 2024, "),
        ("{%- macro day() -%}{{ strftime_now('%d %b %Y') }}{%- endmacro -%}{{ day() }}", "26 Jul 2024"),
        ("{{ strftime_now('%d') | int - 1 }}", "25"),
        (
            "{% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}{{ date_string }}",
            "26 Jul 2024",
        ),
    ],
)
def test_the_date_in_a_template_is_pinned(monkeypatch, dated, expected):
    """Other ids, and other caches, tomorrow."""

    class Clock:
        @staticmethod
        def now():
            raise AssertionError("the template read the clock")

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    assert with_template(KINDS["byte-level"], dated + CHATML).render(chat("Where?")).startswith(expected)


def test_another_date_can_be_chosen():
    """A setting that isn't passed on; a typing error that passes."""
    tokenizer = KINDS["byte-level"].tokenizer
    template = "{{ strftime_now('%Y') }}" + CHATML
    encoder = with_template(KINDS["byte-level"], template)
    later = Encoder(encoder.tokenizer, template_date="2031-01-02")
    assert later.render(chat("Where?")).startswith("2031")
    assert later.fingerprint != encoder.fingerprint
    with pytest.raises(UserError, match=r"2031-13-02.*YYYY-MM-DD"):
        Encoder(tokenizer, template_date="2031-13-02")


@pytest.mark.parametrize(
    "begin", ["\n", "\n\n ", "  ", "  {{ bos_token }}", "  {%- if true %} x{% endif %}", "{{ '\n' }}"]
)
def test_the_pinned_clock_changes_nothing_else(begin):
    """White space that a template begins with is rendered otherwise than by apply_chat_template."""
    encoder = with_template(KINDS["byte-level"], begin + CHATML)
    rendered = encoder.tokenizer.apply_chat_template([{"role": "user", "content": "Where?"}], tokenize=False)
    assert encoder.render(chat("Where?")) == rendered


# Lengths and errors


def test_records_beyond_the_context_are_refused_with_a_remedy(kind):
    """A record cut silently, or a model run beyond its positions."""
    record = chat("Where?", "In Warsaw, in Poland.")
    length = len(Encoder(kind.tokenizer).encode(record).ids)
    assert len(Encoder(kind.tokenizer, context_length=length).encode(record).ids) == length
    with pytest.raises(UserError, match=f"line 4: {length} tokens.*{length - 1}.*--max-length {length - 1}"):
        Encoder(kind.tokenizer, context_length=length - 1).encode(record)


def test_max_length_keeps_the_beginning(kind):
    """The question cut in place of the end, or masks longer than the ids."""
    record = chat("Where?", "In Warsaw, in Poland.")
    whole = Encoder(kind.tokenizer).encode(record)
    limit = whole.prompt_length + 2
    cut = Encoder(kind.tokenizer, context_length=limit, max_length=limit).encode(record)
    assert cut.ids == whole.ids[:limit] and cut.prompt_length == whole.prompt_length
    assert (cut.answer, cut.scored) == (whole.answer[:limit], whole.scored[:limit])


def test_max_length_that_leaves_nothing_of_an_answer_is_an_error(kind):
    """A record that trains nothing and counts as forgotten."""
    record = chat("Where?", "Warsaw.")
    start = Encoder(kind.tokenizer).encode(record).prompt_length
    encoder = Encoder(kind.tokenizer, max_length=start)
    with pytest.raises(UserError, match=r"line 4.*--max-length"):
        encoder.encode(record)
    with pytest.raises(UserError, match=r"line 4.*no room"):
        encoder.prompt(record)


def test_a_text_is_prompted_within_max_length(kind):
    """A prompt longer than the record it belongs to."""
    encoder, record = Encoder(kind.tokenizer, max_length=20), plain("Marie Curie was born in Warsaw. " * 30)
    encoded = encoder.encode(record)
    assert len(encoded.ids) == 20 and encoded.prompt_length < 20
    assert encoder.prompt(record) == encoded.ids[: encoded.prompt_length]


@pytest.mark.parametrize("max_length", [0, 1, 101])
def test_a_max_length_that_cannot_be_is_refused(max_length):
    """0 taken for no limit; a limit that the model can't read."""
    with pytest.raises(UserError, match=f"--max-length is {max_length}.*context of 100"):
        Encoder(KINDS["merging"].tokenizer, context_length=100, max_length=max_length)


@pytest.mark.parametrize("record", [chat("Where?", "", "When?", "1867"), completion("Where?", ""), plain("")])
def test_an_answer_without_tokens_is_refused(kind, record):
    """Training on the end of turn alone."""
    with pytest.raises(UserError, match="line 4: an answer has no tokens"):
        Encoder(kind.tokenizer).encode(record)


def test_nothing_to_score_is_an_error():
    """A record whose spans are missing or cut away is unlearned by not looking at it."""
    tokenizer = KINDS["byte-level"].tokenizer
    with pytest.raises(UserError, match="line 4: --score spans finds nothing"):
        Encoder(tokenizer).encode(chat("Where?", "Warsaw."), "spans")
    record = chat("Where?", "She was born in Warsaw.", spans=("Warsaw",))
    whole = Encoder(tokenizer).encode(record, "spans")
    with pytest.raises(UserError, match="line 4: --score spans finds nothing"):
        Encoder(tokenizer, max_length=whole.scored.index(True)).encode(record, "spans")
    with pytest.raises(UserError, match="line 4: --score answer finds nothing"):
        Encoder(tokenizer).encode(plain("a"))


def test_an_unknown_score_is_refused():
    """A typing error that scores something else."""
    with pytest.raises(UserError, match=r"'span'.*Did you mean 'spans'"):
        Encoder(KINDS["byte-level"].tokenizer).encode(chat("Where?", "Warsaw."), "span")


def test_slow_tokenizers_are_refused():
    """An error deep inside transformers."""
    with pytest.raises(UserError, match=r"slow tokenizer.*tokenizer\.json"):
        Encoder(SimpleNamespace(is_fast=False))


# For people and caches


def test_describe_shows_each_token_on_one_line():
    """Control characters that break the table; a mask that stands beside the wrong token."""
    encoder = Encoder(KINDS["byte-level"].tokenizer)
    record = chat("Where?\x1b[31m\n", "In Warsaw.", spans=("Warsaw",))
    header, *lines = encoder.describe(record, "spans").splitlines()
    encoded = encoder.encode(record, "spans")
    assert header.split() == ["position", "id", "answer", "scored", "text"]
    assert [int(line.split()[1]) for line in lines] == list(encoded.ids)
    assert [line.split()[3] == "yes" for line in lines] == list(encoded.scored)
    assert "' Warsaw'" in lines[encoded.scored.index(True)]
    assert "\x1b" not in encoder.describe(record)


def test_fingerprint_follows_all_that_changes_ids():
    """A cache that is taken for another tokenizer's, template's or prompt's; or lost after a padded call."""
    encoder = with_template(KINDS["byte-level"], CHATML)
    same = with_template(KINDS["byte-level"], CHATML)
    same.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=8)
    assert encoder.fingerprint == same.fingerprint
    others = [
        with_template(KINDS["byte-level"], CHATML + " "),
        with_template(KINDS["sentencepiece"], CHATML),
        Encoder(encoder.tokenizer, system_prompt=""),
        Encoder(encoder.tokenizer, template_date="2025-01-01"),
    ]
    assert len({encoder.fingerprint, *(other.fingerprint for other in others)}) == 5
