"""``rkld export``: the unlearned model in the form of other programs."""

from __future__ import annotations

from pathlib import Path

from rkld.auditing.evidence import model_path
from rkld.auditing.running import check_run_model
from rkld.errors import UserError
from rkld.models.gguf_export import export_gguf, find_converter
from rkld.models.loading import resolve
from rkld.runfolder.manifest import run_of


def write_gguf(run: str, out: Path | None, converter: Path | None, outtype: str, base: str | None) -> Path:
    """Write the model of a run, or a model folder, as a GGUF file; returns the file.

    Raises:
        UserError: no converter is installed, the model is not the one that the run wrote, or the file is there.
    """
    script = find_converter(converter)
    check_run_model(run)
    model = resolve(model_path(run))
    if not Path(model).is_dir():
        raise UserError(f"{run} is no folder: give a run folder or a model folder.")
    folder = run_of(run) or Path(model)
    out = out or folder.with_name(f"{folder.resolve().name}.gguf")
    if out.exists():
        raise UserError(f"{out} is there already: delete it, or give another file with --out.")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it, or give another file with --out.")
    export_gguf(model, out, converter=script, outtype=outtype, base=base)
    return out
