"""The CPU renderer's backward pass by hand: from the gradient of an image to the gradient of the cloud that made it.

`forward` draws one cloud, standing still, with the kernels of the CPU renderer and keeps what `backward` needs: the
splats in their tiles, and of each pixel the sums before the sky. Nothing is stored per pixel and splat: the backward
pass walks the same tiles front to back a second time and takes from each pixel's total what it has already met.
One thread, no locks, no interpreter: several views may run in several threads. Numbers are float32 as in the forward
pass; sums over many pixels and the chain through the projection, where terms cancel, are float64.

Symbols. Splat: centre u, v; conic A, B, C, so that σ = ½A·dx² + B·dx·dy + ½C·dy² at pixel offset (dx, dy); opacity o;
α = min(0.99, o·e^-σ). Camera: p = (x, y, z) = W·(mean - eye). L: the loss; ∂a: its derivative by a.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types import Array, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import harmonics, project, project_backward, raster, raster_backward
from senna2.world.render.base import PosedCamera, check_pose, slope_limits
from senna2.world.render.prepare import SIDE_MAX

_INDEX_MAX = 1 << 24  # indices travel through the projection as float32
_EVERYWHERE, _NO_HARMONICS = np.array([[0, 0, 0, 1e9]], np.float32), np.zeros((1, 1, 3), np.float32)


@dataclass(frozen=True, eq=False)
class Trace:
    """One view of one cloud, drawn. sums_HW5, before the sky: transmittance, then Σw·r, Σw·g, Σw·b, Σw·z over the
    splats of a pixel with weights w = α·(transmittance in front of the splat)."""

    sums_HW5: Array
    splats_SR: Array  # see `project`
    source_S: Array  # index of the gaussian
    boxes_S4: Array
    offsets: Array
    lists: Array
    view_34: Array
    camera_4: Array
    slope_4: Array


@dataclass(frozen=True, eq=False)
class Gradients:
    """∂L by what a `GaussianCloud` holds, the same shapes, float32. `backward` adds to it, view after view."""

    means_N3: Array
    scales_N3: Array
    quats_N4: Array
    opacities_N: Array
    sh_NK3: Array

    @classmethod
    def zeros(cls, n: int, k: int) -> Self:
        return cls(*(np.zeros(s, np.float32) for s in ((n, 3), (n, 3), (n, 4), (n,), (n, k, 3))))


def forward(cloud: GaussianCloud, cameras: Sequence[PosedCamera]) -> list[Trace]:
    """Draw the cloud. It need not be valid: a fit may pass quaternions of any length but zero, opacities of zero.

    The arrays must be contiguous float32 and finite; nobody checks. Raises `InputError` for a camera or its pose.
    """
    n = len(cloud)
    require(n < _INDEX_MAX, "cloud", f"{n} gaussians; a differentiable view takes fewer than {_INDEX_MAX}")
    geometry = project_backward.geometry(cloud.means_N3, cloud.scales_N3, cloud.quats_N4, cloud.opacities_N)
    index = np.zeros((n, 3), np.float32)
    index[:, 0] = np.arange(n)
    return [_draw(cloud, geometry, index, camera) for camera in cameras]


def _draw(cloud: GaussianCloud, geometry_NG: Array, index_N3: Array, posed: PosedCamera) -> Trace:
    camera, n = posed.camera.validate(), len(cloud)
    where = f"Camera[{camera.name}]"
    require(camera.near > 0, f"{where}.near", "must be positive")
    require(max(camera.width, camera.height) <= SIDE_MAX, where, f"sides must be at most {SIDE_MAX} px")
    world = check_pose(posed.cam_to_world_44, f"camera {camera.name}")
    view = np.concatenate([world[:3, :3].T, world[:3, 3:]], 1).astype(np.float32)
    intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32)
    slope = np.array(slope_limits(camera), np.float32)
    splats, boxes = np.empty((n, project.SPLAT), np.float32), np.empty((n, 4), np.int16)
    # one cell, always visible: cells for culling would have to be found anew after every step of a fit;
    # and instead of its colour a gaussian's index travels along
    count = project.project(
        geometry_NG, np.zeros(n, np.int32), _EVERYWHERE, index_N3, _NO_HARMONICS,
        view, intrinsics, slope, camera.width, camera.height, np.float32(camera.near), splats, boxes, 0,
    )  # fmt: skip
    splats, boxes = splats[:count], boxes[:count]
    source = splats[:, 7].astype(np.int32)
    harmonics.shade(cloud.means_N3, cloud.sh_NK3, view, source, splats)
    order = raster.depth_order(np.ascontiguousarray(splats[:, 10]))
    offsets, lists = raster.bin_tiles(order, boxes, camera.width, camera.height)
    sums = np.empty((camera.height, camera.width, 5), np.float32)
    raster_backward.blend(splats, boxes, offsets, lists, sums)
    return Trace(sums, splats, source, boxes, offsets, lists, view, intrinsics, slope)


def backward(cloud: GaussianCloud, trace: Trace, gradient_HW5: Array, gradients: Gradients) -> None:
    """Add to `gradients` what a loss with ∂sums_HW5 = `gradient_HW5` (float32) says about the cloud of this trace."""
    per_splat = np.zeros((len(trace.splats_SR), raster_backward.SPLAT_GRADIENTS), np.float64)
    raster_backward.blend_backward(
        trace.splats_SR, trace.boxes_S4, trace.offsets, trace.lists, trace.sums_HW5,
        np.ascontiguousarray(gradient_HW5, np.float32), per_splat,
    )  # fmt: skip
    project_backward.project_backward(
        cloud.means_N3, cloud.scales_N3, cloud.quats_N4, trace.source_S, trace.view_34, trace.camera_4, trace.slope_4,
        per_splat, gradients.means_N3, gradients.scales_N3, gradients.quats_N4, gradients.opacities_N,
    )  # fmt: skip
    harmonics.shade_backward(
        cloud.means_N3, cloud.sh_NK3, trace.view_34, trace.source_S, trace.splats_SR, per_splat,
        gradients.means_N3, gradients.sh_NK3,
    )  # fmt: skip
