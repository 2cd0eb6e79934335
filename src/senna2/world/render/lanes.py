"""Eight float32 at a time: a vector type for numba kernels.

Numba has none, and LLVM does not vectorise loops with skips and stops by itself; but values of `<8 x float>` may be
handed to it, which become AVX2, two SSE or two NEON registers wherever the program runs: no compiler to install, no
wheel for every machine. Inside a kernel, + - * / and comparisons take eights and float32 scalars in any mix;
comparisons give masks, for `&`, `select` and `bits`. Operations are "fast" (no NaN, contracted, reassociated) as those
of kernels with fastmath. Nothing checks bounds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, imputils, types
from numba.core.typing import templates
from numba.extending import models, register_model

LANES = 8
intrinsic: Any = extending.intrinsic  # its type knows nothing of what it makes callable
_F32, _I8, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_EIGHT, _MASK = ir.VectorType(_F32, LANES), ir.VectorType(ir.IntType(1), LANES)
_FAST = ("fast",)


class _Eight(types.Type):
    def __init__(self) -> None:
        super().__init__("float32x8")


class _Mask(types.Type):
    def __init__(self) -> None:
        super().__init__("bool_x8")


EIGHT, MASK = _Eight(), _Mask()


@register_model(_Eight)
class _EightModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _EIGHT)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _MASK)


def _spread(build: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """A scalar in all lanes."""
    empty = ir.Constant(_EIGHT, ir.Undefined)
    first = build.insert_element(empty, scalar, ir.Constant(_I32, 0))
    return build.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _wide(build: ir.IRBuilder, signature: Any, values: Any) -> list[ir.Value]:
    return [_spread(build, v) if t == types.float32 else v for t, v in zip(signature.args, values, strict=True)]


def _numbers(*kinds: Any) -> bool:
    return EIGHT in kinds and all(k in (EIGHT, types.float32) for k in kinds)


def _binary(
    symbol: Any, emit: Callable[..., ir.Value], result: Any, one: Any = EIGHT, other: Any = types.float32
) -> None:
    """Lets kernels write `symbol` between two of `one`, or one and an `other`. Typed and lowered by hand: as overloads,
    every combination would be compiled for itself, a second in all."""

    class Rule(templates.AbstractTemplate):
        def generic(self, args: Any, _kws: Any) -> Any:
            fits = len(args) == 2 and one in args and all(k in (one, other) for k in args)
            return templates.signature(result, *args) if fits else None

    def lower(_context: Any, build: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return emit(build, *_wide(build, signature, values))

    templates.infer_global(symbol)(Rule)
    for kinds in ((one, one), (one, other), (other, one)):
        imputils.lower_builtin(symbol, *kinds)(lower)


_binary(operator.add, lambda build, x, y: build.fadd(x, y, flags=_FAST), EIGHT)
_binary(operator.sub, lambda build, x, y: build.fsub(x, y, flags=_FAST), EIGHT)
_binary(operator.mul, lambda build, x, y: build.fmul(x, y, flags=_FAST), EIGHT)
_binary(operator.truediv, lambda build, x, y: build.fdiv(x, y, flags=_FAST), EIGHT)
_binary(operator.lt, lambda build, x, y: build.fcmp_ordered("<", x, y), MASK)
_binary(operator.le, lambda build, x, y: build.fcmp_ordered("<=", x, y), MASK)
_binary(operator.gt, lambda build, x, y: build.fcmp_ordered(">", x, y), MASK)
_binary(operator.ge, lambda build, x, y: build.fcmp_ordered(">=", x, y), MASK)
_binary(operator.and_, lambda build, x, y: build.and_(x, y), MASK, MASK, MASK)
_binary(operator.or_, lambda build, x, y: build.or_(x, y), MASK, MASK, MASK)


def _extreme(comparison: str) -> Any:
    @intrinsic
    def code(_typing: Any, a: Any, b: Any) -> Any:
        def generate(_c: Any, build: ir.IRBuilder, signature: Any, values: Any) -> Any:
            x, y = _wide(build, signature, values)
            return build.select(build.fcmp_ordered(comparison, x, y), x, y)

        return (EIGHT(a, b), generate) if _numbers(a, b) else None

    return code


least, most = _extreme("<"), _extreme(">")  # of two, lane by lane


@intrinsic
def select(_typing: Any, mask: Any, yes: Any, no: Any) -> Any:
    """select(mask, yes, no): lane by lane."""

    def generate(_c: Any, build: ir.IRBuilder, _s: Any, values: Any) -> Any:
        wide = [v if k == EIGHT else _spread(build, v) for k, v in zip((yes, no), values[1:], strict=True)]
        return build.select(values[0], *wide)

    return (EIGHT(mask, yes, no), generate) if mask == MASK else None


@intrinsic
def bits(_typing: Any, mask: Any) -> Any:
    """The mask as an int64 of 8 bits, lane 0 the lowest: 0 is none."""
    return types.int64(mask), lambda _c, build, _s, values: build.zext(build.bitcast(values[0], _I8), _I64)


@intrinsic
def count_bits(_typing: Any, number: Any) -> Any:
    return types.int64(types.int64), lambda _c, build, _s, values: build.ctpop(values[0])


@intrinsic
def lowest_bit(_typing: Any, number: Any) -> Any:
    """Index of the lowest bit that is set; the number must not be 0."""
    true = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.int64), lambda _c, build, _s, values: build.cttz(values[0], true)


def _function(name: str) -> Any:
    @intrinsic
    def code(_typing: Any, x: Any) -> Any:
        def generate(_c: Any, build: ir.IRBuilder, _s: Any, values: Any) -> Any:
            kind = ir.FunctionType(_EIGHT, [_EIGHT])
            function = cgutils.get_or_insert_function(build.module, kind, f"llvm.{name}.v8f32")
            return build.call(function, values, fastmath=_FAST)

        return (EIGHT(x), generate) if x == EIGHT else None

    return code


root, round_up, round_down = _function("sqrt"), _function("ceil"), _function("floor")


@intrinsic
def ramp(_typing: Any) -> Any:
    """0, 1, … 7."""
    return EIGHT(), lambda *_: ir.Constant(_EIGHT, [float(k) for k in range(LANES)])


@intrinsic
def spread(_typing: Any, x: Any) -> Any:
    """A float32 in all lanes."""
    return EIGHT(types.float32), lambda _c, build, _s, values: _spread(build, values[0])


def _at(context: Any, build: ir.IRBuilder, kind: Any, array: Any, index: Any, vector: ir.Type) -> ir.Value:
    data = context.make_array(kind)(context, build, array).data
    return build.bitcast(build.gep(data, [index], inbounds=True), vector.as_pointer())


@intrinsic
def load(_typing: Any, array: Any, index: Any) -> Any:
    """Eight neighbours of a C-contiguous float32 array, counted flat from `index`."""

    def generate(context: Any, build: ir.IRBuilder, _s: Any, values: Any) -> Any:
        return build.load(_at(context, build, array, values[0], values[1], _EIGHT), align=4)

    return EIGHT(array, types.int64), generate


@intrinsic
def store(_typing: Any, array: Any, index: Any, eight: Any) -> Any:
    """The counterpart of `load`."""

    def generate(context: Any, build: ir.IRBuilder, _s: Any, values: Any) -> Any:
        build.store(values[2], _at(context, build, array, values[0], values[1], _EIGHT), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, EIGHT), generate


@intrinsic
def load_rows(_typing: Any, rows: Any, first: Any, column: Any) -> Any:
    """load_rows(rows, first, column): of eight rows of a C-contiguous float32 matrix, from `first` on, the four columns
    from `column` on, as four eights (a transposition in registers: gathering costs several times as much)."""
    four, quad = types.UniTuple(EIGHT, 4), ir.VectorType(_F32, 4)

    def generate(context: Any, build: ir.IRBuilder, signature: Any, values: Any) -> Any:
        def shuffle(x: ir.Value, y: ir.Value, *lanes: int) -> ir.Value:
            return build.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))

        stride = cgutils.unpack_tuple(build, context.make_array(signature.args[0])(context, build, values[0]).shape)[1]
        line = [
            build.load(
                _at(context, build, signature.args[0], values[0],
                    build.add(build.mul(build.add(values[1], ir.Constant(_I64, k)), stride), values[2]), quad),
                align=4,
            )
            for k in range(LANES)
        ]  # fmt: skip
        a, b, c, d = (shuffle(line[k], line[k + 4], *range(8)) for k in range(4))  # rows k and k + 4 side by side
        low = (0, 8, 1, 9, 4, 12, 5, 13)  # first two columns of two rows, in both halves
        high = tuple(k + 2 for k in low)
        ab, cd, ab2, cd2 = shuffle(a, b, *low), shuffle(c, d, *low), shuffle(a, b, *high), shuffle(c, d, *high)
        left, right = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
        columns = [shuffle(x, y, *side) for x, y in ((ab, cd), (ab2, cd2)) for side in (left, right)]
        return context.make_tuple(build, four, columns)

    return four(rows, types.int64, types.int64), generate
