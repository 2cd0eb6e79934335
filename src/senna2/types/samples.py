"""Training and open-loop samples as a struct of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from senna2.types.base import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_KERBS,
    MAX_LANES,
    PLAN_DT,
    PLAN_STEPS,
    ROUTE_POINTS,
    Array,
    check_finite,
    check_shape,
    require,
)
from senna2.types.observation import Observation, StateObservation
from senna2.types.rig import Rig


@dataclass(frozen=True, eq=False)
class Samples:
    """N training or open-loop samples as a struct of arrays; everything in the ego frame of its own instant.

    future_NT3: the expert's (x, y, yaw) at 0.1 … 3.0 s. speed_N: f_K of it (UNKNOWN -1); direction_N: annotated.
    agent_futures_NAT3: (x, y, yaw) of every box's centre at 0, 0.1 … 3.0 s, so T is PLAN_STEPS + 1 there.
    kerbs_NS4: kerb segments (x0, y0, x1, y1); `has_kerbs_N` tells "no kerb near" from "the map has none".
    counterfactual_N: the expert was forced (to `speed_N`) from this instant. clip_N indexes `clips`.
    index_N: global sample number; noise and time steps are keyed by it, so batches and ranks do not matter.
    """

    motion_N4: Array
    navigation_N: Array
    speed_limit_N: Array
    instruction_N: tuple[str, ...]
    images: Mapping[str, Array]
    boxes_NA6: Array
    classes_NA: Array
    lanes_NLP2: Array
    lane_kinds_NL: Array
    route_NR2: Array
    future_NT3: Array
    speed_N: Array
    direction_N: Array
    counterfactual_N: Array
    agent_futures_NAT3: Array
    kerbs_NS4: Array
    has_kerbs_N: Array
    clip_N: Array
    frame_N: Array
    index_N: Array
    clips: tuple[str, ...]
    families: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.motion_N4)

    def validate(self) -> Self:
        n, t = len(self), PLAN_STEPS
        shapes: dict[str, tuple[int, ...]] = {
            "motion_N4": (n, 4), "navigation_N": (n,), "speed_limit_N": (n,), "boxes_NA6": (n, MAX_AGENTS, 6),
            "classes_NA": (n, MAX_AGENTS), "lanes_NLP2": (n, MAX_LANES, LANE_POINTS, 2),
            "lane_kinds_NL": (n, MAX_LANES), "route_NR2": (n, ROUTE_POINTS, 2), "future_NT3": (n, t, 3),
            "speed_N": (n,), "direction_N": (n,), "counterfactual_N": (n,),
            "agent_futures_NAT3": (n, MAX_AGENTS, t + 1, 3), "kerbs_NS4": (n, MAX_KERBS, 4), "has_kerbs_N": (n,),
            "clip_N": (n,), "frame_N": (n,), "index_N": (n,),
        }  # fmt: skip
        for name, shape in shapes.items():
            check_shape(getattr(self, name), shape, f"Samples.{name}")
        count = len(self.instruction_N)
        require(count == n, "Samples.instruction_N", f"has {count} entries, not {n}")
        for name, image in self.images.items():
            check_shape(image, (n, None, None, None, 3), f"Samples.images[{name}]")
            require(image.dtype == np.uint8, f"Samples.images[{name}]", f"dtype {image.dtype}, expected uint8")
        check_finite(self.motion_N4, "Samples.motion_N4")
        check_finite(self.boxes_NA6[self.classes_NA >= 0], "Samples.boxes_NA6 (rows in use)")
        check_finite(self.lanes_NLP2[self.lane_kinds_NL >= 0], "Samples.lanes_NLP2 (rows in use)")
        check_finite(self.future_NT3[self.speed_N >= 0], "Samples.future_NT3 (samples with a speed label)")
        require(len(self.families) == len(self.clips), "Samples.families", "one a clip")
        known = (self.clip_N >= 0) & (self.clip_N < len(self.clips))
        require(bool(known.all()), "Samples.clip_N", f"points outside the {len(self.clips)} clips")
        return self

    def take(self, index: Array | slice) -> Self:
        """The samples at `index` (clip names are kept whole)."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("clips", "families"):
                values[f.name] = value
            elif f.name == "images":
                values[f.name] = {k: v[index] for k, v in value.items()}
            elif f.name == "instruction_N":
                values[f.name] = tuple(np.array(value, dtype=object)[index])
            else:
                values[f.name] = value[index]
        return type(self)(**values)

    @classmethod
    def concatenate(cls, parts: Iterable[Samples]) -> Self:
        """Stack several; clip names are merged by name."""
        parts = list(parts)
        require(len(parts) > 0, "Samples.concatenate", "nothing to stack")
        cameras = [sorted(p.images) for p in parts]
        require(all(c == cameras[0] for c in cameras), "Samples.concatenate", f"parts differ in cameras: {cameras}")
        names: dict[str, str] = {}
        for p in parts:
            names.update(zip(p.clips, p.families, strict=True))
        number = {name: i for i, name in enumerate(names)}
        values: dict[str, Any] = {"clips": tuple(names), "families": tuple(names.values())}
        for f in dataclasses.fields(cls):
            column = [getattr(p, f.name) for p in parts]
            if f.name in values:
                continue
            if f.name == "clip_N":
                column = [np.array([number[n] for n in p.clips] or [0], np.int32)[p.clip_N] for p in parts]
            if f.name == "images":
                values[f.name] = {k: np.concatenate([c[k] for c in column]) for k in parts[0].images}
            elif f.name == "instruction_N":
                values[f.name] = tuple(s for c in column for s in c)
            else:
                values[f.name] = np.concatenate(column)
        return cls(**values)

    @classmethod
    def from_observations(cls, observations: Sequence[Observation]) -> Self:
        """Samples without a future, to run a model on live observations."""
        n = len(observations)
        require(n > 0, "Samples.from_observations", "no observation")
        states = [o.state for o in observations]
        none = StateObservation.fake()
        blank = dataclasses.replace(
            none,
            boxes_A6=np.full_like(none.boxes_A6, np.nan),
            classes_A=np.full_like(none.classes_A, -1),
            lanes_LP2=np.full_like(none.lanes_LP2, np.nan),
            lane_kinds_L=np.full_like(none.lane_kinds_L, -1),
            route_R2=np.full_like(none.route_R2, np.nan),
        )
        known = [blank if s is None else s for s in states]
        return cls(
            motion_N4=np.stack([o.motion_4 for o in observations]).astype(np.float32),
            navigation_N=np.array([o.navigation for o in observations], np.int8),
            speed_limit_N=np.array([o.speed_limit for o in observations], np.float32),
            instruction_N=tuple(o.instruction for o in observations),
            images={k: np.stack([o.images[k] for o in observations]) for k in observations[0].images},
            boxes_NA6=np.stack([s.boxes_A6 for s in known]).astype(np.float32),
            classes_NA=np.stack([s.classes_A for s in known]).astype(np.int8),
            lanes_NLP2=np.stack([s.lanes_LP2 for s in known]).astype(np.float32),
            lane_kinds_NL=np.stack([s.lane_kinds_L for s in known]).astype(np.int8),
            route_NR2=np.stack([s.route_R2 for s in known]).astype(np.float32),
            future_NT3=np.full((n, PLAN_STEPS, 3), np.nan, np.float32),
            speed_N=np.full(n, -1, np.int8),
            direction_N=np.full(n, -1, np.int8),
            counterfactual_N=np.zeros(n, bool),
            agent_futures_NAT3=np.full((n, MAX_AGENTS, PLAN_STEPS + 1, 3), np.nan, np.float32),
            kerbs_NS4=np.full((n, MAX_KERBS, 4), np.nan, np.float32),
            has_kerbs_N=np.zeros(n, bool),
            clip_N=np.zeros(n, np.int32),
            frame_N=np.arange(n, dtype=np.int32),
            index_N=np.arange(n, dtype=np.int64),
            clips=("live",),
            families=("live",),
        )

    @classmethod
    def fake(cls, n: int = 4, rig: Rig | None = None, seed: int = 0) -> Self:
        """Plausible samples of every speed class: constant acceleration on a straight road."""
        rng = np.random.default_rng(seed)
        base = cls.from_observations([Observation.fake(rig, seed + i) for i in range(n)])
        t = PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        speed = np.arange(n) % 3
        a = np.array([1.5, -2.0, 0.0])[speed]
        v0 = rng.uniform(7, 12, n)
        future = np.zeros((n, PLAN_STEPS, 3), np.float32)
        future[:, :, 0] = v0[:, None] * t + 0.5 * a[:, None] * t**2
        motion = base.motion_N4.copy()
        motion[:, 0] = v0
        agents = base.agent_futures_NAT3.copy()
        agents[:, 0] = 0.0
        agents[:, 0, :, 0] = 20 + 6 * PLAN_DT * np.arange(PLAN_STEPS + 1)
        kerbs = base.kerbs_NS4.copy()
        kerbs[:, 0] = (-20, 6, 60, 6)
        return dataclasses.replace(
            base, motion_N4=motion, future_NT3=future, speed_N=speed.astype(np.int8),
            direction_N=np.zeros(n, np.int8), agent_futures_NAT3=agents, kerbs_NS4=kerbs,
            has_kerbs_N=np.ones(n, bool), clips=("fake",), families=("empty",),
        )  # fmt: skip
