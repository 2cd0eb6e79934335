"""What the finished jobs of a study left, here and among the rows that are kept: suites, clips, figures, costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senna2.config import load_json
from senna2.evaluate.kept import joined, untrained
from senna2.evaluate.stats import Frames
from senna2.files import copy_file
from senna2.recipes.arms import PEERS, TRAINERS
from senna2.recipes.driven import load_rollouts
from senna2.recipes.measure import FORCED
from senna2.recipes.queue import Queue
from senna2.recipes.results import Study
from senna2.recipes.rows import SHOWCASE, Kept, Row, least_class_share, load_row
from senna2.recipes.study import BASELINES, COSTS, FULL, SHOWN, SIDE, figure_jobs, row_jobs
from senna2.recipes.study_jobs import forced_name
from senna2.report.figures import forced_drives_figure, relative_speed_figure
from senna2.report.media import Figure
from senna2.types import Array, Rollout, Speed


class Found:
    """What the tables and the page are made from."""

    def __init__(self) -> None:
        self.suites: dict[str, Any] = {}
        self.rows: list[Mapping[str, Any]] = []
        self.figures: dict[str, Figure] = {}
        self.seconds: dict[str, float] = {}  # of the queue's jobs, by name
        self.spent: dict[str, Mapping[str, float]] = {}  # the same by row: one may rest on other trainings of a job
        self.origins: dict[str, Mapping[str, Any]] = {}  # by row: "rows/<seed>/<policy>"
        self.least_class_share: dict[str, Any] | None = None


def gather(study: Study, queue: Queue, out: Path, kept: Kept | None) -> Found:
    """Suites of every row that is finished, by the training seeds that are; `kept` gets those that are new here."""
    found = Found()
    rows: dict[str, list[Row]] = {}
    seconds = queue.seconds()
    for job in row_jobs(queue):
        if queue.finished(job):
            file = queue.jobs[job].outputs[0]
            spent = {n: seconds[n] for n in queue.chosen([job]) if n in seconds}
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
        found.spent[job] = spent
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
    for name, job in figure_jobs(study).items():
        figure = _drawn_figure(queue, job) or kept_figure(kept, name, queue.keys[job])
        if figure is not None:
            found.figures[name] = figure
    return found


def _relative_speeds(suites: Mapping[str, Any]) -> dict[Speed, Array]:
    """Planned speed at 3 s over v₀ under each forced decision, all seeds (Figure 4)."""
    values = {s: suites.get("control", {}).get(f"ratio_{s.name.lower()}") for s in FORCED}
    return {s: v.units.values_M for s, v in values.items() if v is not None and isinstance(v.units, Frames)}


def kept_costs(queue: Queue, kept: Kept | None) -> bool:
    return (
        kept is not None
        and kept.index.get(COSTS, {}).get("key") == queue.keys[COSTS]
        and (kept.folder / "costs.json").is_file()
    )


def costs_of(queue: Queue, out: Path, kept: Kept | None) -> dict[str, Any]:
    """Those measured here, else those that are kept; `kept` gets new ones."""
    if queue.finished(COSTS):
        if kept is not None:
            copy_file(out / "costs.json", kept.folder / "costs.json")
            kept.note(COSTS, queue.keys[COSTS], {})
        return dict(load_json(out / "costs.json"))
    return dict(load_json(kept.folder / "costs.json")) if kept is not None and kept_costs(queue, kept) else {}


def captions(figures: Mapping[str, Figure], study: Study, queue: Queue) -> dict[str, dict[str, str]]:
    """What captions.json keeps of each figure: its words, and the key of the job that it shows."""
    keys = {name: queue.keys[job] for name, job in figure_jobs(study).items()}
    words = {name: {"title": figure.title, "caption": figure.caption} for name, figure in figures.items()}
    return {name: told | ({"key": keys[name]} if name in keys else {}) for name, told in words.items()}


def kept_figure(kept: Kept | None, name: str, key: str) -> Figure | None:
    """The one published before, if it is of this key: its drives are on another machine."""
    if kept is None or not (kept.folder / "figures" / f"{name}.svg").is_file():
        return None
    words = load_json(kept.folder / "figures" / "captions.json").get(name, {})
    if words.get("key") != key:
        return None
    svg = (kept.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    return Figure(words["title"], words["caption"], svg)


def drives_of(queue: Queue, out: Path, what: str, label: str, name: str) -> list[Rollout]:
    """The drives of a row, if all of them are here."""
    jobs = [n for n in queue.jobs if n.startswith(f"{what}/{label}/{name}/")]
    if not jobs or not all(queue.finished(n) for n in jobs):
        return []
    return [r for job in jobs for r in load_rollouts(out / f"{job}.npz")]


def _drawn_figure(queue: Queue, job: str) -> Figure | None:
    """From what a job of `figure_jobs` left, if it is here."""
    if not queue.finished(job):
        return None
    output = queue.jobs[job].outputs[0]
    if output.suffix == ".json":  # drawn by the job: the weights it was drawn with may be elsewhere
        drawn = load_json(output)
        return Figure(drawn["title"], drawn["caption"], drawn["svg"])
    name, rollouts = job.split("/")[-1], load_rollouts(output)
    modes: dict[Speed | None, list[Rollout]] = {
        s: [r for r in rollouts if r.policy == forced_name(name, s)] for s in (None, *FORCED)
    }
    return forced_drives_figure(modes, name)
