"""VAD's constraints and the test of a conflict, against shapely and by which way they push."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from shapely import LineString, MultiLineString, Point, Polygon, affinity

from senna2.frames import resample_plan
from senna2.model.batch import Batch
from senna2.model.planners.constraints import (
    EGO,
    ConstraintWeights,
    boundary_loss,
    centres,
    collision_loss,
    conflicts,
    direction_loss,
    headings,
    vectorised_loss,
)
from senna2.model.planners.knots import spline
from senna2.types import AgentClass, LaneKind, Samples, VehicleShape

AT = [4, 9, 14, 19, 24, 29]
T = torch.arange(1, 7) * 0.5


def straight(v: float = 8.0, y: float = 0.0) -> torch.Tensor:
    """(1, 6, 2) along x at v, drifting to y at the last knot."""
    return torch.stack([v * T, y * T / 3.0], -1)[None]


def scene(kerbs=(), agents=(), dividers=()) -> Batch:
    """One sample with these kerb segments, boxes (class, x, y, yaw, length, width, v), and divider polylines."""
    s = Samples.fake(1)
    kerbs_NS4 = np.full_like(s.kerbs_NS4, np.nan)
    for i, k in enumerate(kerbs):
        kerbs_NS4[0, i] = k
    boxes, classes, futures = s.boxes_NA6.copy(), s.classes_NA.copy(), np.full_like(s.agent_futures_NAT3, np.nan)
    boxes[:], classes[:] = np.nan, -1
    for i, (kind, x, y, yaw, length, width, v) in enumerate(agents):
        boxes[0, i], classes[0, i] = (x, y, yaw, length, width, v), kind
        t = 0.1 * np.arange(31)
        futures[0, i] = np.stack([x + v * t * math.cos(yaw), y + v * t * math.sin(yaw), np.full(31, yaw)], -1)
    lanes, kinds = np.full_like(s.lanes_NLP2, np.nan), np.full_like(s.lane_kinds_NL, -1)
    for i, line in enumerate(dividers):
        lanes[0, i], kinds[0, i] = line, LaneKind.DIVIDER
    changed = {"kerbs_NS4": kerbs_NS4, "boxes_NA6": boxes, "classes_NA": classes, "agent_futures_NAT3": futures,
               "lanes_NLP2": lanes, "lane_kinds_NL": kinds}  # fmt: skip
    return Batch.from_samples(dataclasses.replace(s, **changed))


def pushed(loss, knots: torch.Tensor) -> torch.Tensor:
    """(6, 2) the way in which the loss pushes each knot."""
    knots = knots.clone().requires_grad_()
    loss(knots).sum().backward()
    return -knots.grad[0]


def test_the_spline_is_resample_plans():
    rng = np.random.default_rng(0)
    matrix, start = spline(6, 0.1, 30)
    for v in (0.0, 7.3):
        knots = np.cumsum(rng.normal(2, 1, (6, 2)), 0)
        expected = resample_plan(knots, 0.5, 0.1, v)
        np.testing.assert_allclose(matrix @ knots + np.stack([v * start, 0 * start], -1), expected, atol=1e-9)


def test_boundary_is_the_distance_to_the_kerbs():
    rng = np.random.default_rng(1)
    kerbs = rng.uniform(-5, 30, (20, 4))
    batch, lines = scene(kerbs), MultiLineString([[k[:2], k[2:]] for k in kerbs])
    knots = torch.tensor(np.cumsum(rng.uniform(0, 4, (6, 2)), 0), dtype=torch.float32)[None]
    path = [(VehicleShape().centre_offset, 0.0), *centres(knots)[0].tolist()]
    expected, crossed = [], False
    for i, centre in enumerate(path[1:]):
        crossed |= LineString(path[i : i + 2]).crosses(lines)
        expected.append(0.0 if crossed else max(0.0, 1.0 - Point(centre).distance(lines)))
    assert float(boundary_loss(knots, batch)) == pytest.approx(np.mean(expected), abs=1e-4)


def test_boundary_pushes_off_the_kerb_and_only_before_it_is_crossed():
    batch = scene([(-5.0, 0.8, 60.0, 0.8)])
    push = pushed(lambda k: boundary_loss(k, batch), straight())
    assert (push[:, 1] < 0).all()
    assert push[:, 0].abs().max() < 1e-6
    drifts = pushed(lambda k: boundary_loss(k, batch), straight(y=3.0))  # over it between the first and second knot
    assert drifts[0, 1] < 0
    assert (drifts[2:] == 0).all()
    assert float(boundary_loss(straight(), scene())) == 0  # a map without kerbs near


def test_collision_pushes_away_from_vehicles_near_in_time():
    ahead = scene(agents=[(AgentClass.CAR, 14.0, 0.3, 0.0, 4.5, 1.8, 4.0)])  # caught up with after 3 s
    push = pushed(lambda k: collision_loss(k, ahead, AT), straight())
    assert push[-1, 0] < 0
    assert push[-1, 1] < 0
    assert (push[:3] == 0).all()  # still more than 3 m away
    for unlike in (
        scene(agents=[(AgentClass.PEDESTRIAN, 14.0, 0.3, 0.0, 0.6, 0.6, 4.0)]),  # as released: vehicles alone
        scene(agents=[(AgentClass.CAR, 14.0, 4.0, 0.0, 4.5, 1.8, 4.0)]),
        scene(),
    ):
        assert float(collision_loss(straight(), unlike, AT)) == 0


def test_direction_is_the_angle_to_the_divider_either_way():
    line = np.stack([np.linspace(-5, 40, 10), np.full(10, 1.0)], -1)
    angle = math.atan2(2.4 / 3.0, 8.0)
    for points in (line, line[::-1]):  # a divider has no direction
        batch = scene(dividers=[points])
        assert float(direction_loss(straight(), batch)) == pytest.approx(0, abs=1e-6)
        drifts = float(direction_loss(straight(y=2.4), batch))
        assert drifts == pytest.approx(angle, abs=1e-3)  # within 2 m all along
        assert pushed(lambda k, b=batch: direction_loss(k, b), straight(y=2.4))[-1, 1] < 0
    assert float(direction_loss(straight(v=0.2, y=0.3), scene(dividers=[line]))) == 0  # as good as standing
    assert float(direction_loss(straight(y=3.0), scene())) == 0


def test_a_car_that_stops_after_a_turn_stays_turned():
    """The step that stands has no direction of its own: the last one holds; before any step it is the ego's."""
    knots = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, -1.0], [3.0, -1.0], [3.01, -1.0], [3.01, -2.0]])
    turned = -math.pi / 4
    expected = torch.tensor([0, 0, turned, turned, turned, -math.pi / 2])
    torch.testing.assert_close(headings(knots), expected)
    torch.testing.assert_close(headings(knots.expand(2, 3, 6, 2)), expected.expand(2, 3, 6))
    ahead = centres(knots)[4] - knots[4]
    torch.testing.assert_close(ahead, EGO.centre_offset * torch.tensor([math.cos(turned), math.sin(turned)]))


def body(x: float, y: float, yaw: float, length: float, width: float) -> Polygon:
    box = Polygon(
        [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    )
    return affinity.translate(affinity.rotate(box, yaw, use_radians=True, origin=(0, 0)), x, y)


def test_conflicts_are_those_of_the_bodies():
    """Against polygons: the three discs lie within the body but for its corners and cover all but 0.4 m of it."""
    rng = np.random.default_rng(2)
    met = 0
    for trial in range(60):
        agents = [
            (int(rng.integers(0, 8)), *rng.uniform((2, -6, -3), (25, 6, 3)), *rng.uniform((0.5, 0.5), (8, 2.5)),
             rng.uniform(0, 6)) for _ in range(3)
        ]  # fmt: skip
        kerbs = [rng.uniform((-5, -8, 10, -8), (5, 8, 40, 8))] if trial % 2 else []
        batch = scene(kerbs, agents)
        plans = torch.tensor(np.cumsum(rng.uniform((0.5, -0.7), (4, 0.7), (1, 8, 6, 2)), 2), dtype=torch.float32)
        got = conflicts(plans, batch, AT)[0].numpy()
        for i, plan in enumerate(plans[0].double().numpy()):
            yaw = headings(plans[0, i]).numpy()
            path = LineString([(0, 0), *plan])
            apart = math.inf
            for k in range(6):
                offset = EGO.centre_offset * np.array([math.cos(yaw[k]), math.sin(yaw[k])])
                mine = body(*(plan[k] + offset), yaw[k], EGO.length, EGO.width)
                for _, x, y, turn, length, width, v in agents:
                    t = T[k].item()
                    other = body(x + v * t * math.cos(turn), y + v * t * math.sin(turn), turn, length, width)
                    apart = min(apart, -1.0 if mine.buffer(-0.41).intersects(other) else mine.distance(other))
                for kerb in kerbs:
                    line = LineString([kerb[:2], kerb[2:]])
                    apart = min(apart, -1.0 if mine.buffer(-0.41).intersects(line) else mine.distance(line))
                    apart = -1.0 if path.crosses(line) else apart
            if apart < 0 or apart > 0:  # 0: touched at the rim only, where the discs may differ
                assert got[i] == (apart < 0), (trial, i, apart)
            met += got[i]
    assert 100 < met < 380


def test_the_loss_of_vad_is_that_of_its_offsets_and_every_constraint():
    batch = scene(kerbs=[(0, 1.5, 60, 1.5)], agents=[(AgentClass.CAR, 20, 1, 0, 4.5, 1.8, 0)], dividers=[])
    plan, expert = straight(y=1.5), straight(9.0)
    parts = {
        "boundary": boundary_loss(plan, batch), "collision": collision_loss(plan, batch, AT),
        "direction": direction_loss(plan, batch),
    }  # fmt: skip
    offsets = torch.diff(plan, dim=1, prepend=torch.zeros(1, 1, 2)) - torch.diff(
        expert, dim=1, prepend=torch.zeros(1, 1, 2)
    )
    none = dict.fromkeys(parts, 0.0)
    alone = vectorised_loss(plan, expert, batch, AT, ConstraintWeights(**none))
    torch.testing.assert_close(alone, offsets.abs().mean((1, 2)))
    for name, part in parts.items():
        found = vectorised_loss(plan, expert, batch, AT, ConstraintWeights(**{**none, name: 3.0}))
        torch.testing.assert_close(found, alone + 3 * part)
        assert name == "direction" or part > 0.01
