"""Lane maps: tiling, links, kerbs; shapely is the oracle of areas and corners."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from road_cases import (
    CASES,
    JUNCTIONS,
    RIGHT,
    SECTIONS,
    across_arm,
    area_of,
    each_road,
    heading,
    lanes_of,
    map_of,
    roads_of,
)

from senna2.frames import wrap
from senna2.world.town.junction import CORNER
from senna2.world.town.network import Roads
from senna2.world.town.roads import CYCLE, GUTTER, LANE, ReferenceLine, Section


@each_road
def test_every_drivable_point_of_a_street_lies_in_exactly_one_lane(kind: str, case: int) -> None:
    roads, lane_map = roads_of(kind, case), map_of(kind, case)
    area = area_of(lane_map)
    assert area.is_valid
    outside = [lane for lane in lane_map.lanes if not lane.in_junction]
    shapes = [shapely.Polygon(lane.polygon_Q2) for lane in outside]
    assert all(shape.is_valid and shape.area > 5 for shape in shapes)
    streets = area
    if roads.junction is not None:
        box = shapely.convex_hull(
            shapely.MultiPoint(np.concatenate([across_arm(a, a.edge) for a in roads.junction.arm.values()]))
        )
        streets = area.difference(box)
    assert shapely.union_all(shapes).symmetric_difference(streets).area < 1e-3
    assert sum(shape.area for shape in shapes) == pytest.approx(streets.area, abs=2e-3)
    rng = np.random.default_rng(1)
    low, high = np.reshape(area.bounds, (2, 2))
    points = rng.uniform(low, high, (6000, 2))
    points = points[shapely.contains_xy(streets.buffer(-0.01), points[:, 0], points[:, 1])]
    edges = shapely.union_all([shape.boundary for shape in shapes])
    points = points[shapely.distance(edges, shapely.points(points)) > 0.01]
    assert len(points) > 50
    held = np.sum([shapely.contains_xy(shape, points[:, 0], points[:, 1]) for shape in shapes], axis=0)
    assert (held == 1).all()


@each_road
def test_connectors_are_drivable_and_lanes_follow_one_another(kind: str, case: int) -> None:
    by_id = lanes_of(kind, case)
    area = area_of(map_of(kind, case)).buffer(1e-6)
    links = 0
    for lane in by_id.values():
        shape = shapely.Polygon(lane.polygon_Q2)
        if lane.in_junction:
            assert shape.is_valid
            assert shape.within(area)
        inner = lane.centre_P2[1:-1]
        assert shapely.contains_xy(shape, inner[:, 0], inner[:, 1]).all()
        for name in lane.successors:
            after = by_id[name]
            assert after.kind == lane.kind
            assert np.hypot(*(after.centre_P2[0] - lane.centre_P2[-1])) < 0.2
            assert abs(np.degrees(wrap(heading(after.centre_P2, 0) - heading(lane.centre_P2, 1)))) < 2.0
            links += 1
    if kind in JUNCTIONS:
        led_to = {name for lane in by_id.values() for name in lane.successors}
        assert {i for i in by_id if "_out_" in i and ">" not in i and i.split("_")[0] != "main"} <= led_to
        assert all(lane.successors for i, lane in by_id.items() if "_in_" in i)
        assert links == 2 * sum(lane.in_junction for lane in by_id.values())
    else:
        assert links == 0


@each_road
def test_neighbours_run_beside_one_another(kind: str, case: int) -> None:
    roads, by_id = roads_of(kind, case), lanes_of(kind, case)
    seen = 0
    for lane in by_id.values():
        for other_id, side in ((lane.left, 1), (lane.right, -1)):
            if other_id is None:
                continue
            other = by_id[other_id]
            assert lane.id == (other.right if side > 0 else other.left)
            assert lane.kind == other.kind == "car"
            points = other.centre_P2[2:-2]
            if roads.main.drop is not None:
                points = points[points[:, 0] < roads.main.drop.s_from]
            _, d = ReferenceLine.from_polyline(lane.centre_P2).project(points)
            np.testing.assert_allclose(d, side * LANE, atol=0.03)  # chords of a bend
            assert abs(wrap(heading(lane.centre_P2, 0) - heading(other.centre_P2, 0))) < 0.01
            seen += 1
    assert seen == 2 * sum(lane.id[-1] in "12" for lane in by_id.values() if not lane.in_junction)


@each_road
def test_kerbs_leave_only_the_ends_of_the_streets_open(kind: str, case: int) -> None:
    roads, lane_map = roads_of(kind, case), map_of(kind, case)
    kerbs = shapely.union_all([shapely.LineString(k) for k in lane_map.kerbs])
    ring = area_of(lane_map).boundary
    assert shapely.length(kerbs.difference(ring.buffer(1e-6))) < 1e-6
    left = shapely.get_parts(shapely.line_merge(ring.difference(kerbs.buffer(1e-6))))
    if roads.junction is not None:
        ends = [across_arm(arm, arm.reach) for arm in roads.junction.arm.values()]
    else:
        main = roads.main
        ends = [
            main.line.world(s, np.array([-float(main.kerb(-1, s)), float(main.kerb(1, s))]))[:, :2]
            for s in (main.line.s_P[0], main.line.s_P[-1])
        ]
    assert len(left) == len(ends)
    for end in ends:
        assert min(shapely.hausdorff_distance(shapely.LineString(end), piece) for piece in left) < 1e-3


@pytest.mark.parametrize("kind", JUNCTIONS)
@pytest.mark.parametrize("case", range(len(SECTIONS)))
def test_corners_are_what_shapely_rounds_off(kind: str, case: int) -> None:
    """Closing the union of the two streets by a disc of 7 m rounds its corners and nothing else."""
    roads = roads_of(kind, case)
    assert roads.junction is not None
    assert roads.side is not None
    strips = []
    for street in (roads.main, roads.side):
        line = street.line
        low, high = -street.section.kerb_right, street.section.kerb_left
        ends = [line.s_P[0], line.s_P[-1]]
        if street is roads.main and "beyond" not in roads.junction.arm:
            ends[1] = roads.junction.exit_s
        if street is roads.side:  # where it ends at a T, inside main
            ends = [ends[0] or low, ends[1] or high]
        strips.append(
            shapely.Polygon(line.world(np.array(ends)[[0, 1, 1, 0]], np.array([low, low, high, high]))[:, :2])
        )
    union = shapely.union_all(strips)
    closed = union.buffer(CORNER, join_style="mitre").buffer(-CORNER, quad_segs=64)
    area = area_of(map_of(kind, case))
    corner = (1 - np.pi / 4) * CORNER**2
    turns = sum(len(roads.junction.lanes(a, RIGHT)) for a in roads.junction.arms)
    assert closed.area == pytest.approx(union.area + turns * corner, abs=0.1)
    assert area.symmetric_difference(closed).area < 0.11 * turns  # twelve chords a corner
    assert shapely.hausdorff_distance(area.boundary, closed.boundary) < 0.03


@each_road
def test_lines_end_at_the_box_and_zebras_lie_between_stop_line_and_box(kind: str, case: int) -> None:
    roads, lane_map = roads_of(kind, case), map_of(kind, case)
    if roads.junction is None:
        assert not lane_map.stop_lines
        assert not lane_map.crossings
        return
    connectors = shapely.union_all([shapely.Polygon(x.polygon_Q2) for x in lane_map.lanes if x.in_junction])
    for line in (*lane_map.dividers, *lane_map.centre_lines):
        assert shapely.LineString(line).intersection(connectors.buffer(-0.01)).length < 1e-6
    assert len(lane_map.stop_lines) == len(lane_map.crossings) == len(roads.junction.arms)
    area = area_of(lane_map)
    for arm, zebra, stop in zip(roads.junction.arm.values(), lane_map.crossings, lane_map.stop_lines, strict=True):
        shape = shapely.Polygon(zebra)
        assert shape.area == pytest.approx(3.0 * (arm.kerb_in + arm.kerb_out))
        assert shape.distance(shapely.LineString(stop)) == pytest.approx(1.0)
        assert shape.distance(connectors) > 0.4
        across = roads.zebra_line(arm.name)
        inside = shapely.contains_xy(area, *across.xy_P2.T)
        assert not inside[0]
        assert not inside[-1]
        assert shapely.contains_xy(shape, *across.xy_P2[inside].T).all()
        np.testing.assert_allclose(across.world(0.0, 0.0)[:2], arm.point(sum(arm.zebra) / 2, 0.0), atol=1e-9)
        ahead = np.array([0.0, 1.0] if arm.name in ("main", "beyond") else [1.0, 0.0])
        assert (across.xy_P2[-1] - across.xy_P2[0]) @ ahead > 6.0  # ego's right to left, near to far
        for k in range(arm.lanes_in):
            middle = shapely.LineString(lanes_of(kind, case)[f"{arm.name}_in_{k}"].centre_P2)
            at_stop = middle.project(middle.intersection(shapely.LineString(stop)))
            at_zebra = [middle.project(shapely.Point(p)) for p in middle.intersection(shape).coords]
            assert at_stop + 1.0 == pytest.approx(min(at_zebra))
            assert max(at_zebra) + 0.5 == pytest.approx(middle.length)


def test_a_zebra_across_a_curved_street() -> None:
    roads = Roads.draw(np.random.default_rng(3), "curved", 13.9, zebra_s=42.0)
    lane_map, across = roads.lane_map(), roads.zebra_line("zebra_s")
    zebra = shapely.Polygon(lane_map.crossings[0])
    s, d = roads.main.line.project(zebra.exterior.coords[:4])
    np.testing.assert_allclose(np.sort(s), [40.5, 40.5, 43.5, 43.5], atol=0.02)
    np.testing.assert_allclose(np.abs(d), roads.main.section.kerb_right, atol=0.01)
    inside = shapely.contains_xy(area_of(lane_map), *across.xy_P2.T)
    assert shapely.contains_xy(zebra, *across.xy_P2[inside].T).all()
    assert (across.s_P[0], across.s_P[-1]) == pytest.approx((-10.4, 10.4))
    for stop, sense in zip(lane_map.stop_lines, (1, -1), strict=True):
        at, beside = roads.main.line.project(stop)
        np.testing.assert_allclose(at, 42.0 - sense * 2.5, atol=0.02)
        assert (sense * beside <= 0.01).all()


def test_lanes_are_as_wide_as_the_section_says_and_the_outermost_has_the_gutter() -> None:
    with_cycles = Roads.draw(np.random.default_rng(0), "straight", 11.1, section=Section(2, 1, cycle=True))
    for lane in with_cycles.lane_map().lanes:
        width = shapely.Polygon(lane.polygon_Q2).area / 275.0
        assert width == pytest.approx(CYCLE + GUTTER if lane.kind == "cycle" else LANE)
    for lane in Roads.draw(np.random.default_rng(0), "straight", 11.1, section=Section(2, 1)).lane_map().lanes:
        width = shapely.Polygon(lane.polygon_Q2).area / 275.0
        assert width == pytest.approx(LANE if lane.id == "main_in_0" else LANE + GUTTER)


def test_lines_have_no_repeated_points() -> None:
    for kind, case in CASES:
        lane_map = map_of(kind, case)
        for line in (*(x.centre_P2 for x in lane_map.lanes), *lane_map.dividers, *lane_map.kerbs):
            assert all(np.hypot(*(b - a)) > 1e-4 for a, b in pairwise(line))
