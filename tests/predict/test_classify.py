"""`fsl classify` beyond labels: probabilities, none of these, sets, other supports, sorting, watching, explaining."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import glyph_files
import pytest
import torch
from PIL import Image

from fewshot_cli.predict.classify import _conformal

WORDS = ("--recipe", "glyphs_5w5s", "--set", "head=prototype", "--set", "head.distance=cosine")


@pytest.fixture(scope="module")
def folders(glyph_root, tmp_path_factory):
    """Five examples and four queries of five classes of glyphs, and four of three other classes."""
    root = tmp_path_factory.mktemp("photos")
    for kind, pick in (("support", slice(5)), ("query", slice(5, 9))):
        glyph_files.save(glyph_root, root / kind, range(5), pick, f"{kind[0]}{{}}.png")
        glyph_files.save(glyph_root, root / "unknown", range(5, 8), pick, f"{kind[0]}{{}}.png")
    return root


def labelled(fsl, folders, *more, images="query"):
    code, out, err = fsl(
        "classify", folders / images, "--support", folders / "support", *WORDS, "--format", "json", *more
    )
    assert code == 0, err
    return json.loads(out)


def test_probabilities_are_calibrated_on_the_examples(fsl, folders):
    result = labelled(fsl, folders)
    calibration = result["calibration"]
    assert calibration["images"] == 25 and calibration["after"] < calibration["before"]
    for row in result["pictures"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        logits = torch.tensor([*row["scores"].values()]).log()  # up to a constant
        want = (logits / calibration["temperature"]).softmax(0)
        assert torch.allclose(want, torch.tensor([*row["probabilities"].values()]), atol=1e-4)
    given = labelled(fsl, folders, "--temperature", "0.5")
    assert given["calibration"]["temperature"] == 0.5
    code, out, err = fsl("calibrate", "--support", folders / "support", *WORDS, "-o", "r.svg", "--format", "json")
    assert code == 0 and json.loads(out)["temperature"] == pytest.approx(calibration["temperature"], rel=1e-6), err
    code, out, err = fsl("calibrate", "--support", folders / "support", "--labelled", folders / "query", *WORDS)
    assert code == 0 and "20 labelled images" in out and "next: fsl classify" in err


def test_none_of_these(fsl, folders):
    known = labelled(fsl, folders, "--reject", "0.3")
    unknown = labelled(fsl, folders, "--reject", "0.3", images="unknown")
    count = {name: sum(row["label"] is None for row in r["pictures"]) for name, r in (("k", known), ("u", unknown))}
    assert count["k"] / 20 < count["u"] / 27 and count["u"] > 9
    for row in unknown["pictures"]:
        assert row["best"] in known["support"]
        assert (row["label"] is None) == (row["familiarity"] < unknown["reject"]["below"])
    code, out, _ = fsl("classify", folders / "unknown", "--support", folders / "support", *WORDS, "--reject", "0.3")
    assert code == 0 and "none of these" in out and "none (best: class" in out


def test_sets_hold_the_right_class_as_often_as_was_asked(fsl, folders):
    result = labelled(fsl, folders, "--set-of", "80%")
    hit = [row["picture"].split("/")[-2] in row["set"] for row in result["pictures"]]
    assert sum(hit) >= 0.6 * len(hit) and all(row["label"] in row["set"] for row in result["pictures"])
    wide = labelled(fsl, folders, "--set-of", "99%")  # 25 examples do not suffice for it
    assert all(len(row["set"]) == 5 for row in wide["pictures"])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_the_threshold_of_sets_is_that_of_conformal_prediction(coverage):
    rng, inside = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        own = torch.rand(20, 1, generator=rng)
        above = _conformal(torch.cat([own[:19], 1 - own[:19]], 1), torch.zeros(19, dtype=torch.int64), coverage)
        inside.append(float(own[19, 0]) >= above)
    assert coverage - 0.02 <= sum(inside) / 2000 <= coverage + 0.07


def test_a_csv_and_a_prepared_dataset_as_examples(fsl, folders, glyph_root):
    plain = labelled(fsl, folders)
    table = folders / "examples.csv"
    rows = [f"{p.relative_to(folders)},{p.parent.name}" for p in sorted((folders / "support").rglob("*.png"))]
    table.write_text("\n".join(["file,label", *rows]))
    code, out, err = fsl("classify", folders / "query", "--support", table, *WORDS, "--format", "json")
    assert code == 0 and json.loads(out)["pictures"] == plain["pictures"], err
    code, out, err = fsl(
        "prepare",
        "images",
        "--from",
        folders / "support",
        "--name",
        "five",
        "--set",
        "test_share=1",
        "--set",
        "val_share=0",
    )
    assert code == 0, err
    code, out, err = fsl("classify", folders / "query", "--support", "five:test", *WORDS, "--format", "json")
    assert code == 0 and [r["label"] for r in json.loads(out)["pictures"]] == [r["label"] for r in plain["pictures"]], (
        err
    )


def test_a_learned_classifier_in_place_of_examples(fsl, folders):
    sfc = ("--recipe", "glyphs_5w5s", "--set", "head.passes=5")
    code, out, err = fsl("finetune-sfc", "--support", folders / "support", *sfc)
    assert code == 0, err
    made = json.loads(out)["classifier"]
    both = [
        json.loads(fsl("classify", folders / "query", *given, *sfc, "--format", "json")[1])["pictures"]
        for given in (("--classifier", made), ("--support", folders / "support"))
    ]
    assert [r["label"] for r in both[0]] == [r["label"] for r in both[1]]
    code, _, err = fsl("classify", folders / "query", "--classifier", made, *sfc, "--reject", "0.1")
    assert code == 3 and "holds no examples" in err
    code, _, err = fsl(
        "classify", folders / "query", "--classifier", made, "--recipe", "glyphs_5w5s", "--set", "head.norm=cosine"
    )
    assert code == 3 and "was learned with head.norm center" in err


@pytest.mark.parametrize("how", ["move", "link"])
def test_images_are_sorted_without_replacing_any_and_taken_back(fsl, folders, tmp_path, how):
    photos, sorted_into = tmp_path / "photos", tmp_path / "sorted"
    shutil.copytree(folders / "query" / "class0", photos / "one")
    shutil.copytree(folders / "query" / "class0", photos / "two")  # the same names
    before = {p: p.read_bytes() for p in photos.rglob("*.png")}
    words = ("classify", photos, "--support", folders / "support", *WORDS, f"--{how}", sorted_into)
    code, _, err = fsl(*words)  # stdin is no terminal: nobody said yes
    assert code != 0 or "nothing was done" in err
    assert not sorted_into.exists() and all(p.exists() for p in before)
    code, _, err = fsl(*words, "--yes")
    found = [p for p in sorted_into.rglob("*.png")]
    assert code == 0 and len(found) == len(before) == 8, err
    assert sorted(p.read_bytes() for p in found) == sorted(before.values())
    assert all(p.exists() == (how == "link") for p in before)
    record = next(sorted_into.glob("sorted-*.csv"))
    assert f"fsl classify --undo {record}" in err
    code, _, err = fsl("classify", "--undo", record)
    assert code == 0 and "8 images are back" in err
    assert {p: p.read_bytes() for p in before} == before and not list(sorted_into.rglob("*.png"))


def test_undo_replaces_nothing(fsl, folders, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(folders / "query" / "class0", photos)
    fsl("classify", photos, "--support", folders / "support", *WORDS, "--move", tmp_path / "sorted", "--yes")
    (photos / "q0.png").write_bytes(b"another")
    code, _, err = fsl("classify", "--undo", tmp_path / "sorted" / "sorted-1.csv")
    assert code == 3 and "is taken by another file" in err and (photos / "q0.png").read_bytes() == b"another"
    code, _, err = fsl("classify", "--undo", folders / "support" / "class0" / "s0.png")
    assert code == 3 and "fsl: " in err


def test_top_and_what_does_not_go_together(fsl, folders, tmp_path):
    words = ("classify", folders / "query", "--support", folders / "support", *WORDS)
    code, out, _ = fsl(*words, "--top", "4", "--format", "csv")
    row = next(csv.DictReader(io.StringIO(out)))
    scores = sorted((float(v) for k, v in row.items() if k.startswith("score:")), reverse=True)
    assert code == 0 and [float(row[f"score:{row[f'top{i}']}"]) for i in range(1, 5)] == scores[:4]
    for wrong, says in (
        (("classify", folders / "query", *WORDS), "give --support, a folder of examples"),
        ((*words, "--move", "a", "--link", "b"), "give one of them"),
        ((*words, "--set-of", "lots"), "write a share such as 90%"),
        ((*words, "--watch", "--move", "a"), "--watch labels as images come"),
        (("classify", "--support", folders / "support"), "give images, or folders of images"),
    ):
        code, _, err = fsl(*wrong)
        assert code == 2 and says in err


def test_explained_answers_are_drawn(fsl, folders, tmp_path):
    words = ("classify", folders / "query" / "class1", "--support", folders / "support", "--explain", tmp_path / "why")
    code, _, err = fsl(*words, "--recipe", "glyphs_5w1s")
    assert code == 0 and "figures: 4" in err
    drawn = sorted((tmp_path / "why").iterdir())
    assert [p.name for p in drawn] == [f"{i + 1:04}-q{i}.png" for i in range(4)]
    assert Image.open(drawn[0]).width > 300
    code, _, err = fsl(*words, *WORDS)
    assert code == 2 and "has no flow between two images" in err


def test_new_images_are_labelled_as_they_come(folders, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    words = ("classify", photos, "--support", folders / "support", *WORDS, "--watch", "--format", "json")
    command = [sys.executable, "-m", "fewshot_cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stdout is not None and running.stderr is not None
        while "watching" not in (line := running.stderr.readline()):
            assert line, "it ended"
        (photos / "broken.png").write_bytes(b"no image")
        shutil.copy(folders / "query" / "class2" / "q0.png", photos / "new.png")
        row = json.loads(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        err = running.stderr.read()
        deadline = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    assert row["picture"].endswith("new.png") and row["label"].startswith("class")
    assert "broken.png" in err and "Traceback" not in err and running.returncode in (0, 130)
