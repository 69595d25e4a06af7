"""Vectors for Numba kernels: 16 int32 or float32, 8 int64 or float64, compiled to whatever registers the machine has.

Numba turns loops over short rows into scalar code with vector prologues; these few operations emit LLVM's vector
instructions directly. Offsets count elements and need no alignment; lane masks are the low bits of a uint64.
"""

import struct

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

MAGIC = 1.5 * 2.0**52  # added to |x| < 2^51, it leaves the nearest integer in the low bits
MAGIC_BITS = struct.unpack("<q", struct.pack("<d", MAGIC))[0]


class Lanes(types.Type):
    """Numba's type of a vector: `count` elements of an LLVM scalar type."""

    def __init__(self, scalar: types.Type, count: int) -> None:
        self.scalar, self.count = scalar, count
        super().__init__(name=f"{scalar}x{count}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM vector type."""
        floats = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
        return ir.VectorType(floats.get(self.scalar) or ir.IntType(self.scalar.bitwidth), self.count)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, lanes.llvm)


I32, I64 = Lanes(types.int32, 16), Lanes(types.int64, 8)
F32, F64 = Lanes(types.float32, 16), Lanes(types.float64, 8)
LANES = {lanes.scalar: lanes for lanes in (I32, I64, F32, F64)}


def _address(context, builder, array_type, array, offset, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def fill(builder, scalar, vector):
    """LLVM's vector of a type with a scalar in every lane."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def _chosen(builder, bits, count):
    return builder.bitcast(builder.trunc(bits, ir.IntType(count)), ir.VectorType(ir.IntType(1), count))


def _reduction(name):
    @intrinsic
    def reduce(typingctx, a):
        def code(context, builder, signature, args):
            vector = a.llvm
            kind = ir.FunctionType(vector.element, [vector])
            full = f"llvm.vector.reduce.{name}.v{a.count}i{a.scalar.bitwidth}"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)

        return a.scalar(a), code

    return reduce


lowest, highest, total, union = (_reduction(name) for name in ("smin", "smax", "add", "or"))


@intrinsic
def load(typingctx, array, offset):
    """The vector at array[offset:]."""
    lanes = LANES[array.dtype]

    def code(context, builder, signature, args):
        x = builder.load(_address(context, builder, signature.args[0], args[0], args[1], lanes.llvm))
        x.align = lanes.scalar.bitwidth // 8
        return x

    return lanes(array, types.intp), code


@intrinsic
def load_wide(typingctx, array, offset):
    """8 floats of array[offset:], float32 or float64, as float64."""
    single = array.dtype is types.float32

    def code(context, builder, signature, args):
        stored = ir.VectorType(ir.FloatType(), 8) if single else F64.llvm
        x = builder.load(_address(context, builder, signature.args[0], args[0], args[1], stored))
        x.align = 4 if single else 8
        return builder.fpext(x, F64.llvm) if single else x

    return F64(array, types.intp), code


@intrinsic
def store(typingctx, array, offset, vector):
    """Write a vector to array[offset:]; 8 int64 into an int32 array keep their low halves."""
    narrow = array.dtype is types.int32 and vector is I64

    def code(context, builder, signature, args):
        x = builder.trunc(args[2], ir.VectorType(ir.IntType(32), 8)) if narrow else args[2]
        place = _address(context, builder, signature.args[0], args[0], args[1], x.type)
        builder.store(x, place).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), code


@intrinsic
def splat(typingctx, scalar):
    """A scalar in every lane."""
    lanes = LANES[scalar]
    return lanes(scalar), lambda context, builder, signature, args: fill(builder, args[0], lanes.llvm)


@intrinsic
def add(typingctx, a, b):
    """a + b."""
    return a(a, b), lambda context, builder, signature, args: (builder.fadd if a is F64 else builder.add)(*args)


@intrinsic
def sub(typingctx, a, b):
    """a − b."""
    return a(a, b), lambda context, builder, signature, args: (builder.fsub if a is F64 else builder.sub)(*args)


@intrinsic
def mul(typingctx, a, b):
    """a · b, of floats."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def either(typingctx, a, b):
    """a | b."""
    return a(a, b), lambda context, builder, signature, args: builder.or_(*args)


@intrinsic
def both(typingctx, a, b):
    """a & b."""
    return a(a, b), lambda context, builder, signature, args: builder.and_(*args)


@intrinsic
def shifted(typingctx, a, right, left):
    """(a >> right) << left, by the same counts in every lane."""

    def code(context, builder, signature, args):
        x = builder.ashr(args[0], fill(builder, args[1], a.llvm))
        return builder.shl(x, fill(builder, args[2], a.llvm))

    return a(a, a.scalar, a.scalar), code


@intrinsic
def smin(typingctx, a, b):
    """The smaller, lane by lane."""
    return a(a, b), lambda context, builder, signature, args: builder.select(builder.icmp_signed("<", *args), *args)


@intrinsic
def smax(typingctx, a, b):
    """The larger, lane by lane."""
    return a(a, b), lambda context, builder, signature, args: builder.select(builder.icmp_signed(">", *args), *args)


@intrinsic
def where(typingctx, bits, scalar, a):
    """The scalar in the lanes whose bit is set, a in the others."""

    def code(context, builder, signature, args):
        return builder.select(_chosen(builder, args[0], a.count), fill(builder, args[1], a.llvm), args[2])

    return a(types.uint64, a.scalar, a), code


@intrinsic
def add_where(typingctx, a, bits, scalar):
    """a plus the scalar in the lanes whose bit is set."""

    def code(context, builder, signature, args):
        more = builder.add(args[0], fill(builder, args[2], a.llvm))
        return builder.select(_chosen(builder, args[1], a.count), more, args[0])

    return a(a, types.uint64, a.scalar), code


@intrinsic
def magnitude(typingctx, a):
    """a with its bits inverted where it is negative: what it needs without a sign."""

    def code(context, builder, signature, args):
        sign = builder.ashr(args[0], ir.Constant(a.llvm, [a.scalar.bitwidth - 1] * a.count))
        return builder.xor(args[0], sign)

    return a(a), code


@intrinsic
def numbered(typingctx, a, first):
    """a with its low 11 bits replaced by first + lane."""

    def code(context, builder, signature, args):
        lane = builder.add(fill(builder, args[1], a.llvm), ir.Constant(a.llvm, list(range(a.count))))
        return builder.or_(builder.and_(args[0], ir.Constant(a.llvm, [-2048] * a.count)), lane)

    return a(a, a.scalar), code


@intrinsic
def rounded(typingctx, a):
    """Floats below 2^51 in magnitude, to the nearest int64."""

    def code(context, builder, signature, args):
        x = builder.fadd(args[0], ir.Constant(a.llvm, [MAGIC] * a.count))
        return builder.sub(builder.bitcast(x, I64.llvm), ir.Constant(I64.llvm, [MAGIC_BITS] * a.count))

    return I64(a), code


@intrinsic
def as_bits(typingctx, a):
    """The bits of floats; negative where the float is (or is −0)."""
    return I64(a), lambda context, builder, signature, args: builder.bitcast(args[0], I64.llvm)


@intrinsic
def find(typingctx, a, b):
    """The first lane in which a equals b, or the number of lanes."""

    def code(context, builder, signature, args):
        wide = ir.IntType(64)
        bits = builder.zext(builder.bitcast(builder.icmp_signed("==", *args), ir.IntType(a.count)), wide)
        end = builder.or_(bits, ir.Constant(wide, 1 << a.count))
        return builder.cttz(end, ir.Constant(ir.IntType(1), 1))

    return types.int64(a, b), code
