"""The backward pass of the CPU renderer against float64 autograd of the reference, and what a fit needs of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from senna2.frames import pose_to_matrix
from senna2.types import Array, Camera, EgoState, InputError, Rig
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, posed
from senna2.world.render.autograd import render_differentiable
from senna2.world.render.backward import Gradients, backward, forward
from senna2.world.render.base import slope_limits, unit_rays
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.reference import cloud_tensors, covariance, render_gaussians, sh_colour
from senna2.world.render.rules import LUMA

torch.set_num_threads(1)
FIELDS = ("means_N3", "scales_N3", "quats_N4", "opacities_N", "sh_NK3")
TOLERANCE = 1e-4  # of the length of a group's gradient; some 3e-6 is what float32 leaves
Tensor = torch.Tensor


def cameras() -> list[PosedCamera]:
    """Two small views, principal points off the centre, sides no multiple of a tile."""
    front = Camera.looking(
        "front", yaw_deg=3, fov_deg=80, width=74, height=34, horizon_row=11, position_in_ego=(1.7, 0, 1.5)
    )
    left = Camera.looking(
        "left", yaw_deg=75, fov_deg=100, width=45, height=28, horizon_row=10, position_in_ego=(1.2, 0.5, 1.5)
    )
    return posed(Rig((dataclasses.replace(front, cx=42.3), left)), EgoState(0, 0, 0.2, 0))


def random_cloud(degree: int, n: int = 400, seed: int = 0) -> GaussianCloud:
    """All sizes and shapes on all sides, opacities on both sides of the clamp and of the cut; quaternions not unit."""
    rng = np.random.default_rng(seed)
    opacities = rng.uniform(0.002, 1, n)
    opacities[: n // 4] = 1
    scales = np.exp(rng.normal(-2, 0.8, (n, 3)))
    scales[::5, 0] = 0.01
    cloud = GaussianCloud.from_rgb(
        rng.normal(0, (9, 9, 2.5), (n, 3)), scales, rng.normal(size=(n, 4)), opacities, rng.uniform(0, 1, (n, 3))
    )
    rest = rng.normal(0, 0.3, (n, (degree + 1) ** 2 - 1, 3)).astype(np.float32)
    return dataclasses.replace(cloud, sh_NK3=np.concatenate([cloud.sh_NK3, rest], 1))


def street() -> GaussianCloud:
    """Road and facades of flat, nearly opaque tiles: many seen edge-on, most pixels stopped."""
    rng = np.random.default_rng(1)
    road = np.stack(np.meshgrid(np.arange(-2, 40, 0.5), np.arange(-5, 5, 0.5), indexing="ij"), -1).reshape(-1, 2)
    wall = np.stack(np.meshgrid(np.arange(-2, 40, 0.8), np.arange(0, 8, 0.8), indexing="ij"), -1).reshape(-1, 2)
    sides = [np.insert(wall, 1, y, 1) for y in (-6.0, 6.0)]
    means = np.concatenate([np.insert(road, 2, 0.0, 1), *sides])
    flat = [np.tile([0.29, 0.29, 0.015], (len(road), 1)), *[np.tile([0.46, 0.015, 0.46], (len(wall), 1))] * 2]
    n = len(means)
    quats = np.tile([1.0, 0, 0, 0], (n, 1)) + rng.normal(0, 0.03, (n, 4))
    return GaussianCloud.from_rgb(means, np.concatenate(flat), quats, np.full(n, 0.97), rng.uniform(0.1, 0.9, (n, 3)))


CLOUDS = {"random": lambda: random_cloud(0), "harmonics": lambda: random_cloud(3, seed=1), "street": street}


def judged(tensors: tuple[Tensor, ...], camera: PosedCamera) -> tuple[Tensor, Tensor, Tensor]:
    """rgb over black, depth, alpha of the reference, in float64."""
    means, scales, quats, opacities, sh = tensors
    world_to_cam = torch.as_tensor(np.linalg.inv(camera.cam_to_world_44))
    turn, shift = world_to_cam[:3, :3], world_to_cam[:3, 3]
    directions = torch.nn.functional.normalize(means + turn.T @ shift, dim=-1)
    covariances = turn @ covariance(scales, quats) @ turn.T
    colours = sh_colour(sh, directions)
    return render_gaussians(means @ turn.T + shift, covariances, scales.amax(-1), opacities, colours, camera.camera)


def leaves(cloud: GaussianCloud, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(t.requires_grad_() for t in cloud_tensors(cloud, dtype))


def assert_same_gradients(got: tuple[Array, ...], want: tuple[Array, ...]) -> None:
    for name, a, b in zip(FIELDS, got, want, strict=True):
        length = np.linalg.norm(b)
        assert length > 0
        assert np.linalg.norm(a - b) < TOLERANCE * length, name


@pytest.mark.parametrize("which", range(2), ids=["front", "left"])
@pytest.mark.parametrize("name", list(CLOUDS))
def test_gradients_agree_with_float64_autograd(name: str, which: int) -> None:
    """Random gradients of colour, depth and transmittance sums: no cancellation is spared."""
    cloud, camera = CLOUDS[name](), cameras()[which]
    (trace,) = forward(cloud, [camera])
    weights = np.random.default_rng(2).normal(size=trace.sums_HW5.shape).astype(np.float32)
    weights[..., 4] *= 0.1
    gradients = Gradients.zeros(len(cloud), cloud.sh_NK3.shape[1])
    backward(cloud, trace, weights, gradients)

    tensors = leaves(cloud, torch.float64)
    rgb, depth, alpha = judged(tensors, camera)
    sums = torch.cat([(1 - alpha)[..., None], rgb, (depth * alpha)[..., None]], -1)
    np.testing.assert_allclose(trace.sums_HW5, sums.detach(), atol=5e-4)
    (sums * torch.as_tensor(weights)).sum().backward()
    assert_same_gradients(tuple(getattr(gradients, f) for f in FIELDS), tuple(t.grad.numpy() for t in tensors))


def test_the_clouds_above_meet_every_rule() -> None:
    """Clamped slopes, clamped alphas, clamped colours, stopped pixels, uncovered pixels: all are in the comparison."""
    seen = {"slope": 0, "alpha": 0, "colour": 0, "stopped": 0, "empty": 0}
    for make in CLOUDS.values():
        for camera, trace in zip(cameras(), forward(make(), cameras()), strict=True):
            left, right, up, down = slope_limits(camera.camera)
            lens = camera.camera
            ux, uy = (trace.splats_SR[:, 0] - lens.cx) / lens.fx, (trace.splats_SR[:, 1] - lens.cy) / lens.fy
            seen["slope"] += int(((ux < -left) | (ux > right) | (uy < -up) | (uy > down)).sum())
            seen["alpha"] += int((trace.splats_SR[:, 5] > 0.99).sum())
            seen["colour"] += int((trace.splats_SR[:, 7:10] == 0).sum())
            seen["stopped"] += int((trace.sums_HW5[..., 0] < 0.009).sum())
            seen["empty"] += int((trace.sums_HW5[..., 0] == 1).sum())
    assert min(seen.values()) >= 5, seen


SKIES = {
    "day": Sky.day(),
    "weather": Sky((0.6, 0.6, 0.7), (0.2, 0.3, 0.5), (0.8, 0.7, 0.9), 0.6, 0.03, (0.5, 0.5, 0.6)),
}


def loss(rgb: Tensor, depth: Tensor, alpha: Tensor) -> Tensor:
    """Of the kind that reconstruction uses."""
    return (rgb - 0.4).square().mean() + 1e-3 * (depth - 8).square().mean() + 0.1 * (alpha - 0.7).square().mean()


@pytest.mark.parametrize("name", list(SKIES))
def test_autograd_agrees_with_the_reference_through_sky_and_weather(name: str) -> None:
    sky, cloud, camera = SKIES[name], random_cloud(1), cameras()[0]
    views = [camera, PosedCamera(camera.camera, pose_to_matrix(np.array([1.0, 2.0, 0.4])) @ camera.cam_to_world_44)]
    tensors = leaves(cloud, torch.float32)
    images = render_differentiable(*tensors, views, sky)
    assert [tuple(i.shape) for i in images] == [(2, 34, 74, 3), (2, 34, 74), (2, 34, 74)]
    loss(*images).backward()

    exact = leaves(cloud, torch.float64)
    parts = []
    for view in views:
        rgb, depth, alpha = judged(exact, view)
        lit = rgb * torch.tensor(sky.light_rgb, dtype=torch.float64)
        luma = (lit @ torch.tensor(LUMA, dtype=torch.float64))[..., None]
        fog = 1 - torch.exp(-sky.fog_per_m * depth)[..., None]
        lit = (1 - fog) * (luma + sky.saturation * (lit - luma)) + fog * alpha[..., None] * torch.tensor(sky.fog)
        up = unit_rays(view.camera).astype(np.float64) @ view.cam_to_world_44[2, :3]
        parts.append((lit + (1 - alpha)[..., None] * torch.as_tensor(sky.colour(up)), depth, alpha))
    want = [torch.stack(p) for p in zip(*parts, strict=True)]
    loss(*want).backward()
    for a, b in zip(images, want, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-3)
    assert_same_gradients(tuple(t.grad.numpy() for t in tensors), tuple(t.grad.numpy() for t in exact))


@pytest.mark.parametrize("name", list(SKIES))
def test_images_are_those_of_the_renderer(name: str) -> None:
    quats = street().quats_N4
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    cloud = dataclasses.replace(street(), quats_N4=unit)
    for camera in cameras():
        rgb, depth, alpha = render_differentiable(*cloud_tensors(cloud, torch.float32), [camera], SKIES[name])
        view = CpuRenderer().render([Instance(cloud)], [camera], SKIES[name])[0]
        pairs = (rgb[0].clamp(max=1), view.rgb_HW3), (alpha[0], view.alpha_HW), (depth[0] / 40, view.depth_HW / 40)
        for got, want in pairs:
            assert np.mean((got.numpy() - want) ** 2) < 1e-7  # 70 dB


def test_views_add_up_and_bits_repeat() -> None:
    cloud = random_cloud(2)
    weights = [np.random.default_rng(i).normal(size=(c.camera.height, c.camera.width, 5)).astype(np.float32)
               for i, c in enumerate(cameras())]  # fmt: skip

    def run(*views: int) -> list[Array]:
        gradients = Gradients.zeros(len(cloud), 9)
        for i in views:
            backward(cloud, forward(cloud, cameras())[i], weights[i], gradients)
        return [getattr(gradients, f) for f in FIELDS]

    for first, second, both, again in zip(run(0), run(1), run(0, 1), run(0, 1), strict=True):
        np.testing.assert_allclose(both, first + second, rtol=1e-5, atol=1e-6 * np.abs(both).max())
        np.testing.assert_array_equal(both, again)


def test_what_is_not_drawn_has_no_gradient() -> None:
    """Behind the camera, too faint, or nothing at all: zeros, never NaN, though alpha divides the depth."""
    cloud = random_cloud(0, 40)
    behind = dataclasses.replace(cloud, means_N3=cloud.means_N3 * np.float32([0, 0, 0]) - np.float32([30, 0, 0]))
    faint = dataclasses.replace(cloud, opacities_N=np.full(40, 0.0, np.float32))
    empty = GaussianCloud(*(getattr(cloud, f)[:0] for f in FIELDS))
    for dark in (behind, faint, empty):
        tensors = leaves(dark, torch.float32)
        images = render_differentiable(*tensors, cameras()[:1], SKIES["weather"])
        assert float(images[2].detach().max()) == 0
        loss(*images).backward()
        for tensor in tensors:
            assert tensor.grad is not None
            assert not tensor.grad.any()


def test_a_change_between_the_passes_is_noticed() -> None:
    tensors = leaves(random_cloud(0, 40), torch.float32)
    images = render_differentiable(*tensors, cameras()[:1], Sky.day())
    with torch.no_grad():
        tensors[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss(*images).backward()


def test_bad_tensors_are_named() -> None:
    good = cloud_tensors(random_cloud(0, 8), torch.float32)

    def broken(at: int, value: Tensor) -> tuple[Tensor, ...]:
        return (*good[:at], value, *good[at + 1 :])

    nan = good[1].clone()
    nan[3, 1] = torch.nan
    zero = good[2].clone()
    zero[5] = 0
    cases = [
        (broken(0, good[0].double()), "means is torch.float64"),
        (broken(1, nan), "scales holds NaN.*learning rate"),
        (broken(2, zero), "length zero"),
        (broken(3, good[3][:5]), r"opacities: shape \(5,\), expected \(8,\)"),
        (broken(4, torch.zeros(8, 5, 3)), r"sh: shape \(8, 5, 3\)"),
    ]
    for tensors, message in cases:
        with pytest.raises(InputError, match=message):
            render_differentiable(*tensors, cameras()[:1], Sky.day())
    for views in ([], cameras()):
        with pytest.raises(InputError, match="cameras: sizes"):
            render_differentiable(*good, views, Sky.day())


def test_a_tiny_cloud_learns_its_images() -> None:
    """Start: right places roughly, everything grey. At least 6 dB better on its images, and on one it never saw."""
    rng = np.random.default_rng(0)
    teacher = street()
    shade = 0.5 + 0.4 * np.sin(teacher.means_N3 * np.float32([0.9, 0.7, 1.1]))  # smooth, as streets are
    teacher = dataclasses.replace(teacher, sh_NK3=((shade - 0.5) / SH_C0)[:, None].astype(np.float32))
    camera = cameras()[0].camera
    lens = dataclasses.replace(camera, width=48, height=30, fx=0.65 * camera.fx, fy=0.65 * camera.fy, cx=25.0, cy=9.0)
    poses = ((0, 0, 0.1), (4, 1.5, -0.2), (8, -1, 0.3), (14, 1, 0.0), (6, 0.5, 0.1))
    views = [posed(Rig((lens,)), EgoState(*pose, 0))[0] for pose in poses]
    sky = Sky.day()
    with torch.no_grad():
        target = render_differentiable(*cloud_tensors(teacher, torch.float32), views, sky)[0]
    pick = rng.permutation(len(teacher))[:800]
    means = torch.tensor(teacher.means_N3[pick] + rng.normal(0, 0.05, (800, 3)).astype(np.float32))
    log_scales, logits = torch.full((800, 3), -1.2), torch.full((800,), 1.0)
    quats, sh = torch.tensor([[1.0, 0, 0, 0]]).repeat(800, 1), torch.zeros(800, 1, 3)
    groups = [(means, 4e-3), (log_scales, 2e-2), (quats, 1e-2), (logits, 5e-2), (sh, 5e-2 / SH_C0)]
    optimiser = torch.optim.Adam([{"params": [p.requires_grad_()], "lr": lr} for p, lr in groups])

    def draw(which: slice) -> Tensor:
        return render_differentiable(means, log_scales.exp(), quats, logits.sigmoid(), sh, views[which], sky)[0]

    def psnr(which: slice) -> float:
        with torch.no_grad():
            return float(-10 * torch.log10((draw(which) - target[which]).square().mean()))

    seen, held_out = slice(0, 4), slice(4, 5)
    before = psnr(seen), psnr(held_out)
    for _ in range(60):
        optimiser.zero_grad()
        (draw(seen) - target[seen]).abs().mean().backward()
        optimiser.step()
    assert psnr(seen) - before[0] >= 6
    assert psnr(held_out) - before[1] >= 6
