"""What a training leaves, as the files of its artifact: predictions, evaluations, labels, history.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

    from w2s.learn.checkpoint import Evaluation
    from w2s.learn.relabel import Labelled


def write_predictions(folder: Path, ids: Mapping[str, list[str]], logits: Mapping[str, np.ndarray]) -> None:
    """`predictions/<split>.parquet`: example_id, and logits (C) in float32."""
    import pyarrow.parquet

    (folder / "predictions").mkdir()
    for split, logits_NC in logits.items():
        table = pyarrow.table({"example_id": ids[split], "logits": _rows(logits_NC)})
        pyarrow.parquet.write_table(table, folder / "predictions" / f"{split}.parquet")


def write_answers(
    folder: Path, split: str, ids: list[str], texts: Sequence[str], answers: Sequence[str], log_p_N: np.ndarray
) -> None:
    """`predictions/<split>.parquet` of a model that generates: example_id, text, what of it counts, and log_prob."""
    import pyarrow.parquet

    (folder / "predictions").mkdir(exist_ok=True)
    columns = {"example_id": ids, "text": list(texts), "answer": list(answers)}
    table = pyarrow.table({name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()})
    table = table.append_column("log_prob", pyarrow.array(log_p_N, pyarrow.float64()))
    pyarrow.parquet.write_table(table, folder / "predictions" / f"{split}.parquet")


def write_targets(file: Path, ids: list[str], texts: Sequence[str], origin: str) -> None:
    """A Parquet file of example_id, the text that was learned for it, and where that came from."""
    import pyarrow.parquet

    columns = {"example_id": ids, "text": list(texts), "origin": [origin] * len(ids)}
    table = pyarrow.table({name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, file)


def write_labels(file: Path, ids: list[str], p_NC: np.ndarray, origins: list[str]) -> None:
    """A Parquet file of example_id, its label p (C) in float32, and where that came from."""
    import pyarrow.parquet

    table = pyarrow.table({"example_id": ids, "p": _rows(p_NC), "origin": pyarrow.array(origins, pyarrow.string())})
    pyarrow.parquet.write_table(table, file)


def label_summary(
    given: Labelled,
    classes: Sequence[str],
    examples: int,
    in_part: int,
    told: Sequence[Mapping[str, Any]],
    right: float | None,
) -> dict[str, Any]:
    """What `summary.json` says of the labels of one split: how many there are, of which classes and origins.

    `in_part`: of all `examples`, those that the labels were to be for. `right`: the share of right ones, where ground
    truth was asked for.
    """
    counts = given.classes()
    return {
        "examples": examples,
        "in_part": in_part,
        "labelled": len(given),
        "transforms": list(told),
        "origins": dict(sorted(Counter(given.origins).items())),
        "classes": {name: round(int(n) / max(1, len(given)), 6) for name, n in zip(classes, counts, strict=True)},
        "mean_confidence": round(float(given.p_NC.max(axis=1).mean()), 6) if len(given) else None,
        **({} if right is None else {"accuracy": round(right, 6)}),
    }


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


def write_weights(folder: Path | None, trained: Mapping[str, Any]) -> None:
    """What was trained, as safetensors; no folder: another rank writes it."""
    import safetensors.torch

    if folder is not None:
        (folder / "model").mkdir()
        safetensors.torch.save_file(dict(trained), folder / "model" / "trained.safetensors")


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

    `known`: classes (N,) by split that evaluations are held against, -1 where none is known, and `against` where those
    come from.
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
            if split in known
        ]
        for evaluation in evaluations
    }
    rows = [line for row in history for line in (row, *evaluated.get(row["step"] + 1, []))]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def accuracy(y_N: np.ndarray, logits_NC: np.ndarray) -> float:
    """Share of the examples whose largest logit is their class; those of class -1 do not count."""
    return float((logits_NC.argmax(axis=1) == y_N)[y_N >= 0].mean())


def _rows(values_NC: np.ndarray) -> pyarrow.Array:
    """A matrix as a column of float32 lists, without a Python object per number."""
    import numpy as np
    import pyarrow

    offsets = np.arange(0, values_NC.size + 1, values_NC.shape[1], dtype=np.int32)
    return pyarrow.ListArray.from_arrays(offsets, values_NC.astype(np.float32).ravel())
