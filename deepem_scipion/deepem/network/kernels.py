# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weighted sums of pixels, with or without a sigmoid, compiled for the processor of this machine by LLVM.

Convolution, mean pooling and the output layer are all such sums. They differ in the number of maps that are computed
from the same pixels, and in the distance between neighbouring results.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

_FLOAT, _INDEX, _SIZE = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_ENGINES: list[llvm.ExecutionEngine] = []

# Results at larger distances are computed one by one, since their pixels share few vectors.
MAX_VECTOR_STRIDE = 4
# Results in a row are computed in groups of one of these numbers of vectors.
VECTORS = (1, 2, 4, 8)
# All groups are divisors of this number of columns. Lines of the cache, and room behind the last row, in columns.
GROUP, LINE, ROOM = 128, 16, 4096
# Sigmoids of values beyond this limit are 0 or 1 in single precision.
SIGMOID_LIMIT = 60.0
# Adding this number rounds a small float32 to an integer, which is then in its lowest bits.
ROUNDING = 1.5 * 2**23
# ln 2 in two parts; products of the first with small integers are exact in single precision.
LN2_HIGH = 0.693359375
LN2_LOW = math.log(2) - LN2_HIGH
EXP_DEGREE = 6


class WeightedSums:
    """Compiled function: sums over taps of weight times pixel, plus a bias, for several maps at once.

    The result of map m at row r and column c is ``bias[m] + sum over taps t of weights[t, m] *
    source[r source_stride + c stride + offsets[t]]``, or the sigmoid of that.

    Parameters
    ----------
    weights : (taps, maps) or (n, taps, maps) array
        Weights, the same for all sources or those of each source.
    bias : (maps,) or (n, maps) array
        Bias, the same for all sources or those of each source.
    stride : int
        Distance in the source between results that are neighbours in a row.
    sigmoid : bool
        Whether the sigmoid is applied.
    shared : bool
        Whether all sources are the same pixels.

    Attributes
    ----------
    columns : int
        Results of a row are computed in groups of this size: the target and the source must have room for them.
    """

    def __init__(self, weights: np.ndarray, bias: np.ndarray, stride: int = 1, sigmoid: bool = False,
                 shared: bool = False) -> None:
        self._weights, self._bias = (np.ascontiguousarray(values, np.float32) for values in (weights, bias))
        taps, maps = self._weights.shape[-2:]
        lanes, accumulators = vector_registers()
        lanes = lanes if stride <= MAX_VECTOR_STRIDE else 1
        vectors = max(n for n in VECTORS if n * maps <= max(accumulators, maps))
        self.columns = lanes * vectors
        self._shared = shared
        self._function = _compiled(maps, vectors, lanes, stride, sigmoid, shared)
        self._constants = (self._weights.ctypes.data, taps * maps * (self._weights.ndim == 3),
                           self._bias.ctypes.data, maps * (self._bias.ndim == 2))

    def __call__(self, targets: np.ndarray, sources: np.ndarray, offsets: np.ndarray, columns: int,
                 row_stride: int = 1) -> None:
        """Compute rows of the maps, from one or several sources.

        Parameters
        ----------
        targets : (n, maps, rows, >= columns) float32 array
            Overwritten, in groups of columns: made by `Memory`. Columns of both arrays are contiguous.
        sources : (n, rows, cols) float32 array
            Only the first one is used if all are the same. Its first element is that of offset 0 for the first result.
        offsets : (taps,) int64 array
            Position of each tap in elements of a source, contiguous; fewer than there are weights for a shorter sum.
        columns : int
            Number of results in a row.
        row_stride : int
            Distance in the sources between results that are neighbours in a column.
        """
        following, plane, row, _ = targets.strides
        source, source_row, _ = sources.strides
        self._function(targets.ctypes.data, following // 4, plane // 4, row // 4, sources.ctypes.data,
                       0 if self._shared else source // 4, source_row // 4 * row_stride, offsets.ctypes.data,
                       len(offsets), *self._constants, len(targets), targets.shape[2], columns)


class Memory(threading.local):
    """Arrays for `WeightedSums`; each thread has its own, and uses them again."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def maps(self, name: str, maps: int, rows: int, columns: int) -> np.ndarray:
        """Return an array with room for whole groups of columns, whose rows do not share the same lines of a cache.

        Parameters
        ----------
        name : str
            What the array is used for; an earlier one of this name may no longer be used.
        maps, rows, columns : int
            Size.

        Returns
        -------
        (maps, rows, >= columns) float32 array
            Any finite values.
        """
        wide, high = math.ceil(columns / GROUP) * GROUP + LINE, rows + 1 - rows % 2
        size = maps * high * wide
        if name not in self._arrays or len(self._arrays[name]) < size + ROOM:
            self._arrays[name] = np.zeros(size + ROOM, np.float32)
        return self._arrays[name][:size].reshape(maps, high, wide)[:, :rows]


@functools.lru_cache(maxsize=None)
def vector_registers() -> tuple[int, int]:
    """Return how many float32 numbers a vector register holds, and how many registers can hold sums.

    Returns
    -------
    lanes, accumulators : int
        Three quarters of the registers hold sums, the others pixels and weights.
    """
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 24
    if features.get("avx"):
        return 8, 12
    return 4, 24 if llvm.get_default_triple().startswith(("aarch64", "arm64")) else 12


@functools.lru_cache(maxsize=None)
def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3)


@functools.lru_cache(maxsize=None)
def _compiled(maps: int, vectors: int, lanes: int, stride: int, sigmoid: bool, shared: bool) -> Callable[..., None]:
    """Compile a function for this machine."""
    module = llvm.parse_assembly(_source(maps, vectors, lanes, stride, sigmoid, shared))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function = ctypes.CFUNCTYPE(None, pointer, size, size, size, pointer, size, size, pointer, size, pointer,
                                     size, pointer, size, size, size, size)(engine.get_function_address("sums"))
    _ENGINES.append(engine)  # they own the memory of the functions
    return function


def _source(maps: int, vectors: int, lanes: int, stride: int, sigmoid: bool, shared: bool) -> str:
    """Write the function in LLVM's intermediate representation: loops over sources, rows, columns and taps.

    The sums of all maps and `vectors` vectors of columns stay in registers while the taps are added up. Pixels that all
    sources share stay in the innermost cache, as the loop over sources is then an inner one.
    """
    floats, sizes = _FLOAT.as_pointer(), _SIZE.as_pointer()
    module = ir.Module()
    module.triple = llvm.get_default_triple()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [
        floats, _SIZE, _SIZE, _SIZE, floats, _SIZE, _SIZE, sizes, _SIZE, floats, _SIZE, floats, _SIZE, _SIZE, _SIZE,
        _SIZE]), "sums")
    (targets, following, plane, row, sources, source, source_row, offsets, taps, weights, weights_of_next, bias,
     bias_of_next, n, n_rows, n_columns) = function.args
    vector = ir.VectorType(_FLOAT, lanes)
    multiply_add = ir.Function(module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f32")
    build = ir.IRBuilder(function.append_basic_block())

    loops = [(n, 1), (n_rows, 1), (n_columns, lanes * vectors)]
    with ExitStack() as nested:
        order = (1, 2, 0) if shared else (0, 1, 2)
        index = {loop: nested.enter_context(_loop(build, *loops[loop]))[0] for loop in order}
        s, r, c = index[0], index[1], index[2]
        start = _address(build, bias, (s, bias_of_next))
        biases = [_broadcast(build, start, number, lanes) for number in range(maps) for _ in range(vectors)]
        first = _address(build, sources, (s, source), (r, source_row), (c, _SIZE(stride)))
        with _loop(build, taps, 1, biases) as (t, before, sums):
            tap = build.gep(first, [build.load(build.gep(offsets, [t]))])
            values = [_pixels(build, build.gep(tap, [_SIZE(v * lanes * stride)]), lanes, stride)
                      for v in range(vectors)]
            factors = _address(build, weights, (s, weights_of_next), (t, _SIZE(maps)))
            for number in range(maps):
                factor = _broadcast(build, factors, number, lanes)
                sums += [build.call(multiply_add, [factor, value, so_far])
                         for value, so_far in zip(values, before[number * vectors:])]
        first = _address(build, targets, (s, following), (r, row), (c, _SIZE(1)))
        for number, total in enumerate(sums):
            place = _address(build, first, (_SIZE(number // vectors), plane), (_SIZE(number % vectors), _SIZE(lanes)))
            build.store(_sigmoid(build, multiply_add, total) if sigmoid else total,
                        build.bitcast(place, vector.as_pointer()), align=4)
    build.ret_void()
    return str(module)


def _address(build: ir.IRBuilder, start: ir.Value, *positions: tuple[ir.Value, ir.Value]) -> ir.Value:
    """Write the address after steps of (number, distance)."""
    for number, distance in positions:
        start = build.gep(start, [build.mul(number, distance)])
    return start


def _broadcast(build: ir.IRBuilder, start: ir.Value, number: int, lanes: int) -> ir.Value:
    """Write the load of one number of an array into all lanes."""
    empty = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    single = build.insert_element(empty, build.load(build.gep(start, [_SIZE(number)])), _INDEX(0))
    return build.shuffle_vector(single, empty, ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes))


def _pixels(build: ir.IRBuilder, start: ir.Value, lanes: int, stride: int) -> ir.Value:
    """Write the load of every `stride`-th number."""
    wide = ir.VectorType(_FLOAT, lanes * stride)
    loaded = build.load(build.bitcast(start, wide.as_pointer()), align=4)
    if stride == 1:
        return loaded
    every = [_INDEX(number * stride) for number in range(lanes)]
    return build.shuffle_vector(loaded, ir.Constant(wide, ir.Undefined),
                                ir.Constant(ir.VectorType(_INDEX, lanes), every))


@contextmanager
def _loop(build: ir.IRBuilder, count: ir.Value, step: int,
          initial: Sequence[ir.Value] = ()) -> Iterator[tuple[ir.Value, list[ir.Value], list[ir.Value]]]:
    """Write a loop that runs at least once: its index, values of the previous pass, and a list for those of this."""
    before, body = build.block, build.append_basic_block()
    build.branch(body)
    build.position_at_end(body)
    index, previous = build.phi(_SIZE), [build.phi(value.type) for value in initial]
    results: list[ir.Value] = []
    yield index, previous, results
    following = build.add(index, _SIZE(step))
    for phi, start, result in zip((index, *previous), (_SIZE(0), *initial), (following, *results)):
        phi.add_incoming(start, before)
        phi.add_incoming(result, build.block)
    after = build.append_basic_block()
    build.cbranch(build.icmp_signed("<", following, count), body, after)
    build.position_at_end(after)


def _sigmoid(build: ir.IRBuilder, multiply_add: ir.Function, x: ir.Value) -> ir.Value:
    """Write 1 / (1 + exp(-x)), with exp(-x) = 2^n exp(r), n whole, and exp(r) from its power series.

    With r at most ln 2 / 2 the error of the sigmoid is about 1e-7.
    """
    vector = x.type
    whole = ir.VectorType(_INDEX, vector.count)

    def number(value: float) -> ir.Constant:
        return ir.Constant(vector, [_FLOAT(value)] * vector.count)

    def add_product(factor: ir.Value, other: ir.Value, added: ir.Value) -> ir.Value:
        return build.call(multiply_add, [factor, other, added])

    for limit, comparison in ((number(-SIGMOID_LIMIT), "<"), (number(SIGMOID_LIMIT), ">")):
        x = build.select(build.fcmp_ordered(comparison, x, limit), limit, x)
    rounded = add_product(x, number(-1 / math.log(2)), number(ROUNDING))
    n = build.fsub(rounded, number(ROUNDING))
    r = add_product(n, number(-LN2_LOW), add_product(n, number(-LN2_HIGH), build.fsub(number(-0.0), x)))
    power = number(1 / math.factorial(EXP_DEGREE))
    for degree in reversed(range(EXP_DEGREE)):
        power = add_product(power, r, number(1 / math.factorial(degree)))
    # n in the lowest bits of `rounded` moves into the exponent, which multiplies by 2^n.
    exponent = build.shl(build.bitcast(rounded, whole), ir.Constant(whole, [_INDEX(23)] * vector.count))
    exponential = build.bitcast(build.add(build.bitcast(power, whole), exponent), vector)
    return build.fdiv(number(1.0), build.fadd(exponential, number(1.0)))
