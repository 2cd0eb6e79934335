"""Scene encoders: a small multi-view ResNet with camera-ray encodings, and one for privileged state.

Legend: B batch, V views, K image history, H, W pixels, S tokens, C width, A agents, L polylines, P points, R route.
No batch statistics anywhere: GroupNorm and LayerNorm only, so batch composition never leaks into a sample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.layers import mlp, sines
from senna2.types import (
    LANE_POINTS,
    ROUTE_POINTS,
    AgentClass,
    Array,
    Camera,
    Direction,
    InputError,
    LaneKind,
    Rig,
)

STRIDE = 8
BOX_RELATIONS = 5  # features of a box that relate it to the ego and its route
FAR_M = 80.0  # rays that meet the ground beyond, or never, are cut here


def _conv(a: int, b: int, *, stride: int = 1, size: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(a, b, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(max(1, b // 8), b))


class _Stage(nn.Module):
    """Residual block that halves the resolution."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first, self.second, self.skip = _conv(a, b, stride=2), _conv(b, b), _conv(a, b, size=1)

    def forward(self, x: Tensor) -> Tensor:
        # The skip takes every second pixel before a 1×1 convolution of stride 1: a strided 1×1 one is the same sum, but
        # its backward pass in oneDNN (torch 2.13, AVX2, two threads, channels_last) crashes the process.
        thin = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(thin))


class ResNet(nn.Module):
    """(B, 3K, H, W) → (B, C, H/8, W/8): the stride-8 map plus the stride-16 one, widened."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int], dim: int) -> None:
        super().__init__()
        self.stem = _conv(in_channels, channels[0], stride=2)
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in pairwise(channels))
        self.fine, self.coarse = nn.Conv2d(channels[2], dim, 1), nn.Conv2d(channels[3], dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        p1 = self.stages[0](x)
        p2 = self.stages[1](p1)
        p3 = self.stages[2](p2)
        up = F.interpolate(self.coarse(p3), size=p2.shape[-2:], mode="nearest")
        return cast(Tensor, self.fine(p2) + up)


def ray_features(camera: Camera) -> Array:
    """(S, F) float32 description of where each stride-8 token looks, in ego axes: azimuth, elevation, where the ray
    meets the ground, its log distance, sines of these, and the camera's place. Row-major over the token grid.

    Token (i, j) of three stride-2 convolutions with padding 1 is centred on pixel (8i, 8j).
    """
    rows, cols = math.ceil(camera.height / STRIDE), math.ceil(camera.width / STRIDE)
    v, u = np.meshgrid(STRIDE * np.arange(rows) + 0.5, STRIDE * np.arange(cols) + 0.5, indexing="ij")
    ray = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1).reshape(-1, 3)
    ray = ray @ np.asarray(camera.cam_to_ego_44)[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    centre = np.asarray(camera.cam_to_ego_44)[:3, 3]
    flat = np.maximum(np.hypot(ray[:, 0], ray[:, 1]), 1e-6)
    azimuth, elevation = np.arctan2(ray[:, 1], ray[:, 0]), np.arctan2(ray[:, 2], flat)
    down = ray[:, 2] < -1e-6
    reach = np.where(down, centre[2] * flat / np.where(down, -ray[:, 2], 1), FAR_M)
    on_ground = reach < FAR_M
    reach = np.minimum(reach, FAR_M)
    hit = centre[:2] + ray[:, :2] / flat[:, None] * reach[:, None]
    place = np.stack([hit[:, 0] / 40, hit[:, 1] / 40, np.log(np.maximum(reach, 0.5)) / 4, elevation, on_ground], -1)
    wave = np.concatenate(
        [sines(torch.tensor(hit), 4, 120.0).numpy(), sines(torch.tensor(azimuth[:, None]), 4, 2 * math.pi).numpy()], -1
    )
    return np.concatenate([place, wave, np.broadcast_to(centre / 2, (len(ray), 3))], -1).astype(np.float32)


class ImageEncoder(nn.Module):
    """Images of a rig → tokens (B, S, C), camera after camera in the rig's order.

    One network for all views. A camera's history frames are stacked as channels, oldest first; a camera with fewer
    frames than the longest repeats its current one.
    """

    rays_SF: Tensor

    def __init__(self, rig: Rig, channels: tuple[int, int, int, int], dim: int) -> None:
        super().__init__()
        self.rig = rig.validate()
        self.history = max(len(c.history_s) for c in rig.cameras)
        self.net = ResNet(3 * self.history, channels, dim)
        rays = [ray_features(c) for c in rig.cameras]
        self.register_buffer("rays_SF", torch.from_numpy(np.concatenate(rays)), persistent=False)
        self.ray_mlp = mlp(rays[0].shape[1], dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, batch: Batch, tint_B3: Tensor | None = None, rays_SF: Tensor | None = None) -> Tensor:
        """`tint_B3`: factor per sample and colour channel, the same in all views (augmentation). `rays_SF`: where the
        tokens look if not where the trained rig's do (`rigs.RigFit`).

        Raises `InputError` for a camera that is missing or whose images have another size or history.
        """
        by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
        for c in self.rig.cameras:
            self._check(batch, c)
            by_size[c.height, c.width].append(c.name)
        found: dict[str, Tensor] = {}
        for names in by_size.values():  # views of one size go through the network together
            x = torch.stack([self._frames(batch.images[name], tint_B3) for name in names], 1).flatten(0, 1)
            y = self.net(x.contiguous(memory_format=torch.channels_last))
            y = y.flatten(-2).transpose(1, 2).unflatten(0, (len(batch), len(names)))
            found.update((name, y[:, i]) for i, name in enumerate(names))
        tokens = torch.cat([found[c.name] for c in self.rig.cameras], 1)
        return cast(Tensor, self.norm(tokens + self.ray_mlp(self.rays_SF if rays_SF is None else rays_SF)))

    def _frames(self, image_BKHW3: Tensor, tint_B3: Tensor | None) -> Tensor:
        pad = self.history - image_BKHW3.shape[1]
        x = torch.cat([image_BKHW3, image_BKHW3[:, -1:].expand(-1, pad, -1, -1, -1)], 1) if pad else image_BKHW3
        x = x.float() / 255
        if tint_B3 is not None:
            x = x * tint_B3[:, None, None, None]
        x = (x - 0.45) / 0.25
        return x.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def _check(self, batch: Batch, camera: Camera) -> None:
        image = batch.images.get(camera.name)
        if image is None:
            raise InputError(
                f"images: camera '{camera.name}' is missing (there are {sorted(batch.images)}); "
                "give the rig the policy was trained with"
            )
        wanted = (len(camera.history_s), camera.height, camera.width, 3)
        if tuple(image.shape[1:]) != wanted:
            raise InputError(f"images: camera '{camera.name}' has shape {tuple(image.shape[1:])}, expected {wanted}")


class StateEncoder(nn.Module):
    """Privileged state → tokens (B, A + L + 2, C) and mask: boxes, polylines, the route, one that is always there."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.box = mlp(9 + BOX_RELATIONS + 2 * 2 * 4, dim, dim)
        self.box_class = nn.Embedding(len(AgentClass), dim)
        self.lane = mlp(2 * LANE_POINTS, dim, dim)
        self.lane_kind = nn.Embedding(len(LaneKind), dim)
        self.route = mlp(2 * ROUTE_POINTS, dim, dim)
        self.ego = nn.Embedding(len(Direction), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x, y, yaw, length, width, v = torch.nan_to_num(batch.boxes_BA6).unbind(-1)
        place = torch.stack([x, y], -1)
        shape = [x / 40, y / 20, torch.log1p(torch.hypot(x, y)) / 4, yaw.cos(), yaw.sin(), length / 5, width / 2]
        features = torch.stack([*shape, v * yaw.cos() / 10, v * yaw.sin() / 10], -1)
        relations = box_relations(batch, place, v, yaw, width)
        boxes = self.box(torch.cat([features, relations, sines(place, 4, 120.0)], -1))
        boxes = boxes + self.box_class(batch.classes_BA.clamp_min(0))
        lanes = self.lane(torch.nan_to_num(batch.lanes_BLP2).flatten(-2) / 20)
        lanes = lanes + self.lane_kind(batch.lane_kinds_BL.clamp_min(0))
        route = self.route(torch.nan_to_num(batch.route_BR2).flatten(-2) / 20)[:, None]
        ego = self.ego(batch.navigation_B % len(Direction))[:, None]  # −1 is the last row
        valid = [
            batch.classes_BA >= 0,
            batch.lane_kinds_BL >= 0,
            torch.isfinite(batch.route_BR2).all(-1).all(-1)[:, None],
            torch.ones_like(batch.navigation_B[:, None], dtype=torch.bool),
        ]
        return self.norm(torch.cat([boxes, lanes, route, ego], 1)), torch.cat(valid, 1)


def box_relations(batch: Batch, place_BA2: Tensor, v_BA: Tensor, yaw_BA: Tensor, width_BA: Tensor) -> Tensor:
    """(B, A, BOX_RELATIONS) what a driver reads off a box at a glance [ours]: its way along the route, its distance
    beside it, how fast that one changes, how fast the ego closes in, and whether it is in the ego's way now.

    All of it follows from the boxes, the route and the ego's speed, but a network needs ten times the samples to find
    it out. Without a route (NaN) the ego's own axis stands in.
    """
    ahead = torch.isfinite(batch.route_BR2).all(-1, keepdim=True)
    route = torch.where(ahead.all(1, keepdim=True), batch.route_BR2, _axis(batch.route_BR2))
    line = torch.cat([torch.zeros_like(route[:, :1]), route], 1)  # from the ego on
    start, piece = line[:, None, :-1], (line[:, 1:] - line[:, :-1])[:, None]  # (B, 1, R, 2)
    length = torch.linalg.vector_norm(piece, dim=-1).clamp_min(1e-3)
    unit = piece / length[..., None]
    rel = place_BA2[:, :, None] - start
    along = (rel * unit).sum(-1)
    last = torch.arange(along.shape[-1], device=along.device) == along.shape[-1] - 1
    first = torch.arange(along.shape[-1], device=along.device) == 0
    low = torch.where(first, -200.0, 0.0).expand_as(along)  # the first and the last piece go on beyond their ends
    high = torch.where(last, 200.0 + length, length).expand_as(along)
    along = torch.minimum(torch.maximum(along, low), high)
    gap = torch.linalg.vector_norm(rel - along[..., None] * unit, dim=-1)
    nearest = gap.argmin(-1, keepdim=True)
    before = torch.cumsum(length, -1) - length
    s = (before + along).gather(-1, nearest)[..., 0]
    side = (unit[..., 0] * rel[..., 1] - unit[..., 1] * rel[..., 0]).gather(-1, nearest)[..., 0]
    heading = torch.atan2(unit[..., 1], unit[..., 0]).expand_as(along).gather(-1, nearest)[..., 0]
    turn = yaw_BA - heading
    closing = batch.motion_B4[:, :1] - v_BA * turn.cos()
    in_way = torch.sigmoid(4 * (1.2 + width_BA / 2 - side.abs())) * (s > 0)
    return torch.stack([s / 40, (side / 4).clamp(-3, 3), v_BA * turn.sin() / 5, closing / 10, in_way], -1)


def _axis(route_BR2: Tensor) -> Tensor:
    """Points on the ego's x axis, 3 m apart, in the route's place."""
    x = 3.0 * torch.arange(1, route_BR2.shape[1] + 1, device=route_BR2.device, dtype=route_BR2.dtype)
    return torch.stack([x, torch.zeros_like(x)], -1).expand_as(route_BR2)
