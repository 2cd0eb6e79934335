"""Road users made to size: one call for the town and for the dressing of recordings."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from senna2.types import AgentClass, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.town import people, vehicles

_MAKERS: dict[AgentClass, Callable[..., dict[str, GaussianCloud]]] = {
    AgentClass.CAR: vehicles.car,
    AgentClass.VAN: vehicles.van,
    AgentClass.TRUCK: vehicles.truck,
    AgentClass.BUS: vehicles.bus,
    AgentClass.MOTORCYCLE: people.motorcycle,
    AgentClass.CYCLIST: people.cyclist,
    AgentClass.PEDESTRIAN: people.pedestrian,
    AgentClass.STATIC: people.static,
}


def make_asset(
    agent_class: AgentClass, length: float, width: float, height: float, *, seed: int
) -> dict[str, GaussianCloud]:
    """A road user of the given size in m, as clouds by variant suffix.

    "" is always there; vehicles add ".brake", ".left" and ".right" (lamps lit), pedestrians and cyclists ".step"
    (the other leg forward). Box frame: origin at the bottom centre of the box, x forward. `seed` picks paint and
    clothes. Equal arguments give the same objects, so that renderers may cache by identity; do not write to them.
    """
    require(min(length, width, height) > 0, f"make_asset({AgentClass(agent_class).name})", "size must be positive")
    return dict(_made(AgentClass(agent_class), float(length), float(width), float(height), int(seed)))


@lru_cache(maxsize=512)
def _made(agent_class: AgentClass, length: float, width: float, height: float, seed: int) -> dict[str, GaussianCloud]:
    rng = np.random.default_rng([seed, int(agent_class)])
    return _MAKERS[agent_class](length, width, height, rng)
