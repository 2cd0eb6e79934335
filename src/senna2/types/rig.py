"""The ego's body and the cameras fixed to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types.base import Array, InputError, check_finite, check_shape, require


@dataclass(frozen=True)
class VehicleShape:
    """The ego's body; the pose is its rear axle. Lengths in m."""

    length: float = 4.6
    width: float = 1.9
    height: float = 1.6
    wheelbase: float = 2.8
    rear_overhang: float = 0.9  # rear axle to rear bumper

    @property
    def front(self) -> float:
        """Rear axle to front bumper."""
        return self.length - self.rear_overhang

    @property
    def centre_offset(self) -> float:
        """Rear axle to the box's centre, along the heading."""
        return self.length / 2 - self.rear_overhang

    def validate(self) -> Self:
        for name in ("length", "width", "height", "wheelbase"):
            check_finite(getattr(self, name), f"VehicleShape.{name}")
            require(getattr(self, name) > 0, f"VehicleShape.{name}", "must be positive")
        inside = 0 <= self.rear_overhang < self.length
        require(inside, "VehicleShape.rear_overhang", "must lie within the length")
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls()


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera fixed to the ego.

    `cam_to_ego_44` maps OpenCV camera axes (x right, y down, z forward) to ego axes. `near` in m: large ground
    gaussians close to a car's camera paint a veil over the image unless they are cut at about 1 m.
    `history_s`: ages of the frames an observation carries, oldest first, the last one 0.
    """

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    cam_to_ego_44: Array
    near: float = 1.0
    history_s: tuple[float, ...] = (0.0,)

    def validate(self) -> Self:
        where = f"Camera[{self.name}]"
        require(self.width > 0 and self.height > 0, where, "width and height must be positive")
        require(self.fx > 0 and self.fy > 0, where, "fx and fy must be positive")
        for name in ("fx", "fy", "cx", "cy", "near"):
            check_finite(getattr(self, name), f"{where}.{name}")
        require(self.near > 0, f"{where}.near", "must be positive")
        check_shape(self.cam_to_ego_44, (4, 4), f"{where}.cam_to_ego_44")
        check_finite(self.cam_to_ego_44, f"{where}.cam_to_ego_44")
        rot = self.cam_to_ego_44[:3, :3]
        orthonormal = np.allclose(rot @ rot.T, np.eye(3), atol=1e-5)
        require(orthonormal, f"{where}.cam_to_ego_44", "rotation is not orthonormal")
        check_finite(np.array(self.history_s), f"{where}.history_s")
        require(len(self.history_s) > 0 and self.history_s[-1] == 0.0, f"{where}.history_s", "must end with 0.0")
        require(list(self.history_s) == sorted(self.history_s, reverse=True), f"{where}.history_s", "oldest first")
        return self

    @classmethod
    def looking(
        cls,
        name: str,
        *,
        yaw_deg: float,
        fov_deg: float,
        width: int,
        height: int,
        horizon_row: float,
        position_in_ego: tuple[float, float, float],
        history_s: tuple[float, ...] = (0.0,),
    ) -> Self:
        """A level camera by horizontal field of view; `horizon_row` crops sky without changing the optics."""
        f = width / 2 / math.tan(math.radians(fov_deg) / 2)
        c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
        m = np.eye(4)
        m[:3, 0] = (s, -c, 0.0)  # camera right
        m[:3, 1] = (0.0, 0.0, -1.0)  # camera down
        m[:3, 2] = (c, s, 0.0)  # camera forward
        m[:3, 3] = position_in_ego
        return cls(name, width, height, f, f, width / 2, horizon_row, m, history_s=history_s)

    @classmethod
    def fake(cls) -> Self:
        return cls.looking("front", yaw_deg=0, fov_deg=80, width=32, height=16, horizon_row=6,
                           position_in_ego=(1.6, 0.0, 1.5))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras of a clip; exactly one is called `front` (the VLM's view)."""

    cameras: tuple[Camera, ...]

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise InputError(f"rig: no camera '{name}'; it has {[c.name for c in self.cameras]}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.cameras)

    def validate(self) -> Self:
        require(len(set(self.names)) == len(self.names), "rig", f"camera names repeat: {self.names}")
        require("front" in self.names, "rig", f"has no camera 'front'; it has {self.names}")
        for camera in self.cameras:
            camera.validate()
        return self

    @classmethod
    def default(cls) -> Self:
        """The rig of generated clips: front 80° with the sky cropped; left, right and rear at half resolution.

        168 × 56 is a whole number of 28-pixel visual tokens, so the VLM reads the front frame unscaled.
        The front camera carries the frame of 0.4 s ago as well (closing speed).
        """
        top = 1.55
        return cls(
            (
                Camera.looking("front", yaw_deg=0, fov_deg=80, width=168, height=56, horizon_row=20,
                               position_in_ego=(1.7, 0.0, top), history_s=(0.4, 0.0)),
                Camera.looking("left", yaw_deg=90, fov_deg=100, width=84, height=28, horizon_row=10,
                               position_in_ego=(1.2, 0.5, top)),
                Camera.looking("right", yaw_deg=-90, fov_deg=100, width=84, height=28, horizon_row=10,
                               position_in_ego=(1.2, -0.5, top)),
                Camera.looking("rear", yaw_deg=180, fov_deg=80, width=84, height=28, horizon_row=10,
                               position_in_ego=(0.4, 0.0, top)),
            )
        )  # fmt: skip

    @classmethod
    def fake(cls) -> Self:
        return cls((Camera.fake(),))
