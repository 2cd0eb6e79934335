"""Figures of control: relative speed under forced decisions, speed and mileage of forced drives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy.stats import gaussian_kde

from senna2.report.drawing import COLOUR, STYLE, WIDTH, prefixed, svg_of
from senna2.report.media import Figure
from senna2.types import Array, Rollout, Speed

NAME = {
    Speed.ACCELERATE: "ACCELERATE", Speed.KEEP: "KEEP SPEED", Speed.DECELERATE: "DECELERATE", Speed.STOP: "STOP",
    None: "normal",
}  # fmt: skip
RATIO_MAX = 2.2


def relative_speed_figure(ratios: Mapping[str, Mapping[Speed, Array]]) -> Figure:
    """Distributions of planned speed at 3 s over v₀, policy by policy, under each forced decision (paper,
    Figure 4).

    `ratios[policy][speed]`: the values of `evaluate.control.relative_speeds`, of all seeds.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 2.5))
        axes = canvas.subplots(1, max(len(ratios), 1), sharex=True, squeeze=False)[0]
        for ax, (policy, by_speed) in zip(axes, ratios.items(), strict=False):
            _densities(ax, by_speed)
            ax.set_title(policy, loc="left")
            ax.set_xlabel("planned speed at 3 s / current speed")
        axes[0].set_ylabel("density")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 1.1))
        svg = svg_of(canvas)
    return Figure(
        "Relative speed under forced decisions",
        "Each frame with v₀ ≥ 3 m/s is planned under every decision, with the same noise; dashed lines are medians. "
        "The further apart the three, the better the planner obeys.",
        prefixed(svg, "ratio-"),
    )


def _densities(ax: Axes, by_speed: Mapping[Speed, Array]) -> None:
    grid = np.linspace(0, RATIO_MAX, 300)
    for speed in (Speed.DECELERATE, Speed.KEEP, Speed.ACCELERATE):
        values = np.asarray(by_speed.get(speed, ()), np.float64)
        values = np.clip(values[np.isfinite(values)], 0, RATIO_MAX)
        if len(values) == 0:
            continue
        colour, spread = COLOUR[NAME[speed]], max(float(values.std()), 1e-3)
        # A bandwidth of at least 0.03 keeps a nearly constant planner from becoming a needle.
        factor = max(len(values) ** -0.2, 0.03 / spread)
        if len(values) > 1 and values.std() > 0:
            density = gaussian_kde(values, factor)(grid)
        else:
            density = np.exp(-0.5 * ((grid - values[0]) / 0.03) ** 2) / (0.03 * np.sqrt(2 * np.pi))
        ax.fill_between(grid, density, color=colour, alpha=0.14, linewidth=0)
        ax.plot(grid, density, color=colour, linewidth=1.5, label=NAME[speed])
        ax.axvline(float(np.median(values)), color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_xlim(0, RATIO_MAX)
    ax.set_ylim(bottom=0)


def forced_drives_figure(drives: Mapping[Speed | None, Sequence[Rollout]], policy: str) -> Figure:
    """Speed and mileage against time, closed loop, under each forced decision and the VLM's own (None:
    "normal").

    Lines are means over the drives that still go on at that time, bands the middle half of them; both end with the
    shortest clip, after which the mean would be that of other clips.
    """
    drives = _until_the_first_clip_ends(drives)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 2.6))
        speed_ax, mileage_ax = canvas.subplots(1, 2)
        for key in (Speed.ACCELERATE, None, Speed.KEEP, Speed.DECELERATE, Speed.STOP):
            if drives.get(key):
                name = NAME[key]
                _band(speed_ax, [r.ego_F6[:, 3] for r in drives[key]], drives[key], name)
                _band(mileage_ax, [_mileage(r) for r in drives[key]], drives[key], name)
        for ax, label in ((speed_ax, "speed, m/s"), (mileage_ax, "mileage, m")):
            ax.set_xlabel("time, s")
            ax.set_ylabel(label)
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
        handles, labels = speed_ax.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="upper center", ncols=5, bbox_to_anchor=(0.5, 1.06))
        canvas.subplots_adjust(wspace=0.24)
        svg = svg_of(canvas)
    n = max((len(d) for d in drives.values()), default=0)
    return Figure(
        f"Closed-loop drives of {policy} under forced decisions",
        f"Mean speed and mileage, {n} drives at the start, until the shortest clip ends; the middle half of them "
        "shaded. A drive that ends in a collision leaves the mean, which may jump there "
        f"({_left(drives)} at the end). “normal” follows the VLM's own decision.",
        prefixed(svg, f"drive-{policy}-"),
    )


def _until_the_first_clip_ends(drives: Mapping[Speed | None, Sequence[Rollout]]) -> dict[Speed | None, list[Rollout]]:
    """A clip is as long as its longest drive: others may have ended in a collision."""
    lasts: dict[str, int] = {}
    for r in (r for of_mode in drives.values() for r in of_mode):
        lasts[r.clip] = max(lasts.get(r.clip, 0), len(r.ego_F6))
    frames = min(lasts.values(), default=0)
    return {key: [dataclasses.replace(r, ego_F6=r.ego_F6[:frames]) for r in rs] for key, rs in drives.items()}


def _left(drives: Mapping[Speed | None, Sequence[Rollout]]) -> str:
    """How many drives of each mode are still under way at the end."""
    frames = max((len(r.ego_F6) for rs in drives.values() for r in rs), default=0)
    return ", ".join(f"{NAME[key]} {sum(len(r.ego_F6) == frames for r in rs)}" for key, rs in drives.items() if rs)


def _mileage(rollout: Rollout) -> Array:
    steps = np.hypot(*np.diff(rollout.ego_F6[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _band(ax: Axes, series: Sequence[Array], drives: Sequence[Rollout], name: str) -> None:
    longest = max(len(s) for s in series)
    table = np.full((len(series), longest), np.nan)
    for row, values in zip(table, series, strict=True):
        row[: len(values)] = values
    t = drives[0].dt * np.arange(longest)
    ax.plot(t, np.nanmean(table, 0), color=COLOUR[name], linewidth=1.6, label=name)
    if len(series) > 1:
        low, high = np.nanpercentile(table, [25, 75], axis=0)
        ax.fill_between(t, low, high, color=COLOUR[name], alpha=0.12, linewidth=0)
