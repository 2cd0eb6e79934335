"""Another rig than the one a policy was trained with [ours]: what fits is used, what is missing is masked.

Legend: B batch, K image history, H, W pixels, S image tokens, F ray features.
Cameras are known by name. No claim about quality: the tokens say truly where they look, but the network has learned
from other places, lenses and resolutions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from senna2.model.backbone import ray_features
from senna2.model.config import check_rig
from senna2.types import Camera, InputError, Rig


@dataclass(frozen=True, eq=False)
class RigFit:
    """How the images of another rig are read. valid_S: False for every token of a camera that is not there."""

    known: Rig
    present: tuple[str, ...]
    rays_SF: Tensor
    valid_S: Tensor

    def images(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images (B, K, H, W, 3) uint8 of the trained cameras in their trained sizes, resized by area; black where a
        camera is missing, others left out. Raises `InputError` if one that the rig has is not among `images`."""
        missing = [name for name in self.present if name not in images]
        if missing:
            raise InputError(f"images: camera '{missing[0]}' is in the rig, but not among the images {sorted(images)}")
        some = images[self.present[0]]
        out = {}
        for camera in self.known.cameras:
            history = len(camera.history_s)
            if camera.name in self.present:
                out[camera.name] = _resized(images[camera.name], camera, history)
            else:
                out[camera.name] = some.new_zeros((len(some), history, camera.height, camera.width, 3))
        return out


def fit_rig(known: Rig, given: Rig) -> RigFit | None:
    """How a policy trained with `known` reads `given`; None where they are the same, so that nothing changes.

    Raises `InputError` if no camera is common to both.
    """
    try:
        check_rig(known, given)
        return None
    except InputError:
        pass
    present = tuple(name for name in known.names if name in given.names)
    if not present:
        raise InputError(
            f"rig: none of its cameras {given.names} is one of the policy's {known.names}; name them alike"
        )
    cameras = [scaled(given[c.name], c.width, c.height) if c.name in present else c for c in known.cameras]
    rays = [ray_features(c) for c in cameras]
    valid = [np.full(len(r), c.name in present) for r, c in zip(rays, cameras, strict=True)]
    return RigFit(known, present, torch.from_numpy(np.concatenate(rays)), torch.from_numpy(np.concatenate(valid)))


def scaled(camera: Camera, width: int, height: int) -> Camera:
    """The same view in another number of pixels (pixel edges at whole numbers, so the origin stays)."""
    across, down = width / camera.width, height / camera.height
    return dataclasses.replace(
        camera, width=width, height=height, fx=camera.fx * across, cx=camera.cx * across, fy=camera.fy * down,
        cy=camera.cy * down,
    )  # fmt: skip


def _resized(image_BKHW3: Tensor, camera: Camera, history: int) -> Tensor:
    """The newest `history` frames (the oldest repeated where there are fewer) in the camera's size."""
    frames = image_BKHW3[:, -history:]
    if frames.shape[1] < history:
        frames = torch.cat([frames[:, :1].expand(-1, history - frames.shape[1], -1, -1, -1), frames], 1)
    if frames.shape[2:4] == (camera.height, camera.width):
        return frames
    x = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    y = F.interpolate(x, size=(camera.height, camera.width), mode="area").round().clamp(0, 255).to(torch.uint8)
    return y.permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])
