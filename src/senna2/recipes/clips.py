"""`senna2 scene`: make, dress, check and view clips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senna2.types import AgentClass, InputError
from senna2.workers import run_jobs
from senna2.world.clip import clip_info, load_clip, save_clip
from senna2.world.town.families import FAMILIES, make_scene, split_scenes


def make_clips(split: str, count: int, out: Path, families: Sequence[str] = (), *, workers: int = 0) -> list[Path]:
    """`count` generated clips of a split, families in turn, as folders of `out`; those that exist are kept."""
    _known(families)
    wanted = set(families) or set(FAMILIES)
    chosen = [s for s in split_scenes(split, count * len(FAMILIES)) if s[0] in wanted][:count]
    jobs = [(family, seed, split, out) for family, seed in chosen]
    return run_jobs(_make_one, jobs, workers=workers, label=f"clips {split}")


def _make_one(family: str, seed: int, split: str, out: Path) -> Path:
    folder = out / f"{family}-{seed}"
    if not (folder / "clip.json").is_file():
        save_clip(make_scene(family, seed, split), folder)
    return folder


def _known(families: Sequence[str]) -> None:
    for family in families:
        if family not in FAMILIES:
            raise InputError(f"--family {family}: unknown; there are {list(FAMILIES)}")


def make_verb(out: Path, *, family: str | None, split: str, count: int, seed: int | None) -> dict[str, Any]:
    families = [] if family is None else [family]
    if count < 1:
        raise InputError(f"--count {count}: must be at least 1")
    if seed is not None and count != 1:
        raise InputError(f"--seed {seed}: names one clip; drop --count {count}")
    if seed is None:
        made = make_clips(split, count, out, families)
    else:
        _known(families)
        made = [_make_one(family or FAMILIES[0], seed, split, out)]
    return {"clips": [str(p) for p in made]}


def dress_verb(log: Path, out: Path) -> dict[str, Any]:
    """A recorded log as a clip folder."""
    from senna2.world.dress import dress_log

    scene = dress_log(log)
    save_clip(scene, out)
    return check_verb(out)


def check_verb(folder: Path) -> dict[str, Any]:
    """Load with every validation, and say what is in the clip."""
    scene = load_clip(folder)
    classes = Counter(AgentClass(t.agent_class).name.lower() for t in scene.tracks)
    info = clip_info(folder)
    return {
        "clip": str(folder),
        "name": scene.meta.name,
        "family": scene.meta.family,
        "split": scene.meta.split,
        "duration_s": round(scene.duration_s, 2),
        "gaussians": len(scene.background),
        "agents": dict(sorted(classes.items())),
        "lanes": len(scene.map.lanes),
        "drivable": info["drivable"],
        "kerbs": len(scene.map.kerbs),
        "cameras": list(scene.rig.names),
    }


def view_verb(folder: Path, out: Path, *, scale: float, frames: int = 4) -> dict[str, Any]:
    """A contact sheet: every camera (columns) at some instants of the expert's drive (rows)."""
    from senna2.report.video import scaled_rig
    from senna2.world.sim import Simulator

    if not 0.1 <= scale <= 16:
        raise InputError(f"--scale {scale}: must lie between 0.1 and 16")
    if out.suffix != ".png":
        raise InputError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    scene = load_clip(folder)
    simulator = Simulator(scaled_rig(scene, scale))
    rows = []
    for t in np.linspace(0, scene.duration_s - 0.5, frames).round(1):
        images = simulator.observe(simulator.reset(t_s=float(t)), images=True, state_obs=False).images
        height = max(v.shape[1] for v in images.values())
        row = [np.pad(v[-1], ((0, height - v.shape[1]), (0, 4), (0, 0))) for v in images.values()]
        rows.append(np.concatenate(row, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.stem}.{os.getpid()}.png")
    try:
        Image.fromarray(np.concatenate(rows)).save(fresh)
        os.replace(fresh, out)
    finally:
        fresh.unlink(missing_ok=True)
    return {"picture": str(out)}
