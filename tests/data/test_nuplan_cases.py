"""nuPlan's hand-made metric cases: contacts with fault, and time to collision, at their published values.

The scenes are nuPlan's, the loop over frames is this file's, the judgements are `senna2.geometry`'s under nuPlan's
parameters: a car stands at 0.005 m/s, τ = 0.1 … 4.9 s, TTC is 0 only at an at-fault contact, a track that has
touched is left out afterwards.
"""

from __future__ import annotations

import json
from math import cos, inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from senna2.geometry import bearing, box_of, judge_contact, overlap, ttc
from senna2.types import VehicleShape

CASES = (
    Path(__file__).resolve().parents[2]
    / "../shared/data/nuplan_metric_cases/planning__metrics__evaluation_metrics__common"
)
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="shared/data/nuplan_metric_cases is not here")

PACIFICA = VehicleShape(length=5.176, width=2.297, height=1.777, wheelbase=3.089, rear_overhang=1.127)
STAND = 0.005
GROUPS = {"bicycles": "vru", "pedestrians": "vru", "vehicles": "vehicle", "genericobjects": "object"}


class Agent(NamedTuple):
    id: int
    group: str
    box: np.ndarray
    v: float


class Frame(NamedTuple):
    pose: np.ndarray
    v: float
    agents: list[Agent]


def read(name):
    case = json.loads((CASES / name).read_text())
    egos = [case["ego"], *case.get("ego_future_states", [])]
    worlds = [case["world"], *case.get("world_future_states", [])]
    frames = []
    for ego, world in zip(egos, worlds, strict=True):
        agents = []
        for kind, group in GROUPS.items():
            for a in world.get(kind, []):
                width, length = a["box"]["size"]
                box = np.array([*a["box"]["pose"], length, width])
                agents.append(Agent(a["id"], group, box, a["speed"]))
        frames.append(Frame(np.array(ego["pose"]), float(np.hypot(*ego["velocity"])), agents))
    return frames, [value for _, value in case["expected"]["statistics"]]


def contacts(frames):
    """(frame, agent, verdict) at the first touch of each agent."""
    touched, found = set(), []
    for i, frame in enumerate(frames):
        for a in frame.agents:
            if a.id not in touched and overlap(box_of(frame.pose, PACIFICA), a.box):
                touched.add(a.id)
                verdict = judge_contact(
                    frame.pose, frame.v, PACIFICA, a.box, a.v, is_static=a.group == "object",
                    several_lanes=None, off_drivable=None, stand_speed=STAND,
                )  # fmt: skip
                found.append((i, a, frame, verdict))
    return found


def fault_statistics(frames):
    """nuPlan's row: none at fault, counts (all, vulnerable, vehicle, object), max, min, mean Δv of each group met."""
    guilty = [(a, f) for _, a, f, verdict in contacts(frames) if verdict.at_fault]
    row = [not guilty, len(guilty)]
    row += [sum(a.group == g for a, _ in guilty) for g in ("vru", "vehicle", "object")]
    for g in ("vru", "vehicle", "object"):
        # Equal masses, perfectly inelastic.
        dv = [
            0.5 * np.sqrt(f.v**2 + a.v**2 - 2 * f.v * a.v * cos(f.pose[2] - a.box[2]))
            for a, f in guilty
            if a.group == g
        ]
        if dv:
            row += [max(dv), min(dv), float(np.mean(dv))]
    return row


def ttc_statistics(frames):
    """nuPlan's row: minimum, and whether all values are above 0.95 s."""
    guilty = {i for i, *_, verdict in contacts(frames) if verdict.at_fault}
    first_touch = {a.id: i for i, a, *_ in contacts(frames)}
    values = []
    for i, frame in enumerate(frames):
        free = [a for a in frame.agents if first_touch.get(a.id, len(frames)) > i]
        boxes = np.array([a.box for a in free]).reshape(-1, 5)
        left = ttc(
            frame.pose, frame.v, PACIFICA, boxes, np.array([a.v for a in free]),
            all_around=False, stand_speed=STAND, horizon_s=4.9,
        )  # fmt: skip
        values.append(0.0 if i in guilty else float(left.min(initial=inf)))
    return [min(values), all(value > 0.95 for value in values)]


@pytest.mark.parametrize(
    "name", ["no_collision", "active_front_collision", "active_rear_collision", "stopped_track_collision"]
)
def test_at_fault_collisions(name):
    frames, expected = read(f"no_ego_at_fault_collision/{name}.json")
    assert fault_statistics(frames) == pytest.approx(expected, abs=0.005)


def test_the_rear_case_is_a_contact_from_behind_and_not_an_empty_scene():
    frames, _ = read("no_ego_at_fault_collision/active_rear_collision.json")
    assert [(a.id, verdict.kind) for _, a, _, verdict in contacts(frames)] == [(1, "rear")]


@pytest.mark.parametrize("name", ["ego_stopped", "no_collisions", "in_collision"])
def test_time_to_collision(name):
    frames, expected = read(f"time_to_collision_within_bound/{name}.json")
    assert ttc_statistics(frames) == expected


def test_without_the_bearing_filter_the_published_value_would_be_missed():
    """`no_collisions` holds a faster car behind the ego, which only "agents ahead" leaves out."""
    frames, _ = read("time_to_collision_within_bound/no_collisions.json")
    (frame,) = frames
    hits = set()
    for k in range(1, 50):
        move = 0.1 * k * np.array([np.cos(frame.pose[2]), np.sin(frame.pose[2]), 0]) * frame.v
        for a in frame.agents:
            step = 0.1 * k * a.v * np.array([np.cos(a.box[2]), np.sin(a.box[2]), 0, 0, 0])
            if overlap(box_of(frame.pose + move, PACIFICA), a.box + step):
                hits.add(a.id)
    assert hits
    assert all(np.rad2deg(bearing(frame.pose, a.box[:2])) > 30 for a in frame.agents if a.id in hits)
