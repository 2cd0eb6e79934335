"""Stage 1 (paper section 3.3): 1a the VLM learns to decide, 1b the planner learns to drive, 1c the adapter joins them.

    1a   L_VLM = −Σ_t log P(d_t | d_<t, Q)              all of the VLM
    1b   L_E2E = E ‖x₀ − x̂₀(r_t, t, c)‖  on the residual   backbone, perception, planner; no F_vlm
    1c   L_E2E with c = (scene tokens, F_vlm)            adapter from scratch, and the E2E policy; VLM frozen

Loss functions here return one value a sample, so that any batch, on any rank, adds up to the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from senna2.decisions import consistent, f_k_plan
from senna2.files import write_json
from senna2.model.batch import Batch
from senna2.model.diffusion import TOLD, keyed_uniform
from senna2.model.policy import DualSystem, SceneTokens
from senna2.model.vlm import DrivingVLM
from senna2.train.diagnostics import SPEED_CLASSES
from senna2.train.distributed import Ranks
from senna2.train.guards import VlmGuards, at_least, not_one_class
from senna2.train.health import vlm_health
from senna2.train.loop import Loss, Optim, TrainingError, train
from senna2.train.questions import draw_questions, question_nll
from senna2.train.sampling import draw_indices
from senna2.train.staleness import EarlierFrames
from senna2.types import Array, Direction, InputError, Samples, Speed

Log = list[dict[str, float]]
E2E = ("encoder.", "perception.", "planner.")  # prefixes of the E2E policy's parameters
FULLY_TRAINED = ("adapter.", *E2E)  # in stages 1c, 2 and 3


class Store(Protocol):
    """Where samples come from (`data.store.SampleStore`)."""

    states: Samples

    def __len__(self) -> int: ...

    def take(self, index: Array) -> Samples: ...


@dataclass(frozen=True)
class Stage1a:
    """Balanced sampling is ours: from scratch the rare classes are what makes a tiny VLM look at the image."""

    optim: Optim
    balance: float = 0.5  # 0: as recorded; 1: every speed class equally often [ours]
    qa_share: float = 0.0  # of the samples drawn, at most 0.2, are asked something else about the frame (data/qa.py)
    health_every: int = 500  # steps between two looks at the VLM's health; the last step always has one
    health_samples: int = 256
    guards: VlmGuards = field(default_factory=VlmGuards)
    faithful: bool = False  # the paper's letter: samples as recorded, the decision alone

    def effective(self) -> Stage1a:
        return replace(self, balance=0.0, qa_share=0.0) if self.faithful else self


@dataclass(frozen=True)
class Stage1b:
    optim: Optim
    perception_weight: float = 0.1  # [ours: the paper gives no perception loss]
    draws: int = 4  # noise draws an image: nearly free, four times the planner's signal [ours]
    careful: float = 2.0  # weight of DECELERATE, STOP and slow samples when drawing: the last metre [ours]
    faithful: bool = False  # the paper's letter: planning loss of one draw alone, samples as recorded

    def effective(self) -> Stage1b:
        return replace(self, perception_weight=0.0, draws=1, careful=1.0) if self.faithful else self


@dataclass(frozen=True)
class Stage1c:
    """Which decision the planner is told while it learns, by shares [ours]: the VLM's own, the expert's, none.
    Counterfactual samples always carry the decision that was forced. `stale_max_s` [ours]: the VLM's answer is of a
    random frame of the same drive, up to so old, as when driving with a period of 0.5 s; 0: always of the same frame.
    """

    optim: Optim
    perception_weight: float = 0.1
    draws: int = 4
    careful: float = 2.0
    freeze_backbone: bool = False
    own_share: float = 0.5
    expert_share: float = 0.25
    stale_max_s: float = 0.5
    faithful: bool = False  # the paper's letter: planning loss alone, always the VLM's own decision on the same frame

    def effective(self) -> Stage1c:
        literal = replace(self, perception_weight=0.0, draws=1, careful=1.0, freeze_backbone=False, own_share=1.0,
                          expert_share=0.0, stale_max_s=0.0)  # fmt: skip
        return literal if self.faithful else self


class PolicyStage:
    """What every stage has: a policy, of which some parameters train."""

    def __init__(self, policy: DualSystem, seed: int) -> None:
        self.policy, self.seed = policy, seed

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.policy.named_parameters() if p.requires_grad}


class SampleStage(PolicyStage):
    """What the loop needs of a stage that learns from stored samples. `learning`: prefixes of the parameters that
    train; `lora` adds the VLM's low-rank ones. All else is frozen."""

    def __init__(
        self,
        name: str,
        policy: DualSystem,
        store: Store,
        seed: int,
        learning: tuple[str, ...],
        *,
        lora: bool = False,
    ) -> None:
        super().__init__(policy, seed)
        self.name, self.store = name, store
        self.pool_N = np.arange(len(store))
        self.weights_N: Array | None = None
        freeze_except(policy, learning, lora=lora)

    def draw(self, step: int, batch: int) -> Array:
        return self.pool_N[draw_indices(len(self.pool_N), batch, step, self.seed, self.weights_N)]

    def load(self, index: Array) -> Samples:
        return self.store.take(index)

    def seen_by_the_vlm(self, data: Samples, earlier: EarlierFrames, step: int) -> tuple[Samples, Array]:
        """The samples whose features and decision these get, whole (never one of this tick and one of that), and
        their ages (B,) in s."""
        position_B, age_B = earlier.draw(data.index_N, self.seed, step)
        fresh = bool((position_B == data.index_N).all())
        return (data if fresh else self.store.take(position_B)), age_B


def freeze_except(policy: DualSystem, learning: tuple[str, ...], *, lora: bool = False) -> None:
    """Only parameters with these prefixes (and the VLM's LoRA ones, if asked) require a gradient."""
    for name, p in policy.named_parameters():
        p.requires_grad_(name.startswith(learning) or (lora and name.startswith("vlm.") and "lora_" in name))


class VlmStage(SampleStage):
    """1a. UNKNOWN speeds are no class: such samples are left out (EVALUATION.md)."""

    def __init__(self, policy: DualSystem, store: Store, config: Stage1a, seed: int) -> None:
        super().__init__("1a", policy, store, seed, ("vlm.",))
        config = config.effective()
        self.config = config
        speed = store.states.speed_N
        usable = (speed >= 0) & (store.states.direction_N >= 0) & ~store.states.counterfactual_N
        self.pool_N = np.flatnonzero(usable)
        if len(self.pool_N) == 0:
            raise TrainingError("stage 1a: no sample has a known decision")
        share = np.bincount(speed[self.pool_N], minlength=4) / len(self.pool_N)
        self.weights_N = (share[speed[self.pool_N]]) ** -config.balance
        self.qa_share = config.qa_share
        draw_questions(store.states.take(slice(0, 0)), config.qa_share, seed, 0)  # refuses a share that is too large
        rng = np.random.default_rng(seed)
        self.measured: tuple[str, ...] = ()
        self.probe_P = np.sort(rng.permutation(self.pool_N)[: config.health_samples])

    def loss(self, data: Samples, step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        if len(data) == 0:
            return None, {}
        vlm, asked = vlm_of(self.policy), draw_questions(data, self.qa_share, self.seed, step)
        decided = data.take(np.setdiff1d(np.arange(len(data)), asked.rows)) if asked.rows else data
        nll_B = [vlm.answer_nll(decided, decided.speed_N, decided.direction_N)] if len(decided) else []
        answers_Q = [question_nll(vlm, data, asked)] if asked.rows else []
        values = {"qa": sum(float(x.detach().sum()) for x in answers_Q) / batch, "qa_share": len(asked.rows) / batch}
        return torch.cat([*nll_B, *answers_Q]).sum() / batch, values if self.qa_share else {}

    def measure(self, step: int) -> dict[str, float]:
        """The VLM's health, now and then, and after the last step."""
        due = step + 1 == self.config.optim.steps or (step + 1) % self.config.health_every == 0
        found = vlm_health(vlm_of(self.policy), self.store.take(self.probe_P), self.seed) if due else {}
        self.measured = tuple(found) or self.measured
        return found

    def guard(self, row: dict[str, float], step: int) -> None:
        """Against a VLM that says one thing, and one that does not look. In the first half of the steps a sound one may
        still be on the plateau where the text alone is read."""
        limits = self.config.guards
        if "drop_when_shuffled" not in row or step + 1 < max(limits.after, self.config.optim.steps // 2):
            return
        said, right = ({c: row[f"{what}_{c}"] for c in SPEED_CLASSES} for what in ("says", "expert"))
        not_one_class(limits.most_one_class, said, right, "raise stage1a.balance, take a smaller lr or more clips")
        at_least(
            limits.least_drop, row["drop_when_shuffled"], "VLM ignores the image",
            "the drop of its accuracy when images are shuffled",
            "train longer or with a larger lr, raise stage1a.balance, or check that the images show anything",
        )  # fmt: skip


class PlannerStage(SampleStage):
    """1b."""

    def __init__(self, policy: DualSystem, store: Store, config: Stage1b, seed: int) -> None:
        super().__init__("1b", policy, store, seed, E2E)
        config = config.effective()
        self.config = config
        # Alone, the planner can know neither that the expert was forced nor what a passenger said.
        self.pool_N = natural(store.states)
        self.weights_N = careful_weights(store.states.take(self.pool_N), config.careful)

    def loss(self, data: Samples, step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        if len(data) == 0:
            return None, {}
        tensors = Batch.from_samples(data, self.device)
        tokens = self.policy.encode(tensors, augment=(self.seed, step))
        # No F_vlm at all: its projection in the planner stays zero, so that the adapter of 1c begins as a no-op.
        return e2e_loss(self.policy, tokens, None, tensors, self.config, self.seed, step, batch)


class AdapterStage(SampleStage):
    """1c."""

    def __init__(self, policy: DualSystem, store: Store, config: Stage1c, seed: int) -> None:
        config = config.effective()
        learning = tuple(p for p in FULLY_TRAINED if not (config.freeze_backbone and p == "encoder."))
        super().__init__("1c", policy, store, seed, learning)
        self.config = config
        self.weights_N = careful_weights(store.states, config.careful)
        self.earlier = EarlierFrames(store.states, config.stale_max_s)

    def loss(self, data: Samples, step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        if len(data) == 0:
            return None, {}
        tensors = Batch.from_samples(data, self.device)
        tokens = self.policy.encode(tensors, augment=(self.seed, step))
        seen, age_B = self.seen_by_the_vlm(data, self.earlier, step)
        said = self.policy.ask(seen)
        speed_B, direction_B, with_hidden_B = told_decision(
            data,
            said.speed_B,
            said.direction_B,
            self.seed,
            step,
            self.config.own_share,
            self.config.expert_share,
        )
        f_vlm = self.policy.condition(said.hidden_BD, speed_B, direction_B, with_hidden_B)
        loss, values = e2e_loss(self.policy, tokens, f_vlm, tensors, self.config, self.seed, step, batch)
        known = (data.speed_N >= 0) & ~data.counterfactual_N  # what was forced is not what the VLM should say
        right = known & (said.speed_B.cpu().numpy() == data.speed_N)
        return loss, {**values, "vlm_known": float(known.sum()) / batch, "vlm_right": float(right.sum()) / batch,
                      "vlm_age_s": float(age_B.sum()) / batch}  # fmt: skip

    def derive(self, row: dict[str, float]) -> dict[str, float]:
        """The VLM's accuracy where the label is known and nobody was forced."""
        known, right = row.pop("vlm_known"), row.pop("vlm_right")
        return {**row, "vlm_speed_accuracy": right / known} if known > 0 else row


def e2e_loss(
    policy: DualSystem, tokens: SceneTokens, f_vlm: torch.Tensor | None, tensors: Batch, config: Stage1b | Stage1c,
    seed: int, step: int, batch: int,
) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
    """L_E2E plus the weighted perception losses, summed and divided by the global batch."""
    planning_B = policy.planning_loss(tokens, f_vlm, tensors, seed=seed, step=step, draws=config.draws)
    values = {"planning": float(planning_B.detach().sum()) / batch}
    total_B = planning_B
    for name, loss_B in policy.perception_losses(tokens, tensors).items():
        total_B = total_B + config.perception_weight * loss_B
        values[name] = float(loss_B.detach().sum()) / batch
    return total_B.sum() / batch, values


def unspoken(states: Samples) -> Array:
    """(N,) bool: no passenger had said anything."""
    return np.array([not said for said in states.instruction_N], bool)


def natural(states: Samples) -> Array:
    """Positions of the samples whose future a planner alone can know: nobody forced the expert or told it anything."""
    return np.flatnonzero(~states.counterfactual_N & unspoken(states))


def careful_weights(states: Samples, factor: float) -> Array | None:
    """Drawing weights (N,): `factor` for samples that brake, stop or crawl, 1 for the rest."""
    if factor == 1.0:
        return None
    careful = np.isin(states.speed_N, (Speed.DECELERATE, Speed.STOP)) | (states.motion_N4[:, 0] < 3.0)
    return np.where(careful, factor, 1.0)


def told_decision(
    data: Samples, own_speed_B: torch.Tensor, own_direction_B: torch.Tensor, seed: int, step: int,
    own_share: float, expert_share: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """What each sample's planner is told: (speed (B,), direction (B,), with the hidden state (B,) bool); −1: nothing.

    A decision that was always right is not obeyed when it is forced, so part of the samples carry the VLM's own,
    part the expert's, part none; counterfactual ones what was forced (docs/method.md, section 8).
    """
    u = keyed_uniform(torch.as_tensor(data.index_N), seed, step, (), TOLD).numpy()
    expert = data.counterfactual_N | ((u >= own_share) & (u < own_share + expert_share) & (data.speed_N >= 0))
    given = expert | (u < own_share)
    direction = np.where(data.direction_N >= 0, data.direction_N, Direction.STRAIGHT)

    own_speed, own_direction = own_speed_B.cpu().numpy(), own_direction_B.cpu().numpy()
    speed = np.where(given, np.where(expert, data.speed_N, own_speed), -1).astype(np.int64)
    direction = np.where(given, np.where(expert, direction, own_direction), -1).astype(np.int64)
    # As when driving: a hidden state that argues for another decision than the one given is taken away.
    agrees = (speed == own_speed) & (direction == own_direction)
    where = own_speed_B.device
    return (
        torch.as_tensor(speed, device=where),
        torch.as_tensor(direction, device=where),
        torch.as_tensor(agrees, device=where),
    )


def vlm_of(policy: DualSystem) -> DrivingVLM:
    """The policy's VLM; `InputError` if this checkpoint has none."""
    if policy.vlm is None:
        raise InputError("this checkpoint has no VLM: start from one of stage 1a (`senna2 train 1a`, then --from)")
    return policy.vlm


def run_1a(
    policy: DualSystem,
    store: Store,
    config: Stage1a,
    out: Path,
    *,
    seed: int,
    ranks: Ranks,
    resume: bool,
    **more: Any,
) -> Log:
    """Train the VLM on the meta-action question; returns the log. The last look at its health is `out/health.json`.

    Raises `GuardTripped` as `VlmStage.guard` says.
    """
    stage = VlmStage(policy, store, config, seed)
    log = train(stage, config.optim, out, ranks=ranks, resume=resume, **more)
    if log and ranks.is_main:
        write_json(out / "health.json", {name: log[-1][name] for name in stage.measured})
    return log


def run_1b(
    policy: DualSystem,
    store: Store,
    config: Stage1b,
    out: Path,
    *,
    seed: int,
    ranks: Ranks,
    resume: bool,
    **more: Any,
) -> Log:
    """Train the E2E policy by imitation; the plan basis must have been fitted on this store before."""
    return train(PlannerStage(policy, store, config, seed), config.optim, out, ranks=ranks, resume=resume, **more)


def run_1c(
    policy: DualSystem,
    store: Store,
    config: Stage1c,
    out: Path,
    *,
    seed: int,
    ranks: Ranks,
    resume: bool,
    **more: Any,
) -> Log:
    """Join both: adapter and E2E policy train, the VLM is frozen."""
    return train(AdapterStage(policy, store, config, seed), config.optim, out, ranks=ranks, resume=resume, **more)


def consistency_of(
    plan_B: torch.Tensor, speed_B: torch.Tensor, direction_B: torch.Tensor, *, lane_change_by_speed: bool = True
) -> torch.Tensor:
    """C(τ, d) (paper section 3.4): 1 where f_K of the plan says what the decision says. UNKNOWN plans are inconsistent;
    lane changes are judged on speed alone [ours, docs/method.md, section 8] unless the switch is off. Bool (B,)."""
    speed, path = f_k_plan(plan_B.detach())
    where = plan_B.device
    return consistent(speed, path, speed_B.to(where), direction_B.to(where), lane_change_by_speed=lane_change_by_speed)
