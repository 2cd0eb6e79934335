"""The judge: the same image formation as plainly as it can be said, in float64 torch, differentiable, slow.

For tests, gradient checks and doubts; some thousand gaussians at some thousand pixels are its range. It tries every
gaussian at every pixel: a judge that skipped by the same bounds as what it judges would not notice a wrong bound.
Shapes: N gaussians, P pixels, K spherical harmonics. Rules and constants: `render.base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from senna2.types import Array, Camera, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render.base import Instance, PosedCamera, Sky, View, check_pose, slope_limits, unit_rays
from senna2.world.render.rules import ALPHA_MAX, ALPHA_MIN, DEPTH_PHASE, DEPTH_STEPS, EPS_2D, LUMA, TRANSMITTANCE_MIN

Tensor = torch.Tensor
_NOTHING = GaussianCloud.from_rgb(*(np.zeros((0, *s)) for s in ((3,), (3,), (4,), (), (3,))))


@dataclass(frozen=True)
class ReferenceRenderer:
    """`Renderer` by `render_gaussians`, row by row."""

    dtype: torch.dtype = torch.float64
    name: str = "reference"

    def render(self, instances: Sequence[Instance], cameras: Sequence[PosedCamera], sky: Sky) -> list[View]:
        """See `Renderer`."""
        for instance in instances:
            instance.cloud.validate()
        views = []
        for posed in cameras:
            camera = posed.camera.validate()
            require(camera.near > 0, f"Camera[{camera.name}].near", "must be positive")
            cam_to_world = check_pose(posed.cam_to_world_44, f"camera {camera.name}")
            with torch.no_grad():
                parts = [self._gaussians(i, cam_to_world) for i in (*instances, Instance(_NOTHING))]
                means, covs, sigmas, opacities, colours = (torch.cat(p) for p in zip(*parts, strict=True))
                rgb, depth, alpha = render_gaussians(means, covs, sigmas, opacities, colours, camera)
            up = unit_rays(camera).astype(np.float64) @ cam_to_world[2, :3]
            image = over_sky(rgb.numpy(), depth.numpy(), alpha.numpy(), sky, up)
            views.append(View(*(a.astype(np.float32) for a in (image, depth.numpy(), alpha.numpy()))))
        return views

    def _gaussians(self, instance: Instance, cam_to_world_44: Array) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One placed cloud in camera axes: means, covariances, largest sigmas, opacities, colours."""
        cloud = instance.cloud
        pose = np.eye(4) if instance.pose_44 is None else check_pose(instance.pose_44, "instance")
        cloud_to_cam = torch.as_tensor(np.linalg.inv(cam_to_world_44) @ pose, dtype=self.dtype)
        rotation, shift = cloud_to_cam[:3, :3], cloud_to_cam[:3, 3]
        means, scales, quats, opacities, sh = cloud_tensors(cloud, self.dtype)
        directions = torch.nn.functional.normalize(means + rotation.T @ shift, dim=-1)  # the camera is at -Rᵀt
        means_in_cam = means @ rotation.T + shift
        cov_in_cam = rotation @ covariance(scales, quats) @ rotation.T
        return means_in_cam, cov_in_cam, scales.amax(-1), opacities, sh_colour(sh, directions)


def over_sky(rgb_HW3: Array, depth_HW: Array, alpha_HW: Array, sky: Sky, up_HW: Array) -> Array:
    """(H, W, 3) what gaussians alone look like → under that sky, as said at the head of `render.base`."""
    lit = rgb_HW3 * np.array(sky.light_rgb)
    luma = (lit @ np.array(LUMA))[..., None]
    toned = luma + sky.saturation * (lit - luma)
    fog = 1 - np.exp(-sky.fog_per_m * depth_HW)[..., None]
    seen = (1 - fog) * toned + fog * alpha_HW[..., None] * np.array(sky.fog)
    return np.minimum(seen + (1 - alpha_HW)[..., None] * sky.colour(up_HW), 1)


def cloud_tensors(cloud: GaussianCloud, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """means (N, 3), scales (N, 3), quats (N, 4), opacities (N,), sh (N, K, 3)."""
    arrays = (cloud.means_N3, cloud.scales_N3, cloud.quats_N4, cloud.opacities_N, cloud.sh_NK3)
    return tuple(torch.tensor(a, dtype=dtype) for a in arrays)


def covariance(scales_N3: Tensor, quats_N4: Tensor) -> Tensor:
    """(N, 3, 3) = R·diag(σ²)·Rᵀ."""
    w, x, y, z = torch.nn.functional.normalize(quats_N4, dim=-1).unbind(-1)
    rotation = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
         2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1,
    ).unflatten(-1, (3, 3))  # fmt: skip
    factor = rotation * scales_N3[:, None, :]
    return factor @ factor.mT


def sh_colour(sh_NK3: Tensor, directions_N3: Tensor) -> Tensor:
    """(N, 3) colours ≥ 0 of real spherical harmonics, degree 0…3, seen along unit directions from the camera.

    Basis and signs of the 3DGS code base, written as polynomials on the sphere.
    """
    x, y, z = directions_N3.unbind(-1)
    one = torch.ones_like(x)
    basis = [
        0.5 * (1 / np.pi) ** 0.5 * one,
        *((3 / (4 * np.pi)) ** 0.5 * p for p in (-y, z, -x)),
        *(
            (15 / (4 * np.pi)) ** 0.5 * p
            for p in (x * y, -y * z, (3 * z * z - 1) / 12**0.5, -x * z, (x * x - y * y) / 2)
        ),
        -((35 / (32 * np.pi)) ** 0.5) * y * (3 * x * x - y * y),
        (105 / (4 * np.pi)) ** 0.5 * x * y * z,
        -((21 / (32 * np.pi)) ** 0.5) * y * (5 * z * z - 1),
        (7 / (16 * np.pi)) ** 0.5 * z * (5 * z * z - 3),
        -((21 / (32 * np.pi)) ** 0.5) * x * (5 * z * z - 1),
        (105 / (16 * np.pi)) ** 0.5 * z * (x * x - y * y),
        -((35 / (32 * np.pi)) ** 0.5) * x * (x * x - 3 * y * y),
    ]
    basis_NK = torch.stack(basis[: sh_NK3.shape[1]], -1)
    return ((basis_NK[..., None] * sh_NK3).sum(-2) + 0.5).clamp_min(0)


def render_gaussians(
    means_in_cam_N3: Tensor,
    cov_in_cam_N33: Tensor,
    largest_sigma_N: Tensor,
    opacities_N: Tensor,
    colours_N3: Tensor,
    camera: Camera,
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (H, W, 3) over black, not clipped above 1; expected depth (H, W); alpha (H, W). Differentiable."""
    x, y, z = means_in_cam_N3.unbind(-1)
    left, right, up, down = slope_limits(camera)
    ux, uy = x / z, y / z
    outside = (ux < -left) | (ux > right) | (uy < -up) | (uy > down)
    veil = outside & (3 * largest_sigma_N > means_in_cam_N3.norm(dim=-1))
    seen = torch.nonzero((z >= camera.near) & (opacities_N >= ALPHA_MIN) & ~veil).squeeze(-1)
    steps = torch.floor(z[seen].detach() * DEPTH_STEPS + DEPTH_PHASE)
    seen = seen[torch.argsort(steps, stable=True)]
    z, ux, uy, opacity, colour = z[seen], ux[seen], uy[seen], opacities_N[seen], colours_N3[seen]

    u, v = camera.fx * ux + camera.cx, camera.fy * uy + camera.cy
    ax, ay, zero = ux.clamp(-left, right), uy.clamp(-up, down), torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / z, zero, -camera.fx * ax / z], -1),
            torch.stack([zero, camera.fy / z, -camera.fy * ay / z], -1),
        ],
        -2,
    )
    cov_2d = jacobian @ cov_in_cam_N33[seen] @ jacobian.mT + EPS_2D * torch.eye(2, dtype=z.dtype)
    conic = torch.linalg.inv(cov_2d)

    rows = []
    columns = torch.arange(camera.width, dtype=z.dtype) + 0.5
    for row in range(camera.height):
        dx, dy = columns[:, None] - u, (row + 0.5) - v  # (P, N), (N,)
        sigma = 0.5 * (conic[:, 0, 0] * dx * dx + conic[:, 1, 1] * dy * dy) + conic[:, 0, 1] * dx * dy
        alpha = (opacity * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
        alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0)
        after = torch.cumprod(1 - alpha, -1)
        # transmittance only falls, so "at or under the limit" is "this splat or an earlier one stopped the pixel"
        alpha = torch.where(after > TRANSMITTANCE_MIN, alpha, 0)
        through = torch.cumprod(1 - alpha, -1)
        weight = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
        covered = weight.sum(-1)
        depth = torch.where(covered > 0, (weight * z).sum(-1) / covered.clamp_min(1e-10), 0)
        rows.append(torch.cat([weight @ colour, depth[:, None], covered[:, None]], -1))
    image = torch.stack(rows)
    return image[..., :3], image[..., 3], image[..., 4]
