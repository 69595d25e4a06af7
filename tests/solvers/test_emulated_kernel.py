"""The GPU kernel's source on an emulated GPU: its answers and its races, with all lanes that it is launched with."""

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.profiling.problems import generated
from fewshot_cli.solvers.network_simplex import cuda
from fewshot_cli.testing import solvers
from fewshot_cli.testing.families import family

EMULATOR = Path(__file__).with_name("emulated.cpp")
ON_CHIP = 232448 - cuda.STATIC  # bytes of shared memory that a block of an H100 may use
FENCE = re.compile(r"(?<=\n)( *)(fence|__syncthreads)\(\);\n")


class Compiler:
    """Builds of the kernel, or of a changed copy of it, each loaded once."""

    def __init__(self, command, folder):
        self.command, self.folder, self.load = command, folder, cache(self._load)
        self(folder / "emulated.o", EMULATOR, "-O2", "-Wall", "-Wextra", "-Werror")

    def __call__(self, made, source, *flags):
        wanted = [self.command, "-std=c++17", "-fPIC", "-x", "c++", "-c", *flags, "-o", made, source]
        subprocess.run(wanted, check=True, capture_output=True, text=True)

    def _load(self, source, *flags):
        made = self.folder / str(len(list(self.folder.iterdir())))
        self(made.with_suffix(".o"), source, "-O1", "-fsanitize=thread", "-include", EMULATOR.with_suffix(".h"), *flags)
        parts = [made.with_suffix(".o"), self.folder / "emulated.o"]
        subprocess.run([self.command, "-shared", "-o", made.with_suffix(".so"), *parts, "-ldl"], check=True)
        library = ctypes.CDLL(str(made.with_suffix(".so")))
        library.launch.restype = ctypes.c_char_p
        return library


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    command, folder = shutil.which("g++") or shutil.which("clang++"), tmp_path_factory.mktemp("emulated")
    if command is None:
        pytest.skip("no C++ compiler on this machine")
    (folder / "none.cpp").write_text("")
    try:
        Compiler.__call__(mock.Mock(command=command), folder / "none.o", folder / "none.cpp", "-fsanitize=thread")
    except subprocess.CalledProcessError:
        pytest.skip("the compiler does not instrument code for ThreadSanitizer")
    return Compiler(command, folder)


class Emulated(Solver):
    """What `cuda.solve` launches, launched on the CPU, two problems to a block; a race or a deadlock is an error.

    `known`: by code for the problems' size alone; else by code for any size, with that many lanes.
    """

    exact = True

    def __init__(self, compiler, lanes=None, on_chip=ON_CHIP, source=cuda.SOURCE, flags=()):
        super().__init__()
        self.compiler, self.lanes, self.on_chip, self.source, self.flags = compiler, lanes, on_chip, source, flags

    def solve(self, cost, supply, demand):
        given = [np.ascontiguousarray(x.detach().numpy()) for x in (cost, supply, demand)]
        batch, n, m = cost.shape
        out = [*map(np.zeros_like, given), np.zeros(batch, np.int64), np.zeros(batch, bool)]
        with mock.patch.object(cuda, "_sizes", set(range(cuda.KNOWN) if self.lanes else ())):
            build, tree, near = cuda._build(cost.dtype == torch.float64, n, m, self.on_chip)
        build = replace(build, lanes=self.lanes or build.lanes)
        blocks, slot = -(-batch // 2), sum(cuda.memory(n, m, build.size is not None)) - tree - near
        work = np.full(max(1, slot * blocks), 0xA5, np.uint8)
        flags = [x for x in build.flags() if x.startswith(("-D", "-I")) and "STATE" not in x]
        fault = self.compiler.load(self.source, *flags, *self.flags).launch(
            blocks,
            build.lanes,
            *((ctypes.c_void_p * len(some))(*(x.ctypes.data for x in some)) for some in (given, out)),
            (ctypes.c_int * 5)(batch, n, m, tree, near),
            ctypes.c_void_p(work.ctypes.data),
            ctypes.c_longlong(slot),
        )
        assert not fault, fault.decode()
        return Plan(*map(torch.from_numpy, out))


@pytest.mark.parametrize("check", ["optimal"])
def test_x(compiler, check):
    assert solvers.CHECKS[check](solvers.Case(Emulated(compiler, 32), solvers.Tolerance(1e-10, 1e-11, 1e-6))) is None
