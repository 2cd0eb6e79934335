"""What every row reached, in one figure (paper, Figure 1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from senna2.report.drawing import COLOUR, STYLE, WIDTH, prefixed, svg_of
from senna2.report.media import Figure
from senna2.report.tables import fewer_clips
from senna2.types import Array

FENCE = 6.0
OVERVIEW = (
    ("consistency.avg", "consistency, avg F1"), ("open_loop.fde_m", "FDE, m"),
    ("closed_loop.af_cr", "at-fault collisions"), ("closed_loop.progress_ratio", "progress / expert's"),
)  # fmt: skip


def overview_figure(results: Mapping[str, Any]) -> Figure:
    """What every row reached, from results.json: value, 95 % interval and each training seed's own (paper, Figure 1).

    A row without a metric has an empty place there; rows without any of them are left out.
    """

    def of(policy: str, metric: str) -> Mapping[str, Any] | None:
        suite, name = metric.split(".", 1)
        found = results["policies"][policy].get(suite, {}).get(name)
        return found if found and found["value"] is not None else None

    fewer = fewer_clips(results)
    rows = [p for p in results["policies"] if "showcase" not in p and any(of(p, m) for m, _ in OVERVIEW)]
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 0.7 + 0.2 * max(len(rows), 1)))
        axes = canvas.subplots(1, len(OVERVIEW), sharey=True, squeeze=False)[0]
        for ax, (metric, title) in zip(axes, OVERVIEW, strict=True):
            open_dots = fewer if metric.startswith("closed_loop.") else ()
            _estimates(ax, {policy: of(policy, metric) for policy in rows}, open_dots)
            ax.set_title(title, loc="left")
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(max(len(rows), 1) - 0.5, -0.5)
        canvas.subplots_adjust(wspace=0.12)
        svg = svg_of(canvas)
    return Figure(
        "Every row at a glance",
        "Dot: value; bar: 95 % interval over clips; ticks: each training seed's own value. The scale is that of the "
        "rows that lie together, and need not begin at 0; an arrow points to a value beyond it. Open dot: over fewer "
        "clips than the others, so not to be compared with them.",
        prefixed(svg, "overview-"),
        section="overview",
    )


def _estimates(ax: Axes, found: Mapping[str, Mapping[str, Any] | None], open_dots: Collection[str]) -> None:
    """A line a row, from the top: value, interval, training seeds."""
    shown = {y: (policy, row) for y, (policy, row) in enumerate(found.items()) if row is not None}
    if not shown:
        return
    values = np.array([row["value"] for _, row in shown.values()], np.float64)
    low, high = scale_of(values, np.array([_span(row) for _, row in shown.values()]))
    ax.set_xlim(low, high)
    for y, (policy, row) in shown.items():
        colour = COLOUR["normal"] if policy.startswith("senna2") else COLOUR["KEEP SPEED"]
        if not low <= row["value"] <= high:
            _beyond(ax, row["value"], y, colour)
            continue
        ci, own = _interval(row), _seeds(row)
        ax.plot(ci, [y] * len(ci), color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
        ax.plot(own, [y] * len(own), "|", color=colour, markersize=6, markeredgewidth=0.8)
        ax.plot(row["value"], y, "o", color=colour, markersize=3.5, fillstyle="none" if policy in open_dots else "full")


def _beyond(ax: Axes, value: float, y: int, colour: str) -> None:
    right = value > ax.get_xlim()[1]
    text, x, side = (f"{value:.3g} →", 0.98, "right") if right else (f"← {value:.3g}", 0.02, "left")
    ax.annotate(text, (x, y), xycoords=("axes fraction", "data"), ha=side, va="center", color=colour, fontsize=7)


def _interval(row: Mapping[str, Any]) -> list[float]:
    ends = [end for end in row["ci95"] or () if end is not None]
    return ends if len(ends) == 2 else []


def _seeds(row: Mapping[str, Any]) -> list[float]:
    return [v for v in row["per_seed"] if v is not None]


def _span(row: Mapping[str, Any]) -> tuple[float, float]:
    drawn = [row["value"], *_interval(row), *_seeds(row)]
    return min(drawn), max(drawn)


def scale_of(values_N: Array, spans_N2: Array) -> tuple[float, float]:
    """The ends of an axis on which most of the values can be told apart: those within `FENCE` median deviations of the
    median and what is drawn around them (`spans_N2`), so that a driver who never brakes does not press all others
    into one point."""
    far = np.abs(values_N - np.median(values_N))
    fence = FENCE * np.median(far)
    kept = spans_N2[far <= fence] if fence > 0 else spans_N2
    low, high = float(kept.min()), float(kept.max())
    margin = 0.05 * (high - low) or 0.1 * abs(low) or 1.0
    return low - margin, high + margin
