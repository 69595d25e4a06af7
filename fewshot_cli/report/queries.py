"""The queries that were hardest and easiest for a run, and the classes: which images, in which episode."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.store import Split
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import EpisodeRecord


@dataclass(frozen=True)
class Answer:
    """One answer to an image: in which episode, as which of its queries, and the class that was given."""

    episode: int
    query: int
    given: int


@dataclass
class Query:
    """An image of a split, of class `label`, with all answers to it."""

    image: int
    label: int
    answers: list[Answer] = field(default_factory=list)

    @property
    def wrong(self) -> list[Answer]:
        """The answers that are wrong."""
        return [answer for answer in self.answers if answer.given != self.label]

    @property
    def hardness(self) -> float:
        """The share of wrong answers, by Laplace's rule, so that one wrong of one counts less than five of five."""
        return (len(self.wrong) + 1) / (len(self.answers) + 2)


def queries_of(records: Sequence[EpisodeRecord], sampler: Sampler, split: Split) -> list[Query]:
    """Every image that was a query, the hardest first. Raises `DataError` where the episodes are not those recorded."""
    found: dict[int, Query] = {}
    for record in records:
        episode = sampler(record["episode"])
        if [split.classes[c] for c in episode.classes] != record["classes"]:
            raise DataError(
                f"episode {record['episode']} of the prepared dataset has other classes than the run's; give the "
                "--data-root that it was evaluated with"
            )
        labels, images = episode.labels().tolist(), episode.query.flatten().tolist()
        for number, (label, image, given) in enumerate(zip(labels, images, record["predicted"], strict=True)):
            query = found.setdefault(image, Query(image, episode.classes[label]))
            query.answers.append(Answer(episode.number, number, episode.classes[given]))
    return sorted(found.values(), key=lambda query: (-query.hardness, query.image))


def spread(queries: Sequence[Query], count: int) -> list[Query]:
    """The first of the queries, of one class no more than two, so that a page does not show one class alone."""
    kept: list[Query] = []
    seen: defaultdict[int, int] = defaultdict(int)
    for query in queries:
        seen[query.label] += 1
        if seen[query.label] <= 2 and len(kept) < count:
            kept.append(query)
    return kept


def of_class(queries: Sequence[Query], label: int, count: int, hardest: bool) -> list[Query]:
    """The hardest or the easiest queries of a class."""
    own = [query for query in queries if query.label == label]
    return own[:count] if hardest else own[::-1][:count]
