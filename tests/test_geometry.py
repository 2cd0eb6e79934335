"""Boxes, TTC and fault against shapely, closed forms and constructed contacts; lanes, areas and lines."""

from __future__ import annotations

from math import inf, pi

import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from senna2.geometry import (
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
    pair_ttc,
    plan_ttc,
    ttc,
)
from senna2.types import InputError, VehicleShape

CAR = VehicleShape()
ORIGIN = np.zeros(3)

metres = st.floats(-8, 8, width=32)
angles = st.floats(-3.14, 3.14)
sizes = st.floats(0.25, 8, width=32)
boxes = st.tuples(metres, metres, angles, sizes, sizes).map(np.array)
segments = st.tuples(metres, metres, metres, metres).map(np.array)
EDGE = 1e-9  # m; closer than this the answer is a matter of rounding


def polygon(box):
    """The oracle's own construction: a unit square through shapely's affine maps."""
    unit = shapely.box(-0.5, -0.5, 0.5, 0.5)
    scaled = shapely.affinity.scale(unit, box[3], box[4], origin=(0, 0))
    turned = shapely.affinity.rotate(scaled, box[2], origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, box[0], box[1])


def clear(a, b):
    """Whether two shapes are apart or into one another by more than rounding."""
    return a.distance(b) > EDGE or a.buffer(-EDGE, join_style="mitre").intersects(b)


# --- boxes ----------------------------------------------------------------------------------------------------


def test_box_of_puts_the_centre_in_front_of_the_rear_axle():
    shape = VehicleShape(length=5.0, width=2.0, rear_overhang=1.0)
    box = box_of(np.array([[10.0, 20.0, pi / 2], [0.0, 0.0, 0.0]]), shape)
    assert np.allclose(box, [[10, 21.5, pi / 2, 5, 2], [1.5, 0, 0, 5, 2]])


def test_corners_are_front_left_front_right_rear_right_rear_left():
    assert np.allclose(corners(np.array([1.0, 2, 0, 4, 2])), [(3, 3), (3, 1), (-1, 1), (-1, 3)])
    assert np.allclose(corners(np.array([0.0, 0, pi / 2, 4, 2])), [(-1, 2), (1, 2), (1, -2), (-1, -2)])
    assert corners(np.zeros((3, 2, 5))).shape == (3, 2, 4, 2)


@settings(max_examples=300, deadline=None)
@given(boxes, boxes)
def test_overlap_agrees_with_shapely(a, b):
    pa, pb = polygon(a), polygon(b)
    assume(clear(pa, pb))
    assert bool(overlap(a, b)) == pa.intersects(pb)
    assert bool(overlap(b, a)) == pa.intersects(pb)
    mirror = np.array([1, -1, -1, 1, 1])
    assert bool(overlap(a * mirror, b * mirror)) == pa.intersects(pb)


@settings(max_examples=200, deadline=None)
@given(boxes, segments)
def test_segments_agree_with_shapely(box, segment):
    line, area = shapely.LineString(segment.reshape(2, 2)), polygon(box)
    assume(line.length > 1e-6)
    assume(area.distance(line) > EDGE or area.buffer(-EDGE, join_style="mitre").intersects(line))
    assert hits_segments(box[None], segment[None])[0, 0] == area.intersects(line)
    assert Lines([segment.reshape(2, 2)]).hit(box) == area.intersects(line)


def test_overlap_broadcasts_and_touching_counts():
    ego = np.array([0.0, 0, 0, 4, 2])
    others = np.array([[4.0, 0, 0, 4, 2], [4.001, 0, 0, 4, 2], [0, 2, 0, 4, 2], [1, 1, 0.3, 9, 9], [np.nan] * 5])
    assert overlap(ego, others).tolist() == [True, False, True, True, False]
    assert overlap(others[:, None], others[None]).shape == (5, 5)
    assert overlap(ego, ego).shape == ()
    assert overlap(ego, np.zeros((0, 5))).shape == (0,)
    assert overlap(others.astype(np.float32), ego).tolist() == [True, False, True, True, False]


def test_one_box_against_many_is_the_same_as_pair_by_pair():
    rng = np.random.default_rng(0)
    many = np.column_stack([rng.uniform(-5, 5, (500, 2)), rng.uniform(-3, 3, 500), rng.uniform(0.3, 6, (500, 2))])
    many[::50] = np.nan
    wide = np.column_stack([many, np.zeros(500)])[:, :5]  # rows that are not contiguous
    one = np.array([0.0, 0, 0.4, 4, 2])
    found = overlap(one, many)
    assert 50 < found.sum() < 450
    assert np.array_equal(found, overlap(one, wide))
    assert np.array_equal(found, overlap(np.broadcast_to(one, (500, 5)), many))


def test_a_cross_without_corners_inside_overlaps():
    """Corner-in-box tests miss it."""
    assert overlap(np.array([0.0, 0, 0, 10, 1]), np.array([0.0, 0, pi / 2, 10, 1]))


def test_two_boxes_that_only_a_diagonal_axis_separates():
    """Their axis-aligned bounds overlap; only the axes of the turned box tell them apart."""
    a, b = np.array([0.0, 0, 0, 2, 2]), np.array([2.0, 2, pi / 4, 2, 2])
    assert not overlap(a, b)
    assert overlap(a, b - np.array([0.4, 0.4, 0, 0, 0]))


def test_hits_segments_shape_and_padding():
    found = hits_segments(np.array([[0.0, 0, 0, 4, 2], [50, 0, 0, 4, 2]]), np.array([[-9.0, 0, 9, 0], [np.nan] * 4]))
    assert found.tolist() == [[True, False], [False, False]]
    assert hits_segments(np.zeros((2, 5)), np.zeros((0, 4))).shape == (2, 0)


def test_bearing():
    points = np.array([(1.0, 0), (0, 1), (0, -1), (-1, 0), (1, 1)])
    assert np.allclose(bearing(ORIGIN, points), [0, pi / 2, pi / 2, pi, pi / 4])
    assert np.allclose(bearing(np.array([5.0, 5, pi]), np.array([0.0, 5])), 0)


# --- time to collision ----------------------------------------------------------------------------------------


def ttc_one(ego_v, box, v, *, all_around=False, **options):
    return float(ttc(ORIGIN, ego_v, CAR, np.array([box], float), np.array([v]), all_around=all_around, **options)[0])


def test_ttc_in_closed_form():
    """A gap of 20 m closed at 8 m/s: 2.5 s, on the grid; 19.9 m rounds up to the same step, 20.1 m to the next."""
    for gap, expected in ((19.9, 2.5), (20.0 - 1e-9, 2.5), (20.1, 2.6)):
        leader = (CAR.front + gap + 2.0, 0, 0, 4.0, 1.8)
        assert ttc_one(10.0, leader, 2.0) == pytest.approx(expected, abs=1e-12)


def test_ttc_horizon_is_reached_and_not_passed():
    """k = 50 belongs to it; adding 0.1 fifty times would miss it."""
    leader = (CAR.front + 2.0 + 10 * 5.0 - 0.01, 0, 0, 4.0, 1.8)
    assert ttc_one(10.0, leader, 0.0) == 5.0
    assert ttc_one(10.0, leader, 0.0, horizon_s=4.9) == inf
    assert ttc_one(10.0, np.add(leader, (0.1, 0, 0, 0, 0)), 0.0) == inf


def test_ttc_is_zero_in_an_overlap_and_inf_where_the_gap_opens():
    assert ttc_one(5.0, (4.0, 0, 0, 4, 1.8), 5.0) == 0.0
    assert ttc_one(5.0, (20.0, 0, 0, 4, 1.8), 6.0) == inf


def test_ttc_of_a_crossing_agent():
    """An agent from the right is in the lane only for a while: the ego must arrive within it."""
    crossing = (30.0, -20.0, pi / 2, 4.0, 2.0)
    hit = ttc_one(10.0, crossing, 7.5, all_around=True)
    assert 2.3 <= hit <= 2.7
    assert ttc_one(10.0, crossing, 30.0, all_around=True) == inf


@pytest.mark.parametrize(
    ("degrees", "ahead_only", "all_around"),
    [(0, True, True), (29, True, True), (31, False, True), (-31, False, True), (149, False, True), (151, False, False)],
)
def test_ttc_counts_by_bearing_from_the_rear_axle(degrees, ahead_only, all_around):
    """An agent that drives straight at the ego from every side."""
    a = np.deg2rad(degrees)
    agent = (40 * np.cos(a), 40 * np.sin(a), a + pi, 4.0, 2.0)
    assert (ttc_one(0.5, agent, 15.0) < inf) == ahead_only
    assert (ttc_one(0.5, agent, 15.0, all_around=True) < inf) == all_around


def test_ttc_is_none_while_the_ego_stands():
    approaching = (20.0, 0, pi, 4, 2)
    assert ttc_one(0.05, approaching, 10.0) == inf
    assert ttc_one(0.051, approaching, 10.0) < inf
    assert ttc_one(0.05, approaching, 10.0, stand_speed=0.005) < inf


def test_ttc_of_nobody_and_of_the_absent():
    assert ttc(ORIGIN, 5.0, CAR, np.zeros((0, 5)), np.zeros(0), all_around=True).shape == (0,)
    assert ttc_one(5.0, [np.nan] * 5, np.nan, all_around=True) == inf


@settings(max_examples=150, deadline=None)
@given(st.floats(-40, 40), st.floats(-20, 20), angles, st.floats(0, 15), st.floats(0.1, 15), angles)
def test_ttc_agrees_with_shapely(x, y, yaw, v, ego_v, ego_yaw):
    pose = np.array([3.0, -2.0, ego_yaw])
    agent = np.array([x, y, yaw, 4.5, 1.8])
    expected = inf
    seen = abs(np.angle(np.exp(1j * (np.arctan2(y + 2, x - 3) - ego_yaw))))
    assume(abs(seen - np.deg2rad(150)) > 1e-6)
    if seen <= np.deg2rad(150):
        ego, other = polygon(box_of(pose, CAR)), polygon(agent)
        for k in range(51):
            move = (
                0.1 * k * np.array([ego_v * np.cos(ego_yaw), ego_v * np.sin(ego_yaw), v * np.cos(yaw), v * np.sin(yaw)])
            )
            e = shapely.affinity.translate(ego, move[0], move[1])
            o = shapely.affinity.translate(other, move[2], move[3])
            assume(clear(e, o))
            if e.intersects(o):
                expected = 0.1 * k
                break
    found = ttc(pose, ego_v, CAR, agent[None], np.array([v]), all_around=True)[0]
    assert found == pytest.approx(expected, abs=1e-12)


def curved_plan(v, bend, points=30):
    """Rear-axle poses (T, 3) of a plan that turns steadily from the origin."""
    yaw = bend * v * 0.1 * np.arange(points + 1)
    steps = v * 0.1 * np.stack([np.cos(yaw[:-1]), np.sin(yaw[:-1])], 1)
    return np.column_stack([np.cumsum(steps, 0), yaw[1:]])


@settings(max_examples=60, deadline=None)
@given(st.floats(2, 15), st.floats(-0.06, 0.06), st.integers(0, 1000), st.booleans())
def test_plan_ttc_is_ttc_from_every_way_point(v, bend, seed, all_around):
    """Brute force: put the ego on the point, move the agents there, ask `ttc`."""
    rng = np.random.default_rng(seed)
    plan = curved_plan(v, bend)
    n = 6
    agents = np.column_stack(
        [rng.uniform(-20, 60, n), rng.uniform(-15, 15, n), rng.uniform(-3, 3, n), np.full(n, 4.5), np.full(n, 1.8)]
    )
    speed = rng.uniform(0, 12, n)
    found = plan_ttc(plan, 0.1, CAR, agents, speed, all_around=all_around)
    assert found.shape == (30,)
    for t in range(30):
        moved = agents.copy()
        moved[:, 0] += speed * 0.1 * (t + 1) * np.cos(agents[:, 2])
        moved[:, 1] += speed * 0.1 * (t + 1) * np.sin(agents[:, 2])
        before = plan[max(t, 1)], plan[max(t, 1) - 1]
        ego_v = np.hypot(*(before[0] - before[1])[:2]) / 0.1
        assert found[t] == ttc(plan[t], ego_v, CAR, moved, speed, all_around=all_around).min()


def test_plan_ttc_in_closed_form():
    """10 m/s towards a standing car whose rear is 30 m before the front: (30 - 10 t) / 10 s left at each point."""
    plan = np.column_stack([10 * 0.1 * np.arange(1, 31), np.zeros(30), np.zeros(30)])
    wall = np.array([[CAR.front + 30.0 + 2.0, 0, 0, 4.0, 1.8]])
    left = plan_ttc(plan, 0.1, CAR, wall, np.zeros(1), all_around=False)
    assert np.allclose(left, 3.0 - 0.1 * np.arange(1, 31), atol=0.1 + 1e-9)
    assert (np.diff(left) < 1e-12).all()
    braking = np.column_stack([np.minimum(10 * 0.1 * np.arange(1, 31), 12.0), np.zeros(30), np.zeros(30)])
    assert np.isinf(plan_ttc(braking, 0.1, CAR, wall, np.zeros(1), all_around=False)[15:]).all()
    aside = np.column_stack([plan[:, 0], 0.4 * np.arange(1, 31), np.full(30, 0.38)])
    assert np.isinf(plan_ttc(aside, 0.1, CAR, wall, np.zeros(1), all_around=False)[10:]).all()


def test_plan_ttc_of_nobody_and_of_bad_plans():
    plan = curved_plan(5.0, 0.0)
    assert np.isinf(plan_ttc(plan, 0.1, CAR, np.zeros((0, 5)), np.zeros(0), all_around=True)).all()
    assert np.isinf(plan_ttc(plan, 0.1, CAR, np.full((1, 5), np.nan), np.full(1, np.nan), all_around=True)).all()
    with pytest.raises(InputError, match="plan"):
        plan_ttc(np.full((30, 3), np.nan), 0.1, CAR, np.zeros((0, 5)), np.zeros(0), all_around=True)
    with pytest.raises(InputError, match="plan"):
        plan_ttc(plan[:1], 0.1, CAR, np.zeros((0, 5)), np.zeros(0), all_around=True)


def test_pair_ttc_is_symmetric_and_leaves_nobody_out():
    rng = np.random.default_rng(2)
    box = np.array([0.0, 0, 0.3, 4.5, 1.8])
    others = np.column_stack([rng.uniform(-30, 30, (200, 2)), rng.uniform(-3, 3, 200), np.full((200, 2), (4.5, 1.8))])
    v = rng.uniform(0, 12, 200)
    found = pair_ttc(box, 6.0, others, v, horizon_s=3.0)
    assert 5 < np.isfinite(found).sum() < 150
    assert (found[np.isfinite(found)] <= 3.0).all()
    for i in range(200):
        assert pair_ttc(others[i], v[i], box[None], np.array([6.0]), horizon_s=3.0)[0] == found[i]
        expected = inf
        for k in range(31):
            moved = [(b + 0.1 * k * s * np.array([np.cos(b[2]), np.sin(b[2]), 0, 0, 0])) for b, s in
                     ((box, 6.0), (others[i], v[i]))]  # fmt: skip
            if overlap(*moved):
                expected = 0.1 * k
                break
        assert found[i] == pytest.approx(expected)


# --- fault ----------------------------------------------------------------------------------------------------

SIDE = (1.5, 1.7, 0.0, 4.0, 1.6)  # beside the ego, rubbing its left flank
FRONT = (5.6, 0.0, 0.0, 4.0, 1.8)  # a leader against the front edge
BACK = (-2.7, 0.0, 0.0, 4.0, 1.8)  # a follower against the rear edge
HEAD_ON = (5.6, 0.2, pi, 4.0, 1.8)
ACROSS = (4.4, 0.5, pi / 2, 4.5, 1.8)  # from the right, its flank against the front edge
INTO_FLANK = (1.4, 2.9, -pi / 2, 4.5, 1.8)  # from the left, nose first
FLANK_FRONT = (4.0, 1.5, -pi / 4, 4.0, 1.6)  # cutting in over the front-left corner


@pytest.mark.parametrize(
    ("name", "ego_v", "box", "v", "static", "several", "off", "expected"),
    [
        ("struck while standing, from the front", 0.05, FRONT, 5.0, False, True, True, ("stopped_ego", False)),
        ("struck while standing, by a box", 0.0, FRONT, 0.0, True, None, None, ("stopped_ego", False)),
        ("just moving", 0.06, FRONT, 5.0, False, False, False, ("front", True)),
        ("into a standing car", 5.0, FRONT, 0.05, False, False, False, ("stopped_agent", True)),
        ("along a standing car", 5.0, SIDE, 0.0, False, False, False, ("stopped_agent", True)),
        ("backs into a standing car", 1.0, BACK, 0.0, False, False, False, ("stopped_agent", True)),
        ("a barrier at its side", 5.0, SIDE, 0.0, True, None, None, ("static", True)),
        ("rear-ended", 5.0, BACK, 9.0, False, True, True, ("rear", False)),
        ("into a slower leader", 8.0, FRONT, 3.0, False, False, False, ("front", True)),
        ("into a car that cuts in", 8.0, FLANK_FRONT, 8.0, False, False, False, ("front", True)),
        ("head-on", 8.0, HEAD_ON, 8.0, False, False, False, ("front", True)),
        ("into the side of a crossing car", 8.0, ACROSS, 6.0, False, False, False, ("front", True)),
        ("struck in the flank by a crossing car", 8.0, INTO_FLANK, 8.0, False, False, False, ("lateral", False)),
        ("struck in the flank, in two lanes", 8.0, INTO_FLANK, 8.0, False, True, False, ("lateral", True)),
        ("side by side, in its own lane", 8.0, SIDE, 8.0, False, False, False, ("lateral", False)),
        ("side by side, in two lanes", 8.0, SIDE, 8.0, False, True, False, ("lateral", True)),
        ("side by side, off the road", 8.0, SIDE, 8.0, False, False, True, ("lateral", True)),
        ("side by side, drivable area unknown", 8.0, SIDE, 8.0, False, False, None, ("lateral", False)),
        ("side by side, lanes unknown", 8.0, SIDE, 8.0, False, None, False, ("lateral", False)),
        ("side by side, lanes unknown, off the road", 8.0, SIDE, 8.0, False, None, True, ("lateral", False)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("yaw", [0.0, 2.2])
def test_fault(name, ego_v, box, v, static, several, off, expected, side, yaw):
    """Every row of the table, mirrored and with the world turned."""
    b = np.array(box) * (1, side, side, 1, 1)
    assert overlap(box_of(ORIGIN, CAR), b), name
    c, s = np.cos(yaw), np.sin(yaw)
    pose = np.array([100.0, -50.0, yaw])
    b[:3] = 100 + c * b[0] - s * b[1], -50 + s * b[0] + c * b[1], b[2] + yaw
    verdict = judge_contact(pose, ego_v, CAR, b, v, is_static=static, several_lanes=several, off_drivable=off)
    undecided = expected[0] == "lateral" and several is None
    assert verdict == ContactVerdict(*expected, undecided), name


def test_behind_starts_at_150_degrees_from_the_rear_axle():
    """A long bus whose centre lies 149° and 151° off, overlapping the rear corner."""
    for degrees, kind in ((149, "lateral"), (151, "rear")):
        a = np.deg2rad(degrees)
        bus = np.array([4 * np.cos(a), 4 * np.sin(a), -0.3, 12.0, 2.6])
        assert overlap(box_of(ORIGIN, CAR), bus)
        verdict = judge_contact(ORIGIN, 5.0, CAR, bus, 9.0, is_static=False, several_lanes=False, off_drivable=False)
        assert verdict.kind == kind


def test_other_stand_speed():
    options = {"is_static": False, "several_lanes": False, "off_drivable": False}
    assert judge_contact(ORIGIN, 0.03, CAR, FRONT, 5.0, **options).kind == "stopped_ego"
    assert judge_contact(ORIGIN, 0.03, CAR, FRONT, 5.0, **options, stand_speed=0.005).kind == "front"


# --- lanes, areas, lines --------------------------------------------------------------------------------------


def strip(x0, x1, y0, y1):
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


LANES = LaneAreas(
    [
        strip(0, 20, 0, 3.5),  # 0, followed by 1
        strip(20, 22, 0, 3.5),  # 1, shorter than a car, followed by 2
        strip(22, 60, 0, 3.5),  # 2, in a junction
        strip(0, 60, 3.5, 7.0),  # 3, the neighbour
        strip(22, 60, -3.5, 0.5),  # 4, the other branch after 1, overlapping 2 a little
    ],
    joined=[(0, 1), (1, 2), (1, 4)],
    junction=[False, False, True, False, False],
)


def at(x, y, yaw=0.0):
    return corners(np.array([x, y, yaw, 4.6, 1.9]))


@pytest.mark.parametrize(
    ("place", "several"),
    [
        (at(10, 1.75), False),
        (at(20, 1.75), False),  # over a joint
        (at(21, 1.75), False),  # over a whole short lane, of which no corner is in
        (at(10, 3.5), True),  # on the divider
        (at(20, 3.5), True),
        (at(26, -0.2), True),  # in both branches: siblings, not a chain
        (at(26, -1.2), False),  # well in one branch
        (at(10, 0.5), True),  # two wheels outside
        (at(10, -5.0), True),
    ],
)
def test_several_lanes(place, several):
    assert LANES.several_lanes(place) == several


def test_in_junction():
    assert LANES.in_junction(np.array([30.0, 1.75]))
    assert not LANES.in_junction(np.array([30.0, 5.0]))
    assert not LANES.in_junction(np.array([10.0, 1.75]))


def test_a_loop_of_lanes_ends():
    ring = LaneAreas([strip(0, 5, 0, 3), strip(5, 10, 0, 3)], [(0, 1), (1, 0)], [False, False])
    assert not ring.several_lanes(at(5, 1.5))
    assert ring.several_lanes(at(5, 3.0))


def test_lanes_refuse_what_they_cannot_use():
    with pytest.raises(InputError, match="lane polygon 1"):
        LaneAreas([strip(0, 5, 0, 3), np.zeros((2, 2))], [], [False, False])
    with pytest.raises(InputError, match="joined pair"):
        LaneAreas([strip(0, 5, 0, 3)], [(0, 1)], [False])
    with pytest.raises(InputError, match="junction flags"):
        LaneAreas([strip(0, 5, 0, 3)], [], [])


def test_drivable_area():
    area = DrivableArea([strip(0, 20, 0, 7), strip(20, 60, 0, 7)])
    assert area.outside_m(at(20, 3.5)) == 0  # the seam between two polygons is no edge
    assert area.outside_m(at(10, 0.95)) == 0  # wheels on the edge
    assert area.outside_m(at(10, 0.0)) == pytest.approx(0.95)
    assert area.outside_m(at(10, -3.0)) == pytest.approx(3.95)
    with pytest.raises(InputError, match="no polygon"):
        DrivableArea([])


def test_a_polygon_that_crosses_itself_is_repaired():
    bow_tie = np.array([(0.0, 0), (10, 10), (10, 0), (0, 10)])
    area = DrivableArea([bow_tie])
    assert area.outside_m(np.array([(1.0, 5), (9, 5), (1, 5), (9, 5)])) == 0
    assert area.outside_m(np.array([(5.0, 9)])) > 1


def test_lines():
    lines = Lines([np.array([(0.0, 0), (10, 0), (20, 0)]), np.array([(0.0, 8), (20, 8)])])
    assert lines.hit(np.array([5.0, 0.9, 0, 4, 1.9]))
    assert not lines.hit(np.array([5.0, 1.0, 0, 4, 1.9]))


def test_no_lines_at_all():
    lines = Lines([])
    assert not lines.hit(np.array([0.0, 0, 0, 4, 2]))
    with pytest.raises(InputError, match="line 0"):
        Lines([np.zeros((1, 2))])
