"""Scripted road users: motion along a street over time, and the tracks and clouds made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from senna2.frames import wrap
from senna2.types import AgentClass, Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.scene import BRAKE, Track
from senna2.world.town.assets import make_asset
from senna2.world.town.expert import LATERAL_ACCEL
from senna2.world.town.roads import Street

LOOKS = 16  # different individuals a class: few enough that their clouds are made once and shared by all clips
VEHICLES = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS, AgentClass.MOTORCYCLE)
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
_TRAFFIC = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS)
Wish = Callable[[float], tuple[float, float]]  # time in s → (wished speed m/s, largest braking m/s²)


@dataclass(frozen=True, eq=False)
class Motion:
    """A centre over time on the street: s_T, d_T (m) at t_T (s), and bits of `Track.lights_T`."""

    t_T: Array
    s_T: Array
    d_T: Array
    lights_T: Array


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user with its motion. facing: heading relative to the street while it stands before it ever moved."""

    agent_class: AgentClass
    look: int
    motion: Motion
    facing: float = 0.0

    @property
    def size(self) -> tuple[float, float, float]:
        return size_of(self.agent_class, self.look)

    @property
    def asset(self) -> str:
        return f"{self.agent_class.name.lower()}_{self.look:02d}"

    def clouds(self) -> dict[str, GaussianCloud]:
        """The cloud of each variant by the name it has in `Scene.assets`."""
        made = make_asset(self.agent_class, *self.size, seed=self.look)
        return {f"{self.asset}{suffix}": cloud for suffix, cloud in made.items()}

    def track(self, street: Street, name: str) -> Track:
        """Poses in the world; heading along the motion, held while standing."""
        m = self.motion
        pose = street.line.world(m.s_T, m.d_T)
        dt = float(m.t_T[1] - m.t_T[0])
        stretch = 1 - m.d_T * street.line.kappa(m.s_T)
        forward, sideways = np.gradient(m.s_T, dt) * stretch, np.gradient(m.d_T, dt)
        v = np.hypot(forward, sideways)
        v[v < 0.02] = 0.0
        heading = np.arctan2(sideways, forward)
        turned, last = np.empty_like(heading), self.facing
        for i in range(len(heading)):
            last = heading[i] if v[i] > 0.3 else last
            turned[i] = last
        pose[:, 2] = wrap(pose[:, 2] + turned)
        l, w, h = self.size
        return Track(name, self.agent_class, self.asset, l, w, h, m.t_T, pose, v, m.lights_T)


def size_of(agent_class: AgentClass, look: int) -> tuple[float, float, float]:
    """Length, width, height in m of the `look`-th individual of a class."""
    l, w, h, spread = _SIZES[agent_class]
    f = 1 + spread * np.random.default_rng([look, int(agent_class), 7]).uniform(-1, 1, 3)
    return round(l * f[0], 2), round(w * (1 + (f[1] - 1) / 2), 2), round(h * f[2], 2)


def draw_vehicle(rng: np.random.Generator, *, large: float = 1.0) -> tuple[AgentClass, int]:
    """A random motor vehicle; `large` scales the share of vans, lorries and buses."""
    p = np.array([1.0, 0.12 * large, 0.08 * large, 0.07 * large])
    kind = _TRAFFIC[int(rng.choice(4, p=p / p.sum()))]
    return kind, int(rng.integers(LOOKS))


def drive(
    street: Street,
    t_T: Array,
    s0: float,
    v0: float,
    d_T: Array | float,
    wish: Wish,
    *,
    sense: int = 1,
    accel: float = 1.4,
) -> Motion:
    """A vehicle at its wished speed, slower in curves; brake lights follow what it does. sense −1: oncoming."""
    dt = float(t_T[1] - t_T[0])
    d = np.broadcast_to(np.asarray(d_T, np.float64), t_T.shape)
    s, v, a = np.empty_like(t_T), v0, 0.0
    lights = np.zeros(len(t_T), np.int8)
    at, braking = s0, False
    for i, t in enumerate(t_T):
        s[i] = at
        wished, brake = wish(float(t))
        for ahead in (0.0, 4.0, 9.0, 15.0):  # the curve's speed here, and braking at 1.5 m/s² for the one to come
            kappa = abs(float(street.line.kappa(at + sense * ahead)))
            here = math.sqrt(LATERAL_ACCEL / max(kappa, 1e-4))
            wished = min(wished, math.sqrt(here**2 + 2 * 1.5 * ahead))
        goal = min(max((wished - v) / 0.4, -brake), accel)
        a += min(max(goal - a, -8.0 * dt), 8.0 * dt)
        v_new = max(v + a * dt, 0.0)
        braking = a < -0.5 or (v_new < 0.1 and braking)
        lights[i] = BRAKE if braking else 0
        at += sense * 0.5 * (v + v_new) * dt / max(1 - d[i] * float(street.line.kappa(at)), 0.3)
        v = v_new
    return Motion(t_T, s, d.copy(), lights)


def steady(speed: float, brake: float = 2.0) -> Wish:
    """The wish to go at one speed throughout."""
    return lambda t: (speed, brake)


def stand(t_T: Array, s: float, d: float) -> Motion:
    return Motion(t_T, np.full(len(t_T), s), np.full(len(t_T), d), np.zeros(len(t_T), np.int8))


def cross(t_T: Array, s: float, d_from: float, d_to: float, speed: float, when: float, d_when: float) -> Motion:
    """Across the street at constant speed so as to be at `d_when` at time `when`; stands before and after."""
    way = np.sign(d_to - d_from)
    d = d_when + way * speed * (t_T - when)
    low, high = min(d_from, d_to), max(d_from, d_to)
    return Motion(t_T, np.full(len(t_T), s), np.clip(d, low, high), np.zeros(len(t_T), np.int8))


def slide(t_T: Array, d_from: float, d_to: float, begin: float, duration: float) -> Array:
    """A smooth lane change: lateral offset (T,) by a quintic."""
    u = np.clip((t_T - begin) / duration, 0, 1)
    return d_from + (d_to - d_from) * u**3 * (10 - 15 * u + 6 * u**2)


def clash(a: Actor, b: Actor, margin: float = 1.0) -> bool:
    """Whether two actors ever come within `margin` m of each other along and half of it across (on common times)."""
    n = min(len(a.motion.t_T), len(b.motion.t_T))
    (la, wa, _), (lb, wb, _) = a.size, b.size
    along = np.abs(a.motion.s_T[:n] - b.motion.s_T[:n]) < (la + lb) / 2 + margin
    across = np.abs(a.motion.d_T[:n] - b.motion.d_T[:n]) < (wa + wb) / 2 + margin / 2
    return bool((along & across).any())
