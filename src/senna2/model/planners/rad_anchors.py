"""RAD's grid of actions: where the car is in half a second, 61 ways along by 61 across, each reached on an arc.

The released anchors are the nearest ends of 2.5 million bicycle roll-outs with constant speed and steering; that arc
has a closed form, which agrees with them to 1.4 cm (their grid of speeds and angles is that coarse).

Legend: G 61 × 61 grid; K points; `…` any shape. x is forward, y left.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from senna2.types import Array

BINS = 61
STEP_X, STEP_Y = 0.25, 0.025  # m: 0 … 15 along, −0.75 … 0.75 across
HORIZON_S = 0.5
MIDDLE = BINS // 2  # the lateral bin that is straight ahead
# Bicycle of the release. It says 49°; cells that need more than 48.8° are not valid in its mask either.
WHEELBASE, MOST_STEER = 2.765, math.radians(48.8)


def grid() -> Array:
    """(61, 61, 2) m: x by row, y by column."""
    x, y = np.meshgrid(STEP_X * np.arange(BINS), STEP_Y * (np.arange(BINS) - MIDDLE), indexing="ij")
    return np.stack([x, y], -1)


def valid() -> Array:
    """(61, 61) bool: cells that the bicycle reaches; of the first row, only to stay."""
    _, kappa = arc_length(torch.tensor(grid()))
    fine = np.abs(kappa.numpy()) <= math.tan(MOST_STEER) / WHEELBASE
    fine[0] = np.arange(BINS) == MIDDLE
    return np.asarray(fine)


def arc_length(ends_2: Tensor) -> tuple[Tensor, Tensor]:
    """(…,) length in m and curvature in 1/m of the arc that leaves the origin along x and ends at each point."""
    x, y = ends_2.unbind(-1)
    square = x * x + y * y
    return square.sqrt() / torch.sinc(torch.atan2(y, x) / math.pi), 2 * y / square.clamp_min(1e-9)


def along_arc(way_K: Tensor, kappa: Tensor) -> Tensor:
    """(…, K) m and (…,) → (…, K, 2): points on the arc; straight on after a right angle."""
    kappa = kappa[..., None]
    most = 0.5 * math.pi / kappa.abs().clamp_min(1e-6)
    on, beyond = torch.minimum(way_K, most), (way_K - most).clamp_min(0)
    angle = kappa * on
    chord = on * torch.sinc(angle / (2 * math.pi))
    x, y = chord * torch.cos(angle / 2), chord * torch.sin(angle / 2)
    return torch.stack([x + beyond * torch.cos(angle), y + beyond * torch.sin(angle)], -1)


def nearest_valid(points_2: Array | Tensor, valid_GG: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 2) m → rows and columns (…,) of the nearest valid cells, both axes brought to the unit of their range first
    (as the release does for its targets)."""
    points = torch.as_tensor(points_2, dtype=torch.float32)
    unit = torch.tensor([STEP_X * (BINS - 1), STEP_Y * (BINS - 1)], device=points.device)
    cells = torch.as_tensor(grid(), dtype=torch.float32, device=points.device).flatten(0, 1)
    gap = torch.cdist((points / unit).reshape(-1, 2), cells / unit)
    gap = gap.masked_fill(~valid_GG.flatten().to(points.device), torch.inf)
    best = gap.argmin(-1).reshape(points.shape[:-1])
    return best // BINS, best % BINS


def action_of(points_2: Array) -> tuple[Array, Array]:
    """The cells (rows, columns) at whose ends a plan is half a second from now: what RAD chose, read off its plan."""
    row = np.rint(np.asarray(points_2)[..., 0] / STEP_X).astype(np.int64)
    column = np.rint(np.asarray(points_2)[..., 1] / STEP_Y).astype(np.int64) + MIDDLE
    return np.clip(row, 0, BINS - 1), np.clip(column, 0, BINS - 1)
