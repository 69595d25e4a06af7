"""The schema of a paper's file: its sources, its tables with columns and rows, and the values that it printed.

A table is one of three kinds. The rows of an `evaluated` table are heads on one backbone, those of a `metatrained`
table are trained by episodes from a shared pre-training, and those of a `trained` table are networks trained over
several seeds.
"""

from collections.abc import Iterable, Iterator, Sized
from string import Formatter
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, Field

from fewshot_cli import registry
from fewshot_cli.config.schema import Section

Percent = Annotated[float, Field(gt=0, lt=100)]
Positive = Annotated[float, Field(gt=0)]
Sets = tuple[str, ...]  # options as `--set` takes them, KEY=VALUE
Contradiction = tuple[tuple[str | int, ...], str]  # place of a key, and what is wrong with it


class Published(NamedTuple):
    """A printed accuracy in per cent and the half-width of its interval, which some papers leave out."""

    accuracy: Percent
    ci95: Positive | None = None


PublishedRow = dict[str, tuple[Published | None, ...]]


def recipe_template(text: str) -> str:
    """Refuse a recipe's name with placeholders other than {dataset} and {shot}."""
    gaps = {gap for _, gap, _, _ in Formatter().parse(text) if gap is not None}
    if other := sorted(gaps - {"dataset", "shot"}):
        raise ValueError(f"{{{other[0]}}} stands for nothing; {{dataset}} and {{shot}} do")
    return text


Template = Annotated[str, AfterValidator(recipe_template)]


class EpisodesColumn(Section):
    """A column of an evaluated table: the shape of the episodes."""

    way: int = Field(ge=2, le=1000, description="classes of an episode")
    shot: int = Field(ge=1, le=1000, description="support images of a class")


class MetatrainedColumn(Section):
    """A column of a meta-trained table: the shape of the episodes, and what evaluation alone sets."""

    way: int = Field(ge=2, le=1000, description="classes of an episode")
    shot: int = Field(ge=1, le=1000, description="support images of a class, in training too")
    set: Sets = Field((), description="options of the evaluation, such as another dataset")


class MeasureColumn(Section):
    """A column of a trained table: what is measured."""

    name: str = Field(description="the column's heading")
    measure: Literal["accuracy", "top5", "training_seconds", "test_seconds", "iterations"] = Field(
        description="accuracy or top5 of the test split, in per cent; seconds of an epoch's training or of a test; "
        "iterations of the solver on a problem"
    )
    set: Sets = Field((), description="options of the evaluation, such as another dataset")


class EvaluatedRow(Section):
    """A method evaluated with the weights of the dataset's recipe."""

    name: str = Field(description="the method, as the paper calls it")
    set: Sets | None = Field(
        None, description="whole parts put into the recipe (none: the method is not part of this package)"
    )
    published: PublishedRow = Field(
        {},
        description="for each dataset [per cent, half-width of the interval] a column; null where nothing is printed",
    )


class MetatrainedRow(Section):
    """A method meta-trained from the dataset's pre-training."""

    name: str = Field(description="the method and its backbone, as the paper calls them")
    set: Sets | None = Field(
        None, description="options of meta-training (none: the method is not part of this package)"
    )
    recipe: Template | None = Field(None, description="name of its recipe, as the table's (default: the table's)")
    published: PublishedRow = Field(
        {},
        description="for each dataset [per cent, half-width of the interval] a column; null where nothing is printed",
    )


class TrainedRow(Section):
    """A network with a classifier, trained once for every seed."""

    name: str = Field(description="network and classifier, as the paper calls them")
    group: str = Field(description="rows that share a network; the first of them is their baseline")
    recipe: str = Field(description="the recipe that trains it")
    set: Sets = Field((), description="options of training")
    parts: tuple[str, ...] = Field((), description="names of the file's `parts`, whose options follow those of `set`")
    published: tuple[Positive | None, ...] | None = Field(
        None, description="a value per column, in its unit; null where nothing is printed"
    )
    parameters: int | float | None = Field(None, gt=0, description="millions of parameters, as printed")
    multiply_adds: int | float | None = Field(None, gt=0, description="millions of multiply-adds per image, as printed")


class _Table(Section):
    """What every table has."""

    name: str = Field("", description="PAPER.TABLE; set when it is read, from the names of its file and of its key")
    title: str = Field(description="what it compares")
    source: str = Field(description="one of the file's `sources`, a comma, and the place there")


class EvaluatedTable(_Table):
    """A table whose rows are evaluated on the same episodes."""

    kind: Literal["evaluated"]
    default_dataset: str = Field(
        description="the dataset whose printed values stand beside rows run on a dataset without any"
    )
    reference: str = Field(description="the row that paired differences are taken to")
    columns: tuple[EpisodesColumn, ...] = Field(min_length=1, description="episodes, a column each")
    rows: tuple[EvaluatedRow, ...] = Field(min_length=1, description="methods, in the paper's order")


class MetatrainedTable(_Table):
    """A table whose rows are meta-trained from one pre-training and evaluated on the same episodes."""

    kind: Literal["metatrained"]
    recipe: Template = Field(description="name of the rows' recipe, with {dataset} and {shot} in place of theirs")
    default_dataset: str = Field(
        description="the dataset whose printed values stand beside rows run on a dataset without any"
    )
    reference: str = Field(description="the row that paired differences are taken to")
    columns: tuple[MetatrainedColumn, ...] = Field(min_length=1, description="episodes, a column each")
    rows: tuple[MetatrainedRow, ...] = Field(min_length=1, description="methods, in the paper's order")


class TrainedTable(_Table):
    """A table whose rows are networks trained over several seeds."""

    kind: Literal["trained"]
    columns: tuple[MeasureColumn, ...] = Field(min_length=1, description="what is measured, a column each")
    rows: tuple[TrainedRow, ...] = Field(min_length=1, description="networks with classifiers, in the paper's order")


EpisodesTable: TypeAlias = EvaluatedTable | MetatrainedTable
Row: TypeAlias = EvaluatedRow | MetatrainedRow | TrainedRow
Table: TypeAlias = EvaluatedTable | MetatrainedTable | TrainedTable


class Paper(Section):
    """A paper's file."""

    sources: dict[str, str] = Field(description="where the values were printed, under short names")
    parts: dict[str, Sets] = Field({}, description="options that several rows share, under short names")
    elsewhere: dict[str, tuple[str, ...]] = Field(
        {}, description="for each dataset what others measured for the paper's method"
    )
    tables: dict[str, Annotated[Table, Field(discriminator="kind")]] = Field(description="its tables, by short names")

    def contradictions(self) -> Iterator[Contradiction]:
        """Places where the file contradicts itself or names a dataset that does not exist."""
        yield from ((("elsewhere", name), reason) for name, reason in _unknown_datasets(self.elsewhere))
        for key, table in self.tables.items():
            for place, reason in (*_named(table, self), *_lengths(table), *_datasets(table)):
                yield ("tables", key, *place), reason

    def table(self, key: str, name: str) -> Table:
        """A table under its full name, with its source spelled out and the options of its rows' parts written out."""
        table = self.tables[key]
        source, comma, place = table.source.partition(",")
        filled: dict[str, Any] = {"name": name, "source": self.sources[source] + comma + place}
        if isinstance(table, TrainedTable):
            filled |= {"rows": tuple(self._with_parts(row) for row in table.rows)}
        return table.model_copy(update=filled)

    def _with_parts(self, row: TrainedRow) -> TrainedRow:
        options = [option for part in row.parts for option in self.parts[part]]
        return row.model_copy(update={"set": (*row.set, *options), "parts": ()})


def _named(table: Table, paper: Paper) -> Iterator[Contradiction]:
    """Names that stand for nothing, or for two rows."""
    rows: tuple[Row, ...] = table.rows
    names = [row.name for row in rows]
    if table.name:
        yield ("name",), "a table is named by its file and its key; leave it out"
    source = table.source.partition(",")[0]
    if source not in paper.sources:
        yield ("source",), _nothing_called(source, "source", paper.sources)
    if not isinstance(table, TrainedTable) and table.reference not in names:
        yield ("reference",), _nothing_called(table.reference, "row", names)
    for place, row in enumerate(rows):
        if row.name.lower() in (name.lower() for name in names[:place]):
            yield ("rows", place, "name"), f"two rows are called {row.name!r}; rename one"
        for part in row.parts if isinstance(row, TrainedRow) else ():
            if part not in paper.parts:
                yield ("rows", place, "parts"), _nothing_called(part, "part", paper.parts)


def _lengths(table: Table) -> Iterator[Contradiction]:
    """Rows that do not have one printed value per column."""
    rows: tuple[Row, ...] = table.rows
    lists: dict[tuple[str, ...], Sized]
    for place, row in enumerate(rows):
        if isinstance(row, TrainedRow):
            lists = {("published",): row.published} if row.published is not None else {}
        else:
            lists = {("published", dataset): values for dataset, values in row.published.items()}
        for key, values in lists.items():
            if len(values) != len(table.columns):
                reason = (
                    f"has {len(values)} values for {len(table.columns)} columns; write null where nothing is printed"
                )
                yield ("rows", place, *key), reason


def _datasets(table: Table) -> Iterator[Contradiction]:
    """Datasets that no one has registered."""
    if isinstance(table, TrainedTable):
        return
    yield from ((("default_dataset",), reason) for _, reason in _unknown_datasets([table.default_dataset]))
    rows: tuple[EvaluatedRow | MetatrainedRow, ...] = table.rows
    for place, row in enumerate(rows):
        yield from ((("rows", place, "published", name), reason) for name, reason in _unknown_datasets(row.published))


def _unknown_datasets(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    known = registry.entries("datasets")
    yield from ((name, _nothing_called(name, "dataset", known)) for name in names if name not in known)


def _nothing_called(name: str, kind: str, known: Iterable[str]) -> str:
    return f"there is no {kind} {name!r}{registry.did_you_mean(name, known)}; there are {', '.join(map(repr, known))}"
