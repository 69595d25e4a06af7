"""The compiled posing of an evaluation poses what is trained with, whatever the features."""

import pytest
import torch

from fewshot_cli.heads.emd import EMDOptions, pose
from fewshot_cli.heads.shared import posing

SHAPES = [(2, 5, 16, 64, 3, 16), (1, 70, 9, 20, 2, 25), (2, 40, 4, 33, 5, 7), (2, 1, 9, 40, 50, 8), (1, 1, 1, 1, 1, 1)]


def features(shape, mean=1.0, spread=1.0):
    episodes, q, n, d, way, m = shape
    rng = torch.Generator().manual_seed(1)
    query = torch.randn(episodes, q, n, d, generator=rng) * spread + mean
    proto = torch.randn(episodes, way, m, d, generator=rng) * spread + mean
    query[0, 0, 0], proto[0, 0, 0] = 0, mean  # without a direction
    return query, proto


def by_tensors(query, proto, options):
    return [x.detach() for x in pose(query.double().requires_grad_(), proto.double(), options)]


@pytest.mark.parametrize("norm", ["center", "cosine"])
@pytest.mark.parametrize("shape", SHAPES)
def test_problems_are_those_of_tensors(shape, norm):
    query, proto = features(shape)
    options = EMDOptions(norm=norm)
    assert posing.compiled(query, proto, norm, options.floor) is not None
    made = pose(query, proto, options)
    for got, want in zip(made, by_tensors(query, proto, options), strict=True):
        assert got.is_contiguous() and got.shape == want.shape
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=2e-6)


def test_a_large_mean_hides_no_direction():
    shape = (1, 3, 4, 37, 2, 4)
    query, proto = features(shape, mean=20.0, spread=0.5)
    cost, *_ = pose(query, proto, EMDOptions())
    want, *_ = by_tensors(query, proto, EMDOptions())
    torch.testing.assert_close(cost.double(), want, rtol=0, atol=2e-3)  # float32 has seven digits of 20


def test_layout_and_grouping_change_nothing():
    query, proto = features((3, 150, 9, 20, 2, 9))
    strided = query.mT.contiguous().mT
    whole = pose(query, proto, EMDOptions())
    for other in (pose(strided, proto, EMDOptions()), pose(query[1:2], proto[1:2], EMDOptions())):
        for got, want in zip(other, whole, strict=True):
            assert torch.equal(got, want if len(got) == len(want) else want[len(got) : 2 * len(got)])


@pytest.mark.parametrize("why", ["gradient", "double", "empty"])
def test_what_is_not_for_this_code_is_left_to_tensors(why):
    query, proto = features(SHAPES[0])
    if why == "gradient":
        query.requires_grad_()
    elif why == "double":
        query, proto = query.double(), proto.double()
    else:
        query, proto = query[:0], proto[:0]
    assert posing.compiled(query, proto, "center", 1e-3) is None
    assert [len(x) for x in pose(query, proto, EMDOptions())] == [len(query) * 5 * 3] * 3


def test_autocast_is_left_to_tensors():
    query, proto = features(SHAPES[0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert posing.compiled(query, proto, "center", 1e-3) is None
        made = pose(query, proto, EMDOptions())
    assert [x.shape for x in made] == [x.shape for x in pose(query, proto, EMDOptions())]


def test_tiny_features_have_directions_too():
    query, proto = features(SHAPES[0])
    cost, *_ = pose(query * 1e-15, proto, EMDOptions())
    torch.testing.assert_close(cost, pose(query, proto, EMDOptions())[0], rtol=0, atol=1e-5)
    want, *_ = by_tensors(query * 1e-15, proto, EMDOptions())
    torch.testing.assert_close(cost.double(), want, rtol=0, atol=1e-5)
