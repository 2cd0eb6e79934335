"""A row of a study, one policy of one training seed, as a small file: enough to make every table again.

Weights and drives of a study are gigabytes on one machine; its rows are kilobytes that are kept beside the tables.
`index.json` there gives each row the key of the job that measured it (a fingerprint of all settings it depends on): a
study that goes on elsewhere does not measure it again, and a row of other settings does not pass for one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna2.config import load_json
from senna2.decisions import coarse
from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import PATH_CLASSES, SPEED_CLASSES, consistency, recorded
from senna2.evaluate.control import control, nobody_listens
from senna2.evaluate.kept import load_suites, save_suites
from senna2.evaluate.metrics import finite
from senna2.evaluate.open_loop import no_plans, open_loop
from senna2.evaluate.results import Suites
from senna2.files import copy_file, write_json
from senna2.provenance import provenance
from senna2.recipes.driven import load_plans, why_no_plans
from senna2.recipes.instructed import instructed_of
from senna2.recipes.measure import FORCED
from senna2.types import InputError, Plans, Rollout, Samples, VehicleShape

SHOWCASE = " showcase"  # after a policy's name: the same policy on the showcase clips


@dataclass(frozen=True, eq=False)
class Row:
    """`policies`: suites by the row's name, and by that with `SHOWCASE` where it drove those clips. `clips`: its rows
    of results.json. `spoken`: how often it said each class, and how often the expert's labels are of it (of policies
    that decide). `origin`: commit, machine and time of the measurement."""

    name: str
    policies: Mapping[str, Suites]
    clips: Sequence[Mapping[str, Any]]
    spoken: Mapping[str, Sequence[int]] | None
    origin: Mapping[str, Any]


def measure_row(
    name: str, seed: int, plans: Path, driven: Sequence[Rollout], shown: Sequence[Rollout], samples: Samples,
    shapes: Mapping[str, VehicleShape], control_samples: int,
) -> Row:  # fmt: skip
    """`plans`: file of its plans for `samples` (the open-loop ones, without images); `driven`, `shown`: its drives of
    the test clips and of the showcase (may be none)."""
    planned = load_plans(plans)
    own = planned.get("own")
    decides = own is not None and bool((own.vlm_speed_N >= 0).any())
    suites: dict[str, Any] = {"open_loop": no_plans(why_no_plans(plans)) if own is None else
                              open_loop(samples, {seed: own}, shapes)}  # fmt: skip
    if own is not None and decides:
        suites["consistency"] = consistency(samples, {seed: own})
    suites["control"] = nobody_listens()
    if "keep" in planned:
        some = samples.take(slice(0, control_samples))
        forced = {s: {seed: planned[s.name.lower()]} for s in FORCED}
        suites["control"] = control(some, forced, instructed_of({seed: planned}))
    suites["closed_loop"] = closed_loop(driven)
    policies: dict[str, Suites] = {name: suites}
    clips = [clip_row(r) for r in driven]
    if shown:
        policies[name + SHOWCASE] = {"closed_loop": closed_loop(shown)}
        clips += [{**clip_row(r), "policy": name + SHOWCASE} for r in shown]
    said = spoken(samples, own) if own is not None and decides else None
    return Row(name, policies, clips, said, provenance(seed))


def save_row(path: Path, row: Row) -> None:
    save_suites(path, row.policies, name=row.name, rows=list(row.clips), spoken=row.spoken, origin=row.origin)


def load_row(path: Path) -> Row:
    """Raises `InputError` naming a file that is none."""
    policies, more = load_suites(path)
    try:
        return Row(more["name"], policies, more["rows"], more["spoken"], more["origin"])
    except KeyError as error:
        raise InputError(f"{path}: holds measured suites, but is no row of a study: {error} is missing") from error


# --- rows that are kept beside the tables ---------------------------------------------------------------------


class Kept:
    """The rows in a folder, by job name ("rows/0/senna2"): file and key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "rows" / "index.json"
        self.index: dict[str, dict[str, Any]] = load_json(self.mark) if self.mark.is_file() else {}

    def file(self, job: str) -> Path:
        return self.folder / f"{job}.npz"

    def has(self, job: str, key: str) -> bool:
        return self.index.get(job, {}).get("key") == key and self.file(job).is_file()

    def keep(self, job: str, key: str, file: Path, seconds: Mapping[str, float]) -> None:
        """A copy of `file`, whole or not at all; `seconds` of the jobs behind it."""
        copy_file(file, self.file(job))
        self.note(job, key, seconds)

    def note(self, job: str, key: str, seconds: Mapping[str, float]) -> None:
        self.index[job] = {"key": key, "seconds": dict(seconds)}
        write_json(self.mark, dict(sorted(self.index.items())))


# --- which classes a VLM neglects ---------------------------------------------------------------------------


def spoken(samples: Samples, plans: Plans) -> dict[str, list[int]]:
    """How often each of the seven classes is said where the expert's label is known, and how often it is that label;
    directions folded to three."""
    keep = recorded(samples)[0]
    counts: dict[str, list[int]] = {}
    for what, names in (("direction", PATH_CLASSES), ("speed", SPEED_CLASSES)):
        label_N = np.asarray(getattr(samples, f"{what}_N"), int)
        said_N = np.asarray(getattr(plans, f"vlm_{what}_N"), int)
        if what == "direction":
            label_N, said_N = np.asarray(coarse(label_N)), np.asarray(coarse(said_N))
        judged = keep & (label_N >= 0)
        said = np.bincount(said_N[judged & (said_N >= 0)], minlength=len(names))
        label = np.bincount(label_N[judged], minlength=len(names))
        counts |= {f"{what}_said": said.tolist(), f"{what}_label": label.tolist()}
    return counts


def least_class_share(counted: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """How rarely the VLM says the class that it neglects most: its share among the decisions over its share among the
    expert's labels, the smallest of the seven classes, training seeds together. Classes that the expert never has are
    left out. `counted`: `spoken` of each seed."""
    ratios = []
    for what in ("speed", "direction"):
        said, label = (np.sum([c[f"{what}_{k}"] for c in counted], 0) for k in ("said", "label"))
        share, right = said / max(said.sum(), 1), label / max(label.sum(), 1)
        ratios += [s / r for s, r in zip(share, right, strict=True) if r > 0]
    n = sum(counted[0]["speed_label"])
    return {"value": finite(min(ratios, default=float("nan"))), "ci95": None, "n": int(n), "n_seeds": len(counted),
            "per_seed": []}  # fmt: skip
