"""What a probability is worth: temperature scaling, calibration error, and how well unknown images are told."""

import math
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

BINS = 15


class Bin(NamedTuple):
    """The images whose highest probability lies in one interval: how many, its mean, and the share that is right."""

    images: int
    probability: float
    right: float


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T for which softmax(logits / T) [N,way] is likeliest given labels [N] (Guo et al., ICML 2017), and T itself.

    A few examples without an error would be likeliest at T = 0. So log T is taken to be normal, with deviation 1 about
    a sixth of how far the highest logit lies above the mean one; that is where the T of many images lie, for cosines as
    for transport costs.
    """
    wide = logits.detach().cpu().double()
    usual = math.log(_usual_temperature(wide))
    own = labels.cpu()[:, None]

    def surprise(log_t: float) -> float:
        likely = (wide / math.exp(log_t)).log_softmax(1).gather(1, own).sum()
        return (log_t - usual) ** 2 / 2 - float(likely)

    return math.exp(minimize_scalar(surprise, bounds=(usual - 6, usual + 6), method="bounded").x)


def _usual_temperature(logits: Tensor) -> float:
    """A sixth of how far the highest of logits [N,way] lies above the mean one, on average."""
    return max(float((logits.max(1).values - logits.mean(1)).mean()) / 6, 1e-12)


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> list[Bin]:
    """The images by their highest probability, in intervals of equal width; empty ones are left out."""
    highest, guess = probabilities.max(1)
    right, place = (guess == labels).double(), (highest * bins).long().clamp(max=bins - 1)
    found = []
    for number in range(bins):
        if count := int((inside := place == number).sum()):
            found.append(Bin(count, float(highest[inside].double().mean()), float(right[inside].mean())))
    return found


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error in per cent: mean |share right − probability| over `reliability`'s intervals."""
    bins = reliability(probabilities, labels)
    total = sum(one.images for one in bins)
    return 100 * sum(one.images * abs(one.right - one.probability) for one in bins) / total


def auroc(known: Tensor, unknown: Tensor) -> float:
    """How often a known image's score is above an unknown one's, in per cent; ties count half."""
    scores = torch.cat([known, unknown]).double()
    values, place = scores.unique(return_inverse=True)
    counts = torch.bincount(place, minlength=len(values))
    rank = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of equal ones, counted from 1
    above = rank[place[: len(known)]].sum() - len(known) * (len(known) + 1) / 2
    return 100 * float(above) / (len(known) * len(unknown))


FAMILIARITY = ("max_softmax", "energy", "nearest")


def familiarity(logits: Tensor, by: str) -> Tensor:
    """How much images look like one of the classes [N], of logits [N,way]: by the highest probability (Hendrycks and
    Gimpel, ICLR 2017), by energy (Liu et al., NeurIPS 2020), or by the nearest class alone.
    """
    if by == "max_softmax":
        return logits.softmax(1).max(1).values
    return logits.logsumexp(1) if by == "energy" else logits.max(1).values


class Familiarity:
    """Which mixture of how near the nearest classes are and how near all are tells known images from unknown ones.

    Some features put an unknown image far from every class, others about as far from each as a known one, which then
    stands out by its nearest class only. So the two, energy at a sharp temperature and the mean logit, are weighted by
    Fisher's linear discriminant of `known` and `unknown` images' logits [N,way]; without known ones energy alone.
    """

    RIDGE = 0.05  # of the mean variance, lest a few images decide

    def __init__(self, known: Tensor, unknown: Tensor) -> None:
        seen = known if len(known) else unknown
        self.scale = _usual_temperature(seen)
        self.weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
        if len(known) > 1 and len(unknown) > 1:
            sides = [self._both(known), self._both(unknown)]
            spread = torch.cov(sides[0].mT, correction=0) + torch.cov(sides[1].mT, correction=0)
            spread = spread + self.RIDGE * spread.diagonal().mean() * torch.eye(2, dtype=torch.float64)
            self.weights = torch.linalg.solve(spread, sides[0].mean(0) - sides[1].mean(0))

    def _both(self, logits: Tensor) -> Tensor:
        wide = logits.cpu().double()
        return torch.stack([self.scale * (wide / self.scale).logsumexp(1), wide.mean(1)], 1)

    def __call__(self, logits: Tensor) -> Tensor:
        """How much images look like one of the classes [N], of logits [N,way]."""
        return self._both(logits) @ self.weights
