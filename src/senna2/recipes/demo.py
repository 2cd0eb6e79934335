"""`senna2 demo`: the six showcase clips, driven and filmed, as one page. And how weights come into the package."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from senna2.config import load_json
from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.results import assemble, write_results
from senna2.files import replace_folder
from senna2.model.policy import DualSystem
from senna2.provenance import provenance
from senna2.recipes.cache import CLIP_CODE, keep_if_same
from senna2.recipes.driven import drive_group
from senna2.recipes.measure import headline
from senna2.registry import find_checkpoint, packaged
from senna2.report.media import Video
from senna2.report.page import write_report
from senna2.report.video import family_video
from senna2.types import InputError, Rollout
from senna2.workers import run_jobs, worker_count
from senna2.world.clip import load_clip, save_clip
from senna2.world.town.families import SHOWCASE, make_scene

PAIR = ("senna", "senna2")  # left and right, as on the project page
NOTE = "The six situations of the paper's project page, one clip each: a look at the policies, not a measurement."
MOST_BYTES = 16 * 2**20  # of all weights in the package
EVERY = 2  # frames of a drive between two of its video


def demo_verb(weights: Path | None, out: Path, *, workers: int | None, seed: int = 0) -> dict[str, Any]:
    """Play the clips and write `out`/report.html and results.json; returns where they lie and the headline.

    Raises `InputError` if there are no weights, or `out` is not ours.
    """
    specs = demo_policies(weights)
    workers = worker_count(workers)
    if out.exists() and any(out.iterdir()) and not _is_demo(out):
        raise InputError(f"--out {out}: is not empty and not a demo of senna2; choose another folder")
    clips = {family: seeds[0] for family, seeds in SHOWCASE.items()}
    keep_if_same(out / "clips", {"split": "showcase"}, CLIP_CODE, resume=False)
    jobs = [(out, family, clip, specs, seed) for family, clip in clips.items()]
    began = time.perf_counter()
    played = run_jobs(_play, jobs, workers=workers, label="demo")
    rollouts = [r for both, _ in played for r in both]
    results = assemble(
        provenance=provenance(seed),
        recipe={"name": "demo", "note": NOTE, "weights": {k: str(v) for k, v in specs.items()}},
        seeds=[seed],
        policies={name: {"closed_loop": closed_loop([r for r in rollouts if r.policy == name])} for name in specs},
        clips=[clip_row(r, f"videos/{r.family}.mp4") for r in rollouts],
        timings_s={"drives and videos": time.perf_counter() - began},
    )
    write_results(out / "results.json", results)
    write_report(results, out, media=[video for _, video in played])
    return {"report": str(out / "report.html"), "results": str(out / "results.json"), **headline(results)}


def _is_demo(out: Path) -> bool:
    results = out / "results.json"
    return results.is_file() and load_json(results).get("recipe", {}).get("name") == "demo"


def demo_policies(weights: Path | None) -> dict[str, str]:
    """Who drives: name → what `make_policy` takes. Two of them, left and right in the videos.

    `weights`: a folder that holds checkpoints of `senna` and `senna2` (as a run's `stages`), or one checkpoint, which
    then drives beside the expert; None: those in the package. Raises `InputError` for none.
    """
    if weights is None:
        shipped = packaged()
        if not all(name in shipped for name in PAIR):
            raise InputError(
                "demo: no weights are shipped with this version; train some (`senna2 run --recipe laptop`) and name "
                "them: `senna2 demo --weights runs/laptop/stages`"
            )
        return {name: str(shipped[name]) for name in PAIR}
    pair = {name: find_checkpoint(weights / name) for name in PAIR}
    if all(pair.values()):
        return {name: str(folder) for name, folder in pair.items()}
    one = find_checkpoint(weights)
    if one is None:
        raise InputError(
            f"--weights {weights}: holds neither a checkpoint (config.json) nor those of senna and senna2; name a "
            "checkpoint folder, or the stages folder of a run"
        )
    return {"expert": "expert", one.parent.name if one.name == "policy" else one.name: str(one)}


def _play(out: Path, family: str, clip_seed: int, specs: Mapping[str, str], seed: int) -> tuple[list[Rollout], Video]:
    """One clip: make it, drive it with both, film them."""
    torch.set_num_threads(1)
    folder = out / "clips" / f"{family}-{clip_seed}"
    if not (folder / "clip.json").is_file():
        save_clip(make_scene(family, clip_seed, "showcase"), folder)
    rollouts = [drive_group(spec, name, [folder], seed)[0] for name, spec in specs.items()]
    left, right = rollouts
    labels = (left.policy, right.policy)
    video = family_video(out / "videos" / f"{family}.mp4", load_clip(folder), left, right, labels=labels, every=EVERY)
    return rollouts, video


# --- weights for the package --------------------------------------------------------------------------------


def pack_verb(weights: Path | None, out: Path) -> dict[str, Any]:
    """`senna2 demo --weights STAGES --pack DIR`: 16-bit copies of `senna` and `senna2` as `DIR/<name>`, at most 16 MB
    in all, to be put into the package as `senna2/weights`. Returns the bytes of each."""
    if weights is None:
        raise InputError("--pack: needs --weights, the folder that holds the checkpoints of senna and senna2")
    sizes: dict[str, Any] = {}
    for name in PAIR:
        folder = find_checkpoint(weights / name)
        if folder is None:
            raise InputError(f"--weights {weights}: holds no checkpoint of {name}; name the stages folder of a run")
        fresh = out / f".{name}.{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        pack(folder, fresh)
        replace_folder(fresh, out / name)
        sizes[name] = sum(f.stat().st_size for f in (out / name).rglob("*") if f.is_file())
    total = sum(sizes.values())
    if total > MOST_BYTES:
        raise InputError(f"--pack {out}: the weights take {total / 2**20:.1f} MB, the package holds 16; train smaller")
    return {"weights": str(out), **sizes}


def pack(folder: Path, out: Path) -> None:
    """A checkpoint with all weights in 16 bit, the VLM's too; it loads as any other, in 32 bit."""
    policy = DualSystem.from_pretrained(folder)
    policy.save_pretrained(out, load_json(folder / "provenance.json"), half=True)
    for file in sorted((out / "vlm").glob("*.safetensors")) if policy.vlm is not None else ():
        halved = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(halved, file, metadata={"format": "pt"})
