"""What a figure says of a matching: its strongest flows, weights as fog, the query made of the support's patches."""

import pytest
import torch

from fewshot_cli.contracts import Matching
from fewshot_cli.figures import panel
from fewshot_cli.figures.panel import Panel
from fewshot_cli.heads.shared.local import cells


def made(flow, supply=None, demand=None, left=None, right=None):
    """A panel of four nodes on either side."""
    places, even = cells((2, 2)), torch.ones(4)
    matching = Matching(flow, even if supply is None else supply, even if demand is None else demand, flow, 0.5, places)
    left, right = (torch.zeros(3, 8, 8) if image is None else image for image in (left, right))
    return Panel(left, right, places, places, places, matching)


def test_flows_come_strongest_first_as_shares_of_the_mass():
    flow = torch.tensor([[0.0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 4], [0, 0, 2, 0]])
    found = made(flow).flows()
    assert [(x.left, x.right) for x in found] == [(2, 3), (0, 1), (3, 2), (1, 0)]
    assert [x.share for x in found] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert made(flow).flows(2) == found[:2] and made(flow).flows(16) == found


def test_the_rebuilt_image_takes_the_best_patch():
    right = torch.zeros(3, 8, 8)
    right[:, :4, :4], right[:, 4:, 4:] = 1.0, 0.5
    flow = torch.zeros(4, 4)
    flow[0, 3], flow[1, 0], flow[2, 1], flow[3, 0] = 1, 0.5, 1, 1
    out = made(flow, right=right).rebuilt()
    assert torch.allclose(out[0, 1::4, 1::4], torch.tensor([[0.5, 1.0], [0.0, 1.0]]), atol=0.15)


def test_images_of_other_proportions_are_rebuilt_in_the_querys():
    right = torch.rand(3, 30, 12)
    out = made(torch.eye(4), left=torch.zeros(3, 10, 20), right=right).rebuilt()
    assert out.shape == (3, 10, 20)
    want = torch.nn.functional.interpolate(right[None], (10, 20), mode="bilinear", antialias=True)[0]
    assert (out - want).abs().mean() < 0.1


def test_weights_are_smooth_between_nodes_and_theirs_in_the_middle():
    places = cells((3, 3))
    weights = torch.tensor([0.0, 1, 0, 1, 5, 1, 0, 1, 0])
    shown = panel.smooth(places, weights, 90, 90)
    assert shown.argmax() in (44 * 90 + 44, 44 * 90 + 45, 45 * 90 + 44, 45 * 90 + 45)
    assert 3.5 < float(shown[45, 45]) <= 5 and float(shown[5, 5]) < 0.25
    assert float((shown[1:] - shown[:-1]).abs().max()) < 0.4  # no edges
    assert torch.allclose(panel.smooth(places, torch.ones(9), 7, 5), torch.ones(7, 5, dtype=torch.float64))


def test_weights_far_from_every_node_are_those_of_the_nearest():
    places = torch.tensor([[0.0, 0.0, 0.02, 0.02], [0.1, 0.0, 0.02, 0.02]])
    shown = panel.smooth(places, torch.tensor([1.0, 3.0]), 50, 50)
    assert torch.isfinite(shown).all() and float(shown[-1, -1]) == pytest.approx(1.5)


def test_fog_is_gone_from_the_full_weight_on_and_never_hides_all():
    supply = torch.tensor([2.0, 0.0, 2.0, 0.0])
    left = torch.zeros(3, 40, 40)
    left[:, :, 30:] = 1.0
    panel_ = made(torch.eye(4), supply, left=left)
    assert panel_.heaviest() == 2
    clear, fogged = panel_.fogged(2.0)[0], panel_.fogged(4.0)[0]
    assert float(clear[0, 10, 5]) == pytest.approx(0, abs=0.05) and float(fogged[0, 10, 5]) > 0.2
    assert float(clear[0, 10, 39] - clear[0, 10, 29]) > 0.1  # black and white without weight still differ
    assert torch.allclose(made(torch.eye(4), left=left).fogged(1.0)[0], left, atol=1e-6)
