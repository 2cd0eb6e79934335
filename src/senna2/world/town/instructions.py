"""What the driver makes of a passenger's words (`senna2.instructions`)."""

from __future__ import annotations

from dataclasses import dataclass

from senna2.instructions import TEXTS, plain, wish_of
from senna2.types import InputError


@dataclass(frozen=True)
class Instruction:
    """A wish and the sentences that mean it.

    speed_factor: of the speed limit (curves keep their speed). lane_bias_m: sideways within the lane, left positive.
    headway_s: time gap to a leader.
    """

    kind: str
    texts: tuple[str, ...]
    speed_factor: float = 1.0
    lane_bias_m: float = 0.0
    headway_s: float = 1.2


NO_INSTRUCTION = Instruction("", ("",))
INSTRUCTIONS: tuple[Instruction, ...] = (
    # [ours] a hurried passenger gets up to a fifth more than the limit, never more
    Instruction("hurry up", TEXTS["hurry up"], speed_factor=1.2, headway_s=1.0),
    Instruction("slow down", TEXTS["slow down"], speed_factor=0.75, headway_s=1.5),
    Instruction("keep left", TEXTS["keep left"], lane_bias_m=0.5),
    Instruction("keep right", TEXTS["keep right"], lane_bias_m=-0.5),
)
_BY_KIND = {instruction.kind: instruction for instruction in INSTRUCTIONS}


def instruction_of(text: str) -> Instruction:
    """The instruction a sentence means; "" means none. Case, spacing and end marks do not matter.

    Raises `InputError` naming the known sentences for any other.
    """
    if not plain(text):
        return NO_INSTRUCTION
    wish = wish_of(text)
    if wish is None:
        known = ", ".join(sorted(t for texts in TEXTS.values() for t in texts))
        raise InputError(f"instruction: {text!r} is unknown; say one of {known}")
    return _BY_KIND[wish.kind]
