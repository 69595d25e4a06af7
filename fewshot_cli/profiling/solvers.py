"""Time, memory, exactness and time complexity of solvers, measured side by side."""

import ctypes
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.parts import by_reference
from fewshot_cli.contracts import Solver
from fewshot_cli.profiling.problems import Problems
from fewshot_cli.runtime.device import matching_device

INPUTS = 3  # different batches that take turns, so that none is answered from a cache
SHORT = 0.05  # seconds; below it the caches that the solver before left cold would count, so an untimed call goes first
COMPARED = 8  # problems of a batch that the oracle solves


_Answer = tuple[Tensor, list[Tensor | None]]  # values [B], and gradients of cost, supply and demand, as far as given


@dataclass(frozen=True)
class Settings:
    """What to measure: `budget` in seconds for one solver at one size and pass, `rounds` timed calls of each.

    `now` gives the time in seconds on the CPU; a GPU has a clock of its own.
    """

    batch: int = 375
    rounds: int = 7
    backward: bool = True
    budget: float = 20.0
    now: Callable[[], float] = perf_counter


def _clock(device: torch.device, call: Callable[[], Any], now: Callable[[], float] = perf_counter) -> float:
    """Seconds of one call: by `now` on the CPU, by events on a GPU, whose cache is emptied before; the host does not
    wait in between.
    """
    if device.type != "cuda":
        start = now()
        call()
        return now() - start
    with torch.cuda.device(device), transport.checked_later():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 1 << 26)
        torch.empty(2 * cache, dtype=torch.uint8, device=device).zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _forward(solver: Solver, given: Problems) -> None:
    with torch.no_grad():
        transport.value(solver, *given)


def _backward(solver: Solver, given: Problems) -> None:
    leaves = given.map(lambda x: x.detach().requires_grad_())
    transport.value(solver, *leaves).sum().backward()


@dataclass
class _Entrant:
    """One solver at one size: its inputs, where it works, and its times so far."""

    name: str
    solver: Solver
    device: torch.device
    inputs: list[Problems]
    forward: list[float]
    both: list[float]


def measure(
    solvers: dict[str, Solver],
    sizes: list[tuple[int, int]],
    make: Callable[[int, int, int, int], Problems],
    device: torch.device,
    settings: Settings,
    announce: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One record for each solver and size; solvers take turns in every round, medians are reported.

    `make(n, m, batch, seed)` gives problems. Where a round would exceed the budget the batch shrinks, and a size that
    the last one predicts to exceed it is left out with a reason. Seconds are of one problem.
    """
    records: list[dict[str, Any]] = []
    last: dict[str, tuple[int, float]] = {}
    for n, m in sizes:
        announce(f"{n}×{m}")
        given = [make(n, m, settings.batch, seed) for seed in range(INPUTS)]
        entrants = []
        for name, solver in solvers.items():
            record: dict[str, Any] = {"solver": name, "n": n, "m": m}
            place = matching_device(solver, device)
            try:
                entrant = _enter(name, solver, place, given, settings, last.get(name))
            except Exception as cause:  # one solver's refusal, or memory, must not end the others' measurement
                record["skipped"] = str(cause) or type(cause).__name__
                records.append(record)
                continue
            entrants.append((record, entrant))
            records.append(record)
        for turn in range(settings.rounds):
            for record, e in entrants:
                if "skipped" not in record:
                    _round(record, e, turn, settings)
        best = _oracle(given[0])
        for record, e in entrants:
            if "skipped" not in record:
                record |= _figures(e, best, settings.now)
                last[e.name] = (n * m, record["seconds"])
    return records


def _round(record: dict[str, Any], e: _Entrant, turn: int, settings: Settings) -> None:
    """One timed call of each pass; a solver that fails is left out from then on, or its gradient is, and this is
    reported.
    """
    chosen, other = e.inputs[turn % INPUTS], e.inputs[(turn + 1) % INPUTS]
    try:
        if not e.forward or e.forward[-1] < SHORT:
            _forward(e.solver, e.inputs[(turn + 2) % INPUTS])
        e.forward.append(_clock(e.device, lambda: _forward(e.solver, chosen), settings.now))
    except Exception as cause:
        record["skipped"] = str(cause) or type(cause).__name__
        return
    if settings.backward and "gradient_failed" not in record:
        try:
            e.both.append(_clock(e.device, lambda: _backward(e.solver, other), settings.now))
        except Exception as cause:
            record["gradient_failed"] = str(cause) or type(cause).__name__
            e.both.clear()


def _enter(
    name: str,
    solver: Solver,
    place: torch.device,
    given: list[Problems],
    settings: Settings,
    last: tuple[int, float] | None,
) -> _Entrant:
    """Warm the solver up and choose its batch. Raises `RuntimeError` for a size that would take too long."""
    n, m = given[0][0].shape[1:]
    if last is not None and (guess := last[1] * (n * m / last[0]) ** 2) > settings.budget:
        raise RuntimeError(f"about {guess:.0f} s a problem; raise --budget to measure it")
    one = given[0].map(lambda x: x[:1].to(place))
    _forward(solver, one)  # compiles, loads libraries
    single = _clock(place, lambda: _forward(solver, one), settings.now)
    calls = settings.rounds * (3 if settings.backward else 1)
    batch = max(1, min(len(given[0][0]), int(settings.budget / calls / max(single, 1e-9))))
    inputs = [_moved(problems, batch, place) for problems in given]
    if batch > 1:
        # whole batches are cheaper: choose again
        once = _clock(place, lambda: _forward(solver, inputs[0]), settings.now)
        batch = max(1, min(len(given[0][0]), int(settings.budget / calls / max(once / batch, 1e-9))))
        inputs = [_moved(problems, batch, place) for problems in given]
    return _Entrant(name, solver, place, inputs, [], [])


def _moved(given: Problems, batch: int, place: torch.device) -> Problems:
    """The first problems of a batch, on a device."""
    return given.map(lambda x: x[:batch].to(place))


def _oracle(given: Problems) -> _Answer | None:
    """Value [B], and gradient of cost, supply and demand, of the first problems; weight gradients without their
    mean. None when no reference proves its values optimal.
    """
    n, m = given[0].shape[1:]
    return by_reference(n, m, lambda solver: _answer(solver, given.map(lambda x: x[:COMPARED].double())))


def _answer(solver: Solver, given: Problems) -> _Answer:
    leaves = given.map(lambda x: x.detach().clone().requires_grad_())
    value = transport.value(solver, *leaves)
    grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    centred: list[Tensor | None] = [g if g is None or g.ndim == 3 else g - g.mean(1, keepdim=True) for g in grads]
    return value.detach(), centred


def _figures(e: _Entrant, best: _Answer | None, now: Callable[[], float]) -> dict[str, Any]:
    batch = len(e.inputs[0][0])
    seconds = statistics.median(e.forward) / batch
    few = e.inputs[0].map(lambda x: x[:COMPARED])
    compared = len(few.cost)
    try:
        value, gradients = _answer(e.solver, few)
    except Exception:  # the gradient failed, which the record says where it was timed
        with torch.no_grad():
            value, gradients = transport.value(e.solver, *few), [None] * 3
    gap: float | None = None
    errors: list[float | None] = [None] * 3
    if best is not None:
        optimum = best[0][:compared]
        gap = float(((value.cpu().double() - optimum) / optimum.abs().clamp(min=1e-12)).abs().max())
        errors = [_error(g, x) for g, x in zip(gradients, best[1], strict=True)]
    peak = _peak(e.device, lambda: _forward(e.solver, e.inputs[0]))
    with torch.no_grad():
        plan = transport.solve(e.solver, *e.inputs[0])
    tiny = Problems(torch.zeros(1, 1, 1), torch.ones(1, 1), torch.ones(1, 1)).map(lambda x: x.to(e.device))
    overhead = None
    with suppress(Exception):  # a solver may refuse the smallest problem there is
        _forward(e.solver, tiny)
        overhead = statistics.median(_clock(e.device, lambda: _forward(e.solver, tiny), now) for _ in range(5))
    figures = {
        "device": e.device.type,
        "batch": batch,
        "seconds": seconds,
        "problems_per_second": 1 / seconds,
        "call_overhead_seconds": overhead,
        "peak_bytes": peak,
        "relative_gap": gap,
        "certified_gap": None if plan.certified_gap is None else float(plan.certified_gap.abs().max()),
        "cost_gradient_error": errors[0],
        "weight_gradient_error": None if None in errors[1:] else max(x for x in errors[1:] if x is not None),
        "iterations": float(plan.iterations.double().mean()) or None,
        "not_converged": int((~plan.converged).sum()),
    }
    if e.both:
        both = statistics.median(e.both) / batch
        figures |= {"seconds_with_gradient": both, "gradient_over_forward": both / seconds}
    return figures


def _error(gradient: Tensor | None, exact: Tensor | None) -> float | None:
    """The largest error of a gradient [B,…], relative to the largest component of the exact ones."""
    if gradient is None or exact is None:
        return None
    off = (gradient.cpu().double() - exact[: len(gradient)]).abs().max()
    return float(off / exact.abs().max().clamp(min=1e-12))


def _peak(device: torch.device, call: Callable[[], Any], process: Path = Path("/proc/self")) -> int | None:
    """Peak bytes of a call beyond what was in use: of the device's memory, or of this process's, of which
    Linux keeps account in the folder `process`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    status = process / "status"
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what the process holds in reserve would hide what the call takes
        (process / "clear_refs").write_text("5")  # lets the high-water mark start again
        before = _field(status, "VmRSS")
        call()
        return max(0, _field(status, "VmHWM") - before)
    except (OSError, AttributeError, StopIteration, ValueError):
        call()
        return None


def _field(status: Path, name: str) -> int:
    return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])


def rungs(name: str, solver: Solver) -> dict[str, Solver]:
    """The solver with each setting of its `ladder`, named by what it changes; the solver itself where it has none."""
    found: dict[str, Solver] = {}
    for setting in solver.ladder:
        options = type(solver.options).model_validate({**solver.options.model_dump(), **setting})
        said = ", ".join(f"{key}={value}" for key, value in setting.items())
        found[f"{name} {said}"] = type(solver)(options)
    return found or {name: solver}


def fits(records: list[dict[str, Any]], solvers: dict[str, Solver]) -> list[dict[str, Any]]:
    """For each solver the power of n that its time grows with, and what the literature says.

    A line through log seconds over log √(n·m) by least squares; `exponent_ci95` is half the width of its slope's 95 %
    interval, by Student's t. At least three sizes.
    """
    from scipy.special import stdtrit  # here, since importing it takes long

    rows = []
    for name, solver in solvers.items():
        points = [(math.sqrt(r["n"] * r["m"]), r["seconds"]) for r in records if r["solver"] == name and "seconds" in r]
        formula, exponent = solver.complexity
        row = {"solver": name, "sizes": len(points), "theory": formula, "theory_exponent": exponent}
        if len({x for x, _ in points}) >= 3:
            slope, error = _slope([math.log(x) for x, _ in points], [math.log(t) for _, t in points])
            reach = float(stdtrit(len(points) - 2, 0.975)) * error
            row |= {"exponent": slope, "exponent_ci95": reach, "from": min(points)[0], "to": max(points)[0]}
        rows.append(row)
    return rows


def _slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Least-squares slope and its standard error."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    rest = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(rest / (len(x) - 2) / spread)


def parse_sizes(text: str) -> Iterator[tuple[int, int]]:
    """`9,25,49x25` → (9, 9), (25, 25), (49, 25). Raises `ValueError`."""
    for word in text.split(","):
        n, _, m = word.strip().partition("x")
        size = int(n), int(m or n)
        if min(size) < 1:
            raise ValueError(word)
        yield size
