"""The whole story of a recipe: clips → demonstrations → stages 1a, 1b, 1c → 2 → 3 → four suites → report."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from senna2.config import fingerprint, load_json, to_dict
from senna2.data.store import samples_of
from senna2.evaluate.results import write_results
from senna2.files import write_json
from senna2.model.policy import DualSystem
from senna2.recipes.cache import FRAME_CODE, keep_if_same
from senna2.recipes.clips import make_clips
from senna2.recipes.config import Recipe, load_recipe, run_mark
from senna2.recipes.kept_weights import has, kept_of
from senna2.recipes.measure import (
    clip_shapes,
    collect_results,
    headline,
    measure,
    open_loop_samples,
)
from senna2.recipes.media import PAIR, family_videos, story_figures
from senna2.recipes.results import Study, baselines, baselines_tiny, results, results_tiny
from senna2.recipes.rows import Kept
from senna2.recipes.stages import demonstration_samples, new_policy, run_stage, with_adapter
from senna2.recipes.study import plan_study
from senna2.recipes.study_report import run_study, unmeasured
from senna2.report.page import write_report
from senna2.train.stage1 import vlm_of
from senna2.types import InputError
from senna2.workers import run_jobs, worker_count

PARTS = ("stages", "videos")  # clips and samples are kept by content
COMPARED = (("senna2", "senna"), ("senna2", "senna2@2"), ("senna2@2", "senna2@1"), ("senna", "constant_velocity"))


def run_verb(
    name: str, out: Path | None, *, seed: int | None = None, workers: int | None = None, resume: bool = False,
    tiny: bool = False, limit: int | None = None, only: Sequence[str] = (), publish: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`senna2 run`: a recipe's whole story, or the queue of a study (to which alone belong `tiny`, `limit`, `only` and
    `publish`)."""
    recipe = _chosen(name, seed, tiny, limit)
    out = _place(recipe) if out is None else out
    workers = max(1, worker_count(workers))
    torch.set_num_threads(1)  # models this small gain little from two, and lose much where cores are shared
    if isinstance(recipe, Study):
        return run_study(recipe, out, workers=workers, only=only, publish=publish)
    if only or publish is not None:
        raise InputError(f"--only, --publish: are for a recipe with a queue (results), not for {recipe.name}")
    return run_recipe(recipe, out, workers=workers, resume=resume)


def jobs_verb(
    name: str,
    out: Path | None,
    *,
    tiny: bool = False,
    limit: int | None = None,
    only: Sequence[str] = (),
    publish: Path | None = None,
) -> list[dict[str, Any]]:
    """`senna2 run --jobs`: the queue of a study as it stands; nothing is run. With `publish`, what is left to do beside
    the rows that are kept there, and which weights a run would begin with ("kept")."""
    recipe = _chosen(name, None, tiny, limit)
    if not isinstance(recipe, Study):
        raise InputError(f"--jobs: recipe {recipe.name} has no queue; results has")
    queue = plan_study(recipe, _place(recipe) if out is None else out)
    if publish is None:
        return queue.listing(only)
    kept = Kept(publish)
    there = {job for one in kept_of(recipe) if has(kept, queue, one) for job in one.jobs}
    rows = queue.listing(only or unmeasured(recipe, queue, kept))
    return [row | ({"state": "kept"} if row["job"] in there and row["state"] != "done" else {}) for row in rows]


def _place(recipe: Recipe) -> Path:
    return Path("runs") / (recipe.queue if isinstance(recipe, Study) else recipe.name)


def _chosen(name: str, seed: int | None, tiny: bool, limit: int | None) -> Recipe:
    recipe = load_recipe(name)
    if limit is not None and not isinstance(recipe, Study):
        raise InputError(f"--limit: is for a recipe with a queue (results), not for {recipe.name}")
    small = [few for full, few in ((results, results_tiny), (baselines, baselines_tiny)) if recipe == full()]
    if tiny and not small:
        raise InputError(f"--tiny: is for the recipes results and baselines, not for {recipe.name}")
    recipe = small[0]() if tiny else recipe
    if seed is not None and isinstance(recipe, Study):
        raise InputError("--seed: a study has its own training seeds; write a recipe with others (module:function)")
    if limit is not None and isinstance(recipe, Study):
        clips = dataclasses.replace(recipe.clips, test=limit)
        recipe = dataclasses.replace(recipe, clips=clips, side_clips=min(recipe.side_clips, limit))
    return recipe if seed is None else dataclasses.replace(recipe, seed=seed)


def run_recipe(recipe: Recipe, out: Path, *, workers: int, resume: bool = False) -> dict[str, Any]:
    """Run a recipe into `out`; returns where results and report lie, and the headline."""
    _open_run(out, recipe, resume)
    timings: dict[str, float] = {}
    with _timed("clips", timings):
        c = recipe.clips
        clips = {
            split: _clips(recipe, split, count, out, workers, resume)
            for split, count in (("train", c.train), ("tune", c.tune), ("test", c.test))
        }
    with _timed("demonstrations", timings):
        demonstration_samples(recipe, clips["train"], out / "samples" / "train", workers=workers, training=True,
                              resume=resume)  # fmt: skip
    policies = _train(recipe, out, clips, workers, resume, timings)
    with _timed("evaluation", timings):
        e = recipe.evaluation
        keep_if_same(out / "samples" / "test", {"every": c.every}, FRAME_CODE, resume=resume)
        samples = open_loop_samples(
            clips["test"], out / "samples" / "test", every=c.every, most=e.open_samples, workers=workers
        )
        specs = {"constant_velocity": "constant_velocity", "idm": "idm", "expert": "expert"} | policies
        shapes = clip_shapes(clips["test"])
        measured = measure(
            specs, suites=("consistency", "open", "closed", "control"), clips=clips["test"], samples=samples,
            shapes=shapes, control_samples=e.control_samples, seed=recipe.seed, workers=workers,
            vlm_period_s=e.vlm_period_s, forced=(PAIR, clips["test"][: e.forced_clips]),
        )  # fmt: skip
    results = collect_results(
        measured, recipe={"name": recipe.name, "note": recipe.note, "config": to_dict(recipe)}, seeds=[recipe.seed],
        pairs=COMPARED, timings_s=timings,
    )  # fmt: skip
    with _timed("report", timings):
        videos, video_of = family_videos(
            measured, clips["test"], out / "videos", workers=workers, every=recipe.evaluation.video_every
        )
        for row in results["clips"]:
            row["video"] = video_of.get(row["clip"]) if row["policy"] in PAIR else None
        write_report(results, out, media=[*story_figures(measured, samples), *videos])
    results["timings_s"] = {k: round(v, 1) for k, v in timings.items()}
    write_results(out / "results.json", results)
    return {"report": str(out / "report.html"), "results": str(out / "results.json"), **headline(results)}


def _clips(recipe: Recipe, split: str, count: int, out: Path, workers: int, resume: bool) -> list[Path]:
    """Those that another version of the generator made are made again, unless a run that was begun is ended."""
    folder = out / "clips" / split
    return make_clips(split, count, folder, recipe.families, workers=workers, same_code=not resume)


def _train(
    recipe: Recipe, out: Path, clips: dict[str, list[Path]], workers: int, resume: bool, timings: dict[str, float]
) -> dict[str, str]:
    """All stages; returns policy name → checkpoint folder. Stages that do not need each other run side by side."""
    stages = out / "stages"
    with _timed("stages 1a and 1b", timings):
        _side_by_side(recipe, out, clips["train"], [("1a", None, None), ("1b", None, None)], workers, resume)
    with _timed("stage 1c", timings):
        # `senna`: the same planner, told only the meta-action by a learned embedding; stage 1 only.
        both = [("1c", "both", "senna2@1"), ("1c", "decision", "senna")]
        _side_by_side(recipe, out, clips["train"], both, workers, resume)
    store = samples_of(out / "samples" / "train", clips["train"])
    with _timed("stage 2", timings):
        policy = DualSystem.from_pretrained(stages / "senna2@1" / "policy")
        run_stage("2", policy, recipe, stages / "senna2@2", store=store, resume=resume, workers=workers)
    with _timed("stage 3", timings):
        policy = DualSystem.from_pretrained(stages / "senna2@2" / "policy")
        run_stage("3", policy, recipe, stages / "senna2", clips=clips["train"], tune_clips=clips["tune"], resume=resume,
                  workers=workers)  # fmt: skip
    return {name: str(stages / name / "policy") for name in ("senna", "senna2@1", "senna2@2", "senna2")}


def _side_by_side(
    recipe: Recipe, out: Path, clips: list[Path], jobs: Sequence[tuple[str, str | None, str | None]], workers: int,
    resume: bool,
) -> None:  # fmt: skip
    """Two stages in two processes of one thread each: on two cores faster than one after the other on both."""
    if workers == 1:
        for i, job in enumerate(jobs):
            _one_stage(recipe, out, clips, *job, resume, i)
        return
    calls = [(recipe, out, clips, *job, resume, row) for row, job in enumerate(jobs)]
    run_jobs(_one_stage, calls, workers=len(calls), label=f"stage {jobs[0][0]} and {jobs[1][0]}", unit="stage")


def _one_stage(
    recipe: Recipe, out: Path, clips: list[Path], stage: str, adapter: str | None, name: str | None, resume: bool,
    row: int,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    stages = out / "stages"
    store = samples_of(out / "samples" / "train", clips)
    if stage == "1c":
        assert adapter is not None
        policy = DualSystem.from_pretrained(stages / "1b" / "policy")
        policy.attach_vlm(vlm_of(DualSystem.from_pretrained(stages / "1a" / "policy")))
        if adapter != policy.config.adapter:
            policy = with_adapter(policy, adapter, recipe.seed)
    else:
        policy = new_policy(recipe)
    run_stage(stage, policy, recipe, stages / (name or stage), store=store, resume=resume, bar_row=row)


def _open_run(out: Path, recipe: Recipe, resume: bool) -> None:
    """Make the folder ours. A new run clears what an old one of ours left; a stranger's folder is never touched."""
    identity = {"recipe": recipe.name, "fingerprint": fingerprint(recipe)}
    if resume:
        mark = out / "run.json"
        if not mark.is_file():
            raise InputError(f"--resume: {out} holds no run (no run.json); drop --resume to start one")
        if load_json(mark) != identity:
            raise InputError(f"{mark}: is of another recipe or seed; drop --resume or choose another --out")
        return
    mark = run_mark(out, recipe.name)
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
    write_json(mark, identity)


@contextmanager
def _timed(name: str, timings: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start
