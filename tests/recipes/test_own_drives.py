"""Each trainer on the policy's own drives, from a clip folder to a checkpoint that drives."""

import dataclasses
import json

import pytest
import torch

from senna2.model.policy import DualSystem, PolicyConfig
from senna2.recipes.own_drives import DRIVEN, drives_a_round, samples_of
from senna2.recipes.results import results_tiny
from senna2.recipes.stages import run_stage
from senna2.train.loop import Optim
from senna2.types import InputError, Rig, Samples
from senna2.world.clip import save_clip
from senna2.world.town.families import make_scene

PLANNER = {"rad": "rad", "rad2": "rad2", "grpo": "dit", "ppo": "dit"}


class _Store:
    def __init__(self) -> None:
        self.states = Samples.fake(8, Rig.default())

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index):
        return self.states.take(index)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "empty"
    save_clip(make_scene("empty_road", 3, "train"), folder)
    return folder


@pytest.mark.parametrize("stage", DRIVEN)
def test_a_round_from_clip_to_checkpoint(stage, clip, tmp_path):
    torch.set_num_threads(1)
    config = PolicyConfig(planner=PLANNER[stage], obs="state", adapter="none", dim=32, heads=2, blocks=1)
    policy = DualSystem(config, Rig.default(), seed=0)
    policy.fit_planner(Samples.fake(64, Rig.fake()))
    recipe = results_tiny()
    how = dataclasses.replace(getattr(recipe, DRIVEN[stage]), rounds=1)
    recipe = dataclasses.replace(recipe, **{DRIVEN[stage]: how})
    saved = run_stage(stage, policy, recipe, tmp_path, store=_Store(), clips=[clip])
    row = json.loads((tmp_path / "training" / "log.jsonl").read_text())
    assert row["round"] == 0
    again = DualSystem.from_pretrained(saved)
    assert again.config == config  # it neither samples nor explores when it is driven
    assert len(again.plan_batch(Samples.fake(2, Rig.fake())).points_NT2) == 2


def test_what_is_missing_is_named(tmp_path):
    policy = DualSystem(PolicyConfig(planner="rad", obs="state", adapter="none", dim=32, heads=2), Rig.fake(), seed=0)
    with pytest.raises(InputError, match="stage rad: needs clips to drive"):
        run_stage("rad", policy, results_tiny(), tmp_path / "a")
    with pytest.raises(InputError, match=r"stage rad: needs samples"):
        run_stage("rad", policy, results_tiny(), tmp_path / "b", clips=[tmp_path])


def test_what_is_shown_is_counted():
    recipe = results_tiny()
    rad = dataclasses.replace(recipe.reinforce, optim=Optim(steps=10, batch=8, lr=1e-4), rounds=3, imitation_every=5,
                              imitation_batch=4, clips=2)  # fmt: skip
    assert samples_of(rad) == 3 * (8 * 8 + 2 * 4)
    assert drives_a_round(rad) == 2
    rerank = dataclasses.replace(recipe.rerank, optim=Optim(steps=2, batch=8, lr=1e-4), rounds=9, generator_every=4,
                                 generator=Optim(steps=3, batch=5, lr=1e-4), clips=3, group=4)  # fmt: skip
    assert samples_of(rerank) == 9 * 16 + 2 * 15
    assert drives_a_round(rerank) == 12
    assert samples_of(recipe.gradient) == recipe.gradient.rounds * 16
