"""The coordinates in which a residual plan is diffused.

Legend: N samples, B batch, T plan steps, K coefficients per axis, 2 the axes x and y.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from senna2.types import Array, InputError

KINDS = ("modes", "points")
FLOOR_M = 1e-3  # RMS below which a direction counts as absent from the data


def _white_jerk(steps: int) -> Array:
    """Covariance (T, T), mean variance 1, of a path whose jerk is white noise: a smooth unknown residual.

    Added at 1 mm RMS it fills directions the training data never show (no curve at all in a tiny set) with smooth
    shapes instead of arbitrary ones."""
    path = np.linalg.matrix_power(np.tril(np.ones((steps, steps))), 3)
    cov = path @ path.T
    return cov / (np.trace(cov) / steps)


class PlanBasis(nn.Module):
    """Linear map between residual plans (…, T, 2) in metres and coefficients (…, K, 2) of about unit size.

    `modes` [ours, spec section 8]: K whitened principal modes per axis, fitted on training residuals. Their second
    moment is taken about 0, not about the mean, so that coefficients 0 are exactly the inertial reference and the map
    stays linear. `points` (faithful): the T points themselves over one standard deviation per axis.
    `decode` is differentiable: L_low acts on metres and passes through.
    """

    shapes_2KT: Tensor
    scale_2K: Tensor

    def __init__(self, kind: str, shapes_2KT: Array, scale_2K: Array, *, dt: float, samples: int) -> None:
        """shapes: orthonormal rows per axis; scale: m per unit of each coefficient."""
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"basis.kind: '{kind}' is unknown; use one of {KINDS}")
        # C order: sums over other strides round differently, and a loaded basis must give the same plans to the bit.
        shapes, scale = np.array(shapes_2KT, np.float64, order="C"), np.array(scale_2K, np.float64, order="C")
        if shapes.ndim != 3 or len(shapes) != 2 or scale.shape != shapes.shape[:2]:
            raise InputError(f"basis: shapes {shapes.shape} and scale {scale.shape} do not fit (2, K, T) and (2, K)")
        if not (np.isfinite(shapes).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise InputError("basis: shapes must be finite and scales positive")
        self.kind, self.dt, self.samples = kind, float(dt), int(samples)
        self.register_buffer("shapes_2KT", torch.tensor(shapes, dtype=torch.float32), persistent=False)
        self.register_buffer("scale_2K", torch.tensor(scale, dtype=torch.float32), persistent=False)

    @property
    def coefficients(self) -> int:
        return self.shapes_2KT.shape[1]

    @property
    def steps(self) -> int:
        return self.shapes_2KT.shape[2]

    @classmethod
    def fit(cls, residual_NT2: Array, *, kind: str = "modes", modes: int = 6, dt: float = 0.1) -> Self:
        """Fit on training residuals (N, T, 2) in metres: expert minus inertial reference.

        Raises `InputError` for NaN, a wrong shape or fewer than 2·modes samples.
        """
        x = np.asarray(residual_NT2, np.float64)
        if x.ndim != 3 or x.shape[-1] != 2:
            raise InputError(f"basis.fit: residuals have shape {x.shape}, expected (N, T, 2)")
        bad = int((~np.isfinite(x).all((1, 2))).sum())
        if bad:
            raise InputError(
                f"basis.fit: {bad} of {len(x)} residuals hold NaN; leave out samples without a whole future"
            )
        n, steps = x.shape[:2]
        if kind == "modes" and not 0 < modes <= steps:
            raise InputError(f"basis.fit: {modes} modes of {steps} steps; use 1 … {steps}")
        if n < 2 * modes:
            raise InputError(f"basis.fit: {n} samples are too few for {modes} modes; give at least {2 * modes}")
        if kind == "points":
            scale = np.maximum(np.sqrt((x**2).mean((0, 1))), FLOOR_M)
            return cls(kind, np.stack([np.eye(steps)] * 2), np.repeat(scale[:, None], steps, 1), dt=dt, samples=n)
        shapes, scales = [], []
        for axis in range(2):
            moment = x[..., axis].T @ x[..., axis] / n + FLOOR_M**2 * _white_jerk(steps)
            value, vector = np.linalg.eigh(moment)
            rows = vector[:, ::-1][:, :modes].T
            rows *= np.where(rows.sum(1) < 0, -1, 1)[:, None]  # eigenvectors have no sign: fix it
            shapes.append(rows)
            # Never stretch less than 1 mm a point to unit size: that would be the rounding of float32.
            scales.append(np.sqrt(np.maximum(value[::-1][:modes], FLOOR_M**2 * steps)))
        return cls(kind, np.stack(shapes), np.stack(scales), dt=dt, samples=n)

    def encode(self, residual_T2: Tensor) -> Tensor:
        """(…, T, 2) m → (…, K, 2); what the modes do not span is dropped."""
        return torch.einsum("...ta,akt->...ka", residual_T2, self.shapes_2KT / self.scale_2K[..., None])

    def decode(self, z_K2: Tensor) -> Tensor:
        """(…, K, 2) → (…, T, 2) m."""
        return torch.einsum("...ka,akt->...ta", z_K2, self.shapes_2KT * self.scale_2K[..., None])

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for `normalisation.json`."""
        return {
            "schema": "senna2.normalisation/1",
            "kind": self.kind,
            "dt": self.dt,
            "samples": self.samples,
            "scale_m": self.scale_2K.cpu().tolist(),
            "shapes": self.shapes_2KT.cpu().tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "normalisation.json") -> Self:
        """Raises `InputError` naming `where` and the field."""
        if not isinstance(data, Mapping) or data.get("schema") != "senna2.normalisation/1":
            raise InputError(f"{where}: schema is not 'senna2.normalisation/1'; save the checkpoint again")
        for name in ("kind", "dt", "samples", "scale_m", "shapes"):
            if name not in data:
                raise InputError(f"{where}: field '{name}' is missing; save the checkpoint again")
        try:
            shapes, scale = np.array(data["shapes"], np.float64), np.array(data["scale_m"], np.float64)
            return cls(data["kind"], shapes, scale, dt=float(data["dt"]), samples=int(data["samples"]))
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {error}; save the checkpoint again") from error
