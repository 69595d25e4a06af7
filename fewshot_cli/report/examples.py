"""Images on the page: small JPEGs within it, and what in one of them matches what in another."""

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Matches
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.store import Split
from fewshot_cli.evaluation.model import Model
from fewshot_cli.figures.matching import Side, pair_panel, shown
from fewshot_cli.figures.panel import Panel
from fewshot_cli.report.queries import Answer, Query

SIDE = 132  # pixels of an image on the page
STRONGEST = 5  # flows that are drawn


@dataclass(frozen=True)
class Flow:
    """One of the strongest flows: where it begins and ends as shares of the images (x, y), its share of all mass, and
    the cosine of its ends.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    share: float
    cosine: float


@dataclass(frozen=True)
class Pair:
    """A query beside a support image: both as data URIs, the class of the latter, and what matches."""

    query: str
    support: str
    cls: str
    right: bool  # whether it is the query's own class
    similarity: float | None = None
    flows: tuple[Flow, ...] = ()


@dataclass(frozen=True)
class Example:
    """A query on the page: how often it was given the right class, and in one episode, where a wrong answer if there is
    one, what it was compared with.
    """

    name: str
    cls: str
    correct: int
    times: int
    image: str
    answer: Answer
    given: str
    pairs: tuple[Pair, ...] = ()


class Examples:
    """Makes examples of a split's images; with a model whose head matches pairs of images, also what matches."""

    def __init__(self, recipe: Recipe, split: Split, sampler: Sampler, model: Model | None) -> None:
        self.recipe, self.split, self.sampler, self.model = recipe, split, sampler, model
        self._maps: Tensor | None = None

    def thumbnail(self, image: int) -> str:
        """An image as the network sees it."""
        return thumbnail(self.recipe, self.split, image)

    def example(self, query: Query) -> Example:
        """A query with its matches, in the first episode in which it got a wrong answer."""
        answer = next(iter(query.wrong), query.answers[0])
        compared = dict.fromkeys([query.label, answer.given])
        return Example(
            self.split.names[query.image],
            self.split.classes[query.label],
            len(query.answers) - len(query.wrong),
            len(query.answers),
            self.thumbnail(query.image),
            answer,
            self.split.classes[answer.given],
            tuple(self._pair(query, answer, cls) for cls in compared),
        )

    def _pair(self, query: Query, answer: Answer, cls: int) -> Pair:
        """The query beside the support image of a class that is most similar to it, or the first where none matches."""
        episode = self.sampler(answer.episode)
        support: list[int] = episode.support[episode.classes.index(cls)].tolist()
        name, right = self.split.classes[cls], cls == query.label
        if self.model is None or not isinstance(self.model.head, Matches):
            return Pair(self.thumbnail(query.image), self.thumbnail(support[0]), name, right)
        if self._maps is None:
            self._maps = self.model.features()
        maps, match = self._maps, self.model.head.match
        best = max(support, key=lambda image: match(maps[query.image], maps[image]).similarity)
        left, right_side = (Side(self.split, image, maps[image]) for image in (query.image, best))
        panel, _ = pair_panel(self.model, left, right_side, ("", ""))
        flows = strongest(panel)
        return Pair(as_uri(panel.left), as_uri(panel.right), name, right, panel.matching.similarity, flows)


def thumbnail(recipe: Recipe, split: Split, image: int) -> str:
    """An image of a split as the network sees it, in a data URI."""
    return as_uri(shown(recipe, split, image)[0])


def strongest(panel: Panel) -> tuple[Flow, ...]:
    """The strongest flows of a pair, between the middles of their nodes."""
    starts, ends = ((boxes[:, :2] + boxes[:, 2:] / 2).tolist() for boxes in (panel.left_places, panel.right_places))
    found = []
    for i, j, share in panel.flows(STRONGEST):
        start, end, cosine = starts[i], ends[j], float(panel.matching.cosine[i, j])
        found.append(Flow((start[0], start[1]), (end[0], end[1]), share, cosine))
    return tuple(found)


def as_uri(image: Tensor) -> str:
    """An image [3,H,W] in [0,1] as a small JPEG in a data URI, squashed to a square as for the network."""
    pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
