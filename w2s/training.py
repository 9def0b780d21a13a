"""The training step of classes and scores: labelled tokens and a model in, the artifact of a training out.

On every rank alike; the one with a staged folder writes. What is solved instead, or learns texts, goes to its module.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s import generation, inputs, loop, outputs, prompting, solving
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.progress import Report, silent
from w2s.spec import EVALUATED, PREDICTED, Split, TrainSpec, Truth
from w2s.stopping import Stopping
from w2s.store import Staged, Store
from w2s.tasks.task import TaskSpec

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.batching import Tokens
    from w2s.learn.models import Base
    from w2s.learn.relabel import Labelled
    from w2s.learn.trainer import Trained


@dataclass
class _Setting:
    """What a training works with: texts, labels and tokens by split, the model, and the processes it runs on."""

    ids: dict[str, list[str]]
    tokens: dict[str, Tokens]
    given: Labelled  # what it learns from, and `learned` the tokens of those examples
    learned: Tokens
    known: dict[str, np.ndarray]  # classes that evaluations are held against: of val what this model may know, else -1
    base: Base
    model: Any
    accelerator: Any


def train(spec: TrainSpec, store: Store, staged: Staged | None, report: Report, stopping: Stopping) -> dict[str, Any]:
    """Train and predict, on every rank alike; the one with a staged folder writes."""
    from w2s.learn import accelerator as accelerators
    from w2s.learn import partition

    report("load", 0, 1)
    clock = time.perf_counter()
    task = inputs.task_of(store, spec.data).task
    if spec.solved:
        return _solved(spec, task, store, staged, report)
    if spec.prompted:
        return prompting.train(spec, task, store, staged, report)
    if task.kind == "generate":
        return generation.train(spec, task, inputs.base(spec, store), store, staged, report, stopping)
    setting = _setting(spec, store)
    phases = {"load": loop.since(clock)}

    clock = time.perf_counter()
    trained = _trained(spec, store, setting, report, stopping)
    phases["train"] = loop.since(clock)

    clock = time.perf_counter()
    logits: dict[str, np.ndarray] = {s: _predicted(spec, setting, trained.model, s, report) for s in PREDICTED}
    phases["predict"] = loop.since(clock)

    if spec.keep_weights:
        kept = partition.trained_state(setting.accelerator.unwrap_model(setting.model))
        outputs.write_weights(staged.folder if staged else None, kept)
    accelerators.release(setting.accelerator, trained.model)
    if staged is None:
        return {}
    outputs.write_predictions(staged.folder, setting.ids, logits)
    outputs.write_evaluations(staged.folder, setting.ids, trained.evaluations)
    if not isinstance(spec.labels, Truth):
        given = setting.given
        outputs.write_labels(staged.folder / "labels.parquet", given.ids, given.p_NC, given.origins)
    outputs.write_history(staged.folder, trained.history, trained.evaluations, setting.known, loop.judged_by(spec))
    write_json(
        staged.folder / "metrics.json",
        {
            "test_accuracy": outputs.accuracy(setting.known["test"], logits["test"]),
            "test_n": len(setting.ids["test"]),
            "train_n": len(setting.given),
            "final_loss": trained.history[-1]["loss"],
            **outputs.learnt_share(trained.history),
            "truncated": {split: tokens.truncated for split, tokens in setting.tokens.items()},
        },
    )
    return {
        "fetched": [inputs.fetched(spec.model, setting.base.commit)],
        "devices": [str(setting.accelerator.device)] * spec.engine.ranks,
        "phases": phases,
        **_amounts(spec, setting, len(trained.evaluations)),
    }


def _solved(spec: TrainSpec, task: TaskSpec, store: Store, staged: Staged | None, report: Report) -> dict[str, Any]:
    """The training that is one convex problem, which one process solves."""
    if staged is None:
        return {}
    columns = {split: inputs.texts(store, spec.data, split) for split in spec.used_splits}
    ids: dict[str, list[str]] = {split: column[0] for split, column in columns.items()}
    given = inputs.given(spec, store, spec.split, ids[spec.split], task.n_classes)
    val = inputs.given(spec, store, "val", ids["val"], task.n_classes)
    known = solving.Known(
        ids,
        {split: column[1] for split, column in columns.items()},
        columns["test"][2] if task.kind == "compare" else 1,
        given,
        inputs.places(given.ids, ids[spec.split]),
        val,
        inputs.places(val.ids, ids["val"]),
        inputs.truth(store, spec.data, "test", ids["test"]),
    )
    return solving.train(spec, known, store, staged, report)


def _setting(spec: TrainSpec, store: Store) -> _Setting:
    import numpy as np

    from w2s.learn import accelerator as accelerators
    from w2s.learn import models, tracking, trunk

    task = inputs.task_of(store, spec.data).task
    n_classes = task.n_classes
    texts: dict[str, tuple[list[str], list[str], int]] = {
        s: inputs.texts(store, spec.data, s) for s in spec.used_splits
    }
    ids = {split: column[0] for split, column in texts.items()}
    given = inputs.given(spec, store, spec.split, ids[spec.split], n_classes)
    known = {"test": inputs.truth(store, spec.data, "test", ids["test"])}
    val = inputs.given(spec, store, "val", ids["val"], n_classes)
    if len(val):
        known["val"] = np.full(len(ids["val"]), -1)
        known["val"][inputs.places(val.ids, ids["val"])] = val.p_NC.argmax(axis=1)
    folder = tracking.folder_of(store.root.parent, spec.digest())
    accelerator = accelerators.make(spec.engine, spec.recipe, tracking.trackers_for(spec.engine.trackers, folder))
    base = inputs.base(spec, store)
    tokens = {split: inputs.tokens(spec, base, split, *column[1:]) for split, column in texts.items()}
    model = models.build(base, task.n_outputs, spec.recipe, spec.seed, spec.engine)
    for split, features in spec.features().items():
        hidden_SD = trunk.read_hidden(store.path("features", features.digest()) / "hidden.npy")
        tokens[split] = dataclasses.replace(tokens[split], hidden_SD=hidden_SD)
        trunk.start_from(model, features.model.layers)
    learned = tokens[spec.split].some(np.array(inputs.places(given.ids, ids[spec.split])))
    return _Setting(ids, tokens, given, learned, known, base, model, accelerator)


def _trained(spec: TrainSpec, store: Store, setting: _Setting, report: Report, stopping: Stopping) -> Trained:
    def evaluate(model: Any, step: int) -> dict[str, np.ndarray]:
        logits: dict[str, np.ndarray] = {s: _predicted(spec, setting, model, s, silent) for s in EVALUATED}
        right = {f"{s}_accuracy": outputs.accuracy(known_N, logits[s]) for s, known_N in setting.known.items()}
        setting.accelerator.log(right, step=step)
        return logits

    learned = (setting.learned, setting.given.p_NC)
    return loop.trained(spec, store, setting.model, learned, setting.accelerator, report, stopping, evaluate)


def _predicted(spec: TrainSpec, setting: _Setting, model: Any, split: Split, report: Report) -> np.ndarray:
    from w2s.learn import fitting, predict

    with fitting.predicting(spec.engine):
        return predict.predict(
            model, setting.tokens[split], spec.engine.predict_batch_size, setting.accelerator.device,
            lambda done, total: report(f"predict {split}", done, total),
        )  # fmt: skip


def _amounts(spec: TrainSpec, setting: _Setting, evaluations: int) -> dict[str, float | None]:
    """Examples, tokens and FLOPs that the step went through, counted after truncation."""
    tokens, learned = setting.tokens, setting.learned
    trained = float(learned.lengths.sum()) * spec.recipe.epochs
    predicted = float(sum(tokens[split].lengths.sum() for split in PREDICTED))
    predicted += evaluations * float(sum(tokens[split].lengths.sum() for split in EVALUATED))
    examples = learned.examples * spec.recipe.epochs
    return {"examples": examples, "tokens": trained + predicted, "flops": step_flops(spec, trained, predicted)}
