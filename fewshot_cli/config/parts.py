"""Construct what a recipe names: solver, backbone with weights, head."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from fewshot_cli import registry, transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.schema import PartSpec, Recipe
from fewshot_cli.contracts import Backbone, Classifier, Extractor, Head, Solver
from fewshot_cli.errors import RecipeError

T = TypeVar("T")


def build_solver(spec: PartSpec) -> Solver:
    """The solver. Raises `RecipeError` with the install command when it cannot run here."""
    cls = registry.solver(spec.name)
    if (reason := cls.unavailable_reason()) is not None:
        raise RecipeError(f"solver {spec.name}: {reason}")
    return cls(spec.options)


def default_solver() -> PartSpec:
    """The solver of a recipe that names none, with its default options."""
    return default_part("solvers", Recipe.model_fields["solver"].default.name)


def reference_solvers(n: int, m: int) -> list[Solver[Any]]:
    """The solvers of those that work here which others are compared with on n×m problems, the first in rank first.

    Raises `RecipeError` when there is none.
    """
    ranked = []
    for name in registry.working_solvers():
        if (rank := registry.solver(name).reference_rank(n, m)) is not None:
            ranked.append((rank, name))
    if not ranked:
        raise RecipeError(f"no solver works here that could serve as the reference at {n}×{m}; install POT")
    return [registry.solver(name)() for _, name in sorted(ranked)]


def by_reference(n: int, m: int, work: Callable[[Solver[Any]], T]) -> T | None:
    """What `work` makes with the first reference solver for n×m problems that proves all it solves; None without one.

    Raises `RecipeError` as `reference_solvers`.
    """
    for solver in reference_solvers(n, m):
        with transport.ledger() as ledger:
            made = work(solver)
        if all(bool(converged.all()) for converged in ledger.converged):
            return made
    return None


def build_backbone(recipe: Recipe) -> Backbone:
    """The backbone with fresh weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return registry.backbone(recipe.backbone.name)(recipe.backbone.options)


def build_extractor(recipe: Recipe) -> Extractor:
    """The extractor."""
    return registry.extractor(recipe.extractor.name)(recipe.extractor.options)


def build_head(spec: PartSpec, channels: int, solver_spec: PartSpec) -> Head:
    """A head, with its solver when it needs one."""
    cls = registry.head(spec.name)
    built = build_solver(solver_spec) if cls.needs_solver else None
    return cls(spec.options, channels=channels, solver=built)


def build_classifier(
    spec: PartSpec, channels: int, classes: int, solver_spec: PartSpec, device: torch.device
) -> Classifier:
    """A classifier with fresh weights on the device, with its solver when it needs one.

    Raises `RecipeError` when the solver cannot work there.
    """
    cls = registry.classifier(spec.name)
    if not cls.needs_solver:
        return cls(spec.options, channels=channels, classes=classes).to(device)
    built = build_solver(solver_spec)
    if device.type not in built.devices:
        raise RecipeError(
            f"classifier {spec.name}: solver {solver_spec.name} takes no tensors on {device.type}; "
            "--solver sinkhorn does"
        )
    return cls(spec.options, channels=channels, classes=classes, solver=built).to(device)
