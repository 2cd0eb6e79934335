"""What the map and the other agents say about an ego pose, by EVALUATION.md: contacts and fault, off-road, straddling,
time to collision, progress. Built once a clip; None wherever the map does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from senna2.geometry import (
    AHEAD,
    STAND_SPEED,
    ContactVerdict,
    DrivableArea,
    LaneAreas,
    Lines,
    bearing,
    box_of,
    corners,
    hits_segments,
    judge_contact,
    overlap,
    ttc,
)  # fmt: skip
from senna2.types import AgentClass, Array, Contact, EgoState, VehicleShape
from senna2.world.scene import LaneMap, Scene
from senna2.world.traffic.base import AgentsState, Traffic, between

OFF_ROAD_M = 0.3  # a corner further outside the drivable area is off the road
APPROACH_M = 0.25  # most that ego and agent may approach between two contact tests
KERB_ID = "kerb"


def pose_of(ego: EgoState) -> Array:
    """(3,) x, y, yaw."""
    return np.array([ego.x, ego.y, ego.yaw])


class MapJudge:
    """Kerbs, drivable area, lanes and dividers of a clip, asked about ego boxes."""

    def __init__(self, scene: Scene) -> None:
        lane_map, shape = scene.map, scene.meta.ego_shape
        expert_boxes = box_of(scene.expert.pose_E3, shape)
        area = DrivableArea(lane_map.drivable) if lane_map.drivable_known and lane_map.drivable else None
        kerbs: Sequence[Array] = lane_map.kerbs
        if not kerbs and area is not None:
            # [ours, EVALUATION.md] no kerb lines: the boundary of an area that holds the whole recorded ego stands in.
            held = all(area.outside_m(c) == 0 for c in corners(expert_boxes))
            kerbs = drivable_boundary(lane_map) if held else ()
            area = area if held else None
        self._kerbs = Lines(kerbs)
        self._area = area
        self._lanes = _lane_areas(lane_map) if lane_map.lanes_complete and lane_map.lanes else None
        self._dividers = Lines((*lane_map.dividers, *lane_map.centre_lines))
        self.has_kerbs = len(kerbs) > 0

    def off_road(self, box_5: Array) -> bool | None:
        return None if self._area is None else self._area.outside_m(corners(box_5)) > OFF_ROAD_M

    def straddling(self, box_5: Array) -> bool | None:
        return None if self._lanes is None else self._dividers.hit(box_5)

    def several_lanes(self, box_5: Array) -> bool | None:
        return None if self._lanes is None else self._lanes.several_lanes(corners(box_5))

    def watches_all_around(self, box_5: Array, pose_3: Array) -> bool:
        """Whether TTC counts agents beside the ego too; without complete lanes only those ahead."""
        if self._lanes is None:
            return False
        four = corners(box_5)
        return self._lanes.several_lanes(four) or self._lanes.off_lanes(four) or self._lanes.in_junction(pose_3[:2])

    def kerb_hits(self, boxes_N5: Array) -> Array:
        """(N,) whether each of the ego's boxes (close together) meets a kerb."""
        reach = 0.5 * math.hypot(boxes_N5[0, 3], boxes_N5[0, 4]) + 0.1
        middle = boxes_N5[len(boxes_N5) // 2, :2]
        spread = float(np.hypot(*(boxes_N5[:, :2] - middle).T).max())
        near = _near(self._kerbs.segments_S4, middle, reach + spread)
        if len(near) == 0:
            return np.zeros(len(boxes_N5), bool)
        return np.asarray(hits_segments(boxes_N5, near).any(1))


def _near(segments_S4: Array, point_2: Array, radius: float) -> Array:
    """Segments whose bounding box comes within `radius` of a point: a cheap, generous choice."""
    s, (x, y) = segments_S4, point_2
    return s[
        (np.minimum(s[:, 0], s[:, 2]) <= x + radius) & (np.maximum(s[:, 0], s[:, 2]) >= x - radius)
        & (np.minimum(s[:, 1], s[:, 3]) <= y + radius) & (np.maximum(s[:, 1], s[:, 3]) >= y - radius)
    ]  # fmt: skip


def drivable_boundary(lane_map: LaneMap) -> tuple[Array, ...]:
    """Rings around the union of the drivable polygons; slivers under 0.2 m between them are no boundary."""
    area = shapely.union_all([shapely.make_valid(shapely.Polygon(p)) for p in lane_map.drivable])
    area = area.buffer(0.1, join_style="mitre").buffer(-0.1, join_style="mitre")
    parts = area.geoms if hasattr(area, "geoms") else (area,)
    rings = [r for p in parts if p.geom_type == "Polygon" for r in (p.exterior, *p.interiors)]
    return tuple(np.asarray(ring.coords)[:, :2] for ring in rings)


def _lane_areas(lane_map: LaneMap) -> LaneAreas:
    number = {lane.id: i for i, lane in enumerate(lane_map.lanes)}
    joined = [(i, number[n]) for i, lane in enumerate(lane_map.lanes) for n in lane.successors if n in number]
    return LaneAreas(
        [lane.polygon_Q2 for lane in lane_map.lanes], joined, [lane.in_junction for lane in lane_map.lanes]
    )


def overlapping(box_5: Array, boxes_A6: Array) -> Array:
    """(A,) whether agents touch the ego now (NaN rows: no)."""
    return overlap(box_5, boxes_A6[:, :5]) if len(boxes_A6) else np.zeros(0, bool)


def frame_ttc(judge: MapJudge, ego: EgoState, shape: VehicleShape, boxes_A6: Array, counted_A: Array) -> float:
    """The smallest TTC over the agents that count at this frame, s; inf if none."""
    boxes = boxes_A6[counted_A & np.isfinite(boxes_A6[:, 0])]
    if len(boxes) == 0 or ego.v <= STAND_SPEED:
        return math.inf
    pose = pose_of(ego)
    around_A = ttc(pose, ego.v, shape, boxes[:, :5], boxes[:, 5], all_around=True)
    met = np.isfinite(around_A)
    if not met.any():
        return math.inf
    around = float(around_A.min())
    in_front = around_A[met][bearing(pose, boxes[met, :2]) <= AHEAD]
    ahead = float(in_front.min()) if len(in_front) else math.inf
    if ahead <= around:  # then the lanes, which cost far more, cannot change the answer
        return ahead
    return around if judge.watches_all_around(box_of(pose, shape), pose) else ahead


def find_contacts(
    judge: MapJudge, traffic: Traffic, agents_now: AgentsState, agents_then: AgentsState, dt: float,
    states: Sequence[EgoState], shape: VehicleShape, ignored_A: Array,
) -> tuple[list[Contact], Array]:  # fmt: skip
    """First contacts while the ego goes through `states`, from the frame of `agents_now` to that of `agents_then`.

    Poses between are interpolated where ego and an agent come closer than `APPROACH_M` from one test to the next.
    Stops after the sub-step of the first at-fault or static contact. Returns the contacts and who is ignored now.
    """
    now, then, t_s = agents_now.boxes_A6, agents_then.boxes_A6, agents_now.step * dt
    path_N3 = np.array([(e.x, e.y, e.yaw) for e in states])
    path_N3[:, 2] = np.unwrap(path_N3[:, 2])
    v_N = np.array([e.v for e in states])
    close = _close_agents(path_N3, now, then, shape) & ~ignored_A
    agents = np.flatnonzero(close)
    parts = len(states) - 1
    finer = parts * _refinement(path_N3, now[agents], then[agents], parts)
    share_M = np.arange(1, finer + 1) / finer
    if finer == parts:
        ego_M3, v_before_M = path_N3[1:], v_N[:-1]
    else:
        share_old = np.arange(parts + 1) / parts
        ego_M3 = np.stack([np.interp(share_M, share_old, path_N3[:, k]) for k in range(3)], 1)
        v_before_M = np.interp(share_M - 1 / finer, share_old, v_N)
    ego_boxes_M5 = box_of(ego_M3, shape)
    kerb_M = judge.kerb_hits(ego_boxes_M5)
    touch_MA = np.zeros((finer, 0), bool)
    boxes_MA6 = np.zeros((finer, 0, 6))
    if len(agents):
        boxes_MA6 = between(now[agents], then[agents], share_M)
        touch_MA = overlap(ego_boxes_M5[:, None], boxes_MA6[..., :5])
    contacts: list[Contact] = []
    ignored = ignored_A.copy()
    for m in np.flatnonzero(kerb_M | touch_MA.any(1)):
        t = t_s + float(share_M[m]) * dt
        ends = False
        for j in np.flatnonzero(touch_MA[m] & ~ignored[agents]):
            a = int(agents[j])
            static = int(traffic.classes_A[a]) == AgentClass.STATIC
            agent_v = float(boxes_MA6[m - 1, j, 5]) if m > 0 else float(now[a, 5])
            agent_v = agent_v if math.isfinite(agent_v) else float(boxes_MA6[m, j, 5])  # it appears just now
            verdict = _judge(judge, ego_M3[m], float(v_before_M[m]), shape, boxes_MA6[m, j, :5], agent_v, static)
            contacts.append(
                Contact(t, traffic.ids[a], int(traffic.classes_A[a]), verdict.at_fault, verdict.kind,
                        float(v_before_M[m]), verdict.lateral_undecided)
            )  # fmt: skip
            ignored[a] = True
            ends |= verdict.at_fault or static
        if kerb_M[m]:
            contacts.append(Contact(t, KERB_ID, -1, True, "static", float(v_before_M[m])))
            ends = True
        if ends:
            break
    return contacts, ignored


def _judge(
    judge: MapJudge, pose_3: Array, v: float, shape: VehicleShape, box_5: Array, agent_v: float, static: bool
) -> ContactVerdict:
    box = box_of(pose_3, shape)
    return judge_contact(
        pose_3, v, shape, box_5, agent_v, is_static=static,
        several_lanes=judge.several_lanes(box), off_drivable=judge.off_road(box),
    )  # fmt: skip


def _close_agents(path_N3: Array, now_A6: Array, then_A6: Array, shape: VehicleShape) -> Array:
    """(A,) agents that could touch the ego within this step, by circles around boxes and what all of them move."""
    if len(now_A6) == 0:
        return np.zeros(0, bool)
    reach = math.hypot(max(shape.front, shape.rear_overhang), shape.width / 2)
    moved = float(np.hypot(*(path_N3 - path_N3[0])[:, :2].T).max())
    here = np.where(np.isfinite(then_A6[:, :2]), then_A6[:, :2], now_A6[:, :2])
    agent_moved = np.nan_to_num(np.hypot(*(then_A6 - now_A6)[:, :2].T))
    size = 0.5 * np.hypot(then_A6[:, 3], then_A6[:, 4])
    size = np.where(np.isfinite(size), size, 0.5 * np.hypot(now_A6[:, 3], now_A6[:, 4]))
    gap = np.hypot(*(here - path_N3[0, :2]).T)
    return gap <= reach + moved + size + agent_moved  # NaN (absent): False


def _refinement(path_N3: Array, now_A6: Array, then_A6: Array, parts: int) -> int:
    if len(now_A6) == 0:
        return 1
    ego = path_N3[-1, :2] - path_N3[0, :2]
    relative = np.nan_to_num(np.hypot(*((then_A6 - now_A6)[:, :2] - ego).T))
    return max(1, math.ceil(float(relative.max()) / parts / APPROACH_M - 1e-9))
