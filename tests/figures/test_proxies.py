"""Which proxy each place of an image goes to: numbers against the classifier's own, the figure, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from bars import store, write
from drawn import assert_readable, texts
from matplotlib.colors import to_rgb
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.data.store import open_store
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.figures import proxies, style
from fewshot_cli.figures.proxies import Row
from fewshot_cli.weights import checkpoint, installed

PROXIES = "{name: multi_proxy, proxies: 3}"


@pytest.fixture
def made(fsl, tmp_path):
    """A classifier trained for an epoch, and an image of class c4: (recipe, weights, image)."""
    store(tmp_path / "data", "plain", {"train": 20, "test": 4})
    mine = write("mine.yaml", "plain", PROXIES)
    code, _, err = fsl("pretrain", "--recipe", mine, "--run-dir", "run", "--set", "pretrain.epochs=1")
    assert code == 0, err
    split = open_store(tmp_path / "data", "plain").split("test")
    image = split.decode(16)[0][split.members()[4][0]]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save("one.png")
    return mine, "run/weights.safetensors", "one.png"


def classifier_and_maps(mine, weights, image):
    """Loaded by hand, with the image's map."""
    loaded, file = load_recipe(mine), checkpoint.load(Path(weights))
    backbone = build_backbone(loaded).eval()
    file.fill(backbone, "backbone", "")
    own = build_classifier(loaded.pretrain.classifier, 8, 7, loaded.solver, torch.device("cpu")).eval()
    file.fill(own, "classifier", "")
    pixels = torch.tensor(list(Image.open(image).convert("RGB").tobytes()), dtype=torch.uint8)
    image = pixels.view(16, 16, 3).permute(2, 0, 1)[None]
    with torch.no_grad():
        return own, backbone(normalise(image, loaded.image))


def test_records_are_the_classifiers_own_and_shares_sum_to_one(fsl, made, monkeypatch):
    mine, weights, image = made
    drawn = []
    monkeypatch.setattr(proxies, "correspondences", lambda path, rows, title: drawn.extend(rows))
    code, out, err = fsl("match", "--format", "json", image, "--recipe", mine, "--weights", weights, "-o", "x.png")
    assert code == 0, err
    records = json.loads(out)
    own, maps = classifier_and_maps(*made)
    with torch.no_grad():
        logits = own(maps)[0]
        inner, cosine = own.products(maps)
        flow = own.flow(cosine).flow  # [7,HW,3]
    split_classes = [f"c{c}" for c in range(7)]
    best = logits.argsort(descending=True)[:3].tolist()
    assert [r["class"] for r in records] == [split_classes[c] for c in best]
    for c, record, row in zip(best, records, drawn, strict=True):
        assert record["logit"] == pytest.approx(float(logits[c]), abs=1e-5)
        assert record["probability"] == pytest.approx(float(logits.softmax(0)[c]), abs=1e-5)
        parts = [sum(float(flow[c, j, m] * inner[0, c, j, m]) for j in range(flow.shape[1])) for m in range(3)]
        assert record["shares"] == pytest.approx([p / float(logits[c]) for p in parts], abs=1e-4)
        assert sum(record["shares"]) == pytest.approx(1, abs=1e-5) and record["not_converged"] == 0
        h, w = maps.shape[2:]
        assert row.mass.shape == (h, w, 3) and torch.allclose(row.mass.sum(2), torch.ones(h, w), atol=1e-5)
        assert torch.allclose(row.mass[0, 1], flow[c, 1] / flow[c, 1].sum(), atol=1e-5)
        assert row.strongest()[0, 1] == flow[c, 1].argmax()
        assert row.image.shape == (3, 16, 16) and record["class"] in row.title
        assert f"logit {record['logit']:.2f}" in row.title and f"{100 * record['probability']:.1f} %" in row.title
    shown = drawn[0].image
    assert drawn[0].image.max() <= 1 and float(shown[1, 9, 9] - shown[1, 9, 3]) > 0.3  # the green bar of c4


def test_scaled_cosines_and_masses_that_are_learned_are_shown_as_they_score(fsl, made):
    mine = write(
        "cosine.yaml", "plain", "{name: multi_proxy, proxies: 2, score: cosine, scale: 9.0, marginals: learned}"
    )
    assert fsl("pretrain", "--recipe", mine, "--run-dir", "other", "--set", "pretrain.epochs=1")[0] == 0
    code, out, err = fsl(
        "match",
        "--format",
        "json",
        "one.png",
        "--recipe",
        mine,
        "--weights",
        "other/weights.safetensors",
        "-o",
        "x.svg",
    )
    assert code == 0, err
    own, maps = classifier_and_maps(mine, "other/weights.safetensors", "one.png")
    with torch.no_grad():
        logits = own(maps)[0]
    assert [r["logit"] for r in json.loads(out)] == pytest.approx(logits.topk(3).values.tolist(), abs=1e-5)


@pytest.mark.parametrize("verb", ["proxies", "match"])
def test_the_figure_has_a_row_for_each_class_asked_for(fsl, made, verb):
    mine, weights, image = made
    base = (verb, "--format", "json", image, "--recipe", mine, "--weights", weights)
    sizes = []
    for chosen in (["c5"], ["c5", "c0"], ["c0", "c5", "c0"]):
        names = [x for name in chosen for x in ("--class", name)]
        code, out, err = fsl(*base, *names, "-o", "f/x.png")
        assert code == 0 and "figure: f/x.png" in err, err
        assert ("write fsl proxies" in err) == (verb == "match")
        assert [r["class"] for r in json.loads(out)] == list(dict.fromkeys(chosen))
        with Image.open("f/x.png") as image:
            sizes.append((image.size, len(image.convert("RGB").getcolors(1 << 24))))
    assert sizes[1][0] == sizes[2][0] and sizes[1][0][1] > sizes[0][0][1] and sizes[0][1] > 1000


def test_the_names_of_classes_are_the_datasets_where_weights_have_none(fsl, made):
    mine, weights, image = made
    sidecar = Path(weights + ".json")
    known = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({k: v for k, v in known.items() if k != "classes"}))
    code, out, err = fsl(
        "match", "--format", "json", image, "--recipe", mine, "--weights", weights, "-o", "x.png", "--class", "c6"
    )
    assert code == 0 and json.loads(out)[0]["class"] == "c6", err


def test_a_class_of_many_proxies_shows_those_that_count():
    """Captions, heat maps and the colours of positions, as they reach Matplotlib."""
    parts = torch.tensor([0.0, 3, -4, 1, 1, 1, 1, 1.5, 0.5, -1])
    mass = torch.zeros(2, 2, 10)
    mass[0, 0, 1], mass[0, 1, 2], mass[1, 0, 0], mass[1, 1, 9] = 1, 0.5, 1, 1
    row = Row(torch.rand(3, 8, 8), mass, parts, "a class")
    single = proxies.draw([Row(row.image, mass[..., :1], parts[1:2], "another")])
    said = [text for text, _ in texts(single)]
    assert {"another", "proxy 1: 100 % of", "logit"} <= set(said) and "proxy 2" not in " ".join(said)
    figure = proxies.draw([row])
    said = " ".join(text for text, _ in texts(figure))
    assert "proxy 2: 75 % of logit" in said and "proxy 3: -100 % of logit" in said
    assert said.count("of logit") == 8 and "proxy 1:" not in said and "proxy 9:" not in said
    axes = figure.axes
    blue, other = (torch.tensor(to_rgb(colour)) for colour in (style.PALETTE[0], proxies.OTHERS))
    painted = torch.as_tensor(axes[1].images[1].get_array())
    assert torch.allclose(painted[0, 0], blue.to(painted)) and torch.allclose(painted[1, 0], other.to(painted))
    assert axes[2].images[1].get_array().tolist() == [[1, 0], [0, 0]]
    assert axes[3].images[1].get_array().tolist() == [[0, 0.5], [0, 0]] and axes[3].images[1].get_clim() == (0, 1)
    assert axes[2].images[1].get_extent() == list(axes[2].images[0].get_extent())  # the map lies on the image
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert named == [*(f"proxy {m}" for m in (2, 3, 4, 5, 6, 7, 8, 10)), "other proxies"]
    assert Row(row.image, mass, torch.zeros(10), "").shares().tolist() == [0.0] * 10


@pytest.mark.parametrize("most", [1, 3, 12])
def test_captions_can_be_read_whatever_they_say(most):
    name = "a class with a really long name that nobody would expect here\n61.2 %, logit 4.21"
    rows = [Row(torch.rand(3, 30, 20), torch.rand(3, 3, m), torch.rand(m), name) for m in (most, 2)]
    assert_readable(proxies.draw(rows, f"{name} {name} {name}"))


def test_what_cannot_be_drawn_is_told_in_a_sentence(fsl, made):
    mine, weights, image = made
    base = ("match", "--format", "json", "--recipe", mine, "--weights", weights, "-o", "x.png")
    for more in ([image, image], [], [image, "--flows"], [image, "--episode", "1"]):
        code, _, err = fsl(*base, *more)
        assert code == 2 and "mine classifies one image at a time: give one IMAGE" in err
    code, _, err = fsl(*base, image, "--class", "c55")
    assert code == 3 and "--class c55: is none of the 7 classes of run/weights" in err and "did you mean 'c5'?" in err
    code, _, err = fsl(*base, image, "--set", "pretrain.classifier=linear")
    assert code == 2 and "has classifier linear, which has no proxies to draw" in err
    code, _, err = fsl(*base, image, "--set", "eval.protocol=episodes", "--class", "c1")
    assert code == 2 and "--class chooses classes of a classifier" in err
    code, _, err = fsl(*base, image, "--set", "eval.protocol=episodes")
    assert code == 2 and "or one image and a recipe with classifier multi_proxy" in err
    code, _, err = fsl(
        "match",
        "--format",
        "json",
        image,
        "--recipe",
        mine,
        "-o",
        "x.png",
        "--weights",
        installed.file("glyphs_conv64"),
    )
    assert code == 3 and "holds no classifier" in err
    Path("folder").mkdir()
    for i in range(2):
        Path(f"folder/{i}.png").write_bytes(Path(image).read_bytes())
    code, _, err = fsl(*base, "folder")
    assert code == 3 and "folder: holds 2 images; give one image file" in err
    assert not Path("x.png").exists()
