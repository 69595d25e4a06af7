"""The embedded default, as README's first command meets it."""

import json

import pytest


@pytest.mark.parametrize("recipe", ["glyphs_5w1s", "glyphs_5w1s_prototype"])
def test_the_embedded_default_reproduces_its_accuracy_with_the_shipped_weights(fsl, glyph_root, recipe):
    code, out, err = fsl("eval", "--recipe", recipe, "--check", "--format", "json", "--data-root", glyph_root)
    assert code == 0, err
    assert json.loads(out)["passed"]


def test_shipped_weights_are_small_whole_and_say_what_they_are():
    from fewshot_cli.weights import checkpoint, installed

    assert {"glyphs_conv64", "cifar_fs_conv64"} <= set(installed.names())
    for name in set(installed.names()) - set(installed.BESIDE):
        path = installed.file(name)
        loaded = checkpoint.load(path)
        assert path.stat().st_size < 1_000_000
        assert (
            loaded.sidecar["stage"] in ("pretrain", "metatrain")
            and loaded.sidecar["dataset"]["sha256"]
            and loaded.sidecar["licence"]
        )
