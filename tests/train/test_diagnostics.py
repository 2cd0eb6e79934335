"""What the log of a stage says of drives and classes, worked by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.train.diagnostics import CLASSES, agreement_counts, driving, shares, with_f1
from senna2.train.frames import RolloutFrames
from senna2.types import Contact, Rollout, Samples


def test_driving_by_hand():
    usual = Rollout.fake(frames=40)
    whole = usual.expert_E4[-1, 2]
    good = dataclasses.replace(usual, progress_F=usual.t_F / usual.t_F[-1] * whole, ttc_F=np.full(40, np.inf))
    stands = dataclasses.replace(
        good, ego_F6=usual.ego_F6 * np.array([1, 1, 1, 0, 1, 1]), progress_F=np.zeros(40),
        ttc_F=np.where(np.arange(40) < 10, 2.0, np.inf), off_road_F=np.arange(40) == 7,
        contacts=(Contact(1.0, "a", 0, False, "rear", 0.0),),
    )  # fmt: skip
    found = driving([good, stands])
    assert found == {
        "progress": 0.5, "parked": 0.5, "off_road": 0.5, "collided": 0.5, "min_ttc_s": 3.5, "ttc_under_3s": 0.125,
    }  # fmt: skip
    unknown = driving([dataclasses.replace(good, off_road_F=None)])
    assert (unknown["off_road"], unknown["parked"]) == (0.0, 0.0)


def test_counts_mask_what_is_unknown_on_either_side():
    said = torch.tensor([0, 2, -1, 2]), torch.tensor([0, 3, 0, 2])
    did = torch.tensor([0, -1, 0, 1]), torch.tensor([0, 0, 0, 1])
    counts = agreement_counts(*said, *did)
    assert (counts["said/accelerate"], counts["did/accelerate"], counts["both/accelerate"]) == (1, 1, 1)
    assert (counts["said/keep"], counts["did/decelerate"], counts["both/keep"]) == (1, 1, 0)
    assert (counts["said/left"], counts["did/left"], counts["both/left"]) == (1, 1, 0)  # a lane change is folded
    assert (counts["said/straight"], counts["did/straight"], counts["both/straight"]) == (2, 3, 2)
    row = with_f1({**counts, "loss": 1.0})
    assert row["loss"] == 1.0
    assert (row["f1_accelerate"], row["f1_keep"], row["f1_straight"]) == (1.0, 0.0, pytest.approx(0.8))
    assert "f1_stop" not in row  # neither said nor done
    scores = [row[f"f1_{c}"] for c in CLASSES if f"f1_{c}" in row]
    assert row["f1_avg"] == pytest.approx(np.mean(scores))
    assert "f1_avg" not in with_f1({"loss": 1.0})


def test_shares_leave_unknown_out():
    assert shares(np.array([0, 0, 2, -1])) == {
        "accelerate": pytest.approx(2 / 3), "decelerate": 0.0, "keep": pytest.approx(1 / 3), "stop": 0.0,
    }  # fmt: skip
    assert set(shares(np.array([-1])).values()) == {0.0}


def test_a_rounds_frames_in_numbers():
    flag = np.arange(8) < 2
    none = np.full(8, -1, np.int8)
    frames = RolloutFrames(Samples.fake(8), flag, np.arange(8) == 5, none, none)
    assert frames.summary() == {"frames": 8.0, "flagged": 0.375, "risky": 0.25, "slow": 0.125}
