"""`fsl prepare` of what is already prepared answers with the old report only where it would make the same again."""

import json
import shutil

import pytest
from spoiled import images


@pytest.fixture
def prepare(fsl, tmp_path):
    images(tmp_path / "photos", list("abcd"), 4)

    def run(*more, source="photos"):
        words = ("--from", tmp_path / source) if source else ()
        return fsl("prepare", "images", *words, "--data-root", tmp_path / "data", "--format", "json", *more)

    run.first = json.loads(run()[1])
    return run


@pytest.mark.parametrize("source", ["photos", None])
def test_the_same_source_gives_the_same_report(prepare, source):
    code, out, err = prepare(source=source)
    assert code == 0 and json.loads(out) == prepare.first and "already prepared" in err


def test_another_source_is_refused_until_it_is_forced(prepare, tmp_path):
    images(tmp_path / "others", list("abce"), 5)
    code, out, err = prepare(source="others")
    assert code == 3 and out == "" and "images: is already prepared, from another source than now asked for" in err
    code, out, _ = prepare("--force", source="others")
    assert code == 0 and json.loads(out)["sha256"] != prepare.first["sha256"]
    assert prepare(source="others")[0] == 0 and prepare()[0] == 3


def test_a_folder_that_has_changed_is_another_source(prepare, tmp_path):
    shutil.copy(tmp_path / "photos" / "a" / "0.png", tmp_path / "photos" / "a" / "more.png")
    assert prepare()[0] == 3
    (tmp_path / "photos" / "a" / "more.png").unlink()
    assert prepare()[0] == 0


def test_a_source_that_is_not_there_is_not_answered_with_an_old_report(prepare):
    code, out, err = prepare(source="gone")
    assert code == 3 and out == "" and "gone: no such file or folder" in err


def test_another_option_is_refused(prepare):
    code, out, err = prepare("--set", "split_seed=5")
    assert code == 3 and out == "" and "with other options than" in err


def test_stores_of_earlier_versions_know_a_folder_by_its_name(prepare, tmp_path):
    path = tmp_path / "data" / "images" / "index.json"
    index = json.loads(path.read_text())
    index["sources"] = [{"name": "photos", "sha256": None}]
    path.write_text(json.dumps(index))
    assert prepare()[0] == 0
    (tmp_path / "photos").rename(tmp_path / "pictures")
    assert prepare(source="pictures")[0] == 3
