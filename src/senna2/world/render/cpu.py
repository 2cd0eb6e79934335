"""The CPU renderer: numba kernels, one thread a view.

What does not change from frame to frame is computed once: of a cloud its covariances, cut-off radii and 8 m cells for
culling, of a camera its rays and slope limits. A placed cloud is drawn by composing its pose with the camera's, so
neither the background nor an agent is ever copied or transformed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from senna2.types import Array, Camera, require
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.render import project, raster
from senna2.world.render.base import Instance, PosedCamera, Sky, View, check_pose, slope_limits, unit_rays
from senna2.world.transforms import covariances

CELL_M = 8.0
SIDE_MAX = 16384  # px; boxes are int16


@dataclass(frozen=True)
class CpuRenderer:
    """Renders with numba on `threads` threads (over views; 1 is right inside a worker process)."""

    threads: int = 1
    name: str = "cpu"

    def render(self, instances: Sequence[Instance], cameras: Sequence[PosedCamera], sky: Sky) -> list[View]:
        """See `Renderer`. rgb of degree 0…3 harmonics; ties of depth by instance, then by index."""
        require(self.threads >= 1, "CpuRenderer.threads", "must be at least 1")
        clouds = [_prepare(i.cloud) for i in instances]
        poses = [None if i.pose_44 is None else check_pose(i.pose_44, "instance") for i in instances]
        scene = list(zip(clouds, poses, strict=True))
        lenses = [c.camera for c in cameras]
        optics = [_prepare_camera(c) for c in lenses]
        worlds = [check_pose(c.cam_to_world_44, f"camera {c.camera.name}") for c in cameras]
        jobs = [functools.partial(_render_view, scene, *view, sky) for view in zip(lenses, optics, worlds, strict=True)]
        if self.threads == 1 or len(jobs) < 2:
            return [job() for job in jobs]
        return list(_pool(self.threads).map(lambda job: job(), jobs))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Arrays of `project.project`."""

    geometry_NG: Array
    cell_N: Array
    cells_C4: Array
    rgb_N3: Array
    sh_NK3: Array
    centre_3: Array  # of the sphere around everything, with its radius: one test a view spares most agents a call
    radius: float


@dataclass(frozen=True, eq=False)
class _Optics:
    camera_4: Array
    slope_4: Array
    rays_HW3: Array


_clouds: WeakKeyDictionary[GaussianCloud, _Prepared] = WeakKeyDictionary()
_optics: WeakKeyDictionary[Camera, _Optics] = WeakKeyDictionary()
_scratch = threading.local()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="render")


def _prepare(cloud: GaussianCloud) -> _Prepared:
    """Checked and precomputed once for each cloud object; clouds are immutable by contract."""
    known = _clouds.get(cloud)
    if known is not None:
        return known
    cloud.validate()
    n = len(cloud)
    cov = covariances(cloud)
    opacities = cloud.opacities_N.astype(np.float64)
    largest = cloud.scales_N3.astype(np.float64).max(1, initial=0.0)
    geometry = np.empty((n, project.GEOMETRY), np.float32)
    geometry[:, :3] = cloud.means_N3
    geometry[:, 3:9] = cov[:, (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)]
    geometry[:, 9] = opacities
    geometry[:, 10] = 2 * np.log(255 * opacities)
    geometry[:, 11] = largest**2
    extent = 3.34 * largest  # sqrt(2·ln 255) = 3.33 sigma reach alpha 1/255 at opacity 1
    keys = np.floor(cloud.means_N3[:, :2].astype(np.float64) / CELL_M).astype(np.int64)
    _, cell = np.unique(keys, axis=0, return_inverse=True)
    cell = cell.reshape(-1).astype(np.int32)
    cells = _spheres(cloud.means_N3.astype(np.float64), extent, cell)
    whole = _spheres(cloud.means_N3.astype(np.float64), extent, np.zeros(n, np.int32))
    rgb = np.maximum(SH_C0 * cloud.sh_NK3[:, 0] + 0.5, 0)
    prepared = _Prepared(
        geometry, cell, cells.astype(np.float32), np.ascontiguousarray(rgb, np.float32),
        np.ascontiguousarray(cloud.sh_NK3, np.float32),
        whole[0, :3] if n else np.zeros(3), float(whole[0, 3]) if n else -np.inf,
    )  # fmt: skip
    _clouds[cloud] = prepared
    return prepared


def _spheres(means_N3: Array, extent_N: Array, group_N: Array) -> Array:
    """(groups, 4) centre and radius of spheres that hold every member with its extent."""
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    low, high = np.full((groups, 3), np.inf), np.full((groups, 3), -np.inf)
    np.minimum.at(low, group_N, means_N3)
    np.maximum.at(high, group_N, means_N3)
    centre = (low + high) / 2
    radius = np.zeros(groups)
    np.maximum.at(radius, group_N, np.linalg.norm(means_N3 - centre[group_N], axis=1) + extent_N)
    return np.concatenate([centre, radius[:, None] + 1e-3], 1)


def _prepare_camera(camera: Camera) -> _Optics:
    known = _optics.get(camera)
    if known is not None:
        return known
    camera.validate()
    require(camera.near > 0, f"Camera[{camera.name}].near", "must be positive")
    require(
        max(camera.width, camera.height) <= SIDE_MAX,
        f"Camera[{camera.name}]",
        f"sides must be at most {SIDE_MAX} px",
    )
    intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32)
    optics = _Optics(intrinsics, np.array(slope_limits(camera), np.float32), unit_rays(camera))
    _optics[camera] = optics
    return optics


def _buffers(n: int) -> tuple[Array, Array]:
    """Splat and box buffers of this thread with room for n; fresh memory each frame would cost page faults."""
    if getattr(_scratch, "size", -1) < n:
        size = int(1.25 * n) + 1024
        _scratch.splats = np.empty((size, project.SPLAT), np.float32)
        _scratch.boxes = np.empty((size, 4), np.int16)
        _scratch.size = size
    return _scratch.splats, _scratch.boxes


def _misses_image(cloud: _Prepared, view_34: Array, camera: Camera, optics: _Optics) -> bool:
    """Whether the whole cloud certainly misses the image (the same bounds as the cells', project._visible_cells)."""
    x, _, z = view_34[:, :3] @ (cloud.centre_3 - view_34[:, 3])
    r = cloud.radius
    if z + r <= camera.near:
        return True
    wide = (1 + 2 * max(float(optics.slope_4[0]), float(optics.slope_4[1])) ** 2) ** 0.5 * r
    return bool(x * camera.fx - z * (camera.width - camera.cx + 3) > wide * camera.fx
                or -x * camera.fx - z * (camera.cx + 3) > wide * camera.fx)  # fmt: skip


def _render_view(
    scene: list[tuple[_Prepared, Array | None]],
    camera: Camera,
    optics: _Optics,
    cam_to_world_44: Array,
    sky: Sky,
) -> View:
    splats, boxes = _buffers(sum(len(cloud.geometry_NG) for cloud, _ in scene))
    world_to_cam_33, camera_in_world_3 = cam_to_world_44[:3, :3].T, cam_to_world_44[:3, 3]
    n = 0
    for cloud, pose in scene:
        turn = world_to_cam_33 if pose is None else world_to_cam_33 @ pose[:3, :3]
        centre = camera_in_world_3 if pose is None else pose[:3, :3].T @ (camera_in_world_3 - pose[:3, 3])
        view = np.concatenate([turn, centre[:, None]], 1)
        if _misses_image(cloud, view, camera, optics):
            continue
        n = project.project(
            cloud.geometry_NG, cloud.cell_N, cloud.cells_C4, cloud.rgb_N3, cloud.sh_NK3,
            np.ascontiguousarray(view, np.float32),  # one memory order, so that numba compiles one version
            optics.camera_4, optics.slope_4, camera.width, camera.height, np.float32(camera.near), splats, boxes, n,
        )  # fmt: skip
    splats, boxes = splats[:n], boxes[:n]
    order = raster.depth_order(np.ascontiguousarray(splats[:, 10]))
    offsets, lists = raster.bin_tiles(order, boxes, camera.width, camera.height)
    rgb = np.empty((camera.height, camera.width, 3), np.float32)
    depth, alpha = np.empty(rgb.shape[:2], np.float32), np.empty(rgb.shape[:2], np.float32)
    raster.blend(
        splats, boxes, offsets, lists, cam_to_world_44[2, :3].astype(np.float32), optics.rays_HW3,
        np.array(sky.horizon_rgb, np.float32), np.array(sky.zenith_rgb, np.float32), rgb, depth, alpha,
    )  # fmt: skip
    return View(rgb, depth, alpha)
