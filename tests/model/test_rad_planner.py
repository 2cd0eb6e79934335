"""RAD's actions: the grid against the released anchors, what is never sampled, and how they are read off a plan."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.model.test_planners import policy_of, stirred

from senna2.model.batch import Batch
from senna2.model.planners import rad_anchors as anchors
from senna2.model.planners.rad import drawn
from senna2.types import Rig, Samples

RELEASED = Path(__file__).parents[2].parent / "shared" / "data" / "rad_anchors"


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the released anchors are not here")
def test_the_grid_agrees_with_the_released_anchors_where_they_are_valid():
    mask = np.load(RELEASED / "traj_anchor_mask_05s_3721.npy")[:, 0].astype(bool)
    points = np.load(RELEASED / "traj_anchor_05s_3721.npy")
    yaw = np.load(RELEASED / "traj_anchor_yaw_05s_3721.npy")[:, 0]
    np.testing.assert_array_equal(anchors.valid().flatten(), mask)  # row-major: along, then across
    length, kappa = anchors.arc_length(torch.tensor(anchors.grid().reshape(-1, 2)))
    ours = anchors.along_arc(length[:, None] * torch.arange(6) / 5, kappa).numpy()
    assert np.hypot(*np.moveaxis(ours - points, -1, 0))[mask].max() < 0.015
    assert np.abs((kappa * length).numpy() / 5 - yaw)[mask].max() < 0.004  # the yaw 0.1 s ahead


def test_arcs_end_in_their_cells_and_leave_along_x():
    valid = torch.tensor(anchors.valid())
    ends = torch.tensor(anchors.grid())[valid]
    length, kappa = anchors.arc_length(ends)
    torch.testing.assert_close(anchors.along_arc(length[:, None], kappa)[:, 0], ends, rtol=0, atol=1e-6)
    start = anchors.along_arc(torch.full_like(length, 1e-3)[:, None], kappa)[:, 0]
    assert (start[:, 1].abs() < 1e-5).all()
    round_trip = anchors.along_arc(torch.tensor([[1.0, 20.0]]), torch.tensor([0.4]))[0]
    assert round_trip[1, 1] > 15  # straight on after a right angle, no circle
    assert round_trip[1, 0] == pytest.approx(2.5, abs=1e-5)


def test_the_target_is_the_nearest_valid_cell():
    valid = torch.tensor(anchors.valid())
    row, column = anchors.nearest_valid(torch.tensor([[4.01, 0.012], [0.02, 0.3], [4.0, -0.2]]), valid)
    assert row.tolist()[0] == 16
    assert column.tolist()[0] == anchors.MIDDLE
    assert valid[row, column].all()
    assert (row[2], column[2]) == (16, anchors.MIDDLE - 8)


@pytest.mark.parametrize("v", [0.0, 0.4, 3.0, 8.0, 14.0])
def test_every_action_is_read_off_its_plan(v):
    policy = policy_of("rad")
    rows, columns = np.nonzero(anchors.valid())
    ends = torch.tensor(anchors.grid(), dtype=torch.float32)[rows, columns]
    plan = policy.planner.to_plan(ends, torch.full((len(ends),), v)).numpy()
    assert np.isfinite(plan).all()
    got = anchors.action_of(plan[:, 4])
    np.testing.assert_array_equal(got, (rows, columns))
    steps = np.hypot(*np.moveaxis(np.diff(plan, axis=1, prepend=0 * plan[:, :1]), -1, 0))
    moving = steps[np.hypot(ends[:, 0], ends[:, 1]).numpy() > 0.26 * v]  # nearer ones are stopped at
    assert len(moving) > 2000
    # One acceleration to the cell; on a tight arc chords are shorter than the way, by under 1 %.
    assert (np.abs(np.diff(moving[:, :5], 2, axis=1)) < 2e-3 + 0.01 * moving[:, 2:5]).all()


def test_a_cell_that_cannot_be_reached_is_never_drawn():
    policy = stirred(policy_of("rad", planner_options={"sampled": True}))
    policy.planner.across[-1].bias.data += 5 * torch.randn(61, generator=torch.Generator().manual_seed(1))
    policy.planner.along[-1].bias.data[:3] += 4.0  # rows in which hardly anything is valid
    batch = Batch.from_samples(Samples.fake(16, Rig.fake()))
    seen = set()
    for seed in range(20):
        plan = policy.sample_plan(policy.encode(batch), None, batch, noise=policy.sample_noise(batch.index_B, seed))
        seen |= set(zip(*(a.tolist() for a in anchors.action_of(plan[:, 4].detach().numpy())), strict=True))
    assert len(seen) > 10
    assert all(anchors.valid()[cell] for cell in seen)


def test_drawing_follows_the_probabilities():
    p = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4000, -1)
    index = drawn(p, (torch.arange(4000) + 0.5) / 4000)
    assert torch.bincount(index, minlength=5).tolist() == [0, 1000, 0, 3000, 0]
    assert drawn(p[:2], torch.tensor([0.0, 1.0])).tolist() == [1, 3]


def test_overfitting_makes_the_expert_the_likeliest_action():
    policy = policy_of("rad")
    samples = Samples.fake(2, Rig.fake())  # of speeds that are easy to tell apart
    batch = Batch.from_samples(samples)
    optimiser = torch.optim.Adam(policy.parameters(), 3e-3)
    for step in range(150):
        loss = policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2
    plan = policy.sample_plan(policy.encode(batch), None, batch, noise=policy.sample_noise(batch.index_B, 0))
    gap = np.abs(plan[:, 4, 0].detach().numpy() - samples.future_NT3[:, 4, 0])
    assert gap.max() <= anchors.STEP_X / 2 + 1e-4


def test_untrained_beliefs_are_spread_and_finite():
    policy = policy_of("rad")
    batch = Batch.from_samples(Samples.fake(3, Rig.fake()))
    beliefs = policy.planner.believe(policy.encode(batch), None, batch)
    entropy = -(beliefs.along_BG.softmax(-1) * beliefs.along_BG.log_softmax(-1)).sum(-1)
    assert (entropy > 0.9 * math.log(61)).all()
    assert beliefs.value_along_B.shape == beliefs.value_across_B.shape == (3,)
