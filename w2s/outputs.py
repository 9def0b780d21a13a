"""What a training leaves, as the files of its artifact: predictions, evaluations, labels, history.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

    from w2s.learn.checkpoint import Evaluation


def write_predictions(folder: Path, ids: Mapping[str, list[str]], logits: Mapping[str, np.ndarray]) -> None:
    """`predictions/<split>.parquet`: example_id, and logits (C) in float32."""
    import pyarrow.parquet

    (folder / "predictions").mkdir()
    for split, logits_NC in logits.items():
        table = pyarrow.table({"example_id": ids[split], "logits": _rows(logits_NC)})
        pyarrow.parquet.write_table(table, folder / "predictions" / f"{split}.parquet")


def write_labels(folder: Path, ids: list[str], p_NC: np.ndarray, origin: str) -> None:
    """`labels.parquet`: example_id, the label p (C) that was trained on, and where it came from."""
    import pyarrow.parquet

    table = pyarrow.table({"example_id": ids, "p": _rows(p_NC), "origin": [origin] * len(ids)})
    pyarrow.parquet.write_table(table, folder / "labels.parquet")


def write_evaluations(folder: Path, ids: Mapping[str, list[str]], evaluations: Sequence[Evaluation]) -> None:
    """`evaluations.parquet`, where there were any: step, split, example_id, logits.

    One row per example and evaluation, so that what to select is decided later, from predictions alone.
    """
    import pyarrow
    import pyarrow.parquet

    tables = [
        pyarrow.table(
            {
                "step": pyarrow.array([evaluation.step] * len(logits_NC), pyarrow.int32()),
                "split": [split] * len(logits_NC),
                "example_id": ids[split],
                "logits": _rows(logits_NC),
            }
        )
        for evaluation in evaluations
        for split, logits_NC in evaluation.logits.items()
    ]
    if tables:
        pyarrow.parquet.write_table(pyarrow.concat_tables(tables), folder / "evaluations.parquet")


def learnt_share(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all examples of all steps, the share that the loss learnt from; empty where it leaves none out."""
    if not any("weight" in row for row in history):
        return {}
    examples = sum(row["examples"] for row in history)
    return {"learnt_share": sum(row["weight"] * row["examples"] for row in history) / examples}


def write_history(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
    known: Mapping[str, np.ndarray],
    against: Mapping[str, str],
) -> None:
    """`history.jsonl`: a line per optimizer step, and after it those of its evaluation.

    `known`: classes (N,) by split that evaluations are held against, and `against` where those come from.
    """
    evaluated = {
        evaluation.step: [
            {
                "steps_done": evaluation.step,
                "split": split,
                "against": against[split],
                "accuracy": accuracy(known[split], logits_NC),
            }
            for split, logits_NC in evaluation.logits.items()
        ]
        for evaluation in evaluations
    }
    rows = [line for row in history for line in (row, *evaluated.get(row["step"] + 1, []))]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def accuracy(y_N: np.ndarray, logits_NC: np.ndarray) -> float:
    """Share of the examples whose largest logit is their class."""
    return float((logits_NC.argmax(axis=1) == y_N).mean())


def _rows(values_NC: np.ndarray) -> pyarrow.Array:
    """A matrix as a column of float32 lists, without a Python object per number."""
    import numpy as np
    import pyarrow

    offsets = np.arange(0, values_NC.size + 1, values_NC.shape[1], dtype=np.int32)
    return pyarrow.ListArray.from_arrays(offsets, values_NC.astype(np.float32).ravel())
