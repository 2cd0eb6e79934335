"""Oriented boxes: where they are, whether they meet."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from senna2.geometry.kernels import box_corners, hits_many, overlap_many, overlap_one
from senna2.types import Array, VehicleShape


def box_of(pose_3: Array, shape: VehicleShape) -> Array:
    """Rear-axle poses (…, 3) → boxes (…, 5) of that vehicle."""
    pose = np.asarray(pose_3, np.float64)
    if pose.ndim == 1:  # one pose: numpy's calls would cost far more than the numbers
        x, y, yaw = pose.tolist()
        offset = shape.centre_offset
        return np.array([x + offset * cos(yaw), y + offset * sin(yaw), yaw, shape.length, shape.width])
    box = np.empty((*pose.shape[:-1], 5))
    box[..., 0] = pose[..., 0] + shape.centre_offset * np.cos(pose[..., 2])
    box[..., 1] = pose[..., 1] + shape.centre_offset * np.sin(pose[..., 2])
    box[..., 2] = pose[..., 2]
    box[..., 3:] = (shape.length, shape.width)
    return box


def corners(boxes_5: Array) -> Array:
    """Boxes (…, 5) → corners (…, 4, 2): front-left, front-right, rear-right, rear-left."""
    box = np.asarray(boxes_5, np.float64)
    if box.shape == (5,):
        return box_corners(box)
    along = np.stack([np.cos(box[..., 2]), np.sin(box[..., 2])], -1) * (box[..., 3:4] / 2)
    left = np.stack([-np.sin(box[..., 2]), np.cos(box[..., 2])], -1) * (box[..., 4:5] / 2)
    centre = box[..., :2]
    return np.stack([centre + along + left, centre + along - left, centre - along - left, centre - along + left], -2)


def overlap(a_5: Array, b_5: Array) -> Array:
    """Whether boxes meet, by separating axes: (…, 5) × (…, 5) → bool of the broadcast shape."""
    if _one_to_many(a_5, b_5):
        return overlap_one(a_5, b_5)  # broadcasting would cost five times the test itself
    a, b = np.broadcast_arrays(np.asarray(a_5, np.float64), np.asarray(b_5, np.float64))
    flat = overlap_many(np.ascontiguousarray(a).reshape(-1, 5), np.ascontiguousarray(b).reshape(-1, 5))
    return flat.reshape(a.shape[:-1])


def _one_to_many(a_5: Array, b_5: Array) -> bool:
    if not (isinstance(a_5, np.ndarray) and isinstance(b_5, np.ndarray)):
        return False
    return a_5.shape == (5,) and b_5.ndim == 2 and b_5.shape[1] == 5 and a_5.dtype == b_5.dtype == np.float64


def hits_segments(boxes_5: Array, segments_S4: Array) -> Array:
    """Whether boxes (N, 5) meet segments (S, 4: x0, y0, x1, y1): (N, S) bool. NaN rows (padding) never do."""
    boxes = np.ascontiguousarray(boxes_5, np.float64).reshape(-1, 5)
    segments = np.ascontiguousarray(segments_S4, np.float64).reshape(-1, 4)
    return hits_many(boxes, segments)


def bearing(pose_3: Array, points_2: Array) -> Array:
    """Angle in [0, π] between the heading at a rear axle (…, 3) and the line to points (…, 2)."""
    pose, point = np.asarray(pose_3, np.float64), np.asarray(points_2, np.float64)
    dx, dy = point[..., 0] - pose[..., 0], point[..., 1] - pose[..., 1]
    c, s = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    return np.abs(np.arctan2(c * dy - s * dx, c * dx + s * dy))
