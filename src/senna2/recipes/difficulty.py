"""How hard the town's families are: naive, IDM and expert in the same clips; rejected drafts; labels.

A family counts only if who does not look fails in it and the expert does not (EVALUATION, Statistics). F: frames.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna2.decisions import f_k
from senna2.evaluate.closed_loop import judge
from senna2.evaluate.consistency import CLASSES, PATH_CLASSES, SPEED_CLASSES, class_f1, decision_counts
from senna2.evaluate.metrics import MetricValue, finite
from senna2.evaluate.stats import Sums, measure, paired_difference
from senna2.files import write_json
from senna2.provenance import provenance
from senna2.recipes.clips import families_of
from senna2.registry import make_policy
from senna2.rollouts import drive
from senna2.types import Array
from senna2.workers import run_jobs, worker_count
from senna2.world.scene import Expert
from senna2.world.town.families import RISKY, make_scene_counted, scene_seed

SCHEMA = "senna2.difficulty/1"
DRIVERS = ("naive", "idm", "expert")
WINDOW = 15  # positions of f_K
LEAST_NAIVE = 0.5  # of the clips of a risky family
MOST_REJECTED = 0.10
LEAST_CLASS, MOST_UNKNOWN = 0.03, 0.15


@dataclass(frozen=True, eq=False)
class DrivenClip:
    """One clip: drafts rejected before it, who failed, contributions to the label tables (`decision_counts`)."""

    family: str
    seed: int
    rejected: int
    failed: Mapping[str, bool]
    min_ttc_s: float
    labels_K: Array
    frames: int
    judged: int
    gaussians: int
    build_s: float


def drive_clip(family: str, seed: int, split: str) -> DrivenClip:
    """Make a clip and let every driver try it. Failed: any collision, off the road, or straddling."""
    begin = time.process_time()
    scene, rejected = make_scene_counted(family, seed, split)
    build_s = time.process_time() - begin
    outcomes = {name: judge(drive(make_policy(name), scene, policy_name=name)) for name in DRIVERS}
    labels, frames, judged = expert_labels(scene.expert)
    return DrivenClip(
        family, seed, rejected,
        {name: bool(o.collided or o.off_road or o.straddled) for name, o in outcomes.items()},
        outcomes["expert"].min_ttc_s, labels, frames, judged, len(scene.background), build_s,
    )  # fmt: skip


def expert_labels(expert: Expert) -> tuple[Array, int, int]:
    """Contributions (K,) of annotated direction and f_K's speed against f_K of the expert's own path, the number of
    frames with 1.4 s ahead, and how many of them have a known speed class."""
    frames = len(expert.t_E) - WINDOW + 1
    if frames < 1:
        return decision_counts(*[np.zeros(0, int)] * 4).sum(0), 0, 0
    index_FW = np.arange(frames)[:, None] + np.arange(WINDOW)
    speed_F, path_F = f_k(expert.pose_E3[index_FW, :2], yaw_0=expert.pose_E3[:frames, 2])
    counts = decision_counts(speed_F, expert.direction_E[:frames].astype(int), speed_F, path_F)
    return counts.sum(0), frames, int((np.asarray(speed_F) >= 0).sum())


def measure_difficulty(group: str, split: str, count: int, *, workers: int, families: Sequence[str]) -> dict[str, Any]:
    """`count` clips of each of `families`, by seed, as a dict of schema `senna2.difficulty/1`."""
    jobs = [(family, scene_seed(split, family, i), split) for i in range(count) for family in families]
    clips = run_jobs(drive_clip, jobs, workers=workers, label=f"difficulty {group}/{split}")
    rows = {family: _row([c for c in clips if c.family == family]) for family in families}
    risky = [c for c in clips if c.family in RISKY]
    labels = _labels(clips)
    return {
        "schema": SCHEMA,
        "provenance": provenance(0),
        "set": group,
        "split": split,
        "clips_a_family": count,
        "families": rows,
        "risky": _overall(risky) if risky else None,
        "labels": labels,
        "findings": findings(rows, risky, labels),
    }


def _share(clips: Sequence[DrivenClip], driver: str) -> MetricValue:
    counts = np.array([[float(c.failed[driver]), 1.0] for c in clips])
    names = tuple(f"{c.family}-{c.seed}" for c in clips)
    return measure(Sums(names, (0,), counts[None]), len(clips))


def _row(clips: Sequence[DrivenClip]) -> dict[str, Any]:
    rejected = sum(c.rejected for c in clips)
    ttc = np.array([c.min_ttc_s for c in clips])
    return {
        "clips": len(clips),
        "rejected": rejected / (rejected + len(clips)),
        **{f"{name}_fails": _numbers(_share(clips, name)) for name in DRIVERS},
        "expert_min_ttc_median_s": finite(float(np.median(ttc))),
        "gaussians_median": float(np.median([c.gaussians for c in clips])),
        "build_cpu_s_median": float(np.median([c.build_s for c in clips])),
    }


def _numbers(value: MetricValue) -> dict[str, Any]:
    return {"value": value.value, "ci95": None if value.ci95 is None else list(value.ci95), "n": value.n}


def _overall(clips: Sequence[DrivenClip]) -> dict[str, Any]:
    """All risky families together: the order naive > IDM > expert, by paired intervals."""
    shares = {name: _share(clips, name) for name in DRIVERS}
    return {
        **{f"{name}_fails": _numbers(shares[name]) for name in DRIVERS},
        "naive_minus_idm": paired_difference(shares["naive"], shares["idm"]),
        "idm_minus_expert": paired_difference(shares["idm"], shares["expert"]),
    }


def _labels(clips: Sequence[DrivenClip]) -> dict[str, Any]:
    """Shares of f_K's classes over the expert's frames, and the ceiling per class (annotation against f_K)."""
    counts = np.sum([c.labels_K for c in clips], axis=0)
    frames, judged = sum(c.frames for c in clips), sum(c.judged for c in clips)
    path_33, speed_45 = counts[:9].reshape(3, 3), counts[18:].reshape(4, 5)
    speeds, paths = speed_45[:, :4].sum(0), path_33.sum(0)
    shares = {name: float(s / max(speeds.sum(), 1)) for name, s in zip(SPEED_CLASSES, speeds, strict=True)}
    shares |= {name: float(s / max(paths.sum(), 1)) for name, s in zip(PATH_CLASSES, paths, strict=True)}
    ceiling = {name: finite(float(f)) for name, f in zip(CLASSES, class_f1(counts), strict=True)}
    return {"frames": frames, "unknown": 1 - judged / max(frames, 1), "shares": shares, "ceiling": ceiling}


def findings(rows: Mapping[str, Any], risky: Sequence[DrivenClip], labels: Mapping[str, Any]) -> list[str]:
    """Everything that breaks a rule of the world's difficulty, in words; empty if all hold."""
    out = []
    for family, row in rows.items():
        if row["rejected"] > MOST_REJECTED:
            out.append(f"{family}: {row['rejected']:.0%} of the drafts rejected, at most {MOST_REJECTED:.0%} allowed")
        if family in RISKY and row["naive_fails"]["value"] < LEAST_NAIVE:
            out.append(f"{family}: naive fails in only {row['naive_fails']['value']:.0%} of the clips")
        if row["expert_fails"]["value"] > 0:
            out.append(f"{family}: the expert fails in {row['expert_fails']['value']:.1%} of the clips")
    if risky:
        overall = _overall(risky)
        for name in ("naive_minus_idm", "idm_minus_expert"):
            ci95 = overall[name]["ci95"]
            if ci95 is None or ci95[0] <= 0:
                out.append(f"risky families: {name.replace('_', ' ')} is not above 0 by interval ({ci95})")
    out += [f"label {n}: {s:.1%} of judged samples" for n, s in labels["shares"].items() if s < LEAST_CLASS]
    if labels["unknown"] >= MOST_UNKNOWN:
        out.append(f"labels: {labels['unknown']:.1%} UNKNOWN")
    return out


def table(result: Mapping[str, Any]) -> str:
    """The result as markdown: what stands in docs/."""

    def share(value: Mapping[str, Any]) -> str:
        low, high = value["ci95"] or (float("nan"), float("nan"))
        return f"{value['value']:.2f} [{low:.2f}, {high:.2f}]"

    lines = [
        "| family | clips | rejected drafts | naive fails | IDM fails | expert fails | expert's min TTC, median s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, row in result["families"].items():
        ttc = row["expert_min_ttc_median_s"]
        cells = (row["naive_fails"], row["idm_fails"], row["expert_fails"])
        lines.append(
            f"| `{family}` | {row['clips']} | {row['rejected']:.1%} | {' | '.join(share(c) for c in cells)} | "
            f"{'over 5' if ttc is None else f'{ttc:.1f}'} |"
        )
    if result["risky"]:
        r = result["risky"]
        cells = (r["naive_fails"], r["idm_fails"], r["expert_fails"])
        lines.append(f"| **all risky** | {cells[0]['n']} | | {' | '.join(share(c) for c in cells)} | |")
    labels = result["labels"]
    lines += ["", "| class | " + " | ".join(CLASSES) + " | UNKNOWN |", "| --- |" + " --- |" * (len(CLASSES) + 1)]
    lines.append(
        "| share | " + " | ".join(f"{labels['shares'][c]:.3f}" for c in CLASSES) + f" | {labels['unknown']:.3f} |"
    )
    ceiling = [labels["ceiling"][c] for c in CLASSES]
    lines.append("| ceiling F1 | " + " | ".join("–" if c is None else f"{c:.2f}" for c in ceiling) + " | |")
    return "\n".join(lines)


def difficulty_verb(
    group: str, families: Sequence[str], out: Path | None, *, split: str, count: int, workers: int | None
) -> dict[str, Any]:
    """Measure, and write the result to `out` (JSON) if asked."""
    workers = worker_count(workers)
    result = measure_difficulty(group, split, count, workers=workers, families=families_of(group, families))
    if out is not None:
        write_json(out, result)
    return result
