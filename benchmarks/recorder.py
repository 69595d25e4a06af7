"""A solver's problems kept and solved again, for what something adds to the bare solver."""

from time import perf_counter

from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Plan, Solver

Problems = list[tuple[Tensor, Tensor, Tensor]]


class Recorder(Solver):
    """Keeps a copy of every batch of problems it passes on, without warm starts."""

    def __init__(self, inner: Solver) -> None:
        super().__init__(inner.options)
        self.inner, self.problems, self.devices = inner, [], inner.devices
        self.exact, self.gradient = inner.exact, inner.gradient

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        self.problems.append(tuple(x.clone() for x in (cost, supply, demand)))
        return self.inner.solve(cost, supply, demand)


def bare(solver: Solver, problems: Problems) -> float:
    """Seconds of the recorded calls, without warm starts."""
    begin = perf_counter()
    for problem in problems:
        transport.solve(solver, *problem)
    return perf_counter() - begin
