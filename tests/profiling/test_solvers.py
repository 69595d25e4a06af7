"""`fsl profile` and `fsl doctor`: what they report, and that it is right."""

import builtins
import csv
import dataclasses
import io
import itertools
import json
import sys

import numpy as np
import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError
from fewshot_cli.profiling import solvers as profile
from fewshot_cli.profiling.problems import from_features, generated
from fewshot_cli.testing import solvers as suite

CPU = torch.device("cpu")


class Slow(Solver):
    """Takes 20 ms a problem on the clock that it is given, and answers with the product plan."""

    complexity = ("O(n⁵)", 5)
    time = 0.0

    def solve(self, cost, supply, demand):
        self.time += 0.02 * len(cost)
        flow = supply[:, :, None] * demand[:, None, :] / supply.sum(1)[:, None, None]
        count = torch.full((len(cost),), 3)
        return Plan(flow, None, None, count, count > 5)


class Refusing(Solver):
    """Refuses."""

    def solve(self, cost, supply, demand):
        raise RuntimeError("not today")

    @staticmethod
    def fine(*problem):
        return registry.solver("network_simplex")().solve(*problem)


def test_profile_prints_every_figure_for_every_solver(fsl, tmp_path):
    code, out, err = fsl(
        "profile",
        "--solver",
        "network_simplex,opencv,sinkhorn",
        "--sizes",
        "4,6,9,12x8",
        "--batch",
        30,
        "--rounds",
        3,
        "--budget",
        1000,  # which no load of the machine exceeds
        "--format",
        "json",
        "-o",
        tmp_path / "plot.svg",
    )
    assert code == 0, err
    result = json.loads(out)
    assert [(r["solver"], r["n"], r["m"]) for r in result["records"]][:3] == [
        (s, 4, 4) for s in ("network_simplex", "opencv", "sinkhorn")
    ]
    assert len(result["records"]) == 12
    for r in result["records"]:
        assert r["batch"] == 30 and r["problems_per_second"] * r["seconds"] == pytest.approx(1)
        assert r["seconds_with_gradient"] / r["seconds"] == pytest.approx(r["gradient_over_forward"])
        assert r["relative_gap"] < (0.2 if r["solver"] == "sinkhorn" else 1e-5) and r["not_converged"] == 0
        assert (r["weight_gradient_error"] is None) == (r["solver"] == "opencv")
    own = [r for r in result["records"] if r["solver"] == "network_simplex"]
    assert all(r["cost_gradient_error"] < 1e-5 and r["weight_gradient_error"] < 1e-4 for r in own)
    assert own[0]["iterations"] < own[2]["iterations"]
    assert {fit["solver"]: (fit["sizes"], "exponent" in fit) for fit in result["fits"]}["opencv"] == (4, True)
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_a_ladder_measures_approximate_solvers_at_several_accuracies(fsl, tmp_path):
    code, out, err = fsl(
        *("profile", "--ladder", "--solver", "network_simplex,sinkhorn,pot_sinkhorn", "--sizes", "6", "--batch", 4),
        *("--rounds", 1, "--set", "sinkhorn.max_iterations=700", "--format", "json", "-o", tmp_path / "error.svg"),
    )
    assert code == 0, err
    records = json.loads(out)["records"]
    gaps = {r["solver"]: abs(r["relative_gap"]) for r in records}
    assert list(gaps)[0] == "network_simplex" and len(gaps) == 12 and "pot_sinkhorn method=proximal" in gaps
    for name in ("sinkhorn", "pot_sinkhorn"):
        ladder = [gap for solver, gap in gaps.items() if solver.startswith(f"{name} regularisation=")]
        assert len(ladder) == 5 and ladder == sorted(ladder, reverse=True) and ladder[0] > 5 * ladder[-1]
    assert "<svg" in (tmp_path / "error.svg").read_text()


def test_a_rung_keeps_the_other_options_and_exact_solvers_have_none():
    cls = registry.solver("sinkhorn")
    rungs = profile.rungs("sinkhorn", cls(cls.Options(max_iterations=7)))
    assert [solver.options.max_iterations for solver in rungs.values()] == [7] * len(cls.ladder)
    assert [solver.options.regularisation for solver in rungs.values()] == [x["regularisation"] for x in cls.ladder]
    exact = registry.solver("network_simplex")()
    assert profile.rungs("network_simplex", exact) == {"network_simplex": exact}


def test_profile_in_other_formats_and_on_a_recipes_features(fsl, glyph_root, tmp_path):
    common = ["profile", "--solver", "network_simplex", "--sizes", "4,30", "--batch", 20, "--rounds", 1, "--forward"]
    code, out, _ = fsl(*common, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["n"] for row in rows] == ["4", "30"] and "seconds_with_gradient" not in rows[0]
    code, out, _ = fsl(
        *common, "--format", "md", "--recipe", "glyphs_5w1s", "--data-root", glyph_root, "--plot", tmp_path / "p.png"
    )
    assert (
        code == 0
        and "| network_simplex | 30×30 |" in out
        and "features of glyphs_5w1s" in out
        and "needs three sizes" in out
    )
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert fsl(*common)[1].count("network_simplex") == 4  # in the sentence and in the tables


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--sizes", "9,0"], "whole numbers above zero"),
        (["--sizes", "9,x"], "--sizes 9,x"),
        (["--out", "p.jpg"], ".png, .svg or .pdf"),
        (["--ladder", "--step"], "--ladder is for solvers, which --step does not measure"),
        (["--out", "p.png", "--step"], "--out draws the time of solvers over size, which --step does not measure"),
        (["--solver", "opencw"], "did you mean 'opencv'"),
        (["--solver", "pot", "--set", "opencv.workers=1"], "one of pot"),
        (["--solver", "sinkhorn", "--set", "sinkhorn.regularisation=-1"], "regularisation"),
        (["--weights", "w.safetensors"], "--recipe"),
        (["--device", "tpu"], "is no device"),
    ],
)
def test_profile_refuses_bad_input(fsl, arguments, phrase):
    code, _, err = fsl("profile", *arguments)
    assert code == 2 and phrase in err


def test_a_slow_or_refusing_solver_does_not_stop_the_others(monkeypatch):
    """On a clock that only the slow solver moves, but for a millisecond each time that it is read."""
    slow_one, reading = Slow(), itertools.count()
    solvers = {"slow": slow_one, "refusing": Refusing(), "network_simplex": registry.solver("network_simplex")()}

    def now():
        return slow_one.time + 1e-3 * next(reading)

    monkeypatch.setattr(profile, "_peak", lambda device, call: 4096)
    settings = profile.Settings(batch=20, rounds=2, backward=False, budget=0.3, now=now)
    records = profile.measure(solvers, [(3, 3), (20, 20)], generated, CPU, settings)
    slow, refusing, own, later = records[0], records[1], records[2], records[3]
    assert slow["batch"] == 7 and own["batch"] == 20  # 2 rounds of 20 ms a problem within 0.3 s
    assert slow["seconds"] == pytest.approx(0.02 + 1e-3 / 7) and slow["problems_per_second"] == 1 / slow["seconds"]
    assert own["seconds"] == pytest.approx(1e-3 / 20) and own["call_overhead_seconds"] == pytest.approx(1e-3)
    assert slow["iterations"] == 3 and slow["not_converged"] == 7 and slow["peak_bytes"] == 4096
    assert refusing["skipped"] == "not today"
    assert later["skipped"] == "about 40 s a problem; raise --budget to measure it"  # (20 + ⅐) ms · (400/9)²


def test_a_batch_is_cut_to_the_budget_of_all_timed_calls():
    """Half a second for two rounds, each of three calls where the gradient is timed: 83 ms a call."""
    solver = Slow()
    settings = profile.Settings(batch=20, rounds=2, budget=0.5, now=lambda: solver.time + 1e-9)
    given = [generated(3, 3, 20, seed) for seed in range(3)]
    assert len(profile._enter("slow", solver, CPU, given, settings, None).inputs[0][0]) == 4
    forward = dataclasses.replace(settings, backward=False)
    assert len(profile._enter("slow", solver, CPU, given, forward, None).inputs[0][0]) == 12


def test_peak_memory_is_what_a_call_adds_to_what_is_in_use(tmp_path):
    def status(in_use: int, height: int) -> None:
        (tmp_path / "status").write_text(f"Name:\tpython\nVmHWM:\t{height} kB\nVmRSS:\t{in_use} kB\n")

    status(in_use=3000, height=9000)
    assert profile._peak(CPU, lambda: status(in_use=3000, height=5000), tmp_path) == 2000 * 1024
    assert (tmp_path / "clear_refs").read_text() == "5"  # Linux: set the height to what is in use
    assert profile._peak(CPU, lambda: status(in_use=1000, height=2000), tmp_path) == 0
    called = []
    assert profile._peak(CPU, lambda: called.append(1), tmp_path / "none") is None and called == [1]


def test_a_gradient_that_fails_leaves_the_forward_figures():
    class NoGradient(Slow):
        gradient = "autograd"

        def solve(self, cost, supply, demand):
            if torch.is_grad_enabled():
                raise DataError("singular")
            return Refusing.fine(cost, supply, demand)

    settings = profile.Settings(batch=5, rounds=2, budget=1)
    (record,) = profile.measure({"none": NoGradient()}, [(3, 3)], generated, CPU, settings)
    assert record["gradient_failed"] == "singular" and record["seconds"] > 0 and "seconds_with_gradient" not in record
    assert record["relative_gap"] < 1e-5 and record["cost_gradient_error"] is None


def test_exponent_and_its_error_are_those_of_least_squares():
    x, rng = np.log([9.0, 13, 25, 36, 49, 64]), np.random.default_rng(0)
    y = 2.5 * x - 7 + 0.1 * rng.standard_normal(6)
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    assert profile._slope(list(x), list(y)) == pytest.approx((slope, covariance[0, 0] ** 0.5))
    records = [{"solver": "s", "n": n, "m": 4 * n, "seconds": 1e-6 * (2 * n) ** 3} for n in (2, 5, 11)]
    (fit,) = profile.fits(records, {"s": Slow()})
    assert fit["exponent"] == pytest.approx(3) and fit["exponent_ci95"] < 1e-6 and fit["theory_exponent"] == 5
    assert (fit["from"], fit["to"]) == (4, 22)


def test_problems_on_features_are_deepemds():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat_interleave(10)
    features = torch.rand(70, 16, 2, 2, generator=rng)
    cost, supply, demand = from_features(features, labels, 9, 6, batch=60, seed=1)
    assert (
        cost.shape == (60, 9, 6)
        and torch.allclose(supply.sum(1), torch.tensor(9.0))
        and torch.allclose(demand.sum(1), supply.sum(1))
    )
    assert not torch.equal(cost, from_features(features, labels, 9, 6, batch=60, seed=2)[0])
    assert torch.equal(cost, from_features(features, labels, 9, 6, batch=60, seed=1)[0])


def test_doctor_says_what_works(fsl, tmp_path):
    code, out, _ = fsl("doctor", "--format", "json", "--data-root", tmp_path / "none")
    state = {row["what"]: row["state"] for row in json.loads(out)}
    assert (
        code == 0
        and state["solver network_simplex"] == "works"
        and "none prepared" in state[f"data in {tmp_path / 'none'}"]
    )
    assert set(f"solver {name}" for name in registry.entries("solvers")) <= set(state)
    assert "network_simplex" in fsl("doctor")[1]


def test_doctor_runs_the_contract_suite_and_fails_a_broken_solver(fsl, monkeypatch):
    code, out, _ = fsl("doctor", "--check", "solver:network_simplex", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and [row["check"] for row in rows] == list(suite.CHECKS)
    assert {row["outcome"] for row in rows} <= {"passed", "skipped"}
    own = registry.solver("network_simplex")
    solve = own.solve

    def wrong(self, cost, supply, demand):
        plan = solve(self, cost, supply, demand)
        return Plan(
            plan.flow * (1 + 0.01 * len(cost)), *[getattr(plan, k) for k in list(Plan.__dataclass_fields__)[1:]]
        )

    monkeypatch.setattr(own, "solve", wrong)
    code, out, err = fsl("doctor", "--check", "solver:network_simplex", "--format", "json")
    failed = [row["check"] for row in json.loads(out) if row["outcome"] == "failed"]
    assert code == 1 and {"optimal", "consistent"} <= set(failed) and "strict" not in failed and "checks failed" in err
    for wrong in ("network_simplex", "recipe:emd", "solver:"):
        code, _, err = fsl("doctor", "--check", wrong)
        assert code == 2 and "KIND:NAME" in err
    code, _, err = fsl("doctor", "--check", "solver:opencw")
    assert code == 2 and "did you mean 'opencv'" in err


@pytest.mark.parametrize(
    "fault", [ImportError("no such module"), RuntimeError("operator does not exist"), OSError("libx.so: bad ELF")]
)
@pytest.mark.parametrize(
    ("name", "module"),
    [("opencv", "cv2"), ("pot", "ot"), ("pot_sinkhorn", "ot"), ("qpth", "qpth"), ("network_simplex", "numba")],
)
def test_an_absent_or_broken_library_is_a_sentence_with_the_install_command(monkeypatch, fsl, name, module, fault):
    cls, real = registry.solver(name), builtins.__import__
    if name == "qpth":
        sys.modules[cls.__module__]._layer.cache_clear()

    def broken(wanted, *rest, **more):
        if wanted.partition(".")[0] == module:
            raise fault
        return real(wanted, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    reason = cls.unavailable_reason()
    assert str(fault) in reason and "pip install" in reason
    code, _, err = fsl("profile", "--solver", name, "--sizes", "4")
    assert code == 2 and f"solver {name}: " in err and "pip install" in err
