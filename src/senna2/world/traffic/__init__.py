"""Other road users: what drives them, by name. Each kind is one module of this package, or a plug-in's."""

from __future__ import annotations

from senna2.registry import get, listing
from senna2.types import InputError
from senna2.world.scene import Scene
from senna2.world.traffic.base import AgentsState, Traffic, between
from senna2.world.traffic.replay import ReplayTraffic

__all__ = ["AgentsState", "ReplayTraffic", "Traffic", "between", "make_traffic"]


def make_traffic(kind: str, scene: Scene, dt: float, frames: int) -> Traffic:
    """Traffic by the name in `SimConfig.traffic`, for frames 0 … `frames - 1` of `dt` s; `InputError` for another."""
    if kind not in listing("traffic"):
        raise InputError(f"SimConfig.traffic: '{kind}' is unknown; there are {', '.join(sorted(listing('traffic')))}")
    make: Traffic = get("traffic", kind)(scene, dt, frames)
    return make
