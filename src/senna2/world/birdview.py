"""A bird's-eye picture of a state, for `render()` and for looking at clips: map, agents, ego, heading up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from senna2.frames import points_to_ego
from senna2.geometry import box_of, corners
from senna2.types import AgentClass, Array, EgoState, Trajectory
from senna2.world.judge import pose_of
from senna2.world.scene import Light, Scene

ROAD, GROUND, KERB, DIVIDER, ROUTE = (74, 78, 84), (38, 43, 40), (214, 206, 180), (140, 144, 150), (84, 132, 108)
EGO, CAR, SOFT, FIXED, PLAN = (90, 200, 255), (232, 176, 82), (245, 120, 120), (150, 120, 170), (120, 255, 170)
LIGHTS = {Light.RED: (235, 60, 50), Light.AMBER: (245, 180, 40), Light.GREEN: (70, 200, 90)}


def bird_view(
    scene: Scene, ego: EgoState, boxes_A6: Array, classes_A: Array, plan: Trajectory | None = None, *,
    size: int = 192, metres: float = 60.0, t_s: float | None = None,
) -> Array:  # fmt: skip
    """(size, size, 3) uint8; `metres` wide, the ego below the middle. Boxes in the world, the plan in the ego frame.

    t_s: the clip's time, if stop lines shall show the colour of their lights.
    """
    image = Image.new("RGB", (size, size), GROUND)
    draw = ImageDraw.Draw(image)
    pose, scale = pose_of(ego), size / metres

    def pixels(points_in_ego: Array) -> list[tuple[float, float]]:
        return [(size / 2 - y * scale, size * 0.7 - x * scale) for x, y in points_in_ego]

    def polygon(points_in_world: Array, fill: tuple[int, int, int]) -> None:
        draw.polygon(pixels(points_to_ego(points_in_world, pose)), fill=fill)

    def line(points_in_world: Array, fill: tuple[int, int, int], width: int = 1) -> None:
        draw.line(pixels(points_to_ego(points_in_world, pose)), fill=fill, width=width)

    for ring in (*scene.map.drivable, *(lane.polygon_Q2 for lane in scene.map.lanes)):
        polygon(np.asarray(ring, np.float64), ROAD)
    line(np.asarray(scene.route_P2, np.float64), ROUTE, 2)
    for divider in (*scene.map.dividers, *scene.map.centre_lines):
        line(np.asarray(divider, np.float64), DIVIDER)
    for kerb in scene.map.kerbs:
        line(np.asarray(kerb, np.float64), KERB)
    if t_s is not None:
        for signal in scene.signals:
            line(np.asarray(signal.stop_line_22, np.float64), LIGHTS[signal.at(t_s)], 3)
    for box, agent_class in zip(boxes_A6, classes_A, strict=True):
        if np.isfinite(box[0]):
            soft = agent_class in (AgentClass.PEDESTRIAN, AgentClass.CYCLIST, AgentClass.MOTORCYCLE)
            polygon(corners(box[:5]), SOFT if soft else FIXED if agent_class == AgentClass.STATIC else CAR)
    polygon(corners(box_of(pose, scene.meta.ego_shape)), EGO)
    if plan is not None:
        draw.line(pixels(np.vstack([np.zeros((1, 2)), plan.points_T2])), fill=PLAN, width=2)
    return np.asarray(image)


def mosaic(pictures: Sequence[Array]) -> Array:
    """Pictures side by side, top aligned, on black."""
    height, width = max(p.shape[0] for p in pictures), sum(p.shape[1] for p in pictures)
    sheet = np.zeros((height, width, 3), np.uint8)
    x = 0
    for p in pictures:
        sheet[: p.shape[0], x : x + p.shape[1]] = p
        x += p.shape[1]
    return sheet
