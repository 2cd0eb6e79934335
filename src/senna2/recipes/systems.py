"""docs/results/systems.md: of each system in the tables its source, what differs from the original, and one figure.

The words are those at the top of each planner's file (and of its trainer's), so that they stand once; `senna` and
`senna2` share a planner, and what sets them apart is said here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

from senna2.recipes.arms import ARMS, PEERS
from senna2.recipes.study import FORCED, SHOWN, WEIGHED
from senna2.registry import get
from senna2.report.media import Figure

TRAINED_BY = {
    "rad": ("senna2.train.rad",),
    "rad2": ("senna2.train.rad2",),
    "senna2": ("senna2.train.stage2", "senna2.train.stage3"),
}
TOLD = (
    "Told the VLM's decision by a learned embedding, as `senna` is: the planner is `{planner}`, the adapter `decision`."
)
# Those that the study itself compares are no planner's idea but a way to join one with a VLM.
JOINED = {
    "senna": (
        "Senna (arXiv 2410.22313) as Senna-2 compares with it: the VLM's decision reaches the planner by a learned "
        "embedding alone, and after stage 1 nothing aligns the two. The planner is `{planner}`, the adapter "
        "`{adapter}`.",
        "Differs from the original: its planner is VADv2's (that is `senna_vadv2`); the VLM is the one of `senna2`, "
        "from stage 1a.",
    ),
    "senna2": (
        "Senna-2 (arXiv 2603.11219), this project: the VLM's hidden state and its decision reach the planner together, "
        "and stages 2 and 3 align the two. The planner is `{planner}`, the adapter `{adapter}`.",
        "Differs from the original, whose code is closed: every choice of ours stands with its reason and its line in "
        "[method](../method.md), section 8.",
    ),
}
LEAD = (
    "# Systems\n\n"
    "Each is a planner in the same policy, on the encoder and the perception heads of stage 1b ([planners]"
    "(../planners.md)); its numbers stand in the tables of [README](README.md). The text of each is that of its file."
)


def systems_page(figures: Mapping[str, Figure]) -> str:
    """A section a system. `figures`: by name of their file, those that are drawn."""
    return "\n\n".join([LEAD, *(_section(name, figures) for name in (*PEERS, *SHOWN))]) + "\n"


def _section(name: str, figures: Mapping[str, Figure]) -> str:
    arm = ARMS[name]
    parts = [f"## {name}"]
    if name in JOINED:
        parts += [text.format(planner=arm.planner, adapter=arm.adapter) for text in JOINED[name]]
    elif arm.vlm:
        parts.append(TOLD.format(planner=arm.planner))
    else:
        module = get("planners", arm.planner).__module__
        file = f"../../src/{module.replace('.', '/')}.py"
        parts += [f"Planner: [{module.rsplit('.', 1)[-1]}.py]({file}).", *_words(module)]
    if name in TRAINED_BY:
        parts += ["Trained further:", *(text for trainer in TRAINED_BY[name] for text in _words(trainer))]
    stem = f"{FORCED if name in JOINED else WEIGHED}{name}"
    if stem in figures:
        parts.append(f"![{figures[stem].title}](figures/{stem}.svg)\n\n{figures[stem].caption}")
    return "\n\n".join(parts)


def _words(module: str) -> list[str]:
    """The paragraphs of a module's docstring but its legend; formulas as code."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    kept = [p for p in text.split("\n\n") if not p.startswith("Legend")]
    return [f"```\n{inspect.cleandoc(p)}\n```" if p.startswith("    ") else p for p in kept]
