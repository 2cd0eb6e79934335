"""Stage 2, open-loop alignment (paper section 3.4): supervise only where decision and plan disagree.

    τ ~ π_θ(o, d)          two-step DDIM rollout, d the VLM's own decision
    C(τ, d) = 1[f_K(τ) = d]
    L = (1 − C)(L_E2E + γ L_VLM)

The VLM learns by LoRA, everything else fully. Consistency is judged anew at every step with the current weights.
The sum is divided by the whole batch, as the equation reads: fewer inconsistent samples, smaller steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.stage1 import FULLY_TRAINED, SampleStage, Store, careful_weights, consistency_of, vlm_of
from senna2.train.staleness import EarlierFrames
from senna2.types import Samples


@dataclass(frozen=True)
class Stage2:
    """γ as in the paper. `vlm_lr_scale`: at lr 1e-5 a LoRA that starts at zero moves nothing in a short run [ours].
    `stale_max_s`: as in stage 1c, but off: d is the VLM's decision on the same frame, as the paper has it; an old one
    that the road has overtaken would count as inconsistent."""

    optim: Optim
    gamma: float = 1.0
    draws: int = 4
    careful: float = 2.0
    vlm_lr_scale: float = 10.0
    lora_rank: int = 8
    lora_alpha: int = 16
    stale_max_s: float = 0.0
    least_consistent: float = 0.02  # below this share at the end something is broken: the stage stops and says so


class OpenLoopAlignment(SampleStage):
    def __init__(self, policy: DualSystem, store: Store, config: Stage2, seed: int) -> None:
        super().__init__("2", policy, store, seed, FULLY_TRAINED, lora=True)
        self.config = config
        self.pool_N = np.flatnonzero(~store.states.counterfactual_N)
        self.weights_N = careful_weights(store.states.take(self.pool_N), config.careful)
        self.earlier = EarlierFrames(store.states, config.stale_max_s)

    def loss(self, data: Samples, step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        if len(data) == 0:
            return None, dict.fromkeys(("consistent", "planning", "vlm", "decision_entropy", "skipped_right"), 0.0)
        tensors = Batch.from_samples(data, self.device)
        vlm = vlm_of(self.policy)
        said = self.policy.ask(self.seen_by_the_vlm(data, self.earlier, step)[0])
        with torch.no_grad():
            tokens = self.policy.encode(tensors)
            f_vlm = self.policy.condition(said.hidden_BD, said.speed_B, said.direction_B)
            noise = self.policy.sample_noise(tensors.index_B, self.seed, step)
            tau_BT2 = self.policy.sample_plan(tokens, f_vlm, tensors, noise=noise, steps=2)
        agree_B = consistency_of(tau_BT2, said.speed_B, said.direction_B)
        right_B = torch.as_tensor(said.speed_B.cpu().numpy() == data.speed_N).to(agree_B.device)
        probs = said.speed_logp_B4.exp()
        values = {
            "consistent": float(agree_B.sum()) / batch,
            "skipped_right": float((agree_B & right_B).sum()) / batch,
            "decision_entropy": float(-(probs * said.speed_logp_B4).sum()) / batch,
            "planning": 0.0,
            "vlm": 0.0,
        }
        rows = np.flatnonzero(~agree_B.cpu().numpy())
        if len(rows) == 0:
            return None, values  # no gradient at all from consistent samples
        part = data.take(rows)
        tensors = Batch.from_samples(part, self.device)
        tokens = self.policy.encode(tensors)
        pick = torch.as_tensor(rows, device=said.speed_B.device)
        f_vlm = self.policy.condition(said.hidden_BD[pick].detach(), said.speed_B[pick], said.direction_B[pick])
        planning_b = self.policy.planning_loss(
            tokens, f_vlm, tensors, seed=self.seed, step=step, draws=self.config.draws
        )
        vlm_b = vlm.answer_nll(part, part.speed_N, part.direction_N)
        values["planning"] = float(planning_b.detach().sum()) / batch
        values["vlm"] = float(vlm_b.detach().sum()) / batch
        return (planning_b.sum() + self.config.gamma * vlm_b.sum()) / batch, values


def run_2(
    policy: DualSystem,
    store: Store,
    config: Stage2,
    out: Path,
    *,
    seed: int,
    ranks: Ranks,
    resume: bool,
    **more: Any,
) -> list[dict[str, float]]:
    """Align open loop. Adds LoRA to the VLM; the caller merges it when saving. Returns the log.

    Raises `TrainingError` if at the end almost no plan agrees with its decision (`least_consistent`).
    """
    torch.manual_seed(seed)  # LoRA's A matrices start at random
    vlm_of(policy).add_lora(config.lora_rank, config.lora_alpha)
    stage = OpenLoopAlignment(policy, store, config, seed)
    log = train(stage, config.optim, out, ranks=ranks, resume=resume,
                lr_scale=lambda name: config.vlm_lr_scale if name.startswith("vlm.") else 1.0, **more)  # fmt: skip
    if log and log[-1]["consistent"] < config.least_consistent:
        raise TrainingError(
            f"stage 2: only {log[-1]['consistent']:.1%} of the plans agree with their decision; "
            "the plans are noise or the VLM collapsed - look at stage 1's log"
        )
    return log
