"""A solver under test: its tolerances, its values, and the oracle's."""

from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_solver, by_reference
from fewshot_cli.contracts import APPROXIMATE, EXACT, Plan, Solver, Tolerance
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.profiling.problems import Problems
from fewshot_cli.testing.families import family


class Failed(AssertionError):
    """A solver broke its contract."""


CPU = torch.device("cpu")
ORACLE_NOISE = 1e-8  # the reference itself may stop at about this


@dataclass(frozen=True)
class Case:
    """A solver with its tolerance, and the device its problems lie on; what it answers comes back to the CPU."""

    solver: Solver
    tolerance: Tolerance
    device: torch.device = CPU

    def value(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
        """`transport.value` with this solver."""
        return transport.value(self.solver, *self._there(Problems(cost, supply, demand))).cpu()

    def plan(self, given: Problems) -> Plan:
        """`transport.solve` with this solver. Raises `Failed` when an answer is not where the problems are."""
        plan = transport.solve(self.solver, *self._there(given))
        answers = {field.name: getattr(plan, field.name) for field in fields(plan)}
        tensors: dict[str, Tensor] = {name: x for name, x in answers.items() if x is not None}
        for name, x in tensors.items():
            require(x.device.type == self.device.type, f"{name} is not on {self.device.type}")
        return replace(plan, **{name: x.cpu() for name, x in tensors.items()})

    def _there(self, given: Problems) -> Problems:
        return given.map(lambda x: x.to(self.device))

    def near(self, given: Problems, factor: float = 1.0) -> Tensor:
        """The value tolerance [B] in the units of the problems' values."""
        return factor * self.tolerance.value * given[1].sum(1) * given[0].abs().amax((1, 2)).clamp(min=1e-5)


def case(name: str, solver: Solver | None = None, device: torch.device = CPU) -> Case:
    """The registered solver `name`, or one of its kind with other options. Raises `RecipeError` when it cannot run
    there.
    """
    built = solver or build_solver(default_part("solvers", name))
    if device.type not in built.devices:
        raise RecipeError(
            f"solver {name} takes no problems on {device.type} here, only on {', '.join(built.devices)}; `fsl doctor` "
            "says what is missing"
        )
    return Case(built, built.tolerance or (EXACT if built.exact else APPROXIMATE), device)


def require(fine: bool | Tensor, sentence: str) -> None:
    """Raise `Failed` unless all is fine."""
    if not bool(torch.as_tensor(fine).all()):
        raise Failed(sentence)


@cache
def oracle(name: str, n: int, m: int, batch: int, seed: int = 0) -> Tensor:
    """Optimal values [B] of a family, by the first reference solver that proves them. Raises `Failed` without one."""
    values = by_reference(n, m, lambda solver: transport.value(solver, *family(name, n, m, batch, seed)))
    if values is None:
        raise Failed(f"family {name!r}, {n}×{m}: no reference solver proves its values optimal")
    return values


def solved(case: Case, given: Problems) -> Plan | None:
    """The plan, or None when the solver refuses the problem or would take too long."""
    if given[0][0].numel() > case.tolerance.largest:
        return None
    try:
        return case.plan(given)
    except DataError:
        return None
