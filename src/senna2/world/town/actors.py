"""Scripted road users: motion along a line over time, and the tracks and clouds made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from senna2.frames import wrap
from senna2.geometry import overlap
from senna2.types import AgentClass, Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Track, Trigger
from senna2.world.town.assets import make_asset
from senna2.world.town.roads import ReferenceLine

LOOKS = 16  # different individuals a class: few enough that their clouds are made once and shared by all clips
CURVE_ACCEL, CURVE_BRAKE = 1.9, 1.5  # m/s²: sideways in curves, and braking towards them
FOLLOW_ACCEL, FOLLOW_BRAKE = 1.6, 2.5  # IDM of a vehicle that keeps behind another
_SIZES = {  # mean length, width, height and half range of a common factor
    AgentClass.CAR: (4.45, 1.82, 1.50, 0.06),
    AgentClass.VAN: (5.4, 2.0, 2.35, 0.06),
    AgentClass.TRUCK: (8.0, 2.45, 3.3, 0.08),
    AgentClass.BUS: (11.2, 2.5, 3.1, 0.04),
    AgentClass.MOTORCYCLE: (2.1, 0.8, 1.5, 0.05),
    AgentClass.CYCLIST: (1.8, 0.65, 1.75, 0.06),
    AgentClass.PEDESTRIAN: (0.55, 0.6, 1.72, 0.08),
    AgentClass.STATIC: (0.45, 0.45, 0.8, 0.0),
}
_TRAFFIC = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS, AgentClass.MOTORCYCLE)
Wish = Callable[[float], tuple[float, float]]  # time in s → (wished speed m/s, largest braking m/s²)


@dataclass(frozen=True, eq=False)
class Motion:
    """A box's centre over time: s_T, d_T (m) on a line at t_T (s), and bits of `Track.lights_T`."""

    line: ReferenceLine
    t_T: Array
    s_T: Array
    d_T: Array
    lights_T: Array

    @cached_property
    def v_T(self) -> Array:
        """Speed in the world, m/s."""
        return np.hypot(*self._rates)

    @property
    def _rates(self) -> tuple[Array, Array]:
        dt = float(self.t_T[1] - self.t_T[0])
        stretch = 1 - self.d_T * self.line.kappa(self.s_T)
        return np.gradient(self.s_T, dt) * stretch, np.gradient(self.d_T, dt)

    def poses(self, facing: float) -> Array:
        """(T, 3) in the world; heading along the motion, held while standing, `facing` (relative to the line) while
        it has not moved yet."""
        pose = self.line.world(self.s_T, self.d_T)
        forward, sideways = self._rates
        moves = np.hypot(forward, sideways) > 0.3
        last = np.maximum.accumulate(np.where(moves, np.arange(len(moves)), -1))
        turned = np.where(last >= 0, np.arctan2(sideways, forward)[last], facing)
        pose[:, 2] = wrap(pose[:, 2] + turned)
        return pose

    def signalling(self, bit: int, begin: float, end: float) -> Motion:
        """The same motion with a lamp (an indicator) on from `begin` to `end`, s."""
        on = (self.t_T > begin - 1e-6) & (self.t_T < end + 1e-6)
        return dataclasses.replace(self, lights_T=(self.lights_T | np.where(on, bit, 0)).astype(np.int8))


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user with its motion. facing: heading relative to the line while it stands before it ever moved.

    key: the right decision of the ego depends on it. trigger: of those whose path conflicts with the ego's.
    """

    agent_class: AgentClass
    look: int
    motion: Motion
    facing: float = 0.0
    trigger: Trigger | None = None
    key: bool = False

    @property
    def size(self) -> tuple[float, float, float]:
        return size_of(self.agent_class, self.look)

    @property
    def asset(self) -> str:
        return f"{self.agent_class.name.lower()}_{self.look:02d}"

    @cached_property
    def pose_T3(self) -> Array:
        return self.motion.poses(self.facing)

    def clouds(self) -> dict[str, GaussianCloud]:
        """The cloud of each variant by the name it has in `Scene.assets`."""
        made = make_asset(self.agent_class, *self.size, seed=self.look)
        return {f"{self.asset}{suffix}": cloud for suffix, cloud in made.items()}

    def boxes(self, grow: float = 0.0) -> Array:
        """(T, 5) boxes in the world, longer and wider by twice and once `grow` m."""
        l, w, _ = self.size
        size = np.broadcast_to((l + 2 * grow, w + grow), (len(self.pose_T3), 2))
        return np.concatenate([self.pose_T3, size], 1)

    def track(self, name: str) -> Track:
        """The track in the world; people and cyclists have no lamps."""
        v = self.motion.v_T.copy()
        v[v < 0.02] = 0.0
        l, w, h = self.size
        lamps = self.agent_class <= AgentClass.MOTORCYCLE
        lights = self.motion.lights_T if lamps else np.zeros_like(self.motion.lights_T)
        return Track(
            name, self.agent_class, self.asset, l, w, h, self.motion.t_T, self.pose_T3, v, lights, trigger=self.trigger
        )


@dataclass(frozen=True, eq=False)
class Ahead:
    """Somebody on the same line to keep behind by IDM. halves: half of both lengths, m."""

    motion: Motion
    halves: float
    headway_s: float = 1.2
    standing_gap: float = 2.5

    def accel(self, i: int, s: float, v: float, sense: int) -> float:
        """m/s² at frame i, for a free road without speed limit."""
        gap = max(sense * (float(self.motion.s_T[i]) - s) - self.halves, 0.2)
        leader_v = float(self.motion.v_T[i])
        closing = v * (v - leader_v) / (2 * math.sqrt(FOLLOW_ACCEL * FOLLOW_BRAKE))
        wish = self.standing_gap + max(0.0, v * self.headway_s + closing)
        return max(FOLLOW_ACCEL * (1 - (wish / gap) ** 2), -7.0)


def size_of(agent_class: AgentClass, look: int) -> tuple[float, float, float]:
    """Length, width, height in m of the `look`-th individual of a class."""
    l, w, h, spread = _SIZES[agent_class]
    f = 1 + spread * np.random.default_rng([look, int(agent_class), 7]).uniform(-1, 1, 3)
    return round(l * f[0], 2), round(w * (1 + (f[1] - 1) / 2), 2), round(h * f[2], 2)


def draw_vehicle(rng: np.random.Generator, *, large: float = 1.0) -> tuple[AgentClass, int]:
    """A random motor vehicle; `large` scales the share of vans, lorries and buses."""
    p = np.array([1.0, 0.13 * large, 0.09 * large, 0.07 * large, 0.08])
    kind = _TRAFFIC[int(rng.choice(len(p), p=p / p.sum()))]
    return kind, int(rng.integers(LOOKS))


def drive(
    line: ReferenceLine,
    t_T: Array,
    s0: float,
    v0: float,
    d_T: Array | float,
    wish: Wish,
    *,
    sense: int = 1,
    accel: float = 1.4,
    ahead: Ahead | None = None,
) -> Motion:
    """A vehicle at its wished speed, slower in curves and behind somebody; brake lights follow what it does.

    sense −1 runs against the line (oncoming).
    """
    dt = float(t_T[1] - t_T[0])
    d = np.broadcast_to(np.asarray(d_T, np.float64), t_T.shape)
    curve_P, kappa_P, s_P = _curve_speed(line, sense), line.kappa_P, line.s_P
    s, v, a = np.empty_like(t_T), v0, 0.0
    lights = np.zeros(len(t_T), np.int8)
    at, braking = s0, False
    for i, t in enumerate(t_T):
        s[i] = at
        wished, brake = wish(float(t))
        wished = min(wished, float(np.interp(at, s_P, curve_P)))
        goal = min(max((wished - v) / 0.4, -brake), accel)
        if ahead is not None:
            goal = min(goal, ahead.accel(i, at, v, sense))
        a += min(max(goal - a, -8.0 * dt), 8.0 * dt)
        v_new = max(v + a * dt, 0.0)
        if wished < 0.05 and v_new < 0.05:
            v_new = 0.0  # it stands; the wish alone would take for ever
        braking = a < -0.5 or (braking and a < -0.05) or (v_new < 0.1 and (braking or v < 0.1))
        lights[i] = BRAKE if braking else 0
        at += sense * 0.5 * (v + v_new) * dt / max(1 - d[i] * float(np.interp(at, s_P, kappa_P)), 0.3)
        v = v_new
    return Motion(line, t_T, s, d.copy(), lights)


def _curve_speed(line: ReferenceLine, sense: int) -> Array:
    """Per point of the line, the speed for the curve there and, by braking in time, for those to come."""
    here = np.sqrt(CURVE_ACCEL / np.maximum(np.abs(line.kappa_P), 1e-4))
    best = here.copy()
    for ahead in (4.0, 8.0, 12.0, 18.0, 25.0, 33.0):
        there = np.interp(line.s_P + sense * ahead, line.s_P, here)
        best = np.minimum(best, np.sqrt(there**2 + 2 * CURVE_BRAKE * ahead))
    return best


def steady(speed: float, brake: float = 2.0) -> Wish:
    """The wish to go at one speed throughout."""
    return lambda t: (speed, brake)


def braking(before: float, begin: float, after: float, brake: float, resume: float = math.inf) -> Wish:
    """The wish to go at `before` until `begin`, then at `after` by at most `brake`, from `resume` on as before."""
    return lambda t: (before, 2.0) if t < begin or t > resume else (after, brake)


def stand(line: ReferenceLine, t_T: Array, s: float, d: float) -> Motion:
    return Motion(line, t_T, np.full(len(t_T), s), np.full(len(t_T), d), np.zeros(len(t_T), np.int8))


def cross(
    line: ReferenceLine, t_T: Array, s: float, d_from: float, d_to: float, speed: float, when: float, d_when: float
) -> Motion:
    """Across a street at constant speed so as to be at `d_when` at time `when`; stands before and after."""
    way = np.sign(d_to - d_from)
    d = d_when + way * speed * (t_T - when)
    low, high = min(d_from, d_to), max(d_from, d_to)
    return Motion(line, t_T, np.full(len(t_T), s), np.clip(d, low, high), np.zeros(len(t_T), np.int8))


def slide(x_N: Array, d_from: float, d_to: float, begin: float, length: float) -> Array:
    """A smooth lane change: lateral offsets (N,) by a quintic over `length` (s or m) from `begin` on."""
    u = np.clip((x_N - begin) / length, 0, 1)
    return d_from + (d_to - d_from) * u**3 * (10 - 15 * u + 6 * u**2)


def side_lamp(d_from: float, d_to: float, sense: int = 1) -> int:
    """The indicator of who moves from one lateral offset to another."""
    return INDICATOR_LEFT if (d_to - d_from) * sense > 0 else INDICATOR_RIGHT


def clash(a: Actor, b: Actor, margin: float = 1.0) -> bool:
    """Whether the boxes of two actors ever meet when one is longer by `margin` at each end and wider by half of it
    at each side (on common times)."""
    n = min(len(a.pose_T3), len(b.pose_T3))
    near = np.hypot(*(a.pose_T3[:n, :2] - b.pose_T3[:n, :2]).T) < (a.size[0] + b.size[0]) / 2 + 2 * margin + 2
    if not near.any():
        return False
    return bool(overlap(a.boxes(margin)[:n][near], b.boxes()[:n][near]).any())
