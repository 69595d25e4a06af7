"""A dataset's published accuracies from scratch: prepare, pre-train, meta-train, evaluate, and one report."""

from pathlib import Path
from typing import Any

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.prepare import build_store, sources_of
from fewshot_cli.errors import RecipeError
from fewshot_cli.evaluation.episodes import evaluate_episodes
from fewshot_cli.evaluation.records import finished_records
from fewshot_cli.evaluation.results import EpisodesResult
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95, paired
from fewshot_cli.papers.catalog import elsewhere, find_table
from fewshot_cli.papers.recipes import pairs
from fewshot_cli.papers.schema import EvaluatedTable
from fewshot_cli.registry import did_you_mean
from fewshot_cli.runtime.files import write_json, write_text
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.render import markdown, plus_minus
from fewshot_cli.runtime.runs import SUMMARY, TIMES, Run, read, stage, versions
from fewshot_cli.training.log import LOG
from fewshot_cli.training.metatrain import metatrain
from fewshot_cli.training.optimise import CURVES
from fewshot_cli.training.pretrain import pretrain

# method, the row of DeepEMD's Table 3 that it is, and its part of the recipe at 1 and at 5 shots
ROWS = (
    ("DeepEMD", "DeepEMD", "head=emd", "head=sfc"),
    ("ProtoNet, Euclidean", "ProtoNet", "head=prototype", "head=prototype"),
    ("MatchingNet, cosine", "MatchNet", "head=matching", "head=matching"),
)


def names() -> list[str]:
    """What can be reproduced: `<dataset>` with DeepEMD's backbone, `<dataset>_<backbone>` with another."""
    return list(pairs())


def reproduce(
    name: str, sets: list[str], source: Path | None, root: Path, run_dir: Path, processes: Processes, command: str
) -> dict[str, Any]:
    """Run what is not done yet and return the report, which is also written as report.json and report.md.

    Every stage has its own run directory below `run_dir`; one that was interrupted continues, one that is finished is
    not run again, and one of another configuration is refused. `command` is what was typed. Raises `RecipeError` for an
    unknown name, and whatever the stages raise.
    """
    if name not in names():
        raise RecipeError(
            f"{name}: nothing of this name can be reproduced{did_you_mean(name, names())}; there are "
            + ", ".join(names())
        )
    pair = pairs()[name]
    of = {1: pair.one_shot.name, 5: pair.five_shot.name}
    base = load_recipe(of[1], sets)
    _prepare(base, source, root, processes)
    stage(processes, run_dir / "pretrain", lambda path, again: pretrain(base, root, path, again, processes))
    start = run_dir / "pretrain" / "weights.safetensors"
    stage(processes, run_dir / "metatrain", lambda path, again: metatrain(base, root, path, again, processes, start))
    weights = run_dir / "metatrain" / "weights.safetensors"

    def evaluated(shot: int, part: str) -> EpisodesResult:
        recipe = load_recipe(of[shot], [part, *sets])
        place = run_dir / "eval" / f"{part.removeprefix('head=')}_{shot}"
        return stage(
            processes,
            place,
            lambda path, again: evaluate_episodes(recipe, root, path, again, processes, weights),
        )

    summaries = {
        (method, shot): evaluated(shot, part)
        for method, _, *parts in ROWS
        for shot, part in zip(of, parts, strict=True)
    }

    def finish() -> dict[str, Any]:
        report = _report(name, base, of, summaries, run_dir, command, processes)
        write_json(run_dir / "report.json", report)
        write_text(run_dir / "report.md", as_markdown(report))
        return report

    return processes.first(finish)


def _prepare(base: Recipe, source: Path | None, root: Path, processes: Processes) -> None:
    def work() -> None:
        if not (root / base.store).exists():
            build_store(
                base.store,
                registry.dataset(base.dataset.name)(),
                sources_of(base.dataset.name, source, root),
                root,
            )

    processes.first(work)


def _report(
    name: str,
    base: Recipe,
    of: dict[int, str],
    summaries: dict[tuple[str, int], EpisodesResult],
    run_dir: Path,
    command: str,
    processes: Processes,
) -> dict[str, Any]:
    table = find_table("deepemd.T3")
    assert isinstance(table, EvaluatedTable)
    printed = {row.name: row.published.get(base.dataset.name) for row in table.rows}
    accuracies = {key: [r["accuracy"] for r in finished_records(Path(s["run_dir"]))] for key, s in summaries.items()}
    rows = []
    for method, known, *_ in ROWS:
        for place, shot in enumerate(of):
            made = summaries[method, shot]
            mean, ci95 = mean_ci95(accuracies[method, shot])
            row = {
                "method": method,
                "shot": shot,
                "episodes": made["episodes"],
                "accuracy": mean,
                "ci95": ci95,
                "seed": made["seed"],
                "not_converged": made["not_converged"],
                "run_dir": made["run_dir"],
            }
            if method != ROWS[0][0]:
                few = min(len(accuracies[method, shot]), len(accuracies[ROWS[0][0], shot]))
                row["difference"], row["difference_ci95"] = paired(
                    accuracies[method, shot][:few], accuracies[ROWS[0][0], shot][:few]
                )
            if published := printed.get(known):
                row["published"] = [x for x in published[place] or () if x is not None]
            rows.append(row)
    stages = {}
    for verb in ("pretrain", "metatrain"):
        times = Run.records(run_dir / verb / TIMES)
        stages[verb] = {
            "epochs": len(times),
            "seconds": sum(t["seconds"] for t in times),
            "training_seconds": sum(t["training"] for t in times),
            "best": read(run_dir / verb / SUMMARY)["best"],
            "log": str(run_dir / verb / LOG),
            "curves": str(run_dir / verb / CURVES),
        }
    some = summaries[ROWS[0][0], 1]
    return {
        "format": 1,
        "name": name,
        "command": command,
        "recipes": list(of.values()),
        "dataset": base.store,
        "backbone": base.backbone.name,
        "interval": INTERVAL,
        "published": table.source,
        "elsewhere": elsewhere("deepemd", base.dataset.name),
        "rows": rows,
        "stages": stages,
        "hashes": some["hashes"],
        "versions": versions(),
        "device": str(processes.device),
        "processes": processes.size,
        "run_dir": str(run_dir),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    rows = []
    for r in report["rows"]:
        apart = plus_minus(r["difference"], r["difference_ci95"], "+") if "difference" in r else ""
        printed = " ± ".join(f"{x:.2f}" for x in r.get("published", []))
        rows.append(
            [
                r["method"],
                f"5-way {r['shot']}-shot",
                r["episodes"],
                plus_minus(r["accuracy"], r["ci95"]),
                apart,
                printed,
            ]
        )
    table = markdown(["method", "task", "episodes", "ours %", f"minus {ROWS[0][0]}, paired", "published %"], rows)
    times = [
        f"- {stage}: {s['epochs']} epochs in {s['seconds']:.0f} s, of these "
        f"{s['training_seconds']:.0f} s training; best "
        f"validation {plus_minus(s['best']['accuracy'], s['best']['ci95'])} after epoch {s['best']['epoch']}; "
        f"[log]({stage}/{LOG}), ![curves]({stage}/{CURVES})"
        for stage, s in report["stages"].items()
    ]
    others = [f"- elsewhere: {x}" for x in report["elsewhere"]]
    facts = [f"- {k}: {v}" for k, v in {**report["hashes"], **report["versions"]}.items()]
    return "\n".join(
        [
            f"# {report['name']}: {report['backbone']} on {report['dataset']}",
            "",
            f"`{report['command']}`",
            "",
            table,
            "",
            f"Interval: {report['interval']}. Published: {report['published']}.",
            *others,
            "",
            *times,
            "",
            *facts,
            f"- device: {report['device']}, {report['processes']} process(es)",
            "",
        ]
    )
