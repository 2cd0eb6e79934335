"""What the jobs of a study do; each runs in a process of one thread and leaves files (`recipes.study` plans them)."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.data.store import samples_of
from senna2.demonstrations import Drives, Replay, collect
from senna2.files import write_json
from senna2.model.policy import DualSystem
from senna2.recipes.arms import Arm
from senna2.recipes.config import Recipe
from senna2.recipes.driven import drive_group, load_rollouts, save_plans, save_rollouts
from senna2.recipes.measure import FORCED, chosen_samples, clip_shapes, configured, plan_policy
from senna2.recipes.rows import measure_row, save_row
from senna2.recipes.stages import new_policy, run_stage, with_adapter, with_planner
from senna2.report.weighed import weighed_figure
from senna2.train.stage1 import vlm_of
from senna2.types import PLAN_DT, Decision, Direction, Samples, Speed
from senna2.world.clip import save_clip
from senna2.world.town.families import CORE, make_scene, split_scenes

LEAST_SPEED = 3.0  # m/s, under which an instant tells little
NO_SEED = "untrained"  # the folder of rows that no training seed changes
Clip = tuple[str, int]  # family, seed


def clip_folder(out: Path, kind: str, family: str, seed: int) -> Path:
    return out / "clips" / kind / f"{family}-{seed}"


def folders(out: Path, kind: str, clips: Sequence[Clip]) -> list[Path]:
    return [clip_folder(out, kind, *clip) for clip in clips]


def stage_folder(out: Path, seed: int, name: str) -> Path:
    return out / "stages" / str(seed) / name


def make_part(out: Path, kind: str, clips: Sequence[Clip], how: Mapping[str, Any], counts: Path) -> None:
    """Some clips of a split, and for train and test their samples."""
    made = folders(out, kind, clips)
    for folder, (family, seed) in zip(made, clips, strict=True):
        if not (folder / "clip.json").is_file():
            save_clip(make_scene(family, seed, kind), folder)
    counted: Counter[str] = Counter(clips=len(made))
    if "open_every" in how:
        counted += collect(made, out / "samples" / kind, Replay(how["open_every"]), workers=0, label=kind)
    elif how:
        counted += collect(made, out / "samples" / kind, Drives(**how, images=True), workers=0, label=kind)
    write_json(counts, dict(sorted(counted.items())))


def train_arm(recipe: Recipe, arm: Arm, seed: int, name: str, out: Path) -> None:
    """One training; goes on from its own checkpoint if it was interrupted."""
    torch.set_num_threads(1)
    if not arm.start:
        policy = new_policy(recipe)
    else:
        policy = DualSystem.from_pretrained(stage_folder(out, seed, arm.start) / "policy")
    if arm.vlm:
        policy.attach_vlm(vlm_of(DualSystem.from_pretrained(stage_folder(out, seed, arm.vlm) / "policy")))
    if arm.start and (arm.anew or arm.planner != policy.config.planner):
        policy.vlm = policy.vlm if arm.vlm else None  # 1b's own has learned nothing
        policy = with_planner(policy, recipe.policy, recipe.seed, anew=arm.anew)
    elif arm.vlm and arm.adapter != policy.config.adapter:
        policy = with_adapter(policy, arm.adapter, recipe.seed)
    c, families = recipe.clips, recipe.families or CORE
    train = folders(out, "train", split_scenes("train", c.train, families))
    data: dict[str, Any] = {"clips": train}
    if arm.stage == "3":
        data["tune_clips"] = folders(out, "tune", split_scenes("tune", c.tune, families))
    if arm.stage != "3" or recipe.stage3.imitation:
        samples = out / "samples" / "train"
        data["store"] = samples_of(samples, train)
    folder = stage_folder(out, seed, name)
    run_stage(arm.stage, policy, recipe, folder, resume=True, workers=0, **data)
    for states in sorted((folder / "training").rglob("checkpoints")):
        shutil.rmtree(states)  # moments of the optimiser: several times the policy, of no use once it stands


def study_samples(out: Path, test: Sequence[Clip], most: int, *, images: bool = True) -> Samples:
    """The open-loop samples: at most `most`, spread evenly over the test clips."""
    return chosen_samples(folders(out, "test", test), out / "samples" / "test", most=most, images=images)


def plan_row(
    spec: str, name: str, seed: int, out: Path, test: Sequence[Clip], settings: Mapping[str, int], file: Path
) -> None:
    """A policy's plans for the samples ("own"), those under each forced speed decision and each passenger's wish."""
    torch.set_num_threads(1)
    samples = study_samples(out, test, settings["open"])
    suites = ("open", "consistency", *(["control"] if settings["control"] else []))
    shapes = clip_shapes(folders(out, "test", test))
    own, forced, told, _, why_none = plan_policy(spec, name, suites, samples, shapes, settings["control"], seed)
    plans = ({} if own is None else {"own": own}) | {s.name.lower(): p for s, p in forced.items()} | told
    save_plans(file, plans, why_none=why_none)


def drive_part(
    spec: str, name: str, seed: int, out: Path, kind: str, clips: Sequence[Clip], vlm_period_s: float | None, file: Path
) -> None:
    """Some clips, driven abreast."""
    torch.set_num_threads(1)
    maker = spec if vlm_period_s is None else functools.partial(configured, spec, vlm_period_s=vlm_period_s)
    save_rollouts(file, drive_group(maker, name, folders(out, kind, clips), seed))


def drive_forced(
    spec: str, name: str, seed: int, out: Path, clips: Sequence[Clip], vlm_period_s: float, file: Path
) -> None:
    """The clips once under the VLM's own decisions and once under each forced speed; the rollouts' policy says which
    (`forced_name`)."""
    torch.set_num_threads(1)
    rollouts = []
    for speed in (None, *FORCED):
        decision = None if speed is None else Decision(speed, Direction.UNKNOWN)
        maker = functools.partial(configured, spec, vlm_period_s=vlm_period_s, forced=decision)
        rollouts += drive_group(maker, forced_name(name, speed), folders(out, "test", clips), seed)
    save_rollouts(file, rollouts)


def forced_name(name: str, speed: Speed | None) -> str:
    return f"{name} {'normal' if speed is None else speed.name.lower()}"


TELLING = ("the sharpest turn", "the hardest braking", "the widest change of lane")


def draw_weighed(spec: str, name: str, out: Path, test: Sequence[Clip], most: int, file: Path) -> None:
    """What the planner weighs at three telling instants of the test clips, as a figure."""
    torch.set_num_threads(1)
    some = telling(study_samples(out, test, most))
    plans, weights = DualSystem.from_pretrained(spec).eval().considered(some)
    figure = weighed_figure(name, f"What {name} weighs", some, plans, weights, TELLING)
    write_json(file, {"title": figure.title, "caption": figure.caption, "svg": figure.svg})


def telling(samples: Samples) -> Samples:
    """Three samples, those of `TELLING`."""
    future, v = samples.future_NT3, samples.motion_N4[:, 0]
    whole = np.isfinite(future).all((1, 2)) & (v > LEAST_SPEED)
    slower = v - np.hypot(*np.moveaxis(future[:, -1, :2] - future[:, -6, :2], -1, 0)) / (5 * PLAN_DT)
    changes = np.isin(samples.direction_N, (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT))
    scores = (np.abs(future[:, -1, 2]), slower, np.where(changes, np.abs(future[:, -1, 1]), -1.0))
    chosen: list[int] = []
    for score in scores:
        free = whole & ~np.isin(np.arange(len(v)), chosen)
        chosen.append(int(np.argmax(np.where(free, np.nan_to_num(score, nan=-np.inf), -np.inf))))
    return samples.take(np.array(chosen))


def keep_row(
    name: str, seed: int, out: Path, test: Sequence[Clip], settings: Mapping[str, int], plans: Path,
    driven: Sequence[Path], shown: Sequence[Path], file: Path,
) -> None:  # fmt: skip
    """What the row's plans and drives come to, as one small file."""
    samples = study_samples(out, test, settings["open"], images=False)
    shapes = clip_shapes(folders(out, "test", test))
    drives, showcase = ([r for f in files for r in load_rollouts(f)] for files in (driven, shown))
    save_row(file, measure_row(name, seed, plans, drives, showcase, samples, shapes, settings["control"]))
