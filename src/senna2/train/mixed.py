"""Stage 3's low level with demonstrations among its frames (`Stage3.imitation`): what imitation had taught is held by
imitation, beside the anchor or in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.train.frames import RolloutFrames
from senna2.train.levels import Heard, LowLevel, Stage3
from senna2.train.loop import Loss
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import Store, unspoken
from senna2.types import Array, Samples


class LowLevelMixed(LowLevel):
    """L_low + λ_i L_E2E. Demonstrations are told the expert's decision, without the VLM's features, as a quarter of
    the samples of 1c are. Indices from `len(frames.samples)` on are of the store."""

    name = "3-low-mixed"
    terms = (*LowLevel.terms, "imitation")

    def __init__(
        self, policy: DualSystem, anchor: DualSystem, frames: RolloutFrames, config: Stage3, seed: int,
        heard: Heard | None, store: Store,
    ) -> None:  # fmt: skip
        super().__init__(policy, anchor, frames, config, seed, heard)
        self.store = store
        self.pool_N = np.flatnonzero(
            unspoken(store.states) & (store.states.speed_N >= 0) & (store.states.direction_N >= 0)
        )

    def draw(self, step: int, batch: int) -> Array:
        shown = self.pool_N[draw_indices(len(self.pool_N), batch, step, self.seed + 2)]
        # They alternate: of two ranks each gets one kind, and gradients add up to the same
        return np.stack([super().draw(step, batch), len(self.frames.samples) + shown], 1).reshape(-1)

    def load(self, index: Array) -> Any:
        n = len(self.frames.samples)
        return super().load(index[index < n]), self.store.take(index[index >= n] - n)

    def loss(self, data: Any, step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        driven, shown = data
        found, values = super().loss(driven, step, batch)
        term = self._imitation(shown, step, batch)
        every = {**(found if isinstance(found, dict) else {}), **({} if term is None else {"imitation": term})}
        return every or None, {**values, "imitation": 0.0 if term is None else float(term.detach())}

    def _imitation(self, shown: Samples, step: int, batch: int) -> torch.Tensor | None:
        if len(shown) == 0:
            return None
        tensors = Batch.from_samples(shown, self.device)
        tokens = self.policy.encode(tensors)
        f_vlm = self.policy.condition(None, tensors.speed_B, tensors.direction_B)
        loss_B = self.policy.planning_loss(tokens, f_vlm, tensors, seed=self.seed, step=step)
        return self.config.imitation * loss_B.sum() / batch
