"""Numba kernels of the CPU renderer, second half: order splats by depth, bin them into tiles, blend.

Layouts and the habits of writing for numba: `render.project`.
"""

from __future__ import annotations

import math

import numpy as np

from senna2.compiled import njit
from senna2.world.render.lanes import LANES, bits, count_bits, least, load, ramp, select, store
from senna2.world.render.rules import ALPHA_MAX, DEPTH_PHASE, DEPTH_STEPS, LUMA, TRANSMITTANCE_MIN

F = np.float32
TILE_BITS = 4
TILE = 1 << TILE_BITS  # px; 8 and 32 measured equal or slower
STRIDE = TILE + LANES  # floats in a row of a tile's state: a group of lanes may begin anywhere and reach past the tile
PLANE = TILE * STRIDE
PLANES = 5  # transmittance (negative once the pixel has stopped, or where there is none), r, g, b, depth
_ALPHA_MAX, _T_MIN = F(ALPHA_MAX), F(TRANSMITTANCE_MIN)
_LUMA_R, _LUMA_G, _LUMA_B = F(LUMA[0]), F(LUMA[1]), F(LUMA[2])
_DEPTH_STEPS, _DEPTH_PHASE = F(DEPTH_STEPS), F(DEPTH_PHASE)


@njit(nogil=True)
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


@njit(nogil=True)
def bin_tiles(order_S, boxes_S4, width, height):
    """Splat lists of the tiles, front to back: (offsets (tiles+1,) int64, splat indices int32)."""
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    offsets = np.zeros(columns * rows + 1, np.int64)
    for i in range(boxes_S4.shape[0]):
        for row in range(boxes_S4[i, 2] >> TILE_BITS, ((boxes_S4[i, 3] - 1) >> TILE_BITS) + 1):
            for column in range(boxes_S4[i, 0] >> TILE_BITS, ((boxes_S4[i, 1] - 1) >> TILE_BITS) + 1):
                offsets[np.uint64(row * columns + column + 1)] += 1
    for t in range(columns * rows):
        offsets[t + 1] += offsets[t]
    place = offsets.copy()
    lists = np.empty(offsets[-1], np.int32)
    for k in range(order_S.size):
        s = np.uint64(order_S[k])  # unsigned: spares numba's test for negative indices
        for row in range(boxes_S4[s, 2] >> TILE_BITS, ((boxes_S4[s, 3] - 1) >> TILE_BITS) + 1):
            for column in range(boxes_S4[s, 0] >> TILE_BITS, ((boxes_S4[s, 1] - 1) >> TILE_BITS) + 1):
                tile = np.uint64(row * columns + column)
                lists[np.uint64(place[tile])] = order_S[k]
                place[tile] += 1
    return offsets, lists


@njit(fastmath=True, nogil=True)
def _blend_tile(splats_SR, boxes_S4, splat_list, left, top, columns, rows, state, live_in_row):
    """Composite one tile into `state`: PLANES planes of TILE rows of STRIDE floats."""
    for y in range(TILE):
        live_in_row[y] = columns if y < rows else 0
        for x in range(STRIDE):
            state[y * STRIDE + x] = F(1) if y < rows and x < columns else F(-1)
    state[PLANE:] = F(0)
    live = columns * rows
    for k in range(splat_list.size):
        i = np.uint64(splat_list[k])  # unsigned, here and below: spares numba's test for negative indices
        u, v = splats_SR[i, 0] - F(0.5) - F(left), splats_SR[i, 1] - F(0.5) - F(top)
        a, b, c = F(0.5) * splats_SR[i, 2], splats_SR[i, 3], F(0.5) * splats_SR[i, 4]
        opacity, limit = splats_SR[i, 5], splats_SR[i, 6]
        red, green, blue, depth = splats_SR[i, 7], splats_SR[i, 8], splats_SR[i, 9], splats_SR[i, 10]
        x0, x1 = max(np.int64(boxes_S4[i, 0]) - left, 0), min(np.int64(boxes_S4[i, 1]) - left, columns)
        y0, y1 = max(np.int64(boxes_S4[i, 2]) - top, 0), min(np.int64(boxes_S4[i, 3]) - top, rows)
        for y in range(y0, y1):
            if live_in_row[np.uint64(y)] == 0:  # half of all lanes would fall on stopped pixels
                continue
            dy = F(y) - v
            cross, square = b * dy, c * dy * dy
            for x in range(x0, x1, LANES):
                j = y * STRIDE + x
                through, dx = load(state, j), ramp() + (F(x) - u)
                sigma = (a * dx + cross) * dx + square
                on = (sigma <= limit) & (through > F(0))
                if bits(on) == 0:  # alpha < 1/255, told before the exponential is paid for
                    continue
                e = sigma * F(-0.125)  # exp(-sigma) = (Taylor of exp(-sigma/8))⁸; error under 1e-5 of full alpha
                p = F(1) + e * (F(1) + e * (F(0.5) + e * (F(1 / 6) + e * (F(1 / 24) + e * F(1 / 120)))))
                p = p * p
                p = p * p
                p = p * p
                weight = select(on, least(p * opacity, _ALPHA_MAX), F(0)) * through
                rest = through - weight
                stop = on & (rest <= _T_MIN)
                weight = select(stop, F(0), weight)
                store(state, j, select(stop, F(0) - through, rest))
                store(state, j + PLANE, load(state, j + PLANE) + weight * red)
                store(state, j + 2 * PLANE, load(state, j + 2 * PLANE) + weight * green)
                store(state, j + 3 * PLANE, load(state, j + 3 * PLANE) + weight * blue)
                store(state, j + 4 * PLANE, load(state, j + 4 * PLANE) + weight * depth)
                stopped = count_bits(bits(stop))
                if stopped > 0:
                    live_in_row[np.uint64(y)] -= stopped
                    live -= stopped
        if live <= 0:
            return


@njit(fastmath=True, nogil=True)
def blend(splats_SR, boxes_S4, offsets, lists, up_row, rays_HW3, sky_2_3, tone_8, rgb_HW3, depth_HW, alpha_HW):
    """Composite all tiles over the sky. up_row (3,): the world's z axis in camera axes. sky_2_3: horizon, zenith.
    tone_8: light (3), saturation, fog per metre, fog colour (3), applied in the order of `render.base`."""
    height, width = alpha_HW.shape
    tiles_x = (width + TILE - 1) // TILE
    state, live_in_row = np.empty(PLANES * PLANE, np.float32), np.empty(TILE, np.int64)
    light_r, light_g, light_b, saturation, fog_per_m = tone_8[0], tone_8[1], tone_8[2], tone_8[3], tone_8[4]
    fog_r, fog_g, fog_b = tone_8[5], tone_8[6], tone_8[7]
    plain = light_r == F(1) and light_g == F(1) and light_b == F(1) and saturation == F(1) and fog_per_m == F(0)
    for t in range(offsets.size - 1):
        left, top = (t % tiles_x) * TILE, (t // tiles_x) * TILE
        columns, rows = min(TILE, width - left), min(TILE, height - top)
        splat_list = lists[offsets[t] : offsets[t + 1]]
        _blend_tile(splats_SR, boxes_S4, splat_list, left, top, columns, rows, state, live_in_row)
        for y in range(rows):
            for x in range(columns):
                j = np.uint64(y * STRIDE + x)
                ray = rays_HW3[top + y, left + x]
                through = abs(state[j])
                alpha = F(1) - through
                depth = state[j + np.uint64(4 * PLANE)] / alpha if alpha > F(0) else F(0)
                r, g, b = (
                    state[j + np.uint64(PLANE)],
                    state[j + np.uint64(2 * PLANE)],
                    state[j + np.uint64(3 * PLANE)],
                )
                if not plain:
                    r, g, b = r * light_r, g * light_g, b * light_b
                    luma = _LUMA_R * r + _LUMA_G * g + _LUMA_B * b
                    clear = F(math.exp(-fog_per_m * depth))
                    fog = (F(1) - clear) * alpha
                    r = clear * (luma + saturation * (r - luma)) + fog * fog_r
                    g = clear * (luma + saturation * (g - luma)) + fog * fog_g
                    b = clear * (luma + saturation * (b - luma)) + fog * fog_b
                up = up_row[0] * ray[0] + up_row[1] * ray[1] + up_row[2] * ray[2]
                haze = F(1) - min(max(up, F(0)), F(1))
                haze *= haze
                haze *= haze
                pixel = rgb_HW3[top + y, left + x]
                pixel[0] = min(r + through * (sky_2_3[1, 0] + haze * (sky_2_3[0, 0] - sky_2_3[1, 0])), F(1))
                pixel[1] = min(g + through * (sky_2_3[1, 1] + haze * (sky_2_3[0, 1] - sky_2_3[1, 1])), F(1))
                pixel[2] = min(b + through * (sky_2_3[1, 2] + haze * (sky_2_3[0, 2] - sky_2_3[1, 2])), F(1))
                alpha_HW[top + y, left + x] = alpha
                depth_HW[top + y, left + x] = depth
