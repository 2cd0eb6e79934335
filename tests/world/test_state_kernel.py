"""The state observation's compiled loops and the route against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from senna2.frames import points_to_ego, project_to_polyline, sample_polyline, wrap
from senna2.types import LANE_POINTS, MAX_AGENTS, MAX_LANES
from senna2.world.route import Route
from senna2.world.state_kernel import nearest_agents, nearest_lines

RANGE_M, STRIDE, BEHIND = 40.0, 3, 1


@pytest.mark.parametrize("count", [0, 3, 40])
@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_agents_are_numpy_s(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    pose, boxes = rng.normal(0, 3, 3), rng.normal(0, 30, (count, 6))
    boxes[rng.random(count) < 0.3] = np.nan
    classes = rng.integers(0, 6, count).astype(np.int8)
    out, kinds = np.full((MAX_AGENTS, 6), np.nan, np.float32), np.full(MAX_AGENTS, -1, np.int8)
    nearest_agents(pose, boxes, classes, out, kinds)
    order = np.argsort(np.hypot(*(boxes[:, :2] - pose[:2]).T), kind="stable")
    order = order[np.isfinite(boxes[order, 0])][:MAX_AGENTS]
    n = len(order)
    assert np.allclose(out[:n, :2], points_to_ego(boxes[order, :2], pose), atol=1e-4)
    assert np.allclose(out[:n, 2], wrap(boxes[order, 2] - pose[2]), atol=1e-5)
    assert np.allclose(out[:n, 3:], boxes[order, 3:], atol=1e-4)
    assert kinds[:n].tolist() == classes[order].tolist()
    assert np.isnan(out[n:]).all()
    assert (kinds[n:] == -1).all()


@pytest.mark.parametrize("count", [0, 2, 30])
@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_lines_are_numpy_s(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [rng.normal(0, 25, 2) + np.cumsum(rng.normal(0, 1, (int(rng.integers(2, 60)), 2)), 0) for _ in range(count)]
    points = np.concatenate([np.zeros((0, 2)), *lines])
    counts = np.array([len(line) for line in lines], np.int64)
    last = np.cumsum(counts) - 1
    first = last - counts + 1
    two_way, kinds = rng.random(count) < 0.5, rng.integers(1, 4, count).astype(np.int8)
    told, pose = np.repeat(rng.random(count) < 0.2, counts), rng.normal(0, 3, 3)
    out, out_kinds = np.full((MAX_LANES, LANE_POINTS, 2), np.nan, np.float32), np.full(MAX_LANES, -1, np.int8)
    nearest_lines(pose, points, first, last, two_way, told, kinds, 2, RANGE_M, STRIDE, BEHIND, out, out_kinds)
    gap = [np.hypot(*(line - pose[:2]).T) for line in lines]
    row = 2
    for i in np.argsort([g.min() for g in gap], kind="stable"):
        if row == MAX_LANES or gap[i].min() > RANGE_M or told[first[i]]:
            continue
        k, end = int(np.argmin(gap[i])), len(lines[i]) - 1
        step = lines[i][min(k + 1, end)] - lines[i][max(k - 1, 0)]
        back = two_way[i] and step @ (math.cos(pose[2]), math.sin(pose[2])) < 0
        index = np.clip(k + (-STRIDE if back else STRIDE) * np.arange(-BEHIND, LANE_POINTS - BEHIND), 0, end)
        assert np.allclose(out[row], points_to_ego(lines[i][index], pose), atol=1e-4)
        assert out_kinds[row] == kinds[i]
        row += 1
    assert (out_kinds[row:] == -1).all()
    assert np.isnan(out[row:]).all()


@pytest.mark.parametrize("seed", range(10))
def test_positions_on_a_route_are_those_of_a_polyline(seed: int) -> None:
    rng = np.random.default_rng(seed)
    line = np.cumsum(rng.normal((3, 0), (0.5, 1), (40, 2)), 0)
    route = Route(line, line[0])
    points = line[rng.integers(0, 40, 30)] + rng.normal(0, 2, (30, 2))
    s, _ = project_to_polyline(points, line)
    inside = (s > 0.01) & (s < route.length_m - 0.01)
    assert inside.sum() > 10
    assert np.allclose([route.locate(p) for p in points[inside]], s[inside], atol=1e-9)
    assert np.allclose([route.locate(p, at) for p, at in zip(points[inside], s[inside], strict=True)], s[inside])
    places = np.concatenate([rng.uniform(-20, route.length_m + 20, 30), [0.0]])
    assert np.allclose(route.at(places), sample_polyline(line, places)[0], atol=1e-9)


def test_a_route_over_itself_is_followed_by_the_last_position() -> None:
    there = np.stack([np.arange(0.0, 200, 5), np.zeros(40)], 1)
    back = np.stack([np.arange(195.0, 0, -5), np.full(39, 0.5)], 1)
    route = Route(np.vstack([there, back]), there[0])
    assert route.locate(np.array([20.0, 0.4]), 22.0) == pytest.approx(20.0)
    assert route.locate(np.array([20.0, 0.1]), route.length_m - 20.0) == pytest.approx(route.length_m - 15.0)
