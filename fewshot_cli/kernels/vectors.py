"""Vectors for Numba kernels: 16 int32 or float32, 8 int64 or float64, compiled to whatever registers the machine has.

Numba turns loops over short rows into scalar code with vector prologues; these few operations emit LLVM's vector
instructions directly. Offsets count elements and need no alignment; lane masks are the low bits of a uint64. Sums and
products may be contracted or reordered where it is said; NaN and infinity always keep their meaning.
"""

import math
import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

MAGIC = 1.5 * 2.0**52  # added to |x| < 2^51, it leaves the nearest integer in the low bits
MAGIC_BITS = struct.unpack("<q", struct.pack("<d", MAGIC))[0]
CONTRACT = ("contract",)  # a product and the sum it goes into may be rounded once
REORDER = ("contract", "reassoc", "nsz")
LN2 = {16: (0.693359375, -2.12194440e-4), 8: (6.93147180369123816490e-1, 1.90821492927058770002e-10)}  # in two parts
TERMS = {16: 8, 8: 14}  # of the series of exp(r), |r| ≤ ln 2 / 2, by lanes of a vector
LINE = 64  # bytes of the cache that one vector fills
BIT, I32_SCALAR, I64_SCALAR = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """Numba's type of a vector: `count` elements of an LLVM scalar type."""

    def __init__(self, scalar: Any, count: int) -> None:
        self.scalar, self.count = scalar, count
        super().__init__(name=f"{scalar}x{count}")

    @property
    def is_float(self) -> bool:
        """Whether the elements are floats."""
        return isinstance(self.scalar, types.Float)

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM vector type."""
        floats = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
        return ir.VectorType(floats.get(self.scalar) or ir.IntType(self.scalar.bitwidth), self.count)

    @property
    def suffix(self) -> str:
        """The type in the name of an LLVM intrinsic, such as v16f32."""
        return f"v{self.count}{'f' if self.is_float else 'i'}{self.scalar.bitwidth}"


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, lanes.llvm)


I32, I64 = Lanes(types.int32, 16), Lanes(types.int64, 8)
F32, F64 = Lanes(types.float32, 16), Lanes(types.float64, 8)
LANES = {lanes.scalar: lanes for lanes in (I32, I64, F32, F64)}


def _call(builder, name, result, args, **flags):
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [x.type for x in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, **flags)


def _every(vector, value):
    """A constant in every lane of an LLVM vector type."""
    return ir.Constant(vector, [value] * vector.count)


def _fill(builder, scalar, vector):
    """A scalar in every lane of an LLVM vector type."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, I32_SCALAR(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32_SCALAR, vector.count), None))


def _chosen(builder, bits, count):
    """The mask whose lanes are the low bits of an integer."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(count)), ir.VectorType(BIT, count))


def _first(builder, count, lanes):
    """The mask of the first `count` lanes."""
    order = ir.Constant(ir.VectorType(I32_SCALAR, lanes.count), list(range(lanes.count)))
    return builder.icmp_signed("<", order, _fill(builder, builder.trunc(count, I32_SCALAR), order.type))


def _fused(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)


# memory


def _address(context, builder, array_type, array, offset, vector):
    """Where array[offset:] begins, the array taken as flat."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


@intrinsic
def lanes_of(typingctx, array):
    """How many elements of the array a vector holds."""
    count = LANES[array.dtype].count
    return types.int64(array), lambda context, builder, signature, args: I64_SCALAR(count)


@intrinsic
def to_line(typingctx, array):
    """How many elements of the array come before the first at which a line of the cache begins."""
    size = array.dtype.bitwidth // 8

    def code(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        gap = builder.and_(builder.neg(builder.ptrtoint(data, I64_SCALAR)), I64_SCALAR(LINE - 1))
        return builder.udiv(gap, I64_SCALAR(size))

    return types.int64(array), code


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
def load_first(typingctx, array, offset, count):
    """The first `count` lanes at array[offset:], 0 in the others, whose memory is not read."""
    lanes = LANES[array.dtype]

    def code(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], lanes.llvm)
        mask, nothing = _first(builder, args[2], lanes), ir.Constant(lanes.llvm, None)
        given = [place, I32_SCALAR(lanes.scalar.bitwidth // 8), mask, nothing]
        return _call(builder, f"llvm.masked.load.{lanes.suffix}.p0", lanes.llvm, given)

    return lanes(array, types.intp, types.int64), code


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
def load_first_wide(typingctx, array, offset, count):
    """The first `count` of 8 floats of array[offset:] as float64, 0 in the other lanes, whose memory is not read."""
    stored = Lanes(array.dtype, F64.count)

    def code(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], stored.llvm)
        given = [place, I32_SCALAR(stored.scalar.bitwidth // 8), _first(builder, args[2], stored)]
        given.append(ir.Constant(stored.llvm, None))
        x = _call(builder, f"llvm.masked.load.{stored.suffix}.p0", stored.llvm, given)
        return x if stored.scalar is types.float64 else builder.fpext(x, F64.llvm)

    return F64(array, types.intp, types.int64), code


@intrinsic
def load_set(typingctx, words, array, offset):
    """As many int64 of array[offset:] as the tuple `words` has elements; 8 when it is an array."""
    count = words.count if isinstance(words, types.UniTuple) else I64.count
    lanes = I64 if count == I64.count else Lanes(types.int64, count)

    def code(context, builder, signature, args):
        x = builder.load(_address(context, builder, signature.args[1], args[1], args[2], lanes.llvm))
        x.align = 8
        return x

    return lanes(words, array, types.intp), code


@intrinsic
def store(typingctx, array, offset, vector):
    """Write a vector to array[offset:]; 8 int64 into an int32 array keep their low halves."""
    narrow = array.dtype is types.int32 and vector is I64

    def code(context, builder, signature, args):
        x = builder.trunc(args[2], ir.VectorType(I32_SCALAR, 8)) if narrow else args[2]
        place = _address(context, builder, signature.args[0], args[0], args[1], x.type)
        builder.store(x, place).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), code


@intrinsic
def store_first(typingctx, array, offset, count, vector):
    """Write the first `count` lanes to array[offset:]."""

    def code(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], vector.llvm)
        given = [args[3], place, I32_SCALAR(vector.scalar.bitwidth // 8), _first(builder, args[2], vector)]
        _call(builder, f"llvm.masked.store.{vector.suffix}.p0", ir.VoidType(), given)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64, vector), code


@intrinsic
def splat(typingctx, scalar):
    """A scalar in every lane."""
    lanes = LANES[scalar]
    return lanes(scalar), lambda context, builder, signature, args: _fill(builder, args[0], lanes.llvm)


@intrinsic
def splat_like(typingctx, array, x):
    """A float64 in every lane, rounded to the array's type."""
    lanes = LANES[array.dtype]

    def code(context, builder, signature, args):
        scalar = builder.fptrunc(args[1], lanes.llvm.element) if lanes is F32 else args[1]
        return _fill(builder, scalar, lanes.llvm)

    return lanes(array, types.float64), code


# lane by lane


def _pairwise(doc, make):
    """An operation on two vectors of a type; `make` gives LLVM's value from the builder, the type and the two."""

    @intrinsic
    def operation(typingctx, a, b):
        return a(a, b), lambda context, builder, signature, args: make(builder, a, *args)

    operation.__doc__ = doc
    return operation


add = _pairwise("a + b.", lambda to, a, x, y: to.fadd(x, y) if a.is_float else to.add(x, y))
sub = _pairwise("a − b.", lambda to, a, x, y: to.fsub(x, y) if a.is_float else to.sub(x, y))
mul = _pairwise("a · b, of floats.", lambda to, a, x, y: to.fmul(x, y))
div = _pairwise("a / b, of floats.", lambda to, a, x, y: to.fdiv(x, y))
distance = _pairwise(
    "|a − b|, of floats.", lambda to, a, x, y: _call(to, f"llvm.fabs.{a.suffix}", a.llvm, [to.fsub(x, y)])
)
either = _pairwise("a | b, of integers.", lambda to, a, x, y: to.or_(x, y))
both = _pairwise("a & b, of integers.", lambda to, a, x, y: to.and_(x, y))
without = _pairwise("a & ~b, of integers.", lambda to, a, x, y: to.and_(x, to.not_(y)))
lesser = _pairwise("a where a < b, else b, of floats.", lambda to, a, x, y: to.select(to.fcmp_ordered("<", x, y), x, y))
greater = _pairwise(
    "a where a > b, else b, of floats.", lambda to, a, x, y: to.select(to.fcmp_ordered(">", x, y), x, y)
)
smin = _pairwise("The smaller of two integers.", lambda to, a, x, y: to.select(to.icmp_signed("<", x, y), x, y))
smax = _pairwise("The larger of two integers.", lambda to, a, x, y: to.select(to.icmp_signed(">", x, y), x, y))


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, rounded once where the machine can."""
    return a(a, b, c), lambda context, builder, signature, args: _fused(builder, *args)


@intrinsic
def exp(typingctx, a):
    """exp(a) = 2^q exp(r), q the integer next to a/ln 2, written as bits: for |a| below 86."""
    vector, (bias, shift), (high, low) = a.llvm, (127, 23) if a is F32 else (1023, 52), LN2[a.count]
    whole = ir.VectorType(ir.IntType(a.scalar.bitwidth), a.count)

    def code(context, builder, signature, args):
        q = builder.fmul(args[0], _every(vector, 1 / math.log(2)))
        q = _call(builder, f"llvm.rint.{a.suffix}", vector, [q])
        r = _fused(builder, q, _every(vector, -low), _fused(builder, q, _every(vector, -high), args[0]))
        series = _every(vector, 0.0)
        for k in reversed(range(TERMS[a.count])):
            series = _fused(builder, series, r, _every(vector, 1 / math.factorial(k)))
        bits = builder.shl(builder.add(builder.fptosi(q, whole), _every(whole, bias)), _every(whole, shift))
        return builder.fmul(series, builder.bitcast(bits, vector))

    return a(a), code


@intrinsic
def shifted(typingctx, a, right, left):
    """(a >> right) << left, by the same counts in every lane."""

    def code(context, builder, signature, args):
        x = builder.ashr(args[0], _fill(builder, args[1], a.llvm))
        return builder.shl(x, _fill(builder, args[2], a.llvm))

    return a(a, a.scalar, a.scalar), code


@intrinsic
def magnitude(typingctx, a):
    """a with its bits inverted where it is negative: what it needs without a sign."""

    def code(context, builder, signature, args):
        return builder.xor(args[0], builder.ashr(args[0], _every(a.llvm, a.scalar.bitwidth - 1)))

    return a(a), code


@intrinsic
def numbered(typingctx, a, first):
    """a with its low 11 bits replaced by first + lane."""

    def code(context, builder, signature, args):
        lane = builder.add(_fill(builder, args[1], a.llvm), ir.Constant(a.llvm, list(range(a.count))))
        return builder.or_(builder.and_(args[0], _every(a.llvm, -2048)), lane)

    return a(a, a.scalar), code


@intrinsic
def rounded(typingctx, a):
    """float64 below 2^51 in magnitude, to the nearest int64."""

    def code(context, builder, signature, args):
        x = builder.fadd(args[0], _every(a.llvm, MAGIC))
        return builder.sub(builder.bitcast(x, I64.llvm), _every(I64.llvm, MAGIC_BITS))

    return I64(a), code


@intrinsic
def truncated(typingctx, a):
    """float64 below 2^63 in magnitude, to int64 towards zero."""
    return I64(a), lambda context, builder, signature, args: builder.fptosi(args[0], I64.llvm)


@intrinsic
def as_floats(typingctx, a):
    """int64 to float64."""
    return F64(a), lambda context, builder, signature, args: builder.sitofp(args[0], F64.llvm)


@intrinsic
def as_bits(typingctx, a):
    """The bits of float64; negative where the float is (or is −0)."""
    return I64(a), lambda context, builder, signature, args: builder.bitcast(args[0], I64.llvm)


# some lanes


@intrinsic
def keep_first(typingctx, a, count):
    """The first `count` lanes, 0 in the others."""

    def code(context, builder, signature, args):
        return builder.select(_first(builder, args[1], a), args[0], ir.Constant(a.llvm, None))

    return a(a, types.int64), code


@intrinsic
def where(typingctx, bits, scalar, a):
    """The scalar in the lanes whose bit is set, a in the others."""

    def code(context, builder, signature, args):
        return builder.select(_chosen(builder, args[0], a.count), _fill(builder, args[1], a.llvm), args[2])

    return a(types.uint64, a.scalar, a), code


@intrinsic
def add_where(typingctx, a, bits, scalar):
    """a plus the scalar in the lanes whose bit is set, of integers."""

    def code(context, builder, signature, args):
        more = builder.add(args[0], _fill(builder, args[2], a.llvm))
        return builder.select(_chosen(builder, args[1], a.count), more, args[0])

    return a(a, types.uint64, a.scalar), code


@intrinsic
def nonzero(typingctx, a):
    """The bits of the lanes that are not zero, of floats."""

    def code(context, builder, signature, args):
        differs = builder.fcmp_unordered("!=", args[0], ir.Constant(a.llvm, None))
        return builder.zext(builder.bitcast(differs, ir.IntType(a.count)), I64_SCALAR)

    return types.uint64(a), code


@intrinsic
def where_less(typingctx, a, b, scalar, c):
    """The scalar in the lanes where a < b, c in the others, of integers."""

    def code(context, builder, signature, args):
        return builder.select(builder.icmp_signed("<", args[0], args[1]), _fill(builder, args[2], c.llvm), args[3])

    return c(a, b, c.scalar, c), code


# over the lanes


def _reduction(doc, name):
    @intrinsic
    def reduce(typingctx, a):
        def code(context, builder, signature, args):
            return _call(builder, f"llvm.vector.reduce.{name}.{a.suffix}", a.llvm.element, args)

        return a.scalar(a), code

    reduce.__doc__ = doc
    return reduce


lowest = _reduction("The smallest lane, of integers.", "smin")
highest = _reduction("The largest lane, of integers.", "smax")
union = _reduction("All lanes' bits together, of integers.", "or")


@intrinsic
def summed(typingctx, a):
    """The sum of all lanes, of floats in any order."""

    def code(context, builder, signature, args):
        if not a.is_float:
            return _call(builder, f"llvm.vector.reduce.add.{a.suffix}", a.llvm.element, args)
        given = [ir.Constant(a.llvm.element, -0.0), args[0]]
        return _call(builder, f"llvm.vector.reduce.fadd.{a.suffix}", a.llvm.element, given, fastmath=REORDER)

    return a.scalar(a), code


@intrinsic
def find(typingctx, a, b):
    """The first lane in which a equals b, or the number of lanes, of integers."""

    def code(context, builder, signature, args):
        bits = builder.zext(builder.bitcast(builder.icmp_signed("==", *args), ir.IntType(a.count)), I64_SCALAR)
        return builder.cttz(builder.or_(bits, I64_SCALAR(1 << a.count)), BIT(1))

    return types.int64(a, b), code


@intrinsic
def members(typingctx, a):
    """How many bits of all lanes are set."""

    def code(context, builder, signature, args):
        counts = _call(builder, f"llvm.ctpop.{a.suffix}", a.llvm, args)
        return _call(builder, f"llvm.vector.reduce.add.{a.suffix}", a.llvm.element, [counts])

    return a.scalar(a), code


@intrinsic
def lane(typingctx, a, number):
    """The value in one lane."""
    return a.scalar(a, types.int64), lambda context, builder, signature, args: builder.extract_element(*args)


@intrinsic
def lowest_bit(typingctx, bits):
    """The number of the lowest bit that is set in a uint64 other than 0."""
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.cttz(args[0], BIT(1))


# scalars


@intrinsic
def bit_length(typingctx, x):
    """How many bits an int64 that is not negative needs."""

    def code(context, builder, signature, args):
        return builder.sub(I64_SCALAR(64), builder.ctlz(args[0], BIT(0)))

    return types.int64(types.int64), code


@intrinsic
def exponent(typingctx, x):
    """The integer e with 2^e ≤ x < 2^(e+1) of a positive float64; −1023 of the least, which have fewer bits."""

    def code(context, builder, signature, args):
        return builder.sub(builder.lshr(builder.bitcast(args[0], I64_SCALAR), I64_SCALAR(52)), I64_SCALAR(1023))

    return types.int64(types.float64), code


@intrinsic
def power_of_two(typingctx, e):
    """2^e as float64, for e from −1022 to 1023."""

    def code(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.add(args[0], I64_SCALAR(1023)), I64_SCALAR(52)), ir.DoubleType())

    return types.float64(types.int64), code
