"""Deformable convolution against a loop over pixels and taps, the plain convolution, and torchvision's kernel."""

import itertools
import math
import runpy
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_cli.errors import RecipeError
from fewshot_cli.heads.align import deformable
from fewshot_cli.heads.align.deformable import DeformableConv2d, deform_conv2d
from fewshot_cli.profiling.costs import count

# H, W, kernel, stride, padding, dilation, offset groups, mask
CASES = {
    "v1": (6, 5, (3, 3), 1, 1, 1, 1, False),
    "v2": (6, 5, (3, 3), 1, 1, 1, 1, True),
    "stride": (7, 6, (3, 3), 2, 1, 1, 1, False),
    "dilation": (7, 6, (3, 3), 1, 2, 2, 1, False),
    "groups": (5, 6, (3, 3), 1, 1, 1, 2, True),
    "oblong": (8, 7, (2, 3), (2, 1), (0, 1), (1, 2), 2, True),
    "row": (1, 7, (3, 3), 1, 1, 1, 1, True),
    "column": (7, 1, (3, 3), 2, 1, 1, 2, False),
    "pixel": (1, 1, (3, 3), 1, 1, 1, 1, True),
}


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def case(name, spread=5.0, channels=4, outputs=3):
    """Keyword arguments of `deform_conv2d` in double precision, with offsets of the given standard deviation."""
    height, width, kernel, stride, padding, dilation, groups, masked = CASES[name]
    g = torch.Generator().manual_seed(len(name))
    steps = zip((height, width), kernel, pair(stride), pair(padding), pair(dilation), strict=True)
    out = [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in steps]
    taps = groups * math.prod(kernel)
    n = max(2, 24 // (height * width))  # on a small map few taps fall inside
    draw = {
        "x": (n, channels, height, width),
        "offset": (n, 2 * taps, *out),
        "weight": (outputs, channels, *kernel),
        "bias": (outputs,),
        "mask": (n, taps, *out),
    }
    tensors = {key: torch.randn(*shape, generator=g, dtype=torch.float64) for key, shape in draw.items()}
    tensors["offset"] *= spread
    tensors["mask"] = tensors["mask"].sigmoid() if masked else None
    return {**tensors, "stride": stride, "padding": padding, "dilation": dilation}


def bilinear(plane, y, x):
    total = 0.0
    for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= i < plane.shape[0] and 0 <= j < plane.shape[1]:
            total += plane[i, j].item() * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def loop(x, offset, weight, bias, stride, padding, dilation, mask):
    """The definition, pixel by pixel and tap by tap."""
    (sy, sx), (py, px), (dy, dx) = pair(stride), pair(padding), pair(dilation)
    (n, channels), (outputs, _, kh, kw), (h, w) = x.shape[:2], weight.shape, offset.shape[2:]
    per_group = channels // (offset.shape[1] // (2 * kh * kw))
    out = bias[:, None, None].expand(n, outputs, h, w).clone()
    for b, c, i, j, u, v in itertools.product(*map(range, (n, channels, h, w, kh, kw))):
        tap = (c // per_group) * kh * kw + u * kw + v
        y = i * sy - py + u * dy + offset[b, 2 * tap, i, j].item()
        x_ = j * sx - px + v * dx + offset[b, 2 * tap + 1, i, j].item()
        factor = 1 if mask is None else mask[b, tap, i, j]
        out[b, :, i, j] += weight[:, c, u, v] * bilinear(x[b, c], y, x_) * factor
    return out


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spread", [0.7, 5.0])
def test_result_is_that_of_the_loop(name, spread):
    arguments = case(name, spread)
    want = loop(**arguments)
    assert (want - arguments["bias"][:, None, None]).abs().max() > 0.1
    assert torch.allclose(deform_conv2d(**arguments, backend="torch"), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_without_offsets_it_is_the_plain_convolution(name):
    a = {**case(name, spread=0.0), "mask": None}
    want = F.conv2d(a["x"], a["weight"], a["bias"], a["stride"], a["padding"], a["dilation"])
    assert torch.allclose(deform_conv2d(**a, backend="torch"), want, rtol=0, atol=1e-12)


def differentiable(name):
    """A case whose positions are away from whole pixels, where the gradient of bilinear reading jumps."""
    arguments = case(name, 1.0, channels=2, outputs=2)
    whole = arguments["offset"].floor()
    arguments["offset"] = whole + 0.2 + 0.6 * (arguments["offset"] - whole)
    inputs = [key for key in ("x", "offset", "weight", "bias", "mask") if arguments[key] is not None]
    for key in inputs:
        arguments[key].requires_grad_()
    return arguments, inputs


@pytest.mark.parametrize("name", ["v1", "oblong", "row"])
def test_gradients_are_those_of_differences(name):
    arguments, inputs = differentiable(name)

    def call(*values):
        return deform_conv2d(**{**arguments, **dict(zip(inputs, values, strict=True))}, backend="torch")

    assert torch.autograd.gradcheck(call, [arguments[key] for key in inputs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_single_precision_under_autocast(dtype):
    arguments = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in case("v2").items()}
    arguments["x"] = arguments["x"].to(dtype)  # as an autocast layer before it gives
    want = deform_conv2d(**{**arguments, "x": arguments["x"].float()}, backend="torch")
    with torch.autocast("cpu", dtype):
        got = deform_conv2d(**arguments, backend="torch")
    assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_layers_compute_in_single_precision_under_autocast(version):
    layer, x = learned(version), torch.randn(2, 4, 6, 6).bfloat16()
    want = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"offset": torch.zeros(2, 18, 6, 1)}, r"offset is \(2, 18, 6, 1\), not \(2, 18, 6, 5\)"),
        ({"offset": torch.zeros(1, 18, 6, 5)}, r"offset is \(1, .*, not \(2, "),
        ({"offset": torch.zeros(2, 20, 6, 5)}, r"offset is .*, not \(2, 18"),
        ({"offset": torch.zeros(2, 9, 6, 5)}, "0 offset groups"),
        ({"offset": torch.zeros(2, 54, 6, 5)}, "4 channels do not go .* 3 offset groups"),
        ({"mask": torch.zeros(2, 1, 6, 5)}, r"mask is \(2, 1, 6, 5\), not \(2, 9, 6, 5\)"),
        ({"weight": torch.zeros(3, 2, 3, 3)}, "4 channels do not go"),
        ({"backend": "cuda"}, "cuda is no backend"),
    ],
)
def test_what_does_not_fit_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        deform_conv2d(**{**case("v2"), **change})


def make(version, seed=0, **options):
    torch.manual_seed(seed)
    return DeformableConv2d(4, 6, version=version, backend="torch", **options)


def learned(version, **options):
    """A layer after some training: its taps are moved, and not alike."""
    layer = make(version, **options)
    for name in {"plain": [], "v1": ["offset"], "v2": ["offset", "mask"]}[version]:
        nn.init.normal_(getattr(layer, name).weight)
    return layer


def test_plain_layer_is_a_convolution():
    layer, x = make("plain", stride=2, bias=True), torch.randn(2, 4, 7, 7)
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    convolution.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), convolution(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "bias": True}, {"kernel": 5, "padding": 2}, {"padding": 0}])
def test_layers_begin_as_the_plain_convolution(version, options):
    layer, plain = make(version, **options).double(), make("plain", **options).double()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    assert torch.allclose(layer(x), plain(x), rtol=0, atol=1e-12)


def test_no_version_draws_more_random_numbers_than_another():
    after = []
    for version in ("plain", "v1", "v2"):
        make(version)
        after.append(torch.rand(1))
    assert after[0] == after[1] == after[2]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_layers_predict_offsets_and_mask_from_the_map(version):
    layer, x = learned(version, stride=2, bias=True), torch.randn(2, 4, 7, 7)
    mask = 2 * layer.mask(x).sigmoid() if version == "v2" else None
    want = deform_conv2d(x, layer.offset(x), layer.weight, layer.bias, 2, 1, 1, mask, backend="torch")
    assert torch.allclose(layer(x), want)
    assert not torch.allclose(want, make("plain", stride=2, bias=True)(x), atol=1e-2)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_parameter_learns_from_the_start(version):
    layer = make(version, bias=True)
    layer(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_weights_move_between_versions():
    names = {version: set(make(version, bias=True).state_dict()) for version in ("plain", "v1", "v2")}
    assert names["plain"] == {"weight", "bias"}
    assert names["v1"] == names["plain"] | {"offset.weight", "offset.bias"}
    assert names["v2"] == names["v1"] | {"mask.weight", "mask.bias"}
    v1, v2, x = learned("v1"), make("v2", seed=1), torch.randn(2, 4, 6, 6)
    v2.load_state_dict(v1.state_dict(), strict=False)
    assert torch.allclose(v2(x), v1(x))


def test_its_cost_can_be_counted():
    side, products = 5, {}
    for version in ("plain", "v1", "v2"):
        products[version] = count(DeformableConv2d(3, 6, version=version, backend="torch"), side).multiply_adds
    one = 3 * 9 * side**2
    assert products == {"plain": 6 * one, "v1": (6 + 18) * one, "v2": (6 + 18 + 9) * one}


@pytest.fixture
def fake(monkeypatch):
    """Put a torchvision with the given operation in place."""
    monkeypatch.setattr(deformable, "_kernels", {})

    def install(operation):
        ops = types.ModuleType("torchvision.ops")
        ops.deform_conv2d = operation
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)

    return install


@pytest.fixture
def importing(monkeypatch):
    """Let every import of torchvision fail with the given error."""
    monkeypatch.setattr(deformable, "_kernels", {})

    def install(fault):
        class Finder:
            def find_spec(self, name, *_):
                if name.partition(".")[0] == "torchvision":
                    raise fault

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])

    return install


def broken(fault, calls):
    def operation(*arguments, **options):
        calls.append(fault)
        raise fault

    return operation


@pytest.mark.parametrize(
    "fault",
    [
        NotImplementedError("Could not run 'torchvision::deform_conv2d' with arguments from 'CUDA'. This could be"),
        RuntimeError("no kernel image\nCompile with TORCH_USE_CUDA_DSA"),
    ],
)
def test_a_kernel_that_does_not_work_is_left_alone(fake, fault):
    calls = []
    fake(broken(fault, calls))
    arguments = case("v2")
    for _ in range(2):
        assert torch.equal(deform_conv2d(**arguments), deform_conv2d(**arguments, backend="torch"))
    with pytest.raises(RecipeError) as refused:
        deform_conv2d(**arguments, backend="torchvision")
    assert len(calls) == 1
    reason = str(fault).partition(". ")[0].partition("\n")[0]
    assert str(refused.value) == (
        f"torchvision's deformable convolution does not work on cpu ({reason}); set the backend to auto or torch, or "
        "install the torchvision that belongs to this PyTorch"
    )


@pytest.mark.parametrize(
    "fault",
    [
        ImportError("no such library"),
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
)
def test_a_torchvision_that_cannot_be_imported_is_left_alone(importing, fault):
    importing(fault)
    arguments = case("v2")
    assert torch.equal(deform_conv2d(**arguments), deform_conv2d(**arguments, backend="torch"))
    with pytest.raises(RecipeError, match="does not work on cpu"):
        deform_conv2d(**arguments, backend="torchvision")


@pytest.mark.parametrize("backend", ["auto", "torchvision"])
def test_a_kernel_that_works_is_used(fake, backend):
    calls = []

    def operation(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):
        calls.append((input.dtype, stride, padding, dilation, torch.is_autocast_enabled("cpu")))
        return deformable._sampled(input, offset, weight, bias, stride, padding, dilation, mask) + 1

    fake(operation)
    arguments = case("oblong")
    with torch.autocast("cpu", torch.bfloat16):
        got = deform_conv2d(**arguments, backend=backend)
    assert torch.equal(got, deform_conv2d(**arguments, backend="torch") + 1)
    assert calls[1:] == [(torch.float64, (2, 1), (0, 1), (1, 2), False)]
    layer = DeformableConv2d(4, 6, version="v2", backend=backend, bias=True)
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1) + 1, atol=1e-5)
    assert calls[2:] == [(torch.float32, (1, 1), (1, 1), (1, 1), False)]
    make("v1")(x)
    assert len(calls) == 3


def test_torchvision_is_not_imported_before_it_is_needed(importing):
    importing(AssertionError("imported"))
    module = runpy.run_path(deformable.__file__)
    module["deform_conv2d"](**case("v1"), backend="torch")
    with pytest.raises(AssertionError, match="imported"):
        module["deform_conv2d"](**case("v1"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_torchvisions_kernel_gives_the_same(name, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if isinstance(reason := deformable._tried(torch.device(device)), str):
        pytest.skip(f"torchvision's kernel does not work here: {reason}")
    arguments, inputs = differentiable(name)
    arguments = {k: v.detach().to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    leaves = [arguments[key].requires_grad_() for key in inputs]
    results = []
    for backend in ("torch", "torchvision"):
        out = deform_conv2d(**arguments, backend=backend)
        results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(*results, strict=True))
