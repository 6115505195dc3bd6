"""The sheet on which every figure is drawn: title, how to read it, axes, footer; colours that survive colour blindness.

Figures are made without pyplot, so that no window system is asked for and no global state is left behind. The same
figure is saved as PNG for the plots folder and as SVG for the HTML report, where its colours become CSS variables that
follow a light or dark page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.wording import significant
from tff_hospitals.training.metrics import Metric

WIDTH = 10.4  # inches; 998 CSS pixels, the width of the report's column
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 13.0, 9.5, 8.5
MARGIN = 0.12

INK, MUTED, GRID, CARD = "#1f2328", "#59636e", "#dfe3e8", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#997700", "#1e90b0", "#882255", "#4b3fa8")
NEUTRAL = ("#6e7781", "#8c959f", "#57606a", "#7d8590")
STEPS = ("#7a0177", "#c51b8a", "#e0719a", "#8f9aa5")  # strong to weak promise; the last one means none
DARK = dict(
    zip(
        (INK, MUTED, GRID, CARD, *SERIES, *NEUTRAL, *STEPS),
        (
            *("#e6edf3", "#9da7b1", "#30363d", "#161b22"),
            *("#4da6e0", "#ff8a4c", "#2fc79a", "#e08ad0", "#d4ad2f", "#63cbe8", "#ef7fae", "#a99cf5"),
            *("#9aa4ae", "#848d97", "#b1bac4", "#8b949e"),
            *("#f58ff0", "#f768a1", "#d9a0b4", "#7d8894"),
        ),
    )
)
UNIT_MARKERS = {"none": "D", "record": "o", "hospital": "s"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))

_WIDTHS: dict[tuple[str, float, str], float] = {}  # of texts that were measured, inches
_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in somebody's method name is a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": CARD,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.facecolor": CARD,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "svg.fonttype": "path",
    "svg.hashsalt": "tff_hospitals",
    "path.simplify": True,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A finished figure: file name without ending, title, caption (how to read it), alternative text, renderings, and
    the `matplotlib.figure.Figure` itself.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: str
    figure: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes the renderings travel, not the figure."""
        return Picture, (self.name, self.title, self.caption, self.alt, self.png, self.svg)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The settings under which figures are built and saved; letters that the font lacks become boxes, silently."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


class Sheet:
    """A figure whose axes are placed in inches between a title block and a footer.

    Args:
      title: the subject, one line or two.
      subtitle: how to read the figure.
      footer: data set, seeds, delta and adjacency.
      height: inches between title block and footer.
    """

    def __init__(self, title: str, subtitle: str, footer: str, height: float):
        self.figure = _figure(height)
        heading = [(line, TITLE_SIZE, "bold", INK) for line in self.wrapped(title, TITLE_SIZE, "bold")]
        heading += [(line, TEXT_SIZE, "normal", MUTED) for line in self.wrapped(subtitle, TEXT_SIZE)]
        closing = self.wrapped(footer, SMALL_SIZE)
        spacing = 1.38 / 72.0
        top = MARGIN + sum(size * spacing for _, size, _, _ in heading) + 0.1
        bottom = MARGIN + len(closing) * SMALL_SIZE * spacing + 0.04
        self.bottom, self.height = bottom, height
        self.total = bottom + height + top
        self.figure.set_size_inches(WIDTH, self.total)
        place = self.total - MARGIN
        for line, size, weight, colour in heading:
            self.text(MARGIN, place, line, size=size, weight=weight, color=colour, va="top")
            place -= size * spacing
        for index, line in enumerate(reversed(closing)):
            self.text(MARGIN, MARGIN + index * SMALL_SIZE * spacing, line, size=SMALL_SIZE, color=MUTED, va="bottom")

    def text(self, x: float, y: float, text: str, **options: Any) -> Any:
        """Writes `text` at inches from the lower left corner of the sheet."""
        options.setdefault("parse_math", False)
        return self.figure.text(x / WIDTH, y / self.total, text, **options)

    def axes(self, left: float, right: float, bottom: float = 0.0, top: float | None = None, **options: Any) -> Any:
        """Axes between inches from the left edge and inches above the footer."""
        top = self.height if top is None else top
        box = (left / WIDTH, (self.bottom + bottom) / self.total, (right - left) / WIDTH, (top - bottom) / self.total)
        axes = self.figure.add_axes(box, **options)
        axes.tick_params(length=3)
        return axes

    def text_width(self, text: str, size: float, weight: str = "normal") -> float:
        """Width of one line of text in inches."""
        from matplotlib.font_manager import FontProperties

        key = text, size, weight
        if key not in _WIDTHS:  # figures of one report share their footers and the names of their rows
            renderer = self.figure.canvas.get_renderer()
            font = FontProperties(family=_SETTINGS["font.family"], size=size, weight=weight)
            _WIDTHS[key] = float(renderer.get_text_width_height_descent(text, font, False)[0] / self.figure.dpi)
        return _WIDTHS[key]

    def wrapped(
        self, text: str, size: float, weight: str = "normal", width: float = 0.97 * (WIDTH - 2 * MARGIN)
    ) -> list[str]:
        """`text` broken at spaces so that every line fits `width` inches; a single long word is cut."""
        lines: list[str] = []
        current = ""
        for word in text.split():
            while self.text_width(word, size, weight) > width and len(word) > 8:
                lines += [current] if current else []
                current, cut = "", int(len(word) * width / self.text_width(word, size, weight)) - 1
                lines.append(word[:cut])
                word = word[cut:]
            longer = f"{current} {word}".strip()
            if current and self.text_width(longer, size, weight) > width:
                lines.append(current)
                current = word
            else:
                current = longer
        return [*lines, current] if current else lines

    def finish(self, name: str, title: str, caption: str, alt: str) -> Picture:
        """Renders the figure both ways."""
        png = io.BytesIO()
        self.figure.savefig(png, format="png", dpi=150, metadata={"Software": "tff_hospitals"})
        vector = io.StringIO()
        self.figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        svg = inline_svg(vector.getvalue(), name, alt)
        return Picture(name, title, caption, alt, png.getvalue(), svg, self.figure)


def _figure(height: float) -> Any:
    """An empty figure that a notebook shows without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that renders itself under the settings that it was built with."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            with drawing():
                self.savefig(file, format="png", dpi=72)
            return file.getvalue()

    figure = Shown(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def inline_svg(source: str, name: str, alt: str) -> str:
    """An SVG document as an element for a page: no prolog, comments or metadata, own ids, colours as CSS variables."""
    body = source[source.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace("xlink:href", "href")
    size = re.search(r'viewBox="([^"]*)"', body)
    box = size.group(1) if size else ""
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" aria-label="{html.escape(alt)}">'
    body = re.sub(r"<svg.*?>", lambda _: start, body, count=1, flags=re.DOTALL)
    for colour in DARK:
        body = re.sub(re.escape(colour), f"var({css_name(colour)},{colour})", body, flags=re.IGNORECASE)
    return re.sub(r"\n\s*", "\n", body).strip()


def css_name(colour: str) -> str:
    """The CSS variable that stands for a colour of the palette."""
    return f"--c{colour[1:]}"


def css_variables(dark: bool) -> str:
    """CSS declarations of the palette for a light or a dark page."""
    return "".join(f"{css_name(light)}:{shade if dark else light};" for light, shade in DARK.items())


def private_styles(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Colour, and whether the marker is filled, of every private method: the same in all figures of a report.

    With more methods than colours the second turn has open markers.
    """
    keys = dict.fromkeys((row.method, row.unit) for row in ordered(rows) if row.private)
    count = len(SERIES)
    return {key: (SERIES[index % count], (index // count) % 2 == 0) for index, key in enumerate(keys)}


def score_axis(axis: Any, metric: Metric) -> None:
    """Ticks of the axis of a metric, as percent where it is one."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value if metric.percent else value:g}"))


def log_axis(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 (or powers of ten over a wide range), written as plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    steps = (1.0,) if high / low > 2e4 else (1.0, 3.0) if high / low > 300 else (1.0, 2.0, 5.0)
    ticks = [step * 10.0**power for power in range(-12, 13) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) < 2:  # a narrow range between two decades: round numbers of its own
        ticks = sorted({float(significant(low * (high / low) ** share, 2)) for share in (0.08, 0.36, 0.64, 0.92)})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_locator(NullLocator())
