"""A scene of your own: a stalled truck on a straight street, written as a clip folder and driven.

    python examples/scene.py [FOLDER]        # then: senna2 scene view FOLDER --out stalled.png

A scene needs splats, assets, tracks, a map, a rig, an expert's log and a route; `validate` says what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from senna2.drivers import Expert, Idm
from senna2.rollouts import drive
from senna2.types import AgentClass, Direction, Rig
from senna2.world.clip import load_clip, save_clip
from senna2.world.scene import Expert as ExpertLog
from senna2.world.scene import Scene, SceneMeta, Track
from senna2.world.town.assets import make_asset
from senna2.world.town.look import Look
from senna2.world.town.network import Roads
from senna2.world.town.street import build_roads


def stalled_truck() -> Scene:
    """8 s at 10 Hz: the truck stands 60 m ahead; the expert brakes from 11 m/s at 2.4 m/s² and waits behind it."""
    rng = np.random.default_rng(0)
    roads, t = Roads.draw(rng, "straight", 13.9), 0.1 * np.arange(81)
    lane, n, size = roads.path("main", 1), len(t), (8.0, 2.5, 3.2)  # the right one of two lanes
    v = np.maximum(11.0 - 2.4 * np.maximum(t - 1.5, 0), 0.0)
    s = np.concatenate([[0.0], np.cumsum((v[1:] + v[:-1]) / 2) * 0.1])
    keep = np.full(n, Direction.STRAIGHT, np.int8)
    truck = Track(
        "truck", AgentClass.TRUCK, "truck", *size, t, np.tile(lane.world(60.0, 0.0), (n, 1)), np.zeros(n),
        np.zeros(n, np.int8),
    )  # fmt: skip
    assets = {f"truck{suffix}": cloud for suffix, cloud in make_asset(AgentClass.TRUCK, *size, seed=1).items()}
    route = lane.xy_P2[::2]
    return Scene(
        SceneMeta("stalled-truck", "stalled_truck", "test", 0), build_roads(roads, Look.draw(rng), rng), assets,
        (truck,), roads.lane_map(), Rig.default(), ExpertLog(t, lane.world(s, 0.0), v, keep, keep),
        route, np.full(len(route), roads.speed_limit),
    ).validate()  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-scene")
    save_clip(stalled_truck(), folder)
    for policy in (Expert(), Idm()):
        rollout = drive(policy, load_clip(folder), policy_name=type(policy).__name__)
        print(f"{rollout.policy:8s} {rollout.progress_F[-1]:5.1f} m, contacts {len(rollout.contacts)}")


if __name__ == "__main__":
    main()
