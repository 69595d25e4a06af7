"""Vectors of 16 floats for Numba, by LLVM: it would not form them itself from loops over short rows."""

import os
from collections.abc import Callable

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from platformdirs import user_cache_path

LANES = 16  # floats of a vector
FAST = ("contract", "reassoc", "nsz")  # of vectors; NaN and infinity keep their meaning
V16, I32, I64 = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32), ir.IntType(64)

if "NUMBA_CACHE_DIR" not in os.environ and not numba.config.CACHE_DIR:  # must be set before a function is declared
    numba.config.CACHE_DIR = str(user_cache_path("fsl", appauthor=False) / "numba")


class _Lanes(types.Type):
    """Numba's type of such a vector."""


F16 = _Lanes("float32x16")
register_model(_Lanes)(
    type(
        "_Model",
        (models.PrimitiveModel,),
        {"__init__": lambda self, manager, lanes: models.PrimitiveModel.__init__(self, manager, lanes, V16)},
    )
)


def _spread_out(builder, scalar, width=LANES):
    blank = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    first = builder.insert_element(blank, scalar, I32(0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(I32, width), None))


def _masked(context, builder, array_type, args, name, *values):
    """LLVM's masked load or store of the first `count` lanes at array[offset:], the array taken as flat."""
    array, offset, count = args
    place = builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])
    lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    mask = builder.icmp_signed("<", lanes, _spread_out(builder, count))
    given = [*values, builder.bitcast(place, V16.as_pointer()), I32(4), mask]
    if not values:
        given.append(ir.Constant(V16, None))  # in the other lanes
    kind = ir.FunctionType(ir.VoidType() if values else V16, [x.type for x in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.v16f32.p0"), given)


@intrinsic
def load(typingctx, array, offset, count):
    def code(context, builder, signature, args):
        return _masked(context, builder, signature.args[0], args, "load")

    return F16(array, types.int64, types.int64), code


@intrinsic
def store(typingctx, array, offset, count, lanes):
    def code(context, builder, signature, args):
        _masked(context, builder, signature.args[0], args[:3], "store", args[3])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, lanes), code


@intrinsic
def splat(typingctx, x):
    return F16(types.float32), lambda context, builder, signature, args: _spread_out(builder, args[0])


@intrinsic
def fma(typingctx, a, b, c):
    def code(context, builder, signature, args):
        return builder.fadd(builder.fmul(args[0], args[1], FAST), args[2], FAST)

    return F16(a, b, c), code


@intrinsic
def summed(typingctx, a):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), V16])
        add = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
        return builder.call(add, [ir.Constant(ir.FloatType(), 0.0), args[0]], fastmath=FAST)

    return types.float32(a), code


@intrinsic
def nonzero(typingctx, a):
    """Bits of the lanes that are not zero."""

    def code(context, builder, signature, args):
        bits = builder.fcmp_unordered("!=", args[0], ir.Constant(V16, None))
        return builder.zext(builder.bitcast(bits, ir.IntType(LANES)), I64)

    return types.uint64(a), code


@intrinsic
def lowest(typingctx, bits):
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.cttz(args[0], ir.IntType(1)(0))


def compiled(function: Callable) -> Callable:
    """Compile with Numba; kept on disk where a folder can be written to."""
    # scalars stay in order: whether a loop becomes vectors can hang on where its arrays lie, and with it the sum's last
    # bit
    options = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return numba.njit(**options)(function)
