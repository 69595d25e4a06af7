"""Figures of alignment: heat maps, correlations and distances are those of the head's own maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import assert_readable, texts
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone, build_head
from fewshot_cli.contracts import Alignment, Stage
from fewshot_cli.figures import alignment
from fewshot_cli.figures.alignment import Sheet
from fewshot_cli.weights import checkpoint

RECIPE = (
    "base: glyphs_5w1s\nbackbone: {name: conv64, channels: 8, last_pool: false}\nhead: {name: "
    "align, offset_zero: false}\n"
)


@pytest.fixture
def weights(tmp_path):
    one = load_recipe(str(Path(tmp_path / "mine.yaml")))
    backbone = build_backbone(one)
    checkpoint.save(tmp_path / "w.safetensors", {"backbone": backbone, "head": build_head(one.head, 8, one.solver)}, {})
    return tmp_path / "w.safetensors"


@pytest.fixture(autouse=True)
def mine(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)


@pytest.mark.parametrize("spelling", [("align",), ("match", "--maps")], ids=" ".join)
def test_an_episode_is_drawn_class_by_class(fsl, weights, glyph_root, spelling):
    words = (
        *spelling,
        "--format",
        "json",
        "--recipe",
        "mine.yaml",
        "--episode",
        "3",
        "--query",
        "7",
        "--out",
        "m.png",
        "--weights",
        weights,
        "--data-root",
        glyph_root,
    )
    code, out, err = fsl(*words)
    assert code == 0, err

    assert ("--maps is an old spelling" in err) == ("--maps" in spelling)
    records = json.loads(out)
    assert [r["true"] for r in records].count(True) == 1 and len({r["class"] for r in records}) == 5
    assert all(set(r["distance"]) == {"before", "after_lsc", "after_ssm"} and r["not_converged"] == 0 for r in records)
    image = Image.open("m.png")
    assert image.width > 1400 and len(np.unique(np.asarray(image))) > 100
    # the last distance, over the scale of one, is the logit
    one = load_recipe("mine.yaml")
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.figures.matching import against
    from fewshot_cli.runtime.processes import Processes

    model = Model.open(one, glyph_root, Processes(torch.device("cpu")), weights)
    left, others = against(model, 3, 7)
    maps = model.features()
    with torch.no_grad():
        logits = model.head(maps[[s for _, s, _ in others]][None, :, None], maps[left][None, None])[0, 0]
    assert torch.allclose(-logits, torch.tensor([r["distance"]["after_ssm"] for r in records]), rtol=1e-4)


def test_two_files_are_drawn_and_other_requests_refused(fsl, weights, tmp_path, glyph_root):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(
            tmp_path / name
        )
    common = ("match", "--format", "json", "a.png", "b.png", "--out", "m.svg", "--data-root", glyph_root)
    code, out, err = fsl(*common, "--recipe", "mine.yaml", "--maps", "--weights", weights)
    assert code == 0 and json.loads(out)[0]["right"] == "b.png" and Path("m.svg").read_text().startswith("<?xml"), err
    for words, code_, said in (
        (("--recipe", "glyphs_5w1s", "--maps"), 2, "lays no map over another"),
        (("--recipe", "mine.yaml", "--weights", weights), 2, "has no flow between two images"),
        (("--recipe", "mine.yaml", "--weights", weights, "--maps", "--flows"), 2, "leave out --flows"),
    ):
        code, _, err = fsl(*common, *words)
        assert code == code_ and said in err, err


def test_heat_is_the_largest_channel_and_correlations_are_cosines():
    rng = torch.Generator().manual_seed(0)
    query, first, last = (torch.randn(4, 2, 3, generator=rng) for _ in range(3))
    stages = (Stage("begin", "as it was", first, "correlated"), Stage("end", "as it is", last))
    sheet = Sheet(torch.rand(3, 5, 5), torch.rand(3, 5, 5), Alignment(query, stages, None), "")
    heat = sheet.heat()
    assert list(heat) == ["query's map", "as it was", "as it is"]
    assert torch.equal(heat["as it is"], last.max(0).values) and torch.equal(heat["query's map"], query.max(0).values)
    (correlation,) = sheet.correlations().items()
    assert correlation[0] == "correlated"
    for i in range(6):
        for j in range(6):
            want = F.cosine_similarity(query.flatten(1)[:, i], first.flatten(1)[:, j], dim=0)
            assert torch.allclose(correlation[1][i, j], want, atol=1e-6)
    assert list(sheet.distances()) == ["begin", "end"]
    assert sheet.distances()["end"] == pytest.approx(float((last - query).square().sum() / 6))


def test_a_sheet_has_a_panel_for_each_stage_and_correlation_that_a_head_names():
    maps = torch.rand(4, 4, 2, 2)
    stages = tuple(Stage(f"s{i}", f"stage {i}", maps[i], "correlation" if i == 2 else None) for i in range(3))
    sheets = [
        Sheet(torch.rand(3, 9, 5), torch.rand(3, 5, 5), Alignment(maps[3], stages, None), name, name == "a class")
        for name in ("a class", "another class whose name goes on and on_without_any_end_that_one_could_see")
    ]
    figure = alignment.draw(sheets, "a title that is long enough to need more than one line of this figure " * 2)
    assert_readable(figure)
    said = [text for text, _ in texts(figure)]
    for words in ("query", "a class", "query's map", "stage 0", "stage 1", "stage 2", "correlation"):
        assert said.count(words) == (1 if words == "a class" else 2), words
    assert f"distance {sheets[0].distances()['s2']:.3g}" in said
    heat = [axes.images[0] for axes in figure.axes[2:6]]
    assert {image.get_clim() for image in heat} == {(0, float(maps.max()))}  # one scale for all of a row
    assert figure.axes[6].images[0].get_clim() == (-1, 1)
