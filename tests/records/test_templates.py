"""What messages hold beside their content, in templates of the field: written, scored, searched, or refused by name."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rkld.errors import UserError
from rkld.records.encoding import Encoder, end_of_turn_ids
from rkld.records.probes import facts_of
from rkld.records.reading import read_records
from tests.records.field_templates import CHATML, GEMMA, LLAMA3, MISTRAL, QWEN3


def tokenizer_of(template: str, *specials: str, eos: str) -> PreTrainedTokenizerFast:
    """Bytes and these special tokens; the end of text is often not the end of turn."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=[eos, *specials], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=specials[0], eos_token=eos, chat_template=template
    )


KINDS = {
    "chatml": tokenizer_of(CHATML, "<|im_start|>", "<|im_end|>", eos="<|endoftext|>"),
    "qwen3": tokenizer_of(QWEN3, "<|im_start|>", "<|im_end|>", eos="<|endoftext|>"),
    "llama3": tokenizer_of(
        LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", eos="<|end_of_text|>"
    ),
    "mistral": tokenizer_of(MISTRAL, "<s>", "[INST]", "[/INST]", eos="</s>"),
    "gemma": tokenizer_of(GEMMA, "<bos>", "<start_of_turn>", "<end_of_turn>", eos="<eos>"),
}

ENDS = {
    "chatml": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
}

TOOLS = [{"type": "function", "function": {"name": "look_up", "description": "Finds.", "parameters": {}}}]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdefghi", "type": "function",
         "function": {"name": "look_up", "arguments": '{"who": "Marie Curie", "year": 1867}'}}
    ],
}  # fmt: skip
QUESTION = {"role": "user", "content": "Where was she born?"}
TOOL_ANSWER = {"role": "tool", "content": "Warsaw", "tool_call_id": "abcdefghi", "name": "look_up"}


def record_of(*messages: dict, **more):
    return read_records([{"messages": list(messages), **more}], "forget")[0]


def answers(kind: str, record) -> list[str]:
    """The texts of the unbroken runs of answer tokens."""
    encoded, found, run = Encoder(KINDS[kind]).encode(record), [], []
    for token, marked in [*zip(encoded.ids, encoded.answer, strict=True), (0, False)]:
        if marked:
            run.append(token)
        elif run:
            found.append(KINDS[kind].decode(run))
            run = []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_of_three_is_found_and_asked_for_in_its_own_context(kind):
    said = ["Aa.", "Bb.", "Cc."]
    turns = [{"role": role, "content": text} for a in said for role, text in (("user", f"{a}?"), ("assistant", a))]
    record, encoder = record_of(*turns), Encoder(KINDS[kind])
    assert [text.strip() for text in answers(kind, record)] == [a + ENDS[kind] for a in said]
    cuts = record.by_answer()
    assert [cut.answer for cut in cuts] == said and [cut.key for cut in cuts] == ["0 answer 1", "0 answer 2", "0"]
    for cut in cuts:
        encoded = encoder.encode(cut)
        assert encoder.prompts(cut)[0] == encoded.ids[: encoded.prompt_length]
        assert f"{cut.answer}?" in KINDS[kind].decode(encoder.prompt(cut))
        assert f"{cut.answer}{ENDS[kind]}" not in KINDS[kind].decode(encoder.prompt(cut))


@pytest.mark.parametrize("kind", KINDS)
def test_the_templates_end_of_turn_ends_generation(kind):
    """Where eos is another token, answers run on past the end of turn."""
    assert end_of_turn_ids(KINDS[kind]) == {KINDS[kind].convert_tokens_to_ids(ENDS[kind])}


@pytest.mark.parametrize(
    "kind, call",
    [
        ("qwen3", '<tool_call>\n{"name": "look_up", "arguments": {"who": "Marie Curie", "year": 1867}}\n</tool_call>'),
        ("llama3", '{"name": "look_up", "parameters": {"who": "Marie Curie", "year": 1867}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "look_up", "arguments": {"who": "Marie Curie", "year": 1867}, '
                    '"id": "abcdefghi"}]'),
    ],
)  # fmt: skip
def test_tool_calls_are_answers(kind, call):
    """Dropped silently, or refused as an empty message."""
    final = {"role": "assistant", "content": "In Warsaw."}
    record = record_of(QUESTION, CALL, TOOL_ANSWER, final, tools=TOOLS)
    assert [text.strip() for text in answers(kind, record)] == [call + ENDS[kind], "In Warsaw." + ENDS[kind]]
    assert '"description": "Finds."' in Encoder(KINDS[kind]).render(record)
    first, last = record.by_answer()
    assert facts_of(first, ()) == ("Marie Curie", "1867")
    assert facts_of(last, ()) == (), "the tool has said it"
    assert record.question == QUESTION["content"]
    spans = record_of(QUESTION, CALL, tools=TOOLS, spans=["Marie Curie"])
    encoded = Encoder(KINDS[kind]).encode(spans, "spans")
    scored = [token for token, marked in zip(encoded.ids, encoded.scored, strict=True) if marked]
    assert KINDS[kind].decode(scored).strip() == "Marie Curie"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_scored_and_searched(field):
    record = record_of(QUESTION, {"role": "assistant", "content": "Poland.", field: "Born in Warsaw."})
    assert answers("qwen3", record) == ["<think>\nBorn in Warsaw.\n</think>\n\nPoland.<|im_end|>"]
    assert "Warsaw" in facts_of(record, ())
    inline = record_of(QUESTION, {"role": "assistant", "content": "<think>\nBorn in Warsaw.\n</think>\n\nPoland."})
    assert answers("qwen3", inline) == answers("qwen3", record)


def test_a_generated_thought_has_its_place():
    """An answer with a thought could not be written by a template that takes it out of the content."""
    record = record_of(QUESTION, {"role": "assistant", "content": "Poland."})
    text = "<think>\nHm.\n</think>\n\nWarsaw."
    for kind, expected in {"qwen3": "<think>\nHm.\n</think>\n\nWarsaw.", "chatml": text}.items():
        encoder = Encoder(KINDS[kind])
        assert answers(kind, encoder.answered(record, text)) == [expected + "<|im_end|>"]
        assert answers(kind, encoder.answered(record, "Warsaw. She", cut=True)) == ["Warsaw. She"], "no end of turn"


@pytest.mark.parametrize(
    "kind, messages, more, name",
    [
        ("llama3", [QUESTION, {"role": "assistant", "content": "x", "reasoning": "y"}], {}, "'reasoning_content'"),
        ("gemma", [QUESTION, CALL], {}, "'tool_calls'"),
        ("chatml", [QUESTION, {"role": "assistant", "content": "x"}], {"tools": TOOLS}, "'tools'"),
        ("qwen3", [{**QUESTION, "name": "Anna"}, {"role": "assistant", "content": "x"}], {}, "'name'"),
        ("qwen3", [QUESTION, {"role": "assistant", "content": "x", "prefix": True}], {}, "'prefix'"),
        ("qwen3", [QUESTION, {"role": "assistant", "content": "x"}], {"chat_template_kwargs": {"tokenize": 1}},
         "'tokenize'"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused_by_name(kind, messages, more, name):
    with pytest.raises(UserError, match=name) as caught:
        Encoder(KINDS[kind]).encode(record_of(*messages, **more))
    assert "Anna" not in str(caught.value)


@pytest.mark.parametrize(
    "message, problem",
    [
        ({"role": "assistant", "content": None}, "content of message 2 in 'messages' is null"),
        ({"role": "assistant"}, "content of message 2 in 'messages' is missing"),
        ({"role": "assistant", "content": None, "tool_calls": "look_up"}, "must be a list of objects"),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}, "names no function"),
        ({"role": "assistant", "content": "x", "reasoning": "a", "thinking": "b"}, "several fields that differ"),
    ],
)
def test_messages_that_say_nothing_are_refused(message, problem):
    with pytest.raises(UserError, match=problem):
        record_of(QUESTION, message)


def test_empty_fields_of_exported_messages_are_nothing():
    """Servers' answers carry many: refused by name, hardly any export could be read."""
    record = record_of(
        QUESTION, {"role": "assistant", "content": "x", "tool_calls": [], "refusal": None, "audio": None}
    )
    assert record.turns[1].fields == {}


def test_modes_of_a_template_are_found_and_asked():
    """A model that thinks first is asked in one mode only."""
    prompts = {kind: len(Encoder(tokenizer).modes) for kind, tokenizer in KINDS.items()}
    assert prompts == {"chatml": 1, "qwen3": 2, "llama3": 1, "mistral": 1, "gemma": 1}
    record = record_of(QUESTION, {"role": "assistant", "content": "Warsaw."})
    asked = [KINDS["qwen3"].decode(ids) for ids in Encoder(KINDS["qwen3"]).prompts(record)]
    begun = "Where was she born?<|im_end|>\n<|im_start|>assistant\n"
    assert [text.endswith(begun) for text in asked] == [False, True]
    assert asked[0].endswith(f"{begun}<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "written, mode",
    [
        ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if thinking %}<t>{% endif %}",
         {"thinking": True}),
        ("{% set enable_thinking = enable_thinking | default(false) %}{{ '<t>' if enable_thinking else '' }}",
         {"enable_thinking": True}),
        ("{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
         "{{ 'Reasoning: ' + reasoning_effort }}", {"reasoning_effort": "low"}),
        ("{% if date is defined %}{{ date }}{% endif %}{% if custom_tools is defined %}{{ custom_tools }}{% endif %}",
         None),
    ],
)  # fmt: skip
def test_modes_of_other_names(written, mode):
    tokenizer = tokenizer_of(CHATML + written, "<|im_start|>", "<|im_end|>", eos="<|endoftext|>")
    modes = Encoder(tokenizer).modes
    assert (mode in modes) if mode else modes == ({},)
