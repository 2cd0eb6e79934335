"""What the map and the other agents say about an ego pose, by EVALUATION.md: contacts and fault, off-road, straddling,
time to collision, progress. Built once a clip; None wherever the map does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from senna2.geometry import (
    STAND_SPEED,
    ContactVerdict,
    DrivableArea,
    LaneAreas,
    Lines,
    box_of,
    corners,
    judge_contact,
    least_ttc,
    overlap,
)  # fmt: skip
from senna2.types import AgentClass, Array, Contact, EgoState, VehicleShape
from senna2.world.contact_kernel import sweep
from senna2.world.scene import LaneMap, Scene
from senna2.world.traffic.base import AgentsState, Traffic

OFF_ROAD_M = 0.3  # a corner further outside the drivable area is off the road
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
            held = holds_boxes(drivable_union(lane_map.drivable), expert_boxes)
            kerbs = drivable_boundary(lane_map) if held else ()
            area = area if held else None
        self.kerbs = Lines(kerbs)
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
        return self._lanes.watches_all_around(corners(box_5), pose_3[:2])


def drivable_union(polygons: Sequence[Array]) -> shapely.Geometry:
    """The area of these rings (P, 2); slivers under 0.2 m between them belong to it."""
    joined = shapely.union_all([shapely.make_valid(shapely.Polygon(p)) for p in polygons])
    return joined.buffer(0.1, join_style="mitre").buffer(-0.1, join_style="mitre")


def holds_boxes(area: shapely.Geometry, boxes_N5: Array) -> bool:
    """Whether an area holds every box whole: its corners alone would pass over a hole between them."""
    shapely.prepare(area)
    return bool(shapely.covers(area, shapely.polygons(corners(boxes_N5))).all())


def drivable_boundary(lane_map: LaneMap) -> tuple[Array, ...]:
    """Rings around the union of the drivable polygons."""
    area = drivable_union(lane_map.drivable)
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
    if len(boxes_A6) == 0 or ego.v <= STAND_SPEED:
        return math.inf
    pose = pose_of(ego)
    ahead, around = least_ttc(pose, ego.v, shape, boxes_A6, counted_A)
    if ahead <= around:  # then the lanes, which cost more, cannot change the answer
        return ahead
    return around if judge.watches_all_around(box_of(pose, shape), pose) else ahead


def find_contacts(
    judge: MapJudge, traffic: Traffic, agents_now: AgentsState, agents_then: AgentsState, dt: float,
    path_N6: Array, shape: VehicleShape, ignored_A: Array,
) -> list[Contact]:  # fmt: skip
    """First contacts while the ego goes along `path_N6` (rows as `EgoState`, the first where it is now), from the frame
    of `agents_now` to that of `agents_then`; agents of `ignored_A` are not looked at.

    Poses between are interpolated where ego and an agent come closer than `contact_kernel.APPROACH_M` from one test to
    the next. Stops after the sub-step of the first at-fault or static contact.
    """
    reach = math.hypot(max(shape.front, shape.rear_overhang), shape.width / 2)
    touched, agents, ego_M3, boxes_MA6, touch_MA, kerb_M = sweep(
        path_N6, agents_now.boxes_A6, agents_then.boxes_A6, ignored_A,
        shape.centre_offset, shape.length, shape.width, reach, judge.kerbs.segments_S4,
    )  # fmt: skip
    if not touched:
        return []
    now, t_s, parts = agents_now.boxes_A6, agents_now.step * dt, len(path_N6) - 1
    share_M = np.arange(1, len(kerb_M) + 1) / len(kerb_M)
    v_before_M = np.interp(share_M - 1 / len(kerb_M), np.arange(parts + 1) / parts, path_N6[:, 3])
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
    return contacts


def _judge(
    judge: MapJudge, pose_3: Array, v: float, shape: VehicleShape, box_5: Array, agent_v: float, static: bool
) -> ContactVerdict:
    box = box_of(pose_3, shape)
    return judge_contact(
        pose_3, v, shape, box_5, agent_v, is_static=static,
        several_lanes=judge.several_lanes(box), off_drivable=judge.off_road(box),
    )  # fmt: skip
