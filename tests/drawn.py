"""What a figure's reader sees: its texts and where they lie."""

from itertools import combinations

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fewshot_cli.figures.style import STYLE


def texts(figure):
    """The texts of a figure with their boxes in pixels, drawn now as a PNG is."""
    figure.set_dpi(STYLE["savefig.dpi"])
    canvas, found, beyond = FigureCanvasAgg(figure), [], set()
    with rc_context(STYLE):
        canvas.draw()
    renderer = canvas.get_renderer()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        reach = (high - low) * 1e-6
        beyond |= {t.label1 for t in axis.get_major_ticks() if not low - reach <= t.get_loc() <= high + reach}
    for text in figure.findobj(Text):
        if text not in beyond and text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def assert_readable(figure):
    """No text is cut off by the figure's edge, and none covers another."""
    seen = texts(figure)
    wide, high = figure.get_size_inches() * figure.dpi
    for text, box in seen:
        assert box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= wide + 0.5 and box.y1 <= high + 0.5, f"{text!r} is cut"
    for (one, a), (other, b) in combinations(seen, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1 or down < 1, f"{one!r} and {other!r} overlap"
