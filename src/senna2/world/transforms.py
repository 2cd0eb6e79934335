"""Rotations, covariances and rigid placement of clouds. Quaternions are (w, x, y, z)."""

from __future__ import annotations

import numpy as np

from senna2.types import Array, InputError
from senna2.world.gaussians import GaussianCloud


def rotation_matrices(quats_N4: Array) -> Array:
    """(…, 4) quaternions of any length but zero → (…, 3, 3), float64."""
    q = np.asarray(quats_N4, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    return np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
         2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1,
    ).reshape(*q.shape[:-1], 3, 3)  # fmt: skip


def quaternion(rotation_33: Array) -> Array:
    """(3, 3) rotation → unit (4,), w ≥ 0. Shepperd's method: divides by the largest component only."""
    m = np.asarray(rotation_33, np.float64)
    trace = np.trace(m)
    squares = np.array([1 + trace, *(1 + 2 * m[i, i] - trace for i in range(3))])
    best = int(np.argmax(squares))
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    rows = ((squares[0], x, y, z), (x, squares[1], xy, xz), (y, xy, squares[2], yz), (z, xz, yz, squares[3]))
    q = np.array(rows[best])
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def multiply(a: Array, b: Array) -> Array:
    """Hamilton product of (…, 4) quaternions: first the rotation b, then a."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a, np.float64), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, np.float64), -1, 0)
    return np.stack(
        [aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
         aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw], -1,
    )  # fmt: skip


def covariances(cloud: GaussianCloud) -> Array:
    """(N, 3, 3) float64 covariances R·diag(σ²)·Rᵀ in the cloud's own axes, m²."""
    factors = rotation_matrices(cloud.quats_N4) * cloud.scales_N3.astype(np.float64)[:, None, :]
    return factors @ factors.swapaxes(-1, -2)


def placed(cloud: GaussianCloud, pose_44: Array) -> GaussianCloud:
    """A copy of the cloud baked at a rigid pose (parked cars, props). To move a cloud every frame, draw an
    `Instance` with a pose instead: it copies nothing.

    Raises `InputError` for view-dependent colour, which would have to be rotated as well.
    """
    if cloud.sh_NK3.shape[1] != 1:
        raise InputError("placed: cloud has view-dependent colour (SH degree > 0); draw it as an Instance with a pose")
    pose = np.asarray(pose_44, np.float64)
    means = cloud.means_N3 @ pose[:3, :3].T + pose[:3, 3]
    quats = multiply(quaternion(pose[:3, :3]), cloud.quats_N4)
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    f = np.float32
    return GaussianCloud(means.astype(f), cloud.scales_N3, quats.astype(f), cloud.opacities_N, cloud.sh_NK3)
