"""Features computed elsewhere as a dataset: every head, table and retrieval works on them, with backbone `identity`."""

from pathlib import Path

from pydantic import Field

from fewshot_cli.contracts import DatasetBuilder, ImageSink
from fewshot_cli.data.arrays import ENDINGS, SHAPES, read
from fewshot_cli.data.class_splits import ClassSplits, assign, in_order
from fewshot_cli.data.listed import Table, names_of, split_named


class FeaturesOptions(ClassSplits):
    """What the arrays are called, and how classes are divided when the source does not say."""

    features: str = Field("features", description=f"array of the features, {SHAPES}")
    labels: str = Field("labels", description="array of their classes [N], by name or number")
    names: str = Field("names", description="array of their names [N], if there is one")
    splits_of: str = Field("splits", description="array of their splits [N], train, val or test, if there is one")


class Features(DatasetBuilder[FeaturesOptions]):
    """Your own features; classes are split by the source's folders or array, a file, or a seed."""

    source = f"a file {', '.join(ENDINGS)} with arrays features ([N,d] or [N,d,h,w]) and labels, or <class>/<name>.npy"

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write split by split, classes sorted by name."""
        path, o = sources[0], self.options
        keys = {"features": o.features, "labels": o.labels, "names": o.names, "splits": o.splits_of}
        arrays = read(path, keys)
        writer.where = f"{path}/"
        table: Table = {}
        members: dict[str, list[int]] = {}
        for i, cls in enumerate(arrays.labels):
            split = split_named(arrays.splits[i], str(path)) if arrays.splits is not None else None
            names_of(table, cls, split, str(path)).append(arrays.names[i])
            members.setdefault(cls, []).append(i)
        classes = assign(o, table, path)
        writer.info["channels"] = int(arrays.features.shape[1])
        for split, cls in in_order(classes):
            for i in members[cls]:
                writer.add(split, cls, arrays.features[i], arrays.names[i])
