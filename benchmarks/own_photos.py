"""How many labels of `fsl classify` are right: draws of a few classes from a folder of labelled photos.

    python benchmarks/own_photos.py cub127.tar --draws 10
    python benchmarks/own_photos.py photos/ --recipe cifar_fs_5w5s_conv64

Each draw takes `--way` classes, `--shots` examples and `--queries` other photos of each, and runs the verb as a user
does. FOLDER is a folder of class folders, or a tar of that. Prints JSON: all photos, those with the right label, and
the interval of their share.
"""

import argparse
import csv
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from fewshot_cli.evaluation.stats import share_ci95

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def classes_of(folder: Path) -> dict[str, list[Path]]:
    """Photos by the folder they lie in."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES:
            found.setdefault(path.parent.name, []).append(path)
    return found


def draw(groups: dict[str, list[Path]], place: Path, rng: random.Random, args: argparse.Namespace) -> tuple[int, int]:
    """One draw: photos that were labelled, and how many of them rightly."""
    truth: dict[str, str] = {}
    (place / "photos").mkdir(parents=True)
    for name in rng.sample(sorted(groups), args.way):
        chosen = rng.sample(groups[name], args.shots + args.queries)
        (place / "examples" / name).mkdir(parents=True)
        for i, path in enumerate(chosen):
            if i < args.shots:
                (place / "examples" / name / path.name).symlink_to(path.resolve())
            else:
                link = place / "photos" / f"{len(truth):04}{path.suffix}"
                link.symlink_to(path.resolve())
                truth[link.name] = name
    command = [sys.executable, "-m", "fewshot_cli", "classify", "photos", "--support", "examples", "--format", "csv"]
    command += ["--data-root", str(args.root)] + (["--recipe", args.recipe] if args.recipe else [])
    said = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = list(csv.DictReader(io.StringIO(said)))
    return len(rows), sum(truth[Path(row["picture"]).name] == row["label"] for row in rows)


def main() -> None:
    """Draw, label, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", help="default: what fsl chooses for own photos")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as work:
        folder, args.root = args.folder, Path(work, "root")
        if folder.is_file():
            with tarfile.open(folder) as archive:
                archive.extractall(folder := Path(work, "all"), filter="data")
        enough = args.shots + args.queries
        groups = {name: paths for name, paths in classes_of(folder).items() if len(paths) >= enough}
        counts = [draw(groups, Path(work, f"draw{i}"), rng, args) for i in range(args.draws)]
    photos, right = (sum(column) for column in zip(*counts, strict=True))
    share, ci95 = share_ci95(right, photos)
    print(json.dumps({"photos": photos, "right": right, "share": round(share, 2), "ci95": round(ci95, 2)}))


if __name__ == "__main__":
    main()
