"""`fsl import`: the authors' networks, written again here, give the same features through our backbones."""

import json
import re
import shlex
import zipfile

import numpy as np
import pytest
import torch
from layouts import Malicious, write_malicious
from torch import nn

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.contracts import Layout, Step
from fewshot_cli.errors import DataError, Exit
from fewshot_cli.weights import checkpoint, foreign, unpickle
from fewshot_cli.weights.convert import evaluation

WIDTHS = (4, 6, 8, 10)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The networks are tiny: on a busy machine waiting for a second thread costs more than all the arithmetic."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Module):
    """A block of DeepEMD's and FEAT's ResNet-12: activation first, then the pool."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        for i in (1, 2, 3):
            setattr(self, f"conv{i}", nn.Conv2d(inputs if i == 1 else outputs, outputs, 3, padding=1, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(outputs))
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        leaky = nn.functional.leaky_relu
        y = leaky(self.bn1(self.conv1(x)), 0.1)
        y = leaky(self.bn2(self.conv2(y)), 0.1)
        y = leaky(self.bn3(self.conv3(y)) + self.downsample(x), 0.1)
        return nn.functional.max_pool2d(y, 2)


class Residual(nn.Module):
    def __init__(self, widths=WIDTHS) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
            setattr(self, f"layer{i + 1}", nn.Sequential(Block(inputs, outputs)))

    def forward(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Plain(nn.Sequential):
    """FEAT's ConvNet, whose convolutions have a bias; blocks are named `0` … or, in other versions, `layer1` …"""

    def __init__(self, name: str, first: int, channels: int = 6) -> None:
        super().__init__()
        for i in range(4):
            conv = nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1)
            self.add_module(
                name.format(i + first), nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2))
            )


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and statistics of batch norms that a wrong mapping would not survive."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
            elif tensor.ndim == 0:
                tensor.fill_(7)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=rng) * (0.5 if tensor.ndim == 1 else 0.3))
    return network.eval()


def state(network: nn.Module, prefix: str = "") -> dict:
    return {prefix + key: tensor for key, tensor in network.state_dict().items()}


def ours(path, spec: dict) -> nn.Module:
    """Our backbone by its sidecar or report, filled from a file."""
    cls = registry.backbone(spec["name"])
    module = cls(cls.Options(**{k: v for k, v in spec.items() if k != "name"}))
    checkpoint.load(path).fill(module, "backbone", "backbone")
    return module.eval()


def same(one: nn.Module, other: nn.Module) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want, got = one(images), other(images)
    assert want.abs().max() > 0.1 and want.shape == got.shape
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.fixture
def imported(fsl, tmp_path):
    """Save a content as w.pth and import it: returns (report, stderr); the weights are in w.safetensors."""

    def run(content: object, *more: str) -> tuple[dict, str]:
        torch.save(content, tmp_path / "w.pth")
        code, out, err = fsl("import", "w.pth", "-o", "w.safetensors", *more)
        assert code == 0, err
        return json.loads(out), err

    return run


@pytest.fixture
def refused(fsl):
    """Run an import that must fail: the code, the sentence, no traceback, nothing on stdout."""

    def run(code: Exit, sentence: str, *arguments: object) -> None:
        got, out, err = fsl("import", *arguments)
        said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
        assert got == code and re.search(sentence, said), said
        assert out == "" and "Traceback" not in err and "internal fault" not in err

    return run


# What is imported


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        ("params", ""),
        ("params", "encoder."),
        ("params", "module.encoder."),
        ("state_dict", "module."),
        ("model", ""),
        ("state_dict", "backbone."),
        ("model", "encoder.module."),
        (None, ""),
        (None, "module.encoder."),
    ],
)
def test_resnet12_of_deepemd_gives_the_same_features(imported, tmp_path, wrap, prefix):
    network = lively(Residual())
    tensors = state(network, prefix)
    report, _ = imported({wrap: tensors, "epoch": 3} if wrap else tensors)
    assert report["backbone"] == {"name": "resnet12", "widths": list(WIDTHS)} and report["left_out"] == []
    assert report["parameters"] == sum(p.numel() for p in network.parameters())
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))
    same(network, ours(tmp_path / "w.pth", report["backbone"]))  # and without an import


@pytest.mark.parametrize(
    ("name", "first", "prefix", "counted"),
    [
        ("{}", 0, "encoder.", True),
        ("{}", 0, "encoder.encoder.", False),
        ("{}", 0, "module.encoder.encoder.", True),
        ("layer{}", 1, "", True),
        ("layer{}", 1, "encoder.", False),
        ("layer{}", 1, "module.encoder.", True),
    ],
)
def test_convnet_of_feat_gives_the_same_features_without_its_biases(imported, tmp_path, name, first, prefix, counted):
    network = lively(Plain(name, first))
    tensors = {k: v for k, v in state(network, prefix).items() if counted or "num_batches" not in k}
    report, _ = imported({"params": tensors})
    assert report["backbone"] == {"name": "conv64", "channels": 6}
    module = ours(tmp_path / "w.safetensors", report["backbone"])
    same(network, module)
    assert module.state_dict()["blocks.2.1.num_batches_tracked"] == (7 if counted else 0)
    same(network, ours(tmp_path / "w.pth", report["backbone"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conv64", {"channels": 6}),
        ("resnet12", {"widths": WIDTHS}),
        ("resnet10", {"widths": WIDTHS}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_our_own_names_pass(imported, tmp_path, name, options, prefix):
    cls = registry.backbone(name)
    network = lively(cls(cls.Options(**options)))
    report, _ = imported(state(network, prefix), "--backbone", name)
    assert report["backbone"] == json.loads(json.dumps({"name": name, **options}))
    written = checkpoint.load(tmp_path / "w.safetensors").tensors
    assert written.keys() == state(network, "backbone.").keys()
    assert all(torch.equal(written[k], v) for k, v in state(network, "backbone.").items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(imported, tmp_path, dtype):
    network = lively(Plain("{}", 0)).to(dtype)
    report, _ = imported(state(network, "encoder."))
    tensors = checkpoint.load(tmp_path / "w.safetensors").tensors
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}
    same(network.float(), ours(tmp_path / "w.safetensors", report["backbone"]))


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("", ["fc.weight", "fc.bias"]),
        ("module.", ["module.fc.weight", "module.classifier.bias"]),
        ("", ["classifier2.w"]),
        ("encoder.", ["fc.weight", "encoder.fc.bias", "slf_attn.w_qs.weight"]),
        ("module.encoder.", ["module.fc.bias"]),
    ],
)
def test_a_classifier_and_what_is_outside_the_encoder_is_left_out_and_said(imported, prefix, extra):
    more = {key: torch.zeros(2) for key in extra}
    report, err = imported({"params": state(lively(Residual()), prefix) | more})
    assert report["left_out"] == extra
    assert f"left out, because no part of this package has them: {', '.join(extra)}\n" in err


def test_sidecar_report_and_next_command(imported, tmp_path):
    report, err = imported({"params": state(lively(Residual())) | {"fc.bias": torch.zeros(3)}})
    sidecar = json.loads((tmp_path / "w.safetensors.json").read_text())
    source = {"name": "w.pth", "sha256": checkpoint.sha256(tmp_path / "w.pth")}
    assert sidecar | {"format": 1, "stage": "import", "source": source, "left_out": ["fc.bias"]} == sidecar
    assert sidecar["backbone"] == report["backbone"] and "terms of their authors" in sidecar["licence"]
    assert report["path"] == "w.safetensors" and report["sha256"] == sidecar["sha256"]
    line = err.splitlines()[-1]
    assert line.startswith("next: fsl eval --recipe mini_imagenet_5w1s --weights w.safetensors --set ")
    loaded = load_recipe("glyphs_5w1s", [shlex.split(line)[-1]])  # the line can be typed as it is
    assert loaded.backbone.name == "resnet12" and loaded.backbone.options.widths == WIDTHS


def test_the_next_command_says_no_more_than_it_must():
    spec, plain = load_recipe("mini_imagenet_5w1s").backbone, "fsl eval --recipe mini_imagenet_5w1s --weights w"
    assert evaluation("w", {"name": spec.name, "widths": list(spec.options.widths)}) == plain
    other = {"name": "conv64", "channels": 64}
    assert evaluation("w", other) == plain + " --set 'backbone={name: conv64, channels: 64}'"
    narrow = {"name": "resnet12", "widths": [1, 2, 3, 4]}
    assert evaluation("w", narrow) == plain + " --set 'backbone={name: resnet12, widths: [1, 2, 3, 4]}'"


def test_eval_takes_the_authors_file_and_the_import_of_it_alike(imported, fsl, glyph_root, tmp_path):
    imported({"params": state(lively(Plain("{}", 0)), "module.encoder.")})
    results = []
    for file in ("w.pth", "w.safetensors"):
        code, out, err = fsl(
            "eval",
            "--recipe",
            "glyphs_5w1s_prototype",
            "--weights",
            file,
            "--episodes",
            "5",
            "--set",
            "backbone={name: conv64, channels: 6}",
            "--format",
            "json",
            "--data-root",
            glyph_root,
        )
        assert code == 0, err
        results.append(json.loads(out)["accuracy"])
    assert results[0] == results[1] > 20


def test_a_safetensors_file_of_somebody_else_is_read_too(fsl, tmp_path):
    from safetensors.torch import save_file

    network = lively(Residual())
    save_file(state(network), tmp_path / "hub.safetensors")
    code, out, err = fsl("import", "hub.safetensors", "-o", "w.safetensors")
    assert code == 0, err
    same(network, ours(tmp_path / "w.safetensors", json.loads(out)["backbone"]))


def test_a_safetensors_file_without_a_sidecar_is_used_with_a_note(fsl, glyph_root, tmp_path):
    from safetensors.torch import save_file

    network = lively(Residual())
    save_file(state(network), tmp_path / "hub.safetensors")
    torch.save(state(network), tmp_path / "hub.PTH")
    results = []
    for name in ("hub.safetensors", "hub.PTH"):
        shape = "backbone={name: resnet12, widths: [4, 6, 8, 10]}"
        code, out, err = fsl(
            *("eval", "--recipe", "glyphs_5w1s", "--set", shape, "--episodes", "3", "--weights", name),
            *("--format", "json", "--data-root", glyph_root),
        )
        assert code == 0, err
        assert ("hub.safetensors: has no sidecar hub.safetensors.json, so nothing tells" in err) == (name[4] == "s")
        results.append(json.loads(out)["accuracy"])
    assert results[0] == results[1]


@pytest.mark.parametrize("wrap", ["model_state_dict", "net", "state", "ema", "a/b/c"])
@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "model.", "feature_extractor.", "net.encoder.module.", "my.own_name."]
)
def test_wrappers_and_prefixes_are_found_by_structure(imported, tmp_path, wrap, prefix):
    network = lively(Residual())
    content = {"state_dict": state(network, prefix), "fc.weight": torch.ones(2, 2)}["state_dict"]
    for name in reversed(wrap.split("/")):
        content = {name: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    report, _ = imported(content)
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))


def test_a_network_goes_before_its_averages_and_that_is_said(imported, tmp_path):
    network, average = lively(Residual()), lively(Residual(), 9)
    report, err = imported({"ema": state(average), "model": state(network)})
    assert "holds several networks; model is taken, not ema" in err
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))
    both = state(average, "momentum_encoder.") | state(network, "the_encoder.")
    report, _ = imported(both, "--force")
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))


def test_numbers_of_numpy_and_plain_containers_are_read_without_code(imported, tmp_path):
    import argparse
    import datetime
    from collections import defaultdict

    network = lively(Residual())
    weights = state(network)
    first = next(iter(weights))
    content = {
        "state_dict": weights | {first: weights[first].double().numpy()},  # an array among the tensors
        "best": np.float64(71.5),
        "history": [np.float32(1.5), np.int64(3), np.arange(6.0).reshape(2, 3)],
        "args": argparse.Namespace(lr=0.1, out=tmp_path, names={"a", "b"}),
        "when": datetime.datetime(2024, 1, 2),
        "counts": defaultdict(list, a=[1]),
        "objects": np.array([{"a": 1}, None], dtype=object),
    }
    report, _ = imported(content)
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))
    read = unpickle.load(tmp_path / "w.pth")
    assert read["best"] == 71.5 and read["history"][:2] == [1.5, 3] and read["counts"] == {"a": [1]}
    assert np.array_equal(read["history"][2].value, np.arange(6.0).reshape(2, 3)) and read["objects"].value is None
    assert isinstance(read["args"], unpickle.Unknown) and isinstance(read["when"], unpickle.Unknown)


def test_a_part_called_semantic_is_no_average(imported, tmp_path):
    network, other = lively(Residual()), lively(Residual(), 9)
    report, err = imported(state(network, "semantic.") | state(other, "auxiliary_net."))
    assert "holds several networks; semantic. is taken, not auxiliary_net." in err
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))


@pytest.mark.parametrize("wrapped", ["layer{}._orig_mod.", "_fsdp_wrapped_module.layer{}._fsdp_wrapped_module."])
def test_wrappers_inside_of_names_do_not_matter(imported, tmp_path, wrapped):
    network = lively(Residual())
    names = {key: re.sub(r"^layer(\d)\.", lambda hit: wrapped.format(hit[1]), key) for key in state(network)}
    report, _ = imported({names[key]: tensor for key, tensor in state(network).items()})
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))


def test_what_lies_beside_the_network_does_not_stop_it(imported, tmp_path):
    network = lively(Residual())
    beside = {"mask": torch.full((3, 3), -torch.inf), "phase": torch.zeros(2) * 1j, "stat": np.zeros(3, np.longdouble)}
    report, _ = imported({"model": state(network, "encoder.") | {f"decoder.{k}": v for k, v in beside.items()}})
    same(network, ours(tmp_path / "w.safetensors", report["backbone"]))


def test_files_that_only_code_can_read_say_so(refused, tmp_path):
    torch.save(state(lively(Residual())), tmp_path / "w.pth", pickle_protocol=4)
    refused(Exit.DATA, r"w\.pth: is pickled in a way that only code can read", "w.pth", "-o", "w.safetensors")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "s.pt")
    refused(Exit.DATA, r"s\.pt: is a TorchScript program; give the state_dict", "s.pt", "-o", "w.safetensors")


def test_a_few_bytes_do_not_become_gigabytes(refused, tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1).expand(64, 3, 10**5, 10**5)}, tmp_path / "w.pth")
    refused(Exit.DATA, r"is not a mapping of names to tensors", "w.pth", "-o", "w.safetensors")
    packed = tmp_path / "packed.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 3, 300, 300)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in whole.namelist():
            out.writestr(name, whole.read(name))
    refused(Exit.DATA, r"packed\.pth: would unpack to .* a bomb", packed, "-o", "w.safetensors")


def test_a_numpy_type_that_claims_to_be_another_makes_no_object(tmp_path):
    """Its unpickling would take these bytes for addresses of objects."""

    class Forged:
        def __reduce__(self):
            return (np._core.multiarray.scalar, (np.dtype("O"), b"\x10" * 8))

    torch.save({"forged": Forged(), "big": np.dtype("f8")}, tmp_path / "w.pth")
    assert unpickle.load(tmp_path / "w.pth")["forged"] is None


def test_of_layouts_with_the_same_first_convolution_the_one_that_finds_its_tensors_is_taken(monkeypatch):
    (other,) = registry.backbone("resnet10").layouts
    first = Step("layer1.0.conv1", "layer1.0.bn1", "stem.0", "stem.1", 3, -1, 0)
    similar = Layout("a stem named as a block", (first, *other.steps[1:]), other.options)
    theirs = ("resnet12", registry.backbone("resnet12").layouts[0])
    monkeypatch.setattr(foreign, "layouts", lambda: iter([("resnet10", similar), theirs]))
    tensors = state(lively(Residual()), "encoder.")
    assert foreign.recognise(tensors) == (*theirs, "encoder.")
    del tensors["encoder.layer4.0.conv1.weight"]
    assert foreign.recognise(tensors).layout is similar


# What is refused


def changed(key: str, tensor: torch.Tensor | None) -> dict:
    """A ResNet-12 with one tensor replaced, added or, for None, taken away."""
    tensors = state(lively(Residual())) | {key: tensor}
    return {k: v for k, v in tensors.items() if v is not None}


TORCHVISION = {
    "conv1.weight": torch.ones(64, 3, 7, 7),
    "bn1.weight": torch.ones(64),
    "layer1.0.conv1.weight": torch.ones(64, 64, 3, 3),
}
WRONG = {
    "unknown": (
        TORCHVISION,
        r"w\.pth: its 3 tensors are of no known backbone \(the first are conv1\.weight \[64, 3, 7, 7\], .*"
        r"the nearest is ResNet-12 of DeepEMD and FEAT, of whose 80 tensors it has 1: it lacks layer1\.0\.bn1\.weight "
        r"and it has conv1\.weight \[64, 3, 7, 7\] besides; understood are .*ConvNet of FEAT \(0\.0\.weight\); "
        r"our conv64 \(blocks\.0\.0\.weight\).*; ResNet-12 of DeepEMD and FEAT \(layer1\.0\.conv1\.weight\)",
    ),
    "missing": (
        changed("layer2.0.conv3.weight", None),
        r"w\.pth: has no layer2\.0\.conv3\.weight, which resnet12 needs; ",
    ),
    "missing statistics": (
        changed("layer4.0.downsample.1.running_var", None),
        r"has no layer4\.0\.downsample\.1\.running_var, which resnet12 needs",
    ),
    "shape": (
        changed("layer2.0.conv2.weight", torch.ones(6, 5, 3, 3)),
        r"layer2\.0\.conv2\.weight is \[6, 5, 3, 3\], resnet12 of widths 4-6-8-10 needs \[6, 6, 3, 3\]; ",
    ),
    "scalar": (
        changed("layer2.0.conv1.weight", torch.tensor(1.0)),
        r"w\.pth: is of widths 4-0-8-10, which resnet12 does not take \(must be at least 1, not 0\); ",
    ),
    "grey": (
        changed("layer1.0.conv1.weight", torch.ones(4, 1, 3, 3)),
        r"layer1\.0\.conv1\.weight is \[4, 1, 3, 3\], .* needs \[4, 3, 3, 3\]",
    ),
    "uneven": (
        state(Plain("{}", 0)) | {"3.0.weight": torch.ones(7, 6, 3, 3)},
        r"3\.0\.weight is \[7, 6, 3, 3\], conv64 of width 6 needs \[6, 6, 3, 3\]",
    ),
    "changed network": (
        changed("layer1.0.se.fc1.weight", torch.ones(2)),
        r"holds layer1\.0\.se\.fc1\.weight, which resnet12 does not have; ",
    ),
    "deeper": (changed("layer1.1.conv1.weight", torch.ones(4, 4, 3, 3)), r"holds layer1\.1\.conv1\.weight, which"),
    "NaN": (
        changed("layer1.0.bn1.bias", torch.tensor([0, 0, 0, float("nan")])),
        r"w\.pth: layer1\.0\.bn1\.bias holds NaN or infinity",
    ),
    "too large": (
        changed("layer1.0.bn1.bias", torch.full((4,), 1e300, dtype=torch.float64)),
        r"backbone\.blocks\.0\.body\.1\.bias holds values beyond torch\.float32",
    ),
    "no tensors": ({"params": {"layer1.0.conv1.weight": 3}}, r"is not a mapping of names to tensors"),
    "list": ([torch.ones(1)], r"is not a mapping of names to tensors"),
    "empty": ({}, r"is not a mapping of names to tensors"),
    "sparse": (changed("layer1.0.bn1.bias", torch.zeros(4).to_sparse()), r"is not a mapping of names to tensors"),
    "complex": (changed("layer1.0.bn1.bias", torch.zeros(4) * 1j), r"is not a mapping of names to tensors"),
    "8 bits": (changed("layer1.0.bn1.bias", torch.zeros(4).to(torch.float8_e4m3fn)), r"is not a mapping of names to"),
    "no data": (changed("layer1.0.bn1.bias", torch.zeros(4, device="meta")), r"is not a mapping of names to tensors"),
    "escape code": (changed("layer1.0.\x1b[2Jx", torch.zeros(4)), r"is not a mapping of names to tensors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents_are_refused(refused, tmp_path, case):
    content, sentence = WRONG[case]
    torch.save(content, tmp_path / "w.pth")
    refused(Exit.DATA, sentence, "w.pth", "-o", "out/w.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"<!DOCTYPE html><title>Google Drive</title>",
            r"w\.pth: is a web page, as failed downloads leave it; give weights",
        ),
        (b"", r"not a readable file of PyTorch tensors"),
        (b"PK\x03\x04 and no more", r"not a readable file of PyTorch tensors"),
        (None, r"w\.pth: no such weights file; give a \.pth"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(refused, tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    refused(Exit.DATA, sentence, "w.pth", "-o", "w.safetensors")


def test_a_file_that_cannot_be_read_is_named(refused):
    refused(Exit.DATA, r"/proc/self/mem: Input/output error", "/proc/self/mem", "-o", "w.safetensors")


def test_a_folder_is_a_usage_error_and_a_tar_archive_is_to_be_unpacked(refused, tmp_path):
    import tarfile

    (tmp_path / "folder").mkdir()
    refused(Exit.USAGE, r"FILE folder: is a folder; give a file", "folder", "-o", "w.safetensors")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(tmp_path / "folder", "folder")
    refused(Exit.DATA, r"w\.tar: is a tar archive; unpack it", "w.tar", "-o", "w.safetensors")


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(refused, tmp_path, how):
    flag, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"params": state(lively(Residual())), "more": Malicious(flag)}
    write_malicious(path, flag, content, how)
    refused(
        Exit.DATA,
        r"evil\.pth: holds more than tensors, so loading it could run code",
        "evil.pth",
        "-o",
        "w.safetensors",
    )
    assert not flag.exists() and not (tmp_path / "w.safetensors").exists()


def test_the_backbone_asked_for_must_be_the_one_found(refused, imported, tmp_path):
    torch.save(state(lively(Residual())), tmp_path / "w.pth")
    refused(
        Exit.DATA,
        r"w\.pth: these are weights of resnet12, not of conv64; leave out --backbone",
        "w.pth",
        "-o",
        "w.safetensors",
        "--backbone",
        "conv64",
    )
    refused(
        Exit.USAGE,
        r"unknown backbone 'resnet13' \(did you mean 'resnet12'",
        "w.pth",
        "-o",
        "w.safetensors",
        "--backbone",
        "resnet13",
    )
    assert imported(state(lively(Residual())), "--backbone", "resnet12")[0]["backbone"]["name"] == "resnet12"


def test_nothing_is_overwritten_without_force(refused, imported, tmp_path):
    imported(state(lively(Residual())))
    before = (tmp_path / "w.safetensors").read_bytes()
    torch.save(state(lively(Residual(), seed=1)), tmp_path / "v.pth")
    refused(Exit.USAGE, r"w\.safetensors: already exists; .*--force", "v.pth", "-o", "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before
    (tmp_path / "x.safetensors.json").write_text("mine")
    refused(Exit.USAGE, r"x\.safetensors\.json: already exists", "v.pth", "-o", "x.safetensors")
    assert (tmp_path / "x.safetensors.json").read_text() == "mine"
    report, _ = imported(state(lively(Residual(), seed=1)), "--force")
    assert (tmp_path / "w.safetensors").read_bytes() != before
    same(lively(Residual(), seed=1), ours(tmp_path / "w.safetensors", report["backbone"]))


def test_places_that_are_no_weights_files_are_refused(refused, tmp_path):
    torch.save(state(lively(Residual())), tmp_path / "w.pth")
    (tmp_path / "file").write_text("kept")
    refused(Exit.USAGE, r"out\.pth: must end in \.safetensors; write -o out\.safetensors", "w.pth", "-o", "out.pth")
    refused(Exit.USAGE, r"import needs --out FILE: the \.safetensors file to write", "w.pth")
    refused(Exit.DATA, r"file/w\.safetensors: .* choose another folder", "w.pth", "-o", "file/w.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "w.pth"]


def test_weights_of_another_network_say_what_they_are(tmp_path):
    torch.save(state(lively(Residual()), "module."), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"which backbone needs \(these are weights of resnet12\)"):
        ours(tmp_path / "w.pth", {"name": "conv64", "channels": 4})
    torch.save(changed("layer2.0.conv3.weight", None), tmp_path / "v.pth")
    with pytest.raises(DataError, match=r"v\.pth: has no layer2\.0\.conv3\.weight, which resnet12 needs"):
        ours(tmp_path / "v.pth", {"name": "resnet12", "widths": WIDTHS})


# The networks themselves


@pytest.mark.parametrize(("name", "depth", "channels"), [("resnet10", 9, 512), ("resnet12", 12, 640)])
def test_residual_networks_have_the_depth_and_output_of_the_paper(name, depth, channels):
    """Depth in 3×3 convolutions: ResNet-10's name counts the classifier too, ResNet-12's does not."""
    module = registry.backbone(name)().eval()
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == depth
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 84, 84)).shape == (1, channels, 5, 5)
    cls = type(module)
    assert cls(cls.Options(last_pool=False, widths=WIDTHS))(torch.zeros(2, 3, 16, 16)).shape == (2, 10, 2, 2)
    assert {"blocks.0.body.0.weight", "blocks.3.shortcut.1.running_var"} <= set(module.state_dict())


class Attention(nn.Module):
    """FEAT's attention over the prototypes of a task, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w_qs, self.w_ks, self.w_vs = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.fc, self.layer_norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        scores = self.w_qs(x) @ self.w_ks(x).transpose(1, 2) / x.shape[-1] ** 0.5
        return self.layer_norm(self.fc(scores.softmax(2) @ self.w_vs(x)) + x)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_feats_attention_is_imported_with_its_encoder(imported, tmp_path, prefix):
    encoder, attention = lively(Residual()), Attention(WIDTHS[-1])
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = state(encoder, f"{prefix}encoder.") | state(attention, f"{prefix}slf_attn.")
    report, err = imported({"params": theirs | {f"{prefix}fc.weight": torch.zeros(2)}})
    assert report["left_out"] == [f"{prefix}fc.weight"] and report["head"] == {"name": "feat"}
    assert "--set head=feat" in err.splitlines()[-1]
    head = registry.head("feat")(channels=WIDTHS[-1]).eval()
    checkpoint.load(tmp_path / "w.safetensors").fill(head, "head", "head feat")
    support, query = torch.randn(2, 5, 3, WIDTHS[-1], 2, 2), torch.randn(2, 4, WIDTHS[-1], 2, 2)
    prototypes = attention(support.mean((2, 4, 5)))
    want = -(query.mean((3, 4))[:, :, None] - prototypes[:, None]).square().sum(-1) / 64
    torch.testing.assert_close(head(support, query), want, rtol=1e-4, atol=1e-5)


def test_a_part_of_feats_attention_is_left_out_and_another_width_refused(imported, fsl, tmp_path):
    encoder = state(lively(Residual()), "encoder.")
    some = state(Attention(WIDTHS[-1]), "slf_attn.")
    del some["slf_attn.fc.bias"]
    report, _ = imported({"params": encoder | some})
    assert "head" not in report and report["left_out"] == list(some)
    torch.save({"params": encoder | state(Attention(7), "slf_attn.")}, tmp_path / "odd.pth")
    code, _, err = fsl("import", tmp_path / "odd.pth", "-o", tmp_path / "odd.safetensors")
    assert code == Exit.DATA and re.search(r"head\.queries\.weight is \[7, 7\], head feat needs \[10, 10\]", err)
    assert not (tmp_path / "odd.safetensors").exists()
