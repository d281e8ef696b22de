"""The model's own answers as training data: whole sentences, without an end of turn where there was none."""

from types import SimpleNamespace

from rkld.evaluation.generation import Generated
from rkld.pipeline import phases
from rkld.pipeline.phases import Work
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.reading import read_prompts
from rkld.records.record import Record
from tests.helpers import TOKENIZER


def test_an_answer_that_was_cut_is_no_training_data_beyond_its_last_sentence(monkeypatch):
    """Cut mid-word, and with an end of turn that the model never set there."""
    said = [
        Generated((), "Rain falls. It is we", False),
        Generated((), "Rain falls.", True),
        Generated((), "We", False),
    ]
    monkeypatch.setattr(phases, "greedy", lambda *_, **__: said)
    encoder = Encoder(TOKENIZER)
    work = SimpleNamespace(
        progress=NoProgress(), student=None, encoder=encoder, settings=SimpleNamespace(max_new_tokens=None)
    )
    work.said = lambda *args: Work.said(work, *args)
    work.with_own_answer = lambda record, text, *, cut: Work.with_own_answer(work, record, text, cut=cut)
    prompts = read_prompts([{"question": "Why is it wet?"}] * 3)
    cut, whole, nothing = Work.answered(work, prompts, "replay")
    assert cut.answer == whole.answer == "Rain falls." and nothing.answer == ""
    again = Record.from_dict(cut.to_dict())
    ends = [TOKENIZER.decode(encoder.encode(record).ids).strip()[-10:] for record in (again, whole)]
    assert ends == ["ain falls.", "<|im_end|>"]
    assert encoder.encode(again).ids == encoder.encode(whole).ids[: len(encoder.encode(again).ids)]
