"""The training step that is one convex problem: features or words with labels in, the artifact of a training out.

No model is loaded: pooled features are a step of their own, and counts of words need none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s import loop, outputs
from w2s.disk import write_json
from w2s.errors import StepError
from w2s.progress import Report
from w2s.spec import EVALUATED, PREDICTED, Probe, TrainSpec, Truth
from w2s.store import Staged, Store

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.relabel import Labelled
    from w2s.learn.solved import Vocabulary

POOLED = "pooled.npy"


@dataclass(frozen=True)
class Known:
    """What a training may know: ids and texts by split, `per_example` of these for each id, and labels.

    `learned` and `val`: labels of the split that is trained on and of val, with the places of their examples there.
    """

    ids: dict[str, list[str]]
    texts: dict[str, list[str]]
    per_example: int
    learned: Labelled
    learned_places: list[int]
    val: Labelled
    val_places: list[int]
    y_test: np.ndarray


def read_pooled(store: Store, digest: str) -> np.ndarray:
    """One vector (M, D) for each text of a split, in its order."""
    import numpy as np

    file = store.path("features", digest) / POOLED
    try:
        found: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StepError(f"{file}: cannot be read ({error}); remove its folder and run again") from error
    return found


def train(spec: TrainSpec, known: Known, store: Store, staged: Staged, report: Report) -> dict[str, Any]:
    """Solve and predict; write the artifact. Returns the manifest's part."""
    from w2s.learn import solved
    from w2s.learn.checkpoint import Evaluation

    clock = time.perf_counter()
    vectors, vocabulary = _vectors(spec, known, store)
    phases, clock = {"load": round(time.perf_counter() - clock, 3)}, time.perf_counter()
    tune = spec.recipe.tune
    report("train", 0, 1)
    found, logits = solved.solve(
        {split: vectors[split] for split in PREDICTED},
        vectors[spec.split][_texts_of(known, known.learned_places)],
        known.learned.p_NC,
        (vectors["val"][_texts_of(known, known.val_places)], known.val.p_NC),
        tune.l2 if isinstance(tune, Probe) else None,
        known.per_example,
    )
    seconds = time.perf_counter() - clock
    report("train", 1, 1)
    evaluated: dict[str, np.ndarray] = {split: logits[split] for split in EVALUATED}
    evaluations = [] if spec.recipe.eval_every is None else [Evaluation(1, evaluated)]
    examples = len(known.learned)
    row = {"step": 0, "epoch": 0, "loss": found.loss, "lr": 0.0, "examples": examples, "seconds": seconds}
    folder = staged.folder
    if spec.keep_weights:
        solved.save(folder / "model", found.linear, vocabulary)
    outputs.write_predictions(folder, known.ids, logits)
    outputs.write_evaluations(folder, known.ids, evaluations)
    if not isinstance(spec.labels, Truth):
        outputs.write_labels(folder / "labels.parquet", known.learned.ids, known.learned.p_NC, known.learned.origins)
    outputs.write_history(folder, [row], evaluations, _classes(known), loop.judged_by(spec))
    facts = {
        "test_accuracy": outputs.accuracy(known.y_test, logits["test"]),
        "test_n": len(known.ids["test"]),
        "train_n": examples,
        "final_loss": found.loss,
        "l2": found.l2,
        "val_loss_by_l2": [[l2, loss] for l2, loss in found.val_losses.items() if len(known.val)],
        "features": int(found.linear.weight_DO.shape[0]),
    }
    write_json(folder / "metrics.json", facts)
    phases["train"] = round(seconds, 3)
    return {
        "fetched": [],
        "devices": ["cpu"],
        "phases": phases,
        "solved": True,
        "examples": examples,
        "tokens": 0.0,
        "flops": None,
    }


def _vectors(spec: TrainSpec, known: Known, store: Store) -> tuple[dict[str, Any], Vocabulary | None]:
    """The vectors of all texts by split, and the vocabulary where those are counts of words."""
    from w2s.learn.solved import Vocabulary

    if spec.model.words is None:
        return {split: read_pooled(store, step.digest()) for split, step in spec.features().items()}, None
    learned = [known.texts[spec.split][place] for place in _texts_of(known, known.learned_places)]
    vocabulary = Vocabulary.of(spec.model.words, learned)
    return {split: vocabulary.vectors(texts) for split, texts in known.texts.items()}, vocabulary


def _texts_of(known: Known, places: list[int]) -> list[int]:
    """Where the texts of these examples stand among those of their split."""
    k = known.per_example
    return [place * k + text for place in places for text in range(k)]


def _classes(known: Known) -> dict[str, np.ndarray]:
    """Classes (N,) that evaluations are held against, by split; -1 where none is known."""
    import numpy as np

    found = {"test": known.y_test}
    if len(known.val):
        found["val"] = np.full(len(known.ids["val"]), -1)
        found["val"][known.val_places] = known.val.p_NC.argmax(axis=1)
    return found
