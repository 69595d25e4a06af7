"""The reference pages hold every verb, option, key and part that there is."""

import html
import re

import pages
import pytest
import typer


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages.module("generate").pages()


def sections(text: str) -> dict[str, str]:
    """A page's text below each heading of the second level."""
    parts = re.split(r"^## (.*)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_option_of_every_verb_is_there(made):
    from fewshot_cli.cli.app import app

    shown = sections(made["verbs"])
    pending = [("fsl", typer.main.get_command(app))]
    seen = 0
    while pending:
        path, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [(f"{path} {name}", c) for name, c in command.commands.items() if not c.hidden]
            continue
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden:
                assert option.opts[0] in shown[path], (path, option.opts)
                seen += 1
    assert seen > 100


def test_every_key_of_a_recipe_is_there_with_its_own_default(made):
    from fewshot_cli.config.schema import Recipe, Section

    shown = sections(made["recipe-keys"])
    keys = {key for cls in Section.__subclasses__() if cls.__module__ == Recipe.__module__ for key in cls.model_fields}
    assert keys <= set(re.findall(r"^\| `(\w+)`", made["recipe-keys"], re.M))
    assert set(Recipe.model_fields) - {"name"} == set(re.findall(r"^\| `(\w+)`", shown["The recipe itself"], re.M))
    assert re.search(r"\| `episodes` \|[^|]+\| `1000` \|", shown["metatrain.validation"])
    assert re.search(r"\| `episodes` \|[^|]+\| `100` \|", shown["pretrain.validation"])
    assert re.search(r"\| `accuracy` \|[^|]+\| required \|", shown["expect"])


def test_every_key_of_a_recipe_says_what_it_is(made):
    silent = re.findall(r"^\| `(\w+)` \|.*\|  \|$", made["recipe-keys"], re.M)
    assert not silent


def test_every_part_is_there_with_its_options(made):
    from fewshot_cli import registry

    for kind in registry.KINDS:
        shown = sections(made[kind])
        for name, entry in registry.entries(kind).items():
            if entry.built_in:
                for key in entry.load().Options.model_fields:
                    assert f"| `{key}` |" in shown[name], (kind, name, key)


def test_text_is_shown_as_it_is():
    import markdown

    said = "scores <A, P> at a*b*c, [N,3], #1 & R&D, and `x<y|z` of FSL_DATA_ROOT, _so_"
    shown = html.unescape(re.sub("</?(p|code)>", "", markdown.markdown(pages.module("generate").plain(said))))
    assert shown == said.replace("`", "")


def test_the_navigation_knows_every_page_that_is_made(made):
    nav = (pages.ROOT / "mkdocs.yml").read_text("utf-8")
    assert set(made) == set(pages.module("generate").NAMES)
    assert all(f": reference/{name}.md\n" in nav for name in made)
