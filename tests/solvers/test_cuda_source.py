"""The GPU kernel's source without a GPU: as C++ with one lane, and through NVRTC; then how it is launched."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from one_lane import compiled

from fewshot_cli import registry
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import RecipeError
from fewshot_cli.kernels import nvrtc, proof
from fewshot_cli.profiling.problems import generated
from fewshot_cli.solvers.network_simplex import cuda
from fewshot_cli.testing import solvers
from fewshot_cli.testing.families import family


class OneLane(Solver):
    """The kernel compiled as C++ for float32 and float64."""

    exact = True

    def __init__(self, libraries):
        super().__init__()
        self.libraries = libraries

    def solve(self, cost, supply, demand):
        c, s, d = (np.ascontiguousarray(x.detach().numpy()) for x in (cost, supply, demand))
        out = [np.zeros_like(c), np.zeros_like(s), np.zeros_like(d), np.zeros(len(c), np.int64), np.zeros(len(c), bool)]
        self.libraries[cost.dtype].solve(*(ctypes.c_void_p(x.ctypes.data) for x in (c, s, d, *out)), *cost.shape)
        return Plan(*map(torch.from_numpy, out))


@pytest.fixture(scope="module")
def one_lane(tmp_path_factory):
    return OneLane(compiled(cuda.SOURCE, tmp_path_factory.mktemp("one_lane")))


@pytest.mark.parametrize("check", ["optimal", "priced", "consistent", "careful", "differentiable", "between"])
def test_one_lane_keeps_the_contract(one_lane, check):
    assert solvers.CHECKS[check](solvers.Case(one_lane, solvers.Tolerance(1e-10, 1e-11, 1e-6))) is None


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_does_not_converge_and_takes_no_pivot(one_lane, which, wrong):
    for size, dtype in (((7, 3), torch.float64), ((25, 25), torch.float32)):
        given = [x.to(dtype).contiguous() for x in family("random", *size, 3)]
        given[which][1].view(-1)[-1] = wrong
        plan = one_lane.solve(*given)
        assert plan.converged.tolist() == [True, False, True] and plan.iterations[1] == 0
        assert all(torch.isfinite(x).all() for x in (plan.flow, plan.supply_price, plan.demand_price))


@pytest.mark.parametrize("size", [(9, 9), (25, 25), (64, 4), (100, 100), (441, 441)])
def test_one_lane_in_float32_is_as_near_as_float32_can_be(one_lane, size):
    given = generated(*size, batch=3 if max(size) < 400 else 1)
    plan, best = one_lane.solve(*given), registry.solver("network_simplex")().solve(*given)
    assert plan.converged.all()
    value, least = ((given[0].double() * p.flow.double()).sum((1, 2)) for p in (plan, best))
    assert ((value - least).abs() <= 2e-7 * least).all()
    slack = given[0].double() - plan.supply_price[:, :, None].double() - plan.demand_price[:, None].double()
    assert slack.min() >= -2e-6


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("wide", [False, True])
def test_source_compiles_for_gpus(arch, wide):
    if find_spec("nvidia") is None or find_spec("nvidia.cuda_nvrtc") is None:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed")
    folder = Path(find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0])
    library = ctypes.CDLL(str(next(folder.glob("lib/libnvrtc.so.*"))))
    builds = [cuda.Build(wide, cuda.lanes(n, n), cuda.registers(n, n)) for n in (9, 40, 100, 441)]
    builds += [cuda._build(wide, n, m, 1 << 17)[0] for n, m in ((9, 9), (64, 4), (49, 49), (100, 100))]
    assert [build.size is None for build in builds] == [True] * 4 + [False] * 4
    sources = [(cuda.SOURCE, build.flags()) for build in builds]
    sources += [(proof.SOURCE, nvrtc.flags(proof.SOURCE, wide, lanes)) for lanes in (proof.WARP, proof.LARGE)]
    for source, flags in sources:
        program, length = ctypes.c_void_p(), ctypes.c_size_t()
        library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), b"solve", 0, None, None)
        options = [x.encode() for x in (f"--gpu-architecture={arch}", *flags)]
        code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        library.nvrtcGetProgramLogSize(program, ctypes.byref(length))
        log = ctypes.create_string_buffer(length.value)
        library.nvrtcGetProgramLog(program, log)
        assert code == 0, log.value.decode()


def test_lanes_and_memory_of_the_sizes_in_use():
    assert [cuda.lanes(*size) for size in ((25, 25), (64, 64), (65, 64), (441, 441))] == [32, 32, 128, 256]
    tree, near = cuda.memory(25, 25)
    assert tree >= 50 * (48 + 16) and near >= 4 * 625 and tree % 16 == near % 16 == 0
    assert cuda.memory(25, 25, known=True) == (50 * (32 + 8), near)
    assert cuda.memory(100, 100, known=True) == cuda.memory(100, 100)


def test_sizes_that_come_after_many_others_share_a_build(monkeypatch):
    monkeypatch.setattr(cuda, "_sizes", set())
    limit = 1 << 16
    first = [cuda._build(False, n, 3, limit)[0] for n in range(1, cuda.KNOWN + 1)]
    assert [build.size[:2] for build in first] == [(n, 3) for n in range(1, cuda.KNOWN + 1)]
    late = {cuda._build(False, n, 3, limit)[0] for n in range(cuda.KNOWN + 1, 40)}
    assert late == {cuda.Build(False, 32, 64)} and cuda._build(False, 1, 3, limit)[0] == first[0]
    assert cuda._build(True, 300, 300, limit)[1:] == (0, 0)  # neither the tree nor the costs fit


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_is_a_sentence():
    cls = registry.solver("network_simplex")
    assert cls().devices == ("cpu",)
    with pytest.raises(RecipeError, match="network_simplex on cuda: PyTorch sees no CUDA device"):
        cls(cls.Options(device="cuda"))


@pytest.mark.parametrize("fault", [ImportError("No module named 'cupy'"), RuntimeError("CUDA driver is too old")])
def test_absent_or_broken_cupy_is_a_sentence_with_the_install_command(monkeypatch, fault, capsys):
    import builtins

    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "cupy":
            raise fault
        return real(name, *rest, **more)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'fewshot-cli[cuda12]'" in nvrtc.missing() and str(fault) in nvrtc.missing()
    assert registry.solver("network_simplex")().devices == ("cpu",)
    assert "solves on the CPU" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("size", [(9, 9), (25, 25), (64, 4), (100, 100), (441, 441)])
def test_gpu_gives_the_cpus_answer(size):
    solver = registry.solver("network_simplex")()
    given = generated(*size, batch=50 if max(size) < 400 else 2)
    here, there = solver.solve(*given), solver.solve(*(x.cuda() for x in given))
    assert there.flow.is_cuda and there.converged.all()
    value, least = ((given[0].double() * p.flow.cpu().double()).sum((1, 2)) for p in (there, here))
    assert ((value - least).abs() <= 1e-6 * least).all()
