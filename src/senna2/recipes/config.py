"""What a recipe is: one frozen config that holds every choice of a run."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from senna2.config import later, load_json
from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.registry import get, listing
from senna2.train.gradient import PolicyGradient
from senna2.train.loop import Optim
from senna2.train.rad import Reinforce
from senna2.train.rad2 import Rerank
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3
from senna2.types import InputError, meant


@dataclass(frozen=True)
class Clips:
    """How many generated clips of each split, and how demonstrations are taken from the training ones.

    `drives`: the expert's natural drive plus perturbed ones (start moved sideways, speed scaled: recovery data).
    `every`: frames between samples. `branch_every`: frames between instants at which the expert is forced to
    accelerate, brake or keep for 3 s (counterfactual labels); 0 for none. `instructed`: extra drives a clip under a
    random instruction of a passenger, 5 s of each: by default about a fifth of the samples. `recover_every`: frames
    between displaced states of the natural drive from which the expert shows the way back; 0 for none.
    """

    train: int
    tune: int
    test: int
    rollout: int  # training clips that stage 3 drives, a round
    drives: int = 2
    every: int = 2
    branch_every: int = 10
    instructed: int = 1
    recover_every: int = 0


@dataclass(frozen=True)
class Evaluation:
    """How much is measured. `vlm_period_s`: simulated time between two VLM ticks. `forced_clips`: clips driven under
    forced decisions (speed and mileage curves). `video_every`: frames of a drive between two of its video."""

    open_samples: int
    control_samples: int
    forced_clips: int
    vlm_period_s: float = 0.5
    video_every: int = 1


@dataclass(frozen=True)
class Recipe:
    """One run. `note` is printed in the report: what its numbers may be used for. `precision`: in which encoder and
    planner calculate while they train (weights stay in 32 bit; the VLM's is `vlm.dtype`)."""

    name: str
    note: str
    seed: int
    clips: Clips
    vlm: VLMConfig
    policy: PolicyConfig
    stage1a: Stage1a
    stage1b: Stage1b
    stage1c: Stage1c
    stage2: Stage2
    stage3: Stage3
    evaluation: Evaluation
    families: tuple[str, ...] = field(default=())  # empty: all of the town
    precision: Literal["float32", "bfloat16"] = "float32"
    reinforce: Reinforce = later(Reinforce(Optim(steps=100, batch=256, lr=1e-4)))  # stage rad, of planner "rad"
    rerank: Rerank = later(  # stage rad2, of planner "rad2"
        Rerank(Optim(steps=40, batch=128, lr=1e-4), generator=Optim(steps=40, batch=64, lr=1e-5))
    )
    gradient: PolicyGradient = later(PolicyGradient(Optim(steps=30, batch=48, lr=2e-5)))  # stages grpo and ppo


def load_recipe(name: str) -> Recipe:
    """By registered name or `module:function`; `InputError` says what exists."""
    if ":" not in name:
        known = sorted(listing("recipes"))
        if name not in known:
            raise InputError(
                f"--recipe {name}: unknown; there are {known}, or give module:function{meant(name, known)}"
            )
        recipe = get("recipes", name)()
    else:
        module, function = name.split(":", 1)
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError, SyntaxError) as error:
            raise InputError(f"--recipe {name}: {error}; give module:function that can be imported") from error
        try:
            inspect.signature(make).bind()
        except TypeError as error:
            raise InputError(
                f"--recipe {name}: must be a function without arguments that returns a Recipe ({error})"
            ) from error
        recipe = make()
    if not isinstance(recipe, Recipe):
        raise InputError(f"--recipe {name}: returns {type(recipe).__name__}, not a senna2.recipes.config.Recipe")
    return recipe


def run_mark(out: Path, name: str) -> Path:
    """`out`/run.json, which says whose run a folder holds; `InputError` unless recipe `name` may run there."""
    mark = out / "run.json"
    if not mark.is_file():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"--out {out}: is not empty and not a run of senna2; choose another folder")
        return mark
    if (other := load_json(mark).get("recipe")) != name:
        raise InputError(f"--out {out}: holds a run of recipe '{other}'; choose another folder")
    return mark
