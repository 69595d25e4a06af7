"""`--help`: what fits 80 columns, in groups and panels, with examples that work."""

import re
import shlex

import pytest
import typer

from fewshot_cli.cli import app, guide
from fewshot_cli.cli import help as pages
from fewshot_cli.cli import options as o


def walked(command, words=()):
    """Every verb and group of verbs, by its words after `fsl`."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walked(inner, (*words, name))


ALL = dict(walked(typer.main.get_command(app.app)))
VERBS = {words: command for words, command in ALL.items() if not hasattr(command, "commands")}
by_words = pytest.mark.parametrize("words", ALL, ids=" ".join)
by_verb = pytest.mark.parametrize("words", VERBS, ids=" ".join)


@pytest.fixture
def shown(fsl, monkeypatch):
    """The help of a verb in a terminal of so many columns."""

    def show(words, *more, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FSL_DATA_ROOT", "/data")  # a path is a word, and may be wider than any terminal
        code, out, err = fsl(*words, *(more or ("--help",)))
        assert code == 0 and err == ""
        return out

    return show


def optional(command):
    return [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]


def listed(page):
    """The longest names of the options that a page lists, in the order of their panels."""
    return re.findall(r"^  (?:-\w, )?(--[\w-]+)", page, re.MULTILINE)


@by_words
@pytest.mark.parametrize("columns", [60, 80])
def test_no_line_is_too_wide_and_no_word_broken(shown, words, columns):
    page = shown(words, "--help-all", columns=columns)
    commands = {example.command for entry in guide.GUIDE.values() for example in entry.examples}
    lines = [line for line in page.splitlines() if not line.startswith("Usage:") and line.strip() not in commands]
    assert max(map(len, lines)) <= columns
    there = set(re.split(r"\s+", page))
    for param in ALL[words].params:
        if not getattr(param, "hidden", False):
            missing = [word for word in (param.help or "").rstrip(".").split() if word not in there]
            assert [word for word in missing if f"{word}." not in there] == []


@by_words
def test_types_of_the_language_and_endless_ranges_are_not_shown(shown, words):
    page = shown(words, "--help-all")
    assert not re.search(r"<(bool|int|float|str|path|file|dir|list)|x[<>]=|\d{10}|\[required\]|\[default", page)


@by_verb
def test_at_most_fourteen_options_are_shown_and_all_by_help_all(shown, words):
    short, whole = shown(words), shown(words, "--help-all")
    known = [pages.name_of(param) for param in optional(VERBS[words])]
    assert len(listed(short)) <= 14
    assert sorted(listed(whole)) == sorted(known)
    told = short.partition("--help-all shows also")[2]
    assert all(re.search(rf"{name}\b", told) for name in set(known) - set(listed(short)))


@by_verb
def test_what_must_be_given_stands_in_the_usage_line(shown, words):
    line = shown(words).splitlines()[0]
    assert line.startswith(f"Usage: fsl {' '.join(words)} ")
    for param in VERBS[words].params:
        if param.required:
            assert re.search(
                rf"{max(param.opts, key=len)} [A-Z]+" if param in optional(VERBS[words]) else "[A-Z]+", line
            )


def test_a_required_option_and_an_optional_argument_stand_in_the_usage_line(shown):
    assert shown(("calibrate",)).startswith("Usage: fsl calibrate [RECIPE] --support FOLDER [OPTIONS]\n")


def test_defaults_are_shown_that_count(shown, monkeypatch, tmp_path):
    page = " ".join(shown(("eval",), "--help-all").split())
    assert "(default: the recipe's, mostly 1)" in page and "(default: glyphs_5w1s)" in page
    assert "(default: the recipe's, mostly 600)" in page and "(default: $FSL_DATA_ROOT, /data)" in page
    monkeypatch.delenv("FSL_DATA_ROOT")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert o.DEFAULTS["data_root"]().startswith("~/")


def test_the_first_page_begins_with_a_command_and_has_all_verbs_in_groups(shown):
    page = shown(())
    assert page.index(guide.FIRST.command) < page.index("─ Data")
    places = [page.index(f"─ {group} ─") for group in guide.GROUPS if group != guide.OTHER]
    assert places == sorted(places) and f"─ {guide.OTHER} ─" not in page
    verbs = [words[0] for words in ALL if len(words) == 1]
    assert all(len(re.findall(rf"^  {verb}  ", page, re.MULTILINE)) == 1 for verb in verbs)


def test_every_verb_is_in_the_guide_and_nothing_else():
    assert {" ".join(words) for words in ALL if words} == set(guide.GUIDE)


@by_words
def test_a_page_ends_with_two_examples_of_its_verb(shown, words):
    if words:
        examples = guide.entry(" ".join(words)).examples
        assert len(examples) == 2 and len({example.command for example in examples}) == 2
        page = shown(words)
        for example in examples:
            assert f"  # {example.says.split()[0]}" in page and f"  {example.command}\n" in page + "\n"
            assert example.command.startswith(f"fsl {' '.join(words)} ") or example.command == f"fsl {' '.join(words)}"
            assert len(example.command) <= 78


def test_a_verb_that_declares_nothing_is_shown_all_the_same(monkeypatch, shown):
    monkeypatch.setattr(guide, "GUIDE", {})
    assert "─ Other ─" in shown(()) and "Examples:" not in shown(("eval",))


def test_options_after_the_fourteenth_wait_for_help_all():
    class Option:
        name, hidden, rich_help_panel, param_type_name = "one", False, None, "option"

    class Command:
        params = [Option() for _ in range(17)]

    shown_panels, rare = pages._panels(Command())
    assert [len(params) for params in (*shown_panels.values(), *rare.values())] == [14, 3]


def test_help_is_plain_without_a_terminal_and_styled_on_one(monkeypatch, shown):
    assert "\x1b" not in shown(("eval",))
    monkeypatch.setattr(pages.sys.stdout, "isatty", lambda: True, raising=False)
    assert pages._styled("\x1b[1m", "Usage:") == "\x1b[1mUsage:\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert pages._styled("\x1b[1m", "Usage:") == "Usage:"


@pytest.mark.parametrize(
    ("words", "recipe"),
    [(("glyphs_5w1s",), "emd"), (("glyphs_5w1s_prototype",), "prototype"), (("-r", "glyphs_5w1s"), "emd")],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_recipe_may_be_an_argument(fsl, words, recipe):
    code, out, _ = fsl("eval", *words, "--print-config")
    assert code == 0 and re.search(rf"^head:\n  name: {recipe}", out, re.MULTILINE)


def test_verbs_that_take_a_recipe_and_nothing_else_take_it_as_an_argument():
    with_option = {words for words, command in VERBS.items() if any(p.name == "recipe" for p in command.params)}
    with_argument = {words for words in with_option if "RECIPE" in pages.usage(VERBS[words], Context(words))}
    assert with_option - with_argument == {
        *((verb,) for verb in ("classify", "match", "table", "align", "proxies")),
        *(("gallery", verb) for verb in ("add", "remove", "list", "search")),
    }


class Context:
    """What a usage line needs of a context."""

    def __init__(self, words):
        self.command_path = " ".join(("fsl", *words))


def examples(ran):
    for entry in guide.GUIDE.values():
        for example in entry.examples:
            if bool(example.needs) != ran:
                yield example.command


def test_examples_that_are_not_run_say_why():
    assert len(set(examples(ran=False))) < len(set(examples(ran=True))) / 3


@pytest.mark.parametrize("command", sorted(set(examples(ran=False))))
def test_the_options_of_an_example_that_is_not_run_are_known(command):
    words = shlex.split(command)[1:]
    verb = next(VERBS[key] for key in VERBS if tuple(words[: len(key)]) == key)
    known = {option for param in verb.params for option in param.opts}
    assert {word for word in words if word.startswith("-")} <= known
