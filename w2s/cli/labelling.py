"""A file of texts in, a file of texts with probabilities or scores out; refuses an empty text and a missing column."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from w2s.disk import disk_errors
from w2s.errors import SpecError
from w2s.identity import nearest
from w2s.store import Store

if TYPE_CHECKING:
    import numpy as np

SHOWN_PROBLEMS = 10


def read_texts(file: Path, column: str) -> list[str]:
    """The texts of a .txt (one per line), .jsonl or .csv file. Raises SpecError with the lines that are wrong."""
    readers = {".txt": _plain, ".jsonl": _jsonl, ".csv": _csv}
    if file.suffix not in readers:
        raise SpecError(f"{file}: expected a file that ends in .txt, .jsonl or .csv")
    problems: list[str] = []
    texts: list[str] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, text in readers[file.suffix](lines, column, file):
                if not isinstance(text, str) or not text.strip():
                    problems.append(f"{file} line {number}: expected a text (got {text!r})")
                else:
                    texts.append(text)
    except UnicodeDecodeError:
        raise SpecError(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}") from None
    if problems:
        more = [f"{file}: and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise SpecError(problems[:SHOWN_PROBLEMS] + more)
    if not texts:
        raise SpecError(f"{file}: no text in it")
    return texts


def _plain(lines: TextIO, _column: str, _file: Path) -> Iterable[tuple[int, Any]]:
    return ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))


def _jsonl(lines: TextIO, column: str, file: Path) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise SpecError(f"{file} line {number}: not JSON") from None
        if not isinstance(row, dict):
            raise SpecError(f"{file} line {number}: expected an object with the field {column!r}")
        if column not in row:
            raise SpecError(f"{file} line {number}: no field {column!r}{nearest(column, row)}; name it with --text")
        yield number, row[column]


def _csv(lines: TextIO, column: str, file: Path) -> Iterable[tuple[int, Any]]:
    rows = csv.DictReader(lines, strict=True)
    try:
        if column not in (rows.fieldnames or []):
            known = nearest(column, rows.fieldnames or [])
            raise SpecError(f"{file} line 1: no column {column!r}{known}; name it with --text")
        for row in rows:
            yield rows.reader.line_num, row[column]
    except csv.Error as error:
        raise SpecError(f"{file} line {rows.reader.line_num}: not CSV: {error}") from None


def require_room(out: Path | None) -> None:
    """Raise SpecError, before any work, where the labels could not be written."""
    if out is None:
        return
    if out.suffix not in (".jsonl", ".csv"):
        raise SpecError(f"--out: expected a name that ends in .jsonl or .csv (got {str(out)!r})")
    if not out.absolute().parent.is_dir():
        raise SpecError(f"--out: no such folder {str(out.parent)!r}")


def require_weights(store: Store, kind: str, digest: str, commands: Sequence[str]) -> None:
    """Raise SpecError where a step has no weights to label with; `commands` are those that ran it, if known."""
    if kind not in ("train", "work"):
        raise SpecError(f"digest: {digest[:12]} is a {kind} step; only a train step can label texts")
    manifest = store.manifest("train", digest)
    if manifest is None:
        raise SpecError(f"digest: {digest[:12]} is not finished; `w2s show {digest[:12]}` says more")
    if not any(name.startswith("model/") or name == "prompt.json" for name in manifest["files"]):
        again = commands[0] if commands else "w2s sweep YAML"
        keep = again if "--keep" in again else f"{again} --keep-weights"
        raise SpecError(
            f"digest: the weights of {digest[:12]} were not kept. This command keeps them, training again only steps "
            f"without weights, with the same numbers: {keep}"
        )


def write(out: Path | None, texts: Sequence[str], classes: Sequence[str], p_NC: np.ndarray) -> None:
    """Each text with its most probable class and the probability of every class, as JSON lines or CSV.

    Where there is one number per text, as under a model that compares texts, it stands alone under its name.
    """
    labels = [classes[int(p_C.argmax())] for p_C in p_NC]
    if out is None:
        _json_lines(sys.stdout, texts, labels, classes, p_NC)
        return
    with disk_errors(out), out.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            _json_lines(file, texts, labels, classes, p_NC)
        else:
            writer = csv.writer(file)
            scored = len(classes) == 1
            writer.writerow(["text", *(classes if scored else ["label", *(f"p_{name}" for name in classes)])])
            for text, label, p_C in zip(texts, labels, p_NC, strict=True):
                writer.writerow([text, *([] if scored else [label]), *map(float, p_C)])


def _json_lines(
    to: TextIO, texts: Sequence[str], labels: Sequence[str], classes: Sequence[str], p_NC: np.ndarray
) -> None:
    for text, label, p_C in zip(texts, labels, p_NC, strict=True):
        p = dict(zip(classes, map(float, p_C), strict=True))
        row = {"text": text, **(p if len(classes) == 1 else {"label": label, "p": p})}
        to.write(json.dumps(row, ensure_ascii=False) + "\n")
