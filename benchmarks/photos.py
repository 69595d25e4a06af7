"""How much `fsl classify` and `fsl retrieve` add to decoding photos and embedding them.

    python benchmarks/photos.py [--photos 200] [--rounds 3] [--wide 4000]

Photos of so many pixels across, in the ratio 4:3, are invented (smooth noise, saved as JPEG). The bare time is that of
decoding each with as many pixels as suffice, in the same number of threads, and of the backbone on batches of the same
size. `retrieve` searches for each photo among the others and matches its first hundred. Prints JSON: seconds and their
ratios to the bare ones, and the peak of memory.
"""

import argparse
import io
import json
import resource
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.decode import in_threads
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.predict.classify import PART, Classification
from fewshot_cli.predict.retrieve import retrieve
from fewshot_cli.runtime.device import resolve


def invent(folder: Path, count: int, wide: int) -> None:
    """JPEGs of smooth noise; ten different ones, told apart by a comment so that none is a copy."""
    rng, made = np.random.default_rng(0), []
    for _ in range(min(10, count)):
        small = Image.fromarray(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8))
        made.append(small.resize((wide, 3 * wide // 4), Image.Resampling.BICUBIC))
    for i in range(count):
        place = folder / (f"photos/class{i % 5}" if i >= 6 else f"examples/class{i % 2}")
        place.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        made[i % len(made)].save(data, "JPEG", quality=92, comment=str(i).encode())
        (place / f"{i}.jpg").write_bytes(data.getvalue())


def bare(paths: list[Path], model, spec) -> float:
    """Seconds of decoding and embedding alone."""
    begin = perf_counter()
    for start in range(0, len(paths), PART):
        part = paths[start : start + PART]

        def decode(i: int, part: list[Path] = part) -> torch.Tensor:
            image = Image.open(part[i])
            image.draft("RGB", (2 * spec.decoded, 2 * spec.decoded))
            small = image.convert("RGB").resize((spec.decoded, spec.decoded), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(small)).permute(2, 0, 1)

        images = torch.stack(list(in_threads(decode, range(len(part)))))
        with torch.no_grad():
            model.backbone.eval()(normalise(images, spec).contiguous(memory_format=torch.channels_last))
    return perf_counter() - begin


def main() -> None:
    """Rounds in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wide", type=int, default=4000)
    parser.add_argument("--recipe", default="images_5w5s_lite0")
    args, device = parser.parse_args(), resolve("cpu")
    recipe = load_recipe(args.recipe)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        invent(folder, args.photos + 6, args.wide)
        made = Classification(recipe, folder / "examples", None, None, folder / "root", device)
        made.learn()
        paths = sorted((folder / "photos").glob("*/*"))
        times: dict[str, list[float]] = {"classify": [], "retrieve": [], "bare": []}
        for number in range(args.rounds):
            begin = perf_counter()
            made.rows(LooseImages([folder / "photos"], recipe.image))
            times["classify"].append(perf_counter() - begin)
            begin, root = perf_counter(), folder / f"root{number}"  # where no features are kept yet
            retrieve(recipe, folder / "photos", None, None, 100, (1, 5), None, root, device)
            times["retrieve"].append(perf_counter() - begin)
            times["bare"].append(bare(paths, made.model, recipe.image))
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(times[name], times["bare"], strict=True)), 2)
        for name in ("classify", "retrieve")
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = {name: statistics.median(some) for name, some in times.items()}
    print(json.dumps({"photos": len(paths), "seconds": seconds, "ratios": ratios, "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
