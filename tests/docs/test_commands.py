"""Every command on the pages is understood as it stands, and is run unless the page says why not."""

import shutil

import pages
import pytest
import typer

COMMANDS = [page for page in pages.PAGES if any(b.language == "bash" for b in pages.blocks(page))]
BY_CI = {"run", "test"}  # README's, which .ci/run takes


def chosen(page, slow: bool) -> list[pages.Block]:
    """The blocks of a page that are run, and the output that is compared."""
    marks = {"", "printed", *(["slow"] if slow else [])}
    return [block for block in pages.blocks(page) if block.mark in marks]


def walk(page, slow, fsl, photos, glyph_root, tmp_path, monkeypatch):
    """Run a page's blocks from the top, in a folder that has what the pages suppose."""
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("FSL_DATA_ROOT", str(glyph_root))
    monkeypatch.setenv("COLUMNS", "80")
    out = ""
    for block in chosen(page, slow):
        if block.language == "text":
            assert block.mark != "printed" or pages.form(out) == pages.form(block.text), out
            continue
        for words in block.commands:
            assert words[0] == "fsl", f"{words}: mark the block, only fsl is run here"
            code, out, err = fsl(*words[1:])
            assert code == 0, (words, err)


@pytest.mark.parametrize("page", [p for p in COMMANDS if any(b.language == "bash" for b in chosen(p, False))], ids=str)
def test_the_commands_of_a_page_run(page, fsl, photos, glyph_root, tmp_path, monkeypatch):
    walk(page, False, fsl, photos, glyph_root, tmp_path, monkeypatch)


def test_readme_shows_the_output_that_is_compared():
    shown = [b.text for b in pages.blocks(pages.ROOT / "README.md") if b.language == "text"]
    assert shown == [b.text for b in pages.blocks(pages.DOCS / "start.md") if b.mark == "printed"][: len(shown)] != []


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in COMMANDS if any(b.mark == "slow" for b in pages.blocks(p))], ids=str)
def test_all_commands_of_a_page_run(page, fsl, photos, glyph_root, tmp_path, monkeypatch):
    walk(page, True, fsl, photos, glyph_root, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.IDS)
def test_a_block_says_why_it_is_not_run(page):
    for block in pages.blocks(page):
        if block.language == "bash" and block.mark not in {"", "slow"} | (BY_CI if page.name == "README.md" else set()):
            kind, _, why = block.mark.partition(": ")
            assert kind == "not run" and len(why.split()) >= 3, block


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.IDS)
def test_every_command_is_understood(page):
    """Verbs and options exist, values are of their type, recipes are installed and have the keys that are set."""
    from fewshot_cli.cli.app import app

    group = typer.main.get_command(app)
    shown = [words for block in pages.blocks(page) if block.language == "bash" for words in block.commands]
    for words in shown:
        if words[0] == "fsl":
            understood(group, words[1:], whole=True)
    for words in pages.inline(page):
        understood(group, words[1:], whole=False)


def understood(group, words: list[str], whole: bool) -> None:
    """Parse a command without running it; in a sentence values may be left out or be capitals that stand for them."""
    from fewshot_cli.cli.app import _spelled_out

    command, path, words = group, ["fsl"], _spelled_out(words)
    while hasattr(command, "commands"):
        assert words and (words[0] in command.commands or words[0].isupper() or words[0].startswith("--")), (
            path,
            words,
        )
        if words[0] not in command.commands:
            return
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0] for word in words if word.startswith("-") and not word[1:2].isdigit()}
    assert given <= known, (path, given - known)
    if whole:
        context = command.make_context(" ".join(path), list(words), resilient_parsing=False)
        recipe_exists(context.params, path[1])


def recipe_exists(given: dict, verb: str) -> None:
    """The recipe of a command is installed, or a file of the reader's, and knows what the command sets."""
    from fewshot_cli.config.load import load_recipe

    name = given.get("recipe")
    if name and not str(name).endswith(".yaml"):
        sets = (
            given.get("sets")
            if verb in ("eval", "pretrain", "metatrain", "finetune-sfc", "classify", "match")
            else None
        )
        load_recipe(str(name), list(sets or []))
