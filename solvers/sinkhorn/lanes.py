"""What `scaling_kernel` needs besides `simd`: vectors of float32 or float64 that begin anywhere and may be partly
there.
"""

import math
import os
from collections.abc import Callable
from functools import partial

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from platformdirs import user_cache_path

from fewshot_cli.kernels.vectors import LANES, fill

BYTES = 64  # of a vector: 16 float32 or 8 float64
FAST = ("contract", "reassoc", "nsz")  # of sums and products; NaN and infinity keep their meaning
LN2 = {16: (0.693359375, -2.12194440e-4), 8: (6.93147180369123816490e-1, 1.90821492927058770002e-10)}  # in two parts
TERMS = {16: 8, 8: 14}  # of the series of exp(r), |r| ≤ ln 2 / 2, by lanes of a vector

if "NUMBA_CACHE_DIR" not in os.environ and not numba.config.CACHE_DIR:  # must be set before a function is declared
    numba.config.CACHE_DIR = str(user_cache_path("fsl", appauthor=False) / "numba")


def _called(builder, name, kind, args, **flags):
    function = ir.FunctionType(kind, [x.type for x in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args, **flags)


def _first(builder, count, lanes):
    """Mask of the first `count` lanes."""
    number = ir.IntType(32)
    order = ir.Constant(ir.VectorType(number, lanes.count), list(range(lanes.count)))
    return builder.icmp_signed("<", order, fill(builder, builder.trunc(count, number), order.type))


def _masked(context, builder, array_type, args, name, kind, more):
    """LLVM's masked load or store of the first lanes at array[offset:], the array taken as flat: `args` are these and a
    count.
    """
    array, offset, count = args
    lanes, place = LANES[array_type.dtype], context.make_array(array_type)(context, builder, array).data
    place = builder.bitcast(builder.gep(place, [offset]), lanes.llvm.as_pointer())
    rest = [place, ir.IntType(32)(array_type.dtype.bitwidth // 8), _first(builder, count, lanes)]
    given = [*more, *rest] if more else [*rest, ir.Constant(lanes.llvm, None)]
    return _called(builder, f"llvm.masked.{name}.v{lanes.count}f{lanes.scalar.bitwidth}.p0", kind, given)


@intrinsic
def held(typingctx, array):
    """How many numbers of the array a vector holds."""
    count = LANES[array.dtype].count
    return types.int64(array), lambda context, builder, signature, args: ir.IntType(64)(count)


@intrinsic
def load(typingctx, array, offset, count):
    """The vector at array[offset:], of which `count` lanes are there and the others 0."""
    lanes = LANES[array.dtype]

    def code(context, builder, signature, args):
        return _masked(context, builder, signature.args[0], args, "load", lanes.llvm, [])

    return lanes(array, types.int64, types.int64), code


@intrinsic
def store(typingctx, array, offset, count, vector):
    """Write the first `count` lanes to array[offset:]."""

    def code(context, builder, signature, args):
        _masked(context, builder, signature.args[0], args[:3], "store", ir.VoidType(), [args[3]])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, vector), code


@intrinsic
def full(typingctx, array, x):
    """A number in every lane, of the array's type."""
    lanes = LANES[array.dtype]

    def code(context, builder, signature, args):
        own = builder.fptrunc(args[1], lanes.llvm.element) if lanes.count == 16 else args[1]
        return fill(builder, own, lanes.llvm)

    return lanes(array, types.float64), code


@intrinsic
def only(typingctx, a, count):
    """The first `count` lanes, 0 in the others."""

    def code(context, builder, signature, args):
        return builder.select(_first(builder, args[1], a), args[0], ir.Constant(a.llvm, None))

    return a(a, types.int64), code


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c."""

    def code(context, builder, signature, args):
        return builder.fadd(builder.fmul(*args[:2], flags=FAST[:1]), args[2], flags=FAST[:1])

    return a(a, b, c), code


@intrinsic
def div(typingctx, a, b):
    return a(a, b), lambda context, builder, signature, args: builder.fdiv(*args)


@intrinsic
def distance(typingctx, a, b):
    """|a − b|."""

    def code(context, builder, signature, args):
        return _called(builder, f"llvm.fabs.v{a.count}f{a.scalar.bitwidth}", a.llvm, [builder.fsub(*args)])

    return a(a, b), code


@intrinsic
def exp(typingctx, a):
    """exp(a) = 2^q exp(r), q the integer next to a/ln 2, written as bits: for |a| below 86."""
    kind, (bias, shift), (high, low) = a.llvm, (127, 23) if a.count == 16 else (1023, 52), LN2[a.count]
    whole = ir.VectorType(ir.IntType(a.scalar.bitwidth), a.count)

    def code(context, builder, signature, args):
        def fused(x, y, z):
            return builder.fadd(builder.fmul(x, y, flags=FAST[:1]), z, flags=FAST[:1])

        def every(x, of=kind):
            return ir.Constant(of, [x] * a.count)

        q = builder.fmul(args[0], every(1 / math.log(2)))
        q = _called(builder, f"llvm.rint.v{a.count}f{a.scalar.bitwidth}", kind, [q])
        r, e = fused(q, every(-low), fused(q, every(-high), args[0])), every(0.0)
        for k in reversed(range(TERMS[a.count])):
            e = fused(e, r, every(1 / math.factorial(k)))
        bits = builder.add(builder.fptosi(q, whole), every(bias, whole))
        return builder.fmul(e, builder.bitcast(builder.shl(bits, every(shift, whole)), kind))

    return a(a), code


@intrinsic
def summed(typingctx, a):
    """The sum of all lanes."""

    def code(context, builder, signature, args):
        name = f"llvm.vector.reduce.fadd.v{a.count}f{a.scalar.bitwidth}"
        return _called(builder, name, a.llvm.element, [ir.Constant(a.llvm.element, -0.0), args[0]], fastmath=FAST)

    return a.scalar(a), code


def compiled(function: Callable, **options: bool) -> Callable:
    """Compile with Numba; kept on disk where a folder can be written to."""
    options |= {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return numba.njit(**options)(function)


inlined = partial(compiled, forceinline=True)  # a call would count references to every array
