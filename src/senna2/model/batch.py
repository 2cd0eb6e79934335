"""Tensors of a batch of samples.

Legend: B batch, A agents, L polylines, P points of one, R route points, S kerb segments, T plan steps (agents
have one more, now), K image history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from senna2.types import Samples


@dataclass(frozen=True, eq=False)
class Batch:
    """What the end-to-end policy reads and is trained on. SI units, ego frame of each sample's own instant.

    Padded rows are NaN with class or kind -1; categories are int64, -1 unknown. `images[name]` (B, K, H, W, 3) uint8.
    `index_B` stays on the CPU: noise is keyed by it there, so every device draws the same.
    """

    motion_B4: Tensor
    navigation_B: Tensor
    speed_limit_B: Tensor
    images: Mapping[str, Tensor]
    boxes_BA6: Tensor
    classes_BA: Tensor
    lanes_BLP2: Tensor
    lane_kinds_BL: Tensor
    route_BR2: Tensor
    future_BT2: Tensor
    speed_B: Tensor
    direction_B: Tensor
    counterfactual_B: Tensor
    agent_futures_BAT3: Tensor
    kerbs_BS4: Tensor
    index_B: Tensor

    def __len__(self) -> int:
        return len(self.motion_B4)

    @property
    def has_future_B(self) -> Tensor:
        """True where the whole expert future is known; only those samples may be supervised."""
        return torch.isfinite(self.future_BT2).all(-1).all(-1)

    @classmethod
    def from_samples(cls, samples: Samples, device: str | torch.device = "cpu") -> Self:
        """Numbers are copied into torch's own memory, images are not.

        numpy's arrays lie at any 16 bytes, torch's at 64, and MKL's sums differ in the last bit with the alignment:
        without the copy the same weights and the same sample would not always give the same plan.
        """

        def real(x: np.ndarray) -> Tensor:
            return torch.tensor(np.ascontiguousarray(x, np.float32), device=device)

        def category(x: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(x, np.int64)).to(device)

        return cls(
            motion_B4=real(samples.motion_N4),
            navigation_B=category(samples.navigation_N),
            speed_limit_B=real(samples.speed_limit_N),
            images={k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in samples.images.items()},
            boxes_BA6=real(samples.boxes_NA6),
            classes_BA=category(samples.classes_NA),
            lanes_BLP2=real(samples.lanes_NLP2),
            lane_kinds_BL=category(samples.lane_kinds_NL),
            route_BR2=real(samples.route_NR2),
            future_BT2=real(samples.future_NT3[..., :2]),
            speed_B=category(samples.speed_N),
            direction_B=category(samples.direction_N),
            counterfactual_B=torch.from_numpy(np.asarray(samples.counterfactual_N, bool)).to(device),
            agent_futures_BAT3=real(samples.agent_futures_NAT3),
            kerbs_BS4=real(samples.kerbs_NS4),
            index_B=torch.from_numpy(np.asarray(samples.index_N, np.int64)),
        )

    def take(self, rows: Tensor) -> Self:
        """The samples at `rows` (indices or a mask, on the CPU)."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            values[f.name] = {k: v[rows] for k, v in value.items()} if f.name == "images" else value[rows]
        return type(self)(**values)
