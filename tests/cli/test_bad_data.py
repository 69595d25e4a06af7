"""Data that is missing, damaged or too small, and places and disks that refuse: one sentence, nothing half-written."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from spoiled import arguments, digest, images, left

from fewshot_cli.errors import Exit
from fewshot_cli.runtime.runs import Run


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--set", "episode.query=8"], r"class testa has 8 images, an episode needs 9 \(1 support \+ 8 query\)"),
        (["--set", "episode.shot=7"], r"class testa has 8 images, an episode needs 9 \(7 support \+ 2 query\)"),
        (["--set", "episode.way=4"], r"has 3 classes, 4-way episodes need 4; lower episode\.way"),
        (["--set", "dataset.store=other"], r"dataset other is not prepared; run `fsl prepare"),
    ],
)
def test_data_that_cannot_fill_an_episode_says_have_and_need(refused, world, tmp_path, more, sentence):
    refused(Exit.DATA, sentence, *arguments(world, *more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["eval", "pretrain", "metatrain"])
def test_a_dataset_that_is_not_prepared_names_the_command(refused, world, tmp_path, verb):
    more = [] if verb == "pretrain" else ["--weights", world / "weights.safetensors"]
    refused(
        Exit.DATA,
        r"dataset images is not prepared; run `fsl prepare images`",
        verb,
        "--recipe",
        world / "good.yaml",
        "--data-root",
        tmp_path / "none",
        *more,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["flipped", "truncated", "index", "format"])
def test_a_damaged_store_is_refused_by_eval_and_leaves_no_features(refused, world, tmp_path, case):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("images.bin", "index.json"):
        (tmp_path / "data" / "images" / name).write_bytes((world / "data" / "images" / name).read_bytes())
    blob, index = tmp_path / "data" / "images" / "images.bin", tmp_path / "data" / "images" / "index.json"
    if case == "flipped":
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    elif case == "truncated":
        blob.write_bytes(blob.read_bytes()[:-1])
    elif case == "index":
        index.write_text(index.read_text()[:-5])
    else:
        index.write_text(index.read_text().replace('"format":1', '"format":7', 1))
    sentence = {
        "flipped": "damaged",
        "truncated": "bytes, its index says",
        "index": "not a whole store",
        "format": "store format 7",
    }
    refused(
        Exit.DATA, sentence[case] + ".*fsl prepare images --force", *arguments(world, "--data-root", tmp_path / "data")
    )
    assert not (tmp_path / "data" / "features").exists()
    assert not list(tmp_path.rglob("summary.json"))


def test_pretraining_with_a_batch_larger_than_the_split_is_refused(refused, world):
    refused(
        Exit.DATA,
        r"the train split has 24 images, a batch needs 128; lower pretrain\.batch",
        "pretrain",
        "--recipe",
        world / "good.yaml",
        "--data-root",
        world / "data",
    )


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["image"], Exit.USAGE, r"unknown dataset 'image' \(did you mean 'images'"),
        (["images"], Exit.DATA, r"images: give --from a folder"),
        (["images", "--from", "nowhere"], Exit.DATA, r"nowhere: does not exist"),
        (["images", "--from", "broken"], Exit.DATA, r"a/broken\.png: does not decode as an image"),
        (["images", "--from", "good", "--set", "split_sed=3"], Exit.USAGE, r"split_sed: unknown key \(did you mean"),
        (["images", "--from", "good", "--set", "split_seed=x"], Exit.USAGE, r"split_seed: must be a whole number"),
        (["images", "--from", "good", "--set", "split_seed"], Exit.USAGE, r"--set split_seed: write it as key=value"),
        (["images", "--from", "good", "--set", "=3"], Exit.USAGE, r"--set"),
        (["images", "--from", "good", "--set", "splits=gone.json"], Exit.DATA, r"gone\.json"),
        (["images", "--from", "good", "--name", "../x"], Exit.USAGE, r"--name"),
        (["images", "--from", "good", "--name", ".hidden"], Exit.USAGE, r"--name"),
        (["images", "--from", "good/a/0.png"], Exit.DATA, r"0\.png: is neither a folder nor a whole zip or tar"),
        (["glyphs", "--set", "x=1"], Exit.USAGE, r"x: unknown key"),
    ],
)
def test_a_preparation_that_cannot_be_leaves_nothing(refused, tmp_path, words, code, sentence):
    images(tmp_path / "good", ["a", "b"], 1)
    images(tmp_path / "broken", ["a", "b"], 1)
    (tmp_path / "broken" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    refused(code, sentence, "prepare", *words, "--data-root", "root")
    assert not (tmp_path / "root").exists() or list((tmp_path / "root").iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_a_failed_force_keeps_the_store_there_was(refused, fsl, tmp_path):
    good, bad = images(tmp_path / "good", ["a", "b"], 2), images(tmp_path / "bad", ["a", "b"], 2)
    (bad / "b" / "1.png").write_bytes(b"no image")
    assert fsl("prepare", "images", "--from", good, "--data-root", "root")[0] == 0
    before = {p: digest(p) for p in (tmp_path / "root").rglob("*") if p.is_file()}
    refused(
        Exit.DATA, r"b/1\.png: does not decode", "prepare", "images", "--from", bad, "--data-root", "root", "--force"
    )
    assert {p: digest(p) for p in (tmp_path / "root").rglob("*") if p.is_file()} == before


# Places that cannot be written


def test_a_data_root_that_is_a_file_is_a_usage_error(refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(Exit.USAGE, r"is a file", "prepare", "glyphs", "--data-root", "file")


@pytest.mark.parametrize("where", ["file/below", "/proc/fewshot", "/dev/null/x"])
def test_places_that_cannot_be_made_are_named(refused, world, tmp_path, where):
    (tmp_path / "file").write_text("kept")
    folder = images(tmp_path / "good", ["a", "b"], 1)
    refused(Exit.DATA, re.escape(where), "prepare", "images", "--from", folder, "--data-root", where)
    refused(Exit.DATA, re.escape(where), *arguments(world, "--run-dir", where))
    refused(Exit.DATA, re.escape(where), *arguments(world, "--data-root", where))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_permission_is_named(refused, world, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(Exit.DATA, r"permission denied; choose another folder", *arguments(world, "--run-dir", "locked/run"))


def test_features_that_cannot_be_cached_are_said_and_done_without(fsl, world, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(world / "data" / "images")
    (tmp_path / "data" / "features").write_text("in the way")
    code, out, err = fsl(*arguments(world, "--data-root", tmp_path / "data"))
    assert code == 0 and "features are not cached" in err and "good" in out and "Traceback" not in err


def test_a_disk_that_fills_up_while_preparing_leaves_nothing(refused, tmp_path, monkeypatch):
    folder = images(tmp_path / "good", ["a", "b"], 2)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(
        Exit.DATA,
        r"the disk is full; free some space or choose another folder",
        "prepare",
        "images",
        "--from",
        folder,
        "--data-root",
        "root",
    )
    assert list((tmp_path / "root").iterdir()) == []


LIMITED = """\
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[1:] = sys.argv[2:]
from fewshot_cli.cli.app import main
main()
"""


def limited(size: int, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command whose files cannot grow beyond a size."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_a_write_refused_half_way_through_preparing_leaves_nothing(tmp_path):
    images(tmp_path / "good", list("abcd"), 4)
    words = ["prepare", "images", "--from", "good", "--data-root", "root"]
    done = limited(5000, *words, cwd=tmp_path)
    assert done.returncode == Exit.DATA and done.stderr.startswith("fsl: ") and "Traceback" not in done.stderr
    assert "root/images: File too large" in done.stderr and done.stdout == ""
    assert list((tmp_path / "root").iterdir()) == []
    assert limited(resource.RLIM_INFINITY, *words, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_write_refused_in_the_middle_of_a_run_can_be_resumed_to_the_same_bytes(fsl, world, tmp_path):
    words = arguments(world, "--episodes", "400", "--batch", "7")
    done = limited(20_000, *words, "--run-dir", "short", cwd=tmp_path)
    assert done.returncode == Exit.DATA and "short/episodes.jsonl: File too large" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "short" / "summary.json").exists()
    assert (tmp_path / "short" / "episodes.jsonl").stat().st_size == 20_000 and left(tmp_path) == []
    assert fsl(*words, "--run-dir", "short", "--resume")[0] == 0
    assert fsl(*words, "--run-dir", "whole")[0] == 0
    assert digest(tmp_path / "short" / "episodes.jsonl") == digest(tmp_path / "whole" / "episodes.jsonl")


@pytest.mark.slow
def test_a_disk_full_while_features_are_cached_costs_the_cache_alone(world, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(world / "data" / "images")
    words = arguments(world, "--data-root", "data", "--run-dir", "run", "--set", "image.size=128")
    done = limited(15_000, *words, cwd=tmp_path)
    assert done.returncode == 0 and "note: features are not cached: " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and list((tmp_path / "data").rglob("*.part")) == []


@pytest.mark.slow
def test_a_disk_full_while_the_state_is_written_ends_with_a_sentence_and_can_be_gone_on_with(world, tmp_path):
    words = ["pretrain", "--recipe", str(world / "good.yaml"), "--data-root", str(world / "data"), "--run-dir", "run"]
    for pair in ("epochs=2", "batch=8", "validation.episodes=2", "augment={crop: none}"):
        words += ["--set", f"pretrain.{pair}"]
    done = limited(12_000, *words, cwd=tmp_path)
    assert done.returncode == Exit.DATA and "run/state.pt: File too large" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and left(tmp_path / "run") == []
    assert limited(resource.RLIM_INFINITY, *words, "--resume", cwd=tmp_path).returncode == 0


def test_a_disk_full_while_the_summary_is_written_leaves_no_summary(refused, fsl, world, tmp_path, monkeypatch):
    finish = Run.finish

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish_on_a_full_disk(run: Run, summary: dict) -> None:
        with pytest.MonkeyPatch.context() as disk:
            disk.setattr(os, "fsync", full)
            finish(run, summary)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", finish_on_a_full_disk)
        refused(Exit.DATA, r"config\.json: the disk is full", *arguments(world, "--run-dir", "r"))
    assert not (tmp_path / "r" / "summary.json").exists() and left(tmp_path / "r") == []
    assert fsl(*arguments(world, "--run-dir", "r", "--resume"))[0] == 0
