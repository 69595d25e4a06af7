"""Shell completion: what is offered, in real shells, and that it waits for no heavy import."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fewshot_cli.cli import completion

pexpect = pytest.importorskip("pexpect")


def context(verb="eval", **params):
    return SimpleNamespace(params=params, info_name=verb)


@pytest.mark.parametrize(
    ("incomplete", "offered"),
    [
        ("episode.", ["episode.way=", "episode.shot=", "episode.query="]),
        ("eval.split=", ["eval.split=train", "eval.split=val", "eval.split=test"]),
        ("eval.split=t", ["eval.split=train", "eval.split=test"]),
        ("pretrain.augment.flip=", ["pretrain.augment.flip=true", "pretrain.augment.flip=false"]),
        ("head.weights=k", ["head.weights=kmeans"]),
        ("backbone.l", ["backbone.last_pool="]),
        ("head=e", ["head=emd"]),
        ("dataset.name=cu", ["dataset.name=cub"]),
        ("pretrain.classifier.", []),
        ("pretrain.validation.head=kn", ["pretrain.validation.head=knn"]),
        ("seed=", []),
        ("name", []),
        ("nothing.at=all", []),
    ],
)
def test_keys_and_values_of_set(incomplete, offered):
    assert completion.recipe_keys(context(recipe="glyphs_5w1s"), incomplete) == offered


def test_the_recipes_own_parts_decide_which_options_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: glyphs_5w1s\nhead: {name: sfc}\nbackbone: {channels: 8}\n")
    assert completion.recipe_keys(context(recipe="mine.yaml"), "head.pass") == ["head.passes="]
    assert completion.recipe_keys(context(recipe="mine.yaml"), "backbone.last") == ["backbone.last_pool="]
    assert completion.recipe_keys(context(recipe="glyphs_5w1s"), "head.pass") == []
    for word in ("head=sfc", "head.name=sfc"):
        assert completion.recipe_keys(context(recipe="glyphs_5w1s", sets=[word]), "head.pass") == ["head.passes="]
    assert completion.recipe_keys(context("classify"), "backbone.v") == ["backbone.variant="]
    assert completion.recipe_keys(context("eval"), "backbone.v") == []


def test_options_of_one_part():
    complete = completion.option_keys("datasets")
    assert complete(context(name="images"), "val") == ["val_share="]
    assert completion.option_keys()(context(kind="backbone", name="conv64"), "last_pool=t") == ["last_pool=true"]
    assert completion.option_keys()(context(kind="backbones", name="nothing"), "") == []


def test_folders_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("runs/eval/a", "runs/eval/b", "else/c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    assert completion.run_folders("") == ["runs/eval/a", "runs/eval/b"]
    assert completion.run_folders("runs/eval/b") == ["runs/eval/b"]
    assert completion.run_folders("else/") == ["else/c"]


@pytest.mark.parametrize(
    ("line", "word", "value", "reply"),
    [
        ("fsl eval --set head=em", "em", "head=emd", "emd"),
        ("fsl eval --set head=", "=", "head=emd", "emd"),
        ("fsl eval --set head=em", "head=em", "head=emd", "head=emd"),  # a shell that does not break words at =
        ("fsl eval --set=head=em", "em", "head=emd", "emd"),
        ("fsl eval --set=he", "he", "head=", "head="),
        ("fsl doctor --check solver:o", "o", "solver:opencv", "opencv"),
        ("fsl eval --recipe gl", "gl", "glyphs_5w1s", "glyphs_5w1s"),
    ],
)
def test_bash_gets_what_it_lacks_of_a_broken_word(monkeypatch, line, word, value, reply):
    monkeypatch.setenv("_FSL_LINE", line)
    monkeypatch.setenv("_FSL_WORD", word)
    assert completion._bash_reply(None, SimpleNamespace(value=value)) == reply


def test_the_words_of_a_line_are_whole(monkeypatch):
    monkeypatch.setenv("_FSL_LINE", "fsl eval --set head=em")
    assert completion._bash_words(None) == (["eval", "--set"], "head=em")
    monkeypatch.setenv("_FSL_LINE", "fsl eval --recipe 'my rec")
    assert completion._bash_words(None) == (["eval", "--recipe"], "my rec")
    monkeypatch.setenv("_FSL_LINE", "fsl eval ")
    assert completion._bash_words(None) == (["eval"], "")
    monkeypatch.delenv("_FSL_LINE")
    monkeypatch.setenv("COMP_WORDS", "fsl\neval\n--rec")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert completion._bash_words(None) == (["eval"], "--rec")


RUN = "import sys; sys.argv[0] = 'fsl'\nfrom fewshot_cli.cli.app import main\n"


def environment(**more):
    return {
        **os.environ,
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **more,
    }


@pytest.mark.parametrize("line", ["fsl eval --recipe glyphs_5w1s --set head.we", "fsl eval --recipe gly"])
def test_completion_imports_nothing_heavy(tmp_path, line):
    heavy = (
        "import atexit\natexit.register(lambda: print(*{'torch', 'pydantic', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{RUN}{heavy}main()"],
        env=environment(_FSL_COMPLETE="complete_bash", _FSL_LINE=line, _FSL_WORD=line.split()[-1]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    *offered, imported = done.stdout.splitlines()
    assert imported == "" and offered and done.stderr == ""


@pytest.fixture(scope="module")
def shell_home(tmp_path_factory):
    """A folder with `fsl` as a command, a run, and the script for each shell."""
    home = tmp_path_factory.mktemp("home")
    command = home / "fsl"
    command.write_text(f'#!{shutil.which("sh")}\nexec {sys.executable} -c "{RUN}main()" "$@"\n')
    command.chmod(0o755)
    (home / "runs" / "eval" / "one").mkdir(parents=True)
    (home / "runs" / "eval" / "one" / "config.json").write_text("{}")
    for shell in ("bash", "zsh"):
        script = subprocess.run(
            [command, "--show-completion", shell], env=environment(), capture_output=True, text=True, check=True
        )
        (home / f"_fsl.{shell}").write_text(script.stdout)
    return home


LINES = {
    "fsl eval --recipe glyphs_5w1s_": "fsl eval --recipe glyphs_5w1s_prototype ",
    "fsl eval --set head.wei": "fsl eval --set head.weights=",  # no space: the value follows
    "fsl eval --set head.weights=km": "fsl eval --set head.weights=kmeans ",
    "fsl doctor --check solver:opencv": "fsl doctor --check solver:opencv ",
    "fsl runs show runs/eval/o": "fsl runs show runs/eval/one ",
}
SETTING = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        "PS1='@> '; bind 'set enable-bracketed-paste off'; source _fsl.bash; "
        'bind -x \'"\\C-t": echo "<<$READLINE_LINE>>"; READLINE_LINE=\'; ',
    ),
    "zsh": (
        ["-f", "-i"],
        "PS1='@> '; autoload -U compinit; compinit -u -D; source ./_fsl.zsh; "
        "tell() { print -r -- \"<<$BUFFER>>\"; BUFFER= }; zle -N tell; bindkey '^T' tell; ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_real_shell_completes(shell_home, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words, setting = SETTING[shell]
    path = f"{shell_home}:{os.environ['PATH']}"
    terminal = pexpect.spawn(
        shell,
        words,
        env=environment(PATH=path, HOME=str(shell_home), TERM="dumb"),
        cwd=str(shell_home),
        encoding="utf-8",
        timeout=120,
        dimensions=(50, 300),
    )
    terminal.sendline(f"{setting} echo rea''dy")
    terminal.expect("ready\r\n")
    got = {}
    for line in LINES:
        terminal.expect_exact("@> ")
        terminal.send(f"{line}\t\x14")
        terminal.expect("<<(.*?)>>")
        got[line] = terminal.match[1]
        terminal.send("\r")
    terminal.close(force=True)
    assert got == LINES
