"""Tables of papers that tests write themselves."""

from typing import Any

from fewshot_cli.config.load import validate_options
from fewshot_cli.papers.schema import Paper, Table


def built(table: dict[str, Any]) -> Table:
    """The table of plain data, under its name; its parts are those of a paper of its own."""
    name, parts = table["name"], table.get("parts", {})
    rest = {key: value for key, value in table.items() if key not in ("name", "parts")}
    paper = validate_options(Paper, {"sources": {"s": "s"}, "parts": parts, "tables": {"T": rest}}, "test")
    return paper.table("T", name)
