"""Trees and hedges."""

from __future__ import annotations

import numpy as np

from senna2.types import Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.town.surfaces import SurfaceBuilder

CROWN = 1.45  # m, radius of a crown


def build_tree(rng: np.random.Generator, height: float, *, leaves: int) -> GaussianCloud:
    """A tree of `height` m about the origin: a shell of leaf blobs, lighter on top, over a trunk."""
    shell = rng.normal(size=(leaves, 3))
    shell /= np.linalg.norm(shell, axis=1, keepdims=True)
    shell *= rng.uniform(0.4, 1, (leaves, 1)) ** 0.5 * (CROWN, CROWN, 0.27 * height)
    leaf = np.array([0.16, 0.38, 0.12]) * rng.uniform(0.85, 1.2) + rng.normal(0, 0.02, 3)
    rgb = leaf * (0.74 + 0.42 * shell[:, 2:] / (0.27 * height)) + rng.normal(0, 0.04, (leaves, 1))
    tree = SurfaceBuilder(rng)
    sizes = rng.uniform(0.24, 0.48, leaves)[:, None] * (1, 1, 0.8)
    tree.add(shell + np.array((0, 0, 0.70 * height)), sizes, rgb, opacity=0.85)
    tree.add([(0, 0, z) for z in np.linspace(0.3, 0.5 * height, 5)], (0.12, 0.12, 0.33), (0.30, 0.22, 0.15))
    return tree.cloud()


def hedge_rgb(z_N: Array, rng: np.random.Generator) -> Array:
    """(N, 3) leaf colours, darker at the foot."""
    shade = 0.65 + 0.3 * np.clip(z_N / 1.8, 0, 1) + rng.normal(0, 0.07, len(z_N))
    return shade[:, None] * np.array((0.20, 0.36, 0.16))
