"""Recipes load, survive JSON, hold the paper's tables, and say how they differ from it (`pytest -s` prints that)."""

from __future__ import annotations

import dataclasses
import json

import pytest

from senna2.config import diff, fingerprint, from_dict, to_dict
from senna2.model.config import PolicyConfig
from senna2.recipes.config import Recipe, load_recipe
from senna2.registry import BUILT_IN
from senna2.types import InputError
from senna2.world.town.families import FAMILIES

NAMES = sorted(BUILT_IN["recipes"])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.note
    again = from_dict(type(recipe), json.loads(json.dumps(to_dict(recipe))), name)
    assert again == recipe
    assert fingerprint(again) == fingerprint(recipe)
    assert load_recipe(name) == recipe  # a function of nothing


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_sound(name):
    recipe = load_recipe(name)
    recipe.policy.validate()
    assert set(recipe.families) <= set(FAMILIES)
    assert recipe.clips.branch_every % recipe.clips.every == 0
    assert recipe.clips.rollout <= recipe.clips.train
    for stage in ("stage1a", "stage1b", "stage1c", "stage2"):
        optim = getattr(recipe, stage).optim
        assert 0 <= optim.warmup < optim.steps


def test_an_unknown_field_in_a_saved_recipe_is_named():
    data = to_dict(load_recipe("smoke"))
    data["stage2"]["optim"]["momentum"] = 0.9
    with pytest.raises(InputError, match=r"recipe\.stage2\.optim\.momentum: unknown field"):
        from_dict(Recipe, data, "recipe")


# Tables A1-A5, copied from the paper a second time: lr, weight decay, batch, steps
TABLES = {
    "stage1a.optim": (5e-5, 1e-4, 512, 10_000),
    "stage1b.optim": (1e-4, 1e-4, 12_288, 30_000),
    "stage1c.optim": (5e-5, 1e-4, 512, 10_000),
    "stage2.optim": (1e-5, 0.0, 384, 5_000),
    "stage3.low": (1e-5, 0.0, 128, 500),
    "stage3.high": (1e-5, 0.0, 128, 500),
}


@pytest.mark.parametrize("place", TABLES)
def test_paper_holds_its_tables(place):
    stage, name = place.split(".")
    optim = getattr(getattr(load_recipe("paper"), stage), name)
    assert (optim.lr, optim.weight_decay, optim.batch, optim.steps) == TABLES[place]
    assert (optim.beta1, optim.beta2, optim.eps, optim.schedule) == (0.9, 0.999, 1e-8, "cosine")
    assert optim.warmup == 0
    assert optim.clip == 0  # the paper names none


def test_paper_takes_none_of_our_choices():
    paper = load_recipe("paper")
    assert paper.policy == PolicyConfig.faithful()
    assert (paper.policy.prediction, paper.policy.basis, paper.policy.loss) == ("eps", "points", "mse")
    assert paper.policy.ddim_steps == 2
    assert (paper.stage2.gamma, paper.stage2.lora_rank, paper.stage2.lora_alpha) == (1.0, 8, 16)
    assert (paper.stage3.lora_rank, paper.stage3.lora_alpha) == (8, 16)
    stage_3 = paper.stage3.effective()
    assert (stage_3.lambda_eff, stage_3.lambda_anchor) == (1.0, 0.0)
    assert (paper.stage1c.own_share, paper.stage1c.expert_share) == (1.0, 0.0)
    assert paper.stage1c.stale_max_s == paper.stage2.stale_max_s == 0


# What every run away from the paper must change; a choice of ours that leaves this list, or joins it, is a decision.
CHOICES_OF_OURS = {
    "policy.basis", "policy.first_step_share", "policy.loss", "policy.prediction", "policy.speed_limit_input",
    "policy.t_start", "stage1a.balance", "stage1b.careful", "stage1b.draws", "stage1b.perception_weight",
    "stage1c.careful", "stage1c.draws", "stage1c.expert_share", "stage1c.own_share", "stage1c.perception_weight",
    "stage1c.stale_max_s", "stage2.draws", "stage2.faithful", "stage2.shortfall_weight", "stage2.told",
    "stage2.vlm_lr_scale", "stage3.faithful", "stage3.forced_share", "stage3.high_on",
}  # fmt: skip
SIZES = {
    f"{place}.{name}" for place in TABLES for name in ("batch", "clip", "lr", "steps")
} | {"clips.train", "clips.test", "clips.rollout", "clips.every", "clips.branch_every", "vlm.max_pixels"}  # fmt: skip
STUDY = ("seeds", "longer_lr", "side_clips", "showcase", "open_every", "group", "table", "queue", "peer_s",
         "deciding_s", "peer_options")  # fmt: skip
FREE = ("name", "note", "evaluation.", "clips.", *STUDY)  # may differ without saying anything about the method


@pytest.mark.parametrize("name", ["smoke", "laptop", "results"])
def test_how_a_recipe_differs_from_the_paper(name):
    found = diff(load_recipe("paper"), load_recipe(name))
    print(f"\n{name} against paper:")
    for field, (paper, ours) in found.items():
        if field != "note":
            print(f"  {field:30s} {paper!r} → {ours!r}")
    assert set(found) >= CHOICES_OF_OURS | SIZES
    rest = {f for f in found if not f.startswith(FREE) and ".guards." not in f} - CHOICES_OF_OURS - SIZES
    assert {f.rsplit(".", 1)[-1] for f in rest} <= {"warmup", "weight_decay", "rounds", "checkpoint_every", "log_every"}
    assert all(paper != ours for paper, ours in found.values())


def test_smoke_and_laptop_are_the_same_method():
    """They differ in size alone, so that smoke exercises what laptop runs."""
    found = diff(load_recipe("smoke"), load_recipe("laptop"))
    assert not {f for f in found if f.startswith(("policy.", "vlm."))}
    assert found.keys().isdisjoint(CHOICES_OF_OURS)


def test_a_recipe_may_come_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom senna2.recipes.smoke import smoke\n"
        "def small(): return dataclasses.replace(smoke(), name='small', seed=4)\ndef wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_recipe("mine:small") == dataclasses.replace(load_recipe("smoke"), name="small", seed=4)
    with pytest.raises(InputError, match="returns int, not a senna2"):
        load_recipe("mine:wrong")
    with pytest.raises(
        InputError, match=r"unknown; there are \['baselines', 'gpu', 'laptop', 'paper', 'results', 'smoke'\]"
    ):
        load_recipe("large")
