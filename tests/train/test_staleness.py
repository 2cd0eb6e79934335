import dataclasses

import numpy as np
import pytest
import torch

from senna2.model.policy import DualSystem
from senna2.train.loop import Optim
from senna2.train.stage1 import AdapterStage, Stage1c
from senna2.train.staleness import EarlierFrames, drives
from senna2.types import InputError, Rig, Samples

# Two clips as demonstrations store them: clip 0 is a drive every 2 frames, branches off it, and a second drive;
# clip 1 a drive every 4. Columns: clip, frame, counterfactual, drive.
ROWS = np.array(
    [*((0, f, 0, 0) for f in (0, 2, 4, 6, 8)), (0, 0, 1, 0), (0, 4, 1, 0), (0, 4, 1, 0),
     *((0, f, 0, 1) for f in (0, 2, 4, 6, 8, 10)), *((1, f, 0, 2) for f in (0, 4, 8))]
)  # fmt: skip


class Store:
    def __init__(self, states: Samples) -> None:
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index: np.ndarray) -> Samples:
        return self.states.take(index)


def _states() -> Samples:
    clip, frame, branch, _ = ROWS.T
    return dataclasses.replace(
        Samples.fake(len(ROWS)), clip_N=clip.astype(np.int32), frame_N=frame.astype(np.int32),
        counterfactual_N=branch.astype(bool), clips=("a", "b"), families=("x", "y"),
        index_N=np.arange(len(ROWS), dtype=np.int64),
    )  # fmt: skip


def test_drives_are_told_apart_by_the_order_of_their_frames():
    np.testing.assert_array_equal(drives(_states()), ROWS[:, 3])


def test_an_answer_is_of_the_same_drive_and_as_old_as_is_said():
    earlier = EarlierFrames(_states(), 0.5)
    index = np.arange(len(ROWS))
    seen = {i: set() for i in index}
    for step in range(60):
        position, age = earlier.draw(index, 3, step)
        np.testing.assert_array_equal(ROWS[position, 3], ROWS[:, 3])
        np.testing.assert_allclose(age, 0.1 * (ROWS[:, 1] - ROWS[position, 1]))
        assert 0 <= age.min() <= age.max() <= 0.5 + 1e-9
        assert not ROWS[position[age > 0], 2].any()  # the past is what was driven, not another branch
        np.testing.assert_array_equal(position[age == 0], index[age == 0])
        for i, a in zip(index, age, strict=True):
            seen[i].add(round(a, 3))
    assert seen[4] == {0.0, 0.2, 0.4}  # frame 8: frames 8, 6, 4
    assert seen[1] == {0.0, 0.2}  # frame 2: the drive began at 0
    assert seen[0] == seen[8] == {0.0}  # nothing earlier exists
    assert seen[6] == {0.0, 0.2, 0.4}  # a branch at frame 4 has the first drive as its past
    assert seen[15] == {0.0, 0.4}  # every 4 frames


def test_draws_depend_on_sample_seed_and_step_alone():
    earlier = EarlierFrames(_states(), 0.5)
    index = np.array([4, 10, 13, 6])
    whole = earlier.draw(index, 1, 7)[0]
    np.testing.assert_array_equal(earlier.draw(index[[2, 0]], 1, 7)[0], whole[[2, 0]])
    assert any(not np.array_equal(earlier.draw(index, 1, s)[0], whole) for s in range(8, 12))
    position, age = EarlierFrames(_states(), 0.0).draw(np.arange(len(ROWS)), 1, 7)
    np.testing.assert_array_equal(position, np.arange(len(ROWS)))
    assert (age == 0).all()
    with pytest.raises(InputError, match="stale_max_s"):
        EarlierFrames(_states(), -0.1)
    only = _states().take(np.array([5, 6]))  # branches of a drive that was not kept
    np.testing.assert_array_equal(EarlierFrames(only, 0.5).draw(np.arange(2), 0, 0)[0], [0, 1])


@pytest.mark.parametrize("stale_max_s", [0.0, 0.5])
def test_stage_1c_takes_features_and_decision_of_one_earlier_frame(stale_max_s, make_policy, monkeypatch):
    samples = _with_images(_states())
    policy: DualSystem = make_policy()
    config = Stage1c(Optim(steps=2, batch=4, lr=1e-3), own_share=1.0, expert_share=0.0, stale_max_s=stale_max_s)
    stage = AdapterStage(policy, Store(samples), config, 5)
    fresh = policy.ask(samples)
    assert len(fresh.hidden_BD.unique(dim=0)) == len(ROWS) - 3  # every frame has features of its own (branches: a copy)
    given = []
    condition = policy.condition
    monkeypatch.setattr(policy, "condition", lambda *a: (given.append(a), condition(*a))[1])
    index = np.array([4, 12, 9, 15])
    _, values = stage.loss(samples.take(index), 1, len(index))
    position, age = stage.earlier.draw(index, 5, 1)
    hidden, speed, direction, keep = given[0]
    torch.testing.assert_close(hidden, fresh.hidden_BD[position], atol=1e-4, rtol=1e-3)
    assert torch.equal(speed, fresh.speed_B[position])
    assert torch.equal(direction, fresh.direction_B[position])
    assert keep.all()
    assert values["vlm_age_s"] == pytest.approx(age.mean())
    assert (age.max() > 0) == (stale_max_s > 0)


def _with_images(states: Samples) -> Samples:
    """A front image for every frame; a branch sees what its drive saw."""
    images = {k: v.copy() for k, v in Samples.fake(len(states), Rig.fake(), seed=1).images.items()}
    twin = [5, 6, 7], [0, 2, 2]
    motion = states.motion_N4.copy()
    motion[twin[0]] = motion[twin[1]]
    for image in images.values():
        image[twin[0]] = image[twin[1]]
    return dataclasses.replace(states, images=images, motion_N4=motion)
