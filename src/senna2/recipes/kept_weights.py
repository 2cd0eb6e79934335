"""Weights beside the published rows, in 16 bit: what took hours need not be trained again elsewhere, and anybody can
drive the systems of the tables.

`stages/<seed>` in the folder of published results holds the planner of 1b and the VLM of 1a as one checkpoint,
`weights/<name>` a system of the first training seed. The index there gives the keys of the jobs that made them: a study
that finds them under its own keys begins with them. Rounding to 16 bit changes what follows by less than another order
of summation would.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from senna2.files import replace_folder
from senna2.model.policy import DualSystem
from senna2.provenance import provenance
from senna2.recipes.arms import PEERS
from senna2.recipes.demo import pack
from senna2.recipes.queue import Queue
from senna2.recipes.results import Study
from senna2.recipes.rows import Kept
from senna2.recipes.study_jobs import stage_folder
from senna2.train.stage1 import vlm_of


@dataclass(frozen=True)
class Checkpoint:
    """`arms`: the trainings that it spares; it is the policy of the last one, with the VLM of one before."""

    place: str
    seed: int
    arms: tuple[str, ...]

    @property
    def jobs(self) -> list[str]:
        return [f"train/{self.seed}/{arm}" for arm in self.arms]


def kept_of(study: Study) -> list[Checkpoint]:
    """What is kept of a study, whether it is there yet or not."""
    first = study.seeds[0]
    return [
        *(Checkpoint(f"stages/{seed}", seed, ("1a", "1b")) for seed in study.seeds),
        *(Checkpoint(f"weights/{name}", first, (name,)) for name in PEERS),
    ]


def has(kept: Kept, queue: Queue, one: Checkpoint) -> bool:
    same = all(kept.index.get(job, {}).get("key") == queue.keys[job] for job in one.jobs)
    return same and (kept.folder / one.place / "config.json").is_file()


def keep_weights(study: Study, queue: Queue, out: Path, kept: Kept) -> None:
    """Publish what is finished here and not kept yet under these keys."""
    for one in kept_of(study):
        if has(kept, queue, one) or not all(queue.finished(job) for job in one.jobs):
            continue
        *before, policy = (DualSystem.from_pretrained(stage_folder(out, one.seed, a) / "policy") for a in one.arms)
        for other in before:
            policy.attach_vlm(vlm_of(other))
        place = kept.folder / one.place
        with tempfile.TemporaryDirectory() as scratch:
            policy.save_pretrained(Path(scratch) / "whole", provenance(one.seed, jobs=one.jobs))
            fresh = place.with_name(f".{place.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            pack(Path(scratch) / "whole", fresh)
        replace_folder(fresh, place)
        seconds = queue.seconds()
        for job in one.jobs:
            kept.note(job, queue.keys[job], {job: seconds[job]})


def adopt_weights(study: Study, queue: Queue, out: Path, kept: Kept) -> list[str]:
    """Put kept weights where the queue looks for them; returns the jobs that need not run. What was begun here goes on
    with what is here."""
    adopted = []
    for one in kept_of(study):
        if any(job in queue.state for job in one.jobs) or not has(kept, queue, one):
            continue
        for job, arm in zip(one.jobs, one.arms, strict=True):
            folder = stage_folder(out, one.seed, arm)
            fresh = folder.with_name(f".{folder.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(kept.folder / one.place, fresh / "policy")
            replace_folder(fresh, folder)
            spent = kept.index[job]["seconds"][job]  # of a processor: the clock of that machine is not ours
            queue.note(job, state="done", seconds=spent, cpu_seconds=spent, kept=True)
            adopted.append(job)
    return adopted
