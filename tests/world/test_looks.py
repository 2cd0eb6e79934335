"""How the town looks: surfaces, road users, signals and streets, judged by closed forms and by what cameras see."""

import dataclasses
from functools import cache
from itertools import product

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from senna2.frames import along_polyline, pose_to_matrix, sample_polyline
from senna2.types import AgentClass, Array, Direction, EgoState, InputError, Rig
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.render.base import Instance, Sky, View, posed, to_u8
from senna2.world.render.cpu import CpuRenderer
from senna2.world.scene import WEATHERS
from senna2.world.town.assets import make_asset
from senna2.world.town.kerbside import FACADE
from senna2.world.town.layout import QUIET, Layout
from senna2.world.town.look import Look
from senna2.world.town.network import KINDS, Roads
from senna2.world.town.roads import ReferenceLine, Section
from senna2.world.town.signals import make_signal
from senna2.world.town.street import build_roads
from senna2.world.town.surfaces import SurfaceBuilder, placed

CASES = {
    "straight": {"section": Section(1, 1), "zebra_s": 40.0},
    "curved": {"section": Section(3, 3, cycle=True)},
    "bend_left": {"section": Section(1, 2, cycle=True)},
    "cross": {"lights": True},
    "tee_left": {"section": Section(2, 2, cycle=True)},
    "merge": {"section": Section(3, 2)},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
FRONT = Rig((Rig.default()["front"],))


def rgb_of(cloud: GaussianCloud) -> Array:
    """Colours as they are painted, above 1 where something shines."""
    return 0.5 + SH_C0 * cloud.sh_NK3[:, 0]


@cache
def street(kind: str, weather: str = "day", seed: int = 3) -> tuple[Roads, Look, GaussianCloud]:
    """Roads with their look (untinted) and their cloud."""
    rng = np.random.default_rng(seed)
    roads = Roads.draw(rng, kind, 11.1, **CASES.get(kind, {}))
    look = dataclasses.replace(Look.draw(rng, weather), tint=(1.0, 1.0, 1.0))
    return roads, look, build_roads(roads, look, rng).validate()


def view(cloud: GaussianCloud, *others: Instance, sky: Sky | None = None) -> View:
    return CpuRenderer().render([Instance(cloud), *others], posed(FRONT, EgoState(0, 0, 0, 0)), sky or Sky.day())[0]


@cache
def plaza() -> GaussianCloud:
    b = SurfaceBuilder().rectangle((-20, -15, 0), (80, 0, 0), (0, 30, 0), 0.7, (0.28, 0.28, 0.30))
    return b.rectangle((60, -15, 0), (0, 30, 0), (0, 0, 12), 0.8, (0.7, 0.6, 0.5)).cloud()


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
    line = Roads.draw(np.random.default_rng(0), "bend_right", 11.1).main.line
    flat = SurfaceBuilder().ribbon(line.xy_P2, (-5, -4, -2), 1.0, (0, 0, 0), z=0.3).cloud()
    np.testing.assert_allclose(normals(flat.quats_N4), [(0, 0, 1)] * len(flat), atol=1e-6)
    _, d = line.project(flat.means_N3[:, :2])
    assert set(np.round(d, 1)) <= {-4.5, -3.0}
    wall = SurfaceBuilder().wall(line.xy_P2, 6.0, (0, 1, 2), 1.0, (0, 0, 0)).cloud()
    s, d = line.project(wall.means_N3[:, :2])
    np.testing.assert_allclose(d, 6.0, atol=0.05)
    heading = line.world(s, 0.0)[:, 2]
    across = np.stack([-np.sin(heading), np.cos(heading), 0 * heading], 1)
    np.testing.assert_allclose(np.abs((normals(wall.quats_N4) * across).sum(1)), 1, atol=1e-3)


def test_a_sheet_is_the_surface_through_its_vertices() -> None:
    angle, x = np.linspace(0, np.pi, 25), np.linspace(0, 3, 7)
    vault = np.stack(np.broadcast_arrays(x[:, None], 2 * np.cos(angle), 2 * np.sin(angle)), -1)
    cloud = SurfaceBuilder().sheet(vault, (0.5, 0.5, 0.5)).cloud()
    assert len(cloud) == 6 * 24
    radial = cloud.means_N3 * (0, 0.5, 0.5)
    np.testing.assert_allclose(np.linalg.norm(radial, axis=1), 1, atol=0.01)
    np.testing.assert_allclose(np.abs((normals(cloud.quats_N4) * radial).sum(1)), 1, atol=0.01)
    np.testing.assert_allclose(cloud.scales_N3[:, :2], [(0.58 * 0.5, 0.58 * 2 * np.pi / 24)] * len(cloud), rtol=0.01)
    point = vault.copy()
    point[-1] = point[-1, 0]  # runs to a point: cells without area are left out, the others stay finite
    SurfaceBuilder().sheet(point, (0.5, 0.5, 0.5)).cloud().validate()


def test_colours_leave_holes_and_shine() -> None:
    def colour(p: Array) -> Array:
        return np.where((p[:, 0] < 1)[:, None], np.nan, 2.5)

    cloud = SurfaceBuilder().rectangle((0, 0, 0), (2, 0, 0), (0, 1, 0), 0.5, colour, jitter=0).cloud()
    assert len(cloud) == 4
    assert cloud.means_N3[:, 0].min() > 1
    np.testing.assert_allclose(rgb_of(cloud), 2.5, atol=1e-6)
    np.testing.assert_allclose(rgb_of(SurfaceBuilder().add_cloud(cloud).cloud()), 2.5, atol=1e-6)


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


# ---------------------------------------------------------------- road users and signals


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
    red = rgb_of(made[".brake"])[:, 0] - rgb_of(made[""])[:, 0]
    assert (made[".brake"].means_N3[red > 0.2, 0] < -2.0).all()
    assert (red > 0.2).sum() >= 3


@pytest.mark.parametrize("weather", WEATHERS)
def test_lamps_are_seen_from_25_m(weather: str) -> None:
    sizes = {
        AgentClass.CAR: (4.5, 1.8, 1.5), AgentClass.VAN: (5.5, 2.0, 2.4), AgentClass.TRUCK: (8.0, 2.5, 3.4),
        AgentClass.BUS: (12.0, 2.5, 3.1), AgentClass.MOTORCYCLE: (2.1, 0.8, 1.5),
    }  # fmt: skip
    for (kind, size), seed in product(sizes.items(), (0, 1)):
        made = make_asset(kind, *size, seed=seed)
        pose = pose_to_matrix(np.array([26.7 + size[0] / 2, 0, 0]))
        seen = {k: to_u8(view(plaza(), Instance(c, pose), sky=Sky.of(weather)).rgb_HW3).astype(int)
                for k, c in made.items()}  # fmt: skip
        middle = 168 // 2
        for suffix, pixels in ((".brake", 6), (".left", 3), (".right", 3)):
            changed = np.abs(seen[suffix] - seen[""]).max(-1)
            assert changed.max() > 70, (kind, suffix)
            assert (changed > 40).sum() >= pixels, (kind, suffix)
            red, green = (seen[suffix][changed == changed.max()][0, k] for k in (0, 1))
            assert red > green
            columns = np.flatnonzero((changed > 40).any(0))
            assert suffix != ".left" or columns.mean() < middle
            assert suffix != ".right" or columns.mean() > middle - 1


@pytest.mark.parametrize("distance", [8.0, 15.0, 25.0])
def test_a_signal_says_its_colour(distance: float) -> None:
    made = make_signal()
    assert set(made) == {"", ".red", ".amber", ".green"}
    assert make_signal()[".red"] is made[".red"]
    pose = pose_to_matrix(np.array([1.7 + distance, -3.0, 0.0]))
    heights = []
    for state, cloud in made.items():
        rgb = to_u8(view(plaza(), Instance(cloud.validate(), pose)).rgb_HW3).astype(int)
        saturated = (rgb.max(-1) > 200) & (np.ptp(rgb, axis=-1) > 110)
        if state == "":
            assert not saturated.any()
            continue
        assert saturated.sum() >= 6, state
        red, green, blue = np.median(rgb[saturated], axis=0)
        told = {".red": red > 2 * green, ".amber": red > blue + 110 and green > blue + 60, ".green": green > 2 * red}
        assert told[state]
        heights.append(np.flatnonzero(saturated.any(1)).mean())
    assert heights == sorted(heights)  # red hangs over amber over green


def test_signals_shine_at_dusk() -> None:
    pose = pose_to_matrix(np.array([1.7 + 20.0, -3.0, 0.0]))
    rgb = view(plaza(), Instance(make_signal()[".red"], pose), sky=Sky.dusk()).rgb_HW3
    assert (rgb[..., 0] > 0.75).sum() >= 6


# ---------------------------------------------------------------- streets


@each_kind
def test_a_street_keeps_its_budget_and_lies_sorted_in_memory(kind: str) -> None:
    roads, _, cloud = street(kind)
    wide = roads.main.section.forward + roads.main.section.oncoming > 4
    assert 28_000 <= len(cloud) <= (60_000 if roads.junction or wide else 45_000)
    steps = np.linalg.norm(np.diff(cloud.means_N3[:, :2], axis=0), axis=1)
    assert np.median(steps) < 8.0
    ground = cloud.means_N3[:, 2] < 0.1
    assert (cloud.scales_N3[ground].max(1) < 1.4).all()  # no surfel so large that it veils a camera near it


def test_equal_seeds_give_equal_streets_and_others_do_not() -> None:
    a, b, c = (street.__wrapped__("cross", "day", seed)[2] for seed in (3, 3, 4))
    for name in ("means_N3", "scales_N3", "quats_N4", "opacities_N", "sh_NK3"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert len(a) != len(c)


def paths_of(roads: Roads) -> list[ReferenceLine]:
    paths = []
    for turn in (Direction.STRAIGHT, Direction.TURN_RIGHT, Direction.TURN_LEFT):
        k = 0 if turn == Direction.TURN_LEFT else roads.main.section.forward - 1
        try:
            paths.append(roads.path("main", k, turn))
        except InputError:
            continue
    return paths


@each_kind
def test_nobody_sees_through_the_ground(kind: str) -> None:
    roads, _, cloud = street(kind)
    rig, renderer = Rig.default(), CpuRenderer()
    for path in paths_of(roads):
        for s in np.arange(3.0, min(path.s_P[-1] - 30.0, 100.0), 23.0):
            x, y, yaw = (float(c) for c in path.world(s, 0.0))
            views = renderer.render([Instance(cloud)], posed(rig, EgoState(x, y, yaw, 0)), Sky.day())
            for camera, seen in zip(rig.cameras, views, strict=True):
                below = int(camera.cy) + 1
                near = seen.depth_HW[below:] < 60
                assert seen.alpha_HW[below:][near].min() > 0.98, (s, camera.name)


@each_kind
def test_nothing_stands_in_the_road(kind: str) -> None:
    roads, _, cloud = street(kind)
    lane_map = roads.lane_map()
    area = shapely.union_all([shapely.Polygon(ring) for ring in lane_map.drivable]).buffer(-0.15)
    x, y, z = cloud.means_N3.T
    standing = (z > 0.06) & (z < 4.0)
    assert not shapely.contains_xy(area, x[standing], y[standing]).any()
    walls = (z > 4.5) & (cloud.scales_N3.max(1) > 0.45) & (np.abs(normals(cloud.quats_N4)[:, 2]) < 0.1)
    ends = np.concatenate([line[[0, -1]] for line in lane_map.kerbs])
    between = cKDTree(ends).query(np.stack([x, y], 1))[0] > 30.0  # houses close the streets at their open ends
    houses = shapely.points(x[walls & between], y[walls & between])
    assert len(houses) > 500
    assert shapely.distance(houses, area).min() > FACADE - 0.3


def road_surface(cloud: GaussianCloud) -> tuple[cKDTree, Array]:
    flat = np.abs(cloud.means_N3[:, 2]) < 0.005
    return cKDTree(cloud.means_N3[flat, :2]), rgb_of(cloud)[flat]


def along(line_P2: Array, step: float) -> Array:
    length = along_polyline(line_P2)[-1]
    return sample_polyline(line_P2, np.arange(1.0, length - 1.0, step))[0]


@each_kind
def test_markings_are_where_the_map_has_lines(kind: str) -> None:
    roads, look, cloud = street(kind)
    tree, rgb = road_surface(cloud)
    lane_map = roads.lane_map()

    def painted(points_N2: Array, reach: float) -> Array:
        """Whether anything bright lies within reach of each point."""
        return np.array([len(n) > 0 and rgb[n].max(0)[:2].min() > 0.7 for n in tree.query_ball_point(points_N2, reach)])

    for line in lane_map.dividers:
        assert painted(along(line, 0.9), 0.85).mean() > 0.3  # dashes
    for line in lane_map.centre_lines:
        assert painted(along(line, 0.9), 0.85).mean() > 0.3
    for line in lane_map.stop_lines:
        assert painted(along(line, 0.5)[1:-1], 0.5).all()
    crossings = shapely.union_all([shapely.Polygon(ring) for ring in lane_map.crossings])
    for ring in lane_map.crossings:
        x0, y0, x1, y1 = shapely.Polygon(ring).bounds
        grid = np.stack(np.meshgrid(np.arange(x0, x1, 0.3), np.arange(y0, y1, 0.3)), -1).reshape(-1, 2)
        inside = tree.query(grid[shapely.contains_xy(shapely.Polygon(ring), *grid.T)])[1]
        assert 0.3 < (rgb[inside].min(1) > 0.7).mean() < 0.7  # stripes
    for lane in lane_map.lanes:
        if lane.kind == "car" and not lane.in_junction:
            points = along(lane.centre_P2, 2.0)
            drop = roads.main.drop  # what is left of a lane that ends is too narrow to have a middle
            free = ~shapely.contains_xy(crossings.buffer(2.5), *points.T)
            if drop is not None:
                s, _ = roads.main.line.project(points)
                free &= s < drop.s_from + 8.0
            nearest = rgb[tree.query(points[free])[1]]
            assert (nearest.max(1) < look.asphalt + 0.2).all()


def test_cycle_lanes_have_their_colour() -> None:
    roads, look, cloud = street("curved")
    tree, rgb = road_surface(cloud)
    for lane in roads.lane_map().lanes:
        if lane.kind == "cycle":
            nearest = rgb[tree.query(along(lane.centre_P2, 3.0))[1]]
            np.testing.assert_allclose(np.median(nearest, 0), look.cycle, atol=0.03)


def test_weather_changes_what_is_painted() -> None:
    looks = {weather: street("cross", weather) for weather in WEATHERS}
    shining = {w: (rgb_of(cloud).max(1) > 1.2).sum() for w, (_, _, cloud) in looks.items()}
    assert shining["day"] == 0  # nothing blooms by day
    assert shining["dusk"] > 1000  # windows and lamps
    assert 0 < shining["rain"] < shining["dusk"]
    dark = {w: float(np.median(road_surface(cloud)[1])) for w, (_, _, cloud) in looks.items()}
    assert dark["rain"] < 0.9 * dark["day"]
    with pytest.raises(InputError, match="weather: 'snow' is unknown"):
        Look.draw(np.random.default_rng(0), "snow")


def test_parking_keeps_clear_of_junctions_and_zebras() -> None:
    for kind in ("cross", "straight"):
        layout = Layout.of(street(kind)[0])
        crossings = shapely.union_all([shapely.Polygon(ring) for ring in layout.lane_map.crossings])
        for kerb in layout.kerbs:
            bay = layout.bay(kerb.xy_P2)
            assert bay.any()
            assert (shapely.distance(shapely.points(kerb.xy_P2[bay]), crossings) >= QUIET).all()
