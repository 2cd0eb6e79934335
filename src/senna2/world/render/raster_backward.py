"""Numba kernels of the differentiable renderer, second half: blend to sums before the sky, and the way back.

Layouts and the habits of writing for numba: `render.project`, `render.lanes`. Symbols: `render.backward`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from senna2.compiled import njit
from senna2.world.render.lanes import (
    EIGHT,
    LANES,
    bits,
    count_bits,
    intrinsic,
    least,
    load,
    ramp,
    select,
    spread,
    store,
)
from senna2.world.render.raster import TILE
from senna2.world.render.rules import ALPHA_MAX, TRANSMITTANCE_MIN

F = np.float32
SPLAT_GRADIENTS = 10  # columns: u, v, A, B, C, o, r, g, b, z
STRIDE = TILE + LANES  # floats in a row of a tile's state: a group of lanes may begin anywhere and reach past the tile
PLANE = TILE * STRIDE
_ALPHA_MAX, _T_MIN = F(ALPHA_MAX), F(TRANSMITTANCE_MIN)


@intrinsic
def _total(_typing: Any, x: Any) -> Any:
    """Sum of the lanes."""

    def generate(_c: Any, build: ir.IRBuilder, _s: Any, values: Any) -> Any:
        single = ir.FloatType()
        kind = ir.FunctionType(single, [single, ir.VectorType(single, LANES)])
        function = cgutils.get_or_insert_function(build.module, kind, "llvm.vector.reduce.fadd.v8f32")
        return build.call(function, [ir.Constant(single, 0.0), values[0]], fastmath=("fast",))

    return types.float32(EIGHT), generate


@njit(fastmath=True, nogil=True, inline="always")
def _decay(sigma):
    """exp(-σ) for σ in 0…ln 255, relative error 2e-6: (minimax polynomial of exp(-σ/8))⁸.

    The forward renderer may be content with an error of 1e-5 of full alpha; gradients, in which alphas nearly cancel,
    would carry 1e-4 of it.
    """
    e = sigma * F(-0.125)
    p = F(0.03980833) + e * F(0.0058688009)
    p = F(0.99999994) + e * (F(0.9999929) + e * (F(0.49988726) + e * (F(0.16599423) + e * p)))
    p = p * p
    p = p * p
    return p * p


@njit(fastmath=True, nogil=True)
def _clear(state, live_in_row, columns, rows):
    """Transmittance 1 where there is a pixel, -1 elsewhere; the other planes are zero."""
    state[:] = F(0)
    for y in range(TILE):
        live_in_row[y] = columns if y < rows else 0
        for x in range(STRIDE):
            state[y * STRIDE + x] = F(1) if y < rows and x < columns else F(-1)


@njit(fastmath=True, nogil=True)
def blend(splats_SR, boxes_S4, offsets, lists, sums_HW5):
    """As `raster.blend`, but for the sums before the sky, and with `_decay`."""
    height, width = sums_HW5.shape[:2]
    tiles_x = (width + TILE - 1) // TILE
    state, live_in_row = np.empty(5 * PLANE, np.float32), np.empty(TILE, np.int64)
    for t in range(offsets.size - 1):
        left, top = (t % tiles_x) * TILE, (t // tiles_x) * TILE
        columns, rows = min(TILE, width - left), min(TILE, height - top)
        _clear(state, live_in_row, columns, rows)
        live = columns * rows
        for k in range(offsets[t], offsets[t + 1]):
            if live <= 0:
                break
            i = np.uint64(lists[k])  # unsigned: spares numba's test for negative indices
            u, v = splats_SR[i, 0] - F(0.5) - F(left), splats_SR[i, 1] - F(0.5) - F(top)
            a, b, c = F(0.5) * splats_SR[i, 2], splats_SR[i, 3], F(0.5) * splats_SR[i, 4]
            opacity, limit = splats_SR[i, 5], splats_SR[i, 6]
            red, green, blue, depth = splats_SR[i, 7], splats_SR[i, 8], splats_SR[i, 9], splats_SR[i, 10]
            x0, x1 = max(np.int64(boxes_S4[i, 0]) - left, 0), min(np.int64(boxes_S4[i, 1]) - left, columns)
            y0, y1 = max(np.int64(boxes_S4[i, 2]) - top, 0), min(np.int64(boxes_S4[i, 3]) - top, rows)
            for y in range(y0, y1):
                if live_in_row[np.uint64(y)] == 0:
                    continue
                dy = F(y) - v
                cross, square = b * dy, c * dy * dy
                for x in range(x0, x1, LANES):
                    j = y * STRIDE + x
                    through, dx = load(state, j), ramp() + (F(x) - u)
                    sigma = (a * dx + cross) * dx + square
                    on = (sigma <= limit) & (through > F(0))
                    if bits(on) == 0:
                        continue
                    weight = select(on, least(_decay(sigma) * opacity, _ALPHA_MAX), F(0)) * through
                    rest = through - weight
                    stop = on & (rest <= _T_MIN)
                    weight = select(stop, F(0), weight)
                    store(state, j, select(stop, F(0) - through, rest))
                    store(state, j + PLANE, load(state, j + PLANE) + weight * red)
                    store(state, j + 2 * PLANE, load(state, j + 2 * PLANE) + weight * green)
                    store(state, j + 3 * PLANE, load(state, j + 3 * PLANE) + weight * blue)
                    store(state, j + 4 * PLANE, load(state, j + 4 * PLANE) + weight * depth)
                    stopped = count_bits(bits(stop))
                    live_in_row[np.uint64(y)] -= stopped
                    live -= stopped
        for y in range(rows):
            for x in range(columns):
                sums = sums_HW5[top + y, left + x]
                for n in range(5):
                    sums[n] = abs(state[y * STRIDE + x + n * PLANE])


@njit(fastmath=True, nogil=True)
def blend_backward(splats_SR, boxes_S4, offsets, lists, sums_HW5, gradient_HW5, out_SG):
    """∂splats from ∂sums, added to out_SG (float64; columns: `SPLAT_GRADIENTS`).

    With T the transmittance in front of splat i, wᵢ = αᵢT, qᵢ = ∂(Σwr)·r + ∂(Σwg)·g + ∂(Σwb)·b + ∂(Σwz)·z, and
    behindᵢ = Σ_{j>i} wⱼqⱼ + ∂T_end·T_end, everything further back is proportional to 1-αᵢ, so
        ∂αᵢ = T·qᵢ - behindᵢ/(1-αᵢ),      ∂rᵢ = Σ_pixels wᵢ·∂(Σwr), alike g, b, z,
    and, where α is not clamped, ∂σ = -α·∂α = behind·w/(T-w) - w·q, ∂o = -Σ∂σ/o,
        ∂u = -Σ∂σ(A·dx + B·dy),  ∂v = -Σ∂σ(B·dx + C·dy),  ∂A = ½Σ∂σ·dx²,  ∂B = Σ∂σ·dx·dy,  ∂C = ½Σ∂σ·dy².
    A pixel starts with behind = Σⱼwⱼqⱼ + ∂T_end·T_end, known from its sums, and takes off wᵢqᵢ at each splat.
    The decisions (cut, clamp, stop) are those of `blend`.
    """
    height, width = sums_HW5.shape[:2]
    tiles_x = (width + TILE - 1) // TILE
    # planes: transmittance, behind, gradient of the r, g, b, z sums
    state, live_in_row = np.empty(6 * PLANE, np.float32), np.empty(TILE, np.int64)
    zero = spread(F(0))
    for t in range(offsets.size - 1):
        left, top = (t % tiles_x) * TILE, (t // tiles_x) * TILE
        columns, rows = min(TILE, width - left), min(TILE, height - top)
        _clear(state, live_in_row, columns, rows)
        live = columns * rows
        for y in range(rows):
            for x in range(columns):
                g, total, j = gradient_HW5[top + y, left + x], sums_HW5[top + y, left + x], y * STRIDE + x
                behind_all = g[0] * total[0]
                for n in range(1, 5):
                    behind_all += g[n] * total[n]
                    state[j + (n + 1) * PLANE] = g[n]
                state[j + PLANE] = behind_all
        for k in range(offsets[t], offsets[t + 1]):
            if live <= 0:
                break
            i = np.uint64(lists[k])
            u, v = splats_SR[i, 0] - F(0.5) - F(left), splats_SR[i, 1] - F(0.5) - F(top)
            a, b, c = F(0.5) * splats_SR[i, 2], splats_SR[i, 3], F(0.5) * splats_SR[i, 4]
            opacity, limit = splats_SR[i, 5], splats_SR[i, 6]
            red, green, blue, depth = splats_SR[i, 7], splats_SR[i, 8], splats_SR[i, 9], splats_SR[i, 10]
            x0, x1 = max(np.int64(boxes_S4[i, 0]) - left, 0), min(np.int64(boxes_S4[i, 1]) - left, columns)
            y0, y1 = max(np.int64(boxes_S4[i, 2]) - top, 0), min(np.int64(boxes_S4[i, 3]) - top, rows)
            s_1, s_x, s_y, s_xx, s_xy, s_yy = zero, zero, zero, zero, zero, zero  # sums of ∂σ·dxᵐ·dyⁿ
            s_red, s_green, s_blue, s_depth = zero, zero, zero, zero
            hit = False
            for y in range(y0, y1):
                if live_in_row[np.uint64(y)] == 0:
                    continue
                dy = F(y) - v
                cross, square = b * dy, c * dy * dy
                for x in range(x0, x1, LANES):
                    j = y * STRIDE + x
                    through, dx = load(state, j), ramp() + (F(x) - u)
                    sigma = (a * dx + cross) * dx + square
                    on = (sigma <= limit) & (through > F(0))
                    if bits(on) == 0:
                        continue
                    hit = True
                    full = _decay(sigma) * opacity
                    weight = select(on, least(full, _ALPHA_MAX), F(0)) * through
                    rest = through - weight
                    stop = on & (rest <= _T_MIN)
                    weight = select(stop, F(0), weight)  # from here on, what is off or stops adds zeros
                    store(state, j, select(stop, F(0) - through, rest))
                    g_red, g_green = load(state, j + 2 * PLANE), load(state, j + 3 * PLANE)
                    g_blue, g_depth = load(state, j + 4 * PLANE), load(state, j + 5 * PLANE)
                    gain = weight * (g_red * red + g_green * green + g_blue * blue + g_depth * depth)
                    behind = load(state, j + PLANE) - gain
                    store(state, j + PLANE, behind)
                    s_red, s_green = s_red + weight * g_red, s_green + weight * g_green
                    s_blue, s_depth = s_blue + weight * g_blue, s_depth + weight * g_depth
                    d_sigma = select(full <= _ALPHA_MAX, behind * weight / rest - gain, F(0))
                    by_x, by_y = d_sigma * dx, d_sigma * dy
                    s_1, s_x, s_y = s_1 + d_sigma, s_x + by_x, s_y + by_y
                    s_xx, s_xy, s_yy = s_xx + by_x * dx, s_xy + by_x * dy, s_yy + by_y * dy
                    stopped = count_bits(bits(stop))
                    live_in_row[np.uint64(y)] -= stopped
                    live -= stopped
            if hit:
                out, t_x, t_y = out_SG[i], np.float64(_total(s_x)), np.float64(_total(s_y))
                out[0] -= 2 * a * t_x + b * t_y
                out[1] -= b * t_x + 2 * c * t_y
                out[2] += 0.5 * _total(s_xx)
                out[3] += _total(s_xy)
                out[4] += 0.5 * _total(s_yy)
                out[5] -= np.float64(_total(s_1)) / opacity
                out[6] += _total(s_red)
                out[7] += _total(s_green)
                out[8] += _total(s_blue)
                out[9] += _total(s_depth)
