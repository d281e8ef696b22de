"""The files that locuslab/open-unlearning needs to run its methods on our data and models, as text.

Every choice names the file of theirs that it comes from, as stored copies of the repository and of its forks have it
(early 2025 to early 2026). Its configs are put together by Hydra; ours are dropped into ``configs/`` of a checkout.
Paths are ``${oc.env:RKLD_EXPORT}``, which ``run.sh`` sets to wherever the exported folder lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

HERE = "${oc.env:RKLD_EXPORT}"

# configs/data/datasets/TOFU_QA_*.yaml. Their metrics (configs/eval/tofu_metrics/*.yaml) name these data sets by their
# keys, so the keys stay and the files are replaced: only hf_args differ. {split} is the forget split.
DATASETS = {
    "TOFU_QA_forget": ("{split}", "answer"),
    "TOFU_QA_forget_idk": ("{split}", "answer"),
    "TOFU_QA_forget_para": ("{split}_perturbed", "paraphrased_answer"),
    "TOFU_QA_forget_pert": ("{split}_perturbed", "perturbed_answer"),
    "TOFU_QA_retain": ("{split}_retain", "answer"),
    "TOFU_QA_retain_eval": ("retain_perturbed", "answer"),
    "TOFU_QA_retain_para": ("retain_perturbed", "paraphrased_answer"),
    "TOFU_QA_retain_pert": ("retain_perturbed", "perturbed_answer"),
    "TOFU_QA_ra": ("real_authors_perturbed", "answer"),
    "TOFU_QA_ra_pert": ("real_authors_perturbed", "perturbed_answer"),
    "TOFU_QA_wf": ("world_facts_perturbed", "answer"),
    "TOFU_QA_wf_pert": ("world_facts_perturbed", "perturbed_answer"),
}
"""Their data set → its part of our data, the field that is the answer."""

# configs/eval/tofu.yaml, without what needs a holdout. Parts come before what is made of them: src/evals/base.py keeps
# what it has computed, and states in TOFU_SUMMARY.json only metrics that are listed.
METRICS = (
    "forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_Truth_Ratio", "retain_Q_A_Prob", "retain_Q_A_ROUGE",
    "forget_quality", "model_utility",
)  # fmt: skip

# configs/trainer/*.yaml; what is not said there is that of finetune.yaml: learning rate 1e-5, 10 epochs, 8 records at a
# time, 4 times per step, paged_adamw_32bit. A retain loss is NLL with weight alpha, the forget loss has weight gamma.
TRAINERS = {
    "GradAscent": "nothing beside the forget loss",
    "GradDiff": "gamma 1, alpha 1",
    "NPO": "beta 0.1, gamma 1, alpha 1",
    "DPO": "beta 0.1, gamma 1, alpha 1; refusals preferred",
    "SimNPO": "beta 4.5, delta 0, gamma 0.125, alpha 1",
    "RMU": "block 7, steering_coeff 2, gamma 1, alpha 1, EMBED_DIFF on retain, all weights",
    "UNDIAL": "beta 10, gamma 1, alpha 0; learning rate 1e-4",
    "CEU": "the first answer token ignored; no retain records",
    "SatImp": "beta1 5, beta2 1, gamma 0.1, alpha 1; 5 epochs",
    "WGA": "beta 1, gamma 1, alpha 1; 5 epochs",
    "PDU": "as its run.sh: retain_loss_eps 0.3, dual_step_size 5, alpha 100",
}
"""Their trainer → its defaults, for people."""

OVERRIDES = {
    # configs/trainer/PDU.yaml leaves retain_loss_eps open; community/methods/PDU/run.sh gives these for TOFU.
    "PDU": "trainer.method_args.retain_loss_eps=0.3 trainer.method_args.dual_step_size=5 trainer.method_args.alpha=100",
}
EXPERIMENTS = {"DPO": "rkld_idk"}
"""Experiment of a trainer that is not "rkld"."""


def configs(split: str, template_args: Mapping[str, Any]) -> dict[str, str]:
    """Path within a checkout → content."""
    files = {f"data/datasets/{name}.yaml": _yaml({name: _dataset(name, split)}) for name in DATASETS}
    files["model/rkld.yaml"] = _yaml(_model(template_args))
    files["eval/rkld.yaml"] = _yaml(_evaluation(split), package="eval.tofu")
    files["experiment/eval/tofu/rkld.yaml"] = _yaml(_experiment([]), package="_global_")
    for name, data in {"rkld": "TOFU_QA_forget", "rkld_idk": "TOFU_QA_forget_idk"}.items():
        files[f"experiment/unlearn/tofu/{name}.yaml"] = _yaml(_unlearning(data), package="_global_")
    return {f"configs/{name}": text for name, text in files.items()}


def card(parts: Sequence[str]) -> str:
    """README.md of the data folder: which file each part is, so that ``load_dataset(folder, name=part)`` finds it.

    The hub's data set locuslab/TOFU is laid out so too, and all that has to change in their configs is its path.
    """
    listed = [{"config_name": part, "data_files": f"{part}.json"} for part in parts]
    return f"---\n{yaml.safe_dump({'configs': listed}, sort_keys=False)}---\n"


def script(split: str) -> str:
    """``run.sh``: evaluate the two models, then unlearn and evaluate by each of :data:`TRAINERS`."""
    retrained = f"saves/eval/rkld_{split}_retrained"
    lines = _HEAD.split("\n")
    for role in ("retrained", "original"):
        logs = f" \\\n  retain_logs_path={retrained}/TOFU_EVAL.json" if role == "original" else ""
        lines += [f"\n# {role}", _evaluate(f"rkld_{split}_{role}", f'"$RKLD_EXPORT"/models/{role}') + logs]
    for trainer, defaults in TRAINERS.items():
        task = f"rkld_{split}_{trainer}"
        extra = f" \\\n  {OVERRIDES[trainer]}" if trainer in OVERRIDES else ""
        experiment = EXPERIMENTS.get(trainer, "rkld")
        lines += [
            f"\n# {trainer}: {defaults}",
            f"python src/train.py --config-name=unlearn.yaml experiment=unlearn/tofu/{experiment} \\\n"
            f'  trainer={trainer} task_name={task}{extra} "$@"',
            _evaluate(task, f"saves/unlearn/{task}")
            + f" \\\n  paths.output_dir=saves/unlearn/{task}/evals retain_logs_path={retrained}/TOFU_EVAL.json",
        ]
    return "\n".join(lines) + "\n"


_HEAD = """\
#!/bin/sh
# sh run.sh CHECKOUT [OVERRIDE…]: runs locuslab/open-unlearning, a checkout of its own with its environment active.
# An OVERRIDE is given to every training, such as, for rkld's step of 8 records and its rate,
#   trainer.args.gradient_accumulation_steps=1 trainer.args.learning_rate=5e-5 trainer.args.num_train_epochs=6
# A second run writes over the first: copy its TOFU_EVAL.json and TOFU_SUMMARY.json away before.
set -e
RKLD_EXPORT=$(cd "$(dirname "$0")" && pwd)
export RKLD_EXPORT
cd "$1"
shift
cp -R "$RKLD_EXPORT"/configs/. configs/"""


def _evaluate(task: str, model: str) -> str:
    # scripts/tofu_unlearn.sh evaluates in a process of its own too
    return (
        f"python src/eval.py --config-name=eval.yaml experiment=eval/tofu/rkld task_name={task} \\\n"
        f"  model.model_args.pretrained_model_name_or_path={model}"
    )


def _dataset(name: str, split: str) -> dict[str, Any]:
    part, answer = DATASETS[name]
    args = {
        "hf_args": {"path": f"{HERE}/data", "name": part.format(split=split), "split": "train"},
        "question_key": "question",
        "answer_key": answer,
        "max_length": 512,  # theirs; cuts only where apply_chat_template is false
    }
    if name != "TOFU_QA_forget_idk":
        return {"handler": "QADataset", "args": args}
    refusals = {"idk_path": f"{HERE}/refusals.txt", "return_original": True}  # src/data/qa.py: one refusal a line
    return {"handler": "QAwithIdkDataset", "args": {**args, **refusals}}


def _model(template_args: Mapping[str, Any]) -> dict[str, Any]:
    folder = {"pretrained_model_name_or_path": f"{HERE}/models/original"}
    # src/model/__init__.py: flash attention, which their configs ask for, forces bfloat16 weights. rkld trains float32
    # weights with bfloat16 autocast, and so does finetune.yaml (bf16) with these.
    how = {"attn_implementation": "sdpa", "torch_dtype": "float32"}
    return {"model_args": {**folder, **how}, "tokenizer_args": folder, "template_args": dict(template_args)}


def _evaluation(split: str) -> dict[str, Any]:
    return {
        "defaults": [{"tofu_metrics": list(METRICS)}],
        "handler": "TOFUEvaluator",
        "output_dir": "${paths.output_dir}",
        "metrics": {},
        "overwrite": True,  # else figures of an earlier run would stay
        "forget_split": split,
        "retain_logs_path": None,
        "question_key": "question",  # newer metrics look it up
    }


def _experiment(overrides: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {
        "defaults": [{"override /model": "rkld"}, {"override /eval": "rkld"}, *overrides],
        "retain_logs_path": None,
        "eval": {"tofu": {"retain_logs_path": "${retain_logs_path}"}},
    }


def _unlearning(forget: str) -> dict[str, Any]:
    """As configs/experiment/unlearn/tofu/default.yaml and idk.yaml, whose rate and epochs finetune.yaml has as well."""
    data = [
        {"override /trainer": "GradAscent"},
        {"override /data": "unlearn"},
        {"override /data/datasets@data.forget": forget},
        {"override /data/datasets@data.retain": "TOFU_QA_retain"},
    ]
    # Rate and epochs are left to the trainer's file: said here they would hide those of UNDIAL, SatImp and WGA.
    # No evaluation while training (finetune.yaml: before the first and after every epoch): run.sh does it once.
    args = {
        "warmup_epochs": 1.0, "weight_decay": 0.01, "do_eval": False, "eval_on_start": False, "eval_strategy": "no",
    }  # fmt: skip
    return {**_experiment(data), "data": {"anchor": "forget"}, "trainer": {"args": args}}


def _yaml(content: Mapping[str, Any], package: str = "") -> str:
    head = f"# @package {package}\n" if package else ""
    # A dict that stands twice would come out as an anchor.
    return head + yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)
