"""Where weights come from: the backbone, the seed, the hub; and what results say of the data behind them."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.external import warn_if_other_constants, warn_if_tested_on_seen
from fewshot_cli.weights import checkpoint, hub
from fewshot_cli.weights.find import find_named, find_weights

COMMIT = "c" * 40


def test_a_backbone_that_brings_weights_needs_no_others():
    recipe = load_recipe("cub_5w1s_lite0")
    assert recipe.weights == "own"
    found = find_weights(recipe, None)
    assert found.label == "own:efficientnet_lite" and found.checkpoint.saw == ["imagenet-1k"]
    assert found.checkpoint.sha256 == find_named(recipe, "own").checkpoint.sha256
    with pytest.raises(DataError, match="brings no weights of its own"):
        find_named(load_recipe("glyphs_5w1s"), "own")


def test_another_backbone_takes_its_own_weights_and_images_with_it():
    there = load_recipe("cifar_fs_5w1s", ["backbone=efficientnet_lite"])
    assert there.weights == "own" and there.image.mean == (0.5, 0.5, 0.5) and there.image.size == 160
    chosen = load_recipe("cifar_fs_5w1s", ["image.size=96", "backbone=efficientnet_lite", "image.mean=[0.4,0.4,0.4]"])
    assert chosen.image.size == 96 and chosen.image.mean == (0.4, 0.4, 0.4) and chosen.image.std == (0.5, 0.5, 0.5)
    assert load_recipe("cifar_fs_5w1s", ["backbone=conv64"]).weights == "cifar_fs_resnet12"


def test_random_weights_are_those_of_the_seed(fsl, glyph_root):
    recipe = load_recipe("glyphs_5w1s")
    found = find_named(recipe, "none").checkpoint
    want = {f"backbone.{k}": v for k, v in build_backbone(recipe).state_dict().items()}
    assert all(found.tensors[k].equal(v) for k, v in want.items()) and found.saw == []
    words = ("eval", "--recipe", "glyphs_5w1s", "--data-root", glyph_root, "--episodes", "20", "--format", "json")
    code, out, err = fsl(*words, "--weights", "none", "--set", "head=feat")
    result = json.loads(out)
    assert code == 0 and "the weights are random" in err and result["weights"] == "none" and result["external"] == []


def test_timm_weights_are_for_backbone_timm():
    with pytest.raises(DataError, match="has backbone conv64; timm's weights fit backbone timm"):
        find_named(load_recipe("glyphs_5w1s"), "timm:resnet18")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching a file takes."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        self.asked.append(self.path)
        if "/tree/" in self.path:
            found = [{"type": "file", "path": f, "size": len(d), "oid": "0" * 40} for f, d in self.files.items()]
            return self.send(200, json.dumps(found).encode(), body, {"Content-Type": "application/json"})
        if self.path.startswith("/api/models/us/birds"):
            data = json.dumps({"id": "us/birds", "sha": COMMIT, "siblings": [{"rfilename": f} for f in self.files]})
            return self.send(200, data.encode(), body, {"Content-Type": "application/json"})
        name = self.path.rpartition("/")[2]
        if not self.path.startswith("/us/birds/"):
            return self.send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        if name not in self.files:
            return self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
        data = self.files[name]
        etag = hashlib.sha256(data).hexdigest()
        return self.send(
            200, data, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
        )

    def send(self, code, data, body, headers):
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    checkpoint.save(
        tmp_path / "w.safetensors", {"backbone": build_backbone(load_recipe("glyphs_5w1s"))}, {"saw": ["birds"]}
    )
    _Hub.files = {
        "w.safetensors": (tmp_path / "w.safetensors").read_bytes(),
        "w.safetensors.json": (tmp_path / "w.safetensors.json").read_bytes(),
        "README.md": b"birds",
    }
    _Hub.asked = []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    from huggingface_hub import constants

    address = f"http://127.0.0.1:{listening.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    import huggingface_hub.hf_api as client

    monkeypatch.setattr(client.api, "endpoint", address)
    yield listening
    listening.shutdown()


def test_weights_of_the_hub_are_fetched_once_with_their_sidecar(server, monkeypatch):
    found = find_named(load_recipe("glyphs_5w1s"), "hf:us/birds:w.safetensors")
    assert found.label == f"hf:us/birds@{COMMIT}:w.safetensors" and found.checkpoint.saw == ["birds"]
    asked = len(_Hub.asked)
    path, source = hub.fetch(f"us/birds@{COMMIT}:w.safetensors")
    assert source == found.label and path.read_bytes() == _Hub.files["w.safetensors"]
    assert not any(a.endswith("w.safetensors") for a in _Hub.asked[asked:])  # a commit never changes
    assert hub.fetch("us/birds")[0] == path  # the only file of weights there


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("birds", "write it as hf:OWNER/NAME"),
        ("us/fish:w.safetensors", "the hub has no us/fish, or it is private"),
        ("us/birds:other.safetensors", "us/birds has no file other.safetensors"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(server, text, says):
    with pytest.raises(DataError, match=says):
        hub.fetch(text)


def test_a_hub_that_is_not_there_is_a_sentence(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="the hub cannot be reached"):
        hub.fetch("us/birds:w.safetensors")


def test_results_say_what_else_the_weights_have_seen(fsl, glyph_root, tmp_path):
    sidecar = {"saw": ["imagenet-1k", "glyphs[64 classes]"]}
    checkpoint.save(tmp_path / "w.safetensors", {"backbone": build_backbone(load_recipe("glyphs_5w1s"))}, sidecar)
    words = ("eval", "--recipe", "glyphs_5w1s", "--data-root", glyph_root, "--episodes", "5", "--weights")
    code, out, _ = fsl(*words, tmp_path / "w.safetensors")
    assert code == 0 and "external data" in out and "imagenet-1k" in out
    code, out, _ = fsl(*words, tmp_path / "w.safetensors", "--format", "json")
    assert json.loads(out)["external"] == ["imagenet-1k"]
    code, out, _ = fsl(*words[:-1])
    assert code == 0 and "external data" not in out


def test_classes_that_the_weights_have_seen_are_told(capsys):
    found = find_named(load_recipe("cub_5w1s_lite0"), "own")
    warn_if_tested_on_seen(load_recipe("cub_5w1s_lite0"), found)
    assert capsys.readouterr().err == ""
    warn_if_tested_on_seen(load_recipe("mini_imagenet_5w1s", ["backbone=efficientnet_lite"]), found)
    assert "has seen imagenet-1k, which holds the test classes of mini_imagenet" in capsys.readouterr().err


def test_other_constants_than_the_weights_were_trained_with_are_told(capsys):
    recipe = load_recipe("cub_5w1s_lite0")
    warn_if_other_constants(recipe, find_named(recipe, "own"))
    assert capsys.readouterr().err == ""
    other = load_recipe("cub_5w1s_lite0", ["image.mean=[0.485, 0.456, 0.406]"])
    warn_if_other_constants(other, find_named(other, "own"))
    err = capsys.readouterr().err
    assert "was trained with image.mean [0.5, 0.5, 0.5]" in err and "--set image.mean=[0.5, 0.5, 0.5]" in err


def test_training_passes_on_what_it_started_from(tiny, pretrained, children, tmp_path):
    assert checkpoint.load(pretrained / "weights.safetensors").saw == ["images[12 classes]"]
    checkpoint.save(
        tmp_path / "w.safetensors", {"backbone": build_backbone(load_recipe(str(tiny.recipe)))}, {"saw": ["x"]}
    )
    start = ("--set", f"pretrain.start={tmp_path / 'w.safetensors'}", "--run-dir", tmp_path / "run")
    children.run("pretrain", *tiny.words, *start, cwd=tmp_path, check=True)
    assert checkpoint.load(tmp_path / "run" / "weights.safetensors").saw == ["x", "images[12 classes]"]
