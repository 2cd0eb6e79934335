"""Recall of the perception heads on predictions whose recall is known."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.recall import COUNTED, Found, perceived
from senna2.types import AgentClass, InputError, LaneKind, Rig, Samples

SMALL = {"dim": 32, "blocks": 1, "channels": (8, 8, 16, 16), "agent_queries": 12, "map_queries": 16, "adapter": "none"}


@pytest.fixture
def policy() -> DualSystem:
    return DualSystem(PolicyConfig(**SMALL), Rig.fake(), seed=0).eval()


def _samples() -> Samples:
    return Samples.fake(4, Rig.fake(), seed=2)


def _say_the_truth(policy, monkeypatch, samples, *, shift=0.0, reverse=False, kind_off=0, keep=None) -> None:
    batch = Batch.from_samples(samples)
    a, lines = policy.perception.agents, policy.perception.lines
    there = F.pad((batch.classes_BA >= 0).float(), (0, a))[:, :a]
    box = F.pad(torch.nan_to_num(batch.boxes_BA6), (0, 0, 0, a))[:, :a].clone()
    box[..., 0] += shift
    classes = F.one_hot(F.pad(batch.classes_BA.clamp_min(0), (0, a))[:, :a], len(AgentClass)).float()
    line = F.pad((batch.lane_kinds_BL >= 0).float(), (0, lines))[:, :lines]
    points = F.pad(torch.nan_to_num(batch.lanes_BLP2), (0, 0, 0, 0, 0, lines))[:, :lines].clone()
    points[..., 1] += shift
    kinds = (F.pad(batch.lane_kinds_BL.clamp_min(0), (0, lines))[:, :lines] + kind_off) % len(LaneKind)
    kinds = F.one_hot(kinds, len(LaneKind)).float()
    if keep is not None:
        there, line = there * keep, line * keep
    points = points.flip(2) if reverse else points
    monkeypatch.setattr(policy.perception, "detect", lambda _: (there, box, classes))
    monkeypatch.setattr(policy.perception, "trace", lambda _: (line, points, kinds))


def _sum(policy, samples, **more) -> dict[str, float]:
    return dict(zip(COUNTED, perceived(policy, samples, **more).sum(0), strict=True))


def test_the_truth_is_found_whole(policy, monkeypatch):
    samples = _samples()
    _say_the_truth(policy, monkeypatch, samples)
    found = _sum(policy, samples)
    assert found["boxes"] > 0
    assert found["lines"] > 0
    assert found["boxes_found"] == found["boxes"]
    assert found["lines_found"] == found["lines"]
    assert found["boxes_said"] >= found["boxes"]  # what no camera sees is said, too


def test_a_line_may_be_told_from_either_end(policy, monkeypatch):
    samples = _samples()
    _say_the_truth(policy, monkeypatch, samples, reverse=True)
    found = _sum(policy, samples)
    assert found["lines_found"] == found["lines"] > 0


@pytest.mark.parametrize(("shift", "boxes", "lines"), [(0.9, True, True), (1.5, True, False), (2.5, False, False)])
def test_near_enough_is_a_distance(policy, monkeypatch, shift, boxes, lines):
    """One box and one line, so that no neighbour can stand in."""
    samples = _samples()
    one_box, one_line = np.full_like(samples.classes_NA, -1), np.full_like(samples.lane_kinds_NL, -1)
    one_box[:, 0], one_line[:, 0] = samples.classes_NA[:, 0], samples.lane_kinds_NL[:, 0]
    samples = dataclasses.replace(samples, classes_NA=one_box, lane_kinds_NL=one_line)
    _say_the_truth(policy, monkeypatch, samples, shift=shift)
    found = _sum(policy, samples)
    assert (found["boxes_found"] == found["boxes"] > 0) if boxes else found["boxes_found"] == 0
    assert (found["lines_found"] == found["lines"] > 0) if lines else found["lines_found"] == 0


def test_wrong_kinds_and_silence_find_nothing(policy, monkeypatch):
    samples = _samples()
    _say_the_truth(policy, monkeypatch, samples, kind_off=1)
    assert _sum(policy, samples)["lines_found"] == 0
    _say_the_truth(policy, monkeypatch, samples, keep=0.4)
    found = _sum(policy, samples)
    assert found["boxes_found"] == found["lines_found"] == found["boxes_said"] == found["lines_said"] == 0
    assert _sum(policy, samples, how=Found(probability=0.3))["boxes_found"] > 0


def test_one_query_finds_one_box(policy, monkeypatch):
    """Two true boxes in one place, one query there: one is found."""
    samples = _samples()
    boxes, classes = samples.boxes_NA6.copy(), np.full_like(samples.classes_NA, -1)
    boxes[:, 1] = boxes[:, 0]
    classes[:, :2] = samples.classes_NA[:, :1]
    samples = dataclasses.replace(samples, boxes_NA6=boxes, classes_NA=classes)
    only_first = torch.zeros(policy.perception.agents)
    only_first[0] = 1.0
    batch = Batch.from_samples(samples)
    logits = F.one_hot(batch.classes_BA[:, :1].clamp_min(0), len(AgentClass)).float().expand(-1, 12, -1)
    place = torch.nan_to_num(batch.boxes_BA6[:, :1]).expand(-1, 12, -1)
    monkeypatch.setattr(policy.perception, "detect", lambda _: (only_first.expand(4, -1), place, logits))
    found = _sum(policy, samples)
    assert found["boxes"] == 2 * found["boxes_found"] == 2 * found["boxes_said"] > 0


def test_a_policy_without_heads_is_named():
    with pytest.raises(InputError, match="no perception heads"):
        perceived(DualSystem(PolicyConfig(**SMALL, obs="state"), Rig.fake(), seed=0), _samples())
