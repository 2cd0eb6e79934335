"""Clouds of 3D gaussians: the one data structure that town, dressing, clip files and renderers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types import Array, require

SH_C0 = 0.28209479177387814  # zeroth spherical harmonic: rgb = 0.5 + SH_C0 · sh[:, 0]


@dataclass(frozen=True, eq=False)
class GaussianCloud:
    """N gaussians with linear activations (no logarithms, no logits).

    means_N3 m; scales_N3 standard deviations, m; quats_N4 unit, (w, x, y, z); opacities_N in (0, 1];
    sh_NK3 spherical harmonics of colour, K = (degree + 1)², all float32. Identity semantics: hashable by object,
    so renderers may cache what they precompute of a cloud.
    """

    means_N3: Array
    scales_N3: Array
    quats_N4: Array
    opacities_N: Array
    sh_NK3: Array

    def __len__(self) -> int:
        return len(self.means_N3)

    @property
    def rgb_N3(self) -> Array:
        """View-independent colour, 0…1."""
        return np.clip(0.5 + SH_C0 * self.sh_NK3[:, 0], 0, 1)

    @classmethod
    def from_rgb(cls, means: Array, scales: Array, quats: Array, opacities: Array, rgb: Array) -> Self:
        f = np.float32
        sh = ((np.asarray(rgb, f) - 0.5) / SH_C0)[:, None]
        return cls(*(np.ascontiguousarray(a, f) for a in (means, scales, quats, opacities, sh)))

    @classmethod
    def concatenate(cls, clouds: Sequence[GaussianCloud]) -> Self:
        """One cloud of several with equal SH degree."""
        names = ("means_N3", "scales_N3", "quats_N4", "opacities_N", "sh_NK3")
        require(len(clouds) > 0, "GaussianCloud.concatenate", "no cloud given")
        return cls(*(np.concatenate([getattr(c, n) for c in clouds]) for n in names))

    def validate(self, where: str = "GaussianCloud") -> Self:
        n = len(self)
        shapes = {"means_N3": (n, 3), "scales_N3": (n, 3), "quats_N4": (n, 4), "opacities_N": (n,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            require(value.shape == shape, f"{where}.{name}", f"shape {value.shape}, expected {shape}")
            require(bool(np.isfinite(value).all()), f"{where}.{name}", "holds NaN or infinity")
        k = self.sh_NK3.shape[1] if self.sh_NK3.ndim == 3 else 0
        require(
            k in (1, 4, 9, 16) and self.sh_NK3.shape == (n, k, 3),
            f"{where}.sh_NK3",
            f"shape {self.sh_NK3.shape}",
        )
        require(bool(np.isfinite(self.sh_NK3).all()), f"{where}.sh_NK3", "holds NaN or infinity")
        require(bool((self.scales_N3 > 0).all()), f"{where}.scales_N3", "must be positive")
        require(
            bool(((self.opacities_N > 0) & (self.opacities_N <= 1)).all()),
            f"{where}.opacities_N",
            "must be in (0, 1]",
        )
        require(
            np.allclose(np.linalg.norm(self.quats_N4, axis=1), 1, atol=1e-3),
            f"{where}.quats_N4",
            "must be unit",
        )
        return self

    @classmethod
    def fake(cls, n: int = 64, seed: int = 0) -> Self:
        rng = np.random.default_rng(seed)
        quats = rng.normal(size=(n, 4))
        quats /= np.linalg.norm(quats, axis=1, keepdims=True)
        means = rng.uniform((4, -4, 0), (20, 4, 3), (n, 3))
        return cls.from_rgb(
            means, rng.uniform(0.05, 0.5, (n, 3)), quats, rng.uniform(0.3, 0.99, n), rng.uniform(0, 1, (n, 3))
        )
