"""What the ego's sensors give: rendered camera frames with their history, and the privileged state observation."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from senna2.frames import along_polyline, points_to_ego, pose_to_matrix, sample_polyline, wrap
from senna2.types import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_LANES,
    ROUTE_POINTS,
    ROUTE_SPACING,
    AgentClass,
    Array,
    EgoState,
    LaneKind,
    StateObservation,
)  # fmt: skip
from senna2.world.gaussians import GaussianCloud
from senna2.world.judge import MapJudge, Route, pose_of
from senna2.world.render.base import Instance, PosedCamera, Renderer, Sky, to_u8
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Scene
from senna2.world.traffic import ReplayTraffic

STRIDE_S = 0.25  # legs change twice a second
BLINK_S = 0.3  # a car that brakes and indicates shows both in turn
VIEW_M = 160.0  # agents further away are under a pixel high
CACHED_FRAMES = 64
LANE_DENSE_M = 2.0  # map lines are cut into pieces of this length once, and looked up
LANE_STEP = 3  # dense points between two points of an observed line: 6 m
LANE_BEHIND = 1  # of the LANE_POINTS points, one lies behind the nearest
LANE_RANGE_M = 60.0


class CameraSensor:
    """Renders the rig at (frame, ego). Each frame is rendered once and kept, by camera, frame and pose."""

    def __init__(self, scene: Scene, traffic: ReplayTraffic, dt: float, renderer: Renderer | None) -> None:
        self._scene, self._traffic, self._dt, self._renderer = scene, traffic, dt, renderer
        self._assets = [scene.assets[t.asset] for t in scene.tracks]
        self._sky = Sky.day()
        self._kept: OrderedDict[tuple[object, ...], Array] = OrderedDict()
        oldest = max(age for camera in scene.rig.cameras for age in camera.history_s)
        self.memory_frames = round(oldest / dt)

    def look(self, step: int, ego: EgoState, past: tuple[tuple[int, EgoState], ...]) -> dict[str, Array]:
        """Camera name → (K, H, W, 3) uint8, oldest first. Before the start the first frame is repeated."""
        seen = [*past, (step, ego)]
        wanted: list[tuple[str, int, EgoState]] = []
        for camera in self._scene.rig.cameras:
            for age in camera.history_s:
                frame = step - round(age / self._dt)
                at = next((s for s in reversed(seen) if s[0] <= frame), seen[0])
                wanted.append((camera.name, *at))
        self._render_missing(wanted)
        images: dict[str, list[Array]] = {}
        for key in wanted:
            images.setdefault(key[0], []).append(self._kept[key])
        while len(self._kept) > CACHED_FRAMES * len(self._scene.rig.cameras):
            self._kept.popitem(last=False)
        return {name: np.stack(frames) for name, frames in images.items()}

    def _render_missing(self, wanted: list[tuple[str, int, EgoState]]) -> None:
        moments = {(step, ego) for _, step, ego in wanted}
        for moment in sorted(moments, key=lambda m: m[0]):
            names = [n for n, s, e in wanted if (s, e) == moment and (n, s, e) not in self._kept]
            names = list(dict.fromkeys(names))
            if not names:
                continue
            step, ego = moment
            ego_to_world = pose_to_matrix(pose_of(ego))
            cameras = [PosedCamera(c, ego_to_world @ c.cam_to_ego_44) for c in map(self._scene.rig.__getitem__, names)]
            views = self.renderer.render(self.instances(step, ego), cameras, self._sky)
            for name, view in zip(names, views, strict=True):
                self._kept[(name, step, ego)] = to_u8(view.rgb_HW3)

    @property
    def renderer(self) -> Renderer:
        if self._renderer is None:
            from senna2.world.render.cpu import CpuRenderer  # compiled kernels: only when something is rendered

            self._renderer = CpuRenderer()
        return self._renderer

    def instances(self, step: int, ego: EgoState) -> list[Instance]:
        """The clip at a frame: background and every agent in view range at its pose. The ego itself is not drawn."""
        placed = [Instance(self._scene.background)]
        boxes = self._traffic.boxes_KA6[step]
        for a in np.flatnonzero(np.hypot(boxes[:, 0] - ego.x, boxes[:, 1] - ego.y) < VIEW_M):
            placed.append(Instance(self._asset(int(a), step), pose_to_matrix(boxes[a, :3])))
        return placed

    def _asset(self, a: int, step: int) -> GaussianCloud:
        """The agent's cloud with its lights or legs as they are now; a missing variant means the plain one."""
        t, lights = step * self._dt, int(self._traffic.lights_KA[step, a])
        suffix = ""
        if self._traffic.classes_A[a] in (AgentClass.PEDESTRIAN, AgentClass.CYCLIST):
            stride = int((t + 0.07 * a) / STRIDE_S + 1e-6) % 2 == 1  # not all in step
            suffix = ".step" if stride and self._traffic.boxes_KA6[step, a, 5] > 0.2 else ""
        else:
            side = ".left" if lights & INDICATOR_LEFT else ".right" if lights & INDICATOR_RIGHT else ""
            brake = ".brake" if lights & BRAKE else ""
            first = int(t / BLINK_S + 1e-6) % 2 == 0
            suffix = (brake if first else side) if brake and side else brake or side
        return self._scene.assets.get(f"{self._scene.tracks[a].asset}{suffix}", self._assets[a])


class StateSensor:
    """Boxes, lanes and route around the ego, in its frame."""

    def __init__(self, scene: Scene, route: Route, judge: MapJudge) -> None:
        self._route = route
        lines = [(lane.centre_P2, LaneKind.LANE) for lane in scene.map.lanes]
        lines += [(line, LaneKind.DIVIDER) for line in (*scene.map.dividers, *scene.map.centre_lines)]
        lines += [(line, LaneKind.KERB) for line in _kerb_polylines(scene, judge)]
        dense = [_dense(np.asarray(line, np.float64)) for line, _ in lines]
        self._kind_L = np.array([kind for _, kind in lines], np.int8)
        counts = np.array([len(d) for d in dense], int)
        self._first_L = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int) if len(dense) else counts
        self._last_L = self._first_L + counts - 1
        self._points = np.concatenate(dense) if dense else np.zeros((0, 2))
        self._on_route = self._beside_route(scene)

    def _beside_route(self, scene: Scene) -> Array:
        """Per dense point of a lane: it repeats the route line, which every observation carries anyway."""
        from senna2.frames import project_to_polyline

        if len(self._points) == 0:
            return np.zeros(0, bool)
        _, offset = project_to_polyline(self._points, np.asarray(scene.route_P2, np.float64))
        lane = np.repeat(self._kind_L == LaneKind.LANE, self._last_L - self._first_L + 1)
        return lane & (np.abs(offset) < 0.5)

    def look(self, ego: EgoState, progress_m: float, boxes_A6: Array, classes_A: Array) -> StateObservation:
        pose = pose_of(ego)
        boxes, classes = _nearest_agents(pose, boxes_A6, classes_A)
        lanes, kinds = self._lanes(pose, progress_m)
        route = self._route.at(progress_m + ROUTE_SPACING * np.arange(1, ROUTE_POINTS + 1))
        return StateObservation(boxes, classes, lanes, kinds, points_to_ego(route, pose).astype(np.float32))

    def _lanes(self, pose_3: Array, progress_m: float) -> tuple[Array, Array]:
        lanes = np.full((MAX_LANES, LANE_POINTS, 2), np.nan, np.float32)
        kinds = np.full(MAX_LANES, -1, np.int8)
        spacing = LANE_DENSE_M * LANE_STEP
        ahead = self._route.at(progress_m + spacing * np.arange(-LANE_BEHIND, LANE_POINTS - LANE_BEHIND))
        lanes[0], kinds[0] = points_to_ego(ahead, pose_3), LaneKind.ROUTE_LANE
        if len(self._points) == 0:
            return lanes, kinds
        gap = np.hypot(self._points[:, 0] - pose_3[0], self._points[:, 1] - pose_3[1])
        nearest = np.minimum.reduceat(gap, self._first_L)
        row = 1
        for line in np.argsort(nearest, kind="stable"):
            if row == MAX_LANES or nearest[line] > LANE_RANGE_M:
                break
            first, last = self._first_L[line], self._last_L[line]
            middle = first + int(np.argmin(gap[first : last + 1]))
            step = self._points[min(middle + 1, last)] - self._points[max(middle - 1, first)]
            along = step[0] * np.cos(pose_3[2]) + step[1] * np.sin(pose_3[2])
            # Dividers and kerbs have no direction of their own: they are read the way the ego looks.
            sense = -1 if along < 0 and self._kind_L[line] != LaneKind.LANE else 1
            index = middle + sense * LANE_STEP * np.arange(-LANE_BEHIND, LANE_POINTS - LANE_BEHIND)
            index = np.clip(index, first, last)
            if self._on_route[index].all():
                continue
            lanes[row], kinds[row] = points_to_ego(self._points[index], pose_3), self._kind_L[line]
            row += 1
        return lanes, kinds


def _nearest_agents(pose_3: Array, boxes_A6: Array, classes_A: Array) -> tuple[Array, Array]:
    boxes = np.full((MAX_AGENTS, 6), np.nan, np.float32)
    classes = np.full(MAX_AGENTS, -1, np.int8)
    gap = np.hypot(boxes_A6[:, 0] - pose_3[0], boxes_A6[:, 1] - pose_3[1])
    order = np.argsort(gap, kind="stable")  # NaN (absent) last
    order = order[: min(MAX_AGENTS, int(np.isfinite(gap).sum()))]
    here = boxes_A6[order]
    n = len(order)
    boxes[:n, :2] = points_to_ego(here[:, :2], pose_3)
    boxes[:n, 2] = wrap(here[:, 2] - pose_3[2])
    boxes[:n, 3:] = here[:, 3:]
    classes[:n] = classes_A[order]
    return boxes, classes


def _dense(line_P2: Array) -> Array:
    length = along_polyline(line_P2)[-1]
    n = max(int(np.ceil(length / LANE_DENSE_M)), 1)
    return sample_polyline(line_P2, np.linspace(0, length, n + 1))[0]


def _kerb_polylines(scene: Scene, judge: MapJudge) -> list[Array]:
    """The clip's kerbs, or those that stand in for them (the judge's), as polylines."""
    if scene.map.kerbs or not judge.has_kerbs:
        return list(scene.map.kerbs)
    from senna2.world.judge import drivable_boundary

    return list(drivable_boundary(scene.map))
