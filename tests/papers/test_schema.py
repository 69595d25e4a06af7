"""Papers' files are checked to the key, as recipes are."""

import re
from importlib import resources

import pytest

from fewshot_cli.errors import RecipeError
from fewshot_cli.papers.catalog import find_table, load_paper, table_names
from fewshot_cli.papers.schema import EvaluatedTable, MetatrainedTable, TrainedTable

KINDS = {"deepemd": EvaluatedTable, "lsc": MetatrainedTable, "mpw": TrainedTable}


@pytest.fixture
def edited(tmp_path):
    """A copy of a paper's file with one piece of text replaced: what is said of it, and the line of the edit."""

    def make(paper, old, new):
        text = (resources.files("fewshot_cli.papers") / f"{paper}.yaml").read_text("utf-8")
        assert old in text
        line = text[: text.index(old)].count("\n") + 1
        path = tmp_path / "paper.yaml"
        path.write_text(text.replace(old, new, 1), "utf-8")
        with pytest.raises(RecipeError) as error:
            load_paper(path)
        return str(error.value).removeprefix(str(path)), line

    return make


def test_every_table_is_of_its_papers_kind():
    for name in table_names():
        table = find_table(name)
        assert type(table) is KINDS[name.partition(".")[0]] and table.name == name
        assert not table.source.startswith(("paper,", "journal,"))  # spelled out


@pytest.mark.parametrize("paper", KINDS)
def test_a_misspelt_key_is_named_with_its_line_and_the_right_one(edited, paper):
    said, line = edited(paper, "published:", "publishd:")
    assert re.match(rf":{line}: tables\.\w+\.rows\.\d+\.publishd: unknown key \(did you mean 'published'\?\)", said), (
        said
    )


@pytest.mark.parametrize(
    ("paper", "old", "new", "sentence"),
    [
        ("deepemd", "kind: evaluated", "kind: evaluate", "did you mean 'evaluated'"),
        ("deepemd", "reference: DeepEMD", "reference: DeepEMB", "there is no row 'DeepEMB' (did you mean 'DeepEMD'?)"),
        ("deepemd", "default_dataset: mini_imagenet", "default_dataset: mini_imagnet", "did you mean 'mini_imagenet'"),
        ("deepemd", "title: metric", "name: T1\n    title: metric", "named by its file and its key"),
        ("deepemd", "{way: 5, shot: 1}", "{wy: 5, shot: 1}", "columns.0.wy: unknown key (did you mean 'way'?)"),
        ("deepemd", "[[60.37], [44.34]]", "[['60.37'], [44.34]]", "published.mini_imagenet.0.0: must be a"),
        ("deepemd", "{mini_imagenet: [[60.37]", "{mini_imagnet: [[60.37]", "did you mean 'mini_imagenet'"),
        ("lsc", "{dataset}_5w{shot}s_conv64_align", "{data}_5w{shot}s", "{data} stands for nothing"),
        ("mpw", "measure: accuracy", "measure: acuracy", "must be 'accuracy'"),
        ("mpw", "parameters: 0.27", "parameters: many", "rows.0.parameters: must be a"),
        ("mpw", "parts: [multi_proxy]", "parts: [multi_prox]", "there is no part 'multi_prox'"),
        ("mpw", "ResNet-20, multi-proxy", "resnet-20, Linear", "two rows are called 'resnet-20, Linear'"),
        ("mpw", "source: paper, Table 1", "source: papers, Table 1", "there is no source 'papers'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(edited, paper, old, new, sentence):
    said, line = edited(paper, old, new)
    assert said.startswith(f":{line}: tables.") and sentence in said, said


@pytest.mark.parametrize(
    ("paper", "old", "new", "count"),
    [
        ("deepemd", "[[60.37], [44.34]]", "[[60.37], [44.34], [1.0]]", 3),
        ("lsc", "[[35.80, 0.99], [47.50, 1.03]]", "[[35.80, 0.99]]", 1),
        ("mpw", "[92.26, 83.55]", "[92.26, 83.55, 1.0]", 3),
    ],
)
def test_a_row_has_one_printed_value_for_each_column(edited, paper, old, new, count):
    said, line = edited(paper, old, new)
    assert re.match(rf":{line}: tables\.T1\.rows\.0\.published[\w.]*: has {count} values for 2 columns;", said), said


def test_what_is_missing_is_asked_for_at_the_mapping_that_lacks_it(edited):
    said, line = edited("deepemd", "    kind: evaluated\n", "")
    at, _, rest = said.removeprefix(":").partition(": ")
    assert int(at) < line and rest == "tables.T1.kind: is missing; it has no default"
    said, _ = edited("mpw", "group: ResNet-20, ", "")
    assert "tables.T1.rows.0.group: is missing" in said


def test_elsewhere_is_of_datasets_that_there_are(edited):
    said, line = edited("deepemd", "cifar_fs:", "cifar_sf:")
    assert said.startswith(f":{line}: elsewhere.cifar_sf: there is no dataset 'cifar_sf' (did you mean 'cifar_fs'?)")
