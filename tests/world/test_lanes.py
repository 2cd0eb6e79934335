"""The vector type of the kernels against numpy, lane by lane."""

from __future__ import annotations

import numba as nb
import numpy as np

from senna2.world.render import lanes
from senna2.world.render.lanes import (
    LANES,
    bits,
    count_bits,
    least,
    load,
    load_rows,
    lowest_bit,
    most,
    ramp,
    root,
    round_down,
    round_up,
    select,
    spread,
    store,
)

F = np.float32


@nb.njit
def _arithmetic(a, b, s, out):
    x, y = load(a, 0), load(b, 0)
    results = (
        x + y, x - y, x * y, x / y, x + s, s - x, x * s, s / y, least(x, y), most(x, s), root(y),
        round_up(x), round_down(x), ramp(), spread(s), select(x < y, x, y), select(x > s, s, x),
        select((x <= y) & (x >= s), x, F(0)), select((x < s) | (x > y), F(1), F(2)),
    )  # fmt: skip
    k = 0
    for result in nb.literal_unroll(results):
        store(out, k, result)
        k += LANES


def test_operators_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=LANES).astype(F), rng.uniform(0.1, 2, LANES).astype(F)
    a[3], s = b[3], F(0.3)
    out = np.zeros(19 * LANES, F)
    _arithmetic(a, b, s, out)
    want = [
        a + b, a - b, a * b, a / b, a + s, s - a, a * s, s / b, np.minimum(a, b), np.maximum(a, s), np.sqrt(b),
        np.ceil(a), np.floor(a), np.arange(8), np.full(8, s), np.where(a < b, a, b), np.where(a > s, s, a),
        np.where((a <= b) & (a >= s), a, 0), np.where((a < s) | (a > b), 1, 2),
    ]  # fmt: skip
    np.testing.assert_allclose(out.reshape(-1, LANES), np.stack(want), rtol=1e-6)


@nb.njit
def _masks(a, s):
    mask = bits(load(a, 0) > s)
    return mask, count_bits(mask), lowest_bit(mask)


def test_bits_count_from_lane_0() -> None:
    a = np.array([0, 0, 1, 0, 1, 0, 0, 1], F)
    assert _masks(a, F(0.5)) == (0b10010100, 3, 2)
    assert _masks(a, F(2))[:2] == (0, 0)


@nb.njit
def _rows(rows, first, column, out):
    columns = load_rows(rows, first, column)
    for k in range(4):
        store(out, k * LANES, columns[k])


def test_rows_become_columns() -> None:
    rows = np.arange(30 * 12, dtype=F).reshape(30, 12)
    out = np.zeros(4 * LANES, F)
    for first, column in ((0, 0), (5, 3), (22, 8)):
        _rows(rows, first, column, out)
        np.testing.assert_array_equal(out.reshape(4, 8), rows[first : first + 8, column : column + 4].T)


def test_kernels_without_the_vector_type_are_left_alone() -> None:
    """Operators of other types still mean what they meant."""

    @nb.njit
    def plain(a, b):
        return a + b, a < b, (a > 1) & (b > 1)

    assert plain(2.0, 3.0) == (5.0, True, True)
    assert lanes.LANES == 8
