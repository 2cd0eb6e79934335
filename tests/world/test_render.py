"""The CPU renderer against the float64 reference, against closed forms, and against its own promises."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from render_fixtures import BLACK, SKY, assert_alike, lens, one, psnr, random_cloud, rig, street, with_harmonics

from senna2.frames import pose_to_matrix, poses_to_world
from senna2.types import Camera, EgoState, InputError, Rig
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.render import Instance, PosedCamera, cpu, posed, prepare, to_u8
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.reference import (
    ReferenceRenderer,
    cloud_tensors,
    covariance,
    render_gaussians,
    sh_colour,
)
from senna2.world.transforms import placed

torch.set_num_threads(1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_agrees_with_the_reference_on_a_random_cloud(degree: int) -> None:
    instances = [Instance(with_harmonics(random_cloud(), degree))]
    cameras = posed(rig(), EgoState(0, 0, 0.2, 0))
    for got, want in zip(
        CpuRenderer().render(instances, cameras, SKY),
        ReferenceRenderer().render(instances, cameras, SKY),
        strict=True,
    ):
        assert 0.2 < want.alpha_HW.mean() < 0.999  # the test looks at something, and at sky
        assert_alike(got, want)


@pytest.mark.parametrize("degree", [0, 3])
def test_agrees_with_the_reference_on_a_street_with_instances(degree: int) -> None:
    instances, cameras = street(degree), posed(rig(), EgoState(0, 0, 0.05, 0))
    for got, want in zip(
        CpuRenderer().render(instances, cameras, SKY),
        ReferenceRenderer().render(instances, cameras, SKY),
        strict=True,
    ):
        assert want.rgb_HW3.std() > 0.05
        assert_alike(got, want)


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_one_gaussian_is_its_closed_form(renderer: CpuRenderer | ReferenceRenderer) -> None:
    """On the axis the projection is exact: variance (f·σ/z)² + 0.3, mean at the principal point."""
    z, sigma, opacity, rgb = 10.0, 0.5, 0.8, (0.9, 0.4, 0.2)
    view = renderer.render([Instance(one((z, 0, 0), sigma, opacity, rgb))], [lens()], BLACK)[0]
    dx, dy = np.meshgrid(np.arange(32) + 0.5 - 15.5, np.arange(24) + 0.5 - 9.5)
    s = 0.5 * (dx**2 / ((40 * sigma / z) ** 2 + 0.3) + dy**2 / ((44 * sigma / z) ** 2 + 0.3))
    alpha = opacity * np.exp(-s)
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(view.alpha_HW, alpha, atol=1e-5)
    np.testing.assert_allclose(view.rgb_HW3, alpha[..., None] * rgb, atol=1e-5)
    np.testing.assert_allclose(view.depth_HW, np.where(alpha > 0, z, 0), rtol=1e-4)
    assert (alpha > 0).sum() > 50
    assert (alpha == 0).sum() > 50


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_what_is_nearer_hides_what_is_behind_in_any_order_of_instances(
    renderer: CpuRenderer | ReferenceRenderer,
) -> None:
    red, blue = Instance(one((5, 0, 0), 2, 1, (1, 0, 0))), Instance(one((9, 0, 0), 4, 0.9, (0, 0, 1)))
    for instances in ([red, blue], [blue, red]):
        view = renderer.render(instances, [lens()], BLACK)[0]
        centre = view.rgb_HW3[9, 15]  # alpha is at most 0.99: the second shines through by 0.9 %
        assert centre == pytest.approx((0.99, 0, 0.009), abs=1e-3)
        assert view.depth_HW[9, 15] == pytest.approx((0.99 * 5 + 0.009 * 9) / 0.999, abs=0.02)
    moved = [Instance(red.cloud, pose_to_matrix(np.array([7.0, 0, 0]))), blue]
    assert renderer.render(moved, [lens()], BLACK)[0].rgb_HW3[9, 15] == pytest.approx((0.099, 0, 0.9), abs=1e-2)


def test_equal_depths_are_ordered_by_instance_then_index() -> None:
    red, blue = one((5, 0, 0), 2, 0.9, (1, 0, 0)), one((5, 0, 0), 2, 0.9, (0, 0, 1))
    for first, second, channel in ((red, blue, 0), (blue, red, 2)):
        apart = CpuRenderer().render([Instance(first), Instance(second)], [lens()], BLACK)[0]
        joined = CpuRenderer().render([Instance(GaussianCloud.concatenate([first, second]))], [lens()], BLACK)[0]
        assert apart.rgb_HW3[9, 15, channel] > 0.85
        np.testing.assert_array_equal(apart.rgb_HW3, joined.rgb_HW3)
    # also across the cells used for culling: same depth, indices against the order of cells
    rng = np.random.default_rng(0)
    n = 400
    means = np.stack([np.full(n, 6.0), rng.uniform(-9, 9, n), rng.uniform(-2, 2, n)], 1)
    cloud = GaussianCloud.from_rgb(
        means, np.full((n, 3), 0.6), np.tile([1, 0, 0, 0], (n, 1)), np.full(n, 0.9), rng.uniform(size=(n, 3))
    )
    assert_alike(
        CpuRenderer().render([Instance(cloud)], [lens()], SKY)[0],
        ReferenceRenderer().render([Instance(cloud)], [lens()], SKY)[0],
    )


def test_tiles_at_one_depth_keep_their_order_wherever_the_street_lies() -> None:
    """A road of rows across the view: rounding of depths must not shuffle a row, near the map's origin or far off."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(0, 40, 0.4), np.arange(-8, 8, 0.4), indexing="ij")
    means = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    n = len(means)
    flat, ahead = np.tile([0.3, 0.3, 0.01], (n, 1)), np.tile([1, 0, 0, 0], (n, 1))
    road = GaussianCloud.from_rgb(means, flat, ahead, np.full(n, 0.97), rng.uniform(size=(n, 3)))
    camera = Camera.looking(
        "front", yaw_deg=0, fov_deg=80, width=84, height=28, horizon_row=10, position_in_ego=(0.4, 0, 1.5)
    )
    for east, turn in ((0.0, 0.5), (150.0, 0.5), (150.0, 2.0), (4096.0, 0.0)):
        moved = placed(road, pose_to_matrix(np.array([east, 0.0, turn])))
        ego = poses_to_world(np.array([[20, 0.3, math.pi]]), np.array([east, 0.0, turn]))[0]
        cameras = posed(Rig((camera,)), EgoState(*ego.tolist(), 0))
        seen = CpuRenderer().render([Instance(moved)], cameras, SKY)[0]
        assert_alike(seen, ReferenceRenderer().render([Instance(moved)], cameras, SKY)[0])


def test_same_bits_every_time_with_any_number_of_threads() -> None:
    instances, cameras = street(), posed(Rig.default(), EgoState(0, 0, 0, 0))
    first = CpuRenderer(1).render(instances, cameras, SKY)
    fresh = [Instance(dataclasses.replace(i.cloud), i.pose_44) for i in instances]  # nothing cached of these clouds
    for again in (
        CpuRenderer(1).render(instances, cameras, SKY),
        CpuRenderer(3).render(instances, cameras, SKY),
        CpuRenderer(2).render(fresh, cameras, SKY),
    ):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.rgb_HW3, b.rgb_HW3)
            np.testing.assert_array_equal(a.depth_HW, b.depth_HW)
            np.testing.assert_array_equal(a.alpha_HW, b.alpha_HW)


def test_culling_by_cells_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = [c for yaw in np.arange(0, 6, 0.7) for c in posed(rig(), EgoState(2, 1, float(yaw), 0))]
    for n, seed in ((1500, 0), (40, 1), (3, 2)):  # with few gaussians, whole clouds are culled as well
        cloud, pose = random_cloud(n, seed), pose_to_matrix(np.array([3.0, -2.0, 1.0]))
        culled = CpuRenderer().render([Instance(cloud), Instance(cloud, pose)], cameras, SKY)
        with monkeypatch.context() as patch:
            patch.setattr(prepare, "CELL_M", 1e9)
            patch.setattr(cpu, "_in_image", lambda scene, *_: np.ones(len(scene.clouds), bool))
            whole = dataclasses.replace(cloud)  # a new object: nothing cached of it
            plain = CpuRenderer().render([Instance(whole), Instance(whole, pose)], cameras, SKY)
        for a, b in zip(culled, plain, strict=True):
            np.testing.assert_array_equal(a.rgb_HW3, b.rgb_HW3)
            np.testing.assert_array_equal(a.alpha_HW, b.alpha_HW)


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_near_plane_belongs_to_the_camera(renderer: CpuRenderer | ReferenceRenderer) -> None:
    instances = [Instance(one((1.5, 0, 0), 0.2, 0.9, (1, 1, 1)))]
    assert renderer.render(instances, [lens(near=1.49)], BLACK)[0].alpha_HW.max() > 0.8
    assert renderer.render(instances, [lens(near=1.51)], BLACK)[0].alpha_HW.max() == 0


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_a_huge_splat_beside_the_image_paints_no_veil(renderer: CpuRenderer | ReferenceRenderer) -> None:
    beside = (2.0, 3.0, 0.0)  # 56° to the left, the image ends at 21°
    assert renderer.render([Instance(one(beside, 1.3, 0.9, (1, 1, 1)))], [lens()], BLACK)[0].alpha_HW.max() == 0
    # the same splat seen from afar is part of the street, and stays
    beside = (20.0, 30.0, 0.0)
    assert renderer.render([Instance(one(beside, 9.0, 0.9, (1, 1, 1)))], [lens()], BLACK)[0].alpha_HW.max() > 0


def test_a_placed_instance_is_the_baked_cloud() -> None:
    cloud, pose = random_cloud(300), pose_to_matrix(np.array([4.0, 1.0, 2.0]), z=0.5)
    cameras = posed(rig(), EgoState(0, 0, 0, 0))
    for a, b in zip(
        CpuRenderer().render([Instance(cloud, pose)], cameras, SKY),
        CpuRenderer().render([Instance(placed(cloud, pose))], cameras, SKY),
        strict=True,
    ):
        assert psnr(a.rgb_HW3, b.rgb_HW3) > 60


def test_view_dependent_colour_turns_with_the_instance() -> None:
    """A cloud and its camera moved together show the same picture."""
    cloud, pose = with_harmonics(random_cloud(300), 3), pose_to_matrix(np.array([4.0, 1.0, 2.0]), z=0.5)
    cameras = posed(rig(), EgoState(0, 0, 0, 0))
    moved = [PosedCamera(c.camera, pose @ c.cam_to_world_44) for c in cameras]
    for a, b in zip(
        CpuRenderer().render([Instance(cloud)], cameras, BLACK),
        CpuRenderer().render([Instance(cloud, pose)], moved, BLACK),
        strict=True,
    ):
        assert psnr(a.rgb_HW3, b.rgb_HW3) > 60


def test_harmonics_are_an_orthonormal_basis() -> None:
    """As the constants and polynomials must be: integrated over the sphere by Gauss × trapezoid."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    angle = 2 * np.pi * np.arange(24) / 24
    z, a = np.meshgrid(nodes, angle, indexing="ij")
    directions = torch.tensor(
        np.stack([np.sqrt(1 - z**2) * np.cos(a), np.sqrt(1 - z**2) * np.sin(a), z], -1).reshape(-1, 3)
    )
    w = np.repeat(weights, 24) * 2 * np.pi / 24
    values = []
    for k in range(16):
        sh = torch.zeros(len(directions), 16, 3, dtype=torch.float64)
        sh[:, k] = 0.1  # small, so that the clamp at zero stays away
        values.append((sh_colour(sh, directions)[:, 0].numpy() - 0.5) / 0.1)
    basis = np.stack(values)
    np.testing.assert_allclose((basis * w) @ basis.T, np.eye(16), atol=1e-12)
    assert basis[0, 0] == pytest.approx(SH_C0)


def test_harmonics_have_the_signs_of_3dgs() -> None:
    """At (2, 3, 6)/7, worked out by hand from the polynomials of the 3DGS code base."""
    direction = torch.tensor([[2, 3, 6]], dtype=torch.float64) / 7
    each = 0.1 * torch.eye(16, dtype=torch.float64)[:, :, None].expand(16, 16, 3)
    signs = torch.sign(sh_colour(each, direction.expand(16, 3))[:, 0] - 0.5).tolist()
    assert signs == [1, -1, 1, -1, 1, -1, 1, -1, -1, -1, 1, -1, 1, -1, -1, 1]


def test_the_reference_is_differentiable() -> None:
    cloud = random_cloud(12, 3)
    means, scales, quats, opacities, sh = (
        t.requires_grad_()
        for t in cloud_tensors(dataclasses.replace(cloud, means_N3=np.abs(cloud.means_N3) + np.float32((-3, -3, 2))))
    )
    camera = Camera("front", 6, 5, 5.0, 5.0, 3.0, 2.5, np.eye(4))

    def loss(m: torch.Tensor, s: torch.Tensor, q: torch.Tensor, o: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        directions = torch.nn.functional.normalize(m, dim=-1)
        rgb, depth, alpha = render_gaussians(m, covariance(s, q), s.amax(-1), o, sh_colour(c, directions), camera)
        return (rgb**2).sum() + 0.01 * depth.sum() + alpha.sum()

    assert torch.autograd.gradcheck(loss, (means, scales, quats, opacities, sh), eps=1e-7, atol=1e-4, rtol=1e-3)


def test_bad_input_is_named() -> None:
    camera, good = lens(), GaussianCloud.fake()
    means = good.means_N3.copy()
    means[3, 1] = np.nan
    renderers = (CpuRenderer(), ReferenceRenderer())
    for renderer in renderers:
        with pytest.raises(InputError, match="means_N3"):
            renderer.render([Instance(dataclasses.replace(good, means_N3=means))], [camera], SKY)
        with pytest.raises(InputError, match="instance: pose holds NaN"):
            renderer.render([Instance(good, np.full((4, 4), math.nan))], [camera], SKY)
        with pytest.raises(InputError, match="not rigid"):
            renderer.render([Instance(good, np.diag([2.0, 1, 1, 1]))], [camera], SKY)
        with pytest.raises(InputError, match="near"):
            renderer.render([Instance(good)], [lens(near=0.0)], SKY)
    with pytest.raises(InputError, match="view-dependent"):
        placed(with_harmonics(good, 1), np.eye(4))
    with pytest.raises(InputError, match="threads"):
        CpuRenderer(0).render([], [camera], SKY)


def test_to_u8_rounds_half_up_and_clips() -> None:
    values = np.array([-0.1, 0.0, 0.499 / 255, 0.501 / 255, 0.5, 1.0, 1.7], np.float32)
    assert to_u8(values).tolist() == [0, 0, 0, 1, 128, 255, 255]


def test_empty_clouds_and_images_without_splats() -> None:
    empty = GaussianCloud.from_rgb(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3)))
    behind = one((-5, 0, 0), 0.5, 0.9, (1, 1, 1))
    for renderer in (CpuRenderer(), ReferenceRenderer()):
        for instances in (
            [Instance(empty)],
            [Instance(behind)],
            [Instance(empty), Instance(behind, np.eye(4))],
        ):
            assert renderer.render(instances, [lens()], SKY)[0].alpha_HW.max() == 0
