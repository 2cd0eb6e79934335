"""What the driver makes of a passenger's words (`senna2.instructions`)."""

from __future__ import annotations

from dataclasses import dataclass

from senna2.instructions import TEXTS
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
_BY_TEXT = {text: instruction for instruction in INSTRUCTIONS for text in instruction.texts}


def instruction_of(text: str) -> Instruction:
    """The instruction a sentence means; "" means none. Case, spacing and end marks do not matter.

    Raises `InputError` naming the known sentences for any other.
    """
    said = " ".join(text.lower().split()).rstrip(".!? ")
    if not said:
        return NO_INSTRUCTION
    if said not in _BY_TEXT:
        raise InputError(f"instruction: {text!r} is unknown; say one of {', '.join(sorted(_BY_TEXT))}")
    return _BY_TEXT[said]
