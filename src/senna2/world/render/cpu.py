"""The CPU renderer: numba kernels, one thread a view.

What does not change from frame to frame is computed once (`render.prepare`). A placed cloud is drawn by composing its
pose with the camera's, so neither the background nor an agent is ever copied or transformed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from senna2.types import Array, Camera, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import detail, project, raster
from senna2.world.render.base import Instance, PosedCamera, Sky, View, check_pose, check_poses
from senna2.world.render.prepare import Optics, Prepared, prepare, prepare_camera, prepare_coarse

DETAILS = ("full", "distance")


@dataclass(frozen=True)
class CpuRenderer:
    """Renders with numba on `threads` threads (over views; 1 is right inside a worker process).

    detail: "full" draws every gaussian; "distance" draws far cells of large clouds from merged ones (`render.detail`).
    """

    threads: int = 1
    name: str = "cpu"
    detail: str = "full"

    def render(self, instances: Sequence[Instance], cameras: Sequence[PosedCamera], sky: Sky) -> list[View]:
        """See `Renderer`. rgb of degree 0…3 harmonics; ties of depth by instance, then by index."""
        require(self.threads >= 1, "CpuRenderer.threads", "must be at least 1")
        require(self.detail in DETAILS, "CpuRenderer.detail", f"'{self.detail}' is unknown; there are {DETAILS}")
        clouds = [prepare(i.cloud) for i in instances]
        poses = [i.pose_44 for i in instances]
        scene = _place(clouds, poses, [i.cloud for i in instances] if self.detail == "distance" else [])
        lenses = [c.camera for c in cameras]
        optics = [prepare_camera(c) for c in lenses]
        worlds = [check_pose(c.cam_to_world_44, f"camera {c.camera.name}") for c in cameras]
        jobs = [functools.partial(_render_view, scene, *view, sky) for view in zip(lenses, optics, worlds, strict=True)]
        if self.threads == 1 or len(jobs) < 2:
            return [job() for job in jobs]
        return list(_pool(self.threads).map(lambda job: job(), jobs))


_scratch = threading.local()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="render")


def _buffers(n: int) -> tuple[Array, Array]:
    """Splat and box buffers of this thread with room for n; fresh memory each frame would cost page faults."""
    if getattr(_scratch, "size", -1) < n:
        size = int(1.25 * n) + 1024
        _scratch.splats = np.empty((size, project.SPLAT), np.float32)
        _scratch.boxes = np.empty((size, 4), np.int16)
        _scratch.size = size
    return _scratch.splats, _scratch.boxes


@dataclass(frozen=True, eq=False)
class _Scene:
    """Placed clouds: rotation and translation from a cloud's axes to the world's, and the spheres around them there."""

    clouds: list[Prepared]
    coarse: list[tuple[Prepared, ...]]  # of each cloud, none where it is always drawn in full
    rotation_A33: Array
    shift_A3: Array
    centre_A3: Array
    radius_A: Array


_HERE = np.eye(4)


def _place(clouds: list[Prepared], poses: list[Array | None], merged: Sequence[GaussianCloud] = ()) -> _Scene:
    """All poses at once: twenty agents one by one cost as much as drawing them."""
    pose_A44 = check_poses([_HERE if p is None else p for p in poses], "instance")
    rotation, shift = pose_A44[:, :3, :3], pose_A44[:, :3, 3]
    centre = np.array([c.centre_3 for c in clouds]).reshape(-1, 3)
    coarse = [prepare_coarse(c) if len(c) >= detail.MIN_GAUSSIANS else () for c in merged] or [()] * len(clouds)
    return _Scene(
        clouds,
        coarse,
        rotation,
        shift,
        (rotation @ centre[:, :, None])[:, :, 0] + shift,
        np.array([c.radius for c in clouds]),
    )


def _in_image(scene: _Scene, cam_to_world_44: Array, camera: Camera, optics: Optics) -> Array:
    """(A,) whether a cloud may touch the image (the same bounds as the cells', project._visible_cells)."""
    x, _, z = ((scene.centre_A3 - cam_to_world_44[:3, 3]) @ cam_to_world_44[:3, :3]).T
    r = scene.radius_A
    wide = (1 + 2 * max(float(optics.slope_4[0]), float(optics.slope_4[1])) ** 2) ** 0.5 * r * camera.fx
    right, left = camera.width - camera.cx + 3, camera.cx + 3
    return (z + r > camera.near) & (x * camera.fx - z * right <= wide) & (-x * camera.fx - z * left <= wide)


def _levels(
    fine: Prepared, coarse: tuple[Prepared, ...], eye_3: Array, focal_px: float
) -> list[tuple[Prepared, Array]]:
    """What of a cloud is drawn, and its cells; those drawn from another level have a radius at which none is seen."""
    if not coarse:
        return [(fine, fine.cells_C4)]
    away = np.linalg.norm(fine.cells_C4[:, :3] - eye_3, axis=1)
    begin = [0.0, *(distance * max(focal_px / detail.FOCAL_PX, 1) for distance, _ in detail.LEVELS), np.inf]
    drawn = []
    for k, level in enumerate((fine, *coarse)):
        here = (away >= begin[k]) & (away < begin[k + 1])
        if here.any():
            cells = level.cells_C4.copy()
            cells[~here, 3] = -1e9  # not infinite: the kernels are compiled without infinities
            drawn.append((level, cells))
    return drawn


def _project_view(scene: _Scene, camera: Camera, optics: Optics, cam_to_world_44: Array) -> tuple[Array, Array]:
    """Splats and boxes of all clouds, in this thread's buffers: good until the next call."""
    splats, boxes = _buffers(sum(len(cloud.geometry_NG) for cloud in scene.clouds))
    eye_3 = cam_to_world_44[:3, 3]
    view_A34 = np.empty((len(scene.clouds), 3, 4), np.float32)
    view_A34[:, :, :3] = cam_to_world_44[:3, :3].T @ scene.rotation_A33
    view_A34[:, :, 3] = ((eye_3 - scene.shift_A3)[:, None, :] @ scene.rotation_A33)[:, 0]
    n, near = 0, np.float32(camera.near)
    for i in np.flatnonzero(_in_image(scene, cam_to_world_44, camera, optics)):
        for cloud, cells in _levels(scene.clouds[i], scene.coarse[i], view_A34[i, :, 3], max(camera.fx, camera.fy)):
            n = project.project(
                cloud.geometry_NG, cloud.cell_N, cells, cloud.rgb_N3, cloud.sh_NK3, view_A34[i],
                optics.camera_4, optics.slope_4, camera.width, camera.height, near, splats, boxes, n,
            )  # fmt: skip
    return splats[:n], boxes[:n]


def _render_view(scene: _Scene, camera: Camera, optics: Optics, cam_to_world_44: Array, sky: Sky) -> View:
    splats, boxes = _project_view(scene, camera, optics, cam_to_world_44)
    order = raster.depth_order(np.ascontiguousarray(splats[:, 10]))
    offsets, lists = raster.bin_tiles(order, boxes, camera.width, camera.height)
    rgb = np.empty((camera.height, camera.width, 3), np.float32)
    depth, alpha = np.empty(rgb.shape[:2], np.float32), np.empty(rgb.shape[:2], np.float32)
    raster.blend(
        splats, boxes, offsets, lists, cam_to_world_44[2, :3].astype(np.float32), optics.rays_HW3,
        np.array([sky.horizon_rgb, sky.zenith_rgb], np.float32),
        np.array([*sky.light_rgb, sky.saturation, sky.fog_per_m, *sky.fog], np.float32), rgb, depth, alpha,
    )  # fmt: skip
    return View(rgb, depth, alpha)
