"""A checkpoint that is there stays until another one stands in its place, whatever is refused or interrupted."""

import dataclasses

import pytest
import torch
from test_own_drives import _Store

from senna2.model.policy import DualSystem, PolicyConfig
from senna2.recipes import stages
from senna2.recipes.results import results_tiny
from senna2.recipes.stages import checkpoint_in, run_stage
from senna2.registry import packaged
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim
from senna2.types import InputError, Rig


def _policy(seed: int = 0, **more: object) -> DualSystem:
    config = PolicyConfig(**{"planner": "transfuser", "obs": "state", "adapter": "none", "dim": 32, "heads": 2, **more})
    return DualSystem(config, Rig.default(), seed=seed)


def _recipe():
    recipe = results_tiny()
    optim = Optim(steps=2, batch=4, lr=1e-4)
    return dataclasses.replace(recipe, stage1b=dataclasses.replace(recipe.stage1b, optim=optim))


@pytest.fixture
def trained(tmp_path):
    torch.set_num_threads(1)
    return run_stage("1b", _policy(), _recipe(), tmp_path, store=_Store())


def test_own_drives_under_torchrun_are_refused_before_anything_is_cleared(tmp_path):
    begun = tmp_path / "training" / "round-3"
    begun.mkdir(parents=True)
    policy = _policy(planner="dit")
    with pytest.raises(InputError, match=r"stage grpo: .* start it without torchrun"):
        run_stage("grpo", policy, _recipe(), tmp_path, clips=[tmp_path], ranks=Ranks(0, 2))
    assert begun.is_dir()


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_what_is_refused_leaves_the_checkpoint(trained):
    before = weights(trained)
    with pytest.raises(InputError, match="stage rad2: is for planner 'rad2', not for 'transfuser'"):
        run_stage("rad2", _policy(), _recipe(), trained.parent, store=_Store())
    with pytest.raises(InputError, match="has no VLM"):
        run_stage("2", _policy(), _recipe(), trained.parent, store=_Store())
    assert weights(trained) == before
    assert (trained.parent / "training" / "identity.json").is_file()


def test_what_is_interrupted_leaves_the_checkpoint_and_goes_on(trained, monkeypatch):
    before = weights(trained)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "run_1b", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_stage("1b", _policy(1), _recipe(), trained.parent, store=_Store())
    assert weights(trained) == before
    run_stage("1b", _policy(1), _recipe(), trained.parent, store=_Store(), resume=True)  # not finished: the old one's
    assert weights(trained) != before
    after = weights(trained)
    run_stage("1b", _policy(2), _recipe(), trained.parent, store=_Store(), resume=True)
    assert weights(trained) == after


@pytest.mark.parametrize("name", ["policy", "training"])
def test_strangers_folders_are_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=f"{name}: is not of a stage"):
        run_stage("1b", _policy(), _recipe(), tmp_path, store=_Store())
    assert (tmp_path / name / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_a_checkpoint_may_be_named_as_in_eval(tmp_path):
    assert checkpoint_in(packaged()["senna2"]) == packaged()["senna2"]
    with pytest.raises(InputError, match="idm: drives without a network"):
        checkpoint_in(tmp_path.__class__("idm"))
