"""Every setting of a discovery: the flags of ``rkld discover`` and the keywords of :func:`rkld.discover` are these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rkld.settings.specification import setting
from rkld.settings.table import ASKED, FILES, check_bounds, of

PERSON = "Who is meant"
TEST = "What counts as found"

_KINDS = {
    "private": "birth, family, work, home, tastes, health, how to be reached",
    "employee": "post, pay, absence, whom to call, accounts",
    "customer": "numbers, orders, complaints, payment, contracts",
    "public": "life, work, honours, family, politics",
}


@dataclass(frozen=True)
class DiscoverSettings:
    """Whom a model is asked about, in which questions, and what counts as found."""

    model: str = of("model")
    subject: str = setting("", "The person's full name.", group=PERSON, affects="figures", metavar="NAME")
    alias: tuple[str, ...] = setting(
        (),
        "Another name, an e-mail address or a number of the person, which is asked about as well.",
        group=PERSON,
        affects="figures",
        metavar="NAME",
    )
    kind: Literal["private", "employee", "customer", "public"] = setting(
        "private", "The kind of person, which decides the questions.", group=ASKED, affects="figures", choices=_KINDS
    )
    questions: str | None = setting(
        None,
        "Questions of your own in their place: a text with one a line, or rows with questions, begins and values. "
        "{name} stands for the person.",
        group=ASKED,
        affects="figures",
        metavar="FILE",
    )
    source: str | None = setting(
        None,
        "A document of yours about the person (text, JSON, CSV): what it says is asked for as well.",
        group=ASKED,
        affects="figures",
        metavar="FILE",
    )
    samples: int = setting(
        1, "Sampled answers to each question, beside the greedy one.", group=ASKED, affects="figures", low=0, high=1000
    )
    names: int = setting(
        199,
        "Other names of like form that each value is compared with; more where a single value could not be found "
        "with so many.",
        group=TEST,
        affects="figures",
        low=19,
        high=100_000,
        unit="names",
    )
    rate: float = setting(
        0.1,
        "Expected share of false ones among the values that are found (Benjamini–Hochberg, adaptive); of names that "
        "the model does not know a quarter as many are taken for known.",
        group=TEST,
        affects="figures",
        low=0.001,
        high=0.5,
    )
    seed: int = of("seed", group=TEST, affects="figures")

    system_prompt: str | None = of("system_prompt")
    chat_template: str | None = of("chat_template")
    template_date: str = of("template_date")
    max_length: int | None = of("max_length")

    dtype: Literal["auto", "float32", "bfloat16"] = of(
        "dtype",
        help="Weights.",
        choices={
            "auto": "bfloat16 where the machine has units for it, else float32",
            "float32": "4 bytes a weight",
            "bfloat16": "2 bytes a weight",
        },
        affects="figures",
    )
    method_file: tuple[str, ...] = of("method_file")
    base: str | None = of("base")
    trust_remote_code: bool = of("trust_remote_code")
    allow_pickle: bool = of("allow_pickle")

    out: str = of(
        "out",
        default="records.jsonl",
        optional=False,
        help="File for what was found: records to forget.",
        metavar="FILE",
        group=FILES,
    )
    review: bool = setting(
        False, "Open what was found as a page, to tick, correct and add.", group=FILES, affects="nothing"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
