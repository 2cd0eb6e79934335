"""What every renderer takes and gives, and the rules that all of them follow.

The rules are gsplat's (its CUDA kernels are the field's common tongue), so that a cloud looks the same everywhere:
pixel centres at +0.5; the projected covariance gains `EPS_2D` on its diagonal; the slope at which the projection is
linearised is clamped to `SLOPE_MARGIN` times the image's half width beyond its edges; alpha = min(0.99, o·e^-s),
skipped under 1/255; a pixel stops BEFORE the splat that would bring its transmittance to 1e-4 or less; sorted once,
by the depth of the centre.
Three rules are [ours], for cameras on cars in streets made of tiles: the near plane belongs to the camera (about 1 m,
not 1 cm); a splat whose centre lies outside the widened image while its 3σ radius reaches the camera is dropped; depths
are sorted in steps of 1 mm, within a step in the order given. Rows of tiles across the road lie at one depth, and
rounding noise alone would shuffle them anew in every frame and on every machine (49 dB instead of 100 between ours).

Weather and time of day [ours] are colour operations on the finished pixel: with C = sum of weight·colour (colours may
exceed 1: lamps), alpha the covered share and z the expected depth,
    C ← light·C;  C ← luma(C) + saturation·(C - luma(C));  C ← (1 - f)·C + f·alpha·fog, f = 1 - exp(-fog_per_m·z);
    rgb = min(C + (1 - alpha)·sky, 1), which is the only clamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from senna2.frames import pose_to_matrix
from senna2.types import Array, Camera, EgoState, InputError, Rig, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render.rules import SLOPE_MARGIN

RGB = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Instance:
    """A cloud, standing still (`pose_44` None) or placed by a rigid cloud-to-world transform (4, 4)."""

    cloud: GaussianCloud
    pose_44: Array | None = None


@dataclass(frozen=True, eq=False)
class PosedCamera:
    """A camera and where it is: `cam_to_world_44` from OpenCV camera axes (x right, y down, z forward)."""

    camera: Camera
    cam_to_world_44: Array


@dataclass(frozen=True)
class Sky:
    """The sky, and what weather and time of day do to everything under it.

    A gradient from the horizon (and below it) to the zenith, rgb 0…1. light_rgb: factor on every colour. saturation:
    1 as painted, 0 grey. fog_per_m: density of fog in `fog_rgb` (None: the horizon's colour, so that the street fades
    into it). In which order: the head of this file.
    """

    horizon_rgb: RGB
    zenith_rgb: RGB
    light_rgb: RGB = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    fog_per_m: float = 0.0
    fog_rgb: RGB | None = None

    @classmethod
    def day(cls) -> Self:
        return cls((0.80, 0.87, 0.94), (0.36, 0.56, 0.86))

    @classmethod
    def dusk(cls) -> Self:
        """After sunset: half the light, bluish, under a glowing horizon. Lamps painted brighter than 1 glow."""
        return cls((0.78, 0.52, 0.40), (0.16, 0.20, 0.38), (0.50, 0.48, 0.58), 0.9, 0.003, (0.42, 0.36, 0.40))

    @classmethod
    def rain(cls) -> Self:
        """Overcast: grey, paler colours; at 100 m somewhat more fog than street."""
        return cls((0.70, 0.73, 0.76), (0.54, 0.58, 0.63), (0.78, 0.81, 0.85), 0.65, 0.008)

    @classmethod
    def of(cls, weather: str) -> Self:
        """The sky of a clip's `weather`: "day", "dusk" or "rain". Raises `InputError` for any other."""
        skies = {"day": cls.day, "dusk": cls.dusk, "rain": cls.rain}
        if weather not in skies:
            raise InputError(f"weather: '{weather}' is unknown; there are {tuple(skies)}")
        return skies[weather]()

    @property
    def fog(self) -> RGB:
        return self.horizon_rgb if self.fog_rgb is None else self.fog_rgb

    def colour(self, up: Array) -> Array:
        """Colour (…, 3) in directions whose upward component of the unit vector is `up` (…)."""
        haze = (1 - np.clip(up, 0, 1)) ** 4  # thick near the horizon, where driving cameras look
        return haze[..., None] * np.array(self.horizon_rgb) + (1 - haze[..., None]) * np.array(self.zenith_rgb)


@dataclass(frozen=True, eq=False)
class View:
    """rgb_HW3 0…1; depth_HW: expected depth along the optical axis of what is seen, m, 0 where alpha is 0;
    alpha_HW: share of the pixel that gaussians cover (the rest is sky). All float32."""

    rgb_HW3: Array
    depth_HW: Array
    alpha_HW: Array


class Renderer(Protocol):
    """One `View` a camera. Pure: same input, same output; any number of instances, also none.

    Raises `InputError` for clouds, poses or cameras that are not finite or do not fit together.
    """

    @property
    def name(self) -> str: ...

    def render(self, instances: Sequence[Instance], cameras: Sequence[PosedCamera], sky: Sky) -> list[View]: ...


def posed(rig: Rig, ego: EgoState) -> list[PosedCamera]:
    """The rig's cameras in the world, for an ego on flat ground."""
    ego_to_world = pose_to_matrix(np.array([ego.x, ego.y, ego.yaw]))
    return [PosedCamera(c, ego_to_world @ c.cam_to_ego_44) for c in rig.cameras]


def to_u8(rgb: Array) -> Array:
    """0…1 → uint8, clipped, halves rounded up. Any shape."""
    return (np.clip(rgb, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def unit_rays(camera: Camera) -> Array:
    """(H, W, 3) float32 unit directions of the pixel centres in camera axes."""
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    rays = np.stack([*np.broadcast_arrays(x[None, :], y[:, None]), np.ones((camera.height, camera.width))], -1)
    return np.ascontiguousarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True), np.float32)


def slope_limits(camera: Camera) -> tuple[float, float, float, float]:
    """Largest x/z to the left and right, y/z up and down, at which a projection is linearised (all positive)."""
    margin_x, margin_y = (
        SLOPE_MARGIN * camera.width / 2 / camera.fx,
        SLOPE_MARGIN * camera.height / 2 / camera.fy,
    )
    return (
        camera.cx / camera.fx + margin_x,
        (camera.width - camera.cx) / camera.fx + margin_x,
        camera.cy / camera.fy + margin_y,
        (camera.height - camera.cy) / camera.fy + margin_y,
    )


def check_pose(pose_44: Array, where: str) -> Array:
    """A finite rigid transform as float64, or `InputError`."""
    return check_poses([pose_44], where)[0]


def check_poses(poses: Sequence[Array], where: str) -> Array:
    """Finite rigid transforms as one float64 (A, 4, 4), or `InputError`."""
    for pose in poses:
        require(np.shape(pose) == (4, 4), where, f"shape {np.shape(pose)}, expected (4, 4)")
    pose_A44 = np.array(poses, np.float64).reshape(-1, 4, 4)
    if not np.isfinite(pose_A44).all():
        raise InputError(f"{where}: pose holds NaN or infinity; check the track or the rig it comes from")
    rotation = pose_A44[:, :3, :3]
    error = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(initial=0.0)
    require(float(error) < 1e-4, where, "pose is not rigid: its rotation is not orthonormal")
    return pose_A44
