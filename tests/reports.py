"""Made-up sweeps with all that a report shows, and what stands in the page that is made of one."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.reading.rows import load
from w2s.analyze.report import Picture, page
from w2s.analyze.tables.document import compose
from w2s.spec import TrainSpec

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\u2028\"'`{{ 7*7 }}"
BOX = b"M 0 0 " + b"L 40 0 L 40 20 L 0 20 " * 3 + b"z"  # in both figures
SVGS = [
    b'<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="20"><path d="%s" fill="#%s"/></svg>'
    % (width, BOX, fill)
    for width, fill in ((40, b"ff0000"), (50, b"0000ff"))
]
PICTURES = {
    "accuracy-movie": Picture(SVGS[0], "Accuracy <i>of</i> models", 'weak "below" student'),
    "pgr-movie": Picture(SVGS[1], "PGR", "a half"),
}
COMMIT = "c0ffee" + "0" * 34
ENVIRONMENT: dict[str, Any] = {
    "version": "9.9.9",
    "git": {"commit": COMMIT, "dirty": False},
    "python": "3.11.7",
    "libraries": {"torch": "2.13.0"},
    "host": "a-host",
    "platform": "Linux",
    "cpus": 2,
    "started": 1795264315.0,
    "wall_s": 12.5,
    "peak_rss_mib": 812.4,
    "devices": ["cpu"],
}


def enrich(made, text="Text number {i}", manifest=lambda node: {}):
    """Give made-up artifacts what real ones have: texts, classes, a history, and where they were made."""
    written = text if callable(text) else lambda example: text.replace("{i}", example)
    for digest, node in made.plan.nodes.items():
        place, kept = made.store.path(node.kind, digest), made.store.manifest(node.kind, digest)
        if kept is None:
            continue
        with made.store.staging(node.kind, digest) as staged:
            shutil.copytree(place, staged.folder, dirs_exist_ok=True)
            (staged.folder / "manifest.json").unlink()
            if node.kind == "materialize":
                table = pq.read_table(place / "test.parquet")
                texts = pa.array([written(example) for example in table["example_id"].to_pylist()])
                pq.write_table(table.set_column(1, "text", texts), staged.folder / "test.parquet")
                (staged.folder / "summary.json").write_text(json.dumps({"classes": ["bad", "good"]}))
            elif isinstance(node.spec, TrainSpec):
                lines = [{"step": i, "loss": 1.0 / (i + 1)} for i in range(250)]
                evaluated = {"steps_done": 250, "split": "test", "against": "truth", "accuracy": 0.75}
                history = "".join(json.dumps(line) + "\n" for line in [*lines, evaluated])
                (staged.folder / "history.jsonl").write_text(history)
            rest = {key: value for key, value in kept.items() if key not in ("kind", "digest", "files")}
            staged.commit({**rest, **ENVIRONMENT, **manifest(node)}, replace=True)
    return made


def read(made):
    """Rows, cells and document of a made-up sweep."""
    rows = load(made.name, made.root)
    cells = aggregate(rows)
    return rows, cells, compose(rows, cells)


def made_page(made, **given):
    rows, cells, document = read(made)
    return page(rows, cells, document, PICTURES, **given)


def contents(html):
    """The packs of a page, as data."""
    found = re.findall(r'<script type="text/plain" id="pack-([\w-]+)">([A-Za-z0-9+/=]*)</script>', html)
    unpacked = {name: gzip.decompress(base64.b64decode(text)) for name, text in found}
    return {name: data if name.startswith("figure") else json.loads(data) for name, data in unpacked.items()}


def records(html):
    packs = contents(html)
    return [record for name in packs if name.startswith("details-") for record in packs[name]]
