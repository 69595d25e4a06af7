"""Results of evaluations, and the gate that judges them."""

from typing import Any

from fewshot_cli.config.schema import Recipe


def judge(summary: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Add `expect` and `passed` to a summary: within the tolerance of what the recipe expects, or above it."""
    expect = recipe.expect
    summary["expect"] = expect.model_dump()
    summary["passed"] = summary["accuracy"] >= expect.accuracy - expect.tolerance
    return summary
