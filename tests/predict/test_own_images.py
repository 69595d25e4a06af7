"""A user's own images: classified, retrieved, matched and drawn; what is wrong with them is told in a sentence."""

import csv
import io
import json
import subprocess
import sys

import glyph_files
import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.store import open_store
from fewshot_cli.data.user_images import Folder
from fewshot_cli.evaluation.model import Model
from fewshot_cli.features.embed import WholeImages, embed
from fewshot_cli.figures import matching
from fewshot_cli.runtime.processes import Processes


def embedded(backbone, images, recipe):
    here = Processes(torch.device("cpu"))
    return embed(backbone, WholeImages(images, recipe.image, here.device), here)


@pytest.fixture(scope="module")
def folders(glyph_root, tmp_path_factory):
    """Glyphs of four classes as files: three examples and four queries per class."""
    root = tmp_path_factory.mktemp("photos")
    for kind, pick in (("support", slice(3)), ("query", slice(3, 7))):
        glyph_files.save(glyph_root, root / kind, range(4), pick)
    return root


def single(folders, tmp_path):
    """A support folder with one example per class."""
    for folder in (folders / "support").iterdir():
        (tmp_path / "one" / folder.name).mkdir(parents=True)
        (tmp_path / "one" / folder.name / "a.png").write_bytes((folder / "0.png").read_bytes())
    return tmp_path / "one"


@pytest.mark.parametrize("head", ["sfc", "emd", "prototype", "finetune"])
def test_classify_labels_images_from_a_few_examples(fsl, folders, head):
    code, out, err = fsl(
        "classify",
        folders / "query",
        "--support",
        folders / "support",
        "--recipe",
        "glyphs_5w5s",
        "--set",
        f"head={head}",
        "--format",
        "json",
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["support"] == {f"class{c}": 3 for c in range(4)} and len(result["pictures"]) == 16
    for row in result["pictures"]:
        assert abs(sum(row["scores"].values()) - 1) < 1e-5 and row["score"] == max(row["scores"].values())
    right = sum(row["label"] in row["picture"] for row in result["pictures"])
    assert right >= 11


def test_classify_is_what_the_head_says(fsl, folders, glyph_root):
    """The same logits as the head on the same features, image by image."""
    code, out, _ = fsl(
        "classify",
        folders / "query" / "class1",
        folders / "query" / "class0" / "2.png",
        "--support",
        folders / "support",
        "--recipe",
        "glyphs_5w1s",
        "--format",
        "json",
    )
    assert code == 0
    rows = json.loads(out)["pictures"]
    assert [row["picture"].rpartition("query/")[2] for row in rows] == [
        *(f"class1/{i}.png" for i in range(4)),
        "class0/2.png",
    ]
    loaded = load_recipe("glyphs_5w1s")
    split = open_store(glyph_root, "glyphs").split("test")
    model = Model.open(loaded, glyph_root, Processes(torch.device("cpu")))
    backbone, head = model.backbone, model.head
    images, _ = split.decode(32)
    members = split.members()[:4]
    with torch.no_grad():
        maps = [embedded(backbone, images[m], loaded) for m in members]
        support = torch.stack([m[:3] for m in maps])[None]
        want = head(support, torch.cat([maps[1][3:7], maps[0][5:6]])[None])[0].softmax(-1)
    got = torch.tensor([list(row["scores"].values()) for row in rows])
    assert torch.allclose(got, want, atol=1e-4)


def test_what_an_operating_system_adds_to_a_folder_is_no_image(fsl, folders, tmp_path):
    (tmp_path / "mine" / ".trash").mkdir(parents=True)
    (tmp_path / "mine" / "a.png").write_bytes((folders / "query" / "class0" / "0.png").read_bytes())
    for name in ("._a.png", ".trash/b.png"):
        (tmp_path / "mine" / name).write_bytes(b"Mac OS X")
    code, out, err = fsl(
        "classify", tmp_path / "mine", "--support", folders / "support", "--recipe", "glyphs_5w5s", "--format", "csv"
    )
    assert code == 0 and len(out.splitlines()) == 2, err


def test_classify_with_one_example_a_class_and_other_formats(fsl, folders, tmp_path):
    arguments = (
        "classify",
        folders / "query" / "class0",
        "--support",
        single(folders, tmp_path),
        "--recipe",
        "glyphs_5w5s",
    )
    code, out, err = fsl(*arguments, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 4 and {"picture", "label", "score", "score:class3"} <= set(rows[0]), err
    code, out, _ = fsl(*arguments)
    assert code == 0 and "second" in out and "not calibrated; they are no probabilities" in out


def test_classify_refuses_what_it_cannot_use(fsl, folders, tmp_path):
    base = ("classify", folders / "query", "--recipe", "glyphs_5w5s", "--support")
    code, _, err = fsl(*base, folders / "support" / "class0")
    assert code == 3 and "put them in" in err and "class0/<class>/<image>" in err
    one = tmp_path / "only"
    (one / "cat").mkdir(parents=True)
    (one / "cat" / "a.png").write_bytes((folders / "support" / "class0" / "0.png").read_bytes())
    code, _, err = fsl(*base, one)
    assert code == 3 and "holds one class (cat); to tell classes apart takes two or more" in err
    (one / "dog").mkdir()
    for i in range(2):
        (one / "dog" / f"{i}.png").write_bytes((folders / "support" / "class1" / f"{i}.png").read_bytes())
    code, _, err = fsl(*base, one, "--set", "head=emd")
    assert code == 3 and "class cat has 1 images, dog has 2; head emd needs the same number" in err
    assert fsl(*base, one)[0] == 0  # the layer takes any number
    (one / "dog" / "0.png").write_bytes(b"no image")
    code, _, err = fsl(*base, one)
    assert code == 3 and "0.png: does not decode as an image" in err
    code, _, err = fsl("classify", folders / "gone.png", "--recipe", "glyphs_5w5s", "--support", folders / "support")
    assert code == 3 and "gone.png: no such file or folder" in err
    (tmp_path / "empty").mkdir()
    code, _, err = fsl("classify", tmp_path / "empty", "--recipe", "glyphs_5w5s", "--support", folders / "support")
    assert code == 3 and "holds no images" in err
    code, _, err = fsl(*base, tmp_path / "nowhere")
    assert code == 3 and "nowhere: does not exist; give --support an archive or a folder" in err
    code, _, err = fsl(*base, folders / "support", "--weights", tmp_path / "none.safetensors")
    assert code == 3 and "no such weights" in err


def test_classify_refuses_weights_of_another_shape(fsl, folders):
    code, _, err = fsl(
        "classify",
        folders / "query",
        "--support",
        folders / "support",
        "--recipe",
        "glyphs_5w5s",
        "--set",
        "backbone.channels=32",
    )
    assert code == 3 and "is [64, 3, 3, 3], backbone conv64 needs [32, 3, 3, 3]" in err


def test_retrieve_recalls_what_a_plain_loop_recalls(fsl, glyph_root):
    sets = ("--data-root", glyph_root, "--recipe", "glyphs_5w1s", "--set", "head=prototype")
    code, out, err = fsl("retrieve", *sets, "--queries", "25", "--shortlist", "12", "--k", "1,3", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    loaded = load_recipe("glyphs_5w1s", ["head=prototype"])
    split = open_store(glyph_root, "glyphs").split("test")
    from fewshot_cli.predict.retrieve import _picks

    maps = Model.open(loaded, glyph_root, Processes(torch.device("cpu"))).features(split)
    pooled = maps.flatten(2).mean(-1).double().numpy()
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    picks, hits = _picks(len(split), 25, loaded.seed).tolist(), {"global": [], "reranked": []}
    assert len(set(picks)) == 25
    for q in picks:
        order = [i for i in np.argsort(-(unit @ unit[q]), kind="stable") if i != q][:12]
        again = sorted(order, key=lambda i: ((pooled[i] - pooled[q]) ** 2).sum())
        for kind, ranked in (("global", order), ("reranked", again)):
            hits[kind].append([any(split.labels[i] == split.labels[q] for i in ranked[:k]) for k in (1, 3)])
    for kind, rows in hits.items():
        for place, k in enumerate(("1", "3")):
            assert abs(result["recall"][k][kind] - 100 * np.mean(rows, 0)[place]) < 1e-9
    for form in ("table", "md", "csv"):
        code, out, _ = fsl("retrieve", *sets, "--queries", "5", "--format", form)
        assert code == 0 and ("Recall@8" in out or "k,global" in out)


def test_retrieve_searches_a_folder_for_anothers_images(fsl, folders):
    code, out, err = fsl(
        "retrieve",
        "--recipe",
        "glyphs_5w1s",
        "--gallery",
        folders / "support",
        "--query",
        folders / "query",
        "--k",
        "1,5",
        "--format",
        "json",
    )
    assert code == 0, err
    result = json.loads(out)
    assert (result["queries"], result["pictures"], result["shortlist"]) == (16, 12, 12)
    assert result["recall"]["5"]["reranked"] >= result["recall"]["1"]["reranked"] > 50


def test_retrieve_ranks_the_gallery_as_the_head_scores_it(fsl, folders, tmp_path):
    """Queries of two classes only, so that their labels are not the gallery's numbers; every pair is scored alone."""
    for name in ("class3", "class1"):
        (tmp_path / "some" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "some" / name / f"{i}.png").write_bytes((folders / "query" / name / f"{i}.png").read_bytes())
    code, out, err = fsl(
        "retrieve",
        "--recipe",
        "glyphs_5w1s",
        "--gallery",
        folders / "support",
        "--query",
        tmp_path / "some",
        "--k",
        "1,12",
        "--format",
        "json",
    )
    assert code == 0, err
    result, loaded = json.loads(out), load_recipe("glyphs_5w1s")
    model = Model.open(loaded, tmp_path, Processes(torch.device("cpu")))
    backbone, head = model.backbone, model.head
    gallery, asked = (Folder(path, "", loaded.image) for path in (folders / "support", tmp_path / "some"))
    maps, queries = (embedded(backbone, x.decode(32)[0], loaded) for x in (gallery, asked))
    assert len(result["ranking"]) == 8 and result["left_out"] == 0
    for place, row in enumerate(result["ranking"]):
        want = [float(head(one[None, None, None], queries[place][None, None]).detach()) for one in maps]
        order = sorted(range(12), key=lambda i, want=want: -want[i])
        assert row["class"] == ("class1" if place < 4 else "class3") and row["picture"].startswith(row["class"])
        assert [f["picture"] for f in row["found"]] == [gallery.names[i] for i in order]
        assert [f["score"] for f in row["found"]] == pytest.approx([want[i] for i in order], abs=1e-4)
    first = [row["found"][0]["class"] == row["class"] for row in result["ranking"]]
    assert result["recall"]["1"]["reranked"] == pytest.approx(100 * sum(first) / 8) and sum(first) > 4
    assert result["recall"]["12"]["reranked"] == 100


def test_retrieve_finds_no_image_by_itself(fsl, folders, tmp_path):
    base = ("retrieve", "--recipe", "glyphs_5w1s", "--k", "1,2", "--format", "json", "--gallery")
    code, out, err = fsl(*base, folders / "support")
    assert code == 0, err
    assert (
        json.loads(out)["ranking"]
        == json.loads(fsl(*base, folders / "support", "--query", folders / "support")[1])["ranking"]
    )
    for i in range(3):
        folder = tmp_path / "few" / f"class{i}"
        folder.mkdir(parents=True)
        for shot in range(1 + (i == 0)):
            (folder / f"{shot}.png").write_bytes((folders / "support" / f"class{i}" / f"{shot}.png").read_bytes())
    code, out, err = fsl(*base, tmp_path / "few")
    assert code == 0, err
    result = json.loads(out)
    assert (result["queries"], result["left_out"]) == (2, 2) and {r["class"] for r in result["ranking"]} == {"class0"}
    code, out, _ = fsl(*base[:-3], "--gallery", tmp_path / "few")
    assert "left out: 2 queries whose class has no other image" in out
    (tmp_path / "few" / "class0" / "1.png").unlink()
    code, _, err = fsl(*base, tmp_path / "few")
    assert code == 3 and "no query has another image of its class" in err


def test_retrieve_refuses_what_it_cannot_use(fsl, folders, tmp_path):
    base = ("retrieve", "--recipe", "glyphs_5w1s")
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "a.png").write_bytes((folders / "support" / "class0" / "0.png").read_bytes())
    code, _, err = fsl(*base, "--gallery", loose)
    assert code == 3 and f"put them in {loose}/<class>/<image>" in err
    code, _, err = fsl(*base, "--gallery", folders / "support", "--k", "1,12")
    assert code == 3 and "12 neighbours were asked for, the gallery has 11" in err
    other = tmp_path / "other" / "unheard"
    other.mkdir(parents=True)
    (other / "a.png").write_bytes((loose / "a.png").read_bytes())
    code, _, err = fsl(*base, "--gallery", folders / "support", "--query", tmp_path / "other")
    assert code == 3 and "class unheard has no image in the gallery" in err
    code, _, err = fsl(*base, "--k", "1,x")
    assert code == 2 and "positive whole numbers" in err
    code, _, err = fsl(*base, "--query", folders / "query")
    assert code == 2 and "--query needs --gallery" in err


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["fcn", "grid", "sampling"])
def test_match_draws_two_images_or_an_episode(fsl, folders, tiny, pretrained, tmp_path, extractor):
    a, b = (folders / "support" / f"class{i}" / "0.png" for i in (0, 1))
    weights = pretrained / "weights.safetensors"
    more = (*tiny.words, "--set", f"extractor={extractor}", "--weights", weights)
    code, out, err = fsl("match", "--format", "json", a, b, "-o", tmp_path / "m.png", *more)
    assert code == 0, err
    assert len(json.loads(out)) == 1 and Image.open(tmp_path / "m.png").width > 500
    code, out, err = fsl(
        "match", "--format", "json", "--episode", "2", "--query", "6", "-o", tmp_path / "e.png", "--flows", *more
    )
    assert code == 0, err
    rows = json.loads(out)
    assert [row["true"] for row in rows] == [False, False, True, False, False]
    assert Image.open(tmp_path / "e.png").height > Image.open(tmp_path / "m.png").height


def test_a_image_matched_with_itself_is_rebuilt_from_its_own_patches(fsl, folders, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(matching, "matches", lambda path, panels, *_: seen.extend(panels))
    a = folders / "support" / "class0" / "0.png"
    assert (
        fsl(
            "match",
            "--format",
            "json",
            a,
            a,
            "-o",
            tmp_path / "m.png",
            "--recipe",
            "glyphs_5w1s",
            "--set",
            "head.weights=equal",
        )[0]
        == 0
    )
    (panel,) = seen
    assert abs(panel.matching.similarity - 1) < 1e-5
    assert (panel.rebuilt() - panel.left).abs().mean() < 0.02


def test_match_refuses_what_it_cannot_draw(fsl, folders, glyph_root, tmp_path):
    a = folders / "support" / "class0" / "0.png"
    code, _, err = fsl("match", "--format", "json", a, "-o", tmp_path / "m.png")
    assert code == 2 and "give two images" in err
    code, _, err = fsl("match", "--format", "json", a, a, "-o", tmp_path / "m.png", "--recipe", "glyphs_5w1s_prototype")
    assert code == 2 and "--set head=emd" in err
    code, _, err = fsl(
        "match", "--format", "json", a, a, "-o", tmp_path / "m.png", "--query", "3", "--recipe", "glyphs_5w1s"
    )
    assert code == 2 and "--query names a query of an episode" in err
    code, _, err = fsl(
        "match", "--format", "json", "--episode", str(10**23), "-o", tmp_path / "m.png", "--recipe", "glyphs_5w1s"
    )
    assert code == 2 and "--episode" in err
    code, _, err = fsl("match", "--format", "json", a, a, "-o", tmp_path / "m.nonsense", "--recipe", "glyphs_5w1s")
    assert code == 2 and "end the name in .png, .svg or .pdf" in err
    more = ("--recipe", "glyphs_5w1s", "--data-root", glyph_root)
    code, _, err = fsl("match", "--format", "json", "--episode", "0", "--query", "75", "-o", tmp_path / "m.png", *more)
    assert code == 3 and "has the queries 0 to 74" in err
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG nothing")
    code, _, err = fsl("match", "--format", "json", a, bad, "-o", tmp_path / "m.png", "--recipe", "glyphs_5w1s")
    assert code == 3 and "bad.png: does not decode as an image (no known format)" in err


@pytest.mark.slow
def test_classify_takes_no_more_memory_for_more_photos(tmp_path):
    """240 photographs of 2.4 MB in the memory of 8, give or take what the allocator keeps; together they are 580 MB."""
    code = (
        "import resource, sys; from fewshot_cli.cli import app\n"
        "try: app.main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1400, 1800, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    peaks = []
    for count in (8, 240):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            (folder / f"{i}.jpg").write_bytes(file.getvalue() + bytes([i]))
        for cls in ("a", "b"):
            (tmp_path / "support" / cls).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[: 40 + ord(cls)]).save(tmp_path / "support" / cls / "1.png")
        words = ("classify", folder, "--support", tmp_path / "support", "--recipe", "glyphs_5w5s", "--format", "csv")
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words), "--data-root", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) == count + 1
        peaks.append(int(done.stderr.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 0.15 * 240 * len(file.getvalue()) / 2**20, peaks
