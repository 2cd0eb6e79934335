"""The dual system: VLM, decision adapter, scene encoder, perception and diffusion planner (spec section 2).

Legend: B batch, D draws, K coefficients, S scene tokens, Q queries, C width, H hidden size of the VLM, T plan steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model import diffusion
from senna2.model.adapter import DecisionAdapter, pooled_hidden
from senna2.model.backbone import ImageEncoder, StateEncoder
from senna2.model.basis import PlanBasis
from senna2.model.batch import Batch
from senna2.model.config import PolicyConfig, check_rig
from senna2.model.lockstep import Lockstep
from senna2.model.memory import Bank, MemoryBank, SimulatedClock, Thought
from senna2.model.override import Forced, columns, decisions, given_decision, leaves_alone, merged
from senna2.model.perception import Perception
from senna2.model.planners.dit import DiT
from senna2.model.rigs import RigFit, fit_rig
from senna2.types import (
    Array,
    ClipMeta,
    Decision,
    InputError,
    Observation,
    Plan,
    Plans,
    Rig,
    Samples,
    Trajectory,
)

if TYPE_CHECKING:
    from senna2.model.vlm.qwen import DrivingVLM, VLMOutput

__all__ = ["DualSystem", "PolicyConfig", "SceneTokens"]

PARTS = ("encoder", "perception", "planner", "adapter", "vlm")


@dataclass(frozen=True, eq=False)
class SceneTokens:
    """The E2E condition. queries: agent, map and navigation tokens (None with obs="state": truth is the input)."""

    tokens_BSC: Tensor
    valid_BS: Tensor | None
    queries_BQC: Tensor | None

    def take(self, rows: Tensor) -> Self:
        mask, queries = (None if x is None else x[rows] for x in (self.valid_BS, self.queries_BQC))
        return type(self)(self.tokens_BSC[rows], mask, queries)


class DualSystem(nn.Module):
    """The policy of `senna2` and `senna` (the latter: adapter="decision"). Implements the Policy protocol.

    `forced`: a decision for the whole rollout, or a callback `(observation, what the VLM said) -> decision`; a part
    that is UNKNOWN stays the VLM's own, None leaves it alone. `any_rig`: drive with other cameras than those it was
    trained with (`rigs`) instead of refusing them. Random initialisation depends on `seed` alone.
    """

    vehicle = "bicycle"

    def __init__(
        self, config: PolicyConfig, rig: Rig, *, vlm: DrivingVLM | None = None, basis: PlanBasis | None = None,
        hidden_size: int = 0, seed: int = 0, forced: Forced = None, any_rig: bool = False,
    ) -> None:  # fmt: skip
        """`hidden_size` stands in for the VLM's while there is none yet (stage 1b before 1a)."""
        super().__init__()
        self.config, self.rig = config.validate(), rig.validate()
        self.hidden_size = vlm.hidden_size if vlm is not None else hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config, rig)
        self.schedule = diffusion.Schedule(config.schedule, config.diffusion_steps)
        self.basis: PlanBasis | None = None
        if basis is not None:
            self.set_basis(basis)
        self.vlm: DrivingVLM | None = None
        if vlm is not None:
            self.attach_vlm(vlm)
        self.forced, self.any_rig = forced, any_rig
        self.mixed: torch.dtype | None = None  # precision of encoder and planner; plans and losses stay in 32 bit
        self._fit: RigFit | None = None
        self.clock = SimulatedClock()
        self.memory: Bank = MemoryBank(config.vlm_period_s, self.clock)
        self._seed, self._frame = 0, 0

    def _build(self, c: PolicyConfig, rig: Rig) -> None:
        self.encoder: nn.Module
        self.perception: Perception | None = None
        if c.obs == "images":
            self.encoder = ImageEncoder(rig, c.channels, c.dim)
            self.perception = Perception(rig, c.dim, c.heads, agents=c.agent_queries, lines=c.map_queries)
        else:
            self.encoder = StateEncoder(c.dim)
        self.planner = DiT(
            coefficients=c.coefficients, group=c.group, dim=c.dim, heads=c.heads, blocks=c.blocks,
            mlp_ratio=c.mlp_ratio, speed_limit_input=c.speed_limit_input, motion_input=c.motion_input,
        )  # fmt: skip
        self.adapter = DecisionAdapter(self.hidden_size, c.dim, c.adapter)

    # ------------------------------------------------------------------------------------------------- parts

    @property
    def device(self) -> torch.device:
        return self.planner.place_NC.device

    @property
    def needs_images(self) -> bool:
        return self.config.obs == "images" or self.vlm is not None

    def attach_vlm(self, vlm: DrivingVLM) -> None:
        if self.config.adapter in ("vlm", "both") and vlm.hidden_size != self.hidden_size:
            raise InputError(
                f"vlm: hidden size {vlm.hidden_size}, but the adapter was made for {self.hidden_size}; "
                "use the VLM it was trained with"
            )
        self.vlm = vlm

    def set_basis(self, basis: PlanBasis) -> None:
        c = self.config
        got, wanted = (basis.kind, basis.coefficients, basis.steps), (c.basis, c.coefficients, c.plan_steps)
        if got != wanted or abs(basis.dt - c.plan_dt) > 1e-9:
            raise InputError(
                f"normalisation.json: basis {got} at {basis.dt} s does not fit the policy's {wanted} at {c.plan_dt} s; "
                "fit it with the policy's own configuration"
            )
        self.basis = basis.to(self.device)

    def fit_basis(self, samples: Samples) -> PlanBasis:
        """Fit the plan basis on training samples (those with a whole future) and adopt it."""
        future, v = samples.future_NT3[..., :2], samples.motion_N4[:, 0]
        whole = np.isfinite(future).all((1, 2))
        t = self.config.plan_dt * np.arange(1, self.config.plan_steps + 1)
        residual = future[whole].astype(np.float64)
        residual[..., 0] -= v[whole, None] * t
        c = self.config
        self.set_basis(PlanBasis.fit(residual, kind=c.basis, modes=c.modes, dt=c.plan_dt))
        return self._fitted()

    def _fitted(self) -> PlanBasis:
        if self.basis is None:
            raise InputError("policy: no plan basis yet; call fit_basis(training samples) or load a checkpoint")
        return self.basis

    def part(self, name: str) -> nn.Module | None:
        """One of `encoder`, `perception`, `planner`, `adapter`, `vlm`; None where this policy has none."""
        if name not in PARTS:
            raise InputError(f"policy: part '{name}' is unknown; use one of {PARTS}")
        return cast("nn.Module | None", getattr(self, name))

    def freeze(self, *names: str, frozen: bool = True) -> None:
        """Switch the gradients of whole parts off (or on again)."""
        for name in names:
            part = self.part(name)
            if part is not None:
                part.requires_grad_(not frozen)

    def policy_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of everything but the VLM."""
        return ((n, p) for n, p in self.named_parameters() if not n.startswith("vlm."))

    # -------------------------------------------------------------------------------------------- training calls

    def encode(self, batch: Batch, *, augment: tuple[int, int] | None = None) -> SceneTokens:
        """Scene tokens. `augment` (seed, step) tints the images, keyed by the samples' indices; None does not."""
        if self.perception is None:
            tokens, valid = self.encoder(batch)
            return SceneTokens(tokens, valid, None)
        with self._autocast():
            tokens = self._image_tokens(batch, augment)
        queries, valid = tokens.queries_BQC, tokens.valid_BS
        return SceneTokens(tokens.tokens_BSC.float(), valid, None if queries is None else queries.float())

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.mixed is None else torch.autocast(self.device.type, self.mixed)

    def _image_tokens(self, batch: Batch, augment: tuple[int, int] | None) -> SceneTokens:
        assert self.perception is not None
        tint, valid = None, None
        if augment is not None and self.config.jitter > 0:
            tint = diffusion.keyed_tint(batch.index_B, *augment, self.config.jitter).to(self.device)
        if self._fit is None:
            image = self.encoder(batch, tint)
        else:
            batch = dataclasses.replace(batch, images=self._fit.images(batch.images))
            image = self.encoder(batch, tint, self._fit.rays_SF.to(self.device))
            valid = self._fit.valid_S.to(self.device).expand(len(batch), -1)
        queries = self.perception(image, batch.navigation_B, valid)
        if not self.config.image_tokens:
            return SceneTokens(queries, None, queries)
        if valid is not None:
            valid = torch.cat([torch.ones_like(queries[..., 0], dtype=torch.bool), valid], 1)
        return SceneTokens(torch.cat([queries, image], 1), valid, queries)

    def condition(
        self, hidden_BH: Tensor | None, speed_B: Tensor, direction_B: Tensor, hidden_valid_B: Tensor | None = None
    ) -> Tensor:
        """F_vlm (B, C). Category -1 and `hidden_BH` None mean "none given"."""
        if hidden_BH is not None and self.config.detach_vlm:
            hidden_BH = hidden_BH.detach()
        return cast(Tensor, self.adapter(hidden_BH, speed_B, direction_B, hidden_valid_B))

    def _denoise(self, x_BDK2: Tensor, t_BD: Tensor, tokens: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        with self._autocast():
            out = self.planner(
                x_BDK2, t_BD, tokens.tokens_BSC, tokens.valid_BS, motion_B4=batch.motion_B4,
                navigation_B=batch.navigation_B, speed_limit_B=batch.speed_limit_B, f_vlm_BC=f_vlm,
            )  # fmt: skip
        return cast(Tensor, out.float())

    def _reference(self, batch: Batch) -> Tensor:
        return diffusion.inertial_reference(batch.motion_B4[:, 0], self.config.plan_steps, self.config.plan_dt)

    def planning_loss(
        self, tokens: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int | None = None
    ) -> Tensor:
        """L_E2E per sample (B,): error of the predicted noise (or x0, v) of the residual plan, mean over coefficients
        and draws. 0, without gradient, where the expert's future is not whole (`batch.has_future_B`)."""
        c, basis, draws = self.config, self._fitted(), draws or self.config.draws
        whole = batch.has_future_B
        residual = torch.where(whole[:, None, None], batch.future_BT2 - self._reference(batch), 0.0)
        z = basis.encode(residual)[:, None].expand(-1, draws, -1, -1)
        noise = diffusion.keyed_noise(batch.index_B, seed, step, (draws, c.coefficients, 2)).to(self.device)
        t = diffusion.training_times(
            batch.index_B, seed, step, draws=draws, steps=c.diffusion_steps, t_start=c.t_start,
            first_share=c.first_step_share,
        ).to(self.device)  # fmt: skip
        out = self._denoise(self.schedule.q_sample(z, noise, t), t, tokens, f_vlm, batch)
        target = self.schedule.target(z, noise, t, c.prediction)
        if c.loss == "mse":
            loss = F.mse_loss(out, target, reduction="none")
        else:
            loss = F.smooth_l1_loss(out, target, beta=c.loss_beta, reduction="none")
        return loss.flatten(1).mean(-1) * whole

    def perception_losses(self, tokens: SceneTokens, batch: Batch) -> dict[str, Tensor]:
        """Losses (B,) of the agent, map and navigation heads [ours]; none with obs="state"."""
        if self.perception is None or tokens.queries_BQC is None:
            return {}
        return self.perception.losses(tokens.queries_BQC, batch)

    def sample_noise(self, index_B: Tensor, seed: int, step: int = 0) -> Tensor:
        """z (B, K, 2) to sample plans from, keyed by (index, seed, step)."""
        shape = (self.config.coefficients, 2)
        return diffusion.keyed_noise(index_B, seed, step, shape, diffusion.SAMPLE).to(self.device)

    def sample_plan(
        self, tokens: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """Absolute plan (B, T, 2) in metres after deterministic DDIM from `noise` (B, K, 2); differentiable through
        every step, as L_low needs."""
        c = self.config

        def denoise(x_BK2: Tensor, t_B: Tensor) -> Tensor:
            return self._denoise(x_BK2[:, None], t_B[:, None], tokens, f_vlm, batch)[:, 0]

        z = self.schedule.ddim(
            denoise, noise, prediction=c.prediction, steps=steps or c.ddim_steps, t_start=c.t_start
        )  # fmt: skip
        return self._reference(batch) + self._fitted().decode(z)

    # ------------------------------------------------------------------------------------------------- driving

    def reset(self, meta: ClipMeta, seed: int) -> None:
        """Start a rollout. Raises `InputError` if the clip's cameras are not those the policy was trained with (and
        `any_rig` is off)."""
        self.use_rig(meta.rig)
        self.memory.reset()
        self.clock.now_s, self._seed, self._frame = 0.0, seed, 0

    def use_rig(self, rig: Rig) -> None:
        """Take the images from now on as those of this rig; `reset` does it. Raises `InputError` as `reset` does."""
        self._fit = None
        if self.config.obs == "images" and self.any_rig:
            self._fit = fit_rig(self.rig, rig)
        elif self.config.obs == "images":
            check_rig(self.rig, rig)
        elif self.vlm is not None and not self.any_rig:
            check_rig(Rig((self.rig["front"],)), rig)

    @torch.no_grad()
    def act(self, observation: Observation) -> Plan:
        """Plan at 10 Hz; the VLM is asked only when its period is over, on the clock of the observations.

        The noise depends on (seed, number of the frame since reset): the same rollout again gives the same plans.
        """
        if self.config.obs == "state" and observation.state is None:
            raise InputError("observation.state: missing, but this policy drives by privileged state; use obs='images'")
        samples = Samples.from_observations([observation])
        samples = dataclasses.replace(samples, index_N=np.array([self._frame], np.int64))
        self.clock.now_s, self._frame = float(observation.t_s), self._frame + 1
        thought: Thought | None = None
        age, now_s = 0.0, self.clock.now_s  # a bank with a thread of its own thinks when the clock has gone on
        if self.vlm is not None:
            thought, age = self.memory.read(lambda: self._think(samples, now_s))
        said = None if thought is None else thought.decision
        decision, own = given_decision(self.forced, observation, said)
        hidden = None if thought is None else thought.hidden_1D
        points = self._plan(samples, hidden, *columns([decision]), np.array([own]), self._seed)[0].cpu().numpy()
        return Plan(
            trajectory=Trajectory(points, self.config.plan_dt).validate(),
            decision=None if self.config.adapter == "none" else decision,
            vlm_decision=said,
            decision_age_s=age,
            speed_probs_4=None if thought is None else thought.speed_probs_4,
        )

    def lockstep(self) -> Lockstep:
        """For driving several clips at once: one call of the networks a frame (`abreast.drive_abreast`)."""
        return Lockstep(self)

    @torch.no_grad()
    def plan_batch(
        self, samples: Samples, decision: Decision | None = None, seed: int = 0, *, chunk: int = 64
    ) -> Plans:
        """Open-loop plans of N samples, every one with a fresh VLM decision, or with `decision` forced on all."""
        parts = []
        for i in range(0, len(samples), chunk):
            some = samples.take(slice(i, i + chunk))
            answer = None if self.vlm is None else self.ask(some)
            said: list[Decision | None] = [None] * len(some)
            if answer is not None:
                said = [*decisions(answer.speed_B, answer.direction_B)]
            given = [merged(s, decision) for s in said]
            speed, direction = columns(given)
            own = np.full(len(some), leaves_alone(decision))
            points = self._plan(some, None if answer is None else answer.hidden_BD, speed, direction, own, seed)
            if self.config.adapter == "none":
                speed, direction = np.full_like(speed, -1), np.full_like(direction, -1)
            own_speed, own_direction = columns(said)
            parts.append((points.cpu().numpy(), speed, direction, own_speed, own_direction))
        points_NT2, *categories = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Plans(points_NT2, *(c.astype(np.int8) for c in categories)).validate()

    def ask(self, samples: Samples) -> VLMOutput:
        """The VLM's decisions and the hidden states for the adapter (`config.hidden`), of the same look; no gradient.
        Raises `InputError` without a VLM."""
        if self.vlm is None:
            raise InputError("policy: no VLM to ask; start from a checkpoint of stage 1a, or attach_vlm one")
        said = self.vlm.decide(samples)
        if self.config.hidden == "last" or self.config.adapter not in ("vlm", "both"):
            return said
        return dataclasses.replace(said, hidden_BD=pooled_hidden(self.vlm, samples, self.config.hidden))

    def _think(self, samples: Samples, t_s: float) -> Thought:
        answer = self.ask(samples)
        return Thought(
            t_s=t_s,
            hidden_1D=answer.hidden_BD,
            decision=decisions(answer.speed_B, answer.direction_B)[0],
            speed_probs_4=np.exp(torch.as_tensor(answer.speed_logp_B4)[0].float().cpu().numpy()),
        )

    def _plan(
        self, samples: Samples, hidden_BH: Tensor | None, speed_B: Array, direction_B: Array, own_B: Array, seed: int
    ) -> Tensor:
        """[ours] Where the decision given is not the VLM's own (`own_B`), its hidden state, which argues for another
        one, is replaced by the null token."""
        batch = Batch.from_samples(samples, self.device)
        speed, direction = (torch.as_tensor(c, device=self.device) for c in (speed_B, direction_B))
        keep = torch.as_tensor(own_B, device=self.device)
        if hidden_BH is not None:
            hidden_BH = hidden_BH.to(self.device, torch.float32)
        f_vlm = self.condition(hidden_BH, speed, direction, keep)
        return self.sample_plan(self.encode(batch), f_vlm, batch, noise=self.sample_noise(batch.index_B, seed))

    # ------------------------------------------------------------------------------------------------- on disk

    def save_pretrained(
        self, folder: str | Path, provenance: Mapping[str, Any] | None = None, *, half: bool = False
    ) -> None:
        """Write a checkpoint folder (see `pretrained.save`)."""
        from senna2.model import pretrained

        pretrained.save(self, Path(folder), provenance or {}, half=half)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", *, forced: Forced = None, any_rig: bool = False
    ) -> DualSystem:
        """Load a checkpoint folder; it needs nothing else and is never unpickled (see `pretrained.load`)."""
        from senna2.model import pretrained

        policy = pretrained.load(Path(folder)).to(device)
        policy.forced, policy.any_rig = forced, any_rig
        return policy
