"""docs/results/systems.md: of each system in the tables its source, what differs from the original, and one figure.

The words are those at the top of each planner's file (and of its trainer's), so that they stand once.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

from senna2.recipes.arms import ARMS, PEERS
from senna2.registry import get
from senna2.report.media import Figure

TRAINED_BY = {"rad": "senna2.train.rad", "rad2": "senna2.train.rad2"}
TOLD = (
    "Told the VLM's decision by a learned embedding, as `senna` is: the planner is `{planner}`, the adapter `decision`."
)
LEAD = (
    "# Systems\n\n"
    "Each is a planner in the same policy, on the encoder and the perception heads of stage 1b ([planners]"
    "(../planners.md)); its numbers stand in the tables of [README](README.md). The text of each is that of its file."
)


def systems_page(figures: Mapping[str, Figure]) -> str:
    """A section a system. `figures`: by name of the row, those that are drawn."""
    return "\n\n".join([LEAD, *(_section(name, figures.get(name)) for name in PEERS)]) + "\n"


def _section(name: str, figure: Figure | None) -> str:
    planner = ARMS[name].planner
    module = get("planners", planner).__module__
    file = f"../../src/{module.replace('.', '/')}.py"
    parts = [f"## {name}"]
    if ARMS[name].vlm:
        parts.append(TOLD.format(planner=planner))
    else:
        parts += [f"Planner: [{module.rsplit('.', 1)[-1]}.py]({file}).", *_words(module)]
        if name in TRAINED_BY:
            parts += ["Trained further:", *_words(TRAINED_BY[name])]
    if figure is not None:
        parts.append(f"![{figure.title}](figures/weighed-{name}.svg)\n\n{figure.caption}")
    return "\n\n".join(parts)


def _words(module: str) -> list[str]:
    """The paragraphs of a module's docstring but its legend; formulas as code."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    kept = [p for p in text.split("\n\n") if not p.startswith("Legend")]
    return [f"```\n{inspect.cleandoc(p)}\n```" if p.startswith("    ") else p for p in kept]
