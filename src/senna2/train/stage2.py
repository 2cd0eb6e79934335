"""Stage 2, open-loop alignment (paper section 3.4): supervise only where decision and plan disagree.

    τ ~ π_θ(o, d)          two-step DDIM rollout, d the VLM's own decision
    C(τ, d) = 1[f_K(τ) = d]
    L = (1 − C)(L_E2E + γ L_VLM)

Beside it [ours], weighted by `shortfall_weight`: how far τ is from being what d says, where d is right.

The VLM learns by LoRA, everything else fully. Consistency is judged anew at every step with the current weights.
The sum is divided by the whole batch, as the equation reads: fewer inconsistent samples, smaller steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from senna2.decisions import f_k_plan
from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.model.vlm.output import VLMOutput
from senna2.train.diagnostics import COUNTED, SPEED_CLASSES, agreement_counts, shares, with_f1
from senna2.train.distributed import Ranks
from senna2.train.guards import AlignmentGuards, at_least, not_one_class
from senna2.train.loop import Loss, Optim, train
from senna2.train.losses import decision_shortfall
from senna2.train.stage1 import FULLY_TRAINED, SampleStage, Store, careful_weights, consistency_of, vlm_of
from senna2.train.staleness import EarlierFrames
from senna2.types import Array, InputError, Samples


@dataclass(frozen=True)
class Stage2:
    """γ as in the paper. `vlm_lr_scale`: a LoRA that starts at zero has to move in a short run [ours]. `careful`: as in
    stage 1; above 1 the VLM learns to brake more often than it should. `stale_max_s`: as in stage 1c, but off: d is the
    VLM's decision on the same frame, as the paper has it; an old one that the road has overtaken would count as
    inconsistent. `told`: which decision the planner is given with the expert's trajectory: the VLM's "own", or the
    "label" [ours]: where the VLM was wrong the two do not belong together, and a planner that is shown them learns to
    ignore decisions (docs/decisions/stage-2-label.md). `forced_share` of the samples drawn [ours] are counterfactual
    ones: d is what the expert was forced to do, on which the VLM learns nothing; where its own decision is the same its
    hidden state goes with it, so that the planner learns to follow decisions that the road would not suggest.
    `shortfall_weight` [ours]: of `decision_shortfall`, which moves an inconsistent plan until it is what d says, the
    expert's trajectory alone not saying where the border is; on samples where d is the expert's label, or on "all"
    (docs/decisions/stage-2-shortfall.md)."""

    optim: Optim
    gamma: float = 1.0
    draws: int = 4
    careful: float = 1.0
    vlm_lr_scale: float = 2.0
    lora_rank: int = 8
    lora_alpha: int = 16
    stale_max_s: float = 0.0
    forced_share: float = 0.0
    shortfall_weight: float = 0.1
    shortfall_on: Literal["right", "all"] = "right"
    told: Literal["own", "label"] = "label"
    lane_change_by_speed: bool = True  # False: CHANGE LANE folded to a side in C; then it never agrees
    guards: AlignmentGuards = field(default_factory=AlignmentGuards)
    faithful: bool = False  # the paper's letter: one draw, samples as recorded, one lr, lane changes folded

    def effective(self) -> Stage2:
        literal = replace(self, draws=1, careful=1.0, vlm_lr_scale=1.0, stale_max_s=0.0, told="own", forced_share=0.0,
                          shortfall_weight=0.0, lane_change_by_speed=False)  # fmt: skip
        return literal if self.faithful else self


JUDGED = ("consistent", "coverage", "decision_entropy")  # of the samples that nobody forced
TALLY = ("own", "known", "right", "skipped", "skipped_right")  # samples, of which `derive` makes shares
SUMS = (*TALLY, *JUDGED, "planning", "vlm", "shortfall")
EXPERT = tuple(f"expert/{c}" for c in SPEED_CLASSES)
SAID = tuple(f"says/{c}" for c in SPEED_CLASSES)
TINY = 1e-9  # a window may hold counterfactual samples alone
NAMES = (*SUMS, *EXPERT, *SAID, *COUNTED)


class OpenLoopAlignment(SampleStage):
    terms = ("planning", "vlm", "shortfall")

    def __init__(self, policy: DualSystem, store: Store, config: Stage2, seed: int) -> None:
        super().__init__("2", policy, store, seed, FULLY_TRAINED, lora=True)
        self.config = config = config.effective()
        if not 0 <= config.forced_share < 1:
            raise InputError(f"stage2.forced_share: {config.forced_share} must lie in [0, 1)")
        forced_N = store.states.counterfactual_N
        self.pool_N = np.flatnonzero(~forced_N)
        self.weights_N = careful_weights(store.states.take(self.pool_N), config.careful)
        if config.forced_share > 0 and forced_N.any():
            plain = np.ones(len(self.pool_N)) if self.weights_N is None else self.weights_N
            shares = (1 - config.forced_share) * plain / plain.sum(), config.forced_share / forced_N.sum()
            self.pool_N = np.concatenate([self.pool_N, np.flatnonzero(forced_N)])
            self.weights_N = np.concatenate([shares[0], np.full(int(forced_N.sum()), shares[1])])
        self.earlier = EarlierFrames(store.states, config.stale_max_s)

    def loss(self, data: Samples, step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        if len(data) == 0:
            return None, dict.fromkeys(NAMES, 0.0)
        tensors = Batch.from_samples(data, self.device)
        vlm = vlm_of(self.policy)
        seen = self.seen_by_the_vlm(data, self.earlier, step)[0]
        said = self.policy.ask(seen)
        given = self._decided(data, said, data.counterfactual_N)
        with torch.no_grad():
            tokens = self.policy.encode(tensors)
            f_vlm = self.policy.condition(said.hidden_BD, *given)
            noise = self.policy.sample_noise(tensors.index_B, self.seed, step)
            tau_BT2 = self.policy.sample_plan(tokens, f_vlm, tensors, noise=noise, steps=2)
        agree_B = consistency_of(tau_BT2, *given[:2], lane_change_by_speed=self.config.lane_change_by_speed)
        own = np.flatnonzero(~data.counterfactual_N)
        values = self._values(data.speed_N[own], said.take(own), tau_BT2[own], agree_B[own], batch)
        rows = np.flatnonzero(~agree_B.cpu().numpy())
        if len(rows) == 0:
            return None, values  # no gradient at all from consistent samples
        part = data.take(rows)
        tensors = Batch.from_samples(part, self.device)
        tokens = self.policy.encode(tensors)
        said = said.take(rows)
        # Unless it is cut, the planner's loss reaches the VLM's LoRA by the hidden state.
        hidden_bD = said.hidden_BD if self.policy.config.detach_vlm else vlm.prompt_hidden(seen.take(rows))
        told = self._decided(part, said, part.counterfactual_N | (self.config.told == "label"))
        f_vlm = self.policy.condition(hidden_bD, *told)
        planning_b = self.policy.planning_loss(
            tokens, f_vlm, tensors, seed=self.seed, step=step, draws=self.config.draws
        )
        terms = {"planning": planning_b}
        if self.config.shortfall_weight > 0:
            speed_b, *more = (x[rows] for x in given)  # d, as C was judged with
            f_vlm = self.policy.condition(hidden_bD, speed_b, *more)
            tau_bT2 = self.policy.sample_plan(tokens, f_vlm, tensors, noise=noise[rows], steps=2)
            label_b = torch.as_tensor(part.speed_N.astype(np.int64), device=speed_b.device)
            aim_b = speed_b if self.config.shortfall_on == "all" else torch.where(label_b == speed_b, speed_b, -1)
            terms["shortfall"] = self.config.shortfall_weight * decision_shortfall(tau_bT2, aim_b)
        learns = np.flatnonzero(~part.counterfactual_N)
        if len(learns) > 0:
            plain = part.take(learns)
            terms["vlm"] = self.config.gamma * vlm.answer_nll(plain, plain.speed_N, plain.direction_N)
        loss = {name: value_b.sum() / batch for name, value_b in terms.items()}
        return loss, values | {name: float(value.detach()) for name, value in loss.items()}

    @staticmethod
    def _decided(data: Samples, said: VLMOutput, by_label_B: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Speed and direction (B,) of each sample, the expert's label (for a counterfactual one what was forced) where
        `by_label_B` and none of it is UNKNOWN, else the VLM's; and whether they are the VLM's own, so that its hidden
        state goes with them."""
        known = by_label_B & (data.speed_N >= 0) & (data.direction_N >= 0)
        where = said.speed_B.device
        speed_B, direction_B = (
            torch.where(
                torch.as_tensor(known, device=where), torch.as_tensor(label.astype(np.int64), device=where), own
            )
            for label, own in ((data.speed_N, said.speed_B), (data.direction_N, said.direction_B))
        )
        return speed_B, direction_B, (speed_B == said.speed_B) & (direction_B == said.direction_B)

    def _values(
        self, label_B: Array, said: VLMOutput, tau_BT2: torch.Tensor, agree_B: torch.Tensor, batch: int
    ) -> dict[str, float]:
        """Sums over the samples, over the global batch: agreement, and what the VLM says against the expert."""
        plan_speed_B, plan_path_B = f_k_plan(tau_BT2)
        agree = agree_B.cpu().numpy()
        known = label_B >= 0
        right = known & (said.speed_B.cpu().numpy() == label_B)
        sums = {
            "own": len(label_B),
            "known": known.sum(),
            "right": right.sum(),
            "skipped": (agree & known).sum(),
            "skipped_right": (agree & right).sum(),
            "consistent": agree.sum(),
            "coverage": (plan_speed_B >= 0).sum(),
            "decision_entropy": said.speed_entropy_B.sum(),
            **agreement_counts(said.speed_B, said.direction_B, plan_speed_B, plan_path_B),
        }
        n = len(label_B)
        sums |= {f"expert/{c}": n * v for c, v in shares(label_B).items()}
        sums |= {f"says/{c}": n * v for c, v in shares(said.speed_B).items()}
        return dict.fromkeys(NAMES, 0.0) | {name: float(value) / batch for name, value in sums.items()}

    def derive(self, row: dict[str, float]) -> dict[str, float]:
        """Shares of the samples whose decision is the VLM's own, its accuracy on those whose label is known;
        `skipped_accuracy`: how often it is right where nothing is learned, a wrong decision agreed upon being the blind
        spot of the method; F1 per class. Names with an underscore."""
        own, known, right, skipped, skipped_right = (row.pop(name) for name in TALLY)
        row |= {name: row[name] / max(own, TINY) for name in (*JUDGED, *EXPERT, *SAID)}
        row |= {"accuracy": right / max(known, TINY)}
        row |= {"skipped_accuracy": skipped_right / skipped} if skipped > 0 else {}
        return with_f1({name.replace("says/", "says_").replace("expert/", "expert_"): v for name, v in row.items()})

    def guard(self, row: dict[str, float], step: int) -> None:
        """Against a VLM that says one thing, and plans that agree with nothing."""
        limits, steps = self.config.guards, self.config.optim.steps
        if step + 1 >= min(limits.after, steps):
            at_least(
                limits.least_consistent, row["consistent"], "plans agree with nothing",
                "the share of plans that agree with their decision",
                "the plans are noise or the VLM collapsed: look at stage 1's log, train it longer",
            )  # fmt: skip
        if step + 1 >= limits.after:
            said, right = ({c: row[f"{what}_{c}"] for c in SPEED_CLASSES} for what in ("says", "expert"))
            not_one_class(limits.most_one_class, said, right, "take a smaller lr or vlm_lr_scale, or a larger gamma")


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
    """Align open loop. Adds LoRA to the VLM, which starts alike for every seed; the caller merges it when saving.
    Returns the log.

    Raises `GuardTripped` as `OpenLoopAlignment.guard` says.
    """
    vlm_of(policy).add_lora(config.lora_rank, config.lora_alpha)
    stage = OpenLoopAlignment(policy, store, config, seed)
    scale = stage.config.vlm_lr_scale
    return train(stage, config.optim, out, ranks=ranks, resume=resume,
                 lr_scale=lambda name: scale if name.startswith("vlm.") else 1.0, **more)  # fmt: skip
