"""The CUDA renderer: gsplat's kernels under the rules of `render.base`. Extra `[gpu]`; `select` decides when to use it.

Gaussians are taken into camera axes here, each instance by its own rigid transform, and gsplat is given an identity
camera. That keeps three promises which its own camera transform would break: map coordinates in kilometres lose no
digits (the offset to the camera is taken in the cloud's axes, as in the CPU renderer); depths lie exactly on the
1 mm steps of `render.base`, so that rows of tiles at one depth keep their order; and view-dependent colour turns with
its instance. Clouds stay on the device for as long as they live.

Only arguments that gsplat 1.5.3 and 1.6 both have are used. 1.5.3 clamps alpha at 0.999, not 0.99: splats of opacity
above 0.99 come out up to 0.009 more opaque in their very centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from senna2.types import Array, Camera, InputError, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render.base import Instance, PosedCamera, Sky, View, check_pose, slope_limits, unit_rays
from senna2.world.render.reference import sh_colour
from senna2.world.render.rules import DEPTH_PHASE, DEPTH_STEPS, EPS_2D
from senna2.world.render.tone import under_sky
from senna2.world.transforms import multiply, quaternion

Tensor = torch.Tensor
FIX = "install a torch with CUDA and `pip install senna2[gpu]`, or choose the cpu renderer"
_ARRAYS = ("means_N3", "scales_N3", "quats_N4", "opacities_N", "sh_NK3")

_clouds: WeakKeyDictionary[GaussianCloud, dict[str, tuple[Tensor, ...]]] = WeakKeyDictionary()
_rays: WeakKeyDictionary[Camera, dict[str, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class GsplatRenderer:
    """`Renderer` on one CUDA device. Raises `InputError` with the cause and the fix where gsplat cannot run."""

    device: str = "cuda"
    name: str = "gsplat"

    def render(self, instances: Sequence[Instance], cameras: Sequence[PosedCamera], sky: Sky) -> list[View]:
        """See `Renderer`."""
        rasterization = load_rasterization(self.device)
        poses = [np.eye(4) if i.pose_44 is None else check_pose(i.pose_44, "instance") for i in instances]
        with torch.no_grad():
            scene = self._scene(instances)
            return [self._view(rasterization, scene, poses, camera, sky) for camera in cameras]

    def _scene(self, instances: Sequence[Instance]) -> _Scene | None:
        """All instances in one row of tensors, each gaussian with the number of its instance."""
        counts = [len(i.cloud) for i in instances]
        if sum(counts) == 0:
            return None
        parts = [_on_device(i.cloud, self.device) for i in instances]
        k = max(p[4].shape[1] for p in parts)
        sh = [torch.nn.functional.pad(p[4], (0, 0, 0, k - p[4].shape[1])) for p in parts]
        means, scales, quats, opacities = (torch.cat([p[a] for p in parts]) for a in range(4))
        number = torch.repeat_interleave(
            torch.arange(len(counts), device=self.device), torch.tensor(counts, device=self.device),
            output_size=sum(counts),
        )  # fmt: skip
        return _Scene(means, scales, quats, opacities, torch.cat(sh), number)

    def _view(
        self, rasterization: Callable[..., Any], scene: _Scene | None, poses: list[Array], posed: PosedCamera, sky: Sky
    ) -> View:
        camera = posed.camera.validate()
        require(camera.near > 0, f"Camera[{camera.name}].near", "must be positive")
        world = check_pose(posed.cam_to_world_44, f"camera {camera.name}")
        if scene is None:
            image = torch.zeros((camera.height, camera.width, 4), device=self.device)
            alpha = image[..., 0]
        else:
            means, quats, opacities, colours = _in_camera(scene, poses, world, camera)
            matrix = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
            images, alphas, _ = rasterization(
                means=means, quats=quats, scales=scene.scales_N3, opacities=opacities, colors=colours,
                viewmats=torch.eye(4, device=self.device)[None], Ks=torch.tensor([matrix], device=self.device),
                width=camera.width, height=camera.height, near_plane=camera.near - 1 / DEPTH_STEPS, eps2d=EPS_2D,
                render_mode="RGB+ED", packed=False,
            )  # fmt: skip
            image, alpha = images[0], alphas[0, ..., 0]
        up = _rays_of(camera, self.device) @ torch.tensor(world[2, :3], dtype=torch.float32, device=self.device)
        depth = torch.where(alpha > 0, image[..., 3], 0)
        rgb = under_sky(image[..., :3], depth, alpha, up, sky).clamp(max=1)
        host = torch.cat([rgb, depth[..., None], alpha[..., None]], -1).cpu().numpy()  # one transfer a view
        return View(*(np.ascontiguousarray(a, np.float32) for a in (host[..., :3], host[..., 3], host[..., 4])))


@dataclass(frozen=True, eq=False)
class _Scene:
    """Clouds in their own axes, on the device; instance_N: whose pose holds."""

    means_N3: Tensor
    scales_N3: Tensor
    quats_N4: Tensor
    opacities_N: Tensor
    sh_NK3: Tensor
    instance_N: Tensor


def load_rasterization(device: str) -> Callable[..., Any]:
    """gsplat's entry point, or `InputError` that says what is missing."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"renderer gsplat: torch {torch.__version__} sees no CUDA device; {FIX}")
    try:
        import gsplat
    except ImportError as error:
        raise InputError(f"renderer gsplat: {error}; {FIX}") from error
    rasterization: Callable[..., Any] = gsplat.rasterization
    return rasterization


def _on_device(cloud: GaussianCloud, device: str) -> tuple[Tensor, ...]:
    """Checked and sent once for each cloud object."""
    known = _clouds.setdefault(cloud, {})
    if device not in known:
        cloud.validate()
        known[device] = tuple(
            torch.tensor(getattr(cloud, name), dtype=torch.float32, device=device) for name in _ARRAYS
        )
    return known[device]


def _rays_of(camera: Camera, device: str) -> Tensor:
    known = _rays.setdefault(camera, {})
    if device not in known:
        known[device] = torch.tensor(unit_rays(camera), device=device)
    return known[device]


def _in_camera(
    scene: _Scene, poses: list[Array], cam_to_world_44: Array, camera: Camera
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """means (N, 3) and quats (N, 4) in camera axes, opacities (0 of what is not to be drawn), colours (N, 3)."""
    device = scene.means_N3.device
    world_to_cam, eye = cam_to_world_44[:3, :3].T, cam_to_world_44[:3, 3]
    turns_I33 = np.stack([world_to_cam @ pose[:3, :3] for pose in poses])
    eyes_I3 = np.stack([pose[:3, :3].T @ (eye - pose[:3, 3]) for pose in poses])
    quats_I4 = multiply(quaternion(world_to_cam), np.stack([quaternion(pose[:3, :3]) for pose in poses]))
    turn, eye_in_cloud, turn_quat = (
        torch.tensor(a, dtype=torch.float32, device=device)[scene.instance_N] for a in (turns_I33, eyes_I3, quats_I4)
    )
    offset = scene.means_N3 - eye_in_cloud
    means = (turn * offset[:, None, :]).sum(-1)  # not a matrix product, which CUDA may round to ten bits
    x, y, z = means.unbind(-1)
    left, right, up, down = slope_limits(camera)
    outside = (x < -left * z) | (x > right * z) | (y < -up * z) | (y > down * z)
    veil = outside & (3 * scene.scales_N3.amax(-1) > means.norm(dim=-1))
    drawn = (z >= camera.near) & ~veil
    # onto the middle of its depth step along its ray: the pixel stays, the size changes by less than 0.05 %
    step = (torch.floor(z * DEPTH_STEPS + DEPTH_PHASE) + (0.5 - DEPTH_PHASE)) / DEPTH_STEPS
    shift = torch.where(drawn, step / z, 1)
    snapped = torch.stack([x * shift, y * shift, torch.where(drawn, step, z)], -1)
    colours = sh_colour(scene.sh_NK3, torch.nn.functional.normalize(offset, dim=-1))
    return snapped, _multiply(turn_quat, scene.quats_N4), torch.where(drawn, scene.opacities_N, 0), colours


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of (N, 4) quaternions, as `transforms.multiply`."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
         aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw], -1,
    )  # fmt: skip
