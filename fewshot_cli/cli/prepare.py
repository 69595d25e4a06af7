"""`fsl prepare`: a public archive or a folder becomes one packed store."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.completion import option_keys
from fewshot_cli.cli.next_step import SplitSize, for_data
from fewshot_cli.cli.output import in_format, say_next
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format
from fewshot_cli.runtime.shown import shown

PLANNED = 60  # classes that a dry run lists


def prepare(
    name: Annotated[
        str, typer.Argument(autocompletion=o.names_of("datasets"), help="A dataset of `fsl list datasets`.")
    ],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Archive or folder; without it the public archive is downloaded."),
    ] = None,
    store: Annotated[str | None, typer.Option("--name", help="Name of the store (default: NAME).")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=option_keys("datasets"),
            help="Option of the dataset; repeatable.",
        ),
    ] = None,
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    data_root: o.DataRoot = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare it again even if it is prepared.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print classes, numbers, what is left out and the split; write nothing."),
    ] = False,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the report on stdout.")
    ] = Format.table,
) -> None:
    """Turn a public archive (downloaded, or given by --from) into one packed store and report on it."""
    from fewshot_cli import registry
    from fewshot_cli.config import overrides
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.config.schema import DatasetSpec
    from fewshot_cli.data.prepare import build_store, check_made_so, sources_of
    from fewshot_cli.data.store import open_store
    from fewshot_cli.data.survey import plan_sources, survey

    cls = registry.dataset(name)
    level = [f"class_level={class_level}"] if class_level else []
    builder = cls(validate_options(cls.Options, overrides.options([*(sets or []), *level]), "--set"))
    target = validate_options(DatasetSpec, {"name": name, "store": store or name}, "--name").store
    root = o.data_root(data_root)
    if dry_run:
        plan = survey(builder, plan_sources(name, source), root / target)
        emit(in_format(format, plan, [_plan(plan)], ["\n".join(_plan_notes(plan, root / target))]))
        sizes = {split: SplitSize(len(of), min(of.values(), default=0)) for split, of in plan["classes"].items()}
        return _say_what_fits(name, target, sizes, dry_run)
    if (root / target).exists() and not force:
        store_there = open_store(root, target)
        check_made_so(store_there, builder, source)
        report = store_there.index["report"]
        say(f"{root / target} is already prepared; --force prepares it again")
    else:
        report = build_store(target, builder, sources_of(name, source, root), root, skip_bad)
    emit(in_format(format, report, [_table(report)], ["\n".join(_notes(report, root / target))]))
    sizes = {split: SplitSize(r["classes"], r["smallest_class"]) for split, r in report["splits"].items()}
    return _say_what_fits(name, target, sizes, dry_run)


def _say_what_fits(dataset: str, store: str, sizes: dict[str, SplitSize], dry_run: bool) -> None:
    """Say what the splits are too small for, and the command that follows."""
    notes, command = for_data(dataset, store, sizes)
    for note in notes:
        say(f"note: {note}")
    if command is not None and not dry_run:
        say_next(command)


def _table(report: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows = []
    for split, r in report["splits"].items():
        least, most = ("×".join(map(str, r[key])) for key in ("min_side", "max_side"))
        sides = least if least == most else f"{least} … {most}"
        rows.append([split, r["classes"], r["images"], f"{r['smallest_class']}-{r['largest_class']}", sides])
    return ["split", "classes", "images", "per class", "height×width"], rows


def _plan(plan: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows = [[split, cls, count] for split, classes in plan["classes"].items() for cls, count in classes.items()]
    shown = rows if len(rows) <= PLANNED else [*rows[: PLANNED - 1], ["…", f"{len(rows) - PLANNED + 1} more", ""]]
    return ["split", "class", "images"], shown


def _plan_notes(plan: dict[str, Any], path: Path) -> list[str]:
    splits = [
        f"{split} {len(classes)} classes, {sum(classes.values())} images" for split, classes in plan["classes"].items()
    ]
    return [
        "; ".join(splits),
        *_omissions(plan),
        f"dry run: nothing was written to {path}, and no image was decoded",
    ]


def _omissions(report: dict[str, Any]) -> list[str]:
    """What was left out, in words."""
    skipped, bad = report.get("skipped", {}), report.get("unreadable", {})
    out = ["left out: " + ", ".join(f"{count} {reason}" for reason, count in skipped.items())] if skipped else []
    if bad:
        named = "; ".join(f"{shown(name)}: {reason}" for name, reason in list(bad.items())[:20])
        out.append(f"unreadable, left out: {len(bad)} ({named}{'; …' if len(bad) > 20 else ''})")
    return out


def _notes(report: dict[str, Any], path: Path) -> list[str]:
    """What may make results doubtful: duplicates, classes in several splits, other data than the public one."""
    duplicates = (
        f"duplicate images: {report['duplicates']}, of which across splits: {report['duplicates_across_splits']}"
    )
    if report["duplicates"]:
        duplicates += f" (such as {' = '.join(map(shown, report['example_duplicates'][0]))})"
    shared, splits = report["classes_in_several_splits"], report["splits"].values()
    all_shared = len(splits) > 1 and all(r["classes"] == len(shared) for r in splits)
    notes = [
        duplicates,
        f"classes in several splits: {'all' if all_shared else ', '.join(shared) if shared else 'none'}",
    ]
    notes += _omissions(report)
    if report["complete_public_data"] is not None:
        verdict = "yes" if report["complete_public_data"] else "NO, so published figures may not be reproduced"
        notes.append(f"complete public data: {verdict}")
    return [*notes, f"{report['megabytes']} MB in {path}", f"sha256 {report['sha256']}"]
