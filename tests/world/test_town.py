"""The town: surfaces, road users, streets, families and the expert, judged by closed forms and by driving."""

from functools import cache

import numpy as np
import pytest
import shapely

from senna2.decisions import f_k, f_k_plan
from senna2.frames import points_to_ego, pose_to_matrix
from senna2.geometry import corners, overlap
from senna2.types import AgentClass, Array, Direction, EgoState, InputError, Path, Speed, Trajectory
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Scene
from senna2.world.sim import SimState, Simulator
from senna2.world.town.assets import make_asset
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.families import FAMILIES, make_scene, scene_seed, split_scenes
from senna2.world.town.roads import KERB, KINDS, Street
from senna2.world.town.street import Look, build_street
from senna2.world.town.surfaces import SurfaceBuilder, placed
from senna2.world.traffic import ReplayTraffic

RISKY = ("following_and_stop", "cut_in")
SAMPLE = 2  # clips a family


@cache
def clip(family: str, i: int) -> Scene:
    return make_scene(family, scene_seed("val", family, i), "val")


def sample() -> list[Scene]:
    return [clip(family, i) for family in FAMILIES for i in range(SAMPLE)]


def drive(scene: Scene, driver: ExpertDriver, start: EgoState | None = None, until: float = 99.0) -> list[SimState]:
    simulator = Simulator(scene)
    driver.reset()
    states = [simulator.reset(start)]
    while not states[-1].done and states[-1].t_s < until:
        states.append(simulator.step(states[-1], driver.plan(states[-1])))
    return states


def normals(quats_N4: Array) -> Array:
    w, x, y, z = quats_N4.astype(np.float64).T
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)


# ---------------------------------------------------------------- surfaces


def test_a_rectangle_is_covered_evenly_and_lies_in_its_plane() -> None:
    cloud = SurfaceBuilder().rectangle((1, 2, 0), (4, 0, 0), (0, 0, 3), 0.5, (0.2, 0.4, 0.6), jitter=0).cloud()
    assert len(cloud) == 8 * 6
    np.testing.assert_allclose(cloud.means_N3[:, 1], 2)
    np.testing.assert_allclose(cloud.means_N3.mean(0), (3, 2, 1.5), atol=1e-6)
    np.testing.assert_allclose(np.abs(normals(cloud.quats_N4)), [(0, 1, 0)] * 48, atol=1e-6)
    np.testing.assert_allclose(cloud.rgb_N3, [(0.2, 0.4, 0.6)] * 48, atol=1e-6)


def test_ribbons_lie_flat_and_walls_stand_on_a_bent_line() -> None:
    street = Street.draw(np.random.default_rng(0), "right", 11.1)
    flat = SurfaceBuilder().ribbon(street.line.xy_P2, (-5, -4, -2), 1.0, (0, 0, 0), z=0.3).cloud()
    np.testing.assert_allclose(normals(flat.quats_N4), [(0, 0, 1)] * len(flat), atol=1e-6)
    _, d = street.line.project(flat.means_N3[:, :2])
    assert set(np.round(d, 1)) <= {-4.5, -3.0}
    wall = SurfaceBuilder().wall(street.line.xy_P2, 6.0, (0, 1, 2), 1.0, (0, 0, 0)).cloud()
    s, d = street.line.project(wall.means_N3[:, :2])
    np.testing.assert_allclose(d, 6.0, atol=0.05)
    heading = street.line.world(s, 0.0)[:, 2]
    across = np.stack([-np.sin(heading), np.cos(heading), 0 * heading], 1)
    np.testing.assert_allclose(np.abs((normals(wall.quats_N4) * across).sum(1)), 1, atol=1e-3)


def test_markings_are_colours_of_the_base_layer() -> None:
    line = np.array([(0.0, 0.0), (40.0, 0.0)])
    cloud = SurfaceBuilder().ribbon(
        line, (-1, -0.1, 0.1, 1), 0.5, lambda s, d: np.where((np.abs(d) < 0.1)[:, None], 1.0, 0.2), jitter=0
    )
    rgb, y = cloud.cloud().rgb_N3, cloud.cloud().means_N3[:, 1]
    np.testing.assert_allclose(rgb[np.abs(y) < 0.1], 1.0, atol=1e-6)
    np.testing.assert_allclose(rgb[np.abs(y) > 0.1], 0.2, atol=1e-6)


def test_a_polygon_is_filled_inside_only() -> None:
    ring = np.array([(0, 0), (10, 0), (10, 4), (4, 4), (4, 10), (0, 10)], float)  # an L
    cloud = SurfaceBuilder().polygon(ring, 0.5, (0.3, 0.3, 0.3), yaw=0.3).cloud()
    shape = shapely.Polygon(ring)
    assert shapely.contains_xy(shape, *cloud.means_N3[:, :2].T).all()
    assert len(cloud) * 0.25 == pytest.approx(shape.area, rel=0.05)
    with pytest.raises(InputError, match="three corners"):
        SurfaceBuilder().polygon(ring[:2], 0.5, (0, 0, 0))
    with pytest.raises(InputError, match="nothing was added"):
        SurfaceBuilder().cloud()


def test_placing_a_cloud_is_the_rigid_transform() -> None:
    cloud = make_asset(AgentClass.CAR, 4.5, 1.8, 1.5, seed=0)[""]
    pose = np.array([3.0, -2.0, 0.7])
    moved = placed(cloud, pose, z=0.2)
    m = pose_to_matrix(pose, 0.2)
    np.testing.assert_allclose(moved.means_N3, cloud.means_N3 @ m[:3, :3].T + m[:3, 3], atol=1e-5)
    np.testing.assert_allclose(normals(moved.quats_N4), normals(cloud.quats_N4) @ m[:3, :3].T, atol=1e-5)


# ---------------------------------------------------------------- road users


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (AgentClass.CAR, (4.5, 1.8, 1.5)), (AgentClass.CAR, (3.6, 1.6, 1.45)), (AgentClass.VAN, (5.5, 2.0, 2.4)),
        (AgentClass.TRUCK, (8.0, 2.5, 3.4)), (AgentClass.TRUCK, (14.0, 2.6, 3.9)), (AgentClass.BUS, (12.0, 2.5, 3.1)),
        (AgentClass.MOTORCYCLE, (2.1, 0.8, 1.5)), (AgentClass.CYCLIST, (1.8, 0.6, 1.75)),
        (AgentClass.PEDESTRIAN, (0.6, 0.6, 1.7)), (AgentClass.PEDESTRIAN, (0.4, 0.5, 1.1)),
        (AgentClass.STATIC, (0.4, 0.4, 0.8)), (AgentClass.STATIC, (3.0, 0.5, 1.0)),
    ],
)  # fmt: skip
def test_an_asset_fills_its_box(kind: AgentClass, size: tuple[float, float, float]) -> None:
    made = make_asset(kind, *size, seed=5)
    wanted = {"", ".brake", ".left", ".right"} if kind <= AgentClass.MOTORCYCLE else {"", ".step"}
    assert set(made) == ({""} if kind == AgentClass.STATIC else wanted)
    for cloud in made.values():
        cloud.validate()
        assert len(cloud) < 1500
        low, high = cloud.means_N3.min(0), cloud.means_N3.max(0)
        if kind not in (AgentClass.STATIC, AgentClass.PEDESTRIAN):
            assert high[0] - low[0] > 0.85 * size[0]
        assert (np.abs(cloud.means_N3[:, :2]) <= np.array(size[:2]) / 2 + 0.15).all()
        assert 0.85 * size[2] < high[2] < size[2] + 0.02
        assert cloud.means_N3[:, 2].min() >= 0
    assert make_asset(kind, *size, seed=5)[""] is made[""]


def test_lamps_are_lit_on_the_right_side() -> None:
    made = make_asset(AgentClass.CAR, 4.5, 1.8, 1.5, seed=1)
    for suffix, side in ((".left", 1), (".right", -1)):
        changed = np.abs(made[suffix].rgb_N3 - made[""].rgb_N3).max(1) > 0.05
        assert changed.any()
        assert (np.sign(made[suffix].means_N3[changed, 1]) == side).all()
    red = made[".brake"].rgb_N3[:, 0] - made[""].rgb_N3[:, 0]
    assert (made[".brake"].means_N3[red > 0.2, 0] < -2.0).all()
    assert (red > 0.2).sum() >= 3


# ---------------------------------------------------------------- streets


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_complete_and_consistent(kind: str) -> None:
    street = Street.draw(np.random.default_rng(4), kind, 11.1)
    lane_map = street.map()
    area = shapely.Polygon(lane_map.drivable[0])
    lanes = [shapely.Polygon(lane.polygon_Q2) for lane in lane_map.lanes]
    assert area.is_valid
    assert all(lane.is_valid for lane in lanes)
    assert shapely.union_all(lanes).symmetric_difference(area).area < 1e-3 * area.area
    by_name = {lane.id: lane for lane in lane_map.lanes}
    for lane, shape in zip(lane_map.lanes, lanes, strict=True):
        other = by_name[lane.left or lane.right or ""]
        assert lane.id in (other.left, other.right)
        inner = lane.centre_P2[2:-2]
        assert shapely.contains_xy(shape, inner[:, 0], inner[:, 1]).all()
        mid = len(lane.centre_P2) // 2
        ahead = lane.centre_P2[mid + 1] - lane.centre_P2[mid]
        nearest = np.argmin(np.hypot(*(other.centre_P2 - lane.centre_P2[mid]).T))
        to_other = other.centre_P2[nearest] - lane.centre_P2[mid]
        sideways = ahead[0] * to_other[1] - ahead[1] * to_other[0]
        assert (sideways > 0) == (lane.left is not None)
    for kerb in lane_map.kerbs:
        assert shapely.LineString(kerb).distance(area.boundary) < 1e-6
    if kind in ("right", "left"):
        assert np.degrees(street.line.yaw_P[-1]) == pytest.approx(-90 if kind == "right" else 90, abs=0.5)


def test_a_street_is_made_of_gaussians_sorted_along_it() -> None:
    rng = np.random.default_rng(1)
    street = Street.draw(rng, "curved", 13.9)
    cloud = build_street(street, Look.draw(rng), rng).validate()
    assert 30_000 <= len(cloud) <= 46_000
    s, d = street.line.project(cloud.means_N3[::50, :2])
    assert np.corrcoef(np.arange(len(s)), s)[0, 1] > 0.99
    road = (np.abs(d) < KERB) & (cloud.means_N3[::50, 2] < 0.1)
    assert (cloud.scales_N3[::50][road].max(1) < 1.3).all()  # no surfel so large that it veils a camera near it


# ---------------------------------------------------------------- clips


def test_a_clip_is_determined_by_family_split_and_seed() -> None:
    a, b = (make_scene("crossing_cyclist", 11, "train") for _ in range(2))
    np.testing.assert_array_equal(a.background.means_N3, b.background.means_N3)
    np.testing.assert_array_equal(a.background.sh_NK3, b.background.sh_NK3)
    np.testing.assert_array_equal(a.expert.pose_E3, b.expert.pose_E3)
    assert [t.id for t in a.tracks] == [t.id for t in b.tracks]
    for s, t in zip(a.tracks, b.tracks, strict=True):
        np.testing.assert_array_equal(s.pose_T3, t.pose_T3)
    for other in (make_scene("crossing_cyclist", 12, "train"), make_scene("crossing_cyclist", 11, "test")):
        assert other.background.means_N3.shape != a.background.means_N3.shape or not np.array_equal(
            other.background.means_N3, a.background.means_N3
        )


def test_seeds_never_repeat_and_bad_names_are_told() -> None:
    clips = [c for split in ("train", "tune", "val", "test", "showcase") for c in split_scenes(split, 60)]
    assert len({seed for _, seed in clips}) == len(clips)
    assert {family for family, _ in split_scenes("test", 6)} == set(FAMILIES)
    with pytest.raises(InputError, match="family 'loop' is unknown; there are following_and_stop"):
        make_scene("loop", 0)
    with pytest.raises(InputError, match="split 'dev' is unknown"):
        make_scene("cut_in", 0, "dev")


def test_clips_are_valid_and_their_agents_keep_apart() -> None:
    for scene in sample():
        scene.validate()
        assert scene.duration_s >= 9.0
        assert 30_000 <= len(scene.background) <= 46_000
        boxes = ReplayTraffic(scene.tracks, 0.1, 101).boxes_KA6[..., :5]
        assert np.isfinite(boxes).all()
        assert min((t.t_T[-1] for t in scene.tracks), default=99.0) >= scene.duration_s + 3.0
        for k in range(0, 101, 10):
            meets = overlap(boxes[k, :, None], boxes[k, None, :])
            assert not (meets & ~np.eye(len(scene.tracks), dtype=bool)).any(), (scene.meta.name, k)


def test_the_expert_drives_every_clip_without_contact_and_on_the_road() -> None:
    for scene in sample():
        states = drive(scene, ExpertDriver(scene))
        last = states[-1]
        assert last.t_s == pytest.approx(scene.duration_s)
        assert not last.contacts
        assert not any(s.off_road for s in states)
        np.testing.assert_allclose([(s.ego.x, s.ego.y, s.ego.yaw) for s in states], scene.expert.pose_E3)  # the log
        area = shapely.Polygon(scene.map.drivable[0])
        boxes = np.array([(s.ego.x, s.ego.y, s.ego.yaw, 4.6, 1.9) for s in states])
        assert shapely.covers(area, shapely.points(corners(boxes).reshape(-1, 2))).all()
        v = np.array([s.ego.v for s in states])
        settled = v[30:]  # some clips begin above the limit
        assert settled.max() < scene.speed_limit_P[0] + 0.3
        yaw_rate = np.diff(np.unwrap([s.ego.yaw for s in states])) / 0.1
        assert np.abs(yaw_rate * v[1:]).max() < 3.0  # m/s² sideways


@pytest.mark.parametrize("family", RISKY)
def test_who_just_goes_on_collides(family: str) -> None:
    failed = 0
    for i in range(4):
        scene = clip(family, i)
        simulator = Simulator(scene)
        state = simulator.reset()
        while not state.done:
            state = simulator.step(state, Trajectory.fake(float(scene.expert.v_E[0])))
        failed += state.failed
    assert failed >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_recovers_from_perturbed_starts(family: str) -> None:
    scene, rng = clip(family, 0), np.random.default_rng(8)
    for _ in range(2):
        e = scene.expert.start()
        offset, turn, factor = rng.normal(0, 0.35), rng.normal(0, 0.03), rng.uniform(0.8, 1.2)
        start = EgoState(e.x - np.sin(e.yaw) * offset, e.y + np.cos(e.yaw) * offset, e.yaw + turn, e.v * factor)
        driver = ExpertDriver(scene)
        states = drive(scene, driver, start)
        assert not states[-1].contacts
        _, aside = driver.line.project(np.array([(s.ego.x, s.ego.y) for s in states]))
        goal = aside[-1] if family == "slow_leader_lane_change" else 0.0
        moving = states[-1].progress_m > 25
        assert not moving or abs(aside[-1] - goal) < 0.15


def test_a_plan_is_smooth_and_begins_with_the_present_motion() -> None:
    scene = clip("cut_in", 1)
    for state in drive(scene, ExpertDriver(scene), until=6.0)[::7]:
        points = ExpertDriver(scene).plan(state).validate().points_T2
        assert points.shape == (30, 2)
        v = np.hypot(*np.diff(points, axis=0, prepend=np.zeros((1, 2))).T) / 0.1
        assert abs(v[0] - state.ego.v) < 0.6
        assert np.abs(np.diff(v)).max() < 0.8  # 8 m/s²
        assert np.abs(np.diff(points[:, 1], 3)).max() < 0.01


@pytest.mark.parametrize("speed", [Speed.ACCELERATE, Speed.DECELERATE, Speed.KEEP])
def test_a_forced_speed_is_what_f_k_reads(speed: Speed) -> None:
    for family in FAMILIES:
        scene = clip(family, 1)
        start = EgoState(*scene.expert.pose_E3[20], float(scene.expert.v_E[20]))
        if start.v < 4:
            continue
        driver = ExpertDriver(scene)
        driver.force = speed
        plan = driver.plan(Simulator(scene).reset(start, t_s=2.0))
        assert int(f_k_plan(plan.points_T2)[0]) == speed
        driver.reset()
        assert driver.force is None


def test_the_lane_change_is_commanded_waited_for_and_finished() -> None:
    for i in range(SAMPLE):
        scene = clip("slow_leader_lane_change", i)
        navigation, direction = scene.expert.navigation_E, scene.expert.direction_E
        assert navigation[0] == Direction.CHANGE_LEFT
        begun = np.flatnonzero(direction == Direction.CHANGE_LEFT)
        assert 15 <= len(begun) <= 80
        assert (np.diff(begun) == 1).all()
        assert navigation[-1] == Direction.STRAIGHT
        left = next(lane for lane in scene.map.lanes if lane.id == "left")
        assert np.hypot(*(left.centre_P2 - scene.expert.pose_E3[-1, :2]).T).min() < 0.8
        assert np.hypot(*(scene.route_P2[-1] - left.centre_P2[-1])) < 0.1


def test_turns_are_annotated_and_announced_where_the_road_bends() -> None:
    seen = set()
    for i in (0, 1, 3, 4):
        scene = clip("empty_road", i)
        e = scene.expert
        turned = np.unwrap(e.pose_E3[:, 2])
        total = turned[-1] - turned[0]
        turns = {int(d) for d in e.direction_E} - {int(Direction.STRAIGHT)}
        if abs(total) > 1.0:
            wanted = Direction.TURN_LEFT if total > 0 else Direction.TURN_RIGHT
            seen.add(wanted)
            assert turns == {int(wanted)}
            first = np.flatnonzero(e.direction_E == wanted)[0]
            assert (e.navigation_E[max(first - 5, 0) : first + 1] == wanted).all()  # announced before
        elif turns:
            assert abs(total) > 0.1
    assert seen == {Direction.TURN_LEFT, Direction.TURN_RIGHT}


def test_annotations_and_classes_agree_with_f_k() -> None:
    speeds, agree = [], []
    fold = {Direction.TURN_LEFT: Path.LEFT, Direction.TURN_RIGHT: Path.RIGHT}
    for scene in sample():
        e = scene.expert
        for k in range(0, len(e.t_E) - 15, 3):
            speed, path = f_k(points_to_ego(e.pose_E3[k : k + 15, :2], e.pose_E3[k]), yaw_0=0.0)
            speeds.append(int(speed))
            if e.direction_E[k] not in (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT):
                agree.append(fold.get(Direction(int(e.direction_E[k])), Path.STRAIGHT) == int(path))
    share = np.bincount(np.array(speeds) + 1, minlength=5) / len(speeds)
    assert share[0] < 0.15  # UNKNOWN
    assert (share[1:4] > 0.05).all()
    assert np.mean(agree) > 0.95


def test_brake_lights_and_indicators_follow_what_vehicles_do() -> None:
    leader = clip("following_and_stop", 0).tracks[0]
    slowing = np.gradient(leader.v_T, 0.1) < -1.0
    assert slowing.any()
    assert ((leader.lights_T & BRAKE) > 0)[slowing].mean() > 0.9
    assert not ((leader.lights_T & BRAKE) > 0)[np.gradient(leader.v_T, 0.1) > 0.3].any()
    for i in range(SAMPLE):
        scene = clip("cut_in", i)
        cutter = scene.tracks[0]
        side = points_to_ego(cutter.pose_T3[-1:, :2], cutter.pose_T3[0])[0, 1] if i >= 0 else 0.0
        lit = (cutter.lights_T & (INDICATOR_LEFT | INDICATOR_RIGHT)) > 0
        assert 15 < lit.sum() < 60
        if "straight" in scene.meta.name or abs(np.ptp(np.unwrap(cutter.pose_T3[:, 2]))) < 0.4:
            used = INDICATOR_LEFT if side > 0 else INDICATOR_RIGHT
            assert ((cutter.lights_T & used) > 0)[lit].all()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "empty_road"])
def test_the_agent_that_matters_is_seen(family: str) -> None:
    from senna2.world.render.base import Instance, Sky, posed, to_u8
    from senna2.world.render.cpu import CpuRenderer

    scene = clip(family, 0)
    first = scene.tracks[0]  # the script's own agent comes before background traffic
    e = scene.expert
    seen = 0
    for k in (5, 15, 25, 35):
        ego = EgoState(*e.pose_E3[k], float(e.v_E[k]))
        agent = Instance(scene.assets[first.asset], pose_to_matrix(first.pose_T3[k]))
        cameras, renderer = posed(scene.rig, ego), CpuRenderer()
        with_it = renderer.render([Instance(scene.background), agent], cameras, Sky.day())
        without = renderer.render([Instance(scene.background)], cameras, Sky.day())
        changed = [
            (np.abs(to_u8(a.rgb_HW3).astype(int) - to_u8(b.rgb_HW3)).max(-1) > 25).sum()
            for a, b in zip(with_it, without, strict=True)
        ]
        seen = max(seen, *changed)
    assert seen >= 8
