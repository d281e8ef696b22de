"""A model folder as one GGUF file, by the converter of llama.cpp where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rkld.errors import UserError
from rkld.files import new_file
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.text.printable import harmless, printable

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf.py")
"""Names of llama.cpp's script."""

FOLDER = "LLAMA_CPP"
"""Variable of the environment that names the folder of llama.cpp."""


def find_converter(given: Path | None = None) -> Path:
    """The script: the one that is given, else of ``$LLAMA_CPP``, else on the path of programs.

    Raises:
        UserError: there is none.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--converter {given}: there is no such file. Give llama.cpp's {CONVERTERS[0]}.")
        return given
    own = os.environ.get(FOLDER)
    if own:
        places = [Path(own) / name for name in CONVERTERS]
    else:
        places = [Path(found) for name in CONVERTERS if (found := shutil.which(name))]
    for place in places:
        if place.is_file():
            return place
    if own:
        what = f"holds no {CONVERTERS[0]}" if Path(own).is_dir() else "is no folder"
        raise UserError(
            f"{FOLDER} names {printable(own)}, which {what}: set it to the folder of llama.cpp's sources, unset it, or "
            "give --converter FILE."
        )
    raise UserError(
        f"No converter is installed: GGUF files are written by llama.cpp's {CONVERTERS[0]}. Clone "
        f"https://github.com/ggml-org/llama.cpp, install its requirements, and set {FOLDER} to that folder or give "
        "--converter FILE."
    )


def export_gguf(model: str, out: Path, *, converter: Path, outtype: str = "auto", base: str | None = None) -> None:
    """Write a model as a GGUF file. It appears whole or not at all; of an adapter the merged model is written.

    Args:
        converter: is run as a program.
        outtype: in the converter's words: "auto", "f32", "f16", "bf16", "q8_0".
        base: of an adapter, in the place of the one that its folder names.

    Raises:
        UserError: the model cannot be loaded, or the converter fails; with its last line.
    """
    folder = Path(model)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary, new_file(out) as new:
        if (folder / "adapter_config.json").exists():
            save_model(load_model(model, base=base), Path(temporary) / "merged", merge=True)
            folder = Path(temporary) / "merged"
        command = [sys.executable, str(converter), str(folder), "--outfile", str(new), "--outtype", outtype]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not new.stat().st_size:
            lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["nothing"]
            raise UserError(f"The converter {converter} failed: {harmless(lines[-1])}")
