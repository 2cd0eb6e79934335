"""Surfaces tiled by flat gaussians: rectangles, ribbons along polylines, walls along polylines, polygons.

Everything solid in a generated clip is a layer of thin gaussians ("surfels"), with a coarse underlay behind it that
stops the leak between them. Colour is a function sampled at the surfels' centres: markings and windows are part of
the base layer, never a thin layer of their own, which a depth sort by centre would bury.

Legend: N gaussians, P points of a polyline, C columns across a ribbon, Q corners of a polygon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import shapely
from scipy.spatial.transform import Rotation

from senna2.frames import along_polyline
from senna2.types import Array, require
from senna2.world.gaussians import SH_C0, GaussianCloud

OVERLAP = 0.58  # in-plane sigma over spacing: neighbours melt into one surface without blurring its texture [ours]
THICKNESS = 0.012  # m, sigma along the normal
OPACITY = 0.97

Colour = Sequence[float] | Array | Callable[..., Array]


def quat_about_z(yaw: Array | float) -> Array:
    """(…) rad → (…, 4) unit quaternions (w, x, y, z)."""
    half = np.asarray(yaw, np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], -1)


def quat_multiply(a: Array, b: Array) -> Array:
    """Product of quaternions (…, 4) in (w, x, y, z) order: first b, then a."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quat_of_axes(u: Array, v: Array) -> Array:
    """Quaternions (…, 4) of the frames whose x axis is along u (…, 3) and whose normal is u × v."""
    x = u / np.linalg.norm(u, axis=-1, keepdims=True)
    z = np.cross(u, v)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    xyzw = Rotation.from_matrix(np.stack([x, np.cross(z, x), z], -1)).as_quat()
    return xyzw[..., [3, 0, 1, 2]]


_UPRIGHT = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])  # turns the (x, y) plane into the (x, z) plane


def placed(cloud: GaussianCloud, pose_3: Array | Sequence[float], z: float = 0.0) -> GaussianCloud:
    """A cloud moved from its box frame to pose (x, y, yaw) at height z. View-dependent colour is not rotated."""
    x, y, yaw = (float(c) for c in pose_3)
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    means = cloud.means_N3 @ rotation.T + (x, y, z)
    quats = quat_multiply(np.broadcast_to(quat_about_z(yaw), cloud.quats_N4.shape), cloud.quats_N4)
    return GaussianCloud(
        means.astype(np.float32), cloud.scales_N3, quats.astype(np.float32), cloud.opacities_N, cloud.sh_NK3
    )


class SurfaceBuilder:
    """Collects gaussians; `cloud()` gives them. All methods return the builder.

    `colour` is rgb, (N, 3), or a function of the surfels' coordinates (named in each method) to (N, 3): 0…1 for what
    reflects, above 1 for what shines by itself; where it is NaN there is no surfel (wheel arches, gaps).
    `jitter` is the standard deviation of a grey noise per surfel, which keeps large faces from looking painted.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = rng or np.random.default_rng(0)
        self._parts: list[tuple[Array, Array, Array, Array, Array]] = []
        self._turned: list[tuple[int, Array, Array]] = []  # parts whose quaternions are still to be made of two axes

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    def cloud(self) -> GaussianCloud:
        """Everything added so far. Raises `InputError` if nothing was."""
        require(len(self._parts) > 0, "SurfaceBuilder", "nothing was added")
        if self._turned:  # all at once: a call for each small part would cost more than everything else
            quats = quat_of_axes(*(np.concatenate([t[k] for t in self._turned]) for k in (1, 2)))
            pieces = np.split(quats, np.cumsum([len(u) for _, u, _ in self._turned])[:-1])
            for (i, _, _), piece in zip(self._turned, pieces, strict=True):
                points, scales, _, opacity, rgb = self._parts[i]
                self._parts[i] = (points, scales, piece, opacity, rgb)
            self._turned = []
        means, scales, quats, opacities, rgb = (np.concatenate(c) for c in zip(*self._parts, strict=True))
        return GaussianCloud.from_rgb(means, scales, quats, opacities, np.maximum(rgb, 0))

    def add(
        self,
        means: Array | Sequence,
        scales: Array | Sequence,
        colour: Colour,
        *,
        quats: Array | Sequence = (1.0, 0.0, 0.0, 0.0),
        opacity: float | Array = OPACITY,
        jitter: float = 0.0,
    ) -> Self:
        """Gaussians at means (N, 3) or (3,) with standard deviations (N, 3) or (3,). colour(points_N3)."""
        points = np.atleast_2d(np.asarray(means, np.float64))
        n = len(points)
        rgb = np.asarray(colour(points) if callable(colour) else colour, np.float64)
        rgb = np.broadcast_to(rgb, (n, 3))
        if jitter > 0:
            rgb = rgb + self._rng.normal(0, jitter, (n, 1))
        part = (
            points,
            np.broadcast_to(np.asarray(scales, np.float64), (n, 3)),
            np.broadcast_to(np.asarray(quats, np.float64), (n, 4)),
            np.broadcast_to(np.asarray(opacity, np.float64), (n,)),
            rgb,
        )
        there = ~np.isnan(rgb[:, 0])
        self._parts.append(part if there.all() else tuple(a[there] for a in part))  # type: ignore[arg-type]
        return self

    def add_cloud(self, cloud: GaussianCloud) -> Self:
        """A whole cloud; of its colour only the view-independent part is kept."""
        rgb = 0.5 + SH_C0 * cloud.sh_NK3[:, 0]
        self._parts.append((cloud.means_N3, cloud.scales_N3, cloud.quats_N4, cloud.opacities_N, rgb))
        return self

    def sheet(
        self,
        vertices_UV3: Array,
        colour: Colour,
        *,
        jitter: float = 0.015,
        opacity: float = OPACITY,
        thickness: float = THICKNESS,
        overlap: float = OVERLAP,
    ) -> Self:
        """A curved surface: one surfel a cell of a grid of U × V vertices. colour(points_N3), cells row by row in U."""
        p = np.asarray(vertices_UV3, np.float64)
        u = (p[1:, :-1] + p[1:, 1:] - p[:-1, :-1] - p[:-1, 1:]).reshape(-1, 3) / 2
        v = (p[:-1, 1:] + p[1:, 1:] - p[:-1, :-1] - p[1:, :-1]).reshape(-1, 3) / 2
        centres = ((p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4).reshape(-1, 3)
        return self._tiles(centres, u, v, colour, jitter, opacity, thickness, overlap)

    def _tiles(
        self, centres_N3: Array, u_N3: Array, v_N3: Array, colour: Colour, jitter: float, opacity: float,
        thickness: float, overlap: float,
    ) -> Self:  # fmt: skip
        """Surfels that cover the parallelograms spanned by u and v about their centres."""
        rgb = colour(centres_N3) if callable(colour) else colour
        rgb = np.broadcast_to(np.asarray(rgb, np.float64), centres_N3.shape)
        lengths = np.stack([np.sqrt((a * a).sum(1)) for a in (u_N3, v_N3)], 1)
        inner = (u_N3 * v_N3).sum(1)
        area = np.maximum(lengths[:, 0] ** 2 * lengths[:, 1] ** 2 - inner * inner, 0) ** 0.5
        there = (area > 1e-4) & ~np.isnan(rgb[:, 0])  # m²: where a sheet runs to a point there is nothing
        scales = np.column_stack([overlap * lengths, np.full(len(lengths), thickness)])
        self.add(centres_N3[there], scales[there], rgb[there], opacity=opacity, jitter=jitter)
        self._turned.append((len(self._parts) - 1, u_N3[there], v_N3[there]))
        return self

    def rectangle(
        self,
        origin: Array | Sequence[float],
        u: Array | Sequence[float],
        v: Array | Sequence[float],
        spacing: float | tuple[float, float],
        colour: Colour,
        *,
        jitter: float = 0.02,
        opacity: float = OPACITY,
        thickness: float = THICKNESS,
        overlap: float = OVERLAP,
    ) -> Self:
        """The parallelogram origin + a·u + b·v, 0 ≤ a, b ≤ 1. colour(points_N3)."""
        o, u, v = (np.asarray(x, np.float64) for x in (origin, u, v))
        du, dv = (spacing, spacing) if isinstance(spacing, int | float) else spacing
        length_u, length_v = np.linalg.norm(u), np.linalg.norm(v)
        nu, nv = max(1, round(length_u / du)), max(1, round(length_v / dv))
        a, b = np.meshgrid((np.arange(nu) + 0.5) / nu, (np.arange(nv) + 0.5) / nv, indexing="ij")
        points = o + a.reshape(-1, 1) * u + b.reshape(-1, 1) * v
        axes = (np.broadcast_to(u / nu, points.shape), np.broadcast_to(v / nv, points.shape))
        return self._tiles(points, *axes, colour, jitter, opacity, thickness, overlap)

    def box(
        self,
        centre: Array | Sequence[float],
        size: tuple[float, float, float],
        spacing: float,
        colour: Colour,
        *,
        top: Colour | None = None,
        faces: str = "frlRt",
        jitter: float = 0.02,
    ) -> Self:
        """An upright box along x; `centre` is the middle of its bottom. faces: f(ront) r(ear) l(eft) R(ight) t(op).

        The sides are shaded as under a fixed sun (front 0.9, rear 0.85, left 0.75, right 0.95, top 1.08).
        """
        x, y, z = centre
        l, w, h = size

        def shaded(factor: float) -> Callable[[Array], Array]:
            return lambda p: factor * np.asarray(colour(p) if callable(colour) else colour, np.float64)

        if "f" in faces:
            self.rectangle((x + l / 2, y - w / 2, z), (0, w, 0), (0, 0, h), spacing, shaded(0.9), jitter=jitter)
        if "r" in faces:
            self.rectangle((x - l / 2, y - w / 2, z), (0, w, 0), (0, 0, h), spacing, shaded(0.85), jitter=jitter)
        if "l" in faces:
            self.rectangle((x - l / 2, y + w / 2, z), (l, 0, 0), (0, 0, h), spacing, shaded(0.75), jitter=jitter)
        if "R" in faces:
            self.rectangle((x - l / 2, y - w / 2, z), (l, 0, 0), (0, 0, h), spacing, shaded(0.95), jitter=jitter)
        if "t" in faces:
            lid = shaded(1.08) if top is None else top
            self.rectangle((x - l / 2, y - w / 2, z + h), (l, 0, 0), (0, w, 0), spacing, lid, jitter=jitter)
        return self

    def ribbon(
        self,
        line_P2: Array,
        edges: Sequence[float] | Array,
        spacing: float,
        colour: Colour,
        *,
        z: float = 0.0,
        s_range: tuple[float, float] | None = None,
        jitter: float = 0.01,
        opacity: float = OPACITY,
        overlap: float = OVERLAP,
    ) -> Self:
        """A flat strip along a polyline. `edges`: C + 1 rising lateral offsets (left positive) that bound its columns,
        which may differ in width: a column exactly as wide as a marking keeps the marking crisp. colour(s_N, d_N).
        `s_range` (m along the line) cuts a piece. Surfels are stretched with the arc length at their offset.
        """
        line = _Line(line_P2)
        edges = np.asarray(edges, np.float64)
        s, ds = _steps(line.length, s_range, spacing)
        d, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
        s_N, d_N = (g.ravel() for g in np.meshgrid(s, d, indexing="ij"))
        width_N = np.tile(width, len(s))
        xy, yaw, stretch = line.at(s_N, d_N)
        keep = stretch > 0.1  # inside of a tight bend the offset lines fold over: nothing is there
        means = np.column_stack([xy, np.full(len(xy), z)])[keep]
        scales = np.stack([overlap * ds * stretch, overlap * width_N, np.full(len(xy), THICKNESS)], 1)[keep]
        rgb = np.broadcast_to(np.asarray(colour(s_N, d_N) if callable(colour) else colour), (len(s_N), 3))[keep]
        return self.add(means, scales, rgb, quats=quat_about_z(yaw[keep]), opacity=opacity, jitter=jitter)

    def wall(
        self,
        line_P2: Array,
        offset: float,
        z_edges: Sequence[float] | Array,
        spacing: float,
        colour: Colour,
        *,
        s_range: tuple[float, float] | None = None,
        jitter: float = 0.015,
        overlap: float = OVERLAP,
    ) -> Self:
        """An upright strip along a polyline at a lateral offset; `z_edges` bound its rows. colour(s_N, z_N)."""
        line = _Line(line_P2)
        edges = np.asarray(z_edges, np.float64)
        s, ds = _steps(line.length, s_range, spacing)
        z, height = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
        s_N, z_N = (g.ravel() for g in np.meshgrid(s, z, indexing="ij"))
        xy, yaw, stretch = line.at(s_N, np.full(len(s_N), offset))
        keep = stretch > 0.1
        scales = np.stack([overlap * ds * stretch, overlap * np.tile(height, len(s)), np.full(len(xy), THICKNESS)], 1)
        rgb = np.broadcast_to(np.asarray(colour(s_N, z_N) if callable(colour) else colour), (len(s_N), 3))[keep]
        quats = quat_multiply(quat_about_z(yaw[keep]), np.broadcast_to(_UPRIGHT, (int(keep.sum()), 4)))
        return self.add(np.column_stack([xy, z_N])[keep], scales[keep], rgb, quats=quats, jitter=jitter)

    def polygon(
        self,
        polygon_Q2: Array,
        spacing: float,
        colour: Colour,
        *,
        z: float = 0.0,
        yaw: float = 0.0,
        jitter: float = 0.01,
        opacity: float = OPACITY,
        overlap: float = OVERLAP,
    ) -> Self:
        """A flat polygon (open ring of Q corners) tiled on a square grid turned by `yaw`. colour(points_N2).

        Raises `InputError` for fewer than three corners. Cells count if their centre lies inside.
        """
        ring = np.asarray(polygon_Q2, np.float64)
        require(ring.ndim == 2 and len(ring) >= 3, "SurfaceBuilder.polygon", "needs at least three corners")
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, -s], [s, c]])
        local = ring @ turn
        low, high = local.min(0), local.max(0)
        axes = [np.arange(a + spacing / 2, b, spacing) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2) @ turn.T
        shape = shapely.make_valid(shapely.Polygon(ring))
        grid = grid[shapely.contains_xy(shape, grid[:, 0], grid[:, 1])]
        if len(grid) == 0:
            return self
        rgb = colour(grid) if callable(colour) else colour
        means = np.column_stack([grid, np.full(len(grid), z)])
        scales = (overlap * spacing, overlap * spacing, THICKNESS)
        return self.add(means, scales, rgb, quats=quat_about_z(yaw), opacity=opacity, jitter=jitter)


def _steps(length: float, s_range: tuple[float, float] | None, spacing: float) -> tuple[Array, float]:
    low, high = s_range or (0.0, length)
    n = max(1, round((high - low) / spacing))
    return low + (np.arange(n) + 0.5) * (high - low) / n, (high - low) / n


class _Line:
    """A polyline with interpolated heading and curvature, so that offset strips have no steps at its corners."""

    def __init__(self, line_P2: Array) -> None:
        line = np.asarray(line_P2, np.float64)
        self._s = along_polyline(line)
        self._xy = line
        step = np.diff(line, axis=0)
        heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        self._yaw = np.concatenate([heading[:1], (heading[1:] + heading[:-1]) / 2, heading[-1:]])
        self._kappa = np.gradient(self._yaw, self._s) if len(line) > 2 else np.zeros(len(line))
        self.length = float(self._s[-1])

    def at(self, s_N: Array, d_N: Array) -> tuple[Array, Array, Array]:
        """Points (N, 2), headings (N,) and stretch 1 − d·κ (N,) at arc lengths and lateral offsets."""
        yaw = np.interp(s_N, self._s, self._yaw)
        x = np.interp(s_N, self._s, self._xy[:, 0]) - np.sin(yaw) * d_N
        y = np.interp(s_N, self._s, self._xy[:, 1]) + np.cos(yaw) * d_N
        return np.stack([x, y], -1), yaw, 1 - d_N * np.interp(s_N, self._s, self._kappa)
