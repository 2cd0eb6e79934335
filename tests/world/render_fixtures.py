"""Clouds, cameras and verdicts that the renderers' tests share."""

from __future__ import annotations

import dataclasses

import numpy as np

from senna2.frames import pose_to_matrix
from senna2.types import Array, Camera, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, View

SKY = Sky.day()
BLACK = Sky((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def with_harmonics(cloud: GaussianCloud, degree: int, seed: int = 0) -> GaussianCloud:
    rest = np.random.default_rng(seed).normal(0, 0.2, (len(cloud), (degree + 1) ** 2 - 1, 3)).astype(np.float32)
    return dataclasses.replace(cloud, sh_NK3=np.concatenate([cloud.sh_NK3, rest], 1))


def random_cloud(n: int = 1500, seed: int = 0) -> GaussianCloud:
    """Gaussians of all sizes on all sides of the origin, some in the near plane, some huge, some hardly opaque."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    means = rng.normal(0, (9, 9, 2.5), (n, 3))
    scales = np.exp(rng.normal(-2, 0.8, (n, 3)))
    return GaussianCloud.from_rgb(means, scales, quats, rng.uniform(0.002, 1, n), rng.uniform(0, 1, (n, 3)))


def tiles(corner: Array, u: Array, v: Array, step: float, seed: int) -> GaussianCloud:
    """Flat gaussians on an axis-parallel rectangle: the stuff of which town surfaces are made."""
    rng = np.random.default_rng(seed)
    lengths = np.linalg.norm([u, v], axis=1)
    grid = np.stack(np.meshgrid(*(np.arange(0.5, m) / m for m in np.ceil(lengths / step)), indexing="ij"), -1).reshape(
        -1, 2
    )
    means = np.asarray(corner) + grid @ np.array([u, v])
    scales = np.abs(np.asarray(u) / lengths[0] + np.asarray(v) / lengths[1]) * 0.58 * step + 0.015
    quats = np.tile([1.0, 0, 0, 0], (len(means), 1))
    shade = np.clip(rng.uniform(0.2, 0.8, 3) + rng.normal(0, 0.1, (len(means), 1)), 0, 1)
    return GaussianCloud.from_rgb(means, np.tile(scales, (len(means), 1)), quats, np.full(len(means), 0.97), shade)


def street(degree: int = 0) -> list[Instance]:
    """Road, two facades, and three cars of which two share a cloud."""
    ground = tiles((-10, -5, 0), (50, 0, 0), (0, 10, 0), 0.6, 0)
    walls = [tiles((-10, y, 0), (50, 0, 0), (0, 0, 8), 1.0, 1) for y in (-6, 6)]
    car = GaussianCloud.concatenate(
        [tiles((-2, y, 0.2), (4, 0, 0), (0, 0, 1.2), 0.3, 2) for y in (-0.9, 0.9)]
        + [tiles((x, -0.9, 0.2), (0, 1.8, 0), (0, 0, 1.2), 0.3, 3) for x in (-2, 2)]
        + [tiles((-2, -0.9, 1.4), (4, 0, 0), (0, 1.8, 0), 0.3, 4)]
    )
    van = dataclasses.replace(car, means_N3=car.means_N3 * np.float32(1.3))
    clouds = [
        with_harmonics(c, degree) if degree else c for c in (GaussianCloud.concatenate([ground, *walls]), car, van)
    ]
    poses = [(8, 1.5, 0.0), (14, -2, 3.0), (5, -3.2, 0.4)]
    return [Instance(clouds[0])] + [
        Instance(c, pose_to_matrix(np.array(p))) for c, p in zip((clouds[1], clouds[1], clouds[2]), poses, strict=True)
    ]


def rig() -> Rig:
    """Two small views whose principal point is off the centre in both axes, as ours crop the sky."""
    front = Camera.looking(
        "front", yaw_deg=3, fov_deg=80, width=90, height=34, horizon_row=11, position_in_ego=(1.7, 0, 1.5)
    )
    left = Camera.looking(
        "left", yaw_deg=75, fov_deg=100, width=45, height=28, horizon_row=10, position_in_ego=(1.2, 0.5, 1.5)
    )
    return Rig((dataclasses.replace(front, cx=52.3), left))


def psnr(a: Array, b: Array) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) + 1e-20))


def assert_alike(got: View, want: View) -> None:
    """The judge's verdict. Not by maximum: cut-off and stop may flip on float32 rounding in a few pixels."""
    assert psnr(got.rgb_HW3, want.rgb_HW3) >= 60
    assert psnr(got.alpha_HW, want.alpha_HW) >= 60
    assert np.mean(np.abs(got.rgb_HW3 - want.rgb_HW3).max(-1) > 2 / 255) < 1e-3
    seen = want.alpha_HW > 0.01
    assert np.mean(np.abs(got.depth_HW - want.depth_HW)[seen] > 0.01 * want.depth_HW[seen]) < 1e-3


def one(
    mean: tuple[float, float, float], sigma: float, opacity: float, rgb: tuple[float, float, float]
) -> GaussianCloud:
    return GaussianCloud.from_rgb([mean], [(sigma,) * 3], [(1, 0, 0, 0)], [opacity], [rgb])


def lens(**changes: float) -> PosedCamera:
    """A camera at the origin that looks along world x (z up), principal point off the centre."""
    camera = Camera("front", 32, 24, 40.0, 44.0, 15.5, 9.5, np.eye(4))
    axes = np.eye(4)
    axes[:3, :3] = [(0, 0, 1), (-1, 0, 0), (0, -1, 0)]
    return PosedCamera(dataclasses.replace(camera, **changes), axes)  # type: ignore[arg-type]
