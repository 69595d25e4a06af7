"""The GPU kernel's source on an emulated GPU with all the lanes that it is launched with: answers and races."""

import ctypes
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.kernels import nvrtc
from fewshot_cli.profiling.problems import Problems, generated
from fewshot_cli.solvers.network_simplex import cuda
from fewshot_cli.testing import solvers
from fewshot_cli.testing.families import family

HERE = Path(__file__).parent
SOURCES = {file.name: file for file in (cuda.SOURCE, nvrtc.LANES)}
ON_CHIP = (227 << 10) - nvrtc.STATIC  # bytes of shared memory that a block of an H100 may use


class Compiler:
    """Builds of the kernel or of a changed copy, each made and loaded once."""

    def __init__(self, command, folder):
        self.command, self.folder, self.load = command, folder, cache(self._load)
        self.emulator = self._compile("emulator.o", HERE / "emulated.cpp", "-O2")

    def _compile(self, name, source, *flags):
        made = self.folder / name
        build = [self.command, "-std=c++17", "-fPIC", *flags, "-x", "c++", "-c", "-o", made, source]
        subprocess.run(build, check=True)
        return made

    def _load(self, source, *flags):
        name = f"kernel{self.load.cache_info().misses}"
        traced = ("-O1", "-g1", "-fsanitize=thread", "-include", HERE / "emulated.h")
        parts = [self._compile(f"{name}.o", source, *traced, *flags), self.emulator]
        library = self.folder / f"{name}.so"
        subprocess.run([self.command, "-shared", "-o", library, *parts, "-ldl"], check=True)
        loaded = ctypes.CDLL(str(library))
        loaded.launch.restype = ctypes.c_char_p
        return loaded


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    command, folder = shutil.which("g++"), tmp_path_factory.mktemp("emulated")
    if command is None or sys.platform != "linux":
        pytest.skip("no g++ on this machine")
    trial = [command, "-fsanitize=thread", "-x", "c++", "-c", "-o", folder / "trial.o", "/dev/null"]
    if subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("the compiler does not instrument code for ThreadSanitizer")
    return Compiler(command, folder)


def _located(library, fault):
    """The fault, with lines of the source instead of addresses where binutils knows them."""
    if shutil.which("addr2line") is None:
        return fault

    def line(address):
        return subprocess.check_output(["addr2line", "-s", "-e", library, address[0]], text=True).strip()

    return re.sub("0x[0-9a-f]+", line, fault)


class Emulated(Solver):
    """What `cuda.solve` launches, on the CPU and with two problems to a block; a race is an `AssertionError`.

    The code is for one size alone, or with `lanes` for any size and with that many lanes.
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
        workspace = np.full(max(1, slot * blocks), 0xA5, np.uint8)
        flags = [x for x in build.flags() if x.startswith(("-D", "-I"))]
        library = self.compiler.load(self.source, *flags, *self.flags)
        fault = library.launch(
            blocks,
            build.lanes,
            *((ctypes.c_void_p * len(some))(*(x.ctypes.data for x in some)) for some in (given, out)),
            (ctypes.c_int * 5)(batch, n, m, tree, near),
            ctypes.c_void_p(workspace.ctypes.data),
            ctypes.c_longlong(slot),
        )
        assert not fault, _located(library._name, fault.decode())
        return Plan(*map(torch.from_numpy, out))


def answers_like_the_cpu(solver, given):
    plan, best = solver.solve(*given), registry.solver("network_simplex")().solve(*given)
    value, least = ((given.cost.double() * p.flow.double()).sum((1, 2)) for p in (plan, best))
    near = 2e-7 if given.cost.dtype == torch.float32 else 1e-11
    return bool(plan.converged.all() and ((value - least).abs() <= near * least).all())


CHECKS = ("optimal", "priced", "consistent", "careful", "differentiable", "between")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("lanes", [32, *(pytest.param(lanes, marks=pytest.mark.slow) for lanes in (None, 128, 256))])
def test_lanes_keep_the_contract_and_do_not_race(compiler, lanes, check):
    case = solvers.Case(Emulated(compiler, lanes), solvers.Tolerance(1e-10, 1e-11, 1e-6))
    assert solvers.CHECKS[check](case) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "size", [(9, 9), (25, 4), (64, 4), (49, 25), (49, 49), pytest.param((441, 441), marks=pytest.mark.slow)]
)
def test_code_for_one_size_gives_the_cpus_answer(compiler, size, dtype):
    given = generated(*size, batch=3 if max(size) < 400 else 1).map(lambda x: x.to(dtype))
    assert answers_like_the_cpu(Emulated(compiler), given)


@pytest.mark.parametrize("lanes", [None, 32])
def test_tree_and_costs_may_lie_outside_shared_memory(compiler, lanes):
    given = generated(25, 9, batch=5)
    tree, _ = cuda.memory(25, 9, known=lanes is None)
    for on_chip in (tree, 0):
        assert answers_like_the_cpu(Emulated(compiler, lanes, on_chip), given)


def test_gpus_without_a_minimum_of_their_own_give_the_same_answer(compiler):
    assert answers_like_the_cpu(Emulated(compiler, flags=("-D__CUDA_ARCH__=750",)), generated(25, 9, batch=5))


def collectives(lanes):
    """A problem for collectives.cu: of its two columns, the second has its least value thrice."""
    cost = torch.arange(2.0 * lanes, dtype=torch.float64).flip(0).view(1, lanes, 2)
    cost[0, [3, 9, lanes // 2], 1] = -7
    return Problems(cost, cost[..., 0], cost[:, 0])


@pytest.mark.parametrize("lanes", [32, 128, 256])
def test_collectives_may_follow_each_other(compiler, lanes):
    given = collectives(lanes)
    plan = Emulated(compiler, lanes, source=HERE / "collectives.cu").solve(*given)
    first, second = plan.flow[0].int().T
    assert (first == lanes - 1).all() and (second == second[0]).all() and second[0] in (3, 9, lanes // 2)
    assert (plan.supply_price == given.cost[0, :, 0].sum() + 2 * given.cost[0, :, 1].sum()).all()


def copied(folder, name, text):
    """The sources, with this text in one of them."""
    for file in (HERE / "collectives.cu", *SOURCES.values()):
        (folder / file.name).write_text(text if file.name == name else file.read_text())
    return folder / cuda.SOURCE.name


@pytest.mark.parametrize(
    ("fault", "old", "new"),
    [
        ("race of lane", "push = argmin(push, leave);\n    fence();", "push = argmin(push, leave);"),
        ("call different functions", "    total = sum(total);", "    if (lane()) total = sum(total);"),
        ("wait for each other", "iterations[b] =", "fence(), iterations[b] ="),
        ("beyond the block's shared memory", "p.gone = p.row_key + p.n;", "p.gone = p.row_key + p.n + 1000;"),
    ],
)
def test_what_a_gpu_would_not_forgive_is_noticed(compiler, tmp_path, fault, old, new):
    text = cuda.SOURCE.read_text()
    assert text.count(old) == 1
    source = copied(tmp_path, cuda.SOURCE.name, text.replace(old, new))
    with pytest.raises(AssertionError, match=fault):
        Emulated(compiler, 32, source=source).solve(*generated(9, 9, batch=1))


FENCES = [
    pytest.param(file.name, fence.span(), id=f"{file.name}:{file.read_text()[: fence.end()].count(chr(10)) + 1}")
    for file in SOURCES.values()
    for fence in re.finditer(r"(fence|__syncthreads)\(\);(?! })", file.read_text())
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "span"), FENCES)
def test_every_missing_fence_is_noticed(compiler, tmp_path, name, span):
    text = SOURCES[name].read_text()
    source = copied(tmp_path, name, text[: span[0]] + ";" + text[span[1] :])
    given = Problems.joined((family(kind, 9, 9, 2) for kind in ("random", "uniform weights")), 4)
    with pytest.raises(AssertionError, match="race of lane"):
        for lanes in (32, None, 128):
            Emulated(compiler, lanes, source=source).solve(*given)
        Emulated(compiler, 128, source=tmp_path / "collectives.cu").solve(*collectives(128))
