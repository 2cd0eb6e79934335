"""What a study found: its files → results.json, claims.json, tables in Markdown, figures and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from senna2.config import load_json, to_dict
from senna2.evaluate.kept import joined, untrained
from senna2.evaluate.results import assemble, compare, write_results
from senna2.evaluate.stats import Frames
from senna2.files import write_json
from senna2.provenance import provenance
from senna2.recipes import study_jobs as work
from senna2.recipes.arms import PEERS, TRAINERS
from senna2.recipes.claims import claims, evidence
from senna2.recipes.costs import with_minutes
from senna2.recipes.driven import load_rollouts
from senna2.recipes.measure import FORCED, headline
from senna2.recipes.queue import Queue, QueueError, run_queue
from senna2.recipes.results import Study
from senna2.recipes.rows import SHOWCASE, Kept, Row, least_class_share, load_row
from senna2.recipes.stage_one import adopt_stage_one, keep_stage_one
from senna2.recipes.study import BASELINES, COSTS, FULL, SHOWN, SIDE, measured_by, plan_study, row_jobs
from senna2.recipes.systems import systems_page
from senna2.report.figures import forced_drives_figure, overview_figure, relative_speed_figure
from senna2.report.markdown import results_page
from senna2.report.media import Figure, Video
from senna2.report.page import write_report
from senna2.report.video import family_video
from senna2.types import Array, InputError, Rollout, Speed
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
    _open(out, study)
    queue = plan_study(study, out)
    kept = None if publish is None else Kept(publish)
    failure: QueueError | None = None
    try:
        if kept is not None:
            adopt_stage_one(study, queue, out, kept)
        wanted = only or unmeasured(study, queue, kept)
        if wanted:
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
    first = study.seeds[0]
    ours = study.table == "results"
    job, drawn, names = (f"forced/{first}/", "figure-A1-", SHOWN) if ours else ("weighed/", "weighed-", PEERS)
    figures = [f"{job}{name}" for name in names
               if f"rows/{first}/{name}" in rows or _kept_figure(kept, f"{drawn}{name}") is None]  # fmt: skip
    return [*rows, *figures, *([] if ours or _kept_costs(queue, kept) else [COSTS])]


def _open(out: Path, study: Study) -> None:
    """A study always goes on where it stopped; what was made under other settings is made again, job by job."""
    mark = out / "run.json"
    if mark.is_file() and load_json(mark).get("recipe") != study.queue:
        raise InputError(f"--out {out}: holds a run of recipe '{load_json(mark).get('recipe')}'; choose another folder")
    if not mark.is_file() and out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty and not a run of senna2; choose another folder")
    write_json(mark, {"recipe": study.queue})


def write_study(study: Study, queue: Queue, out: Path, *, workers: int, publish: Path | None) -> dict[str, Any]:
    """results.json, claims.json, README.md, figures and report.html from the rows that are finished."""
    origin = provenance(study.seed)  # before anything is written: what is published may lie in the checkout itself
    kept = None if publish is None else Kept(publish)
    if kept is not None:
        keep_stage_one(study, queue, out, kept)
    found = gather(study, queue, out, kept)
    if not found.suites:
        return {"queue": str(out / "queue.json"), "rows": "none is finished yet"}
    policies = found.suites
    pairs = [(a, b) for a, b in COMPARED if a in policies and b in policies]
    results = assemble(
        provenance={**origin, "rows": found.origins},
        recipe={"name": study.name, "note": _note(study, queue, found), "config": to_dict(study)},
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
    results["costs"] = with_minutes(_costs(queue, out, kept), found.seconds, study.seeds)
    causes = publish / "causes.json" if publish is not None else out / "causes.json"
    judged = claims(results, load_json(causes) if causes.is_file() else None)
    figures = {"figure-1": overview_figure(results), **found.figures}
    videos = _videos(study, queue, out, workers)
    for row in results["clips"]:
        row["video"] = _video_of(row, study, [folder for folder in (out, publish) if folder is not None])
    write_results(out / "results.json", results)
    write_json(out / "claims.json", judged)
    words = {name: {"title": figure.title, "caption": figure.caption} for name, figure in figures.items()}
    write_json(out / "figures" / "captions.json", words)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        (folder / f"{name}.svg").write_text(figure.svg + "\n", encoding="utf-8")
    shown = {n: figure for n, figure in figures.items() if not n.startswith("weighed-")}  # those are of systems.md
    by_path = {f"figures/{name}.svg": figure for name, figure in shown.items()}
    (out / "README.md").write_text(results_page(results, judged, by_path), encoding="utf-8")
    drawn = {name.removeprefix("weighed-"): figure for name, figure in figures.items() if name.startswith("weighed-")}
    (out / "systems.md").write_text(systems_page(drawn), encoding="utf-8")
    write_report(results, out, media=[*shown.values(), *videos])
    if publish is not None:
        _publish(out, publish)
    return {"report": str(out / "report.html"), "results": str(out / "results.json"),
            "claims": {k: _verdict(c) for k, c in judged["claims"].items()}, **headline(results)}  # fmt: skip


def _note(study: Study, queue: Queue, found: Found) -> str:
    """What the tables may be used for, and what is missing in them."""
    every = row_jobs(queue)
    lacking = [job.removeprefix("rows/") for job in every if job not in found.origins]
    clips = f"{study.clips.test} test clips"
    if not lacking:
        return f"{study.note} {clips.capitalize()}."
    by_seed: dict[str, list[str]] = {}
    for row in lacking:
        seed, name = row.split("/")
        by_seed.setdefault(seed, []).append(name)
    listed = "; ".join(f"{seed}: {', '.join(names)}" for seed, names in by_seed.items())
    return (
        f"{study.note} {clips.capitalize()}. Not finished: {len(every) - len(lacking)} of {len(every)} rows are "
        f"measured (missing, by training seed: {listed})."
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
    publish.mkdir(parents=True, exist_ok=True)
    for name in ("figures", "videos"):
        if (out / name).is_dir():
            shutil.copytree(out / name, publish / name, dirs_exist_ok=True)
    for name in ("claims.json", "README.md", "systems.md"):
        shutil.copy2(out / name, publish / name)
    (publish / "results.json").write_text(a_line_each(load_json(out / "results.json")), encoding="utf-8")


def a_line_each(results: Mapping[str, Any]) -> str:
    """The same JSON with a line for each clip: thousands of rows stay readable, and so do differences of two files."""
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in results["clips"])
    text = json.dumps({**results, "clips": []}, indent=1, allow_nan=False)
    return text.replace('"clips": []', f'"clips": [\n{rows}\n]') + "\n"


# --- from the jobs' files to suites ----------------------------------------------------------------------


class Found:
    """What the finished jobs left, here and among the rows that are kept."""

    def __init__(self) -> None:
        self.suites: dict[str, Any] = {}
        self.rows: list[Mapping[str, Any]] = []
        self.figures: dict[str, Figure] = {}
        self.seconds: dict[str, float] = {}
        self.origins: dict[str, Mapping[str, Any]] = {}  # by row: "rows/<seed>/<policy>"
        self.least_class_share: dict[str, Any] | None = None


def gather(study: Study, queue: Queue, out: Path, kept: Kept | None) -> Found:
    """Suites of every row that is finished, by the training seeds that are; `kept` gets those that are new here."""
    found = Found()
    rows: dict[str, list[Row]] = {}
    for job in row_jobs(queue):
        if queue.finished(job):
            file = queue.jobs[job].outputs[0]
            spent = {n: float(queue.state[n]["seconds"]) for n in queue.chosen([job]) if queue.finished(n)}
            if kept is not None:
                kept.keep(job, queue.keys[job], file, spent)
        elif kept is not None and kept.has(job, queue.keys[job]):
            file, spent = kept.file(job), kept.index[job]["seconds"]
        else:
            continue
        row = load_row(file)
        rows.setdefault(row.name, []).append(row)
        found.rows += row.clips
        found.seconds |= spent
        found.origins[job] = {k: row.origin.get(k) for k in ("commit", "time", "platform")}
    for name in (n for n in (*BASELINES, *FULL, *SIDE, *PEERS, *TRAINERS) if n in rows):
        for who in (name, name + SHOWCASE):
            parts = [row.policies[who] for row in rows[name] if who in row.policies]
            if parts:
                found.suites[who] = untrained(parts[0]) if name in BASELINES else joined(parts)
    spoken = [row.spoken for row in rows.get("senna2", []) if row.spoken is not None]
    if spoken:
        found.least_class_share = least_class_share(spoken)
    speeds = {name: _relative_speeds(found.suites.get(name, {})) for name in SHOWN}
    if all(speeds.values()):
        found.figures["figure-4"] = relative_speed_figure(speeds)
    for name in PEERS:
        figure = _weighed_figure(queue, name) or _kept_figure(kept, f"weighed-{name}")
        if figure is not None:
            found.figures[f"weighed-{name}"] = figure
    for name in SHOWN:
        figure = _forced_figure(study, queue, out, name) or _kept_figure(kept, f"figure-A1-{name}")
        if figure is not None:
            found.figures[f"figure-A1-{name}"] = figure
    return found


def _relative_speeds(suites: Mapping[str, Any]) -> dict[Speed, Array]:
    """Planned speed at 3 s over v₀ under each forced decision, all seeds (Figure 4)."""
    values = {s: suites.get("control", {}).get(f"ratio_{s.name.lower()}") for s in FORCED}
    return {s: v.units.values_M for s, v in values.items() if v is not None and isinstance(v.units, Frames)}


def _kept_costs(queue: Queue, kept: Kept | None) -> bool:
    return (
        kept is not None
        and kept.index.get(COSTS, {}).get("key") == queue.keys[COSTS]
        and (kept.folder / "costs.json").is_file()
    )


def _costs(queue: Queue, out: Path, kept: Kept | None) -> dict[str, Any]:
    """Those measured here, else those that are kept; `kept` gets new ones."""
    if queue.finished(COSTS):
        if kept is not None:
            kept.folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(out / "costs.json", kept.folder / "costs.json")
            kept.note(COSTS, queue.keys[COSTS], {})
        return dict(load_json(out / "costs.json"))
    return dict(load_json(kept.folder / "costs.json")) if kept is not None and _kept_costs(queue, kept) else {}


def _kept_figure(kept: Kept | None, name: str) -> Figure | None:
    """The one published before: its drives are on another machine."""
    if kept is None or not (kept.folder / "figures" / f"{name}.svg").is_file():
        return None
    words = load_json(kept.folder / "figures" / "captions.json")[name]
    svg = (kept.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8").strip()
    return Figure(words["title"], words["caption"], svg)


def _rollouts(queue: Queue, out: Path, what: str, label: str, name: str) -> list[Rollout]:
    """The drives of a row, if all of them are here."""
    jobs = [n for n in queue.jobs if n.startswith(f"{what}/{label}/{name}/")]
    if not jobs or not all(queue.finished(n) for n in jobs):
        return []
    return [r for job in jobs for r in load_rollouts(out / f"{job}.npz")]


def _weighed_figure(queue: Queue, name: str) -> Figure | None:
    """Drawn by its job: the weights it was drawn with are elsewhere."""
    if not queue.finished(f"weighed/{name}"):
        return None
    drawn = load_json(queue.jobs[f"weighed/{name}"].outputs[0])
    return Figure(drawn["title"], drawn["caption"], drawn["svg"])


def _forced_figure(study: Study, queue: Queue, out: Path, name: str) -> Figure | None:
    seed = study.seeds[0]
    if not queue.finished(f"forced/{seed}/{name}"):
        return None
    rollouts = load_rollouts(out / "forced" / str(seed) / f"{name}.npz")
    modes: dict[Speed | None, list[Rollout]] = {
        s: [r for r in rollouts if r.policy == work.forced_name(name, s)] for s in (None, *FORCED)
    }
    return forced_drives_figure(modes, name)


def _videos(study: Study, queue: Queue, out: Path, workers: int) -> list[Video]:
    """The showcase's six clips of the first seed, `senna` left, `senna2` right, where their drives are here."""
    label = str(study.seeds[0])
    shown = {name: _first_of_family(_rollouts(queue, out, "showcase", label, name)) for name in SHOWN}
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
