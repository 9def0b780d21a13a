"""How every figure looks: style, colours, markers, texts and their widths; a finished figure in, a file's bytes out.

Colours are told apart by the colour-blind and in grey (they differ in lightness), and every method or supervisor has
its own marker as well. No global state: figures are made without pyplot, under a private style.

Letters in SVG are outlines. As text they would take a third of the bytes, but a browser, an editor or a printer without
the font would set them in another one: labels that were checked not to overlap would then overlap, and the figure of
the report would not be that of the paper. Numbers are rounded to a hundredth of a point instead.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import matplotlib
import matplotlib.colors
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from w2s.analyze.tables.sheet import one_line

FONT = "DejaVu Sans"  # comes with matplotlib: the same figure on every machine
TEXT_PT, SMALL_PT, TITLE_PT = 8.5, 7.5, 10.0
LINE_HEIGHT = 1.32  # of the size of a font
PAGE_IN, PAGE_HIGH_IN = 6.5, 9.0  # the text of a page: what fits needs not be made smaller to be printed
POINTS = 72  # to an inch
STYLE: Any = {
    "font.family": FONT,
    "font.size": TEXT_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": TEXT_PT,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": TEXT_PT,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": SMALL_PT,
    "hatch.linewidth": 0.5,
    "axes.unicode_minus": False,  # as in texts
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "w2s",  # the same store gives the same file
    "svg.fonttype": "path",
}
MARKERS = "o^vPX*phd<>H"  # of methods and supervisors; squares and diamonds are weak models and ceilings
DASHED, DOTTED, BROKEN = "--", ":", "-."
GREY, FAINT = "0.40", "0.92"
PNG_DPI = 160
MOST_LETTERS = 40  # of a name; longer ones lose their middle
MANY = 4  # series in a panel from which lines differ too


@dataclass(frozen=True)
class Key:
    """How a series is drawn, and its entry in the legend."""

    label: str
    colour: str
    marker: str = ""
    line: Any = "-"
    hollow: bool = False
    width: float = 1.3

    @property
    def face(self) -> str:
        return "white" if self.hollow else self.colour


@contextmanager
def style() -> Iterator[None]:
    """Our settings while figures are made and written, then the user's again; a glyph no font has makes no warning."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def save(figure: Figure, to: IO[bytes], ending: str) -> None:
    """Write a figure as `png` or `svg`, without a date."""
    metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {"Software": None}
    options: dict[str, Any] = {"dpi": PNG_DPI, "metadata": metadata, "bbox_inches": "tight", "pad_inches": 0.08}
    if ending != "svg":
        figure.savefig(to, format=ending, **options)
        return
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", **options)
    to.write(lean(drawn.getvalue()).encode())


def lean(svg: str) -> str:
    """The same drawing in half the bytes: no comments and white space, coordinates to a hundredth of a point, short
    names for letters, and a letter's place as a number instead of a transformation."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'(?<=["#]){FONT.replace(" ", "")}-?(Bold|Oblique)?-(?=[0-9a-f]+")', _letter, svg)
    svg = re.sub(r'(<use xlink:href="#\w+") transform="translate\(([-\d.]+) 0\)"/>', r'\1 x="\2"/>', svg)
    svg = re.sub(r'(?<=[ "(,\n])-?\d+\.\d{3,}(?=[ "),\n])', _rounded, svg)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)  # of groups, which nobody refers to
    return _without_bare_groups(re.sub(r">\s+<", "><", svg)).replace(" \n", " ")


def _without_bare_groups(svg: str) -> str:
    """Without groups that say nothing about what is in them."""
    kept: list[bool] = []  # of the groups that are open
    parts = []
    for part in re.split(r"(<g [^>]*[^/>]>|<g>|<g/>|</g>)", svg):
        if part in ("<g>", "<g/>"):
            kept += [False] if part == "<g>" else []
        elif part == "</g>":
            parts += [part] if kept.pop() else []
        else:
            kept += [True] if part.startswith("<g ") and not part.endswith("/>") else []
            parts.append(part)
    return "".join(parts)


def _letter(found: re.Match[str]) -> str:
    return "g" + {"Bold": "b", "Oblique": "i"}.get(found[1] or "", "")


def _rounded(number: re.Match[str]) -> str:
    # Scales of letters are small numbers, and a rounded one would shift a whole word: they keep their digits.
    value = float(number[0])
    return number[0] if abs(value) < 0.2 else f"{value:.2f}".rstrip("0").rstrip(".")


def colours(count: int) -> list[str]:
    """`count` colours of rising lightness, from dark to light; none so light that it is lost on white."""
    ramp = matplotlib.colormaps["viridis"]
    return [matplotlib.colors.to_hex(ramp(0.05 + 0.7 * place / max(count - 1, 1))) for place in range(count)]


def lightness(colour: Any) -> float:
    """Relative luminance, 0 to 1. Source: WCAG 2."""
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def ink_on(colour: Any) -> str:
    """Black or white, whichever stands out more on a colour. Source: contrast ratio of WCAG 2."""
    light = lightness(colour)
    return "black" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "white"


def keys(labels: Sequence[str], *, hollow: bool = False) -> list[Key]:
    """One for each label, in colours from dark to light."""
    shades = colours(len(labels))
    return [
        Key(
            label,
            shade,
            MARKERS[place % len(MARKERS)],
            BROKEN if len(labels) > MANY and place % 2 else "-",
            hollow,
        )
        for place, (label, shade) in enumerate(zip(labels, shades, strict=True))
    ]


def names(texts: Sequence[str], most: int = MOST_LETTERS) -> dict[str, str]:
    """Users' names as figures write them: on one line, long ones without what all begin and end with, then without
    their middle; different ones stay different (by a number where nothing else helps)."""
    texts = list(dict.fromkeys(texts))
    plain = [one_line(text) for text in texts]
    if max(map(len, plain), default=0) > most:
        plain = _without_common(plain)
    for limit in itertools.chain(range(most, 2 * most, 6), [None]):
        short = [shortened(text, limit) for text in plain]
        if len(set(short)) == len(short):
            return dict(zip(texts, short, strict=True))
    return {text: f"{shortened(text, most)} ({place})" for place, text in enumerate(texts, 1)}


def _without_common(texts: Sequence[str]) -> list[str]:
    """Whole parts that all texts begin with, but the last of these, and likewise at the end, as an ellipsis."""
    split = [re.split(r"(?<=[-_./@ ])", text) for text in texts]
    first = _shared(split)
    last = min(_shared([parts[::-1] for parts in split]), min(map(len, split)) - first)
    begin, end = max(first - 1, 0), max(last - 1, 0)
    return [
        f"{'…' if begin else ''}{''.join(parts[begin : len(parts) - end]).rstrip('-_./@ ')}{'…' if end else ''}"
        for parts in split
    ]


def _shared(split: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with; at least one part of each is its own."""
    if len(split) < 2:
        return 0
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))
    return min(sum(1 for _ in alike), min(map(len, split)) - 1)


def shortened(text: str, most: int | None = MOST_LETTERS) -> str:
    """A text on one line with at most so many letters: its beginning and its end."""
    line = one_line(text)
    if most is None or len(line) <= most:
        return line
    return f"{line[: (most - 1) * 2 // 3]}…{line[-((most - 1) - (most - 1) * 2 // 3) :]}"


@functools.lru_cache(maxsize=4096)
def width_in(text: str, size_pt: float = TEXT_PT, weight: str = "normal") -> float:
    """How wide a text is set, in inches: its widest line."""
    font = FontProperties(family=FONT, size=size_pt, weight=weight)
    widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n") if line]
    return float(max(widths, default=0.0)) / POINTS


def height_in(lines: int, size_pt: float = TEXT_PT) -> float:
    """How high so many lines of text are."""
    return lines * size_pt * LINE_HEIGHT / POINTS


def wrapped(text: str, room_in: float, size_pt: float = TEXT_PT, weight: str = "normal") -> list[str]:
    """A text in lines that fit the room; a word that is too long for a line is broken, between its parts if it can."""

    def fits(line: str) -> bool:
        return width_in(line, size_pt, weight) <= room_in

    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if fits(joined):
            lines[-1] = joined
            continue
        lines.append("")
        for part in [word] if fits(word) else re.split(r"(?<=[-_./@])", word):
            if not fits(lines[-1] + part):
                lines.append("")
            for letter in part:
                if lines[-1] and not fits(lines[-1] + letter):
                    lines.append("")
                lines[-1] += letter
    return [line for line in lines if line]


def short_count(number: float) -> str:
    """A count as people write model sizes: 22M, 1.4B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.{0 if number >= 9.95 * size else 1}f}{unit}"
    return f"{number:.0f}"


def power(number: float) -> str:
    """A number as people write FLOPs: 3.2e16."""
    return f"{number:.1e}".replace("e+", "e")


def few_ticks(axis: Axis, most: int, *, whole: bool = False) -> None:
    """Round numbers along an axis, not more than so many."""
    axis.set_major_locator(MaxNLocator(most, integer=whole, steps=[1, 2, 5, 10]))


def number(value: float, digits: int) -> str:
    """A number with so many digits; never a minus zero."""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and not float(text) else text


def bracket(low: float, high: float, digits: int) -> str:
    """An interval as text; nothing where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"
