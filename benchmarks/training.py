"""Images per second of pre-training as a share of the bare backbone's, and what each ingredient costs a step.

    python benchmarks/training.py [--recipe NAME] [--device cpu|cuda] [--rounds 40] [--batch N]

Everything but the options stays as the recipe has it. `share` compares in turns with the same backbone's forward and
backward on one batch of random tensors that lies ready, so the noise of the machine falls on both. On a GPU
`waits` are the lines at which a step waits for it.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch

from fewshot_cli import transport
from fewshot_cli.config.load import load_recipe
from fewshot_cli.profiling import steps
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training.optimise import make_optimizer

VARIANTS = {
    "as the recipe has it": [],
    "float32": ["pretrain.precision='32'"],
    "bf16": ["pretrain.precision=bf16"],
    "bf16 compiled": ["pretrain.precision=bf16", "pretrain.compile=true"],
    "CutMix and mixup": ["pretrain.mix={mixup: 0.4, cutmix: 1.0}"],
    "no colour jitter": ["pretrain.augment.jitter=0"],
    "rotations": ["pretrain.rotation=1.0"],
}


def waits(recipe, device: torch.device) -> dict:
    """Where the host waits for the GPU in a step of each stage, by PyTorch's own account."""

    def clock(_name, work):
        return work()

    clock.device = device
    stages = {"pretrain": steps._pretraining(recipe, device), "metatrain": steps._metatraining(recipe, device, clock)}
    found = {}
    for name, stage in stages.items():
        optimizer, half = make_optimizer(stage.objective, stage.spec.optimizer), stage.spec.precision == "bf16"
        with transport.checked_later(), warnings.catch_warnings(record=True) as told:
            for number in range(3):  # the first allocate and compile
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("warn" if number == 2 else "default")
                warnings.simplefilter("always")
                steps._step(clock, stage.batch, stage.objective, optimizer, half)
            torch.cuda.set_sync_debug_mode("default")
        found[name] = [f"{Path(w.filename).name}:{w.lineno}" for w in told if "synchroniz" in str(w.message)]
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--recipe", default="cifar_fs_5w1s_conv64")
    words.add_argument("--device", default="auto")
    words.add_argument("--rounds", type=int, default=40)
    words.add_argument("--batch", type=int)
    words.add_argument("--variants", default=",".join(v for v in VARIANTS if "compiled" not in v))
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
        first, second = steps.profile_steps(
            load_recipe(given.recipe, [*VARIANTS[name], *batch]), Processes(device), given.rounds
        )
        out[name] = first
        out["metatrain"] = second
    if device.type == "cuda":
        out["waits"] = waits(load_recipe(given.recipe, ["pretrain.precision=bf16"]), device)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
