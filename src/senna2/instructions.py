"""What a passenger may say: four wishes, and the sentences that mean each of them.

Words alone. What a driver does about a wish is the world's (`world/town/instructions.py`), how it stands in the prompt
the model's, whether a plan obeys it the evaluation's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ask = Literal["faster", "slower", "left", "right"]


@dataclass(frozen=True)
class Wish:
    """kind: its short name, also the first of its sentences. asks: which way the plan is to change."""

    kind: str
    asks: Ask
    texts: tuple[str, ...]


WISHES: tuple[Wish, ...] = (
    Wish(
        "hurry up",
        "faster",
        ("hurry up", "please drive faster", "we are late, speed up", "step on it", "can you go a bit quicker"),
    ),
    Wish(
        "slow down",
        "slower",
        ("slow down", "take it easy", "please drive slower", "not so fast", "no need to rush"),
    ),
    Wish(
        "keep left",
        "left",
        ("keep left", "stay on the left side of the lane", "move a bit to the left", "drive further left"),
    ),
    Wish(
        "keep right",
        "right",
        ("keep right", "stay on the right side of the lane", "move a bit to the right", "drive further right"),
    ),
)
TEXTS = {wish.kind: wish.texts for wish in WISHES}
_BY_TEXT = {text: wish for wish in WISHES for text in wish.texts}


def plain(text: str) -> str:
    """Without case, extra spaces and end marks, which do not matter."""
    return " ".join(text.lower().split()).rstrip(".!? ")


def wish_of(text: str) -> Wish | None:
    """The wish a sentence means; None for silence and for words that mean none of them."""
    return _BY_TEXT.get(plain(text))
