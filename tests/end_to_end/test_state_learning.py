"""From nothing to a driver that beats constant velocity: clips, demonstrations, stage 1b, open and closed loop.

Images are left out (`obs="state"`), so that learning itself is tested in minutes. One seed; nothing is tuned here.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from senna2.data.store import SampleStore, write_part
from senna2.demonstrations import Drives, Replay, demonstrate, replay
from senna2.drivers import ConstantVelocity
from senna2.evaluate.closed_loop import closed_loop
from senna2.evaluate.open_loop import open_loop
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.rollouts import drive_many
from senna2.sample_plans import plan_samples
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1b, run_1b
from senna2.types import Rig, VehicleShape
from senna2.workers import run_jobs
from senna2.world.town.families import make_scene, split_scenes

WORKERS = 2
TRAIN_CLIPS, HELD_OUT_CLIPS = 150, 36
STEPS, BATCH = 750, 16  # 12 000 samples
DRIVES = Drives(drives=3, every=2, branch_every=0, instructed=0, images=False)


def _write_clip(family: str, seed: int, split: str, out: Path) -> int:
    """The samples of one clip as a part of the store at `out`; how many they are."""
    scene = make_scene(family, seed, split)
    samples, _ = demonstrate(scene, DRIVES) if split == "train" else replay(scene, Replay(every=4, images=False))
    if samples is None:
        return 0
    write_part(out, f"{family}-{seed}", samples)
    return len(samples)


def _store(split: str, count: int, out: Path) -> SampleStore:
    jobs = [(family, seed, split, out) for family, seed in split_scenes(split, count)]
    run_jobs(_write_clip, jobs, workers=WORKERS, label=f"samples {split}")
    return SampleStore(out)


@pytest.mark.slow
def test_a_planner_trained_on_12000_state_samples_beats_constant_velocity(tmp_path):
    torch.set_num_threads(1)
    store = _store("train", TRAIN_CLIPS, tmp_path / "train")
    held_out = _store("test", HELD_OUT_CLIPS, tmp_path / "test").states
    policy = DualSystem(PolicyConfig(obs="state", adapter="none"), Rig.default(), seed=0)
    policy.fit_planner(store.states)
    config = Stage1b(Optim(steps=STEPS, batch=BATCH, lr=1e-3))
    run_1b(policy.train(), store, config, tmp_path / "training", seed=0, ranks=Ranks(), resume=False)
    policy.eval().save_pretrained(tmp_path / "policy")

    shape, naive = VehicleShape(), ConstantVelocity()
    fde, fde_cv = (open_loop(held_out, plan_samples(p, held_out), shape)["fde_m"].value for p in (policy, naive))
    clips = [functools.partial(make_scene, *clip, "test") for clip in split_scenes("test", HELD_OUT_CLIPS)]
    drive = functools.partial(drive_many, scenes=clips, workers=WORKERS, seed=0)
    own = closed_loop(drive(str(tmp_path / "policy")))
    cv = closed_loop(drive(ConstantVelocity))
    shown = ("cr", "af_cr", "safety_1", "progress_ratio", "parked", "off_road", "straddling", "comfort")
    print(f"\n{len(store)} training samples; {len(held_out)} of test clips")
    print(f"  fde_m           {fde:.2f}, constant velocity {fde_cv:.2f}")
    for name in shown:
        print(f"  {name:15} {own[name].value:.3f}, constant velocity {cv[name].value:.3f}")

    assert np.isfinite([fde, fde_cv]).all()
    assert fde <= 0.70 * fde_cv
    assert own["af_cr"].value < cv["af_cr"].value
    assert own["progress_ratio"].value >= 0.7  # standing still would be safe
