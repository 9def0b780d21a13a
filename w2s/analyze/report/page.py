"""A sweep's rows, cells, document and figures in, one self-contained HTML file out as text.

The page may run only its own script and style, named by their hashes in its policy, and may ask no network for
anything. Texts from users reach it escaped by the template, or as data that its script only ever sets as text.
What is large is packed and inflated when it is looked at. A page that would weigh more than `limit_bytes` leaves out
the end of long texts, then examples, histories and figures, in this order, and says so. The same input gives the same
page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from w2s.analyze.numbers.cells import METRIC_WORDS, Cell
from w2s.analyze.reading.rows import Rows
from w2s.analyze.report import origins, sheets, summary
from w2s.analyze.report.packing import packed, packed_bytes, script_json
from w2s.analyze.report.pictures import shortened
from w2s.analyze.report.runs import EXAMPLES, Runs, gather
from w2s.analyze.tables.document import Document
from w2s.progress import Report, silent

LIMIT_BYTES = 10_000_000
RUNS_PER_PACK = 50
FEW_FIGURES = 8  # with more, each task's stand behind a line that opens them
TEXT_CHARS = 1_000
SHORT_TEXT_CHARS = 240
FEW = 6  # examples
HERE = Path(__file__).parent
SCRIPTS = ("packs.js", "tables.js", "curves.js", "runs.js", "page.js")


class Picture(NamedTuple):
    """A figure: an SVG of one's own making, with what it shows in a line and in words for those who do not see it."""

    svg: bytes
    title: str
    alt: str


@dataclass(frozen=True)
class Group:
    """Figures that stand together; `pictures` with the names of their packs."""

    title: str
    closed: bool
    pictures: list[tuple[str, Picture]]


@dataclass(frozen=True)
class Economy:
    """What a page leaves out to stay below its limit."""

    text_chars: int = TEXT_CHARS
    examples: int = EXAMPLES
    histories: bool = True
    said: tuple[str, ...] = ()


LONG_TEXTS = (
    f"the end of texts beyond {SHORT_TEXT_CHARS} characters (all of them: test.parquet of the data's artifacts)"
)
NO_EXAMPLES = "examples on which student and supervisor disagree (predictions/test.parquet of the runs' artifacts)"
FEW_EXAMPLES = f"examples beyond {FEW} for each student (predictions/test.parquet of the runs' artifacts)"
NO_HISTORIES = "the course of the trainings (history.jsonl of the runs' artifacts)"
ECONOMIES = (
    Economy(),
    Economy(SHORT_TEXT_CHARS, said=(LONG_TEXTS,)),
    Economy(SHORT_TEXT_CHARS, FEW, said=(LONG_TEXTS, FEW_EXAMPLES)),
    Economy(examples=0, said=(NO_EXAMPLES,)),
    Economy(examples=0, histories=False, said=(NO_EXAMPLES, NO_HISTORIES)),
)


def page(
    rows: Rows,
    cells: Sequence[Cell],
    document: Document,
    figures: Mapping[str, Picture],
    *,
    metric: str = "accuracy",
    limit_bytes: int = LIMIT_BYTES,
    progress: Report = silent,
) -> str:
    """The report as HTML. `figures` are by name, in the order in which they are shown."""
    runs = gather(rows, progress)
    tables = _tables(rows, document, runs, metric)
    svgs, shapes = shortened({name: picture.svg for name, picture in figures.items()})
    pictures = {name: packed_bytes(svg.encode()) for name, svg in svgs.items()}
    if shapes or pictures:
        tables["shapes"] = packed(shapes)
    given = _Given(rows, cells, document, metric, runs)
    shell = _html(given, [], {}, ECONOMIES[-1].said)
    fixed = len(shell.encode()) + _weight(tables) + _weight(pictures) + sum(_room(*figures[name]) for name in figures)
    for economy in ECONOMIES:
        details = _details(runs, economy)
        over = fixed + _weight(details) - limit_bytes
        if over <= 0:
            break
    dropped = _dropped(pictures, over)
    said = list(economy.said)
    if dropped:
        said.append(f"{len(dropped)} of {len(figures)} figures (they are in the folder figures beside this page)")
    packed_as = {name: f"figure-{place}" for place, name in enumerate(figures) if name not in dropped}
    packs = {**tables, **{packed_as[name]: pictures[name] for name in packed_as}, **details}
    groups = _groups([(name, packed_as[name], figures[name]) for name in packed_as])
    return _html(given, groups, packs, said)


def _tables(rows: Rows, document: Document, runs: Runs, metric: str) -> dict[str, str]:
    place = {digest: number for number, digest in enumerate(runs.order)}
    made = [sheets.table(sheet) for sheet in document.sheets if sheet.lines and sheet.columns]
    by_seed = [sheets.seeds(rows, place, metric)] if len(rows.frame) else []
    supervisors = [place.get(own.supervisor) for own in runs.facts]
    return {
        "tables": packed([*made, *by_seed]),
        "runs": packed({"table": sheets.index(runs), "supervisors": supervisors}),
    }


def _weight(packs: Mapping[str, str]) -> int:
    """Bytes of packs in the page, with the elements around them."""
    return sum(len(text) + 100 for text in packs.values())


def _room(_: bytes, title: str, alt: str) -> int:
    """Bytes that a figure takes besides its pack, escapes and a place in a list included."""
    return 400 + 6 * len(title.encode()) + 6 * len(alt.encode())


def _details(runs: Runs, economy: Economy) -> dict[str, str]:
    """What pages of runs show, in packs of some runs each, and what runs share."""
    found: dict[str, str] = {"shared": packed({"blocks": runs.blocks, "environments": runs.environments})}
    for first in range(0, len(runs.order), RUNS_PER_PACK):
        part: list[dict[str, Any]] = []
        for place in range(first, min(first + RUNS_PER_PACK, len(runs.order))):
            record = dict(runs.records[place])
            if economy.histories and runs.histories[place]:
                record["history"] = runs.histories[place]
            if economy.examples and (own := runs.examples[place]) is not None:
                record["disagreements"] = {**own, "shown": own["shown"][: economy.examples]} if "shown" in own else own
            part.append(record)
        found[f"details-{first // RUNS_PER_PACK}"] = packed(part)
    if economy.examples:
        for data, texts in runs.disagreements.texts.items():
            if texts.used and data in runs.order:
                shown = _shown(runs, data, economy.examples)
                found[f"texts-{runs.order.index(data)}"] = packed(texts.kept(shown, economy.text_chars))
    return found


def _shown(runs: Runs, data: str, most: int) -> set[int]:
    """The numbers of the texts of a data set that some run shows."""
    own = [found for found, facts in zip(runs.examples, runs.facts, strict=True) if found and facts.data == data]
    return {example[0] for found in own for example in found.get("shown", [])[:most]}


def _dropped(pictures: dict[str, str], over: int) -> set[str]:
    """The last figures, as many as weigh so much."""
    dropped: set[str] = set()
    for name in reversed(pictures):
        if over <= 0:
            break
        dropped.add(name)
        over -= len(pictures[name])
    return dropped


def _groups(figures: Sequence[tuple[str, str, Picture]]) -> list[Group]:
    """All in one group; many by their kind, which stands before the task in a figure's name, and closed."""
    if len(figures) <= FEW_FIGURES:
        return [Group("", False, [(pack, picture) for _, pack, picture in figures])] if figures else []
    kinds: dict[str, Group] = {}
    for name, pack, picture in figures:
        kind, _, task = name.partition("-")
        group = kinds.setdefault(kind if task else "", Group(picture.title if task else "", bool(task), []))
        group.pictures.append((pack, picture))
    return list(kinds.values())


class _Given(NamedTuple):
    """What the page is about."""

    rows: Rows
    cells: Sequence[Cell]
    document: Document
    metric: str
    runs: Runs


def _html(about: _Given, pictures: Sequence[Group], packs: Mapping[str, str], left_out: Sequence[str]) -> str:
    import jinja2
    from markupsafe import Markup

    rows, cells, document, metric, runs = about
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    given = {"runs": len(runs.order), "perPack": RUNS_PER_PACK, "packs": list(packs)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        document=document,
        findings=summary.findings(cells, metric),
        metric=METRIC_WORDS[metric].name,
        facts=_facts(cells, runs),
        origins=origins.origins(runs),
        sweeps=origins.sweeps(rows),
        pictures=pictures,
        left_out=left_out,
        # Ours, and compared with their hashes by the browser: escapes would change them.
        style=Markup(style),  # noqa: S704  # the package's own file
        script=Markup(script),  # noqa: S704  # the package's own files
        style_hash=_hash(style),
        script_hash=_hash(script),
        given=Markup(script_json(given)),  # noqa: S704  # escaped for a script element
        packs={name: Markup(text) for name, text in packs.items()},  # noqa: S704  # base64
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _facts(cells: Sequence[Cell], runs: Runs) -> list[str]:
    """The size of the sweep, in a few words each."""
    counts = {
        "task": len({cell.task for cell in cells}),
        "model pair": len({cell.pair for cell in cells}),
        "method": len({cell.method for cell in cells}),
        "seed": len({seed for cell in cells for seed in cell.planned}),
        "cell": len(cells),
    }
    said = [f"{count:,} {what}{'' if count == 1 else 's'}" for what, count in counts.items()]
    trained = [
        status
        for status, own in zip(runs.statuses, runs.facts, strict=True)
        if own.role not in ("data", "features", "labels")
    ]
    done = trained.count("done")
    return [*said, f"{done:,} of {len(trained):,} runs done" if done < len(trained) else f"all {done:,} runs done"]
