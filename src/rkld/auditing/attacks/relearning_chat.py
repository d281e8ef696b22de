"""Relearning on ordinary chat: what somebody's harmless fine-tuning of the model brings back.

Yang et al. 2025 (arXiv 2509.22263) fine-tune unlearned models on an instruction data set, which knows nobody, and some
of what was hidden resurfaces. The conversations here are made up and shipped (``data/ordinary_chat.jsonl``).
"""

from __future__ import annotations

from dataclasses import replace

from rkld.auditing.attacks.relearning import RelearningAttack
from rkld.auditing.inputs import Task
from rkld.auditing.registry import ATTACKS
from rkld.files import DATA
from rkld.records.reading import read_records
from rkld.records.record import Record

CHAT = DATA / "ordinary_chat.jsonl"


@ATTACKS.register("relearning_chat")
class RelearningChat(RelearningAttack):
    """Ordinary questions with ordinary answers are taught, and all forget records watched."""

    title = "fine-tuning on ordinary chat, then asking for all"
    needs = "nothing"
    source = "Yang et al. 2025, arXiv 2509.22263"

    def split(self, task: Task) -> tuple[list[Record], list[Record]]:
        return [replace(record, key=f"chat {record.key}") for record in read_records(CHAT, "chat")], list(task.forget)


@ATTACKS.register("relearning_chat_lora")
class RelearningChatLora(RelearningChat):
    """The same by a new adapter."""

    title = "the same on ordinary chat by LoRA"
    lora = True
