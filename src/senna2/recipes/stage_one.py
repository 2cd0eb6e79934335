"""Stage 1's weights beside the published rows: what took an hour and a half a seed need not be trained again elsewhere.

`stages/<seed>` in the folder of published results holds, in 16 bit, the planner of 1b and the VLM of 1a as one
checkpoint; the index there gives both the keys of their jobs. A study that finds them under its own keys begins with
them. Rounding to 16 bit changes what follows by less than another order of summation would.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from senna2.files import replace_folder
from senna2.model.policy import DualSystem
from senna2.provenance import provenance
from senna2.recipes.demo import pack
from senna2.recipes.queue import Queue
from senna2.recipes.results import Study
from senna2.recipes.rows import Kept
from senna2.recipes.study_jobs import stage_folder
from senna2.train.stage1 import vlm_of

PARTS = ("1a", "1b")


def jobs_of(seed: int) -> list[str]:
    return [f"train/{seed}/{part}" for part in PARTS]


def place(kept: Kept, seed: int) -> Path:
    return kept.folder / "stages" / str(seed)


def has(kept: Kept, queue: Queue, seed: int) -> bool:
    same = all(kept.index.get(job, {}).get("key") == queue.keys[job] for job in jobs_of(seed))
    return same and (place(kept, seed) / "config.json").is_file()


def keep_stage_one(study: Study, queue: Queue, out: Path, kept: Kept) -> None:
    """Publish what is finished here and not kept yet under these keys."""
    for seed in study.seeds:
        jobs = jobs_of(seed)
        if has(kept, queue, seed) or not all(queue.finished(job) for job in jobs):
            continue
        vlm, planner = (DualSystem.from_pretrained(stage_folder(out, seed, part) / "policy") for part in PARTS)
        planner.attach_vlm(vlm_of(vlm))
        with tempfile.TemporaryDirectory() as scratch:
            planner.save_pretrained(Path(scratch) / "both", provenance(seed, jobs=jobs))
            fresh = place(kept, seed).with_name(f".{seed}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            pack(Path(scratch) / "both", fresh)
        replace_folder(fresh, place(kept, seed))
        for job in jobs:
            kept.note(job, queue.keys[job], {job: float(queue.state[job]["seconds"])})


def adopt_stage_one(study: Study, queue: Queue, out: Path, kept: Kept) -> list[str]:
    """Put kept weights where the queue looks for them; returns the jobs that need not run. A seed that was begun here
    goes on with what is here."""
    adopted = []
    for seed in study.seeds:
        jobs = jobs_of(seed)
        if any(job in queue.state for job in jobs) or not has(kept, queue, seed):
            continue
        for job, part in zip(jobs, PARTS, strict=True):
            folder = stage_folder(out, seed, part)
            fresh = folder.with_name(f".{folder.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(place(kept, seed), fresh / "policy")
            replace_folder(fresh, folder)
            queue.note(job, state="done", seconds=kept.index[job]["seconds"][job], kept=True)
            adopted.append(job)
    return adopted
