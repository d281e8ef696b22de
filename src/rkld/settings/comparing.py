"""Every setting of ``rkld compare``: how two models are opened, and who may look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rkld.settings.table import check_bounds, of


@dataclass(frozen=True)
class CompareSettings:
    """How two models are shown side by side; :mod:`rkld.settings.table` says more of each."""

    forget: str | None = of("forget", default=None, help="The request's records. Default: those of the run.")
    subject: tuple[str, ...] = of("subject")

    host: str = of("host")
    port: int = of("port")
    token: bool = of("token")
    open: bool = of("open")

    system_prompt: str | None = of("system_prompt")
    chat_template: str | None = of("chat_template")
    template_date: str = of("template_date")
    max_length: int | None = of("max_length")

    dtype: Literal["auto", "float32", "bfloat16"] = of("dtype", help="Weights.", affects="nothing")
    method_file: tuple[str, ...] = of("method_file")
    base: str | None = of("base")
    trust_remote_code: bool = of("trust_remote_code")
    allow_pickle: bool = of("allow_pickle")

    def __post_init__(self) -> None:
        check_bounds(self)
