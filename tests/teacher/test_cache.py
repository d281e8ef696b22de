"""The cache of hidden states: what is read, what is refused, and what is never touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, marked
from rkld.runfolder.checksums import unsealed
from rkld.teacher import cache as module
from rkld.teacher.cache import HiddenCache, marked_hidden

IDENTITY = {"model": "a", "ids": ("x", 1)}


def model(seed=0) -> LanguageModel:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    net = LlamaForCausalLM(config).double()
    return LanguageModel(net.eval(), tokenizer, "test")


def parts(n=3) -> list[tuple[str, torch.Tensor]]:
    return [(str(i), torch.randn(i + 1, 4, generator=torch.Generator().manual_seed(i))) for i in range(n)]


def on_disk(cache: HiddenCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    """In the dtype they were computed in, also those that NumPy does not know, and views of larger tensors."""
    whole = torch.randn(6, 4).to(dtype)
    HiddenCache(tmp_path, IDENTITY).write("original/forget", [("0", whole[:4]), ("1", whole.T[1:3])])
    again = HiddenCache(tmp_path, IDENTITY)
    assert again.done("original/forget")
    assert not again.done("original/replay")
    for key, expected in {"0": whole[:4], "1": whole.T[1:3]}.items():
        found = again.read("original/forget", key)
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def test_many_records_go_into_several_files(tmp_path, monkeypatch):
    """No more than a shard is held in memory while writing, and each file is opened only when it is read."""
    monkeypatch.setattr(module, "SHARD_BYTES", 40)
    held = []

    def items():
        for key, tensor in parts(6):
            held.append(len(list(tmp_path.glob("original-forget-*"))))
            yield key, tensor

    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/forget", items())
    assert held[-1] > 2, "written only at the end"
    opened = []
    monkeypatch.setattr(module, "safe_open", lambda path, **how: opened.append(path) or safe_open(path, **how))
    again = HiddenCache(tmp_path, IDENTITY)
    for key, tensor in parts(6)[::-1]:
        assert torch.equal(again.read("original/forget", key), tensor)
        assert torch.equal(again.read("original/forget", key), tensor)
    assert len(opened) == len(set(opened)) == len(list(tmp_path.glob("original-forget-*"))) > 3


def test_the_same_key_in_two_sets_is_two_tensors(tmp_path):
    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/forget", [("0", torch.ones(1, 2))])
    cache.write("original/replay", [("0", torch.zeros(1, 2))])
    cache.write("strengthened/forget", [("0", torch.full((1, 2), 2.0))])
    assert [cache.read(p, "0")[0, 0].item() for p in ("original/forget", "original/replay", "strengthened/forget")] == [
        1,
        0,
        2,
    ]


def test_a_part_that_was_interrupted_is_not_done(tmp_path, monkeypatch):
    """Half of the records taken for all of them would fail, or worse, only in the middle of distillation."""
    monkeypatch.setattr(module, "SHARD_BYTES", 1)

    def interrupted():
        yield "0", torch.full((1, 4), 7.0)
        raise KeyboardInterrupt

    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/replay", parts(1))
    with pytest.raises(KeyboardInterrupt):
        cache.write("original/forget", interrupted())
    for opened in (cache, HiddenCache(tmp_path, IDENTITY)):
        assert not opened.done("original/forget")
        assert opened.done("original/replay")
    again = HiddenCache(tmp_path, IDENTITY)
    again.write("original/forget", parts())
    assert torch.equal(HiddenCache(tmp_path, IDENTITY).read("original/forget", "0"), parts()[0][1])


def test_nothing_stale_is_read(tmp_path):
    """After a change of anything that went in, neither tensors nor heads of before are found, nor left on disk."""
    (tmp_path / "model.safetensors").write_text("of somebody else")
    lm, old = model(), HiddenCache(tmp_path, IDENTITY)
    old.write("original/forget", parts())
    old.write_head("original", lm)
    new = HiddenCache(tmp_path, {**IDENTITY, "model": "b"})
    assert not new.done("original/forget")
    assert new.read_head("original") is None
    with pytest.raises(KeyError):
        new.read("original/forget", "0")
    assert on_disk(new) == {"model.safetensors"}


def test_an_interrupted_change_does_not_revive_the_old_index(tmp_path):
    """The new tensors have the old file's name: the old index would read them as its own."""
    HiddenCache(tmp_path, IDENTITY).write("original/forget", parts())

    def interrupted():
        yield "0", torch.zeros(1, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HiddenCache(tmp_path, {"model": "b"}).write("original/forget", interrupted())
    assert not HiddenCache(tmp_path, IDENTITY).done("original/forget")


@pytest.mark.parametrize("text", ['{"weight_map": {}}', '{"identity": ', "[]"])
def test_somebody_elses_index_is_refused_and_stays(tmp_path, text):
    """``--teacher`` at a model's folder must not end in a traceback, and must delete nothing."""
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match="no index of a teacher"):
        HiddenCache(tmp_path, {})
    assert (tmp_path / "index.json").read_text() == text


def test_an_unchanged_identity_is_found_again(tmp_path):
    """JSON turns tuples into lists; taken for a change it would have everything computed again."""
    HiddenCache(tmp_path, IDENTITY).write("original/forget", parts())
    assert HiddenCache(tmp_path, json.loads(json.dumps(IDENTITY))).done("original/forget")
    assert HiddenCache(tmp_path, IDENTITY).done("original/forget")


def test_marked_states_do_not_depend_on_the_batch():
    """Each is the state before its token, in the record alone, whatever it was padded to; training mode stays."""
    lm = model()
    lm.model.train()
    g = torch.Generator().manual_seed(0)
    encoded = []
    for i, n in enumerate((5, 11, 7)):
        answer = tuple(t > n // 2 for t in range(n))
        scored = tuple(t == 1 for t in range(n))
        encoded.append(Encoded(str(i), tuple(torch.randint(3, 60, (n,), generator=g).tolist()), answer, scored, 1))
    together, alone = (dict(marked_hidden(lm, encoded, batch_tokens=size)) for size in (1000, 1))
    assert lm.model.training
    for e in encoded:
        with torch.no_grad():
            plain = lm.backbone(torch.tensor([e.ids])).last_hidden_state[0]
        expected = plain[[t - 1 for t, m in enumerate(marked(e)) if m]]
        torch.testing.assert_close(together[e.key], expected)
        torch.testing.assert_close(alone[e.key], expected)
        assert not together[e.key].requires_grad


@pytest.mark.parametrize("whole", [True, False])
def test_each_module_is_in_its_own_mode_again(whole):
    """A reading that is given up, or that fails, would leave the student in evaluation mode for its training."""
    lm = model()
    lm.model.train()
    lm.model.model.norm.eval()
    read = marked_hidden(lm, [Encoded(str(i), (3, 4, 5), (False, False, True), (False,) * 3, 2) for i in range(2)])
    next(read)
    assert not any(module.training for module in lm.model.modules())
    if whole:
        list(read)
    read.close()
    assert [module for module in lm.model.modules() if not module.training] == [lm.model.model.norm]


SENTENCE = "no index of a teacher"
JSON_VALUES = [None, True, 0, 1.5, "", "text", "../victim", "/victim", [], ["x"], [0], [None], {}, {"x": "y"}, {"x": 0}]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path) -> Path:
    """A finished cache, beside a file that is none of its own."""
    cache = HiddenCache(tmp_path / "teacher", IDENTITY)
    cache.write("original/forget", parts())
    cache.write_head("original", model())
    (tmp_path / "victim").write_text("personal")
    (tmp_path / "original-forget-00000.safetensors").write_text("in another folder")
    return tmp_path


@pytest.mark.parametrize("place", ["tensors", "heads"])
@pytest.mark.parametrize("name", [
    "../victim", "{made}/victim", "../original-forget-00000.safetensors", "sub/original-forget-00000.safetensors",
    "notes.txt", "original-replay-00000.safetensors", "original-forget-0.safetensors", "head-../victim.safetensors",
])  # fmt: skip
@pytest.mark.parametrize("identity", [IDENTITY, {"model": "b"}], ids=["same", "other"])
def test_a_file_that_the_index_names_is_neither_deleted_nor_read(made, place, name, identity):
    """``--teacher FOLDER`` with somebody's index.json: any file of the user's could be named in it."""
    folder = made / "teacher"
    (folder / "notes.txt").write_text("mine")
    index = unsealed(json.loads((folder / "index.json").read_text()))
    index[place] = dict.fromkeys(index[place], name.format(made=made))
    (folder / "index.json").write_text(json.dumps(index))
    before = files(made)
    with pytest.raises(UserError, match=SENTENCE):
        HiddenCache(folder, identity)
    assert files(made) == before


def test_any_json_in_any_place_of_the_index_is_refused_and_deletes_nothing(made):
    """Every type of JSON in place of the whole, of each part, and of each key and value in it."""
    folder = made / "teacher"
    whole = unsealed(json.loads((folder / "index.json").read_text()))
    cases: list[object] = list(JSON_VALUES)
    for field in whole:
        cases += [{k: v for k, v in whole.items() if k != field}]
        cases += [
            whole | {field: value} for value in JSON_VALUES if not (field == "identity" and isinstance(value, dict))
        ]
    for field in ("tensors", "heads"):  # those of files are checksums, compared and not used
        for key in whole[field]:
            cases += [whole | {field: whole[field] | {key: value}} for value in JSON_VALUES]
        cases += [whole | {field: {str(value): "original-forget-00000.safetensors"}} for value in JSON_VALUES]
    cases += [whole | {"done": [value]} for value in JSON_VALUES]
    before = {name: content for name, content in files(made).items() if name != "teacher/index.json"}
    refused = 0
    for case in cases:
        if case in [whole | {name: type(whole[name])()} for name in ("tensors", "heads", "files", "done")]:
            continue  # emptier, but an index
        (folder / "index.json").write_text(json.dumps(case))
        for identity in (IDENTITY, {"model": "b"}):
            with pytest.raises(UserError, match=SENTENCE):
                HiddenCache(folder, identity)
            refused += 1
        after = files(made)
        assert json.loads(after.pop("teacher/index.json")) == case
        assert after == before, case
    assert refused > 250


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b""], ids=["bytes", "nested", "empty"])
def test_an_index_that_is_no_json_is_refused(made, content):
    (made / "teacher" / "index.json").write_bytes(content)
    with pytest.raises(UserError, match=SENTENCE):
        HiddenCache(made / "teacher", IDENTITY)


def test_only_files_of_our_own_names_make_way(made):
    """What else lies in the folder stays: other weights, folders, and links, whatever they are called."""
    folder = made / "teacher"
    for name in ("model-00001-of-00002.safetensors", "head.safetensors", "head-mine.safetensors", "notes-00000.txt"):
        (folder / name).write_text("mine")
    (folder / "reference-forget-00000.safetensors").mkdir()
    (folder / "layer3-forget-00000.safetensors").symlink_to(made / "victim")
    cache = HiddenCache(folder, {"model": "b"})
    assert on_disk(cache) == {
        "model-00001-of-00002.safetensors", "head.safetensors", "head-mine.safetensors", "notes-00000.txt",
        "reference-forget-00000.safetensors", "layer3-forget-00000.safetensors",
    }  # fmt: skip
    assert (made / "victim").read_text() == "personal"


def test_a_link_is_neither_read_nor_written_through(made):
    folder = made / "teacher"
    opened = HiddenCache(folder, IDENTITY)
    for name in ("original-forget-00000.safetensors", "head-original.safetensors"):
        (folder / name).unlink()
        (folder / name).symlink_to(made / "victim")
    with pytest.raises(UserError, match="or a link"):
        opened.read("original/forget", "0")
    with pytest.raises(UserError, match="or a link"):
        opened.read_head("original")
    cache = HiddenCache(folder, IDENTITY)
    assert not cache.done("original/forget") and not cache.has_head("original")
    cache.write("original/forget", parts())
    cache.write_head("original", model())
    assert (made / "victim").read_text() == "personal"
    assert torch.equal(HiddenCache(folder, IDENTITY).read("original/forget", "0"), parts()[0][1])


@pytest.mark.parametrize("file", ["original-forget-00000.safetensors", "head-original.safetensors"])
@pytest.mark.parametrize("spoil", [
    lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: flip(path, 200),
])  # fmt: skip
def test_what_lies_in_a_damaged_file_is_made_anew_and_nothing_else(made, caplog, file, spoil):
    """One flipped bit in a hidden state would change the teacher, and so the model, without a word."""
    other = HiddenCache(made / "teacher", IDENTITY)
    other.write("original/retain", parts())
    spoil(made / "teacher" / file)
    cache = HiddenCache(made / "teacher", IDENTITY)
    assert file in caplog.text
    assert cache.done("original/retain")
    assert cache.done("original/forget") == ("head" in file)
    assert cache.has_head("original") == ("head" not in file)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no tensors")])
def test_a_damaged_file_is_one_sentence(made, spoil):
    cache = HiddenCache(made / "teacher", IDENTITY)
    for path in (made / "teacher").glob("*.safetensors"):
        spoil(path)
    for read in (lambda: cache.read("original/forget", "0"), lambda: cache.rows("original/forget", "0"),
                 lambda: cache.read_head("original")):  # fmt: skip
        with pytest.raises(UserError, match="missing, damaged"):
            read()


def test_a_tensor_that_its_file_does_not_hold_is_one_sentence(made):
    index = unsealed(json.loads((made / "teacher" / "index.json").read_text()))
    index["tensors"]["original/forget/9"] = "original-forget-00000.safetensors"
    (made / "teacher" / "index.json").write_text(json.dumps(index))
    cache = HiddenCache(made / "teacher", IDENTITY)
    for read in (cache.read, cache.rows):
        with pytest.raises(UserError, match="missing, damaged"):
            read("original/forget", "9")


@pytest.mark.parametrize("part", ["original", "original/../forget", "mine/forget", "original/a-b", "../x/y"])
def test_a_part_of_no_name_of_ours_is_not_written(tmp_path, part):
    with pytest.raises(ValueError, match="no part of a cache"):
        HiddenCache(tmp_path, IDENTITY).write(part, parts())
