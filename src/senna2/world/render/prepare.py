"""What the CPU renderer computes once: of a cloud its covariances, cut-off radii and 8 m cells for culling, for large
clouds their coarser versions, of a camera its rays and slope limits. Kept as long as the cloud or camera lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from senna2.types import Array, Camera, require
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.render import detail, project
from senna2.world.render.base import slope_limits, unit_rays
from senna2.world.transforms import covariances

CELL_M = 8.0
SIDE_MAX = 16384  # px; boxes are int16


@dataclass(frozen=True, eq=False)
class Prepared:
    """Arrays of `project.project`."""

    geometry_NG: Array
    cell_N: Array
    cells_C4: Array
    rgb_N3: Array
    sh_NK3: Array
    centre_3: Array  # of the sphere around everything, with its radius: one test a view spares most agents a call
    radius: float


@dataclass(frozen=True, eq=False)
class Optics:
    camera_4: Array
    slope_4: Array
    rays_HW3: Array


_clouds: WeakKeyDictionary[GaussianCloud, Prepared] = WeakKeyDictionary()
_coarse: WeakKeyDictionary[GaussianCloud, tuple[Prepared, ...]] = WeakKeyDictionary()
_optics: WeakKeyDictionary[Camera, Optics] = WeakKeyDictionary()


def prepare(cloud: GaussianCloud) -> Prepared:
    """Checked and precomputed once for each cloud object; clouds are immutable by contract."""
    known = _clouds.get(cloud)
    if known is None:
        cloud.validate()
        _, cell = np.unique(_cell_keys(cloud), axis=0, return_inverse=True)
        extents = cloud.scales_N3.astype(np.float64).max(1, initial=0.0)
        means, opacities = cloud.means_N3.astype(np.float64), cloud.opacities_N.astype(np.float64)
        known = _arrays(means, covariances(cloud), extents, opacities, cloud.sh_NK3, cell.reshape(-1).astype(np.int32))
        _clouds[cloud] = known
    return known


def prepare_coarse(cloud: GaussianCloud) -> tuple[Prepared, ...]:
    """The merged versions of a large cloud, one a level of `detail.LEVELS`, with the cells of the cloud itself."""
    known = _coarse.get(cloud)
    if known is None:
        fine, levels = prepare(cloud), []
        means_N3, opacities_N = cloud.means_N3.astype(np.float64), cloud.opacities_N.astype(np.float64)
        cov_N33, sh_NK3 = covariances(cloud), cloud.sh_NK3.astype(np.float64)
        for _, edge_m in detail.LEVELS:
            means, covs, opacities, sh, cell = detail.merge(means_N3, cov_N33, opacities_N, sh_NK3, fine.cell_N, edge_m)
            levels.append(_arrays(means, covs, np.sqrt(np.linalg.eigvalsh(covs)[:, 2]), opacities, sh, cell))
        known = tuple(levels)
        _coarse[cloud] = known
    return known


def _cell_keys(cloud: GaussianCloud) -> Array:
    return np.floor(cloud.means_N3[:, :2].astype(np.float64) / CELL_M).astype(np.int64)


def _arrays(
    means_N3: Array, cov_N33: Array, sigma_N: Array, opacities_N: Array, sh_NK3: Array, cell_N: Array
) -> Prepared:
    n = len(means_N3)
    geometry = np.empty((n, project.GEOMETRY), np.float32)
    geometry[:, :3] = means_N3
    geometry[:, 3:9] = cov_N33[:, (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)]
    geometry[:, 9] = opacities_N
    geometry[:, 10] = 2 * np.log(255 * opacities_N)
    geometry[:, 11] = sigma_N**2
    extent = 3.34 * sigma_N  # sqrt(2·ln 255) = 3.33 sigma reach alpha 1/255 at opacity 1
    cells = _spheres(means_N3, extent, cell_N)
    whole = _spheres(means_N3, extent, np.zeros(n, np.int32))
    rgb = np.maximum(SH_C0 * sh_NK3[:, 0] + 0.5, 0)
    return Prepared(
        geometry, cell_N, cells.astype(np.float32), np.ascontiguousarray(rgb, np.float32),
        np.ascontiguousarray(sh_NK3, np.float32),
        whole[0, :3] if n else np.zeros(3), float(whole[0, 3]) if n else -np.inf,
    )  # fmt: skip


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


def prepare_camera(camera: Camera) -> Optics:
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
    optics = Optics(intrinsics, np.array(slope_limits(camera), np.float32), unit_rays(camera))
    _optics[camera] = optics
    return optics
