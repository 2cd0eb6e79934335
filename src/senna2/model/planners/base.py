"""What a planner is: scene tokens, the ego's state and F_vlm in, a plan out; and how it is told of ego and decision.

A new planner is one class in one file, named in `registry` or by an entry point of the group `senna2.planners`
(`examples/planner.py`). The policy around it (encoder, perception, VLM, adapter, memory) is the same for all.

Legend: B batch, M plans that are weighed, T plan steps, S scene tokens, C width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from senna2.config import from_dict, to_dict
from senna2.model.batch import Batch
from senna2.model.diffusion import SAMPLE, keyed_noise
from senna2.model.layers import mlp, zero
from senna2.model.scene import SceneTokens
from senna2.types import Direction, InputError, Samples, require

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


NOTHING = "senna2.nothing-fitted/1"


class Told(nn.Module):
    """The part of a planner that is told the ego's speed, the navigation command, the speed limit and F_vlm.

    F_vlm enters through a projection that starts at zero, so a fresh adapter on a trained planner changes nothing
    (stage 1c).
    """

    def _learn_to_be_told(self, config: PolicyConfig) -> None:
        """Makes the layers; not in `__init__`, so that a planner says where in its own order they come."""
        dim = config.dim
        self.speed_limit_input, self.motion_input = config.speed_limit_input, config.motion_input
        self.motion = mlp(6 if config.motion_input == "all" else 3, dim, dim)
        self.navigation = nn.Embedding(len(Direction), dim)
        self.command = mlp(dim + 4, dim, dim)
        self.f_vlm = zero(nn.Linear(dim, dim, bias=False))

    def told(self, motion_B4: Tensor, navigation_B: Tensor, speed_limit_B: Tensor, f_vlm_BC: Tensor | None) -> Tensor:
        """→ (B, C). `f_vlm_BC` None stands for zeros (stage 1b)."""
        c_BC = self.motion(_motion(motion_B4, self.motion_input))
        c_BC = c_BC + self._command(motion_B4[:, 0], navigation_B, speed_limit_B)
        return c_BC if f_vlm_BC is None else c_BC + self.f_vlm(f_vlm_BC)

    def _command(self, v_B: Tensor, navigation_B: Tensor, limit_B: Tensor) -> Tensor:
        """Command × speed limit, one embedding. An unknown limit (NaN) is marked, not guessed."""
        known = torch.isfinite(limit_B) if self.speed_limit_input else torch.zeros_like(limit_B, dtype=torch.bool)
        limit = torch.where(known, limit_B, v_B)
        features = torch.stack([known.float(), known * limit / 15, (limit - v_B) / 5, (limit - v_B).clamp(-2, 2)], -1)
        out: Tensor = self.command(torch.cat([self.navigation(navigation_B % len(Direction)), features], -1))
        return out


def _motion(motion_B4: Tensor, inputs: str) -> Tensor:
    """v, and with "all" also a, yaw rate and steer, to about unit size, with the standing start resolved."""
    v, a, yaw_rate, steer = motion_B4.unbind(-1)
    speed = [v / 10, torch.exp(-v.clamp_min(0)), v**2 / 200]
    return torch.stack(speed if inputs == "speed" else [*speed, a / 2, yaw_rate / 0.3, steer / 0.2], -1)


@dataclass(frozen=True)
class NoOptions:
    """A planner that `PolicyConfig.planner_options` cannot change."""


class Planner(ABC, Told):
    """Base of all planners. `config` is the policy's; `options` are the planner's own (`PolicyConfig.planner_options`).

    What is fitted on training samples before anything is learned (a plan basis, a vocabulary, anchors) is made by
    `fit`, is no parameter, and travels as JSON in the checkpoint's `normalisation.json` (`fitted` and `restore`).
    """

    Options: ClassVar[type[Any]] = NoOptions
    no_open_loop: ClassVar[str] = ""  # why its plans mean nothing at their end; such a planner is judged by driving

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.options: Any = read_options(type(self).Options, config.planner_options)
        self.mixed: torch.dtype | None = None  # precision of the network; plans and losses stay in 32 bit

    def fit(self, samples: Samples) -> None:
        """Fit on training samples, those with a whole future; raises `InputError` if they are too few. By default there
        is nothing to fit."""

    def fitted(self) -> dict[str, Any] | None:
        """What `fit` found as JSON values with a `schema`; None before."""
        return {"schema": NOTHING}

    def restore(self, data: Mapping[str, Any], where: str = "normalisation.json") -> None:
        """Adopt what `fitted` gave. Raises `InputError` naming `where` if it is of another planner, shape or
        horizon."""
        if not isinstance(data, Mapping) or data.get("schema") != NOTHING:
            raise InputError(f"{where}: schema is not '{NOTHING}'; is this a checkpoint of '{self.config.planner}'?")

    @abstractmethod
    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        """Imitation loss (B,); 0, without gradient, where the expert's future is not whole (`batch.has_future_B`).
        Whatever it draws is keyed by (`batch.index_B`, seed, step)."""

    @abstractmethod
    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """Absolute plan (B, T, 2) in metres. `noise`: standard normal (B, *noise_shape); `steps`: of a sampler."""

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """What the planner weighs at this instant, to look at: plans (B, M, T, 2) in m and their weights (B, M), which
        add up to 1. By default a plan for each of `draws` noises, or the only one there is."""
        count = draws if self.noise_shape != (0,) else 1
        noises = [self.sample_noise(batch.index_B, seed, k) for k in range(count)]
        plans = torch.stack([self.plan(scene, f_vlm, batch, noise=noise) for noise in noises], 1)
        return plans, plans.new_full(plans.shape[:2], 1 / count)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """What `plan` needs of noise for one sample; (0,) for a planner that draws nothing."""
        return (0,)

    def sample_noise(self, index_B: Tensor, seed: int, step: int = 0) -> Tensor:
        """(B, *noise_shape) to plan from, keyed by (index, seed, step)."""
        return keyed_noise(index_B, seed, step, self.noise_shape, SAMPLE).to(self.device)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.mixed is None else torch.autocast(self.device.type, self.mixed)

    @property
    def is_fitted(self) -> bool:
        """Whether `fitted` has something to give, without making it: asked at every plan."""
        return True

    def demand_fitted(self) -> None:
        if not self.is_fitted:
            raise InputError(
                "policy: the planner is not fitted; call fit_planner(training samples) or load a checkpoint"
            )


def read_options(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """The planner's options, strictly: an unknown or wrongly typed one is an `InputError`, and so is one out of range.

    Counts are 1 or more, other numbers 0 or more; a kind may name those that must be above 0 (`ABOVE_0`), and the most
    that one may be (`MOST`).
    """
    options = from_dict(kind, {**to_dict(kind()), **given}, "policy.planner_options")
    for field in fields(options):
        value, where = getattr(options, field.name), f"policy.planner_options.{field.name}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        require(math.isfinite(value), where, f"is {value}")
        if isinstance(value, int):
            require(value >= 1, where, f"is {value}; it must be at least 1")
        elif field.name in getattr(kind, "ABOVE_0", ()):
            require(value > 0, where, f"is {value}; it must be above 0")
        else:
            require(value >= 0, where, f"is {value}; it must not be under 0")
        most = getattr(kind, "MOST", {}).get(field.name, value)
        require(value <= most, where, f"is {value}; it must be at most {most}")
    return options
