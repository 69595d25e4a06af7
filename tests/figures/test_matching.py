"""`fsl match` on images at their own resolution, and on an episode: order, names and verdicts are the head's own."""

import json

import pytest
import torch
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.evaluation.model import Model
from fewshot_cli.figures import matching
from fewshot_cli.runtime.processes import Processes

WORDS = ("match", "--recipe", "glyphs_5w1s", "-o", "m.svg")


@pytest.fixture
def drawn(monkeypatch):
    """What is handed over to be drawn: (panels, whether all flows, title)."""
    calls = []
    monkeypatch.setattr(matching, "matches", lambda path, panels, flows, title="": calls.append((panels, flows, title)))
    return calls


@pytest.mark.parametrize("query", [0, 7, 33])
def test_classes_come_in_the_order_of_their_logits_and_verdicts_are_true(fsl, glyph_root, drawn, query):
    words = (*WORDS, "--episode", "4", "--query", query, "--data-root", glyph_root, "--format", "json")
    code, out, err = fsl(*words)
    assert code == 0, err
    records, ((panels, flows, title),) = json.loads(out), drawn
    model = Model.open(load_recipe("glyphs_5w1s"), glyph_root, Processes(torch.device("cpu")))
    episode, maps = model.sampler(4), model.features()
    with torch.no_grad():
        logits = model.head(maps[episode.support][None], maps[episode.query.flatten()][None])[0, query]
    order = logits.argsort(descending=True).tolist()
    truth = int(episode.labels()[query])
    names = [model.split.classes[c] for c in episode.classes]
    assert [r["class"] for r in records] == names and not flows
    assert [p.captions for p in panels] == [
        (f"query: {names[truth]}", f"{rank}. {names[place]}") for rank, place in enumerate(order, 1)
    ]
    assert [p.matching.similarity for p in panels] == sorted((r["similarity"] for r in records), reverse=True)
    rank = order.index(truth)
    assert [p.verdict for p in panels] == [
        ("right" if rank == 0 else "wrong") if place == 0 else "truth" if place == rank else None for place in range(5)
    ]
    said = "recognised" if rank == 0 else f"taken for {names[order[0]]}"
    assert title == f"glyphs_5w1s, episode 4, query {query}: {names[truth]}, {said}"


def test_queries_that_are_taken_for_another_class_are_among_those_tested(fsl, glyph_root, drawn):
    for query in (0, 7, 33):
        fsl(*WORDS, "--episode", "4", "--query", query, "--data-root", glyph_root)
    assert len({panels[0].verdict for panels, _, _ in drawn}) == 2


def test_photos_are_drawn_in_their_own_proportions_and_resolution(fsl, drawn, tmp_path):
    Image.effect_mandelbrot((120, 70), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "small.png")
    Image.effect_mandelbrot((500, 2000), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "large.jpg")
    code, _, err = fsl(*WORDS, "small.png", "large.jpg", "--flows")
    assert code == 0, err
    (((panel,), flows, _),) = drawn
    assert panel.left.shape == (3, 70, 120) and panel.right.shape == (3, matching.SHOWN, matching.SHOWN // 4)
    assert flows and panel.captions == ("query: small.png", "support: large.jpg") and panel.verdict is None


def test_of_an_image_the_part_is_drawn_that_the_network_sees(tmp_path):
    recipe = load_recipe("glyphs_5w1s", ["image.resize=40"])
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    images = LooseImages([tmp_path / "a.png"], recipe.image)
    seen, size = matching.shown(recipe, images, 0)
    assert seen.shape == (3, 80, 160) and size.tolist() == [100, 200]
    assert matching.shown(recipe, images, 0, whole=True)[0].shape == (3, 100, 200)
