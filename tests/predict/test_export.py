"""Exported models give what the models here give; a file that would not is not kept."""

import json
import subprocess
import sys
from pathlib import Path

import glyph_files
import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.evaluation.model import Model
from fewshot_cli.predict import export
from fewshot_cli.runtime.processes import Processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "matching.py"


@pytest.fixture(scope="module")
def folders(glyph_root, tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for kind, pick in (("support", slice(3)), ("query", slice(3, 6))):
        glyph_files.save(glyph_root, root / kind, range(3), pick)
    return root


def pixels(paths, facts):
    """Images as the file's own facts say."""
    spec = facts["image"]
    how, out = Image.Resampling[spec["interpolation"].upper()], []
    for path in paths:
        image = Image.open(path).convert("RGB").resize((spec["resize"], spec["resize"]), how)
        edge = (spec["resize"] - spec["size"]) // 2
        out.append(np.asarray(image)[edge : edge + spec["size"], edge : edge + spec["size"]])
    return np.stack(out).transpose(0, 3, 1, 2).astype(np.float32) / 255


@pytest.mark.slow
@pytest.mark.parametrize(("head", "ending"), [("sfc", ".onnx"), ("prototype", ".pt2")])
def test_a_classifier_labels_as_fsl_does(fsl, folders, tmp_path, head, ending):
    words = ("--recipe", "glyphs_5w5s", "--set", f"head={head}", "--support", folders / "support")
    code, out, err = fsl("export", *words, "-o", f"m{ending}", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert result["relative_error"] <= 1e-4 and result["logits_from_exact"] < (0.3 if head == "sfc" else 1e-4)
    queries = sorted((folders / "query").rglob("*.png"))
    code, said, _ = fsl("classify", *queries, *words, "--format", "json")
    labels = [row["label"] for row in json.loads(said)["pictures"]]
    if ending == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession("m.onnx")
        facts = {k.removeprefix("fsl."): json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
        logits = session.run(None, {"images": pixels(queries, facts)})[0]
    else:
        held = {f"fsl.{key}": "" for key in ("classes", "image", "weights", "saw")}
        program = torch.export.load("m.pt2", extra_files=held)
        facts = {k.removeprefix("fsl."): json.loads(v) for k, v in held.items()}
        logits = program.module()(torch.from_numpy(pixels(queries, facts))).detach().numpy()
    assert [facts["classes"][i] for i in logits.argmax(1)] == labels
    assert facts["weights"]["source"].startswith("shipped:glyphs")


@pytest.mark.slow
def test_a_backbone_and_the_example_that_matches_its_maps(fsl, folders, tmp_path):
    code, _, err = fsl("export", "--recipe", "glyphs_5w1s", "--support", folders / "support", "-o", "b.onnx")
    assert code == 0 and "head emd matches by a solver" in err and "heads sfc and prototype" in err
    a, b = (folders / kind / "class0" / "0.png" for kind in ("support", "query"))
    done = subprocess.run([sys.executable, EXAMPLE, "b.onnx", a, b], capture_output=True, text=True, cwd=tmp_path)
    code, out, _ = fsl("match", "--format", "json", a, b, "-o", "m.png", "--recipe", "glyphs_5w1s")
    assert float(done.stdout) == pytest.approx(json.loads(out)[0]["similarity"], abs=2e-4), done.stderr
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    model = Model.open(load_recipe("glyphs_5w1s"), tmp_path, Processes(torch.device("cpu")))
    import onnxruntime

    session = onnxruntime.InferenceSession("b.onnx")
    facts = {"image": json.loads(session.get_modelmeta().custom_metadata_map["fsl.image"])}
    maps = session.run(None, {"images": pixels([a, b], facts)})[0]
    want = model.features_once(LooseImages([a, b], model.recipe.image)).numpy()
    assert np.abs(maps - want).max() <= 1e-4 * np.abs(want).max()


def test_a_file_that_gives_something_else_is_not_kept(fsl, folders, tmp_path, monkeypatch):
    def spoiled(whole, images, out, facts):
        out.write_bytes(b"model")
        return whole(images).numpy() * 1.001

    monkeypatch.setattr(export, "_archive", spoiled)
    words = ("export", "--recipe", "glyphs_5w5s", "--set", "head=prototype", "--support", folders / "support", "-o")
    code, _, err = fsl(*words, "m.pt2")
    assert code == 3 and "off by 1.0e-03, more than 0.0001, so it was not kept" in err
    assert not (tmp_path / "m.pt2").exists()
    code, _, err = fsl(*words, "m.txt")
    assert code == 2 and "must end in .onnx or .pt2" in err
    (tmp_path / "there.pt2").write_bytes(b"mine")
    code, _, err = fsl(*words, "there.pt2")
    assert code == 2 and "already exists" in err and (tmp_path / "there.pt2").read_bytes() == b"mine"
    code, _, err = fsl("export", "--recipe", "features_5w1s", "-o", "f.onnx")
    assert code == 3 or "nothing to export" in err
