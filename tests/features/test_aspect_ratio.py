"""Random resized crops draw the logarithm of the aspect ratio uniformly, so that wide is as likely as high."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fewshot_cli.features.crops import random_resized
from fewshot_cli.features.extractors import Sampling, SamplingOptions

COUNT, EDGE = 20_000, math.log(4 / 3)
SCALE = (0.1, 0.3)  # so small that every box fits at the first try
SIZES = {"square": (100.0, 100.0), "wide": (60.0, 90.0), "high": (90.0, 60.0)}  # height, width


def logarithms(boxes, size):
    """Logarithms of width : height of boxes [N,4], in the pixels of images of this size."""
    height, width = size
    return (boxes[:, 2] * width / (boxes[:, 3] * height)).log().double().numpy()


def distance(logarithm):
    """Kolmogorov and Smirnov's distance to the uniform distribution over the allowed logarithms."""
    return stats.kstest(logarithm, stats.uniform(-EDGE, 2 * EDGE).cdf).statistic


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_logarithm_of_the_ratio_is_uniform(size):
    boxes = random_resized(torch.tensor([size]).expand(COUNT, 2), SCALE, torch.Generator().manual_seed(1))
    logarithm = logarithms(boxes, size)
    assert abs(logarithm).max() < EDGE + 1e-4
    assert distance(logarithm) < 0.012  # of 20,000 draws it is 0.0096 once in twenty times
    assert abs((logarithm < 0).mean() - 0.5) < 0.015  # higher than wide; of a uniform ratio it would be 3/7


def test_the_statistic_tells_a_uniform_ratio_apart():
    ratio = np.random.default_rng(0).uniform(3 / 4, 4 / 3, COUNT)
    assert distance(np.log(ratio)) > 0.06
    assert (ratio < 1).mean() < 0.44


def test_patches_drawn_at_random_have_the_same_ratios():
    extractor, size = Sampling(SamplingOptions(patches=4, scale=SCALE)), (100.0, 100.0)
    sizes = torch.tensor([size]).expand(COUNT // 4, 2)
    boxes, _ = extractor.boxes(sizes, torch.Generator().manual_seed(2), training=False)
    assert distance(logarithms(boxes.flatten(0, 1), size)) < 0.012
