"""What a study found: its files → results.json, claims.json, tables in Markdown, figures and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from senna2.config import load_json, to_dict
from senna2.evaluate.results import assemble, compare, write_results
from senna2.files import copy_file, write_json, write_text
from senna2.provenance import provenance
from senna2.recipes import study_jobs as work
from senna2.recipes.arms import PEERS, TRAINERS
from senna2.recipes.claims import claims, evidence
from senna2.recipes.config import run_mark
from senna2.recipes.costs import with_minutes
from senna2.recipes.found import Found, captions, costs_of, drives_of, gather, kept_costs, kept_figure
from senna2.recipes.kept_weights import adopt_weights, keep_weights
from senna2.recipes.measure import headline
from senna2.recipes.queue import Queue, QueueError, alone_in, run_queue
from senna2.recipes.results import Study
from senna2.recipes.rows import SHOWCASE, Kept
from senna2.recipes.study import COSTS, SHOWN, WEIGHED, figure_jobs, measured_by, plan_study, row_jobs
from senna2.recipes.systems import systems_page
from senna2.report.markdown import results_page
from senna2.report.media import Video
from senna2.report.overview import overview_figure
from senna2.report.page import write_report
from senna2.report.video import family_video
from senna2.types import Rollout
from senna2.workers import run_jobs
from senna2.world.clip import load_clip
from senna2.world.town.families import SHOWCASE as SHOWCASE_SEEDS

COMPARED = (
    ("senna2", "senna@long"), ("senna2", "senna"), ("senna2@1", "senna"), ("senna2@2", "senna2@1"),
    ("senna2@1long", "senna2@1"), ("senna2@2", "senna2@1long"), ("senna2", "senna2@2"), ("senna2@literal", "senna2@2"),
    ("senna2", "senna2@literal"), ("senna2@1", "senna2@1vlm"), ("senna2@1", "senna2@1none"),
    ("senna2@1", "constant_velocity"), ("senna2", "expert"), *(("senna2", name) for name in (*PEERS, *TRAINERS)),
    *((name, "senna2@2") for name in TRAINERS),
    ("senna_vadv2", "vadv2"), ("diffusiondrive+decision", "diffusiondrive"), ("resad+decision", "resad"),
)  # fmt: skip


def run_study(
    study: Study, out: Path, *, workers: int, only: Sequence[str] = (), publish: Path | None = None
) -> dict[str, Any]:
    """Run what is not finished, then write what was found so far into `out` (and `publish`); returns where it lies.

    Raises `QueueError` after that if jobs failed, `InputError` if `out` is something else.
    """
    mark = run_mark(out, study.queue)
    with alone_in(out):
        # A study always goes on where it stopped; what was made under other settings is made again, job by job.
        write_json(mark, {"recipe": study.queue})
        return _run_study(study, out, workers, only, publish)


def _run_study(study: Study, out: Path, workers: int, only: Sequence[str], publish: Path | None) -> dict[str, Any]:
    queue = plan_study(study, out)
    kept = None if publish is None else Kept(publish)
    failure: QueueError | None = None
    try:
        wanted = only or unmeasured(study, queue, kept)
        if wanted:
            if kept is not None:
                adopt_weights(study, queue, out, kept)
            run_queue(queue, side_by_side=workers, only=wanted)
    except QueueError as error:
        failure = error
    written = write_study(study, queue, out, workers=workers, publish=publish)
    if failure is not None:
        raise failure
    return written


def unmeasured(study: Study, queue: Queue, kept: Kept | None) -> list[str]:
    """Jobs whose rows (and figures) are not kept under the same key; with what they need they are all that is left."""
    rows = [n for n in measured_by(study, queue) if kept is None or not kept.has(n, queue.keys[n])]
    first, ours = study.seeds[0], study.table == "results"
    figures = [job for figure, job in figure_jobs(study).items() if figure.startswith(WEIGHED) != ours
               and (f"rows/{first}/{job.split('/')[-1]}" in rows or kept_figure(kept, figure, queue.keys[job]) is None)
               ]  # fmt: skip
    return [*rows, *figures, *([] if ours or kept_costs(queue, kept) else [COSTS])]


def write_study(study: Study, queue: Queue, out: Path, *, workers: int, publish: Path | None) -> dict[str, Any]:
    """results.json, claims.json, README.md, figures and report.html from the rows that are finished."""
    origin = provenance(study.seed)  # before anything is written: what is published may lie in the checkout itself
    kept = None if publish is None else Kept(publish)
    if kept is not None:
        keep_weights(study, queue, out, kept)
    found = gather(study, queue, out, kept)
    if not found.suites:
        return {"queue": str(out / "queue.json"), "rows": "none is finished yet"}
    policies = found.suites
    pairs = [(a, b) for a, b in COMPARED if a in policies and b in policies]
    results = assemble(
        provenance={**origin, "rows": found.origins},
        recipe={
            "name": study.name,
            "note": _note(study, queue, found),
            "command": f"senna2 run --recipe {study.table} --publish docs/results",
            "config": to_dict(study),
        },
        seeds=[seed for seed in study.seeds if any(job.startswith(f"rows/{seed}/") for job in found.origins)],
        policies=policies,
        clips=found.rows,
        comparisons=compare(policies, pairs),
        timings_s={**found.seconds, **queue.seconds()},
    )
    proofs = evidence(policies)
    if found.least_class_share is not None:
        proofs["least_class_share"] = found.least_class_share
    results["evidence"] = proofs
    results["costs"] = with_minutes(costs_of(queue, out, kept), found.seconds, found.spent, study.seeds)
    causes = publish / "causes.json" if publish is not None else out / "causes.json"
    judged = claims(results, load_json(causes) if causes.is_file() else None)
    figures = {"figure-1": overview_figure(results), **found.figures}
    videos = _videos(study, queue, out, workers)
    for row in results["clips"]:
        row["video"] = _video_of(row, study, [folder for folder in (out, publish) if folder is not None])
    write_results(out / "results.json", results)
    write_json(out / "claims.json", judged)
    folder = out / "figures"
    write_json(folder / "captions.json", captions(figures, study, queue))
    for name, figure in figures.items():
        write_text(folder / f"{name}.svg", figure.svg)
    shown = {n: figure for n, figure in figures.items() if not n.startswith(WEIGHED)}  # those are of systems.md
    by_path = {f"figures/{name}.svg": figure for name, figure in shown.items()}
    write_text(out / "README.md", results_page(results, judged, by_path))
    write_text(out / "systems.md", systems_page(figures))
    write_report(results, out, media=[*shown.values(), *videos])
    if publish is not None:
        _publish(out, publish)
    return {"report": str(out / "report.html"), "results": str(out / "results.json"),
            "claims": {k: _verdict(c) for k, c in judged["claims"].items()}, **headline(results)}  # fmt: skip


def _note(study: Study, queue: Queue, found: Found) -> str:
    """What the tables may be used for, and what is missing in them."""
    told = f"{study.note} {study.clips.test} test clips."
    begun = {job.split("/")[2] for job in found.origins}
    own = measured_by(study, queue)
    of_table = [job for job in row_jobs(queue) if job in own or job.split("/")[2] in begun]
    lacking = [job.removeprefix("rows/") for job in of_table if job not in found.origins]
    if not lacking:
        return told
    by_seed: dict[str, list[str]] = {}
    for row in lacking:
        seed, name = row.split("/")
        by_seed.setdefault(seed, []).append(name)
    listed = "; ".join(f"{seed}: {', '.join(names)}" for seed, names in by_seed.items())
    return (
        f"{told} Not finished: {len(of_table) - len(lacking)} of {len(of_table)} rows are measured (missing, by "
        f"training seed: {listed})."
    )


def _video_of(row: Mapping[str, Any], study: Study, folders: Sequence[Path]) -> str | None:
    """Of the clip that a family of the showcase shows, driven by the first seed."""
    name = f"videos/{row['family']}.mp4"
    shown = {f"{p}{SHOWCASE}" for p in SHOWN}
    seen = (
        row["policy"] in shown
        and row["seed"] == study.seeds[0]
        and row["scene_seed"] == SHOWCASE_SEEDS[row["family"]][0]
    )
    return name if seen and any((folder / name).is_file() for folder in folders) else None


def _verdict(claim: Mapping[str, Any]) -> str:
    return "held" if claim["held"] else f"not held: {claim['cause']}"


def _publish(out: Path, publish: Path) -> None:
    words = out / "figures" / "captions.json"  # first: a figure whose words are missing cannot be kept
    pages = [out / name for name in ("claims.json", "README.md", "systems.md")]
    for file in (words, *(p for name in ("figures", "videos") for p in (out / name).rglob("*.*")), *pages):
        copy_file(file, publish / file.relative_to(out))
    write_text(publish / "results.json", a_line_each(load_json(out / "results.json")))


def a_line_each(results: Mapping[str, Any]) -> str:
    """The same JSON with a line for each clip: thousands of rows stay readable, and so do differences of two files."""
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in results["clips"])
    text = json.dumps({**results, "clips": []}, indent=1, allow_nan=False)
    return text.replace('"clips": []', f'"clips": [\n{rows}\n]') + "\n"


def _videos(study: Study, queue: Queue, out: Path, workers: int) -> list[Video]:
    """The showcase's six clips of the first seed, `senna` left, `senna2` right, where their drives are here."""
    label = str(study.seeds[0])
    shown = {name: _first_of_family(drives_of(queue, out, "showcase", label, name)) for name in SHOWN}
    if not all(shown.values()):
        return []
    left, right = (shown[name] for name in SHOWN)
    return run_jobs(_video, [(out, left[f], right[f]) for f in left], workers=workers, label="videos")


def _first_of_family(rollouts: Sequence[Rollout]) -> dict[str, Rollout]:
    first: dict[str, Rollout] = {}
    for r in rollouts:
        first.setdefault(r.family, r)
    return first


def _video(out: Path, left: Rollout, right: Rollout) -> Video:
    scene = load_clip(work.clip_folder(out, "showcase", left.family, left.scene_seed))
    return family_video(out / "videos" / f"{left.family}.mp4", scene, left, right, labels=SHOWN, every=2)
