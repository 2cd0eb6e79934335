"""Numba kernels of the CPU renderer, first half: cull and project gaussians into splats.

Written for numba as it is: scalar loops with branches (branch-free eight-lane code came out scalar AND slower), float32
literals everywhere (a bare 0.5 promotes the expression to float64), no `parallel=True` (barriers spin when another
process holds a core). All arrays are float32 unless said otherwise.

geometry_NG, one row a gaussian in the cloud's axes: mean (3), covariance xx xy xz yy yz zz (6), opacity,
2·ln(255·opacity) = squared Mahalanobis radius at which alpha falls under 1/255, largest variance.
splats_SR, one row a visible gaussian: u, v, conic xx xy yy, opacity, ln(255·opacity), r, g, b, depth.
boxes_S4 int16: first and last+1 pixel column and row that it can touch.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from senna2.world.render.base import EPS_2D

F = np.float32
GEOMETRY, SPLAT = 12, 11
_EPS_2D = F(EPS_2D)


@nb.njit(fastmath=True, nogil=True, cache=True, inline="always")
def _sh_colour(sh_K3, x, y, z, channel):
    """View-dependent colour before the offset of one half, for a unit direction from the camera, 3DGS signs."""
    k = sh_K3.shape[0]
    c = F(0.28209479177387814) * sh_K3[0, channel]
    if k > 1:
        c += F(0.4886025119029199) * (z * sh_K3[2, channel] - y * sh_K3[1, channel] - x * sh_K3[3, channel])
    if k > 4:
        xx, yy, zz = x * x, y * y, z * z
        c += F(1.0925484305920792) * (x * y * sh_K3[4, channel] - y * z * sh_K3[5, channel] - x * z * sh_K3[7, channel])
        c += F(0.31539156525252005) * (F(2) * zz - xx - yy) * sh_K3[6, channel]
        c += F(0.5462742152960396) * (xx - yy) * sh_K3[8, channel]
        if k > 9:
            c -= F(0.5900435899266435) * y * (F(3) * xx - yy) * sh_K3[9, channel]
            c += F(2.890611442640554) * x * y * z * sh_K3[10, channel]
            c -= F(0.4570457994644658) * y * (F(4) * zz - xx - yy) * sh_K3[11, channel]
            c += F(0.3731763325901154) * z * (F(2) * zz - F(3) * xx - F(3) * yy) * sh_K3[12, channel]
            c -= F(0.4570457994644658) * x * (F(4) * zz - xx - yy) * sh_K3[13, channel]
            c += F(1.445305721320277) * z * (xx - yy) * sh_K3[14, channel]
            c -= F(0.5900435899266435) * x * (xx - F(3) * yy) * sh_K3[15, channel]
    return c


@nb.njit(fastmath=True, nogil=True, cache=True)
def _visible_cells(cells_C4, view, camera, slope, width, height, near):
    """Cells (bounding spheres x, y, z, radius incl. the splats' own extent) that can touch the image; never a
    false negative: the planes are moved out by 3 px (dilation) and the radius stretched by the linearisation."""
    visible = np.empty(cells_C4.shape[0], np.bool_)
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    left, right = (cx + F(3)) / fx, (F(width) - cx + F(3)) / fx
    up, down = (cy + F(3)) / fy, (F(height) - cy + F(3)) / fy
    sx = math.sqrt(F(1) + F(2) * max(slope[0], slope[1]) ** 2)
    sy = math.sqrt(F(1) + F(2) * max(slope[2], slope[3]) ** 2)
    for i in range(cells_C4.shape[0]):
        a, b, c, r = cells_C4[i, 0], cells_C4[i, 1], cells_C4[i, 2], cells_C4[i, 3]
        a, b, c = a - view[0, 3], b - view[1, 3], c - view[2, 3]
        x = view[0, 0] * a + view[0, 1] * b + view[0, 2] * c
        y = view[1, 0] * a + view[1, 1] * b + view[1, 2] * c
        z = view[2, 0] * a + view[2, 1] * b + view[2, 2] * c
        far_x, far_y = r * sx, r * sy
        visible[i] = (
            z + r > near and x - z * right < far_x and -x - z * left < far_x
            and y - z * down < far_y and -y - z * up < far_y
        )  # fmt: skip
    return visible


@nb.njit(fastmath=True, nogil=True, cache=True)
def project(
    geometry_NG,
    cell_N,
    cells_C4,
    rgb_N3,
    sh_NK3,
    view,
    camera,
    slope,
    width,
    height,
    near,
    splats_SR,
    boxes_S4,
    n,
):
    """Append the visible gaussians of one cloud after the first `n` splats; returns the new number.

    view (3, 4): rotation from the cloud's to the camera's axes | camera centre in the cloud's axes.
    camera: fx fy cx cy. slope: limits left, right, up, down (positive).
    rgb_N3 is used where sh_NK3 holds only degree 0.
    """
    visible = _visible_cells(cells_C4, view, camera, slope, width, height, near)
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    r00, r01, r02, ox = view[0, 0], view[0, 1], view[0, 2], view[0, 3]
    r10, r11, r12, oy = view[1, 0], view[1, 1], view[1, 2], view[1, 3]
    r20, r21, r22, oz = view[2, 0], view[2, 1], view[2, 2], view[2, 3]
    stretch_x = fx * fx * (F(1) + max(slope[0], slope[1]) ** 2)
    stretch_y = fy * fy * (F(1) + max(slope[2], slope[3]) ** 2)
    w, h = F(width), F(height)
    harmonics = sh_NK3.shape[1] > 1
    for i in range(geometry_NG.shape[0]):
        if not visible[cell_N[i]]:
            continue
        g = geometry_NG[i]
        # the offset first, then the rotation: far from the origin of the map the other way round loses digits
        dx, dy, dz = g[0] - ox, g[1] - oy, g[2] - oz
        z = r20 * dx + r21 * dy + r22 * dz
        if z < near or g[10] < F(0):
            continue
        iz = F(1) / z
        ux = (r00 * dx + r01 * dy + r02 * dz) * iz
        uy = (r10 * dx + r11 * dy + r12 * dz) * iz
        u, v = fx * ux + cx, fy * uy + cy
        variance = g[11] * iz * iz
        rx = math.sqrt((variance * stretch_x + _EPS_2D) * g[10])
        if u + rx < F(0) or u - rx > w:
            continue
        ry = math.sqrt((variance * stretch_y + _EPS_2D) * g[10])
        if v + ry < F(0) or v - ry > h:
            continue
        outside = ux < -slope[0] or ux > slope[1] or uy < -slope[2] or uy > slope[3]
        if outside and F(9) * variance > F(1) + ux * ux + uy * uy:
            continue  # a veil: not in front of the camera, yet as large as its distance
        ax, ay = min(max(ux, -slope[0]), slope[1]), min(max(uy, -slope[2]), slope[3])
        kx, ky = fx * iz, fy * iz
        a0, a1, a2 = kx * (r00 - ax * r20), kx * (r01 - ax * r21), kx * (r02 - ax * r22)
        b0, b1, b2 = ky * (r10 - ay * r20), ky * (r11 - ay * r21), ky * (r12 - ay * r22)
        p0, p1, p2 = (
            g[3] * a0 + g[4] * a1 + g[5] * a2,
            g[4] * a0 + g[6] * a1 + g[7] * a2,
            g[5] * a0 + g[7] * a1 + g[8] * a2,
        )
        q0, q1, q2 = (
            g[3] * b0 + g[4] * b1 + g[5] * b2,
            g[4] * b0 + g[6] * b1 + g[7] * b2,
            g[5] * b0 + g[7] * b1 + g[8] * b2,
        )
        cxx, cyy = a0 * p0 + a1 * p1 + a2 * p2 + _EPS_2D, b0 * q0 + b1 * q1 + b2 * q2 + _EPS_2D
        cxy = b0 * p0 + b1 * p1 + b2 * p2
        rx, ry = math.sqrt(cxx * g[10]), math.sqrt(cyy * g[10])
        # pixel x is sampled at x + 0.5; clipped as floats, for an int of a huge float is undefined; numba's ceil
        # and floor give floats
        x0 = int(math.ceil(max(u - rx - F(0.5), F(0))))  # noqa: RUF046
        x1 = int(math.floor(min(u + rx - F(0.5), w - F(1)))) + 1  # noqa: RUF046
        y0 = int(math.ceil(max(v - ry - F(0.5), F(0))))  # noqa: RUF046
        y1 = int(math.floor(min(v + ry - F(0.5), h - F(1)))) + 1  # noqa: RUF046
        # outside the image: only by an overflow in absurd clouds, which must not become a write out of bounds
        if x0 >= x1 or y0 >= y1 or x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            continue
        inverse = F(1) / max(cxx * cyy - cxy * cxy, F(1e-10))
        s = splats_SR[n]
        s[0], s[1], s[2], s[3], s[4] = u, v, cyy * inverse, -cxy * inverse, cxx * inverse
        s[5], s[6], s[10] = g[9], F(0.5) * g[10], z
        if harmonics:
            norm = F(1) / math.sqrt(dx * dx + dy * dy + dz * dz)
            for channel in range(3):
                colour = _sh_colour(sh_NK3[i], dx * norm, dy * norm, dz * norm, channel)
                s[7 + channel] = max(colour + F(0.5), F(0))
        else:
            s[7], s[8], s[9] = rgb_N3[i, 0], rgb_N3[i, 1], rgb_N3[i, 2]
        boxes_S4[n, 0], boxes_S4[n, 1], boxes_S4[n, 2], boxes_S4[n, 3] = x0, x1, y0, y1
        n += 1
    return n
