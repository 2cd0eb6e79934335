"""`senna2 data`: look into samples, and hand them to other fine-tuning tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senna2.data.export import export
from senna2.data.store import SampleStore
from senna2.data.summary import summary
from senna2.model.vlm.prompts import system_prompt, user_prompt
from senna2.types import Samples


def inspect_verb(folder: Path) -> dict[str, Any]:
    """Counts per class and family, the share UNKNOWN, sizes."""
    return summary(SampleStore(folder))


def export_verb(
    folder: Path, out: Path, form: str, *, kinds: Sequence[str], seed: int, encoding: str, limit: int | None
) -> dict[str, Any]:
    """The QA set in the format of a tool, with the prompts that stage 1a itself uses."""
    return export(SampleStore(folder), out, form, system=system_prompt(), ask=ask, kinds=kinds, seed=seed,
                  encoding=encoding, limit=limit)  # fmt: skip


def ask(samples: Samples, i: int, question: str) -> str:
    """The text beside the frame of sample `i`; an empty question asks for the decision."""
    return user_prompt(
        float(samples.motion_N4[i, 0]), int(samples.navigation_N[i]), float(samples.speed_limit_N[i]),
        samples.instruction_N[i], question,
    )  # fmt: skip
