"""What the VLM is asked and how it answers, in words.

The system prompt is the same for every frame, so the model computes it once a batch; what varies is kept
short, because on a small model the tokens are the cost (the tokenizer splits numbers into digits).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from senna2.decisions import ALL_DECISIONS, DIRECTION_TEXT, SPEED_TEXT, decision_text
from senna2.instructions import WISHES
from senna2.types import Direction, InputError, require

HORIZON_S = 1.5  # f_K, which makes the speed labels, looks this far ahead (paper, section 3; Senna said 3 s)

ANSWERS: tuple[str, ...] = tuple(decision_text(d) for d in ALL_DECISIONS)

# What a passenger may say; the tokenizer is trained on it, any other text still encodes.
INSTRUCTIONS: tuple[str, ...] = tuple(text for wish in WISHES for text in wish.texts)


def system_prompt() -> str:
    """Role, classes, horizon and answer format; constant. [ours] The paper gives no text.

    It says what STOP means, because f_K calls a braking car DECELERATE until it all but stands.
    """
    return (
        f"You drive the ego vehicle: decide for the next {HORIZON_S} s. "
        f"Speed: {', '.join(SPEED_TEXT[:-1])}, {SPEED_TEXT[-1]} (standing within a few tenths of a second). "
        f"Direction: {', '.join(DIRECTION_TEXT)}. "
        "Speeds are in m/s. Answer: speed, direction."
    )


def user_prompt(v: float, navigation: int, speed_limit: float, instruction: str = "", question: str = "") -> str:
    """The text beside the frame: navigation, ego speed and limit in m/s (one decimal), any instruction.

    A `question` asks something else about the frame than the decision; it comes last, marked as one.

    `v` >= 0 and finite; `navigation` a `Direction` (UNKNOWN reads "unknown"); a limit of NaN reads "unknown".
    Raises InputError on a non-finite speed, an unknown command, or special tokens inside the instruction.
    """
    require(math.isfinite(v), "prompt: ego speed", f"{v} is not finite; give m/s")
    try:
        command = Direction(int(navigation))
    except ValueError:
        raise InputError(f"prompt: navigation {navigation} is not one of {[d.value for d in Direction]}") from None
    where = "unknown" if command is Direction.UNKNOWN else DIRECTION_TEXT[command]
    limit = f"{speed_limit:.1f}" if math.isfinite(speed_limit) else "unknown"
    text = f"navigation {where}, speed {max(float(v), 0.0):.1f}, limit {limit}"
    said = " ".join(instruction.split())
    # A special token in the user's words would end the turn or claim image tokens that do not exist.
    require("<|" not in said + question, "prompt: instruction", f"{said + question!r} must not hold '<|'; remove it")
    text = f"{text}. {said}" if said else text
    return f"{text}{' ' if said else '. '}Question: {question}" if question else text


def messages(user_text: str, answer: str | None = None) -> list[dict[str, Any]]:
    """The conversation in `transformers`' chat format: system, user (image first, as Qwen), answer."""
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": system_prompt()}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": user_text}]},
    ]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


def corpus() -> Sequence[str]:
    """All that the prompts can say, in a fixed order: what the tokenizer is trained on."""
    texts = [system_prompt(), *ANSWERS, *INSTRUCTIONS, "system\nuser\nassistant\n"]
    for navigation in Direction:
        for tenth in range(0, 400, 37):
            v = tenth / 10
            texts.append(user_prompt(v, navigation, 40 - v))
        texts.append(user_prompt(0.0, navigation, math.nan, INSTRUCTIONS[int(navigation)]))
    return texts
