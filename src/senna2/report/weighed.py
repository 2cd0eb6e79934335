"""The figure of a planner's page: one instant from above, and every plan that the planner weighs there."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Polygon

from senna2.geometry import box_of, corners
from senna2.report.drawing import COLOUR, STYLE, WIDTH, prefixed, svg_of
from senna2.report.media import Figure
from senna2.types import Array, LaneKind, Samples, VehicleShape

LINE = {
    LaneKind.ROUTE_LANE: "#cbd5e1", LaneKind.LANE: "#e2e8f0", LaneKind.DIVIDER: "#94a3b8", LaneKind.KERB: "#475569",
    LaneKind.RED_STOP_LINE: "#dc2626",
}  # fmt: skip
AHEAD_M, BEHIND_M, ASIDE_M = 48.0, 8.0, 9.0
HEIGHT = 2.6  # inches, of each picture


def weighed_figure(
    name: str, title: str, samples: Samples, plans_NMT2: Array, weights_NM: Array, heads: Sequence[str]
) -> Figure:
    """A picture a sample, one below the other, each under its head: lanes, road users, the expert's future, and the
    plans, the darker the more weight. Shapes: N samples, M plans, T points."""
    n = len(samples)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        canvas = Canvas(figsize=(WIDTH, HEIGHT * n))
        for ax, i, head in zip(canvas.subplots(n, 1, squeeze=False)[:, 0], range(n), heads, strict=True):
            _scene(ax, samples, i)
            _plans(ax, plans_NMT2[i], weights_NM[i])
            ax.set_title(head, loc="left")
        canvas.subplots_adjust(hspace=0.2)
        svg = svg_of(canvas)
    caption = (
        f"Seen from above, {BEHIND_M + AHEAD_M:.0f} m by {2 * ASIDE_M:.0f} m, the ego (red) driving to the right; "
        "grey: road users; dashed: what the expert did; blue: the plans that are weighed, the darker the more weight; "
        "the heaviest in full."
    )
    return Figure(title, caption, prefixed(svg, f"weighed-{name.replace('+', '-')}-"))


def _scene(ax: Axes, samples: Samples, i: int) -> None:
    for line, kind in zip(samples.lanes_NLP2[i], samples.lane_kinds_NL[i], strict=True):
        if kind >= 0:
            ax.plot(*line.T, color=LINE[LaneKind(kind)], linewidth=0.8, zorder=1)
    for box, kind in zip(samples.boxes_NA6[i], samples.classes_NA[i], strict=True):
        if kind >= 0:
            _box(ax, box[:5], "#64748b")
    _box(ax, box_of(np.zeros(3), VehicleShape()), COLOUR["DECELERATE"])
    ax.plot(*samples.future_NT3[i, :, :2].T, color="#1e293b", linewidth=1.0, linestyle=(0, (3, 2)), zorder=4)
    ax.set_xlim(-BEHIND_M, AHEAD_M)
    ax.set_ylim(-ASIDE_M, ASIDE_M)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _box(ax: Axes, box_5: Array, colour: str) -> None:
    ax.add_patch(Polygon(corners(np.asarray(box_5, float)), closed=True, facecolor=colour, edgecolor="none", zorder=2))


def _plans(ax: Axes, plans_MT2: Array, weights_M: Array) -> None:
    order = np.argsort(weights_M)
    strength = weights_M[order] / max(float(weights_M.max()), 1e-9)
    keep = strength > 0.01
    start = np.zeros((1, 2))
    lines = [np.concatenate([start, plans_MT2[k]]) for k in order[keep]]
    colours = [(*matplotlib.colors.to_rgb(COLOUR["normal"]), 0.08 + 0.5 * s) for s in strength[keep]]
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=0.8, zorder=3))
    best = np.concatenate([start, plans_MT2[order[-1]]])
    ax.plot(*best.T, color=COLOUR["normal"], linewidth=1.8, zorder=5)
