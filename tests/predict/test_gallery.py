"""A gallery that grows: added to, deleted from, searched by every engine; and the engines themselves."""

import json
import shutil

import glyph_files
import numpy as np
import pytest

from fewshot_cli.errors import FslError
from fewshot_cli.predict import nearest
from fewshot_cli.predict.nearest import Exact, engine_of

WORDS = ("--recipe", "glyphs_5w1s")


@pytest.fixture(scope="module")
def photos(glyph_root, tmp_path_factory):
    """Six glyphs of each of five classes."""
    root = tmp_path_factory.mktemp("photos")
    glyph_files.save(glyph_root, root, range(5), slice(6))
    return root


def found(fsl, *words):
    code, out, err = fsl("gallery", "search", "mine", *words, *WORDS, "--format", "json")
    assert code == 0, err
    return json.loads(out)["queries"]


@pytest.mark.parametrize("engine", ["numpy", "flat", "ivf"])
def test_a_gallery_made_in_parts_is_the_whole(fsl, photos, engine):
    for part in ("1/2", "2/2"):
        code, _, err = fsl("gallery", "add", "mine", photos, *WORDS, "--share", part)
        assert code == 0 and "15 images added" in err, err
    assert len(fsl("gallery", "list", "mine", *WORDS)[1].splitlines()) == 30
    query = photos / "class1" / "0.png"
    (hits,) = found(fsl, query, "--top", "29", "--engine", engine)
    assert str(query) not in {hit["image"] for hit in hits["found"]}  # never itself
    scores = [hit["score"] for hit in hits["found"]]
    assert scores == sorted(scores, reverse=True) and len(scores) > (5 if engine == "ivf" else 28)
    code, out, _ = fsl("match", "--format", "json", query, hits["found"][0]["image"], "-o", "m.png", *WORDS)
    assert 12.5 * json.loads(out)[0]["similarity"] == pytest.approx(scores[0], abs=0.02)  # maps are kept as float16


def test_adding_embeds_only_what_is_new_and_removing_embeds_nothing(fsl, photos, tmp_path):
    fsl("gallery", "add", "mine", photos / "class0", *WORDS)
    code, _, err = fsl("gallery", "add", "mine", photos / "class0", photos / "class1", *WORDS)
    assert "6 images added, 6 were there; it holds 12" in err
    query = photos / "class0" / "0.png"
    best = found(fsl, query)[0]["found"][0]["image"]
    code, _, err = fsl("gallery", "remove", "mine", best, *WORDS)
    assert code == 0 and "1 images removed, it holds 11" in err
    assert best not in {hit["image"] for hit in found(fsl, query, "--top", "20")[0]["found"]}
    fsl("gallery", "remove", "mine", photos / "class1", *WORDS)
    assert all("class0" in hit["image"] for hit in found(fsl, query, "--top", "20")[0]["found"])
    code, _, err = fsl("gallery", "add", "mine", best, *WORDS)
    assert "0 images added" in err and found(fsl, query)[0]["found"][0]["image"] == best  # back, and not embedded anew
    code, _, err = fsl("gallery", "remove", "mine", "nothing", *WORDS)
    assert code == 3 and "holds no image nothing" in err


def test_what_is_no_gallery_of_these_features_is_refused(fsl, photos, tmp_path):
    fsl("gallery", "add", "mine", photos / "class0", *WORDS)
    code, _, err = fsl("gallery", "search", "mine", photos / "class0", "--recipe", "cifar_fs_5w1s_conv64")
    assert code == 3 and "holds features of another" in err
    code, _, err = fsl("gallery", "search", photos, photos / "class0", *WORDS)
    assert code == 3 and "is no gallery" in err
    code, _, err = fsl("gallery", "add", photos, photos / "class0", *WORDS)
    assert code == 3 and "is a folder of other things" in err
    code, _, err = fsl("gallery", "add", "mine", photos, *WORDS, "--share", "3/2")
    assert code == 2 and "write it as I/N" in err
    code, _, err = fsl("gallery", "search", "mine", photos, *WORDS, "--engine", "best")
    assert code == 2 and "choose one of" in err
    shard = next((tmp_path / "mine" / "shards").iterdir())
    whole = (shard / "pooled.npy").read_bytes()
    (shard / "pooled.npy").write_bytes(whole[: len(whole) // 2])
    code, _, err = fsl("gallery", "search", "mine", photos / "class0", *WORDS)
    assert code == 3 and "is damaged" in err
    shutil.rmtree(shard)
    code, _, err = fsl("gallery", "search", "mine", photos / "class0", *WORDS)
    assert code == 3 and "holds no images" in err


def directions(count, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_numpy_finds_the_nearest_whatever_the_blocks(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 7)
    rows, queries = directions(100), directions(9, 1)
    gone = np.array([3, 50, 99])
    near = queries @ rows.T
    near[:, gone] = -np.inf
    want = np.argsort(-near, axis=1)[:, :12]
    places, values = Exact([rows[:40], rows[40:]]).nearest(queries, 12, gone)
    assert np.array_equal(places, want) and np.allclose(values, np.take_along_axis(near, want, 1), atol=1e-6)
    places, _ = Exact([rows[:4]]).nearest(queries, 6, np.array([0, 1]))
    assert set(places[0].tolist()) == {2, 3, -1}


def test_faiss_finds_the_same_and_keeps_its_cells(tmp_path):
    rows, queries = directions(2000), directions(20, 1)
    gone = np.array([5, 6])
    want, _ = Exact([rows]).nearest(queries, 10, gone)
    flat, _ = engine_of("flat", [rows], tmp_path, ["a"]).nearest(queries, 10, gone)
    assert np.array_equal(flat, want)
    cells, _ = engine_of("ivf", [rows[:1500]], tmp_path, ["a"]).nearest(queries, 10, gone)
    before = (tmp_path / "cells.faiss").read_bytes()
    grown, _ = engine_of("ivf", [rows[:1500], rows[1500:]], tmp_path, ["a", "b"]).nearest(queries, 10, gone)
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(grown.tolist(), want.tolist(), strict=True)])
    assert same > 0.9 and cells.max() < 1500 <= grown.max() and (tmp_path / "cells.faiss").read_bytes() != before
    written = (tmp_path / "cells.faiss").stat().st_mtime_ns
    engine_of("ivf", [rows[:1500], rows[1500:]], tmp_path, ["a", "b"])
    assert (tmp_path / "cells.faiss").stat().st_mtime_ns == written  # opened, not made again


def test_as_many_cells_are_looked_into_as_the_features_need(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 64))
    of_few_kinds = centres[rng.integers(20, size=4000)] + 0.2 * rng.standard_normal((4000, 64))
    probes = []
    for name, rows in (("few kinds", of_few_kinds), ("no kinds", rng.standard_normal((4000, 64)))):
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        engine = engine_of("ivf", [rows], tmp_path / name, ["a"])
        want = Exact([rows]).nearest(rows[:200], 10, nearest.NONE)[0].tolist()
        found = engine.nearest(rows[:200], 10, nearest.NONE)[0].tolist()
        assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(want, found, strict=True)]) > 0.9
        probes.append(engine.probes)
        assert engine_of("ivf", [rows], tmp_path / name, ["a"]).probes == engine.probes
    assert 2 * probes[0] <= probes[1]


def test_without_faiss_numpy_does_it(monkeypatch, tmp_path):
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    monkeypatch.setattr(nearest, "LARGE", 10)
    assert isinstance(engine_of("auto", [directions(20)], tmp_path, ["a"]), Exact)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(FslError, match="needs the package faiss-cpu"):
        engine_of("ivf", [directions(20)], tmp_path, ["a"])
