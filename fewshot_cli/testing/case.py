"""A solver under test: its tolerances, its values, and the oracle's."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fewshot_cli import registry, transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_solver
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError
from fewshot_cli.profiling.problems import Problems
from fewshot_cli.testing.families import family


class Failed(AssertionError):
    """A solver broke its contract."""


@dataclass(frozen=True)
class Tolerance:
    """What a solver may be off by: `value` relative to mass · largest |cost|, `marginal` relative to the mass,
    `gradient` relative to the largest component. `deterministic` means a problem's answer does not depend on its batch;
    problems of more than `largest` cells would take it too long.
    """

    value: float
    marginal: float
    gradient: float
    deterministic: bool = True
    largest: int = 1 << 30


EXACT, APPROXIMATE = Tolerance(1e-8, 1e-8, 1e-4), Tolerance(0.05, 1e-3, 0.05, False)
TOLERANCES = {
    "highs": Tolerance(1e-8, 1e-8, 1e-5),
    "network_simplex": Tolerance(1e-11, 1e-11, 1e-6),
    "opencv": Tolerance(2e-5, 1e-4, 0.05),
    "pot": Tolerance(1e-10, 1e-10, 1e-6),
    "pot_sinkhorn": Tolerance(0.02, 1e-4, 0.02, False),
    "qpth": Tolerance(1e-4, 1e-5, 1e-2, False, largest=300),
    "sinkhorn": Tolerance(0.02, 1e-4, 0.02, False),
    "uniform": Tolerance(1e-11, 1e-11, 1e-6),
}
ORACLE_NOISE = 1e-8  # HiGHS stops at about this itself


@dataclass(frozen=True)
class Case:
    """A solver with its tolerance."""

    solver: Solver
    tolerance: Tolerance

    def value(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
        """`transport.value` with this solver."""
        return transport.value(self.solver, cost, supply, demand)

    def near(self, given: Problems, factor: float = 1.0) -> Tensor:
        """The value tolerance [B] in the units of the problems' values."""
        return factor * self.tolerance.value * given[1].sum(1) * given[0].abs().amax((1, 2)).clamp(min=1e-5)


def case(name: str, solver: Solver | None = None) -> Case:
    """The registered solver `name`, or one of its kind with other options. Raises `RecipeError` when it cannot run."""
    built = solver or build_solver(default_part("solvers", name))
    return Case(built, TOLERANCES.get(name, EXACT if built.exact else APPROXIMATE))


def require(fine: bool | Tensor, sentence: str) -> None:
    """Raise `Failed` unless all is fine."""
    if not bool(torch.as_tensor(fine).all()):
        raise Failed(sentence)


@cache
def oracle(name: str, n: int, m: int, batch: int, seed: int = 0) -> Tensor:
    """Optimal values [B] of a family, by HiGHS."""
    return transport.value(registry.solver("highs")(), *family(name, n, m, batch, seed))


def solved(case: Case, given: Problems) -> Plan | None:
    """The plan, or None when the solver refuses the problem or would take too long."""
    if given[0][0].numel() > case.tolerance.largest:
        return None
    try:
        return transport.solve(case.solver, *given)
    except DataError:
        return None
