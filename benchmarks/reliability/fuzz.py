"""Recipes and command lines that nobody would write, through `fsl recipe check` and `fsl`.

    python benchmarks/reliability/fuzz.py recipes|commands [--tries 10000]

A fault: a traceback or internal fault, an undocumented exit code, a message of more than 20 lines, or more than two
seconds of processor time. Prints JSON.
"""

import contextlib
import io
import os
import random
import re
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from world import ROOT, campaign, options, report

from fewshot_cli.cli import app

ODD = [
    "",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    ".nan",
    "-.inf",
    "1e-400",
    "99999999999999999999",
    "0x10",
    "0o17",
    "1_000",
    "'",
    '"',
    "[",
    "]",
    "{",
    "}",
    "{}",
    "[]",
    "[[[[]]]]",
    "{a: {b: {c: d}}}",
    "&a",
    "*a",
    "!!python/object:os.system x",
    "<<: *a",
    "|",
    ">",
    "%YAML 1.1",
    "---",
    "...",
    "\t",
    "\x00",
    "\u202e",
    "é",
    "日本",
    "x" * 3000,
    "~",
    "~/x",
    "/dev/zero",
    "../../etc/passwd",
    "2026-11-26",
    "12:30:45",
    "yes",
    "no",
    "on",
    "#",
    ": ",
    "- ",
    "? ",
    "@",
    "`",
    "{name: emd, name: emd}",
]
WORDS = [
    "--recipe",
    "--set",
    "--device",
    "--seed",
    "--weights",
    "--data-root",
    "--run-dir",
    "--resume",
    "--format",
    "json",
    "csv",
    "--episodes",
    "--solver",
    "--dry-run",
    "--print-config",
    "--check",
    "--strict",
    "--help",
    "-h",
    "--version",
    "--debug",
    "glyphs_5w1s",
    "glyphs",
    "emd",
    "cub",
    "images",
    "--name",
    "--from",
    "--force",
    "--support",
    "-o",
    "--sizes",
    "--batch",
    "--rows",
    "--split",
    "solver",
    "recipe",
    "head",
    "network_simplex",
    "mpw.T2",
    "--budget",
    "1,2,3",
    "=",
    "--",
    "-",
    "--set=",
]
VERBS = (
    "prepare",
    "import",
    "show",
    "list",
    "recipe",
    "weights",
    "compare",
    "doctor",
    "eval",
    "table",
    "classify",
    "match",
    "pretrain",
    "metatrain",
    "finetune-sfc",
    "profile",
    "retrieve",
    "reproduce",
)
HARMLESS = {
    "eval",
    "pretrain",
    "metatrain",
    "finetune-sfc",
    "classify",
    "match",
    "retrieve",
    "table",
    "reproduce",
    "profile",
    "prepare",
    "doctor",
    "import",
}


def spoiled(text: str, rng: random.Random) -> str:
    """A recipe with one to four changes of lines, values or characters."""
    for _ in range(rng.randint(1, 4)):
        lines = text.splitlines() or [""]
        i = rng.randrange(len(lines))
        kind = rng.randrange(9)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[i])
        elif kind == 2:
            lines[i] = re.sub(r"(: *)[^:]*$", lambda hit: hit[1] + rng.choice(ODD), lines[i])
        elif kind == 3:
            lines[i] = " " * rng.randint(1, 9) + lines[i]
        elif kind == 4:
            lines.insert(i, f"{rng.choice(ODD)}: {rng.choice(ODD)}")
        elif kind == 5 and lines[i]:
            at = rng.randrange(len(lines[i]))
            lines[i] = (
                lines[i][:at] + chr(rng.choice([rng.randrange(32, 127), rng.randrange(128, 0x3000)])) + lines[i][at:]
            )
        elif kind == 6:
            lines[i] = re.sub(r"\d+", lambda _: str(rng.choice([-1, 0, 10**6, 10**30, 0.5])), lines[i])
        elif kind == 7:
            lines[i] *= rng.choice([2, 50])
        else:
            lines = lines[i:] + lines[:i]
        text = "\n".join(lines) + "\n"
    return text


def judged(words: list[str]) -> str | None:
    """What is wrong with how `fsl WORDS` ends in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    begin = time.process_time()
    sys.argv = ["fsl", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        return f"{words}: {type(error).__name__}: {error}"
    seconds, said = time.process_time() - begin, err.getvalue()
    if ("Traceback" in said and "--debug" not in words) or "internal fault" in said:
        return f"{words}: {said[-300:]}"
    if code not in (0, 1, 2, 3, 4, 5, 130):
        return f"{words}: exit {code}"
    if code and not (said + out.getvalue()).strip() or len(said.splitlines()) > 20 and "--debug" not in words:
        return f"{words}: exit {code} with {len(said.splitlines())} lines"
    return f"{words}: {seconds:.1f} s of processor time" if seconds > 2 else None


def recipe(rng: random.Random, folder: Path) -> str | None:
    source = rng.choice(sorted((ROOT / "recipes").glob("*.yaml")))
    path = folder / "r.yaml"
    path.write_bytes(spoiled(source.read_text(), rng).encode("utf-8", "surrogatepass"))
    return judged(["recipe", "check", str(path)])


def line(rng: random.Random, folder: Path) -> str | None:
    os.chdir(folder)
    verb = rng.choice(VERBS)
    words = [rng.choice(WORDS + ODD) for _ in range(rng.randint(0, 6))]
    words = [word for word in words if "\x00" not in word]
    if verb in HARMLESS:  # the parser and the checks, not the work
        words.append(rng.choice(["--nonsense", "--help", "--recipe=none"]))
    return judged([verb, *words])


def main() -> None:
    what = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "recipes"
    given = options(__doc__, {"recipes": 10000, "commands": 2000}[what])
    for words in (["recipe", "check", "glyphs_5w1s"], ["profile", "--recipe=none"], ["list"]):
        judged(words)  # imports are nobody's time
    with TemporaryDirectory() as folder:
        os.environ["FSL_DATA_ROOT"] = f"{folder}/data"
        trial = {"recipes": recipe, "commands": line}[what]
        result = campaign([(what, trial)], given.tries, given.seed, Path(folder))
        os.chdir(ROOT)
    report(what, result)


if __name__ == "__main__":
    main()
