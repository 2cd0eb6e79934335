"""Numba kernels of the CPU renderer, second half: order splats by depth, bin them into tiles, blend.

Layouts and the habits of writing for numba: `render.project`.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from senna2.world.render.base import ALPHA_MAX, DEPTH_PHASE, DEPTH_STEPS, TRANSMITTANCE_MIN

F = np.float32
TILE = 16  # px; 8 and 32 measured equal or slower
_ALPHA_MAX, _T_MIN = F(ALPHA_MAX), F(TRANSMITTANCE_MIN)
_DEPTH_STEPS, _DEPTH_PHASE = F(DEPTH_STEPS), F(DEPTH_PHASE)


@nb.njit(nogil=True, cache=True)
def depth_order(depth_S):
    """Stable order (S,) int32 of positive depths in their steps: radix sort by 11 bits, two passes up to 4 km."""
    n = depth_S.size
    key, key_out = np.empty(n, np.uint32), np.empty(n, np.uint32)
    order, order_out = np.empty(n, np.int32), np.empty(n, np.int32)
    start = np.zeros((3, 2048), np.int64)
    mask = np.uint32(2047)
    largest = np.uint32(0)
    for i in range(n):
        k = np.uint32(min(depth_S[i] * _DEPTH_STEPS + _DEPTH_PHASE, F(4e9)))
        key[i], order[i] = k, i
        largest = max(largest, k)
        start[0, k & mask] += 1
        start[1, (k >> np.uint32(11)) & mask] += 1
        start[2, k >> np.uint32(22)] += 1
    for p in range(2 if largest < np.uint32(1 << 22) else 3):
        total = 0
        for j in range(2048):
            count = start[p, j]
            start[p, j] = total
            total += count
        shift = np.uint32(11 * p)
        for i in range(n):
            bucket = (key[i] >> shift) & mask
            slot = start[p, bucket]
            start[p, bucket] = slot + 1
            key_out[slot], order_out[slot] = key[i], order[i]
        key, key_out = key_out, key
        order, order_out = order_out, order
    return order


@nb.njit(nogil=True, cache=True)
def bin_tiles(order_S, boxes_S4, width, height):
    """Splat lists of the tiles, front to back: (offsets (tiles+1,) int64, splat indices int32)."""
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    offsets = np.zeros(columns * rows + 1, np.int64)
    for i in range(boxes_S4.shape[0]):
        for row in range(boxes_S4[i, 2] // TILE, (boxes_S4[i, 3] - 1) // TILE + 1):
            for column in range(boxes_S4[i, 0] // TILE, (boxes_S4[i, 1] - 1) // TILE + 1):
                offsets[row * columns + column + 1] += 1
    for t in range(columns * rows):
        offsets[t + 1] += offsets[t]
    place = offsets.copy()
    lists = np.empty(offsets[-1], np.int32)
    for k in range(order_S.size):
        i = order_S[k]
        for row in range(boxes_S4[i, 2] // TILE, (boxes_S4[i, 3] - 1) // TILE + 1):
            for column in range(boxes_S4[i, 0] // TILE, (boxes_S4[i, 1] - 1) // TILE + 1):
                t = row * columns + column
                lists[place[t]] = i
                place[t] += 1
    return offsets, lists


@nb.njit(fastmath=True, nogil=True, cache=True)
def _blend_tile(splats_SR, boxes_S4, splat_list, left, top, columns, rows, state_P5):
    """Composite one tile into state_P5: transmittance (negative once the pixel has stopped), r, g, b, depth."""
    state_P5[:, 0] = F(1)
    state_P5[:, 1:] = F(0)
    live, live_in_row = columns * rows, np.full(TILE, columns)  # half of all lanes would fall on stopped pixels
    for k in range(splat_list.size):
        i = splat_list[k]
        u, v = splats_SR[i, 0] - F(0.5) - F(left), splats_SR[i, 1] - F(0.5) - F(top)
        a, b, c = F(0.5) * splats_SR[i, 2], splats_SR[i, 3], F(0.5) * splats_SR[i, 4]
        opacity, limit = splats_SR[i, 5], splats_SR[i, 6]
        red, green, blue, depth = splats_SR[i, 7], splats_SR[i, 8], splats_SR[i, 9], splats_SR[i, 10]
        x0, x1 = max(np.int64(boxes_S4[i, 0]) - left, 0), min(np.int64(boxes_S4[i, 1]) - left, columns)
        y0, y1 = max(np.int64(boxes_S4[i, 2]) - top, 0), min(np.int64(boxes_S4[i, 3]) - top, rows)
        for y in range(y0, y1):
            if live_in_row[y] == 0:
                continue
            dy = F(y) - v
            cross, square = b * dy, c * dy * dy
            for x in range(x0, x1):
                j = np.uint64(y * TILE + x)  # unsigned: spares numba's test for negative indices
                transmittance = state_P5[j, 0]
                if transmittance <= F(0):
                    continue
                dx = F(x) - u
                sigma = (a * dx + cross) * dx + square
                if sigma > limit:  # alpha < 1/255, told before the exponential is paid for
                    continue
                e = sigma * F(-0.125)  # exp(-sigma) = (Taylor of exp(-sigma/8))⁸; error under 1e-5 of full alpha
                p = F(1) + e * (F(1) + e * (F(0.5) + e * (F(1 / 6) + e * (F(1 / 24) + e * F(1 / 120)))))
                p *= p
                p *= p
                p *= p
                alpha = min(opacity * p, _ALPHA_MAX)
                weight = alpha * transmittance
                rest = transmittance - weight
                if rest <= _T_MIN:
                    state_P5[j, 0] = -transmittance
                    live -= 1
                    live_in_row[y] -= 1
                    continue
                state_P5[j, 0] = rest
                state_P5[j, 1] += weight * red
                state_P5[j, 2] += weight * green
                state_P5[j, 3] += weight * blue
                state_P5[j, 4] += weight * depth
        if live <= 0:
            return


@nb.njit(fastmath=True, nogil=True, cache=True)
def blend(splats_SR, boxes_S4, offsets, lists, up_row, rays_HW3, horizon, zenith, rgb_HW3, depth_HW, alpha_HW):
    """Composite all tiles over the sky. up_row (3,): the world's z axis in camera axes."""
    height, width = alpha_HW.shape
    tiles_x = (width + TILE - 1) // TILE
    state = np.empty((TILE * TILE, 5), np.float32)
    for t in range(offsets.size - 1):
        left, top = (t % tiles_x) * TILE, (t // tiles_x) * TILE
        columns, rows = min(TILE, width - left), min(TILE, height - top)
        _blend_tile(splats_SR, boxes_S4, lists[offsets[t] : offsets[t + 1]], left, top, columns, rows, state)
        for y in range(rows):
            for x in range(columns):
                s, ray = state[y * TILE + x], rays_HW3[top + y, left + x]
                through = abs(s[0])
                up = up_row[0] * ray[0] + up_row[1] * ray[1] + up_row[2] * ray[2]
                haze = F(1) - min(max(up, F(0)), F(1))
                haze *= haze
                haze *= haze
                for c in range(3):
                    sky = zenith[c] + haze * (horizon[c] - zenith[c])
                    rgb_HW3[top + y, left + x, c] = min(s[1 + c] + through * sky, F(1))
                alpha = F(1) - through
                alpha_HW[top + y, left + x] = alpha
                depth_HW[top + y, left + x] = s[4] / alpha if alpha > F(0) else F(0)
