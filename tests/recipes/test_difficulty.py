"""The table of difficulty: what it counts, what it finds fault with, and (slow) that the town passes."""

import numpy as np
import pytest

from senna2.recipes.difficulty import DrivenClip, drive_clip, expert_labels, findings, measure_difficulty, table
from senna2.recipes.difficulty import _labels as labels_of
from senna2.recipes.difficulty import _row as row_of
from senna2.types import Direction
from senna2.world.scene import Expert
from senna2.world.town.families import CORE, scene_seed


def driven(family: str, seed: int, *, naive: bool, idm: bool = False, expert: bool = False, rejected: int = 0):
    straight = _expert(np.tile([8.0, 0.0], (60, 1)))
    labels, frames, judged = expert_labels(straight)
    failed = {"naive": naive, "idm": idm, "expert": expert}
    return DrivenClip(family, seed, rejected, failed, 2.0, labels, frames, judged, 40_000, 0.3)


def _expert(velocity_E2, direction=Direction.STRAIGHT) -> Expert:
    n = len(velocity_E2)
    pose = np.zeros((n, 3))
    pose[1:, :2] = np.cumsum(0.1 * velocity_E2[1:], 0)
    pose[:, 2] = np.arctan2(velocity_E2[:, 1], velocity_E2[:, 0])
    told = np.full(n, direction, np.int8)
    return Expert(0.1 * np.arange(n), pose, np.hypot(*velocity_E2.T), told, told)


def test_labels_of_a_drive_are_those_of_f_k():
    counts, frames, judged = expert_labels(_expert(np.tile([8.0, 0.0], (60, 1))))
    assert frames == judged == 60 - 14
    assert counts[:9].reshape(3, 3)[0, 0] == frames  # annotated straight, driven straight
    assert counts[18:].reshape(4, 5)[2, 2] == frames  # keep
    braking = np.stack([np.maximum(12.0 - 0.2 * np.arange(60), 0.1), np.zeros(60)], 1)
    counts, _, _ = expert_labels(_expert(braking))
    assert counts[18:].reshape(4, 5)[1].sum() > 0.8 * 46  # decelerate
    assert expert_labels(_expert(np.tile([8.0, 0.0], (10, 1))))[1:] == (0, 0)


def test_whatever_breaks_a_rule_is_said():
    good = [driven(f, i, naive=True, idm=i % 2 == 0) for f in ("cut_in", "curve") for i in range(20)]
    easy = [driven("lane_change", i, naive=i < 5) for i in range(20)]
    crash = [driven("hard_braking", 0, naive=True, expert=True, rejected=3)]
    clips = [*good, *easy, *crash]
    rows = {f: row_of([c for c in clips if c.family == f]) for f in {c.family for c in clips}}
    found = findings(rows, clips, labels_of(clips))
    assert any("lane_change: naive fails in only 25%" in f for f in found)
    assert any("hard_braking: the expert fails" in f for f in found)
    assert any("hard_braking: 75% of the drafts rejected" in f for f in found)
    assert any("label stop" in f for f in found)
    assert not any("cut_in" in f or "curve" in f for f in found)
    assert not any("not above 0" in f for f in found)
    same = [driven("cut_in", i, naive=True, idm=True) for i in range(20)]
    assert any("naive minus idm" in f for f in findings({}, same, labels_of(same)))


def test_a_clip_is_driven_by_all_three():
    one = drive_clip("hard_braking", scene_seed("tune", "hard_braking", 0), "tune")
    assert dict(one.failed) == {"naive": True, "idm": False, "expert": False}
    assert one.frames > 60
    assert one.gaussians > 20_000


@pytest.mark.slow
def test_the_core_set_is_hard_and_fair():
    result = measure_difficulty("core", "tune", 8, workers=2, families=CORE)
    assert [f for f in result["findings"] if not f.startswith("label ")] == []
    assert min(result["labels"]["shares"].values()) > 0.02  # 3 % hold over many clips; these are 80
    assert result["families"].keys() == set(CORE)
    assert "| `cut_in` | 8 |" in table(result)
