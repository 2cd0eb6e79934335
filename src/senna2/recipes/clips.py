"""`senna2 scene`: make, dress, check and view clips."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from senna2.config import load_json
from senna2.files import write_json, written_whole
from senna2.recipes.cache import CLIP_CODE, code_digest
from senna2.types import AgentClass, Array, InputError, meant
from senna2.workers import run_jobs
from senna2.world.check import check_scene
from senna2.world.clip import clip_info, find_clips, load_clip, save_clip
from senna2.world.town.families import CORE, FAMILIES, SETS, make_scene, split_scenes

MADE = "made.json"  # beside generated clips: the digest of the code that made each


def make_clips(
    split: str,
    count: int,
    out: Path,
    families: Sequence[str] = (),
    *,
    workers: int = 0,
    duration_s: float | None = None,
    anew: bool = False,
    same_code: bool = False,
) -> list[Path]:
    """`count` generated clips of a split, families (by default the core ones) in turn, as folders of `out`; those that
    exist are kept, unless `anew`, or with `same_code` unless this version of the generator made them (`MADE` there
    says which did). duration_s: longer or shorter than the family's story."""
    _known(families)
    chosen = split_scenes(split, count, tuple(families) or CORE)
    known, code = load_json(out / MADE) if (out / MADE).is_file() else {}, code_digest(CLIP_CODE)

    def stale(family: str, seed: int) -> bool:
        return anew or (same_code and known.get(_name(family, seed, duration_s)) != code)

    jobs = [(family, seed, split, out, duration_s, stale(family, seed)) for family, seed in chosen]
    before = {path.name for path in out.glob("*") if (path / "clip.json").is_file()}
    made = run_jobs(_make_one, jobs, workers=workers, label=f"clips {split}")
    fresh = {path.name for path, job in zip(made, jobs, strict=True) if job[-1] or path.name not in before}
    if fresh:
        write_json(out / MADE, dict(sorted({**known, **dict.fromkeys(fresh, code)}.items())))
    return made


def _name(family: str, seed: int, duration_s: float | None) -> str:
    return f"{family}-{seed}" if duration_s is None else f"{family}-{seed}-{duration_s:g}s"


def _make_one(
    family: str, seed: int, split: str, out: Path, duration_s: float | None = None, anew: bool = False
) -> Path:  # fmt: skip
    folder = out / _name(family, seed, duration_s)
    if anew or not (folder / "clip.json").is_file():
        save_clip(make_scene(family, seed, split, duration_s=duration_s), folder)
    return folder


def _known(families: Sequence[str]) -> None:
    for family in families:
        if family not in FAMILIES:
            raise InputError(f"--family {family}: unknown; there are {list(FAMILIES)}{meant(family, FAMILIES)}")


def families_of(group: str, families: Sequence[str]) -> tuple[str, ...]:
    """The named families, or those of a set if none is named. Raises `InputError` for unknown names."""
    if group not in SETS:
        raise InputError(f"--set {group}: unknown; there are {list(SETS)}{meant(group, SETS)}")
    _known(families)
    return tuple(families) or SETS[group]


def make_verb(
    out: Path, *, family: str | None, split: str, count: int, seed: int | None, group: str = "core",
    duration_s: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`group`: the set whose families take turns if none is named. A clip that is there is made again: it may be
    damaged, of another split or of an older version."""
    families = families_of(group, () if family is None else (family,))
    if count < 1:
        raise InputError(f"--count {count}: must be at least 1")
    if seed is not None and count != 1:
        raise InputError(f"--seed {seed}: names one clip; drop --count {count}")
    if seed is None:
        made = make_clips(split, count, out, families, duration_s=duration_s, anew=True)
    else:
        made = [_make_one(families[0], seed, split, out, duration_s, anew=True)]
    return {"clips": [str(p) for p in made]}


def dress_verb(log: Path, out: Path) -> dict[str, Any]:
    """A recorded log as a clip folder."""
    from senna2.world.dress import dress_log

    scene = dress_log(log)
    save_clip(scene, out)
    return check_verb(out)


def check_verb(folder: Path) -> dict[str, Any]:
    """What is in a clip, and what is wrong with it. Raises `InputError` for a folder that cannot be read."""
    scene = load_clip(folder)
    classes = Counter(AgentClass(t.agent_class).name.lower() for t in scene.tracks)
    found = check_scene(scene)
    return {
        "clip": str(folder),
        "name": scene.meta.name,
        "family": scene.meta.family,
        "split": scene.meta.split,
        "duration_s": round(scene.duration_s, 2),
        "weather": scene.meta.weather,
        "gaussians": len(scene.background),
        "agents": dict(sorted(classes.items())),
        "lights": len(scene.signals),
        "lanes": len(scene.map.lanes),
        "drivable": clip_info(folder)["drivable"],
        "kerbs": len(scene.map.kerbs),
        "cameras": list(scene.rig.names),
        "errors": sum(f.level == "error" for f in found),
        "warnings": sum(f.level == "warning" for f in found),
        "findings": [dataclasses.asdict(f) for f in found],
    }


def check_clips(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[InputError]]:
    """`check_verb` of every clip folder named or directly inside a folder named, and why others cannot be read."""
    checked, unreadable = [], []
    for path in paths:
        inside = [path] if (path / "clip.json").exists() or not path.is_dir() else _clips_inside(path)
        for folder in inside:
            try:
                checked.append(check_verb(folder))
            except InputError as bad:
                unreadable.append(bad)
    return checked, unreadable


def _clips_inside(path: Path) -> list[Path]:
    try:
        return find_clips(path)
    except InputError:
        return [path]  # then `check_verb` says why it is none


def view_verb(folder: Path, out: Path, *, scale: float, frames: int = 4) -> dict[str, Any]:
    """Stills (a name in .png) or a film (.mp4) of the expert's drive through a clip's cameras."""
    from senna2.report.clip_video import clip_sheet, clip_video

    if not 0.1 <= scale <= 16:
        raise InputError(f"--scale {scale}: must lie between 0.1 and 16")
    if out.suffix not in (".png", ".mp4"):
        raise InputError(f"--out {out}: the picture is a PNG, the film an MP4; give a name that ends in .png or .mp4")
    scene = load_clip(folder)
    if out.suffix == ".mp4":
        return {"video": str(out), "frames": clip_video(out, scene, scale)}
    save_picture(clip_sheet(scene, scale, frames), out)
    return {"picture": str(out)}


def save_picture(rgb_HW3: Array, out: Path, **settings: Any) -> None:
    """A picture in the format that its name ends in, whole or not at all. settings: of PIL's writer."""
    with written_whole(out) as fresh:
        Image.fromarray(rgb_HW3).save(fresh, **settings)
