"""Traffic lights as gaussians: a post beside the lane with a head of three lamps, one cloud a state.

Box frame: origin at the foot of the post, x forward in the sense of the traffic it speaks to; the lamps look back (−x).
Head and lamps are about twice the real size, so that the state is at least six saturated pixels at 168 × 56 from 25 m,
and hang low, for that camera sees only 11° above the horizon. [ours]
"""

from __future__ import annotations

from functools import cache

import numpy as np

from senna2.world.gaussians import GaussianCloud
from senna2.world.town.surfaces import SurfaceBuilder

LAMPS = {".red": 3.02, ".amber": 2.42, ".green": 1.82}  # m, heights of the lamps' centres
LIT = {".red": (3.4, 0.07, 0.06), ".amber": (2.9, 1.1, 0.03), ".green": (0.06, 3.2, 1.05)}
DARK = {".red": (0.20, 0.05, 0.05), ".amber": (0.19, 0.13, 0.04), ".green": (0.05, 0.15, 0.10)}
HOUSING, BORDER, BACK = (0.055, 0.06, 0.065), (0.80, 0.80, 0.78), (0.16, 0.17, 0.18)
LAMP_SIGMA = 0.23  # m


@cache
def _made() -> tuple[tuple[str, GaussianCloud], ...]:
    low, high, half = 1.46, 3.38, 0.36
    out = []
    for state in ("", *LAMPS):
        b = SurfaceBuilder()
        post = np.column_stack([np.full((8, 2), (0.22, 0.0)), np.linspace(0.15, high, 8)])
        b.add(post, (0.06, 0.06, 0.26), (0.34, 0.35, 0.36))
        b.add((0.22, 0, 0.12), (0.12, 0.12, 0.08), (0.28, 0.28, 0.29))
        back = np.array((0.12, -half - 0.09, low - 0.09))
        b.rectangle(back, (0, 2 * half + 0.18, 0), (0, 0, high - low + 0.18), 0.14, BORDER, jitter=0)  # a rim
        b.rectangle(np.add(back, (0.08, 0, 0)), (0, 2 * half + 0.18, 0), (0, 0, high - low + 0.18), 0.2, BACK, jitter=0)
        b.rectangle((0.02, -half, low), (0, 2 * half, 0), (0, 0, high - low), 0.17, HOUSING, jitter=0)
        b.rectangle((-0.06, -half, low), (0, 2 * half, 0), (0, 0, high - low), 0.17, HOUSING, jitter=0)
        for name, z in LAMPS.items():
            on = name == state
            size = LAMP_SIGMA if on else 0.6 * LAMP_SIGMA
            b.add((-0.16, 0, z), (0.03, size, size), LIT[name] if on else DARK[name])
            visor = np.column_stack([np.full(3, -0.14), np.linspace(-0.2, 0.2, 3), np.full(3, z + 0.29)])
            b.add(visor, (0.10, 0.08, 0.02), HOUSING)
        out.append((state, b.cloud()))
    return tuple(out)


def make_signal() -> dict[str, GaussianCloud]:
    """The clouds of a traffic light by state: "" (dark), ".red", ".amber", ".green". Always the same objects."""
    return dict(_made())
