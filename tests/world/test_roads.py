"""Roads: closed forms of lines and paths, laws (mirror, seed), and driving along every path."""

import dataclasses

import numpy as np
import pytest
import shapely
from road_cases import (
    LEFT,
    RIGHT,
    area_of,
    each_road,
    every_path,
    heading,
    lanes_of,
    map_of,
    roads_of,
)

from senna2.frames import wrap
from senna2.geometry import DrivableArea, box_of, corners
from senna2.types import Array, Direction, InputError, VehicleShape
from senna2.world.judge import MapJudge
from senna2.world.scene import Scene
from senna2.world.town.network import KINDS, Roads, crossing_point
from senna2.world.town.roads import CYCLE, GUTTER, LANE, ReferenceLine, Section, quarter_turn, turn_tangent

# ---------------------------------------------------------------- lines and sections


def test_a_quarter_turn_is_smooth_and_ends_where_its_tangents_say() -> None:
    for side in (1, -1):
        line = quarter_turn(np.array([3.0, 2.0, 0.4]), 5.0, 10.0, side, 7.0, 0.5, -1.0)
        tangent = turn_tangent(10.0)
        ahead, beside = np.array([np.cos(0.4), np.sin(0.4)]), np.array([-np.sin(0.4), np.cos(0.4)])
        end = np.array([3.0, 2.0]) + (5 + tangent) * ahead + side * (7 + tangent) * beside
        np.testing.assert_allclose(line.xy_P2[-1], end, atol=1e-4)
        assert line.yaw_P[-1] - line.yaw_P[0] == pytest.approx(side * np.pi / 2, abs=1e-5)
        assert line.s_P[0] == -1.0
        assert np.abs(line.kappa_P).max() == pytest.approx(0.1)
        assert np.abs(np.diff(line.kappa_P)).max() < 0.1 * 0.51 / 5.0  # the ramps take half a radius each
        chords = np.hypot(*np.diff(line.xy_P2, axis=0).T)
        np.testing.assert_allclose(chords, np.diff(line.s_P), rtol=2e-3)


def test_parallel_and_reversed_lines_of_a_circle_are_circles() -> None:
    s = np.arange(-10.0, 30.01, 0.5)
    line = ReferenceLine.from_curvature(s, np.full_like(s, 1 / 50))
    for d in (-4.0, 3.0):
        beside = line.parallel(d)
        np.testing.assert_allclose(beside.kappa_P, 1 / (50 - d))
        np.testing.assert_allclose(beside.s_P, s * (50 - d) / 50, atol=1e-9)
        np.testing.assert_allclose(np.hypot(beside.xy_P2[:, 0], beside.xy_P2[:, 1] - 50), 50 - d, atol=0.01)
        back = beside.reversed()
        np.testing.assert_allclose(back.world(-5.0, 1.0)[:2], beside.world(5.0, -1.0)[:2], atol=1e-9)
        assert back.kappa_P[0] == -beside.kappa_P[-1]
    again = ReferenceLine.from_polyline(line.xy_P2, float(s[0]))
    np.testing.assert_allclose(again.s_P, s, atol=0.01)
    np.testing.assert_allclose(again.kappa_P[2:-2], 1 / 50, rtol=1e-3)


def test_a_section_counts_from_the_middle_of_the_street() -> None:
    section = Section(3, 1, cycle=True)
    assert [section.offset(k) for k in range(3)] == [-1.75, -5.25, -8.75]
    assert section.offset(0, -1) == 1.75
    assert section.kerb_right == pytest.approx(3 * LANE + CYCLE + GUTTER)
    assert section.kerb_left == pytest.approx(LANE + CYCLE + GUTTER)
    assert section.cycle_offset() == pytest.approx(-3 * LANE - CYCLE / 2)
    assert section.cycle_offset(-1) == pytest.approx(LANE + CYCLE / 2)
    for wrong in (lambda: Section(0, 1), lambda: Section(1, 4), lambda: section.offset(1, -1), Section().cycle_offset):
        with pytest.raises(InputError):
            wrong()


# ---------------------------------------------------------------- paths


@each_road
def test_paths_are_smooth_and_stay_in_their_lanes(kind: str, case: int) -> None:
    roads, by_id = roads_of(kind, case), lanes_of(kind, case)
    kerbs = shapely.MultiLineString([shapely.LineString(k) for k in map_of(kind, case).kerbs])
    paths = every_path(roads)
    linked = [lane for lane in by_id.values() if lane.in_junction]
    assert len(paths) == (len(linked) or len(by_id))
    for line, ids, turn in paths:
        steps = np.hypot(*np.diff(line.xy_P2, axis=0).T)
        assert steps.max() < 0.8
        assert (np.diff(line.s_P) > 0.1).all()
        np.testing.assert_allclose(np.diff(line.s_P), steps, rtol=3e-3)
        chord = np.unwrap(np.arctan2(*np.diff(line.xy_P2, axis=0).T[::-1]))
        mean = (line.yaw_P[1:] + line.yaw_P[:-1]) / 2
        assert np.abs(wrap(chord - mean)).max() < 0.01
        np.testing.assert_allclose(np.diff(line.yaw_P), np.diff(line.s_P) * (line.kappa_P[1:] + line.kappa_P[:-1]) / 2,
                                   atol=2e-3)  # fmt: skip
        tightest = 1 / max(np.abs(line.kappa_P).max(), 1e-9)
        if roads.junction is not None and turn != "STRAIGHT":
            low, high = (12.0, 16.1 + LANE) if turn == "TURN_LEFT" else (7.5, 11.0)
            assert low - 1e-6 <= tightest <= high
            assert np.degrees(line.yaw_P[-1] - line.yaw_P[0]) == pytest.approx(90 if turn == "TURN_LEFT" else -90)
        assert tightest > 7.5
        shape = shapely.union_all([shapely.Polygon(by_id[i].polygon_Q2).buffer(0.01) for i in ids])
        assert shapely.contains_xy(shape, *line.xy_P2[1:-1].T).all()
        nearest = shapely.distance(kerbs, shapely.points(line.xy_P2)).min()
        assert nearest > (0.9 + GUTTER - 0.15 if "cycle" in ids[0] else LANE / 2 + GUTTER - 0.25)


def test_paths_begin_to_count_abeam_the_egos_start_or_at_the_stop_line() -> None:
    roads = roads_of("cross", 2)
    assert roads.junction is not None
    np.testing.assert_allclose(roads.path("main", 1, RIGHT).world(0.0, 0.0), (0, -5.25, 0), atol=1e-9)
    for entry in ("beyond", "right", "left"):
        arm = roads.junction.arm[entry]
        line = roads.path(entry, 0, LEFT)
        np.testing.assert_allclose(line.world(0.0, 0.0)[:2], arm.point(arm.stop, LANE / 2), atol=1e-9)
        assert line.world(0.0, 0.0)[2] == pytest.approx(arm.heading_in)
    curved = roads_of("curved", 0)
    for k in (0, 1):
        oncoming = curved.path("beyond", k)
        assert oncoming.s_P[0] < -200
        assert 35 < oncoming.s_P[-1] < 45
        np.testing.assert_allclose(
            oncoming.world(0.0, 0.0)[:2], curved.main.line.world(0.0, curved.main.section.offset(k, -1))[:2], atol=1e-3
        )


def test_crossing_points_lie_on_both_paths() -> None:
    roads = Roads.draw(np.random.default_rng(5), "cross", 11.1, side_section=Section(2, 2), junction_s=50.0)
    assert roads.junction is not None
    ahead, from_right = roads.path("main", 1), roads.path("right", 0)
    s_a, s_b = crossing_point(ahead, from_right)
    assert s_a == pytest.approx(50 + LANE / 2)
    assert s_b == pytest.approx(roads.junction.arm["right"].stop - 1.5 * LANE)
    for a, b in (
        (roads.path("main", 0, LEFT), roads.path("beyond", 1)),
        (roads.path("main", 0, LEFT), roads.path("right", 0)),
        (roads.path("beyond", 0, LEFT), ahead),
        (roads.path("main", 1, RIGHT), roads.zebra_line("right")),
        (roads.path("main", 0, LEFT), roads.zebra_line("left")),
    ):
        s_a, s_b = crossing_point(a, b)
        assert np.hypot(*(a.world(s_a, 0.0) - b.world(s_b, 0.0))[:2]) < 0.02
        before = a.xy_P2[(a.s_P < s_a - 0.5)]
        assert shapely.distance(shapely.LineString(b.xy_P2), shapely.points(before)).min() > 0.019  # the first
    joining = roads.path("left", 1)  # from the left straight on into the right arm, where right turns end too
    s_a, s_b = crossing_point(roads.path("main", 1, RIGHT), joining)
    assert np.hypot(*(roads.path("main", 1, RIGHT).world(s_a, 0.0) - joining.world(s_b, 0.0))[:2]) < 0.03
    assert roads.junction.entry_s < s_a < roads.junction.stop_s + 30
    with pytest.raises(InputError, match="do not cross"):
        crossing_point(ahead, roads.path("beyond", 1))


@each_road
def test_a_car_that_keeps_to_a_path_touches_nothing(kind: str, case: int) -> None:
    """The ego's rear axle on any car's path: no kerb, not off the road; beside no junction in one lane only."""
    roads, lane_map = roads_of(kind, case), map_of(kind, case)
    judge, shape = MapJudge(dataclasses.replace(Scene.fake(), map=lane_map)), VehicleShape()
    area = DrivableArea(lane_map.drivable)
    for line, ids, _ in every_path(roads):
        if "cycle" in ids[0]:
            continue
        s = np.arange(line.s_P[0] + 1.0, line.s_P[-1] - shape.front, 0.5)
        boxes = box_of(line.world(s, 0.0), shape)
        assert not any(judge.kerbs.hit(box) for box in boxes)
        assert area.outside_m(np.concatenate([corners(box) for box in boxes])) == 0.0
        if roads.main.drop is None:
            assert not any(judge.straddling(box) for box in boxes)
        if roads.junction is None and roads.main.drop is None:
            assert not any(judge.several_lanes(box) for box in boxes[::4])


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize(("right", "left"), [("tee_right", "tee_left"), ("bend_right", "bend_left")])
def test_left_is_the_mirror_image_of_right(right: str, left: str) -> None:
    section = Section(3, 1, cycle=True)
    swapped = Section(1, 3, cycle=True)
    a = Roads.draw(np.random.default_rng(2), right, 8.3, section=section, side_section=Section(2, 2)).lane_map()
    b = Roads.draw(np.random.default_rng(2), left, 8.3, section=swapped, side_section=Section(2, 2)).lane_map()
    flip = np.array([1.0, -1.0])
    mirrored = shapely.Polygon(b.drivable[0] * flip)
    assert mirrored.symmetric_difference(area_of(a)).area < 1e-6
    for ours, theirs in ((a.kerbs, b.kerbs), (a.dividers, b.dividers)):
        lines = shapely.union_all([shapely.LineString(x) for x in ours])
        others = shapely.union_all([shapely.LineString(x * flip) for x in theirs])
        assert shapely.hausdorff_distance(lines, others) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_roads_are_determined_by_the_seed_and_differ_between_seeds(kind: str) -> None:
    def ring(seed: int) -> Array:
        return Roads.draw(np.random.default_rng(seed), kind, 11.1).lane_map().drivable[0]

    np.testing.assert_array_equal(ring(3), ring(3))
    if kind != "straight":
        assert ring(3).shape != ring(4).shape or not np.allclose(ring(3), ring(4))


def test_geometry_is_drawn_within_its_ranges() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        curved, merge = Roads.draw(rng, "curved", 11.1), Roads.draw(rng, "merge", 11.1)
        assert 120 <= 1 / np.abs(curved.main.line.kappa_P).max() <= 350
        drop = merge.main.drop
        assert drop is not None
        assert 45 <= drop.s_from <= 80
        assert drop.s_to == drop.s_from + 35
        cross = Roads.draw(rng, "cross", 11.1, section=Section(3, 3, cycle=True), side_section=Section(3, 3))
        assert cross.junction is not None
        assert 38 <= cross.junction.s <= 55
        assert 0 < cross.junction.stop_s < cross.junction.entry_s < cross.junction.s < cross.junction.exit_s
        for kind, turned in (("bend_right", -90), ("bend_left", 90)):
            bend = Roads.draw(rng, kind, 8.3).main
            assert np.degrees(bend.line.yaw_P[-1]) == pytest.approx(turned, abs=0.2)
            assert bend.bend_s is not None
            assert 26 <= bend.bend_s[0] <= 48


@pytest.mark.parametrize("section", [Section(2, 1), Section(3, 2, cycle=True)])
def test_where_a_lane_ends_the_kerb_moves_in_and_its_path_goes_over(section: Section) -> None:
    roads = Roads.draw(np.random.default_rng(1), "merge", 13.9, section=section)
    drop, last = roads.main.drop, section.forward - 1
    assert drop is not None
    np.testing.assert_allclose(roads.main.kerb(-1, np.array([drop.s_from, drop.s_to])) - section.kerb_right, [0, -LANE])
    np.testing.assert_allclose(roads.main.kerb(1, np.array([0.0, 200.0])), section.kerb_left)
    line = roads.path("main", last)
    assert line.world(drop.s_from, 0.0)[1] == pytest.approx(section.offset(last), abs=1e-3)
    assert line.xy_P2[-1, 1] == pytest.approx(section.offset(last - 1))
    assert np.abs(line.kappa_P).max() < 0.02
    lanes = {lane.id: lane for lane in roads.lane_map().lanes}
    assert lanes[f"main_in_{last}"].centre_P2[-1, 0] == pytest.approx(drop.s_to, abs=CYCLE + 0.3)
    assert lanes[f"main_in_{last - 1}"].centre_P2[-1, 0] == pytest.approx(235)
    marked = [d for d in roads.lane_map().dividers if np.allclose(d[:, 1], -last * LANE)]
    assert [d[-1, 0] for d in marked] == pytest.approx([drop.s_from])


def test_signals_stand_right_of_the_lanes_they_speak_to() -> None:
    roads = roads_of("cross", 3)
    lanes, area = lanes_of("cross", 3), area_of(map_of("cross", 3))
    heads = roads.signal_heads()
    assert [h[0] for h in heads] == ["signal_main", "signal_right", "signal_beyond", "signal_left"]
    for _, pose, stop, ids in heads:
        assert 0.5 < area.distance(shapely.Point(pose[:2])) < 0.7
        for i in ids:
            centre = lanes[i].centre_P2
            assert wrap(heading(centre, 1) - pose[2]) == pytest.approx(0.0, abs=1e-9)
            assert shapely.LineString(stop).crosses(shapely.LineString(centre))
            _, d = ReferenceLine.from_polyline(centre).project(pose[None, :2])
            assert d[0] < -LANE / 2
        outer = np.array([np.cos(pose[2]), np.sin(pose[2])]) @ (pose[:2] - stop[1])
        assert 0.0 < outer < 6.0  # beyond the line, where those who wait see it
    assert roads_of("tee_left", 0).signal_heads() == ()


def test_lanes_of_a_t_junction_turn_side_by_side() -> None:
    rng = np.random.default_rng(0)
    roads = Roads.draw(rng, "tee_end", 11.1, section=Section(3, 3), side_section=Section(2, 2))
    first, second = roads.path("main", 0, LEFT), roads.path("main", 1, LEFT)
    gaps = shapely.distance(shapely.LineString(first.xy_P2), shapely.points(second.xy_P2))
    assert gaps.min() > 0.8 * LANE
    assert sorted(x.id for x in roads.lane_map().lanes if x.id.startswith("main_in") and x.in_junction) == [
        "main_in_0>left_out_0", "main_in_1>left_out_1", "main_in_2>right_out_1",
    ]  # fmt: skip


def test_two_lanes_may_end_in_one_and_still_drive_through_lanes() -> None:
    rng = np.random.default_rng(0)
    roads = Roads.draw(rng, "tee_end", 11.1, section=Section(3, 3), side_section=Section(1, 1))
    lanes = {lane.id: lane for lane in roads.lane_map().lanes}
    line = roads.path("main", 1, LEFT)
    np.testing.assert_allclose(line.xy_P2[-1], lanes["left_out_0"].centre_P2[-1], atol=1e-4)
    shape = shapely.union_all([shapely.Polygon(lanes[i].polygon_Q2).buffer(0.01) for i in
                               ("main_in_1", "main_in_1>left_out_0", "left_out_0")])  # fmt: skip
    assert shapely.contains_xy(shape, *line.xy_P2[1:-1].T).all()


def test_what_does_not_exist_is_refused() -> None:
    rng = np.random.default_rng(0)
    straight, tee = Roads.draw(rng, "straight", 11.1), Roads.draw(rng, "tee_right", 11.1)
    for wrong in (
        lambda: straight.path("main", 2),
        lambda: straight.path("right", 0),
        lambda: straight.path("main", 0, RIGHT),
        lambda: straight.cycle_path("main"),
        lambda: straight.zebra_line("main"),
        lambda: straight.zebra_line("zebra_s"),
        lambda: tee.path("main", 0, LEFT),
        lambda: tee.path("main", 0, RIGHT),
        lambda: tee.path("left", 0),
        lambda: tee.path("right", 0),
        lambda: tee.path("main", 0, Direction.CHANGE_LEFT),
        lambda: tee.cycle_path("main"),
        lambda: tee.zebra_line("left"),
        lambda: Roads.draw(rng, "roundabout", 11.1),
        lambda: Roads.draw(rng, "merge", 11.1, section=Section(1, 1)),
        lambda: Roads.draw(rng, "straight", 11.1, lights=True),
        lambda: Roads.draw(rng, "straight", 11.1, zebra_s=400.0),
        lambda: Roads.draw(rng, "cross", 11.1, zebra_s=45.0, junction_s=45.0),
        lambda: Roads.draw(rng, "cross", 11.1, junction_s=-20.0),
        lambda: Roads.draw(rng, "bend_left", 11.1, length_m=60.0),
    ):
        with pytest.raises(InputError):
            wrong()
