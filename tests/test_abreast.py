"""Clips driven abreast give what one clip at a time gives: each has its own noise, clock and memory."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.abreast import drive_abreast
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes.driven import drive_clips
from senna2.rollouts import drive
from senna2.types import Decision, Direction, InputError, Rig, Rollout, Samples, Speed
from senna2.world.clip import load_clip, save_clip
from senna2.world.scene import Scene


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three short clips; the one in the middle is longer."""
    folder = tmp_path_factory.mktemp("clips")
    scene = Scene.fake()
    made = []
    for i, frames in enumerate((8, 14, 8)):
        e = scene.expert
        columns = {f.name: getattr(e, f.name)[:frames] for f in dataclasses.fields(e)}
        meta = dataclasses.replace(scene.meta, name=f"clip-{i}")
        made.append(folder / f"clip-{i}")
        save_clip(dataclasses.replace(scene, meta=meta, expert=dataclasses.replace(e, **columns)), made[-1])
    return made


@pytest.fixture(scope="module")
def policy():
    """Small, with weights moved away from the start (where every plan is the mean plan)."""
    torch.set_num_threads(1)
    config = PolicyConfig(dim=32, blocks=2, channels=(8, 8, 16, 16), agent_queries=4, map_queries=4)
    policy = DualSystem(config, Rig.fake(), vlm=DrivingVLM.tiny(seed=0), seed=0)
    policy.fit_planner(Samples.fake(24, Rig.fake(), seed=3))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for _, p in policy.policy_parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return policy.eval()


def _alike(a: Rollout, b: Rollout) -> None:
    assert a.clip == b.clip
    assert len(a) == len(b)
    np.testing.assert_allclose(a.ego_F6, b.ego_F6, atol=2e-3)
    np.testing.assert_allclose(a.plans_FT2, b.plans_FT2, atol=2e-3)
    np.testing.assert_array_equal(a.vlm_decision_F2, b.vlm_decision_F2)
    np.testing.assert_allclose(a.decision_age_F, b.decision_age_F)


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_abreast_is_one_after_the_other(clips, policy, lanes):
    """Each clip has its own noise, clock and memory, whatever drives beside it; a short clip makes room."""
    alone = [drive(policy, load_clip(c), policy_name="p", seed=4) for c in clips]
    spread = np.ptp([r.plans_FT2[0] for r in alone], axis=0)
    assert spread.max() > 0.05  # else noise of one clip could pass for another's
    ended: list[int] = []
    together = drive_abreast(policy, clips, policy_name="p", seed=4, lanes=lanes, done=lambda: ended.append(1))
    assert len(ended) == 3
    for a, b in zip(alone, together, strict=True):
        _alike(a, b)


def test_a_forced_decision_is_forced_on_all(clips, policy):
    policy.forced = Decision(Speed.STOP, Direction.UNKNOWN)
    try:
        rollouts = drive_abreast(policy, clips, policy_name="p")
    finally:
        policy.forced = None
    assert all((r.decision_F2[:-1, 0] == Speed.STOP).all() for r in rollouts)


def test_lockstep_refuses_any_rig(policy):
    policy.any_rig = True
    try:
        with pytest.raises(InputError, match="any_rig"):
            policy.lockstep()
    finally:
        policy.any_rig = False


def test_drivers_without_lockstep_drive_too(clips):
    rollouts = drive_clips({"cv": "constant_velocity"}, [("cv", c) for c in clips], seed=0, workers=0, label="")
    assert [r.clip for r in rollouts] == ["clip-0", "clip-1", "clip-2"]
    with pytest.raises(InputError, match="neither a registered policy"):
        drive_clips({"x": "nobody"}, [("x", clips[0])], seed=0, workers=0, label="")
