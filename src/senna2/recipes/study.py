"""The jobs of a study (`recipes.results`): clips and samples once, then for each training seed every row of the tables;
last the systems it is compared with. What is trained stands in `arms`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from senna2.config import to_dict
from senna2.evaluate.metrics import EVALUATOR_VERSION
from senna2.recipes import study_jobs as work
from senna2.recipes.arms import ARMS, PEER_ARMS, PEERS, TRAINERS, arm_recipe, peer_seconds, stage_config
from senna2.recipes.costs import learned_from, measure_costs
from senna2.recipes.queue import Job, Queue
from senna2.recipes.results import Study
from senna2.train.stage3 import Stage3
from senna2.world.town.families import CORE, SHOWCASE, split_scenes

BASELINES = ("constant_velocity", "naive", "idm", "expert")
FULL = ("senna", "senna@long", "senna2@1", "senna2@2", "senna2")  # rows that drive all test clips
SIDE = ("senna2@1none", "senna2@1vlm", "senna2@1long", "senna2@literal")
SHOWN = ("senna", "senna2")  # left and right in the showcase
SYSTEMS = (*PEERS, "senna", "senna@long", *TRAINERS, "senna2")  # of the tables that compare systems
COSTS = "costs"  # the job that measures what they cost
WEIGHED = "weighed-"  # a figure of a planner's page begins with this
FORCED = "figure-A1-"  # and those of the systems in SHOWN
# Throughputs of one thread, for the estimates (docstring of recipes.results).
PLANNER_S, VLM_S, BOTH_S, STAGE2_S = 1 / 88, 1 / 140, 1 / 64, 1 / 45
CLIP_S, TRAIN_SAMPLES_S, TEST_SAMPLES_S, DRIVE_S, CHEAP_S, PLAN_S = 0.5, 2.1, 0.4, 1.65, 0.2, 0.0095
ROW_S, COSTS_S = 20.0, 60.0
FIRST_EVALUATOR = 1  # whose rows were kept before a key knew of it


def plan_study(study: Study, out: Path) -> Queue:
    """All jobs of the study, in the order in which they are started."""
    data = [*_clip_jobs(study, out)]
    by_kind = {kind: tuple(j.name for j in data if j.name.startswith(f"clips/{kind}/"))
               for kind in ("train", "tune", "test", "showcase")}  # fmt: skip
    jobs = [*data]
    for seed in study.seeds:
        jobs += [_training(study, out, seed, name, by_kind) for name in ARMS if name not in PEER_ARMS]
        for name in (*FULL, *SIDE):
            jobs += _measuring(study, out, str(seed), name, seed, by_kind, stage=f"train/{seed}/{name}")
    for name in BASELINES:
        jobs += _measuring(study, out, work.NO_SEED, name, 0, by_kind, stage="")
    first = study.seeds[0]
    jobs += [_forced(study, out, first, name, by_kind["test"]) for name in SHOWN]
    for seed in study.seeds:
        for name in PEER_ARMS:
            jobs.append(_training(study, out, seed, name, by_kind))
            if seed == first and name in PEERS:
                jobs.append(_weighed(study, out, seed, name, by_kind["test"]))
            if name in (*PEERS, *TRAINERS):
                jobs += _measuring(study, out, str(seed), name, seed, by_kind, stage=f"train/{seed}/{name}")
    file = out / "costs.json"
    what = {name: [to_dict(study.vlm), to_dict(arm_recipe(study, first, name).policy), learned_from(study, name)]
            for name in SYSTEMS}  # fmt: skip
    jobs.append(Job(COSTS, measure_costs, (study, SYSTEMS, file), (file,), what, (), COSTS_S))
    return Queue.of(out, jobs)


def measured_by(study: Study, queue: Queue) -> list[str]:
    """The rows that this recipe measures: the study's own, or those of the systems that Senna-2 is compared with."""
    ours = study.table == "results"
    return [n for n in row_jobs(queue) if (n.split("/")[2] in PEER_ARMS) != ours]


def figure_jobs(study: Study) -> dict[str, str]:
    """The job behind each figure that is drawn with weights; the other figures are made from the rows."""
    peers = {f"{WEIGHED}{name}": f"weighed/{name}" for name in PEERS}
    return peers | {f"{FORCED}{name}": f"forced/{study.seeds[0]}/{name}" for name in SHOWN}


def row_jobs(queue: Queue) -> list[str]:
    return [n for n in queue.jobs if n.startswith("rows/")]


def clip_list(study: Study, kind: str) -> list[tuple[str, int]]:
    """(family, seed) of the clips of a split, or of the showcase."""
    if kind == "showcase":
        return [(family, seed) for family, seeds in SHOWCASE.items() for seed in seeds[: study.showcase]]
    return split_scenes(kind, int(getattr(study.clips, kind)), study.families or CORE)


def _clip_jobs(study: Study, out: Path) -> list[Job]:
    jobs = []
    c = study.clips
    for kind in ("train", "tune", "test", "showcase"):
        chosen = clip_list(study, kind)
        how: dict[str, Any] = {"open_every": study.open_every} if kind == "test" else {}
        if kind == "train":
            how = {"drives": c.drives, "every": c.every, "branch_every": c.branch_every, "instructed": c.instructed,
                   "recover_every": c.recover_every,
                   "seed": study.seed}  # fmt: skip
        cost = CLIP_S + {"train": TRAIN_SAMPLES_S, "test": TEST_SAMPLES_S}.get(kind, 0.0)
        for i in range(0, len(chosen), study.group):
            part = chosen[i : i + study.group]
            folders = tuple(work.clip_folder(out, kind, *one) for one in part)
            counts = out / "samples" / kind / f"counts-{i // study.group}.json"
            samples = tuple(out / "samples" / kind / folder.name for folder in folders)
            jobs.append(Job(
                f"clips/{kind}/{i // study.group}", work.make_part, (out, kind, part, how, counts),
                (*folders, counts), {"clips": part, "how": how}, (), cost * len(part), samples,
            ))  # fmt: skip
    return jobs


def _training(study: Study, out: Path, seed: int, name: str, clips: dict[str, tuple[str, ...]]) -> Job:
    arm, recipe = ARMS[name], arm_recipe(study, seed, name)
    before = tuple(f"train/{seed}/{n}" for n in (arm.start, arm.vlm) if n)
    data = (*clips["train"], *clips["tune"]) if arm.stage == "3" else clips["train"]
    config = stage_config(recipe, arm.stage)
    if name in PEER_ARMS:
        cost = peer_seconds(study, arm)
    elif arm.stage == "3":
        rounds, c = recipe.stage3.rounds, recipe.clips
        drives = rounds * c.rollout + (rounds + 1) * c.tune
        cost = DRIVE_S * drives + rounds * _stage3_training_s(recipe.stage3)
    else:
        each = {"1a": VLM_S, "1b": PLANNER_S, "1c": BOTH_S, "2": STAGE2_S}[arm.stage]
        cost = each * config.optim.steps * config.optim.batch
    settings = {"arm": to_dict(arm), "stage": to_dict(config), "seed": seed, "policy": to_dict(recipe.policy)}
    settings |= {"vlm": to_dict(recipe.vlm), "rollout": recipe.clips.rollout if arm.stage == "3" else 0}
    settings |= {"precision": recipe.precision} if recipe.precision != "float32" else {}  # as keys were before it
    return Job(
        f"train/{seed}/{name}", work.train_arm, (recipe, arm, seed, name, out),
        (work.stage_folder(out, seed, name),), settings, (*before, *data), cost,
    )  # fmt: skip


def _stage3_training_s(stage: Stage3) -> float:
    return 3 * PLANNER_S * stage.low.steps * stage.low.batch + 4 * VLM_S * stage.high.steps * stage.high.batch


def _measuring(
    study: Study, out: Path, label: str, name: str, seed: int, clips: dict[str, tuple[str, ...]], *, stage: str
) -> list[Job]:
    """Plans for the open-loop samples, drives of the test clips and, of those shown, of the showcase; what they come
    to, as a row."""
    e = study.evaluation
    spec = str(work.stage_folder(out, seed, name) / "policy") if stage else name
    test = clip_list(study, "test")
    trained = (stage,) if stage else ()
    per_clip = DRIVE_S if stage else CHEAP_S
    plans = out / "plans" / label / f"{name}.npz"
    settings = {"open": e.open_samples, "control": e.control_samples if stage else 0, "seed": seed}
    count = e.open_samples + 3 * e.control_samples if stage else e.open_samples
    jobs = [Job(f"plans/{label}/{name}", work.plan_row, (spec, name, seed, out, test, settings, plans), (plans,),
                settings, (*trained, *clips["test"]), PLAN_S * count)]  # fmt: skip
    lists = {"drives": test if name not in SIDE else test[: study.side_clips]}
    if name in (*SHOWN, "expert", "constant_velocity"):
        lists["showcase"] = clip_list(study, "showcase")
    for what, chosen in lists.items():
        kind = "test" if what == "drives" else "showcase"
        for i in range(0, len(chosen), study.group):
            part, file = chosen[i : i + study.group], out / what / label / name / f"{i // study.group}.npz"
            how = {"clips": part, "seed": seed, "vlm_period_s": e.vlm_period_s}
            jobs.append(Job(
                f"{what}/{label}/{name}/{i // study.group}", work.drive_part,
                (spec, name, seed, out, kind, part, e.vlm_period_s if stage else None, file), (file,), how,
                (*trained, clips[kind][i // study.group]), per_clip * len(part),
            ))  # fmt: skip
    driven, shown = ([j.outputs[0] for j in jobs if j.name.startswith(f"{w}/")] for w in ("drives", "showcase"))
    file = out / "rows" / label / f"{name}.npz"
    version = {"evaluator": EVALUATOR_VERSION} if EVALUATOR_VERSION != FIRST_EVALUATOR else {}
    jobs.append(Job(
        f"rows/{label}/{name}", work.keep_row, (name, seed, out, test, settings, plans, driven, shown, file), (file,),
        settings | version, tuple(j.name for j in jobs), ROW_S,
    ))  # fmt: skip
    return jobs


def _weighed(study: Study, out: Path, seed: int, name: str, test: tuple[str, ...]) -> Job:
    """The figure of a planner's page, of the first seed, on the first clips of the test list."""
    file = out / "weighed" / f"{name}.json"
    spec, most = str(work.stage_folder(out, seed, name) / "policy"), study.evaluation.open_samples
    part = clip_list(study, "test")[: study.group]
    return Job(f"weighed/{name}", work.draw_weighed, (spec, name, out, part, most, file), (file,),
               {"open": most, "clips": part}, (f"train/{seed}/{name}", test[0]), ROW_S)  # fmt: skip


def _forced(study: Study, out: Path, seed: int, name: str, test: tuple[str, ...]) -> Job:
    """Speed and mileage under forced decisions and the VLM's own (Figure A1), of the first seed."""
    e = study.evaluation
    part = clip_list(study, "test")[: e.forced_clips]
    file = out / "forced" / str(seed) / f"{name}.npz"
    spec = str(work.stage_folder(out, seed, name) / "policy")
    settings = {"clips": part, "seed": seed, "vlm_period_s": e.vlm_period_s, "unforced": True}
    needs = (f"train/{seed}/{name}", *test[: 1 + (len(part) - 1) // study.group])
    return Job(f"forced/{seed}/{name}", work.drive_forced, (spec, name, seed, out, part, e.vlm_period_s, file), (file,),
               settings, needs, 4 * DRIVE_S * len(part))  # fmt: skip
