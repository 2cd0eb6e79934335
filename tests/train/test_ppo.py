"""Advantages against worked examples, the clipped objective, and what RAD rewards in a drive."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from senna2.train.events import EVENTS, episode
from senna2.train.ppo import advantages, among_group, clipped, inside, value_loss
from senna2.types import Contact, Rollout


def test_advantages_by_hand_with_values_that_are_not_zero():
    """γ = .9, λ = .95, an event on the third transition; every number worked out on paper."""
    got = advantages(np.array([0.0, 0.0, -1.0]), np.array([-0.2, -0.4, -0.5]), gamma=0.9, lam=0.95)
    d2 = -1.0 + 0.9 * 0.0 + 0.5  # −0.5
    d1 = 0.0 + 0.9 * -0.5 + 0.4  # −0.05
    d0 = 0.0 + 0.9 * -0.4 + 0.2  # −0.16
    a2 = d2
    a1 = d1 + 0.855 * a2  # −0.4775
    a0 = d0 + 0.855 * a1  # −0.5682625
    np.testing.assert_allclose(got, [a0, a1, a2], rtol=1e-12)
    np.testing.assert_allclose(got, [-0.5682625, -0.4775, -0.5], rtol=1e-12)
    cut = advantages(np.zeros(1), np.array([-0.5]), gamma=0.9, lam=0.95, after=-0.5)
    np.testing.assert_allclose(cut, [0.9 * -0.5 + 0.5])


def test_a_perfect_critic_leaves_no_advantage():
    rewards = np.array([0.0, 0.0, 0.0, -1.0])
    values = -(0.9 ** np.arange(3, -1, -1.0))
    np.testing.assert_allclose(advantages(rewards, values, gamma=0.9, lam=0.95), 0, atol=1e-12)


def test_the_clipped_objective():
    old = torch.zeros(4)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    new = torch.log(torch.tensor([1.1, 1.5, 0.9, 0.5])).requires_grad_()
    loss = clipped(new, old, advantage, 0.2)
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.1, -1.2, 0.9, 0.8]))
    loss.sum().backward()
    assert (new.grad != 0).tolist() == [True, False, True, False]  # beyond the clip nothing pulls further
    assert inside(new, old, 0.2).tolist() == [True, False, True, False]
    same = torch.randn(5, requires_grad=True)
    torch.testing.assert_close(clipped(same, same.detach(), torch.ones(5), 0.2).detach(), -torch.ones(5))
    assert float(value_loss(torch.tensor(0.5), torch.tensor(0.2), torch.tensor(0.3))) == 0


def test_a_group_is_compared_with_itself():
    np.testing.assert_allclose(among_group(np.array([1.0, 3.0])), [-1, 1])
    np.testing.assert_array_equal(among_group(np.full(4, 0.7)), np.zeros(4))
    alike = np.array([0.92, 0.93, 0.94, 0.92])
    np.testing.assert_array_equal(among_group(alike, least_spread=0.05), np.zeros(4))
    assert among_group(alike).min() < -0.5


# --- events -------------------------------------------------------------------------------------------------


def drive(n: int = 20, **changes) -> tuple[Rollout, np.ndarray]:
    """A straight drive along the expert's path."""
    rollout = dataclasses.replace(Rollout.fake(n), **changes)
    pose = np.zeros((60, 3))
    pose[:, 0] = 0.8 * np.arange(60)
    return rollout, pose


def shifted(rollout: Rollout, y_F: np.ndarray, yaw_F: np.ndarray | float = 0.0) -> Rollout:
    ego = rollout.ego_F6.copy()
    ego[:, 1], ego[:, 2] = y_F, yaw_F
    return dataclasses.replace(rollout, ego_F6=ego)


def test_a_drive_in_which_nothing_happens_is_cut_not_ended():
    e = episode(*drive())
    assert len(e) == 19  # the last frame has no transition
    assert not e.ended
    assert not e.rewards_F4.any()


@pytest.mark.parametrize("side", [1, -1])
def test_a_deviation_ends_the_drive_and_says_where_to_steer(side):
    rollout, pose = drive()
    e = episode(shifted(rollout, side * 0.25 * np.arange(20)), pose)
    assert e.ended
    assert len(e) == 9  # 2.25 m at frame 9: the transition into it is the last live frame's
    assert e.rewards_F4[-1].tolist() == [0, 0, -1, 0]
    assert not e.rewards_F4[:-1].any()
    assert e.steer == -side  # the ego is to the left of the expert: right would have been better


@pytest.mark.parametrize("side", [1, -1])
def test_a_heading_counts_off_the_path_alone(side):
    rollout, pose = drive()
    yaw = np.where(np.arange(20) >= 12, side * math.radians(50), 0.0)
    assert not episode(shifted(rollout, np.zeros(20), yaw), pose).ended
    e = episode(shifted(rollout, side * 0.3 * np.ones(20), yaw), pose)
    assert len(e) == 12
    assert e.rewards_F4[-1].tolist() == [0, 0, 0, -1]
    assert e.steer == -side
    # Left of the path and turned to the right: what ended it was the heading, and that is what is turned back
    assert episode(shifted(rollout, -side * 0.3 * np.ones(20), yaw), pose).steer == -side


def test_who_is_further_along_than_the_expert_has_not_left_its_path():
    rollout, pose = drive()
    pose[:, 0] = 0.25 * np.arange(60)
    short = pose[:10]  # the expert stopped at 2.25 m, the ego drives on to 15 m
    assert not episode(rollout, short).ended
    aside = np.where(np.arange(20) >= 15, 2.1, 0.0)
    assert len(episode(shifted(rollout, aside), short)) == 15


@pytest.mark.parametrize(("ahead", "x"), [(True, 8.0), (False, -8.0)])
def test_a_dynamic_collision_tells_ahead_from_behind(ahead, x):
    rollout, pose = drive()
    boxes = rollout.boxes_FA6.copy()
    boxes[:, 0, 0] = rollout.ego_F6[:, 0] + x
    contact = Contact(0.7, "leader", 0, not ahead, "front", 5.0)
    e = episode(dataclasses.replace(rollout, boxes_FA6=boxes, contacts=(contact,)), pose)
    assert len(e) == 7  # the contact is seen at frame 7
    assert e.rewards_F4[-1].tolist() == [-1, 0, 0, 0]
    assert e.ahead is ahead


def test_kerbs_and_the_roads_edge_are_static_and_the_first_event_ends_it():
    rollout, pose = drive()
    kerb = Contact(0.9, "kerb", -1, True, "static", 5.0)
    off = np.arange(20) >= 4
    e = episode(dataclasses.replace(rollout, contacts=(kerb,), off_road_F=off), pose)
    assert len(e) == 4
    assert e.rewards_F4[-1].tolist() == [0, -1, 0, 0]
    unknown = episode(dataclasses.replace(rollout, contacts=(kerb,), off_road_F=None), pose)
    assert len(unknown) == 9
    assert EVENTS == ("dynamic", "static", "position", "heading")
