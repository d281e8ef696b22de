"""A whole run on two processes (torchrun, gloo), by its command, against the same on one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune
from tests.helpers import in_processes

pytestmark = pytest.mark.slow

OPTIONS = [
    *("--epochs", "2", "--strengthen-epochs", "2", "--lr", "2e-3", "--batch-size", "10", "--check-every", "1"),
    *("--max-new-tokens", "8", "--reword", "0", "--no-bf16"),
]
WORLD = people(n=4, seed=0)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A tiny model that has learned four people a little, and what to say to have it forget one of them."""
    folder, (model, tokenizer) = tmp_path_factory.mktemp("run"), tiny_model(0)
    lm, rows = load_model(model, tokenizer=tokenizer), [*WORLD.records, *WORLD.background[:40]]
    learned = [Encoder(tokenizer).encode(record) for record in read_records(rows, "training")]
    fine_tune(lm, learned, RKLDConfig(str(folder / "training"), num_train_epochs=10, learning_rate=3e-3,
                                      per_device_train_batch_size=16, use_cpu=True))  # fmt: skip
    save_model(lm, folder / "model")
    forget = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([0])]
    for name, records in {"forget": forget, "retain": WORLD.retain([0])}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = ["--forget", str(folder / "forget.jsonl"), "--retain", str(folder / "retain.jsonl")]
    return ["-m", "rkld", "unlearn", str(folder / "model"), *data, *OPTIONS]


def run_of(out) -> dict:
    manifest = json.loads((out / "manifest.json").read_text())
    answers = json.loads((out / "answers.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {"phases": manifest["phases"], "answers": {when: answers[when] for when in ("before", "after")},
            "lines": lines, "weights": load_file(*(out / "model").glob("*.safetensors"))}  # fmt: skip


def check_same(ours: Path, theirs: Path, source: str, atol: float = 5e-5) -> None:
    """Two runs of the model in ``source`` are the same, up to rounding."""
    one, two = run_of(ours), run_of(theirs)
    assert two["answers"] == one["answers"]
    start = load_file(f"{source}/model.safetensors")  # an adapter's outer factors start at nothing
    moved = (tensor - start.get(name, 0) for name, tensor in one["weights"].items() if "lora_A" not in name)
    assert max(change.abs().max() for change in moved) > 1e-3, "nothing was learned"
    assert two["weights"].keys() == one["weights"].keys()
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=atol)
    assert two["phases"].keys() == one["phases"].keys()
    assert two["phases"]["distillation"]["steps"] == one["phases"]["distillation"]["steps"]
    decided = [found["phases"]["distillation"]["stop"] for found in (one, two)]
    assert decided[1]["step"] == decided[0]["step"] and decided[1]["checks"] == decided[0]["checks"]
    assert len(two["lines"]) == len(one["lines"]), "a line for each process"
    for mine, theirs in zip(two["lines"], one["lines"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() & {"loss", "forget", "probability", "rouge_l", "gap"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("options", [[], ["--lora", "--merge"]], ids=["full", "lora"])
def test_two_processes_make_the_run_that_one_makes(command, tmp_path, options):
    """The stop ends both at the same step; every answer, every line of metrics and all weights are the same."""
    done = [in_processes(n, [*command, *options, "--out", str(tmp_path / str(n))], seconds=600) for n in (1, 2)]
    assert [d.returncode for d in done] == [0, 0], done[1].stderr[-3000:]
    assert done[1].stdout.count("report ") == done[0].stdout.count("report ") == 1, "each process prints"
    check_same(tmp_path / "1", tmp_path / "2", command[3])


@pytest.mark.parametrize(
    "options",
    [[], ["--lora"], ["--save-dtype", "bfloat16"], ["--lora", "--lora-rank", "1"], ["--method", "rmu"]],
    ids=["full", "lora", "rounded", "less-than-one-row-each", "hidden-states"],
)
def test_a_model_in_shards_is_unlearned_as_a_whole_one(command, tmp_path, options):
    """FSDP2: of all weights each process has half, from loading over teacher, stop and rounding to the saved model."""
    one, two = tmp_path / "1", tmp_path / "2"
    done = [
        in_processes(n, [*command, *options, *shard, "--out", str(out)], seconds=900)
        for n, shard, out in ((1, [], one), (2, ["--shard"], two))
    ]
    assert [d.returncode for d in done] == [0, 0], done[1].stderr[-3000:]
    assert "not estimated of a model in shards" in done[1].stderr
    # Rounded to bfloat16, a weight near the middle of two values may go to either.
    check_same(one, two, command[3], atol=5e-5 if "--save-dtype" not in options else 4e-3)


def test_an_optimizer_that_takes_no_shards_is_refused_before_anything_is_measured(command, tmp_path):
    done = in_processes(2, [*command, "--shard", "--optim", "adafactor", "--out", str(tmp_path / "out")])
    assert done.returncode != 0
    assert done.stderr.count("--optim adafactor cannot train weights in shards") == 1
    assert not (tmp_path / "out").exists() or not json.loads((tmp_path / "out/manifest.json").read_text())["phases"]


def test_a_damaged_checkpoint_in_shards_is_passed_over(command, tmp_path):
    """Killed in its distillation, whose last checkpoint was cut: the training goes on from the one before, or anew."""
    whole, out, command = tmp_path / "whole", tmp_path / "cut", [*command, "--checkpoint-minutes", "0"]
    assert in_processes(2, [*command, "--shard", "--out", str(whole)], seconds=900).returncode == 0
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "from rkld.cli import main\n"
        "from rkld.training.checkpoints import NoteChecksums\n"
        "noted = NoteChecksums.on_save\n"
        "def on_save(self, args, state, control, **given):\n"
        "    noted(self, args, state, control, **given)\n"
        "    if str(args.output_dir).endswith('checkpoints') and state.global_step == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "NoteChecksums.on_save = on_save\n"
        "main()\n"
    )
    assert in_processes(2, [str(script), *command[2:], "--shard", "--out", str(out)], seconds=900).returncode != 0
    parts = sorted(out.rglob("*.distcp"))
    assert parts, "no checkpoint was written"
    assert list(out.rglob("checksums.json")), "of several processes, too"
    for part in parts:
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    done = in_processes(2, [*command, "--shard", "--out", str(out)], seconds=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is not whole" in done.stderr
    one, two = run_of(whole)["weights"], run_of(out)["weights"]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-5)


DEEPSPEED = Path(os.environ.get("DEEPSPEED_PACKAGES") or Path(__file__).parents[2] / "build/deepspeed")


@pytest.mark.skipif(not DEEPSPEED.exists(), reason="no DeepSpeed: `make build/deepspeed` installs it")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no c++: DeepSpeed compiles what it communicates by on a CPU")
@pytest.mark.parametrize("options", [[], ["--lora", "--merge"]], ids=["full", "lora"])
def test_zero_2_makes_the_run_that_one_process_makes(command, tmp_path, options):
    """The optimizer's state and the gradients lie in parts on both, the weights whole on each, as under DDP.

    A file beside the run's folder says what was handed to DeepSpeed: strengthening and distillation, once each.
    """
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import deepspeed\n"
        "from rkld.cli import main\n"
        "initialize = deepspeed.initialize\n"
        "def noted(*args, **kwargs):\n"
        "    found = initialize(*args, **kwargs)\n"
        f"    with open({str(tmp_path / 'engines')!r}, 'a') as file:\n"
        "        print(type(found[0]).__name__, found[0].zero_optimization_stage(), file=file)\n"
        "    return found\n"
        "deepspeed.initialize = noted\n"
        "main()\n"
    )
    one = in_processes(1, [*command, *options, "--out", str(tmp_path / "1")], seconds=600)
    launcher = ["-m", "accelerate.commands.launch", "--use_deepspeed", "--zero_stage", "2", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
    two = in_processes(
        2, [str(script), *command[2:], *options, "--out", str(tmp_path / "2")], seconds=900, launcher=launcher,
        packages=DEEPSPEED, DS_ACCELERATOR="cpu", PATH=os.pathsep.join([str(DEEPSPEED / "bin"), os.environ["PATH"]]),
    )  # fmt: skip
    assert (one.returncode, two.returncode) == (0, 0), two.stderr[-3000:]
    assert (tmp_path / "engines").read_text().splitlines() == ["DeepSpeedEngine 2"] * 4
    # It sums gradients in an order of its own, and AdamW makes much of the smallest: 6.4e-5 was seen, 3e-3 learned.
    check_same(tmp_path / "1", tmp_path / "2", command[3], atol=2e-4)


def test_an_error_of_one_process_ends_both_with_its_message(command, tmp_path):
    """The second process has other records: both end, and what is wrong is said once."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from rkld.cli import main\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.argv[sys.argv.index('--forget') + 1] = 'not-there.jsonl'\n"
        "main()\n"
    )
    done = in_processes(2, [str(script), *command[2:], "--out", str(tmp_path / "out")], seconds=300)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(said) == 1 and "not-there.jsonl" in said[0], done.stderr[-3000:]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_run_of_two_is_gone_on_with_by_one(command, tmp_path):
    """Killed before its model was written: what two have noted and left is whole, and one goes on from there."""
    out = tmp_path / "out"
    done = in_processes(2, [*command, "--keep-files", "--out", str(out)], seconds=600)
    assert done.returncode == 0, done.stderr[-3000:]
    before = run_of(out)
    shutil.rmtree(out / "model")
    again = in_processes(1, [*command, "--keep-files", "--out", str(out)], seconds=300)
    assert again.returncode == 0 and "done again: model, after" in again.stderr, again.stderr[-3000:]
    for name, tensor in before["weights"].items():
        assert torch.equal(run_of(out)["weights"][name], tensor)
