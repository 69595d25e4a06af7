"""`fsl report`: one file that loads nothing, says what runs hold, and is safe whatever classes are called."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nasty import NASTY

from fewshot_cli.report import page

VOID = {"meta", "link", "img", "br", "line", "circle", "polyline", "polygon", "image"}


class Page(HTMLParser):
    """What a page consists of: its elements with their attributes, and all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text, self.open = "", []
        self.feed(path.read_text("utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def here(nasty, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(nasty, tmp_path / "nasty"))


@pytest.fixture
def report(fsl, monkeypatch):
    """Report runs of a folder: returns the page and what was said."""

    def run(folder: Path, *words: object) -> tuple[Page, str]:
        monkeypatch.chdir(folder)
        code, out, err = fsl("report", *words, "-o", "page.html", "--data-root", folder / "data", "--force")
        assert code == 0, err
        assert out == "page.html\n"
        return Page(folder / "page.html"), err

    return run


def sound(found: Page) -> None:
    """What holds of every page: it loads nothing, runs nothing, and can be read without seeing it."""
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in found.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("#", "data:")), value
                assert not value.startswith("#") or value[1:] in ids, value
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids
    assert all(attributes.get("alt") for attributes in found.all("img"))
    for svg in found.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and "aria-labelledby" in svg)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert len(found.all("details")) == len(found.all("summary"))
    assert found.all("html")[0]["lang"] == "en"


def test_a_page_is_sound_whatever_the_classes_are_called(first):
    found = Page(first[0])
    sound(found)
    assert all(name in found.text for name in NASTY)
    source = first[0].read_text("utf-8")
    assert "<script" not in source and "<img src=x" not in source and len(source) < page.LIMIT
    assert "url(" not in source and "@import" not in source


def test_it_says_what_the_run_holds(first):
    found = Page(first[0])
    summary = json.loads((first[0].parent / "one" / "summary.json").read_text())
    assert f"{summary['accuracy']:.2f} ± {summary['ci95']:.2f} % over 12 episodes" in found.text
    for text in (summary["hashes"]["data"], "network_simplex", f"{12 * 15 * 5:,}", "fewshot-cli", "torch", "conv64"):
        assert text in found.text, text
    assert "note: one" not in first[1]
    titles = ("Episodes by accuracy", "Mean over episodes so far", "Accuracy of each class")
    assert all(title in found.text for title in titles)
    matrix = [attributes for attributes in found.all("td") if attributes.get("class", "").startswith("ow")]
    assert len(matrix) == len(NASTY)
    assert len(found.all("image")) >= 4 and len(found.all("img")) >= 10  # in matches, and of classes
    flows = [a for a in found.all("line") if a.get("class", "").startswith("flow")]
    assert flows and "of the mass, cosine" in found.text


def test_the_hardest_queries_are_those_that_were_missed_most(first):
    found = Page(first[0])
    times = [tuple(map(int, pair)) for pair in re.findall(r"recognised (\d+) of (\d+) times", found.text)]
    hard = [t for t in times if t[0] < t[1]]
    assert hard and times[: len(hard)] == hard  # hardest first, then the easiest
    shares = [(n - right + 1) / (n + 2) for right, n in times]
    assert shares[: len(hard)] == sorted(shares[: len(hard)], reverse=True)
    assert min(shares[: len(hard)]) > max(shares[len(hard) :])


def test_runs_are_compared_episode_by_episode(report, here, fsl):
    found, _ = report(here, "one", "two", "one")
    sound(found)
    compared = json.loads(fsl("compare", "--format", "json", "two", "one")[1])["difference"]
    assert f"{compared['accuracy']:+.2f} ± {compared['ci95']:.2f} over 12 paired episodes" in found.text
    assert "has no flow between two images" in found.text  # the prototype head


def test_runs_that_cannot_be_paired_are_shown_all_the_same(report, here):
    shutil.copytree(here / "one", here / "other")
    config = json.loads((here / "other" / "config.json").read_text())
    config["identity"]["data"] = "0" * 64
    (here / "other" / "config.json").write_text(json.dumps(config))
    found, err = report(here, "one", "other")
    assert "cannot be paired" in found.text and "evaluated on different images" in found.text
    assert "holds other images than those of the run" in found.text and "note: other: " in err


def strip_answers(run: Path, **changes) -> None:
    """Make a run's records those of an earlier version."""
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key not in ("predicted", "problems")} for line in lines]
    (run / "episodes.jsonl").write_text("".join(json.dumps(line | changes) + "\n" for line in old))


def test_a_run_of_an_earlier_version_is_drawn_again(report, here, first):
    whole = Page(first[0])
    strip_answers(here / "one")
    found, err = report(here, "one")
    assert "note: one" not in err
    assert re.findall(r"recognised \d+ of \d+", found.text) == re.findall(r"recognised \d+ of \d+", whole.text)


def test_a_run_that_is_drawn_again_otherwise_says_so(report, here):
    strip_answers(here / "one", correct=3, accuracy=20.0)
    found, err = report(here, "one")
    assert "drawn again, has" in found.text and "answers are not shown" in err
    assert not found.all("img") and "Episodes by accuracy" in found.text


def test_without_the_dataset_or_the_weights_the_rest_is_shown(report, here):
    config, summary = (here / "one" / name for name in ("config.json", "summary.json"))
    changed = json.loads(config.read_text())
    changed["identity"]["weights"], changed["summary"] = "0" * 64, None
    del changed["summary"]
    config.write_text(json.dumps(changed))
    found, err = report(here, "one")
    assert "What matched is not shown: the weights of the run (none) are not at hand" in found.text
    assert found.all("img") and not [a for a in found.all("line") if a.get("class", "").startswith("flow")]
    shutil.rmtree(here / "data")
    found, err = report(here, "one")
    assert "is not prepared" in found.text and "Accuracy of each class" in found.text and not found.all("img")
    assert summary.exists()


def test_a_training_run_shows_its_curves(report, pretrained, here):
    found, _ = report(here, pretrained)
    sound(found)
    assert all(title in found.text for title in ("Loss", "Accuracy", "Learning rate"))
    best = json.loads((pretrained / "summary.json").read_text())["best"]
    assert f"validation {best['accuracy']:.2f} ± {best['ci95']:.2f} % after epoch {best['epoch']}" in found.text
    lines = [a["points"] for a in found.all("polyline")]
    assert [len(points.split()) for points in lines] == [3, 3, 3, 3]  # three epochs: loss, two accuracies, rate


def test_phases_and_unfinished_training_are_shown(report, pretrained, here):
    run = here / "phased"
    run.mkdir()
    config = json.loads((pretrained / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"verb": "metatrain", "summary": None}))
    for name in ("first", "second"):
        shutil.copytree(pretrained, run / name)
    found, _ = report(here, "phased")
    assert "Loss, phase first" in found.text and "Loss, phase second" in found.text
    assert "The training is not finished" in found.text


def test_a_page_that_would_be_too_large_has_no_images(report, here, monkeypatch, fsl, first):
    monkeypatch.setattr(page, "LIMIT", len(first[0].read_bytes()) - 1)
    found, err = report(here, "one")
    assert "so it has none" in err and not found.all("img")
    monkeypatch.setattr(page, "LIMIT", 1000)
    code, out, err = fsl("report", "one", "-o", "small.html", "--data-root", here / "data")
    assert code == 2 and "report fewer at once" in err and not (here / "small.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("nowhere", "-o", "x.html"), 3, "there is no run of recipe nowhere"),
        (("one", "-o", "x.pdf"), 2, "end its name in .html"),
        (("one", "-o", "there.html"), 2, "there.html: already exists"),
        (("unfinished", "-o", "x.html"), 3, "is not finished"),
        (("indexed", "-o", "x.html"), 3, "is a run of `fsl retrieve`"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(fsl, here, monkeypatch, words, code, reason):
    (here / "there.html").write_text("mine")
    shutil.copytree(here / "one", here / "unfinished")
    (here / "unfinished" / "summary.json").unlink()
    (here / "indexed").mkdir()
    (here / "indexed" / "config.json").write_text('{"verb": "retrieve"}')
    monkeypatch.chdir(here)
    assert (got := fsl("report", *words))[0] == code and reason in got[2] and got[2].count("\n") == 1
    assert (here / "there.html").read_text() == "mine" and not (here / "x.html").exists()
