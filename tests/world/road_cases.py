"""Roads of every kind and section for the tests of lines, paths and maps, drawn once."""

from functools import cache

import numpy as np
import pytest
import shapely

from senna2.types import Array, Direction, InputError
from senna2.world.scene import Lane, LaneMap
from senna2.world.town.junction import Arm
from senna2.world.town.network import KINDS, Roads
from senna2.world.town.roads import ReferenceLine, Section

STRAIGHT, LEFT, RIGHT = Direction.STRAIGHT, Direction.TURN_LEFT, Direction.TURN_RIGHT
SECTIONS = (Section(), Section(1, 1), Section(2, 2, cycle=True), Section(3, 2, cycle=True))
JUNCTIONS = ("cross", "tee_right", "tee_left", "tee_end")
CASES = [(k, i) for k in KINDS for i, s in enumerate(SECTIONS) if k != "merge" or s.forward > 1]
each_road = pytest.mark.parametrize(("kind", "case"), CASES)


@cache
def roads_of(kind: str, case: int, seed: int = 0) -> Roads:
    rng = np.random.default_rng(100 * case + seed)
    return Roads.draw(rng, kind, 11.1, section=SECTIONS[case], lights=kind == "cross")


@cache
def map_of(kind: str, case: int) -> LaneMap:
    return roads_of(kind, case).lane_map()


def lanes_of(kind: str, case: int) -> dict[str, Lane]:
    return {lane.id: lane for lane in map_of(kind, case).lanes}


def area_of(lane_map: LaneMap) -> shapely.Polygon:
    return shapely.Polygon(lane_map.drivable[0])


def every_path(roads: Roads) -> list[tuple[ReferenceLine, list[str], str]]:
    """All paths: the line, the ids of the lanes it runs through, its turn's name."""
    found = []
    for entry in ("main", "beyond", "right", "left"):
        for turn in (STRAIGHT, LEFT, RIGHT):
            for k in (-1, 0, 1, 2):  # -1: the cycle lane
                try:
                    line = roads.path(entry, k, turn) if k >= 0 else roads.cycle_path(entry, turn)
                except InputError:
                    continue
                found.append((line, ids_along(roads, entry, k, turn), turn.name))
    return found


def ids_along(roads: Roads, entry: str, k: int, turn: Direction) -> list[str]:
    if roads.junction is None:
        way = "in" if entry == "main" else "out"
        ids = [f"main_{way}_{k}" if k >= 0 else f"main_cycle_{way}"]
        ends = roads.main.drop is not None and entry == "main" and k == roads.main.section.forward - 1
        return [*ids, f"main_in_{k - 1}"] if ends else ids
    _, end = roads.junction.exit(entry, turn)
    n = end.lanes_out
    out = k if turn == STRAIGHT else n - 1 if turn == RIGHT else min(k, n - 1)
    ids = [f"{entry}_in_{k}", f"{end.name}_out_{out}"] if k >= 0 else [f"{entry}_cycle_in", f"{end.name}_cycle_out"]
    return [ids[0], f"{ids[0]}>{ids[1]}", ids[1]]


def heading(line_P2: Array, end: int) -> float:
    step = line_P2[1] - line_P2[0] if end == 0 else line_P2[-1] - line_P2[-2]
    return float(np.arctan2(step[1], step[0]))


def across_arm(arm: Arm, r: float) -> Array:
    return arm.point(r, np.array([arm.kerb_in, -arm.kerb_out]))
