"""Small inputs that once failed, where they lie beside this checkout."""

import json
import shutil
import subprocess

import pytest
from conftest import SHARED

CASES = SHARED.parent / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no such inputs beside this checkout")
NETWORK = "backbone={name: resnet12, widths: [8, 8, 8, 8]}"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A copy, with the links that do not survive every other kind of copy."""
    folder = tmp_path_factory.mktemp("cases") / "cases"
    shutil.copytree(CASES, folder)
    subprocess.run(["sh", folder / "04_layouts" / "make_links.sh"], check=True)
    return folder


@pytest.fixture
def run(fsl, tmp_path, glyph_root):
    """A command that must end so: its output and messages."""

    def command(code, *words):
        root = () if words[0] == "import" else ("--data-root", tmp_path / "data")
        got, out, err = fsl(*words, *root)
        assert got == code and "Traceback" not in err and "site-packages" not in err, err
        return out, err

    return command


def labels(run, support, image):
    out, err = run(0, "classify", image, "--support", support, "--recipe", "glyphs_5w5s", "--format", "json")
    return json.loads(out), err


def similarity(run, tmp_path, left, right):
    out, _ = run(0, "match", left, right, "-o", tmp_path / "m.png", "--format", "json")
    return json.loads(out)[0]["similarity"]


def planned(run, folder, *more):
    out, err = run(0, "prepare", "images", "--from", folder, "--dry-run", "--format", "json", *more)
    found = json.loads(out)
    return {cls: split for split, classes in found["classes"].items() for cls in classes}, found["skipped"], err


@pytest.mark.parametrize(
    "name", ["01_exif_rotated/ushort.jpg", "09_png_chunks/large_text.png", "13_raw_warnings/two_resolutions.jpg"]
)
def test_an_image_is_read_whatever_its_metadata_are(cases, run, name):
    found, err = labels(run, cases / "support", cases / name)
    assert len(found["pictures"]) == 1 and "Warning" not in err


@pytest.mark.parametrize(
    "kind", ["02_transparency/{}_rgba.png", "02_transparency/{}_pal.png", "03_float_and_int32_tiff/{}_float.tif"]
)
def test_a_circle_is_no_cross(cases, run, tmp_path, kind):
    white = similarity(
        run, tmp_path, *(cases / "02_transparency" / f"{name}_white.png" for name in ("circle", "cross"))
    )
    got = similarity(run, tmp_path, *(cases / kind.format(name) for name in ("circle", "cross")))
    assert got == pytest.approx(white, abs=0.01) and white < 0.4


def test_layouts(cases, run):
    layouts = cases / "04_layouts"
    _, err = run(3, "prepare", "images", "--from", layouts / "nested", "--dry-run")
    assert "(4: apple, bottle, cup, …; --class-level 1) or the second (8: apple/2023" in err
    assert len(planned(run, layouts / "nested", "--class-level", "1")[0]) == 4
    splits, _, _ = planned(run, layouts / "capital_splits")
    assert splits["apple"] == "train" and splits["egg"] == "val" and splits["hat"] == "test" and len(splits) == 8
    classes, skipped, _ = planned(run, layouts / "masks")
    assert len(classes) == 4 and skipped == {"masks or crops beside images": 8}
    classes, skipped, _ = planned(run, layouts / "nas")
    assert sorted(classes) == ["apple", "bottle", "cup"] and skipped == {"the system's own": 1}
    classes, skipped, err = planned(run, layouts / "suffix")
    assert len(classes) == 5 and (skipped == {} or "bottle_1.HEIC" in err)
    found, _ = labels(run, layouts / "linked", cases / "support" / "apple")
    assert found["support"] == {"apple": 2, "bottle": 2, "cup": 2}
    assert [row["label"] for row in found["pictures"]] == ["apple", "apple"]


def test_the_official_masks_are_no_birds(cases, run):
    out, _ = run(0, "prepare", "cub", "--from", cases / "05_cub" / "with_segmentations", "--format", "json")
    assert [split["largest_class"] for split in json.loads(out)["splits"].values()] == [2, 2]


@pytest.mark.parametrize("name", ["numpy_scalar.pth", "model_state_dict.pt", "compiled.pth", "hf.safetensors"])
def test_checkpoints_of_others(cases, run, tmp_path, name):
    out, _ = run(0, "import", cases / "06_checkpoints" / name, "-o", tmp_path / "w.safetensors")
    assert json.loads(out)["backbone"] == {"name": "resnet12", "widths": [8, 8, 8, 8]}
    words = ("eval", "--recipe", "glyphs_5w1s", "--set", NETWORK, "--episodes", "2", "--weights")
    _, err = run(0, *words, cases / "06_checkpoints" / name)
    assert ("has no sidecar" in err) == (name == "hf.safetensors")


def test_archives_and_lists(cases, run):
    _, err = run(3, "prepare", "images", "--from", cases / "07_archives" / "deflate64.zip")
    assert "unpack it with another program" in err
    assert sorted(planned(run, cases / "08_csv" / "space_after_comma.csv")[0]) == ["apple", "bottle", "cup"]
    assert run(0, "prepare", "mini_imagenet", "--from", cases / "10_learn2learn_pickles")


def test_all_broken_images_are_named_at_once(cases, run):
    broken = cases / "12_several_broken"
    for words in (("prepare", "images", "--from", broken), ("classify", broken, "--support", cases / "support")):
        _, err = run(3, *words)
        assert "3 images cannot be used" in err and all(
            f"{broken}/" in err and name in err for name in ("bad1", "bad2", "bad3")
        )
        assert (
            "left out"
            in run(0, *words, "--skip-bad", *(("--name", "rest") if words[0] == "prepare" else ()))[
                int(words[0] != "prepare")
            ]
        )


def test_a_store_is_not_taken_for_what_another_source_makes(cases, run):
    run(0, "prepare", "images", "--from", cases / "support", "--name", "t")
    _, err = run(3, "prepare", "images", "--from", "/no/such/folder", "--name", "t")
    assert "no such file or folder" in err
