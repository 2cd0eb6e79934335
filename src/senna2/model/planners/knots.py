"""Plans as six points half a second apart, the form in which most published planners state them.

Legend: B batch, K knots, T plan steps; `…` any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from senna2.frames import resample_plan
from senna2.model.batch import Batch
from senna2.model.layers import Attention, sines
from senna2.model.planners.base import Planner
from senna2.types import Array, InputError, Samples

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig

KNOT_S = 0.5
SCHEMA = "senna2.fitted/1"
LEAST_SAMPLES = 8


def spline(knots: int, dt: float, steps: int) -> tuple[Array, Array]:
    """(T, K) and (T,): `frames.resample_plan` is linear in the knots and, along x, in the speed:
    points = A·knots + b·v.

    A plan at 10 Hz is what drives and what f_K judges; linear interpolation would make ACCELERATE unreachable."""
    unit = np.eye(knots)
    columns = [resample_plan(np.stack([e, 0 * e], -1), KNOT_S, dt, 0.0)[:steps, 0] for e in unit]
    start = resample_plan(np.zeros((knots, 2)), KNOT_S, dt, 1.0)[:steps, 0]
    return np.stack(columns, 1), start


class KnotPlanner(Planner):
    """Base of planners that state knots. Fitted: mean and spread of the expert's knots (and what `more` adds), so that
    an untrained one drives the mean plan and its outputs are of unit size [ours]."""

    mean_K2: Tensor
    std_K2: Tensor
    matrix_TK: Tensor
    start_T: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        per_knot = round(KNOT_S / config.plan_dt)
        self.knots = config.plan_steps // per_knot
        self.at_K = [per_knot * (i + 1) - 1 for i in range(self.knots)]  # indices into the plan
        matrix, start = spline(self.knots, config.plan_dt, config.plan_steps)
        self.register_buffer("matrix_TK", torch.tensor(matrix, dtype=torch.float32), persistent=False)
        self.register_buffer("start_T", torch.tensor(start, dtype=torch.float32), persistent=False)
        for name in ("mean_K2", "std_K2"):
            self.register_buffer(name, torch.zeros(self.knots, 2), persistent=False)
        self._fitted: dict[str, Array] = {}

    # ------------------------------------------------------------------------------------------- what is fitted

    def fit(self, samples: Samples) -> None:
        knots = samples.future_NT3[:, self.at_K, :2].astype(np.float64)
        whole = np.isfinite(samples.future_NT3[..., :2]).all((1, 2)) & ~samples.counterfactual_N.astype(bool)
        if whole.sum() < LEAST_SAMPLES:
            raise InputError(f"fit: {int(whole.sum())} samples with a whole future; give at least {LEAST_SAMPLES}")
        knots, v = knots[whole], samples.motion_N4[whole, 0].astype(np.float64)
        found = {"mean_K2": knots.mean(0), "std_K2": np.maximum(knots.std(0), 0.05)}
        self._adopt(found | self.more(knots, v), "fit")

    def more(self, knots_NK2: Array, v_N: Array) -> dict[str, Array]:
        """What else this planner fits, from the expert's knots and the speeds."""
        return {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of everything that is fitted."""
        return {"mean_K2": (self.knots, 2), "std_K2": (self.knots, 2)}

    @property
    def is_fitted(self) -> bool:
        return bool(self._fitted)

    def fitted(self) -> dict[str, Any] | None:
        if not self.is_fitted:
            return None
        arrays = {name: value.tolist() for name, value in self._fitted.items()}
        return {"schema": SCHEMA, "planner": self.config.planner, "knot_s": KNOT_S, "arrays": arrays}

    def restore(self, data: Mapping[str, Any], where: str = "normalisation.json") -> None:
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise InputError(f"{where}: schema is not '{SCHEMA}'; is this a checkpoint of '{self.config.planner}'?")
        for name, mine in (("planner", self.config.planner), ("knot_s", KNOT_S)):
            if data.get(name) != mine:
                raise InputError(f"{where}: field {name} is {data.get(name)!r}, this policy's is {mine!r}; fit again")
        try:
            arrays = {name: np.array(value, np.float64) for name, value in data["arrays"].items()}
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{where}: field arrays: {error!r}; save the checkpoint again") from error
        self._adopt(arrays, where)

    def _adopt(self, arrays: Mapping[str, Array], where: str) -> None:
        wanted = self.shapes()
        got = {name: np.shape(value) for name, value in arrays.items()}
        if got != wanted:
            odd = sorted(n for n in got.keys() | wanted.keys() if got.get(n) != wanted.get(n))
            raise InputError(
                f"{where}: '{odd[0]}' has shape {got.get(odd[0])}, the policy's configuration wants "
                f"{wanted.get(odd[0])}; fit it with the policy's own configuration"
            )
        if not all(np.isfinite(value).all() for value in arrays.values()):
            raise InputError(f"{where}: holds NaN or infinity; fit again on samples with a whole future")
        self._fitted = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
        for name, value in self._fitted.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=self.device), persistent=False)

    # ---------------------------------------------------------------------------------------------- coordinates

    def expert(self, batch: Batch) -> Tensor:
        """(B, K, 2) the expert's knots in m; 0 where the future is not whole."""
        return torch.where(batch.has_future_B[:, None, None], batch.future_BT2[:, self.at_K], 0.0)

    def from_units(self, units_K2: Tensor) -> Tensor:
        """(…, K, 2) → knots in m."""
        return self.mean_K2 + self.std_K2 * units_K2

    def to_units(self, knots_K2: Tensor) -> Tensor:
        return (knots_K2 - self.mean_K2) / self.std_K2

    def to_plan(self, knots_BK2: Tensor, batch: Batch) -> Tensor:
        """(B, …, K, 2) → (B, …, T, 2): the spline that leaves the ego at its own speed."""
        plan = torch.einsum("tk,...ka->...ta", self.matrix_TK, knots_BK2)
        along = batch.motion_B4[:, :1] * self.start_T
        start = torch.stack([along, torch.zeros_like(along)], -1)
        return plan + start.view(len(start), *(1,) * (plan.ndim - 3), *start.shape[1:])


class StepPlanner(KnotPlanner):
    """Base of planners that state the steps from knot to knot. Fitted besides: the spread of each step."""

    step_std_K2: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.register_buffer("step_std_K2", torch.zeros(self.knots, 2), persistent=False)

    def more(self, knots_NK2: Array, v_N: Array) -> dict[str, Array]:
        steps = np.diff(knots_NK2, axis=1, prepend=np.zeros_like(knots_NK2[:, :1]))
        return {"step_std_K2": np.maximum(steps.std(0), 0.05)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super().shapes(), "step_std_K2": (self.knots, 2)}

    def _adopt(self, arrays: Mapping[str, Array], where: str) -> None:
        if "step_std_K2" not in arrays and np.ndim(arrays.get("std_K2", 0.0)) == 2:
            # In checkpoints that do not know it every step had the spread of the first knot.
            arrays = {**arrays, "step_std_K2": np.repeat(arrays["std_K2"][:1], len(arrays["std_K2"]), 0)}
        super()._adopt(arrays, where)

    def from_steps(self, units_BK2: Tensor) -> Tensor:
        """Steps in units about those of the mean plan → knots in m."""
        mean = torch.diff(self.mean_K2, dim=0, prepend=torch.zeros_like(self.mean_K2[:1]))
        return (mean + self.step_std_K2 * units_BK2).cumsum(-2)


class Reader(nn.Module):
    """Cross-attention to some tokens and an MLP, both residual. A learned token is always there, so that "no agent" is
    something to read as well."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.nobody_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU("tanh"), nn.Linear(2 * dim, dim))

    def forward(self, x_BQC: Tensor, context_BSC: Tensor, valid_BS: Tensor | None) -> Tensor:
        nobody = self.nobody_C.expand(len(context_BSC), 1, -1)
        if valid_BS is not None:
            valid_BS = torch.cat([torch.ones_like(valid_BS[:, :1]), valid_BS], 1)
        x = x_BQC + self.attention(self.norms[0](x_BQC), torch.cat([nobody, context_BSC], 1), valid_BS)
        out: Tensor = x + self.mlp(self.norms[1](x))
        return out


def point_encoding(knots_K2: Tensor) -> Tensor:
    """(…, K, 2) m → (…, K·2·2·8): sine and cosine of every coordinate, wavelengths 1.6 to 200 m."""
    return sines(knots_K2.flatten(-2), 8, 200.0)
