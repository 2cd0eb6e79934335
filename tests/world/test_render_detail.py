"""Merged distances: what they may change, and what a merged gaussian keeps."""

from __future__ import annotations

import numpy as np
import pytest
from render_fixtures import SKY, psnr, street, tiles

from senna2.types import EgoState, InputError, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, detail, posed, prepare
from senna2.world.render.cpu import CpuRenderer


def long_street() -> list[Instance]:
    """300 m of fine road between facades: more than enough gaussians for levels of detail."""
    road = tiles((-10, -5, 0), (300, 0, 0), (0, 10, 0), 0.4, 0)
    walls = [tiles((-10, y, 0), (300, 0, 0), (0, 0, 7), 0.5, seed) for seed, y in enumerate((-6, 6), 1)]
    return [Instance(GaussianCloud.concatenate([road, *walls])), *street()[1:]]


def test_distant_detail_is_hardly_seen_and_far_from_the_camera_only() -> None:
    instances, cameras = long_street(), posed(Rig.default(), EgoState(0, 0, 0.02, 0))
    full, coarse = (CpuRenderer(detail=d).render(instances, cameras, SKY) for d in ("full", "distance"))
    front, merged = full[0], coarse[0]
    assert 40 < psnr(front.rgb_HW3, merged.rgb_HW3) < 90  # something was merged
    near = (front.depth_HW > 0) & (front.depth_HW < 60)
    assert near.mean() > 0.3
    changed = np.abs(merged.rgb_HW3 - front.rgb_HW3).max(-1) > 1e-3
    assert changed[near].mean() < 2e-3  # but for what shines through an edge
    assert changed[~near].mean() > 0.01
    leaks = np.abs(front.alpha_HW - merged.alpha_HW) > 0.1
    assert leaks.mean() < 2e-3  # at the vanishing point only
    for a, b in zip(full[1:3], coarse[1:3], strict=True):  # to the sides nothing is far
        np.testing.assert_array_equal(a.rgb_HW3, b.rgb_HW3)
    drawn = [sum(len(p.cell_N) for p in prepare.prepare_coarse(instances[0].cloud)[k : k + 1]) for k in (0, 1)]
    assert drawn[1] < drawn[0] < 0.6 * len(instances[0].cloud)
    with pytest.raises(InputError, match="'low' is unknown"):
        CpuRenderer(detail="low").render(instances, cameras, SKY)


def test_merged_gaussians_keep_mass_place_and_colour() -> None:
    """Two rows of tiles become one gaussian a voxel; what is alone, large, or in another cell stays as it is."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(0.1, 8, 0.2), np.arange(0.1, 2, 0.2), indexing="ij")
    means = np.stack([x, y, 0 * x + 0.01], -1).reshape(-1, 3)
    n = len(means)
    covs = np.tile(np.diag([0.116, 0.116, 0.01]) ** 2, (n, 1, 1))
    opacities, sh = np.full(n, 0.9), rng.normal(size=(n, 4, 3))
    got, cov, opacity, colour, _ = detail.merge(means, covs, opacities, sh, np.zeros(n, np.int32), 0.8)
    assert len(got) == 10 * 3  # the last row of voxels is half full
    np.testing.assert_allclose(opacity, 0.9)
    area = np.sqrt(np.linalg.det(cov[:, :2, :2]))
    assert area.sum() == pytest.approx(n * 0.116**2, rel=1e-6)
    weight = area / area.sum()
    np.testing.assert_allclose(weight @ got, means.mean(0), atol=1e-9)
    np.testing.assert_allclose(np.einsum("n,nkc->kc", weight, colour), sh.mean(0), atol=1e-9)
    halves = (means[:, 0] > 0.3).astype(np.int32)
    assert set(detail.merge(means, covs, opacities, sh, halves, 0.8)[4]) == {0, 1}
    assert len(detail.merge(means, covs, opacities, sh, halves, 0.8)[0]) == 33
    lone = detail.merge(means[:1], covs[:1], opacities[:1], sh[:1], np.zeros(1, np.int32), 0.8)
    for a, b in zip(lone, (means[:1], covs[:1], opacities[:1], sh[:1]), strict=False):
        np.testing.assert_allclose(a, b)
    large = detail.merge(means, 16 * covs, opacities, sh, np.zeros(n, np.int32), 0.8)
    assert len(large[0]) == n
