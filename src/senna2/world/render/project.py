"""Numba kernels of the CPU renderer, first half: cull and project gaussians into splats, eight at a time.

The habits of writing for numba, here and in `render.raster`: what is worth it in eights (`render.lanes`), all else as
scalar loops with branches (branch-free loops over eight came out scalar AND slower); float32 literals everywhere (a
bare 0.5 promotes the expression to float64); unsigned indices (no test for negative ones); no slices assigned to
slices (seconds of compilation); no `parallel=True` (barriers spin when another process holds a core). All arrays are
float32 unless said otherwise.

geometry_NG, one row a gaussian in the cloud's axes: mean (3), covariance xx xy xz yy yz zz (6), opacity,
2·ln(255·opacity) = squared Mahalanobis radius at which alpha falls under 1/255, largest variance.
splats_SR, one row a visible gaussian: u, v, conic xx xy yy, opacity, ln(255·opacity), r, g, b, depth.
boxes_S4 int16: first and last+1 pixel column and row that it can touch.
"""

from __future__ import annotations

import math

import numpy as np

from senna2.compiled import njit
from senna2.world.render.lanes import LANES, bits, least, load_rows, lowest_bit, most, root, round_down, round_up, store
from senna2.world.render.rules import EPS_2D

F = np.float32
GEOMETRY, SPLAT = 12, 11
_ROWS = 12  # of a splat and its box, before the lanes are taken apart
_EPS_2D = F(EPS_2D)


@njit(fastmath=True, nogil=True, inline="always")
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


@njit(fastmath=True, nogil=True)
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


@njit(fastmath=True, nogil=True)
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
    left, right, up, down = slope[0], slope[1], slope[2], slope[3]
    stretch_x = fx * fx * (F(1) + max(left, right) ** 2)
    stretch_y = fy * fy * (F(1) + max(up, down) ** 2)
    w, h = F(width), F(height)
    count, harmonics = geometry_NG.shape[0], sh_NK3.shape[1] > 1
    rows, rest = np.empty(_ROWS * LANES, np.float32), np.empty((LANES, GEOMETRY), np.float32)
    for first in range(0, count, LANES):
        seen = np.int64(0)
        for k in range(min(LANES, count - first)):  # without a branch: it would often be foretold wrongly
            seen |= np.int64(visible[cell_N[np.uint64(first + k)]]) << k
        if seen == 0:
            continue
        block, at = geometry_NG, first
        if first + LANES > count:  # what is left, filled up with gaussians that nobody sees
            for k in range(LANES):  # no slices: numba compiles seconds of error message for them
                for field in range(GEOMETRY):
                    rest[k, field] = geometry_NG[first + k, field] if first + k < count else F(0)
                if first + k >= count:
                    rest[k, 10] = F(-1)
            block, at = rest, 0
        mx, my, mz, xx = load_rows(block, at, 0)
        # the offset first, then the rotation: far from the origin of the map the other way round loses digits
        dx, dy, dz = mx - ox, my - oy, mz - oz
        z = dx * r20 + dy * r21 + dz * r22
        yz, zz, opacity, reach = load_rows(block, at, 7)
        _, _, _, variance = load_rows(block, at, 8)
        on = (z >= near) & (reach >= F(0))
        if bits(on) & seen == 0:
            continue
        iz, reach = F(1) / most(z, near), most(reach, F(0))  # also in lanes that are off: no 1/0, no root of less
        ux = (dx * r00 + dy * r01 + dz * r02) * iz
        uy = (dx * r10 + dy * r11 + dz * r12) * iz
        u, v = ux * fx + cx, uy * fy + cy
        variance = variance * iz * iz
        rx = root((variance * stretch_x + _EPS_2D) * reach)
        ry = root((variance * stretch_y + _EPS_2D) * reach)
        on = on & (u + rx >= F(0)) & (u - rx <= w) & (v + ry >= F(0)) & (v - ry <= h)
        if bits(on) & seen == 0:
            continue
        # a veil is not in front of the camera, yet as large as its distance
        inside = (ux >= -left) & (ux <= right) & (uy >= -up) & (uy <= down)
        on = on & (inside | (variance * F(9) <= ux * ux + uy * uy + F(1)))
        _, xy, xz, yy = load_rows(block, at, 3)
        ax, ay = least(most(ux, -left), right), least(most(uy, -up), down)
        kx, ky = iz * fx, iz * fy
        a0, a1, a2 = kx * (r00 - ax * r20), kx * (r01 - ax * r21), kx * (r02 - ax * r22)
        b0, b1, b2 = ky * (r10 - ay * r20), ky * (r11 - ay * r21), ky * (r12 - ay * r22)
        p0, p1, p2 = xx * a0 + xy * a1 + xz * a2, xy * a0 + yy * a1 + yz * a2, xz * a0 + yz * a1 + zz * a2
        q0, q1, q2 = xx * b0 + xy * b1 + xz * b2, xy * b0 + yy * b1 + yz * b2, xz * b0 + yz * b1 + zz * b2
        cxx, cyy = a0 * p0 + a1 * p1 + a2 * p2 + _EPS_2D, b0 * q0 + b1 * q1 + b2 * q2 + _EPS_2D
        cxy = b0 * p0 + b1 * p1 + b2 * p2
        rx, ry = root(cxx * reach), root(cyy * reach)
        # pixel x is sampled at x + 0.5; clipped as floats, for an int of a huge float is undefined
        x0, x1 = round_up(most(u - rx - F(0.5), F(0))), round_down(least(u + rx - F(0.5), w - F(1))) + F(1)
        y0, y1 = round_up(most(v - ry - F(0.5), F(0))), round_down(least(v + ry - F(0.5), h - F(1))) + F(1)
        # outside the image: only by an overflow in absurd clouds, which must not become a write out of bounds
        on = on & (x0 < x1) & (y0 < y1) & (x0 >= F(0)) & (y0 >= F(0)) & (x1 <= w) & (y1 <= h)
        lanes = bits(on) & seen
        if lanes == 0:
            continue
        inverse = F(1) / most(cxx * cyy - cxy * cxy, F(1e-10))
        store(rows, 0, u)
        store(rows, 1 * LANES, v)
        store(rows, 2 * LANES, cyy * inverse)
        store(rows, 3 * LANES, cxy * inverse * F(-1))
        store(rows, 4 * LANES, cxx * inverse)
        store(rows, 5 * LANES, opacity)
        store(rows, 6 * LANES, reach * F(0.5))
        store(rows, 7 * LANES, z)
        store(rows, 8 * LANES, x0)
        store(rows, 9 * LANES, x1)
        store(rows, 10 * LANES, y0)
        store(rows, 11 * LANES, y1)
        while lanes:
            k = lowest_bit(lanes)
            lanes &= lanes - 1
            i = np.uint64(first + k)
            s, box = splats_SR[np.uint64(n)], boxes_S4[np.uint64(n)]
            for field in range(7):
                s[field] = rows[np.uint64(field * LANES + k)]
            s[10] = rows[np.uint64(7 * LANES + k)]
            for field in range(4):
                box[field] = np.int16(rows[np.uint64((8 + field) * LANES + k)])
            if harmonics:
                x, y, z1 = geometry_NG[i, 0] - ox, geometry_NG[i, 1] - oy, geometry_NG[i, 2] - oz
                norm = F(1) / math.sqrt(x * x + y * y + z1 * z1)
                for channel in range(3):
                    colour = _sh_colour(sh_NK3[i], x * norm, y * norm, z1 * norm, channel)
                    s[7 + channel] = max(colour + F(0.5), F(0))
            else:
                s[7], s[8], s[9] = rgb_N3[i, 0], rgb_N3[i, 1], rgb_N3[i, 2]
            n += 1
    return n
