"""A tiny model that knows a person, an adapter on it that does not, and the page of both, listening."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import torch

from rkld.files import write_jsonl
from rkld.models.adapters import new_adapter
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.settings.comparing import CompareSettings
from rkld.side_by_side.pair import Pair, open_pair
from rkld.side_by_side.server import address_of, listen, make_app, make_server
from tests.long.world import FORGET, make_original


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Original, adapter on it, records."""
    folder = tmp_path_factory.mktemp("pair")
    original = make_original(folder, epochs=120)
    torch.manual_seed(0)
    lm = new_adapter(load_model(original), rank=4)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(lm, folder / "adapter")
    write_jsonl(folder / "forget.jsonl", FORGET)
    return original, folder / "adapter", folder / "forget.jsonl"


@pytest.fixture(scope="session")
def pair(folders: tuple[Path, Path, Path]) -> Pair:
    original, adapter, records = folders
    return open_pair(str(original), str(adapter), CompareSettings(forget=str(records)))


@contextmanager
def listening(pair: Pair, token: str) -> Iterator[str]:
    """The address of the page while the block runs."""
    socket = listen("127.0.0.1", 0)
    server = make_server(make_app(pair, token=token))
    thread = Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        yield address_of(socket, "127.0.0.1", token)
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
