"""A clip to look at: what its cameras see along the expert's drive, as stills, or as a film with a view from above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from senna2.decisions import DIRECTION_TEXT
from senna2.frames import points_to_ego
from senna2.report.video import DARK, chip, scaled_rig, write_mp4
from senna2.types import PLAN_DT, PLAN_STEPS, Array, Trajectory
from senna2.world.birdview import bird_view
from senna2.world.scene import Scene
from senna2.world.sim import SimState, Simulator

GAP = 4  # px between pictures


def clip_sheet(scene: Scene, scale: float, count: int = 4) -> Array:
    """(H, W, 3) uint8: every camera (columns) at `count` instants of the expert's drive (rows)."""
    sim = Simulator(scaled_rig(scene, scale))
    rows = []
    for t in np.linspace(0, scene.duration_s - 0.5, count).round(1):
        images = sim.observe(sim.reset(t_s=float(t)), images=True, state_obs=False).images
        height = max(v.shape[1] for v in images.values())
        row = [np.pad(v[-1], ((0, height - v.shape[1]), (0, GAP), (0, 0))) for v in images.values()]
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def clip_video(path: Path, scene: Scene, scale: float) -> int:
    """The expert's drive in real time → mp4; returns how many frames. Front camera, the others below it, the scene
    from above with the expert's next three seconds beside them. Raises `InputError` and `OSError` as `write_mp4`."""
    sim = Simulator(scaled_rig(scene, scale))
    write_mp4(path, _frames(sim), 1 / sim.config.dt)
    return sim.last_step


def _frames(sim: Simulator) -> Iterator[Array]:
    for step in range(sim.last_step):
        yield _frame(sim, sim.reset(t_s=step * sim.config.dt))


def _frame(sim: Simulator, state: SimState) -> Array:
    images = {name: v[-1] for name, v in sim.observe(state, images=True, state_obs=False).images.items()}
    front = images.pop("front")
    column = [front] if not images else [front, _row(list(images.values()), front.shape[1])]
    height = sum(p.shape[0] for p in column) + GAP * (len(column) - 1)
    above = bird_view(sim.scene, state.ego, state.agents.boxes_A6, sim.traffic.classes_A, _expert_ahead(sim, state),
                      size=height)  # fmt: skip
    sheet = Image.new("RGB", (_even(front.shape[1] + GAP + height), _even(height)))
    y = 0
    for picture in column:
        sheet.paste(Image.fromarray(picture), (0, y))
        y += picture.shape[0] + GAP
    sheet.paste(Image.fromarray(above), (front.shape[1] + GAP, 0))
    k = min(int(np.searchsorted(sim.scene.expert.t_E, state.t_s + 1e-6)), len(sim.scene.expert.t_E) - 1)
    doing = DIRECTION_TEXT[int(sim.scene.expert.direction_E[k])]
    words = f"{state.t_s:.1f} s    {state.ego.v:.1f} m/s    {doing.lower()}"
    chip(ImageDraw.Draw(sheet, "RGBA"), (6, 4), words, 12, DARK)
    return np.asarray(sheet)


def _row(pictures: list[Array], width: int) -> Array:
    """Pictures side by side, shrunk or grown together to `width`."""
    tall = max(p.shape[0] for p in pictures)
    side_by_side = np.concatenate([np.pad(p, ((0, tall - p.shape[0]), (0, 0), (0, 0))) for p in pictures], 1)
    height = max(round(tall * width / side_by_side.shape[1]), 1)
    return np.asarray(Image.fromarray(side_by_side).resize((width, height), Image.Resampling.LANCZOS))


def _expert_ahead(sim: Simulator, state: SimState) -> Trajectory:
    e = sim.scene.expert
    t = np.minimum(state.t_s + PLAN_DT * np.arange(1, PLAN_STEPS + 1), e.t_E[-1])
    world = np.stack([np.interp(t, e.t_E, e.pose_E3[:, k]) for k in (0, 1)], 1)
    return Trajectory(points_to_ego(world, np.array([state.ego.x, state.ego.y, state.ego.yaw])), PLAN_DT)


def _even(side: int) -> int:
    return side + side % 2  # H.264 needs even sides
