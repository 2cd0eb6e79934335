"""The compiled contact tests of a frame against numpy and the general box tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from senna2.geometry import box_of, hits_segments, overlap
from senna2.types import Array, VehicleShape
from senna2.world.contact_kernel import APPROACH_M, sweep
from senna2.world.traffic.base import between

CAR = VehicleShape()
REACH = math.hypot(CAR.front, CAR.width / 2)


def case(seed: int) -> tuple[Array, Array, Array, Array, Array]:
    """(path, now, then, ignored, kerbs): a crowd around an ego that turns, perhaps through ±π, some of it absent."""
    rng = np.random.default_rng(seed)
    v, n = rng.uniform(0, 30), int(rng.integers(0, 12))
    yaw = rng.uniform(-math.pi, math.pi) if seed % 3 else math.pi - 0.01
    way, turn = 0.02 * v * np.arange(6), 0.01 * np.arange(6) * rng.uniform(-1, 1)
    path = np.zeros((6, 6))
    path[:, :2] = rng.normal(0, 100, 2) + way[:, None] * (math.cos(yaw), math.sin(yaw))
    path[:, 2] = np.vectorize(math.remainder)(yaw + turn, 2 * math.pi)
    path[:, 3] = v
    now = np.column_stack([path[0, :2] + rng.normal(0, 6, (n, 2)), rng.uniform(-math.pi, math.pi, n),
                           rng.uniform(0.3, 6, (n, 2)), rng.uniform(0, 30, n)])  # fmt: skip
    then = now.copy()
    then[:, :2] += 0.1 * now[:, 5:] * np.stack([np.cos(now[:, 2]), np.sin(now[:, 2])], 1)
    then[:, 2] += rng.uniform(-0.2, 0.2, n)
    now[rng.random(n) < 0.15] = np.nan
    then[rng.random(n) < 0.15] = np.nan
    kerbs = path[0, :2].tolist() * 2 + rng.normal(0, 9, (int(rng.integers(0, 4)), 4))
    return path, now, then, rng.random(n) < 0.2, kerbs


def look(path: Array, now: Array, then: Array, ignored: Array, kerbs: Array) -> tuple:
    return sweep(path, now, then, ignored, CAR.centre_offset, CAR.length, CAR.width, REACH, kerbs)


def test_the_sweep_is_interpolation_and_box_tests() -> None:
    touches = hits = refined = 0
    for seed in range(400):
        path, now, then, ignored, kerbs = case(seed)
        touched, near, ego_M3, boxes_MA6, touch_MA, kerb_M = look(path, now, then, ignored, kerbs)
        moments = len(ego_M3)
        share = np.arange(1, moments + 1) / moments
        pose = path[:, :3].copy()
        pose[:, 2] = np.unwrap(pose[:, 2])
        assert np.allclose(ego_M3, np.stack([np.interp(share, np.arange(6) / 5, c) for c in pose.T], 1), atol=1e-9)
        with np.errstate(invalid="ignore"):
            wanted = between(now[near], then[near], share)
        assert np.allclose(boxes_MA6, wanted, atol=1e-9, equal_nan=True)
        ego_boxes = box_of(ego_M3, CAR)
        assert np.array_equal(touch_MA, overlap(ego_boxes[:, None], wanted[..., :5]))
        assert np.array_equal(kerb_M, hits_segments(ego_boxes, kerbs).any(1))
        assert touched == (touch_MA.any() or kerb_M.any())
        touches, hits, refined = touches + touch_MA.any(), hits + kerb_M.any(), refined + (moments > 5)
    assert min(touches, hits, refined) > 50  # the cases do ask


def test_whoever_is_left_out_touches_at_no_moment() -> None:
    left_out = 0
    for seed in range(400):
        path, now, then, ignored, kerbs = case(seed)
        near = look(path, now, then, ignored, kerbs)[1]
        far = np.setdiff1d(np.flatnonzero(~ignored), near)
        assert not ignored[near].any()
        share = np.arange(1, 101) / 100
        pose = path[:, :3].copy()
        pose[:, 2] = np.unwrap(pose[:, 2])
        ego = box_of(np.stack([np.interp(share, np.arange(6) / 5, c) for c in pose.T], 1), CAR)
        assert not overlap(ego[:, None], between(now[far], then[far], share)[..., :5]).any()
        left_out += len(far)
    assert left_out > 100


def test_nobody_comes_closer_than_the_bound_between_two_tests() -> None:
    for seed in range(200):
        path, now, then, ignored, kerbs = case(seed)
        _, near, ego_M3, boxes_MA6, *_ = look(path, now, then, ignored, kerbs)
        relative = boxes_MA6[..., :2] - ego_M3[:, None, :2]
        moved = np.hypot(*np.moveaxis(np.diff(relative, axis=0), -1, 0))
        both = np.isfinite(now[near, 0]) & np.isfinite(then[near, 0])
        assert (moved[:, both] <= APPROACH_M + 1e-9).all()


@pytest.mark.parametrize("frames", [(0, 0), (0, 1)])
def test_an_agent_that_appears_is_met_at_the_later_frame_only(frames: tuple[int, int]) -> None:
    path = np.zeros((6, 6))
    box = np.array([[2.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    boxes = [np.full((1, 6), np.nan), box]
    touched, *_, touch_MA, _ = look(path, boxes[frames[0]], boxes[frames[1]], np.zeros(1, bool), np.zeros((0, 4)))
    assert touched == (frames == (0, 1))
    assert touch_MA[:, 0].tolist() == [False] * 4 + [True] if touched else touch_MA.shape[1] == 0
