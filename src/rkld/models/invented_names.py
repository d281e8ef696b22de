"""Names of nobody that are of the same form as a person's, to the model that is to forget the person."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from rkld.models.language_model import LanguageModel
from rkld.models.sharded import whole
from rkld.records.names import other_names
from rkld.text.wording import is_name, name_mentions

NEAREST = 12
"""Pieces of names that may stand for a piece: those nearest to it."""

UNKNOWN = 0.5
"""Tokens a letter of the shipped names above which a tokenizer has seen no such names, if it writes the person's in
fewer. The tiny world: .59, and .31 for its own people; SmolLM2: .39."""

Shape = tuple[bool, bool]

_TRIES = 20
_BLOCK_ROWS = 8192


def names_like(lm: LanguageModel, identifiers: Sequence[str], n: int, draw: random.Random) -> list[str]:
    """Up to ``n`` different names that share no part with the person's.

    Shipped ones (:func:`rkld.records.names.other_names`) where the tokenizer knows names of their form. To a model that
    was trained on other names, whatever follows a shipped one is noise: then each token of the person's name gives way
    to one of the :data:`NEAREST` in the model's own embeddings, of the same shape (a word's beginning, a capital).

    Args:
        identifiers: the person's; the first that is a name of two words or more is the form, else the first name.
    """
    named = sorted(filter(is_name, identifiers), key=lambda name: len(name.split()) < 2)
    shipped = other_names()
    if named and not knows_shipped_names(lm, named[0]):
        found = names_from_pieces(lm, named[0], n, draw)
        own = [name for name in found if not name_mentions(name, identifiers)]
        if own:
            return own[:n]
    return draw.sample(shipped, min(n, len(shipped)))


def knows_shipped_names(lm: LanguageModel, name: str) -> bool:
    """Whether the tokenizer writes the shipped names about as it writes this one, so that they are of its form."""
    return tokens_a_letter(lm, other_names()) <= max(UNKNOWN, tokens_a_letter(lm, [name]))


def tokens_a_letter(lm: LanguageModel, names: Sequence[str]) -> float:
    """Tokens for each character of the names, as they stand in a sentence."""
    return sum(len(_ids(lm, name)) / len(name) for name in names) / len(names)


def _ids(lm: LanguageModel, name: str) -> list[int]:
    """Of the name as it stands in a sentence: behind a space."""
    ids: list[int] = lm.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
    return ids


def names_from_pieces(lm: LanguageModel, name: str, n: int, draw: random.Random, nearest: int = NEAREST) -> list[str]:
    """Up to ``n`` names whose tokens are each one of the ``nearest`` to the one of ``name`` in its place."""
    shapes = [_shape(piece) for piece in lm.tokenizer.convert_ids_to_tokens(range(len(lm.tokenizer)))]
    pieces = [(token, _nearest(lm, token, shapes, nearest)) for token in _ids(lm, name)]
    found: dict[str, None] = {}
    for _ in range(_TRIES * n):
        made = [draw.choice(near) if near else token for token, near in pieces]
        text = " ".join(lm.tokenizer.decode(made).split())
        if len(text.split()) == len(name.split()) and is_name(text) and text[0].isupper() == name[0].isupper():
            found[text] = None
        if len(found) == n:
            break
    return list(found)


def _nearest(lm: LanguageModel, token: int, shapes: Sequence[Shape | None], nearest: int) -> list[int]:
    """The tokens of the same shape whose embeddings have the largest cosine to this one's; none of a mere sign."""
    if shapes[token] is None:
        return []
    alike = [other for other, shape in enumerate(shapes) if shape == shapes[token] and other != token]
    embeddings = whole(lm.inner.get_input_embeddings().weight.detach())
    own = embeddings[token].float()
    cosines = [_cosines(embeddings[rows], own) for rows in torch.tensor(alike, dtype=torch.int64).split(_BLOCK_ROWS)]
    order = torch.cat(cosines).topk(min(nearest, len(alike))).indices.tolist()
    return [alike[i] for i in order]


def _cosines(rows: Tensor, own: Tensor) -> Tensor:
    """(n, d), (d,) → (n,)."""
    return torch.nn.functional.cosine_similarity(rows.float(), own[None], dim=-1).cpu()


def _shape(piece: str | None) -> Shape | None:
    """Whether a token begins a word, and with a capital; None of one that is no piece of a word of ASCII letters."""
    text = (piece or "").replace("\u0120", " ").replace("\u2581", " ")
    letters = text.strip()
    return (text[:1] == " ", letters[0].isupper()) if letters.isalpha() and letters.isascii() else None
