"""The embedded world: fictitious people, their records, and the tiny model before it has learned them."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys

import pytest

from rkld.benching.worlds.people import ATTRIBUTES, BACKGROUND_PEOPLE, BACKGROUND_QUESTIONS, people
from rkld.benching.worlds.tiny import VOCABULARY_SIZE, tiny_model, tiny_tokenizer
from rkld.errors import UserError
from rkld.records.identity import check_disjoint
from rkld.records.reading import read_records

FINGERPRINT = """
import hashlib, json
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_tokenizer
world = people()
parts = [world.training(), world.holdout, tiny_tokenizer().backend_tokenizer.to_str()]
print(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def world():
    return people()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def names_of(group) -> list[str]:
    return [part for person in group for part in person.name.split()]


def fits(wording: str, text: str) -> bool:
    """Whether ``text`` is ``wording`` with something in the place of each ``{field}``."""
    return re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(wording)), text) is not None


def words_of(records) -> set[str]:
    return set(re.findall(r"\w+", json.dumps(records)))


# --- the generator ---


def test_other_processes_make_the_same_world_and_tokenizer():
    """The order of a set or of ``hash()`` anywhere would change every result from run to run."""
    prints = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, text=True, check=True
        )
        prints.add(run.stdout)
    assert len(prints) == 1


def test_the_global_random_state_is_neither_read_nor_changed(world):
    random.seed(7)
    before = random.getstate()
    assert people() == world
    assert people().records == world.records
    assert random.getstate() == before


def test_another_seed_gives_other_people(world):
    assert not set(people(seed=1).names) & set(world.names)


def test_every_person_has_twenty_records_with_all_fields(world):
    assert len(world.people) == len(world.holdout_people) == 20
    assert len(world.records) == len(world.holdout) == 400
    assert len(world.background) == BACKGROUND_PEOPLE * BACKGROUND_QUESTIONS * 2
    for record in world.records:
        assert list(record) == [
            "question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question",
            "subject", "aliases", "spans",
        ]  # fmt: skip


def test_no_first_or_last_name_is_shared(world):
    """A holdout person who shares a name with a trained one would not be a stranger."""
    parts = names_of((*world.people, *world.holdout_people, *world.background_people))
    assert len(parts) == len(set(parts)) == 2 * (40 + BACKGROUND_PEOPLE)
    assert not words_of([*world.real_authors, *world.world_facts]) & set(parts)


def test_wrong_answers_are_five_of_the_paraphrases_kind(world):
    """TOFU's truth ratio compares the paraphrase with wrong values in the same words."""
    for record in (*world.records, *world.holdout):
        wrong, right, [value] = record["perturbed_answer"], record["paraphrased_answer"], record["spans"]
        assert len({*wrong, right}) == 6
        before, after = right.split(value, 1)
        assert all(answer.startswith(before) and answer.endswith(after) for answer in wrong)
        assert all(value not in answer for answer in wrong)


def test_spans_occur_in_answer_and_paraphrase(world):
    for record in (*world.records, *world.holdout):
        [value] = record["spans"]
        assert value in record["answer"]
        assert value in record["paraphrased_answer"]
    assert all(span in record["answer"] for record in world.background for span in record["spans"])


def test_paraphrases_differ_and_answers_are_short(world):
    for record in (*world.records, *world.holdout):
        assert record["question"] != record["paraphrased_question"]
        assert record["answer"] != record["paraphrased_answer"]
        assert len(record["answer"].split()) <= 16


def test_questions_are_unambiguous(world):
    """Two people asked for by the same words could not both be learned."""
    questions = [record["question"] for record in (*world.records, *world.holdout)]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.key)
def test_each_attribute_is_asked_and_told_in_several_wordings(attribute, world):
    position = ATTRIBUTES.index(attribute)
    records = world.records[position::20]
    for field, wordings in (("question", attribute.questions), ("answer", attribute.answers)):
        seen = [wording for wording in wordings if any(fits(wording, record[field]) for record in records)]
        assert len(seen) == 3


def test_contacts_are_invalid_for_certain(world):
    """No generated number or address may reach a real person."""
    phones = [record["spans"][0] for record in world.records if "-555-" in record["spans"][0]]
    mails = [record["spans"][0] for record in world.records if "@" in record["spans"][0]]
    assert len(phones) == len(mails) == 20
    assert all("-555-01" in phone for phone in phones)
    assert all(mail.endswith("@example.org") for mail in mails)


def test_common_knowledge_has_three_wrong_answers_each(world):
    assert len(world.real_authors) == len(world.world_facts) == 20
    for record in (*world.real_authors, *world.world_facts):
        assert len({record["answer"], *record["perturbed_answer"]}) == 4


# --- choosing and writing ---


@pytest.mark.parametrize(("who", "positions"), [(2, [18, 19]), (1, [19]), ([3, 0], [0, 3])])
def test_forget_and_retain_share_out_all_records(world, who, positions):
    forget, retain = world.forget(who), world.retain(who)
    assert list(dict.fromkeys(r["subject"] for r in forget)) == [world.names[i] for i in positions]
    assert len(forget) + len(retain) == 400
    assert sorted(map(json.dumps, forget + retain)) == sorted(map(json.dumps, world.records))
    check_disjoint(read_records(forget, "forget"), read_records(retain, "retain"))


@pytest.mark.parametrize("who", [0, 20, -1, [], [20], [-1], range(20)])
def test_forgetting_nobody_everybody_or_strangers_is_refused(world, who):
    with pytest.raises(UserError, match="of 20 people"):
        world.forget(who)


@pytest.mark.parametrize("n", [1, 81])
def test_a_world_without_names_enough_is_refused(n):
    with pytest.raises(UserError, match="from 2 to 80 people"):
        people(n)


def test_training_leaves_out_the_forgotten_and_the_holdout(world):
    """Leaking either into training would make the twin no control and the holdout no stranger."""
    trained_on = [{**record, "perturbed_answer": None} for record in world.training(without=2)]
    assert not words_of(trained_on) & set(names_of((*world.people[-2:], *world.holdout_people)))
    assert len(world.training()) == len(world.training(without=2)) + 40


def test_written_files_are_read_back_as_records(world, tmp_path):
    paths = world.write(tmp_path / "world")
    assert {path.name for path in paths.values()} >= {
        "full.json", "forget10.json", "retain90.json", "forget10_perturbed.json", "retain_perturbed.json",
        "real_authors_perturbed.json", "world_facts_perturbed.json",
    }  # fmt: skip
    counts = {name: len(read_records(path, name)) for name, path in paths.items()}
    assert counts == {
        "full": 400, "forget": 40, "retain": 360, "background": 800, "forget_perturbed": 40,
        "retain_perturbed": 360, "holdout_perturbed": 400,
        "real_authors_perturbed": 20, "world_facts_perturbed": 20,
    }  # fmt: skip
    first = read_records(paths["forget_perturbed"], "forget")[0]
    given = world.forget()[0]
    for field in ("question", "answer", "subject"):
        assert getattr(first, field) == given[field]
    assert list(first.spans) == given["spans"]
    assert list(first.extra["perturbed_answer"]) == given["perturbed_answer"]


# --- the tiny model ---


def test_tiny_model_is_tiny_and_repeatable():
    import torch

    torch.manual_seed(3)
    state = torch.get_rng_state()
    model, tokenizer = tiny_model(seed=0)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was changed"
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 3e6
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == VOCABULARY_SIZE
    again, other = tiny_model(seed=0)[0], tiny_model(seed=1)[0]
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_chat_template_renders_chatml_and_ends_each_turn_with_eos(tokenizer):
    chat = [{"role": "user", "content": "Where is Åsa?"}, {"role": "assistant", "content": "In Łódź."}]
    prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert prompt == "<|im_start|>user\nWhere is Åsa?<|im_end|>\n<|im_start|>assistant\n"
    assert whole == prompt + "In Łódź.<|im_end|>\n"
    ids = tokenizer(whole)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(ids) == whole
    assert tokenizer.eos_token != tokenizer.pad_token


def test_strangers_cost_as_many_tokens_as_the_people_learned(tokenizer):
    """Where names of trained people are shorter in tokens, membership shows in the length alone."""

    def mean_length(records):
        return sum(len(tokenizer(record["answer"])["input_ids"]) for record in records) / len(records)

    for seed in range(3):
        world = people(seed=seed)
        assert mean_length(world.holdout) == pytest.approx(mean_length(world.records), rel=0.05)


def test_saved_tokenizer_loads_and_agrees(tokenizer, world, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [record["answer"] for record in world.records[:40]]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token == tokenizer.eos_token
