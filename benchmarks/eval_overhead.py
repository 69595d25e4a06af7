"""How much `fsl eval` adds to its solver: seconds of 600 five-way one-shot episodes over the bare solver's.

    python benchmarks/eval_overhead.py [--recipe glyphs_5w1s] [--solver opencv] [--episodes 600] [--rounds 7]

Episodes come from cached features; the bare run solves the very problems the evaluation posed (375 an episode), made
beforehand. Rounds alternate and the median of each is compared. Prints one JSON object.
"""

import argparse
import json
import statistics
from pathlib import Path
from time import perf_counter

import torch
from recorder import Recorder, bare

from fewshot_cli.cli.options import data_root
from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.evaluation import episodes
from fewshot_cli.evaluation.model import Model
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="glyphs_5w1s")
    parser.add_argument("--solver", default="opencv")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    loaded = load_recipe(given.recipe, solver=given.solver)
    root, device = data_root(None), resolve("cpu")
    model = Model.open(loaded, root, Processes(device), given.weights)
    head, features = model.head, model.features()
    sampler = Sampler(model.split, 5, 1, 15, loaded.seed)
    batch = episodes.episodes_per_call(head, sampler, features)

    def whole() -> float:
        start = perf_counter()
        episodes.run_episodes(head, features, sampler, range(given.episodes), batch, lambda records: None)
        return perf_counter() - start

    solver, head.solver = head.solver, Recorder(head.solver)
    whole()
    problems, head.solver = head.solver.problems, solver

    times = [(whole(), bare(solver, problems)) for _ in range(given.rounds)]
    evaluated, alone = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        json.dumps(
            {
                "recipe": given.recipe,
                "solver": given.solver,
                "episodes": given.episodes,
                "problems": sum(len(p[0]) for p in problems),
                "nodes": list(problems[0][0].shape[1:]),
                "seconds_eval": evaluated,
                "seconds_solver": alone,
                "ratio": evaluated / alone,
                "threads": torch.get_num_threads(),
                "versions": runs.versions(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
