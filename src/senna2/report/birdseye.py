"""The scene from above, heading up: lanes, kerbs, boxes, ego, plan and route. Drawn with PIL, twice as large,
and reduced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from senna2.frames import points_to_ego, points_to_world
from senna2.geometry import box_of, corners
from senna2.types import AgentClass, Array, Rollout
from senna2.world.scene import Scene

AHEAD_M, BEHIND_M = 36.0, 10.0
OVERSAMPLE = 2
SMALLEST_M = 1.3  # a person of true size would be a dot

GROUND, ROAD, MARK, CENTRE, KERB = "#e9ebe4", "#cfd4da", "#ffffff", "#f4c95d", "#6b7280"
ROUTE, PLAN, EGO, HIT = "#8fc7b5", "#0f766e", "#1d4ed8", "#dc2626"
AGENTS = {
    AgentClass.PEDESTRIAN: "#b45309", AgentClass.CYCLIST: "#b45309", AgentClass.MOTORCYCLE: "#b45309",
    AgentClass.STATIC: "#9ca3af",
}  # fmt: skip
VEHICLE = "#4b5563"


class BirdsEye:
    """Draws frames of one clip; the map is kept as world polylines, so that a frame costs a few
    milliseconds."""

    def __init__(self, scene: Scene, width: int, height: int) -> None:
        self.size = (width, height)
        self._scale = OVERSAMPLE * height / (AHEAD_M + BEHIND_M)
        lane_map = scene.map
        areas = lane_map.drivable or tuple(lane.polygon_Q2 for lane in lane_map.lanes)
        self._areas = [np.asarray(p, np.float64) for p in areas]
        self._crossings = [np.asarray(p, np.float64) for p in lane_map.crossings]
        self._lines = [(np.asarray(p, np.float64), MARK, 1.0) for p in lane_map.dividers]
        self._lines += [(np.asarray(p, np.float64), CENTRE, 1.0) for p in lane_map.centre_lines]
        self._lines += [(np.asarray(p, np.float64), MARK, 2.0) for p in lane_map.stop_lines]
        self._lines += [(np.asarray(p, np.float64), KERB, 1.5) for p in lane_map.kerbs]
        if not areas:  # lanes are all there is
            self._lines += [(np.asarray(lane.centre_P2, np.float64), MARK, 1.0) for lane in lane_map.lanes]
        self._route = np.asarray(scene.route_P2, np.float64)

    def draw(self, rollout: Rollout, frame: int, struck: Sequence[str] = ()) -> Array:
        """(H, W, 3) uint8 of one frame; agents named in `struck`, and the ego that met them, are red."""
        pose = rollout.ego_F6[frame, :3]
        width, height = (OVERSAMPLE * s for s in self.size)
        image = Image.new("RGB", (width, height), GROUND)
        pen = ImageDraw.Draw(image)

        def pixels(points_in_world: Array) -> list[tuple[float, float]]:
            p = points_to_ego(np.asarray(points_in_world, np.float64), pose)
            x = width / 2 - self._scale * p[:, 1]
            y = height - self._scale * (BEHIND_M + p[:, 0])
            return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]

        for ring in self._areas:
            pen.polygon(pixels(ring), fill=ROAD)
        for ring in self._crossings:
            pen.polygon(pixels(ring), fill="#dfe3e8")
        for line, colour, thick in self._lines:
            if len(line) > 1:
                pen.line(pixels(line), fill=colour, width=round(OVERSAMPLE * thick))
        pen.line(pixels(self._route), fill=ROUTE, width=3 * OVERSAMPLE)
        for a, box in enumerate(rollout.boxes_FA6[frame]):
            if not np.isfinite(box).all():
                continue
            colour = AGENTS.get(AgentClass(int(rollout.agent_classes_A[a])), VEHICLE)
            hit = rollout.agent_ids[a] in struck
            shown = np.concatenate([box[:3], np.maximum(box[3:5], SMALLEST_M)])
            pen.polygon(pixels(corners(shown)), fill=HIT if hit else colour, outline="white")
        plan = rollout.plans_FT2[frame]
        if np.isfinite(plan).all():
            points = np.vstack([np.zeros((1, 2)), plan])
            pen.line(pixels(points_to_world(points, pose)), fill=PLAN, width=2 * OVERSAMPLE)
            for x, y in pixels(points_to_world(plan[4::5], pose)):
                r = 1.6 * OVERSAMPLE
                pen.ellipse((x - r, y - r, x + r, y + r), fill=PLAN)
        ego = corners(box_of(pose, rollout.ego_shape))
        pen.polygon(pixels(ego), fill=HIT if struck else EGO, outline="white")
        front = np.array([(ego[0] + ego[1]) / 2, 0.7 * ego[0] + 0.3 * ego[3], 0.7 * ego[1] + 0.3 * ego[2]])
        pen.polygon(pixels(front), fill="white")  # an arrowhead tells its front
        return np.asarray(image.resize(self.size, Image.Resampling.LANCZOS))
