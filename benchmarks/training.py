"""Images per second of pre-training as a share of the bare backbone's, and what each ingredient costs a step.

    python benchmarks/training.py [--recipe NAME] [--device cpu|cuda] [--rounds 40] [--batch N]

Everything but the options stays as the recipe has it. `share` compares in turns with the same backbone's forward and
backward on one batch of random tensors that lies ready, so the noise of the machine falls on both.
"""

import argparse
import json

import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.profiling.steps import profile_steps
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes

VARIANTS = {
    "as the recipe has it": [],
    "float32": ["pretrain.precision='32'"],
    "bf16": ["pretrain.precision=bf16"],
    "bf16, compiled": ["pretrain.precision=bf16", "pretrain.compile=true"],
    "CutMix and mixup": ["pretrain.mix={mixup: 0.4, cutmix: 1.0}"],
    "no colour jitter": ["pretrain.augment.jitter=0"],
    "rotations": ["pretrain.rotation=1.0"],
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--recipe", default="cifar_fs_5w1s_conv64")
    words.add_argument("--device", default="auto")
    words.add_argument("--rounds", type=int, default=40)
    words.add_argument("--batch", type=int)
    words.add_argument("--variants", default=",".join(v for v in VARIANTS if v != "bf16, compiled"))
    given = words.parse_args()
    device = resolve(given.device)
    batch = [f"pretrain.batch={given.batch}"] if given.batch else []
    out = {
        "recipe": given.recipe,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": runs.versions(),
    }
    for name in given.variants.split(","):
        first, second = profile_steps(
            load_recipe(given.recipe, [*VARIANTS[name], *batch]), Processes(device), given.rounds
        )
        out[name] = first
        out["metatrain"] = second
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
