import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.model.perception import Perception, _box_from_code, _code_from_box, _match
from senna2.types import AgentClass, Rig, Samples


def _perception(rig: Rig | None = None) -> Perception:
    torch.manual_seed(0)
    return Perception(rig or Rig.default(), 32, 2, agents=6, lines=5)


def _batch(n: int = 4, empty: bool = False) -> Batch:
    samples = Samples.fake(n)
    if empty:
        samples = dataclasses.replace(
            samples,
            boxes_NA6=np.full_like(samples.boxes_NA6, np.nan),
            classes_NA=np.full_like(samples.classes_NA, -1),
            lanes_NLP2=np.full_like(samples.lanes_NLP2, np.nan),
            lane_kinds_NL=np.full_like(samples.lane_kinds_NL, -1),
            route_NR2=np.full_like(samples.route_NR2, np.nan),
        )
    return Batch.from_samples(samples)


def test_visible_follows_the_cameras():
    points = torch.tensor([[20.0, 0], [0, 10], [0, -10], [-20, 0], [100, 0], [float("nan"), 0]])
    assert _perception().visible(points).tolist() == [True, True, True, True, False, False]
    front_only = Rig((Rig.default()["front"],))
    assert _perception(front_only).visible(points).tolist() == [True, False, False, False, False, False]
    edge = torch.tensor([[11.7, 8.0], [11.7, 9.0]])  # tan 40° · 10 m = 8.39 m
    assert _perception(front_only).visible(edge).tolist() == [True, False]


def test_box_code_round_trip():
    box = torch.tensor([[20.0, -3.0, 2.5, 4.6, 1.9, 7.0], [-5.0, 1.0, -3.0, 0.6, 0.5, 0.0]])
    torch.testing.assert_close(_box_from_code(_code_from_box(box)), box, atol=1e-5, rtol=1e-5)


def test_matching_is_the_cheapest_assignment():
    torch.manual_seed(1)
    costs = torch.rand(3, 5, 4)
    real = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    sample, query, truth = _match(real, lambda b, rows: costs[b][:, rows])
    for b in (0, 2):
        rows = real[b].nonzero()[:, 0].tolist()
        best = min(
            sum(costs[b, q, a].item() for q, a in zip(p, rows, strict=True)) for p in permutations(range(5), len(rows))
        )
        mine = sample == b
        assert sorted(truth[mine].tolist()) == rows
        assert costs[b, query[mine], truth[mine]].sum().item() == pytest.approx(best, abs=1e-6)
    assert (sample != 1).all()


@pytest.mark.parametrize("empty", [False, True])
def test_losses_are_per_sample_finite_and_have_gradients(empty):
    perception, batch = _perception(), _batch(empty=empty)
    losses = perception.losses(perception(torch.randn(4, 9, 32), batch.navigation_B), batch)
    assert set(losses) == {"agent", "map", "navigation"}
    for name, loss in losses.items():
        assert loss.shape == (4,)
        assert torch.isfinite(loss).all()
        if empty and name == "navigation":
            assert (loss == 0).all()
        else:
            assert (loss > 0).all()
    sum(v.sum() for v in losses.values()).backward()
    for name, p in perception.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


def test_a_sample_loss_does_not_depend_on_its_batch():
    perception, batch = _perception(), _batch(6)
    scene = torch.randn(6, 9, 32)
    rows = torch.tensor([4, 1])
    whole = perception.losses(perception(scene, batch.navigation_B), batch)
    part = batch.take(rows)
    some = perception.losses(perception(scene[rows], part.navigation_B), part)
    for name in whole:
        torch.testing.assert_close(whole[name][rows], some[name])


def test_invisible_agents_are_not_asked_for():
    perception = _perception(Rig((Rig.default()["front"],)))
    batch = _batch()
    behind = dataclasses.replace(batch, boxes_BA6=batch.boxes_BA6 * torch.tensor([-1.0, 1, 1, 1, 1, 1]))
    none = dataclasses.replace(batch, classes_BA=torch.full_like(batch.classes_BA, -1))
    queries = perception(torch.randn(4, 9, 32), batch.navigation_B)
    torch.testing.assert_close(perception.losses(queries, behind)["agent"], perception.losses(queries, none)["agent"])
    assert not torch.allclose(perception.losses(queries, batch)["agent"], perception.losses(queries, none)["agent"])


def test_heads_learn_one_batch():
    """After overfitting, the most certain query is the car, in its place, and only it."""
    perception, batch = _perception(), _batch()
    scene = torch.randn(4, 9, 32)
    optimiser = torch.optim.Adam(perception.parameters(), 6e-3)
    first = None
    for _ in range(120):
        losses = perception.losses(perception(scene, batch.navigation_B), batch)
        total = sum(v.mean() for v in losses.values())
        first = first if first is not None else total.item()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert total.item() < 0.1 * first
    exist, boxes, logits = perception.detect(perception(scene, batch.navigation_B))
    best = exist.argmax(1)
    assert ((exist > 0.5).sum(1) == 1).all()
    rows = torch.arange(4)
    torch.testing.assert_close(boxes[rows, best, :2], batch.boxes_BA6[:, 0, :2], atol=1.0, rtol=0)
    assert (logits[rows, best].argmax(-1) == AgentClass.CAR).all()
