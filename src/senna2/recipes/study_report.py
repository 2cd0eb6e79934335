"""What a study found: its files → results.json, claims.json, tables in Markdown, figures and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna2.config import load_json, to_dict
from senna2.decisions import coarse
from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import PATH_CLASSES, consistency, recorded
from senna2.evaluate.control import control, nobody_listens, relative_speeds
from senna2.evaluate.metrics import finite
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import assemble, compare, write_results
from senna2.provenance import provenance, write_json
from senna2.recipes import study_jobs as work
from senna2.recipes.claims import claims, evidence
from senna2.recipes.driven import load_plans, load_rollouts
from senna2.recipes.instructed import instructed_of
from senna2.recipes.measure import FORCED, clip_shapes, headline
from senna2.recipes.queue import Queue, QueueError, run_queue
from senna2.recipes.results import Study
from senna2.recipes.study import BASELINES, FULL, SHOWN, SIDE, clip_list, plan_study
from senna2.report.figures import forced_drives_figure, overview_figure, relative_speed_figure
from senna2.report.markdown import results_page
from senna2.report.media import Figure, Video
from senna2.report.page import write_report
from senna2.report.video import family_video
from senna2.types import Array, InputError, Plans, Rollout, Samples, Speed, VehicleShape
from senna2.workers import run_jobs
from senna2.world.clip import load_clip

COMPARED = (
    ("senna2", "senna@long"), ("senna2", "senna"), ("senna2@1", "senna"), ("senna2@2", "senna2@1"),
    ("senna2@1long", "senna2@1"), ("senna2@2", "senna2@1long"), ("senna2", "senna2@2"), ("senna2@literal", "senna2@2"),
    ("senna2", "senna2@literal"), ("senna2@1", "senna2@1vlm"), ("senna2@1", "senna2@1none"),
    ("senna2@1", "constant_velocity"), ("senna2", "expert"),
)  # fmt: skip
SHOWCASE = " showcase"  # after a policy's name: the same policy on the showcase clips


def run_study(
    study: Study, out: Path, *, workers: int, only: Sequence[str] = (), publish: Path | None = None
) -> dict[str, Any]:
    """Run what is not finished, then write what was found so far into `out` (and `publish`); returns where it lies.

    Raises `QueueError` after that if jobs failed, `InputError` if `out` is something else.
    """
    _open(out, study)
    queue = plan_study(study, out)
    failure: QueueError | None = None
    try:
        run_queue(queue, side_by_side=workers, only=only)
    except QueueError as error:
        failure = error
    written = write_study(study, queue, out, workers=workers, publish=publish)
    if failure is not None:
        raise failure
    return written


def _open(out: Path, study: Study) -> None:
    """A study always goes on where it stopped; what was made under other settings is made again, job by job."""
    mark = out / "run.json"
    if mark.is_file() and load_json(mark).get("recipe") != study.name:
        raise InputError(f"--out {out}: holds a run of recipe '{load_json(mark).get('recipe')}'; choose another folder")
    if not mark.is_file() and out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty and not a run of senna2; choose another folder")
    write_json(mark, {"recipe": study.name})


def write_study(study: Study, queue: Queue, out: Path, *, workers: int, publish: Path | None) -> dict[str, Any]:
    """results.json, claims.json, README.md, figures and report.html from the rows that are finished."""
    found = gather(study, queue, out)
    if not found.suites:
        return {"queue": str(out / "queue.json"), "rows": "none is finished yet"}
    policies = found.suites
    pairs = [(a, b) for a, b in COMPARED if a in policies and b in policies]
    results = assemble(
        provenance=provenance(study.seed),
        recipe={"name": study.name, "note": study.note, "config": to_dict(study)},
        seeds=study.seeds,
        policies=policies,
        clips=found.rows,
        comparisons=compare(policies, pairs),
        timings_s=queue.seconds(),
    )
    proofs = evidence(policies)
    if found.least_class_share is not None:
        proofs["least_class_share"] = found.least_class_share
    results["evidence"] = proofs
    causes = publish / "causes.json" if publish is not None else out / "causes.json"
    judged = claims(results, load_json(causes) if causes.is_file() else None)
    figures = {"figure-1": overview_figure(results), **found.figures}
    videos = _videos(found.shown, out, workers)
    shown = {v.clip: f"videos/{v.path.name}" for v in videos}
    for row in results["clips"]:
        seen = row["policy"].removesuffix(SHOWCASE) in SHOWN and row["seed"] == study.seeds[0]
        row["video"] = shown.get(row["clip"]) if seen else None
    write_results(out / "results.json", results)
    write_json(out / "claims.json", judged)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        (folder / f"{name}.svg").write_text(figure.svg + "\n", encoding="utf-8")
    words = {f"figures/{name}.svg": figure for name, figure in figures.items()}
    (out / "README.md").write_text(results_page(results, judged, words), encoding="utf-8")
    write_report(results, out, media=[*figures.values(), *videos])
    if publish is not None:
        _publish(out, publish)
    return {"report": str(out / "report.html"), "results": str(out / "results.json"),
            "claims": {k: _verdict(c) for k, c in judged["claims"].items()}, **headline(results)}  # fmt: skip


def _verdict(claim: Mapping[str, Any]) -> str:
    return "held" if claim["held"] else f"not held: {claim['cause']}"


def _publish(out: Path, publish: Path) -> None:
    publish.mkdir(parents=True, exist_ok=True)
    for name in ("figures", "videos"):
        if (out / name).is_dir():
            shutil.copytree(out / name, publish / name, dirs_exist_ok=True)
    for name in ("claims.json", "README.md"):
        shutil.copy2(out / name, publish / name)
    (publish / "results.json").write_text(a_line_each(load_json(out / "results.json")), encoding="utf-8")


def a_line_each(results: Mapping[str, Any]) -> str:
    """The same JSON with a line for each clip: thousands of rows stay readable, and so do differences of two files."""
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in results["clips"])
    text = json.dumps({**results, "clips": []}, indent=1, allow_nan=False)
    return text.replace('"clips": []', f'"clips": [\n{rows}\n]') + "\n"


# --- from the jobs' files to suites ----------------------------------------------------------------------


class Found:
    """What the finished jobs left."""

    def __init__(self) -> None:
        self.suites: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.figures: dict[str, Figure] = {}
        self.shown: dict[str, list[Rollout]] = {}  # of the first seed, the clip that each family shows
        self.least_class_share: dict[str, Any] | None = None


def gather(study: Study, queue: Queue, out: Path) -> Found:
    """Suites of every row that is finished, by the seeds that are."""
    found = Found()
    test = clip_list(study, "test")
    if not all(queue.finished(n) for n in queue.jobs if n.startswith("clips/test/")):
        return found
    samples = work.study_samples(out, test, study.evaluation.open_samples, images=False)
    shapes = clip_shapes(work.folders(out, "test", test))
    forced: dict[str, dict[Speed, Array]] = {}
    for name in (*BASELINES, *FULL, *SIDE):
        labels = {0: work.NO_SEED} if name in BASELINES else {s: str(s) for s in study.seeds}
        suites = _suites(study, queue, out, name, labels, samples, shapes, forced, found)
        if suites:
            found.suites[name] = suites
        rollouts = _rollouts(queue, out, "showcase", name, labels)
        if rollouts:
            found.suites[name + SHOWCASE] = {"closed_loop": closed_loop(rollouts)}
            found.rows += [{**clip_row(r), "policy": name + SHOWCASE} for r in rollouts]
            found.shown[name] = _first_of_family(rollouts)
    if all(name in forced for name in SHOWN):
        found.figures["figure-4"] = relative_speed_figure({name: forced[name] for name in SHOWN})
    for name in SHOWN:
        figure = _forced_figure(study, queue, out, name)
        if figure is not None:
            found.figures[f"figure-A1-{name}"] = figure
    return found


def _suites(
    study: Study, queue: Queue, out: Path, name: str, labels: Mapping[int, str], samples: Samples,
    shapes: Mapping[str, VehicleShape], forced: dict[str, dict[Speed, Array]], found: Found,
) -> dict[str, Any]:  # fmt: skip
    plans = {
        seed: load_plans(out / "plans" / label / f"{name}.npz")
        for seed, label in labels.items()
        if queue.finished(f"plans/{label}/{name}")
    }
    suites: dict[str, Any] = {}
    if plans:
        own = {seed: p["own"] for seed, p in plans.items()}
        suites["open_loop"] = open_loop(samples, own, shapes)
        if any((p.vlm_speed_N >= 0).any() for p in own.values()):
            suites["consistency"] = consistency(samples, own)
        some = samples.take(slice(0, study.evaluation.control_samples))
        if all("keep" in p for p in plans.values()):
            by_speed = {s: {seed: p[s.name.lower()] for seed, p in plans.items()} for s in FORCED}
            suites["control"] = control(some, by_speed, instructed_of(plans))
            forced[name] = {
                s: np.concatenate([relative_speeds(some, p) for p in of_seed.values()])
                for s, of_seed in by_speed.items()
            }
        else:
            suites["control"] = nobody_listens()
        if name == "senna2":
            found.least_class_share = least_class_share(samples, list(own.values()))
    rollouts = _rollouts(queue, out, "drives", name, labels)
    if rollouts:
        suites["closed_loop"] = closed_loop(rollouts)
        found.rows += [clip_row(r) for r in rollouts]
    return suites


def _rollouts(queue: Queue, out: Path, what: str, name: str, labels: Mapping[int, str]) -> list[Rollout]:
    """Drives of the seeds that have all of theirs."""
    rollouts = []
    for label in labels.values():
        jobs = [n for n in queue.jobs if n.startswith(f"{what}/{label}/{name}/")]
        if jobs and all(queue.finished(n) for n in jobs):
            for job in jobs:
                rollouts += load_rollouts(out / f"{job}.npz")
    return rollouts


def _first_of_family(rollouts: Sequence[Rollout]) -> list[Rollout]:
    first: dict[str, Rollout] = {}
    seed = min(r.seed for r in rollouts)
    for r in rollouts:
        if r.seed == seed:
            first.setdefault(r.family, r)
    return list(first.values())


def _forced_figure(study: Study, queue: Queue, out: Path, name: str) -> Figure | None:
    seed = study.seeds[0]
    own = _rollouts(queue, out, "drives", name, {seed: str(seed)})
    if not queue.finished(f"forced/{seed}/{name}") or not own:
        return None
    rollouts = load_rollouts(out / "forced" / str(seed) / f"{name}.npz")
    driven = {r.clip for r in rollouts}
    modes: dict[Speed | None, list[Rollout]] = {
        s: [r for r in rollouts if r.policy == f"{name} {s.name.lower()}"] for s in FORCED
    }
    return forced_drives_figure({None: [r for r in own if r.clip in driven], **modes}, name)


def least_class_share(samples: Samples, plans: Sequence[Plans]) -> dict[str, Any]:
    """How rarely the VLM says the class that it neglects most: its share among the decisions over its share among the
    expert's labels, the smallest of the seven classes. Classes that the expert never has are left out."""
    keep = recorded(samples)[0]
    ratios = []
    for what, classes in (("speed", 4), ("direction", len(PATH_CLASSES))):
        label_N = np.asarray(getattr(samples, f"{what}_N"), int)
        said_SN = np.stack([np.asarray(getattr(p, f"vlm_{what}_N"), int) for p in plans])
        if what == "direction":
            label_N, said_SN = np.asarray(coarse(label_N)), np.asarray(coarse(said_SN))
        judged = keep & (label_N >= 0)
        label = np.bincount(label_N[judged], minlength=classes) / max(judged.sum(), 1)
        said = np.bincount(said_SN[:, judged][said_SN[:, judged] >= 0], minlength=classes)
        share = said / max(said.sum(), 1)
        ratios += [share[c] / label[c] for c in range(classes) if label[c] > 0]
    return {"value": finite(min(ratios, default=float("nan"))), "ci95": None, "n": int(keep.sum()),
            "n_seeds": len(plans)}  # fmt: skip


def _videos(shown: Mapping[str, Sequence[Rollout]], out: Path, workers: int) -> list[Video]:
    """The showcase's six clips of the first seed, `senna` left, `senna2` right."""
    if not all(name in shown for name in SHOWN):
        return []
    right = {r.clip: r for r in shown[SHOWN[1]]}
    jobs = [(out, r, right[r.clip]) for r in shown[SHOWN[0]] if r.clip in right]
    return run_jobs(_video, jobs, workers=workers, label="videos")


def _video(out: Path, left: Rollout, right: Rollout) -> Video:
    scene = load_clip(work.clip_folder(out, "showcase", left.family, left.scene_seed))
    return family_video(out / "videos" / f"{left.family}.mp4", scene, left, right, labels=SHOWN, every=2)
