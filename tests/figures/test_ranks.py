"""Critical-difference diagrams: every method named with its rank, and a bar over those that do not differ."""

import pytest
from PIL import Image

from fewshot_cli.figures.ranks import critical_difference

MEAN = {"emd": 1.6, "full_connections": 2.01, "prototype distance=cosine": 3.4}


def test_every_method_stands_there_with_its_rank(tmp_path):
    critical_difference(tmp_path / "cd.svg", MEAN, 0.97, [(1.6, 2.01)], "mean ranks over 60 episodes")
    svg = (tmp_path / "cd.svg").read_text()
    for text in (*(f"{name}" for name in MEAN), "1.60", "2.01", "3.40", "critical difference 0.97", "over 60 episodes"):
        assert text in svg
    bars = [svg.count("stroke-linecap: round")]
    critical_difference(tmp_path / "cd.svg", MEAN, 0.97, [], "mean ranks over 60 episodes")
    bars.append((tmp_path / "cd.svg").read_text().count("stroke-linecap: round"))
    assert bars == [bars[1] + 1, bars[1]]


@pytest.mark.parametrize("count", [2, 12])
def test_few_and_many_methods_have_room(tmp_path, count):
    mean = {f"method {i}": 1 + 0.7 * i for i in range(count)}
    critical_difference(tmp_path / "cd.png", mean, 0.5, [], "ranks")
    critical_difference(tmp_path / "cd.pdf", mean, 0.5, [], "ranks")
    assert Image.open(tmp_path / "cd.png").width > 1000 and (tmp_path / "cd.pdf").read_bytes().startswith(b"%PDF")
