"""Glyphs as files, for the API's tests."""

import glyph_files
import pytest


@pytest.fixture(scope="session")
def folder_of_glyphs(glyph_root, tmp_path_factory):
    """A glyph of each of four classes, in `support/`."""
    root = tmp_path_factory.mktemp("glyphs")
    glyph_files.save(glyph_root, root / "support", range(4), slice(1))
    return root
