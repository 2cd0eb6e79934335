"""The dual system: VLM, decision adapter, scene encoder, perception and diffusion planner (spec section 2).

Legend: B batch, D draws, K coefficients, S scene tokens, Q queries, C width, H hidden size of the VLM, T plan steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from senna2.model import diffusion
from senna2.model.adapter import DecisionAdapter, pooled_hidden
from senna2.model.backbone import ImageEncoder, StateEncoder
from senna2.model.batch import Batch
from senna2.model.config import PolicyConfig, check_rig
from senna2.model.lockstep import Lockstep
from senna2.model.memory import Bank, MemoryBank, SimulatedClock, Thought
from senna2.model.override import Forced, columns, decisions, given_decision, leaves_alone, merged
from senna2.model.perception import Perception
from senna2.model.planners.base import Planner
from senna2.model.rigs import RigFit, fit_rig
from senna2.model.scene import SceneTokens
from senna2.registry import get
from senna2.types import (
    MAX_AGENTS,
    MAX_LANES,
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


class DualSystem(nn.Module):
    """The policy of `senna2` and `senna` (the latter: adapter="decision"). Implements the Policy protocol.

    `forced`: a decision for the whole rollout, or a callback `(observation, what the VLM said) -> decision`; a part
    that is UNKNOWN stays the VLM's own, None leaves it alone. `any_rig`: drive with other cameras than those it was
    trained with (`rigs`) instead of refusing them. Random initialisation depends on `seed` alone.
    """

    vehicle = "bicycle"

    def __init__(
        self, config: PolicyConfig, rig: Rig, *, vlm: DrivingVLM | None = None, hidden_size: int = 0, seed: int = 0,
        forced: Forced = None, any_rig: bool = False,
    ) -> None:  # fmt: skip
        """`hidden_size` stands in for the VLM's while there is none yet (stage 1b before 1a)."""
        super().__init__()
        self.config, self.rig = config.validate(), rig.validate()
        self.hidden_size = vlm.hidden_size if vlm is not None else hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config, rig)
        self.vlm: DrivingVLM | None = None
        if vlm is not None:
            self.attach_vlm(vlm)
        self.forced, self.any_rig = forced, any_rig
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
        self.planner: Planner = get("planners", c.planner)(c)
        self.adapter = DecisionAdapter(self.hidden_size, c.dim, c.adapter)

    # ------------------------------------------------------------------------------------------------- parts

    @property
    def device(self) -> torch.device:
        return self.planner.device

    @property
    def mixed(self) -> torch.dtype | None:
        """Precision of encoder and planner; plans and losses stay in 32 bit."""
        return self.planner.mixed

    @mixed.setter
    def mixed(self, dtype: torch.dtype | None) -> None:
        self.planner.mixed = dtype

    @property
    def no_open_loop(self) -> str:
        """Why plans of this policy are not to be compared with the expert's; empty if they are."""
        return self.planner.no_open_loop

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

    def fit_planner(self, samples: Samples) -> None:
        """Fit what the planner needs before it learns (a plan basis, a vocabulary, anchors) on training samples."""
        self.planner.fit(samples)

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
            return SceneTokens(tokens, valid, None, MAX_AGENTS, MAX_LANES)
        with self.planner.autocast():
            tokens = self._image_tokens(batch, augment)
        queries = tokens.queries_BQC
        return dataclasses.replace(
            tokens, tokens_BSC=tokens.tokens_BSC.float(), queries_BQC=None if queries is None else queries.float()
        )

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
            return SceneTokens(queries, None, queries, self.config.agent_queries, self.config.map_queries)
        if valid is not None:
            valid = torch.cat([torch.ones_like(queries[..., 0], dtype=torch.bool), valid], 1)
        every = torch.cat([queries, image], 1)
        return SceneTokens(every, valid, queries, self.config.agent_queries, self.config.map_queries)

    def condition(
        self, hidden_BH: Tensor | None, speed_B: Tensor, direction_B: Tensor, hidden_valid_B: Tensor | None = None
    ) -> Tensor:
        """F_vlm (B, C). Category -1 and `hidden_BH` None mean "none given"."""
        if hidden_BH is not None and self.config.detach_vlm:
            hidden_BH = hidden_BH.detach()
        return cast(Tensor, self.adapter(hidden_BH, speed_B, direction_B, hidden_valid_B))

    def planning_loss(
        self, tokens: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int | None = None
    ) -> Tensor:
        """L_E2E per sample (B,), the planner's own (`Planner.loss`). 0, without gradient, where the expert's future is
        not whole (`batch.has_future_B`)."""
        return self.planner.loss(tokens, f_vlm, batch, seed=seed, step=step, draws=draws or self.config.draws)

    def perception_losses(self, tokens: SceneTokens, batch: Batch) -> dict[str, Tensor]:
        """Losses (B,) of the agent, map and navigation heads [ours]; none with obs="state"."""
        if self.perception is None or tokens.queries_BQC is None:
            return {}
        return self.perception.losses(tokens.queries_BQC, batch)

    def sample_noise(self, index_B: Tensor, seed: int, step: int = 0) -> Tensor:
        """z (B, …) to sample plans from, keyed by (index, seed, step)."""
        return self.planner.sample_noise(index_B, seed, step)

    def sample_plan(
        self, tokens: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """Absolute plan (B, T, 2) in metres from `noise` (B, …)."""
        return self.planner.plan(tokens, f_vlm, batch, noise=noise, steps=steps)

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
            hidden, said = self._asked(some)
            given = [merged(s, decision) for s in said]
            speed, direction = columns(given)
            own = np.full(len(some), leaves_alone(decision))
            points = self._plan(some, hidden, speed, direction, own, seed)
            if self.config.adapter == "none":
                speed, direction = np.full_like(speed, -1), np.full_like(direction, -1)
            own_speed, own_direction = columns(said)
            parts.append((points.cpu().numpy(), speed, direction, own_speed, own_direction))
        points_NT2, *categories = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Plans(points_NT2, *(c.astype(np.int8) for c in categories)).validate()

    @torch.no_grad()
    def considered(self, samples: Samples, *, seed: int = 0) -> tuple[Array, Array]:
        """What the planner weighs for each of N samples under a fresh VLM decision, to look at: plans (N, M, T, 2) in m
        and their weights (N, M), which add up to 1 (`Planner.considered`)."""
        batch = Batch.from_samples(samples, self.device)
        hidden, said = self._asked(samples)
        f_vlm = self._told(hidden, *columns(said), np.ones(len(samples), bool))
        plans, weights = self.planner.considered(self.encode(batch), f_vlm, batch, seed=seed)
        return plans.cpu().numpy(), weights.cpu().numpy()

    def ask(self, samples: Samples) -> VLMOutput:
        """The VLM's decisions and the hidden states for the adapter (`config.hidden`), of the same look; no gradient.
        Raises `InputError` without a VLM."""
        if self.vlm is None:
            raise InputError("policy: no VLM to ask; start from a checkpoint of stage 1a, or attach_vlm one")
        said = self.vlm.decide(samples)
        if self.config.hidden == "last" or self.config.adapter not in ("vlm", "both"):
            return said
        return dataclasses.replace(said, hidden_BD=pooled_hidden(self.vlm, samples, self.config.hidden))

    def _asked(self, samples: Samples) -> tuple[Tensor | None, list[Decision | None]]:
        """The VLM's hidden states and decisions; None without a VLM."""
        if self.vlm is None:
            return None, [None] * len(samples)
        answer = self.ask(samples)
        return answer.hidden_BD, [*decisions(answer.speed_B, answer.direction_B)]

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
        batch = Batch.from_samples(samples, self.device)
        f_vlm = self._told(hidden_BH, speed_B, direction_B, own_B)
        return self.sample_plan(self.encode(batch), f_vlm, batch, noise=self.sample_noise(batch.index_B, seed))

    def _told(self, hidden_BH: Tensor | None, speed_B: Array, direction_B: Array, own_B: Array) -> Tensor:
        """F_vlm (B, C). [ours] Where the decision given is not the VLM's own (`own_B`), its hidden state, which argues
        for another one, is replaced by the null token."""
        speed, direction, keep = (torch.as_tensor(c, device=self.device) for c in (speed_B, direction_B, own_B))
        if hidden_BH is not None:
            hidden_BH = hidden_BH.to(self.device, torch.float32)
        return self.condition(hidden_BH, speed, direction, keep)

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
        """Load a checkpoint folder; it needs nothing else and is never unpickled (see `pretrained.load`). Raises
        `InputError` for a damaged one and for a device that is not there."""
        from senna2.model import pretrained

        pretrained.check_device(device)
        policy = pretrained.load(Path(folder)).to(device)
        policy.forced, policy.any_rig = forced, any_rig
        return policy
