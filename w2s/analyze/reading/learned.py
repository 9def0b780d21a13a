"""The labels that students learned from and the ground truth of transfer in, how good those labels are out.

A student learns from the predictions of a train step as they are, or from a labels step, which may leave examples out
and mix in ground truth. Refuses (StepError, naming the artifact) labels of strange or repeated examples, and ones that
are not one finite number per class.

Shapes: N examples of transfer, in the order of the truth's ids; M of them with a label; C classes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading import files
from w2s.analyze.reading.metrics import Bools
from w2s.analyze.reading.predictions import Reader, Scored, Truth
from w2s.analyze.reading.scoring import bins_of, confidence_bins
from w2s.errors import StepError
from w2s.store import Store

TRUTH = "truth"  # the origin of a label that is ground truth
LABELS = "labels "  # before the digest of a labels step, which tells it from that of a train step


@dataclass(frozen=True)
class Learned:
    """Labels for transfer, by example; the class of a label is its most probable one."""

    kept_N: Bools  # it has a label
    right_N: Bools  # it has one, and that is right
    truth_N: Bools  # it has one, and that was made ground truth by name
    bins_K3: NDArray[np.float64]  # as `Scored` has them, of the labels that are there

    @property
    def kept(self) -> int:
        return int(np.count_nonzero(self.kept_N))

    @property
    def accuracy(self) -> float:
        """The share of right labels among those that are there."""
        return np.count_nonzero(self.right_N) / self.kept

    @property
    def kept_share(self) -> float:
        """The share of transfer that has a label."""
        return self.kept / len(self.kept_N)

    @property
    def truth_share(self) -> float:
        """The share of labels that are ground truth by name."""
        return np.count_nonzero(self.truth_N) / self.kept


def supervisor(store: Store, source: str) -> str:
    """The train step whose predictions labels are made of, where it is one alone; '' where there is none such."""
    if not source.startswith(LABELS):
        return source
    spec = (store.manifest("labels", source.removeprefix(LABELS)) or {}).get("spec") or {}
    given = (spec.get("source") or {}).get("supervisors") or []
    return str(given[0]) if len(given) == 1 else ""


def of_predictions(scored: Scored) -> Learned:
    """Labels that are a train step's predictions for transfer."""
    every_N = np.ones(len(scored.right_N), dtype=np.bool_)
    return Learned(every_N, scored.right_N, ~every_N, scored.bins_K3)


def of_step(reader: Reader, digest: str, data: str, classes: int) -> Learned:
    """Labels that a labels step made. Raises StepError where they, or the truth, are damaged."""
    truth = reader.truth(data, "transfer", classes)
    name = f"transfer.parquet of labels {digest[:12]}"
    file = files.content(files.artifact(reader.store, "labels", digest), "transfer.parquet")
    table = files.columns(files.parquet(file), file, ("example_id", "p", "origin"), name)
    place_M = _places(table["example_id"].to_pylist(), truth, name)
    p_MC = _probabilities(table["p"].to_pylist(), classes, name)
    label_M = p_MC.argmax(axis=1)
    right_M = label_M == truth.y_N[place_M]
    truth_M = np.array([origin == TRUTH for origin in table["origin"].to_pylist()], dtype=np.bool_)
    sure_M = p_MC.max(axis=1)[None]
    bins_K3 = confidence_bins(sure_M, right_M[None], bins_of(sure_M))[0]
    kept_N, right_N, truth_N = np.zeros((3, len(truth.ids)), dtype=np.bool_)
    kept_N[place_M], right_N[place_M], truth_N[place_M] = True, right_M, truth_M
    return Learned(kept_N, right_N, truth_N, bins_K3)


def _places(ids: list[Any], truth: Truth, name: str) -> NDArray[np.int64]:
    """Where each labelled example stands in the truth."""
    place = {example_id: number for number, example_id in enumerate(truth.ids)}
    strange = [example_id for example_id in ids if example_id not in place]
    if strange or not ids or len(set(ids)) < len(ids):
        what = f"an example that transfer does not have ({strange[0]!r})" if strange else "an example twice"
        raise StepError(f"{name} has {what if ids else 'no labels'}; remove the artifact and run the sweep again")
    return np.array([place[example_id] for example_id in ids], dtype=np.int64)


def _probabilities(rows: list[Any], classes: int, name: str) -> NDArray[np.float64]:
    try:
        p_MC = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError):
        p_MC = np.empty(0)
    if p_MC.shape != (len(rows), classes) or not np.isfinite(p_MC).all():
        raise StepError(f"{name}: expected {classes} finite numbers for each label; remove it and run again")
    return p_MC
