"""One training run of a step: a model, what it learns and what looks after it in, the trained model out.

What bodies have in common: checkpoints under the step's digest, trackers, and the micro-batch that fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from w2s.progress import Report
from w2s.spec import LanguageSpec, TrainSpec
from w2s.stopping import Stopping
from w2s.store import Store

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.batching import Tokens
    from w2s.learn.trainer import Trained


def trained(
    spec: TrainSpec | LanguageSpec,
    store: Store,
    model: Any,
    learned: tuple[Tokens, np.ndarray],
    accelerator: Any,
    report: Report,
    stopping: Stopping,
    evaluate: Callable[[Any, int], dict[str, np.ndarray]] | None = None,
) -> Trained:
    """Train on every rank alike. `learned`: tokens, and labels (N, C) or weights (N, 1); see w2s.learn.trainer."""
    from w2s.learn import fitting, tracking, trainer
    from w2s.learn.checkpoint import Checkpoints

    around = trainer.Around(
        report=lambda done, total: report("train", done, total),
        log=lambda row, step: accelerator.log(row, step=step),
        evaluate=evaluate,
        checkpoints=Checkpoints(store.checkpoints(spec.digest()), spec.engine),
        stopping=stopping,
    )
    tokens, p_NC = learned
    with (
        fitting.fitted(spec, model, tokens, accelerator.device) as micro_batch_size,
        tracking.tracked(accelerator, tracking.flattened(spec.identity())),
    ):
        return trainer.train(model, tokens, p_NC, spec.recipe, spec.seed, accelerator, micro_batch_size, around)


def equal_weights(count: int) -> np.ndarray:
    """(count, 1): every text counts the same."""
    import numpy as np

    return np.ones((count, 1), dtype=np.float32)


def since(clock: float) -> float:
    """Seconds after a reading of time.perf_counter, for a manifest's phases."""
    return round(time.perf_counter() - clock, 3)


def judged_by(spec: TrainSpec) -> dict[str, str]:
    """By split, whose labels evaluations on the way are held against."""
    return {"val": {"weak": "supervisor", "made": "labels"}.get(spec.labels.kind, "truth"), "test": "truth"}
