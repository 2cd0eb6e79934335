"""A contact sheet: a clip of each family at some instants of the expert's drive, 640 × 360, with a view from above."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from senna2.recipes.clips import families_of, save_picture
from senna2.types import Array, Camera, Direction, InputError, Rig
from senna2.workers import run_jobs, worker_count
from senna2.world.birdview import bird_view
from senna2.world.scene import Scene, Track
from senna2.world.sim import Simulator
from senna2.world.town.families import make_scene, scene_seed
from senna2.world.visibility import reaction_s

WIDTH, HEIGHT = 640, 360
INSET = 150  # px, the view from above
AFTER_S, LEAST_APART_S = 1.8, 1.0
KEY = "key_"  # tracks on which the right decision depends
QUALITY = 82


def family_row(family: str, seed: int, split: str) -> Array:
    """(360, 1920, 3) uint8: three stills of a clip, at its `moments`."""
    scene = make_scene(family, seed, split)
    return np.concatenate([still(scene, t) for t in moments(scene)], 1)


def moments(scene: Scene) -> list[float]:
    """Three times, s: shortly after the expert begins to react to the deciding agents, in the middle of what it then
    does (a turn or lane change, else its nearest approach), and after it. Of a clip without such agents: spread."""
    dt, last = scene.meta.dt, scene.duration_s - scene.meta.dt
    keys = [t for t in scene.tracks if t.id.startswith(KEY)]
    begins = reaction_s(scene, {t.id for t in keys}) if keys else None
    if begins is None:
        times = [0.12 * last, 0.45 * last, 0.8 * last]
    else:
        first = round(begins / dt)
        moves = first + np.flatnonzero(scene.expert.direction_E[first:] != Direction.STRAIGHT)
        if len(moves):
            runs = np.split(moves, np.flatnonzero(np.diff(moves) > 1) + 1)
            middle = float(np.median(max(runs, key=len))) * dt
        else:
            middle = float(scene.expert.t_E[first + int(np.argmin(_nearness(scene, keys)[first:]))])
        times = [begins + 0.3, middle, middle + AFTER_S]
    for i in (1, 2):  # not twice the same picture
        times[i] = max(times[i], times[i - 1] + LEAST_APART_S)
    late = max(times[2] - last, 0.0)
    return [round(min(max(t - late, 0.0), last) / dt) * dt for t in times]


def _nearness(scene: Scene, keys: Sequence[Track]) -> Array:
    """(E,) how far the nearest of these agents is from being right ahead of the expert, m; sideways counts most."""
    t_E, pose_E3 = scene.expert.t_E, scene.expert.pose_E3
    cos, sin = np.cos(pose_E3[:, 2]), np.sin(pose_E3[:, 2])
    far = [np.full(len(t_E), np.inf)]
    for track in keys:
        x, y = (np.interp(t_E, track.t_T, track.pose_T3[:, k], np.nan, np.nan) - pose_E3[:, k] for k in (0, 1))
        ahead, left = x * cos + y * sin, y * cos - x * sin
        far.append(np.where(ahead > 3.0, np.hypot(0.3 * ahead, left), np.inf))
    return np.min(far, 0)


def still(scene: Scene, t_s: float) -> Array:
    """(360, 640, 3) uint8: front camera uncropped, with family, time, speed and what the expert is doing."""
    camera = Camera.looking(
        "front", yaw_deg=0, fov_deg=80, width=WIDTH, height=HEIGHT, horizon_row=0.42 * HEIGHT,
        position_in_ego=(1.7, 0.0, 1.55),
    )  # fmt: skip
    sim = Simulator(dataclasses.replace(scene, rig=Rig((camera,))))
    state = sim.reset(t_s=t_s)
    image = Image.fromarray(sim.observe(state, images=True, state_obs=False).images["front"][-1])
    above = bird_view(scene, state.ego, state.agents.boxes_A6, sim.traffic.classes_A, size=INSET, metres=70.0)
    image.paste(Image.fromarray(above), (WIDTH - INSET - 6, 6))
    frame = min(round(t_s / scene.meta.dt), len(scene.expert.t_E) - 1)
    doing = Direction(int(scene.expert.direction_E[frame])).name.lower().replace("_", " ")
    pen = ImageDraw.Draw(image, "RGBA")
    _chip(pen, (8, 8), scene.meta.family.replace("_", " "), 22)
    _chip(pen, (8, 40), f"{t_s:.1f} s    {state.ego.v:.1f} m/s    {doing}", 16)
    return np.asarray(image)


def _chip(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    font = ImageFont.load_default(size)
    box = pen.textbbox(at, text, font=font)
    pen.rectangle((box[0] - 5, box[1] - 4, box[2] + 5, box[3] + 4), fill=(15, 23, 42, 190))
    pen.text(at, text, font=font, fill=(255, 255, 255))


def sheet_verb(
    group: str, families: Sequence[str], out: Path, *, split: str, number: int, workers: int | None
) -> dict[str, Any]:
    """Write the sheet of the `number`-th clip of each family as a JPEG. Raises `InputError` for another ending."""
    families = families_of(group, families)
    if out.suffix.lower() not in (".jpg", ".jpeg"):
        raise InputError(f"--out {out}: the sheet is a JPEG; give a name that ends in .jpg")
    workers = worker_count(workers)
    jobs = [(family, scene_seed(split, family, number), split) for family in families]
    rows = run_jobs(family_row, jobs, workers=workers, label="contact sheet", unit="family")
    save_picture(np.concatenate(rows), out, quality=QUALITY, optimize=True)
    return {"picture": str(out), "families": list(families)}
