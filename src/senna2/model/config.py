"""The policy's configuration and its JSON, and the rig's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from senna2.config import from_dict, later, to_dict
from senna2.model.adapter import HIDDEN, MODES
from senna2.model.basis import KINDS
from senna2.model.diffusion import PREDICTIONS, SCHEDULES
from senna2.registry import listing
from senna2.types import PLAN_DT, PLAN_STEPS, Camera, InputError, Rig, meant


@dataclass(frozen=True)
class PolicyConfig:
    """Every choice of the end-to-end policy; the defaults are section 8's, `faithful()` the paper's letter."""

    planner: str = later("dit")  # a registered planner; "dit" is Senna-2's
    planner_options: dict[str, Any] = later({})  # what differs from the planner's own `Options`
    obs: str = "images"  # "images", or "state": privileged boxes and lanes, which trains in seconds
    adapter: str = "both"  # Table 4: none, decision, vlm, both
    # Which of the VLM's final hidden states feed the adapter: the last prompt token [ours], or the mean over the
    # prompt's or the image's tokens, at the price of a second pass over the prompt.
    hidden: str = "last"
    dim: int = 128
    heads: int = 4
    blocks: int = 3
    mlp_ratio: int = 4
    channels: tuple[int, int, int, int] = (16, 24, 48, 96)
    agent_queries: int = 12
    map_queries: int = 12
    image_tokens: bool = True  # the planner also attends to the image tokens, not only to the perception queries
    speed_limit_input: bool = True  # [ours] the same street has several limits; nothing else tells the target speed
    # [ours] "speed", or "all": also acceleration, yaw rate and steer. With those the planner copies what it does
    # already (braking goes on, the wheel turns further): better open loop, and into the kerb
    # (docs/decisions/speed-only.md).
    motion_input: str = "speed"
    jitter: float = 0.2  # brightness and tint in training, a share
    prediction: str = "x0"  # [ours]; the paper predicts eps
    schedule: str = "cosine"
    diffusion_steps: int = 1000
    ddim_steps: int = 2  # the paper
    t_start: float = 1.0
    basis: str = "modes"  # [ours]; "points" is the paper's
    modes: int = 6
    points_per_token: int = 3
    loss: str = "smooth_l1"  # [ours]; "mse" is the paper's
    loss_beta: float = 0.5
    first_step_share: float = 0.5  # [ours] share of the training draws at the first sampling step
    draws: int = 4  # noise draws per sample: nearly free, since the encoder runs once
    detach_vlm: bool = True  # [ours] planner losses do not bend the language model; False: in stage 2 its LoRA
    vlm_period_s: float = 0.5
    plan_steps: int = PLAN_STEPS
    plan_dt: float = PLAN_DT

    @classmethod
    def faithful(cls, **changes: Any) -> Self:
        """The paper's reading: ε on free points with MSE, every draw at a uniform time. `t_start` .8, because two steps
        from T divide by √ᾱ ≈ 0 (docs/decisions/x0-prediction.md)."""
        literal: dict[str, Any] = {
            "prediction": "eps", "basis": "points", "loss": "mse", "first_step_share": 0.0, "t_start": 0.8,
            "speed_limit_input": False,
        }  # fmt: skip
        return cls(**(literal | changes)).validate()

    @property
    def coefficients(self) -> int:
        return self.modes if self.basis == "modes" else self.plan_steps

    @property
    def group(self) -> int:
        """Coefficients (x and y) in one plan token."""
        return 1 if self.basis == "modes" else self.points_per_token

    def validate(self) -> Self:
        if ":" not in self.planner and self.planner not in listing("planners"):
            known = sorted(listing("planners"))
            near = meant(self.planner, known)
            raise InputError(
                f"policy.planner: '{self.planner}' is unknown; there are {known}, or give module:class{near}"
            )
        choices = {
            "obs": ("images", "state"), "adapter": MODES, "hidden": HIDDEN,
            "prediction": PREDICTIONS, "schedule": SCHEDULES,
            "basis": KINDS, "loss": ("smooth_l1", "mse"), "motion_input": ("speed", "all"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"policy.{name}: '{getattr(self, name)}' is unknown; use one of {tuple(allowed)}")
        for name in ("dim", "heads", "blocks", "agent_queries", "map_queries", "ddim_steps", "draws", "modes",
                     "points_per_token"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"policy.{name}: {getattr(self, name)} must be at least 1")
        if self.dim % (2 * self.heads):
            raise InputError(f"policy.dim: {self.dim} is no multiple of twice the {self.heads} heads")
        if not self.detach_vlm and self.hidden != "last":
            raise InputError(f"policy.detach_vlm: False needs hidden 'last', '{self.hidden}' has no gradient")
        if not 0 < self.t_start <= 1 or not 0 <= self.first_step_share <= 1:
            raise InputError("policy.t_start must lie in (0, 1] and policy.first_step_share in [0, 1]")
        if self.plan_steps % self.group:
            raise InputError(f"policy.points_per_token: {self.group} does not divide {self.plan_steps} plan steps")
        if (self.plan_steps, self.plan_dt) != (PLAN_STEPS, PLAN_DT):
            raise InputError(
                f"policy.plan_steps, plan_dt: {self.plan_steps} × {self.plan_dt} s, but this version drives "
                f"{PLAN_STEPS} × {PLAN_DT} s plans; train again with that horizon"
            )
        if self.vlm_period_s <= 0:
            raise InputError(f"policy.vlm_period_s: {self.vlm_period_s} must be positive")
        return self

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = to_dict(self)
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "config.json") -> Self:
        """Strict: an unknown or missing field is an `InputError`."""
        try:
            return from_dict(cls, data, f"{where}: field policy").validate()
        except InputError as error:
            raise InputError(f"{error}; was it saved by another version?") from error


def rig_to_json(rig: Rig) -> list[dict[str, Any]]:
    return [
        {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
        | {"cam_to_ego_44": np.asarray(c.cam_to_ego_44, float).tolist(), "history_s": list(c.history_s)}
        for c in rig.cameras
    ]


def rig_from_json(data: Sequence[Mapping[str, Any]], where: str = "config.json") -> Rig:
    try:
        cameras = [
            Camera(**{**c, "cam_to_ego_44": np.array(c["cam_to_ego_44"]), "history_s": tuple(c["history_s"])})
            for c in data
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{where}: field rig: {error!r}; save the checkpoint again") from error
    return Rig(tuple(cameras)).validate()


def check_rig(known: Rig, given: Rig) -> None:
    """Raise `InputError` unless every camera the policy knows is there with the same geometry; others may be there too.

    The ray encodings are the policy's sense of where a pixel looks: another lens would be read wrongly, silently.
    """
    for camera in known.cameras:
        other = given[camera.name]
        for f in dataclasses.fields(Camera):
            a, b = getattr(camera, f.name), getattr(other, f.name)
            same = a == b if isinstance(a, str) else np.shape(a) == np.shape(b) and np.allclose(a, b, atol=1e-4)
            if not same:
                raise InputError(
                    f"rig: camera '{camera.name}' field {f.name} is {b}, but the policy was trained with {a}; "
                    "use a clip with the same rig, train for this one, or load the policy with any_rig=True"
                )
