"""The step bodies, read top to bottom; the only place where the control half and the learning half meet.

Ground truth of `transfer` and `val` never reaches a student, and its label column is not even read, unless the sweep
asks for it by name (`truth`, `mix_truth`, `simulated`): then only a labels step reads it, and says so of every label.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from w2s import generation, outputs, plugins, provenance, solving
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.errors import SpecError, StepError
from w2s.identity import validated
from w2s.models import ModelSpec
from w2s.plan import lacks_weights
from w2s.progress import Report, silent
from w2s.spec import (
    EVALUATED,
    PREDICTED,
    AnyStep,
    Engine,
    FeaturesSpec,
    LabelsSpec,
    MaterializeSpec,
    Probe,
    Recipe,
    Split,
    TrainSpec,
    Truth,
    Weak,
)
from w2s.stopping import Stopping
from w2s.store import Staged, Store
from w2s.supervision import FileLabels, MajorityLabels
from w2s.tasks.task import TaskSpec

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.batching import Tokens
    from w2s.learn.external import External
    from w2s.learn.models import Base
    from w2s.learn.relabel import Evidence, Labelled
    from w2s.learn.trainer import Trained

T = TypeVar("T")
LABELLED: tuple[Split, ...] = ("transfer", "val")  # by a labels step


class Warm:
    """What a worker keeps in memory between steps: base weights and tokenised texts, least recently used dropped."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self.kept:
            while len(self.kept) >= self.room:  # before making, so that two large models are never held for nothing
                self.kept.popitem(last=False)
            self.kept[key] = make()
        self.kept.move_to_end(key)
        value: T = self.kept[key]
        return value


BASES = Warm(room=2)
TOKENS = Warm(room=16)


def run_step(
    spec: AnyStep, store: Store, report: Report = silent, stopping: Stopping | None = None
) -> Literal["done", "reused", "busy"]:
    """Make the artifact of one step. 'reused': it was there; 'busy': another process is making it.

    In a group of ranks each calls this with the same spec: the first claims, writes and commits, all train and predict.
    Raises W2SError, or whatever the body raised; the store then holds nothing of the step but its log and checkpoints.
    """
    stopping = stopping or Stopping()
    if "RANK" not in os.environ:
        return _run_step(spec, store, report, stopping)
    from w2s.learn import ranks

    if ranks.is_main():
        return _run_step(spec, store, report, stopping)
    verdict = ranks.share(None)
    if verdict == "made here" and isinstance(spec, TrainSpec):
        plugins.load(spec, _plugins(store))
        _train(spec, store, None, silent, stopping)
    return "done"


def _run_step(spec: AnyStep, store: Store, report: Report, stopping: Stopping) -> Literal["done", "reused", "busy"]:
    digest = spec.digest()
    claim = store.claim(digest)
    if claim is None:
        _tell_ranks("busy")
        return "busy"
    try:
        store.refresh(spec.kind, digest)  # another host may just have made it, and given up its claim
        kept = store.manifest(spec.kind, digest)
        if kept is not None and not lacks_weights(spec, kept):
            _tell_ranks("reused")
            return "reused"
        _tell_ranks("made here")
        started, clock = time.time(), time.perf_counter()
        with store.staging(spec.kind, digest) as staged:
            made = _made(spec, store, staged, report, stopping)
            log = store.log_path(digest)
            if log.exists():
                (staged.folder / "log.txt").write_bytes(log.read_bytes())
            manifest = {
                "spec": spec.model_dump(mode="json"),
                "parents": list(spec.parents),
                **provenance.environment(),
                "started": started,
                "wall_s": time.perf_counter() - clock,
                "peak_rss_mib": provenance.peak_rss_mib(),
                **made,
            }
            if kept is not None and not store.damage(spec.kind, digest):
                # Only weights are wanted: from the predictions that are there, students may have learned already.
                for name in (name for name in kept["files"] if not name.startswith("model/")):
                    shutil.copyfile(store.path(spec.kind, digest) / name, staged.folder / name)
            staged.commit(manifest, replace=kept is not None)
        store.clear_work(spec.kind, digest)
        return "done"
    finally:
        claim.release()


def _tell_ranks(verdict: str) -> None:
    """What becomes of the step, to the other ranks of a group."""
    if "RANK" in os.environ:
        from w2s.learn import ranks

        ranks.share(verdict)


def _made(spec: AnyStep, store: Store, staged: Staged, report: Report, stopping: Stopping) -> dict[str, Any]:
    plugins.load(spec, _plugins(store))
    if isinstance(spec, MaterializeSpec):
        return _materialize(spec, staged, report)
    if isinstance(spec, FeaturesSpec):
        return _features(spec, store, staged, report)
    if isinstance(spec, LabelsSpec):
        return _labels(spec, store, staged, report)
    return _train(spec, store, staged, report, stopping)


def _plugins(store: Store) -> Path:
    """Where the copies of plugins are that sweeps of this results folder were begun with."""
    return store.root.parent / "plugins"


def _materialize(spec: MaterializeSpec, staged: Staged, report: Report) -> dict[str, Any]:
    import pyarrow.parquet

    from w2s.tasks import splits

    made = splits.materialize(spec.task, spec.sizes, spec.split_seed, report)
    for split, table in made.tables.items():
        pyarrow.parquet.write_table(table, staged.folder / f"{split}.parquet")
    write_json(staged.folder / "summary.json", made.summary)
    return {"fetched": made.fetched, "devices": []}


def _features(spec: FeaturesSpec, store: Store, staged: Staged, report: Report) -> dict[str, Any]:
    import numpy as np

    from w2s.learn import accelerator as accelerators
    from w2s.learn import adapt, models, trunk

    report("load", 0, 1)
    _, texts, per_example = _texts(store, spec.data, spec.split)
    if spec.pooled:  # by one process, whatever it takes to train
        alone = spec.engine.model_copy(update={"processes": 1, "devices_per_step": 1, "zero_stage": None})
        spec = spec.model_copy(update={"engine": alone})
    base = _base(spec)
    tokens = _tokens(spec, base, spec.split, texts, per_example)
    device, size = accelerators.device(spec.engine), spec.engine.predict_batch_size
    heard = functools.partial(report, "features")
    if spec.pooled:
        model = models.build(base, 1, Recipe(tune=Probe()), 0, spec.engine)
        np.save(staged.folder / solving.POOLED, trunk.pooled(model, tokens, size, device, heard), allow_pickle=False)
    else:
        depth = len(adapt.layers_of(base.module)[1])
        trunk.write_hidden(base.module, depth, tokens, staged.folder / "hidden.npy", size, device, heard)
    predicted = float(tokens.lengths.sum())
    return {
        "fetched": [_fetched(spec.model, base.commit)],
        "devices": [str(device)],
        "tokens": predicted,
        "flops": step_flops(spec, 0.0, predicted),
    }


def _fetched(model: ModelSpec, commit: str | None) -> dict[str, Any]:
    """What a manifest says of where a model's weights are from."""
    return {"source": None if model.source is None else model.source.model_dump(mode="json"), "commit": commit}


def _labels(spec: LabelsSpec, store: Store, staged: Staged, report: Report) -> dict[str, Any]:
    """Labels of transfer and val, as files that name each label's origin, and what became of how many examples."""
    from w2s.learn import relabel
    from w2s.learn.external import External
    from w2s.sources.fetch import fetch

    report("label", 0, 1)
    task = _task_of(store, spec.data).task
    read = External(fetch(spec.source.source).path, task.class_names) if isinstance(spec.source, FileLabels) else None
    splits: dict[str, Any] = {}
    fits: dict[int, Any] = {}  # of probes, on labels of transfer, which come first
    for split in LABELLED:
        found, examples = _evidence(spec, store, split, read, task.n_classes)
        given, told = relabel.made(spec, found, split == "transfer", fits)
        outputs.write_labels(staged.folder / f"{split}.parquet", given.ids, given.p_NC, given.origins)
        splits[split] = outputs.label_summary(
            given, task.class_names, examples, len(found.ids), told, found.right(given)
        )
    if read is not None and not splits["transfer"]["labelled"]:
        raise StepError(f"{read.path}: none of its {len(read.p)} labels is for an example of transfer; example_id and "
                        "text have to be those of the materialized task (`w2s show` names its folder)")  # fmt: skip
    matched = {} if read is None else {"file": {"labels": len(read.p), "used": len(read.matched)}}
    write_json(staged.folder / "summary.json", {"classes": list(task.class_names), "splits": splits, **matched})
    return {"fetched": [], "devices": []}


def _evidence(
    spec: LabelsSpec, store: Store, split: Split, read: External | None, n_classes: int
) -> tuple[Evidence, int]:
    """What labels of a split are made of, no more than the spec asks for, and how many examples the split has."""
    from w2s.learn import relabel

    ids, texts, per_example = _texts(store, spec.data, split)
    rows = list(range(len(ids)))
    if spec.part is not None and split == "transfer":
        rows = relabel.part_of(ids, spec.part)
    own = [ids[row] for row in rows]
    of_majority = isinstance(spec.source, MajorityLabels)
    found = relabel.Evidence(
        own,
        n_classes,
        {digest: _probabilities(store, digest, split, own) for digest in spec.supervisors},
        _truth(store, spec.data, split, ids)[rows] if spec.reads_truth else None,
        _truth(store, spec.data, "weak_train", None) if of_majority else None,
        read,
        [texts[row] if per_example == 1 else None for row in rows],
        {digest: solving.read_pooled(store, digest)[rows] for digest in spec.features_of(split)},
    )
    return found, len(ids)


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


def _train(spec: TrainSpec, store: Store, staged: Staged | None, report: Report, stopping: Stopping) -> dict[str, Any]:
    """Train and predict, on every rank alike; the one with a staged folder writes."""
    from w2s.learn import accelerator as accelerators

    report("load", 0, 1)
    clock = time.perf_counter()
    task = _task_of(store, spec.data).task
    if spec.solved:
        return _solved(spec, task, store, staged, report)
    if task.kind == "generate":
        return generation.train(spec, task, _base(spec), store, staged, report, stopping)
    setting = _setting(spec, store)
    phases = {"load": _lap(clock)}

    clock = time.perf_counter()
    trained = _trained(spec, store, setting, report, stopping)
    phases["train"] = _lap(clock)

    clock = time.perf_counter()
    logits: dict[str, np.ndarray] = {s: _predicted(spec, setting, trained.model, s, report) for s in PREDICTED}
    phases["predict"] = _lap(clock)

    if spec.keep_weights:
        _write_weights(staged, setting)
    accelerators.release(setting.accelerator, trained.model)
    if staged is None:
        return {}
    outputs.write_predictions(staged.folder, setting.ids, logits)
    outputs.write_evaluations(staged.folder, setting.ids, trained.evaluations)
    if not isinstance(spec.labels, Truth):
        given = setting.given
        outputs.write_labels(staged.folder / "labels.parquet", given.ids, given.p_NC, given.origins)
    against = {"val": {"weak": "supervisor", "made": "labels"}.get(spec.labels.kind, "truth"), "test": "truth"}
    outputs.write_history(staged.folder, trained.history, trained.evaluations, setting.known, against)
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
        "fetched": [_fetched(spec.model, setting.base.commit)],
        "devices": [str(setting.accelerator.device)] * spec.engine.ranks,
        "phases": phases,
        **_amounts(spec, setting, len(trained.evaluations)),
    }


def _solved(spec: TrainSpec, task: TaskSpec, store: Store, staged: Staged | None, report: Report) -> dict[str, Any]:
    """The training that is one convex problem, which one process solves."""
    if staged is None:
        return {}
    columns = {split: _texts(store, spec.data, split) for split in spec.used_splits}
    ids: dict[str, list[str]] = {split: column[0] for split, column in columns.items()}
    given = _given(spec, store, spec.split, ids[spec.split], task.n_classes)
    val = _given(spec, store, "val", ids["val"], task.n_classes)
    known = solving.Known(
        ids,
        {split: column[1] for split, column in columns.items()},
        columns["test"][2] if task.kind == "compare" else 1,
        given,
        _places(given.ids, ids[spec.split]),
        val,
        _places(val.ids, ids["val"]),
        _truth(store, spec.data, "test", ids["test"]),
    )
    return solving.train(spec, known, store, staged, report)


def _setting(spec: TrainSpec, store: Store) -> _Setting:
    import numpy as np

    from w2s.learn import accelerator as accelerators
    from w2s.learn import models, tracking, trunk

    task = _task_of(store, spec.data).task
    n_classes = task.n_classes
    texts: dict[str, tuple[list[str], list[str], int]] = {s: _texts(store, spec.data, s) for s in spec.used_splits}
    ids = {split: column[0] for split, column in texts.items()}
    given = _given(spec, store, spec.split, ids[spec.split], n_classes)
    known = {"test": _truth(store, spec.data, "test", ids["test"])}
    val = _given(spec, store, "val", ids["val"], n_classes)
    if len(val):
        known["val"] = np.full(len(ids["val"]), -1)
        known["val"][_places(val.ids, ids["val"])] = val.p_NC.argmax(axis=1)
    folder = tracking.folder_of(store.root.parent, spec.digest())
    accelerator = accelerators.make(spec.engine, spec.recipe, tracking.trackers_for(spec.engine.trackers, folder))
    base = _base(spec)
    tokens = {split: _tokens(spec, base, split, *column[1:]) for split, column in texts.items()}
    model = models.build(base, task.n_outputs, spec.recipe, spec.seed, spec.engine)
    for split, features in spec.features().items():
        hidden_SD = trunk.read_hidden(store.path("features", features.digest()) / "hidden.npy")
        tokens[split] = dataclasses.replace(tokens[split], hidden_SD=hidden_SD)
        trunk.start_from(model, features.model.layers)
    learned = tokens[spec.split].some(np.array(_places(given.ids, ids[spec.split])))
    return _Setting(ids, tokens, given, learned, known, base, model, accelerator)


def _trained(spec: TrainSpec, store: Store, setting: _Setting, report: Report, stopping: Stopping) -> Trained:
    from w2s.learn import fitting, tracking, trainer
    from w2s.learn.checkpoint import Checkpoints

    def evaluate(model: Any, step: int) -> dict[str, np.ndarray]:
        logits: dict[str, np.ndarray] = {s: _predicted(spec, setting, model, s, silent) for s in EVALUATED}
        right = {f"{s}_accuracy": outputs.accuracy(known_N, logits[s]) for s, known_N in setting.known.items()}
        setting.accelerator.log(right, step=step)
        return logits

    around = trainer.Around(
        report=lambda done, total: report("train", done, total),
        log=lambda row, step: setting.accelerator.log(row, step=step),
        evaluate=evaluate,
        checkpoints=Checkpoints(store.checkpoints(spec.digest()), spec.engine),
        stopping=stopping,
    )
    tokens = setting.learned
    with (
        fitting.fitted(spec, setting.model, tokens, setting.accelerator.device) as micro_batch_size,
        tracking.tracked(setting.accelerator, tracking.flattened(spec.identity())),
    ):
        return trainer.train(
            setting.model,
            tokens,
            setting.given.p_NC,
            spec.recipe,
            spec.seed,
            setting.accelerator,
            micro_batch_size,
            around,
        )


def _predicted(spec: TrainSpec, setting: _Setting, model: Any, split: Split, report: Report) -> np.ndarray:
    from w2s.learn import fitting, predict

    with fitting.predicting(spec.engine):
        return predict.predict(
            model, setting.tokens[split], spec.engine.predict_batch_size, setting.accelerator.device,
            lambda done, total: report(f"predict {split}", done, total),
        )  # fmt: skip


def _lap(since: float) -> float:
    return round(time.perf_counter() - since, 3)


def _task_of(store: Store, data: str) -> MaterializeSpec:
    manifest = store.manifest("materialize", data)
    if manifest is None:
        raise StepError(f"materialize {data[:12]} is not finished in {store.root}; run the sweep that needs it")
    return validated(MaterializeSpec, manifest["spec"])


def _texts(store: Store, data: str, split: str) -> tuple[list[str], list[str], int]:
    """(ids, texts, how many of them each example has) of a split; the label column is not read."""
    column = "texts" if _task_of(store, data).task.kind == "compare" else "text"
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", column])
    ids: list[str] = table["example_id"].to_pylist()
    if column == "text":
        return ids, table["text"].to_pylist(), 1
    texts = [text for texts in table["texts"].to_pylist() for text in texts]
    return ids, texts, len(texts) // len(ids)


def _given(spec: TrainSpec, store: Store, split: Split, ids: list[str], n_classes: int) -> Labelled:
    """The labels of a split as this model may know them, in the order of `ids`, and where each came from."""
    import numpy as np

    from w2s.learn import labels
    from w2s.learn.relabel import Labelled

    if isinstance(spec.labels, Truth):
        y_N = _truth(store, spec.data, split, ids)
        return Labelled(ids, labels.one_hot(y_N, n_classes), ["truth"] * len(ids))
    if isinstance(spec.labels, Weak):
        p_NC = _probabilities(store, spec.labels.supervisor, split, ids)
        origins = [f"supervisor {spec.labels.supervisor}"] * len(ids)
        return Labelled(ids, labels.harden(p_NC) if spec.labels.hard else p_NC, origins)
    table = store.read_table("labels", spec.labels.labels, f"{split}.parquet")
    p_NC = np.array(table["p"].to_pylist(), dtype=np.float32).reshape(-1, n_classes)
    made = Labelled(table["example_id"].to_pylist(), p_NC, table["origin"].to_pylist())
    _places(made.ids, ids)
    return made


def _probabilities(store: Store, supervisor: str, split: Split, ids: list[str]) -> np.ndarray:
    """A supervisor's probabilities (N, C) for the examples `ids` of a split."""
    import numpy as np

    from w2s.learn import labels

    table = store.read_table("train", supervisor, f"predictions/{split}.parquet")
    p_NC = labels.probabilities(np.array(table["logits"].to_pylist(), dtype=np.float32))
    return labels.join(ids, table["example_id"].to_pylist(), p_NC, f"train {supervisor[:12]}")


def _places(some: list[str], ids: list[str]) -> list[int]:
    """Where examples stand among those of their split."""
    place = {example_id: row for row, example_id in enumerate(ids)}
    strange = [example_id for example_id in some if example_id not in place]
    if strange or len(set(some)) < len(some):
        raise StepError(f"labels of examples that are not there, or there twice (such as {(strange or some)[0]})")
    return [place[example_id] for example_id in some]


def prepare(model: ModelSpec) -> None:
    """Have a model's files on this machine as steps load them: fetched, and converted where they are GGUF."""
    from w2s.learn import models

    if model.source is not None:
        models.files_of(model)


def _base(spec: TrainSpec | FeaturesSpec) -> Base:
    from w2s.learn import models

    key = (spec.model.digest(), spec.engine.attention, spec.engine.zero_stage == 3)
    return BASES.get(key, lambda: models.load_base(spec.model, spec.engine))


def _tokens(spec: TrainSpec | FeaturesSpec, base: Base, split: str, texts: list[str], per_example: int) -> Tokens:
    from w2s.learn import models

    assert spec.model.source is not None
    key = (spec.data, split, spec.model.source.digest(), spec.model.gguf, base.max_length)
    return TOKENS.get(key, lambda: models.tokenise(base, texts, per_example))


def _truth(store: Store, data: str, split: Split, ids: list[str] | None) -> np.ndarray:
    """Ground truth (N,) of a split; of transfer and val only for what is not a student, or asks for it by name."""
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", "label"])
    assert ids is None or table["example_id"].to_pylist() == ids
    y_N: np.ndarray = table["label"].to_numpy()
    return y_N


def _write_weights(staged: Staged | None, setting: _Setting) -> None:
    """What was trained, and no more: the rest is the base model, which the spec names. Every rank gives its part."""
    import safetensors.torch

    from w2s.learn import partition

    trained = partition.trained_state(setting.accelerator.unwrap_model(setting.model))
    if staged is not None:
        (staged.folder / "model").mkdir()
        safetensors.torch.save_file(trained, staged.folder / "model" / "trained.safetensors")


def _amounts(spec: TrainSpec, setting: _Setting, evaluations: int) -> dict[str, float | None]:
    """Examples, tokens and FLOPs that the step went through, counted after truncation."""
    tokens, learned = setting.tokens, setting.learned
    trained = float(learned.lengths.sum()) * spec.recipe.epochs
    predicted = float(sum(tokens[split].lengths.sum() for split in PREDICTED))
    predicted += evaluations * float(sum(tokens[split].lengths.sum() for split in EVALUATED))
    examples = learned.examples * spec.recipe.epochs
    return {"examples": examples, "tokens": trained + predicted, "flops": step_flops(spec, trained, predicted)}


def label(store: Store, digest: str, texts: list[str], batch_size: int = 64) -> tuple[tuple[str, ...], np.ndarray]:
    """(classes, probabilities (N, C)) of texts under a trained step. Raises SpecError where it has no weights.

    A step that compares texts gives each a score: (("score",), scores (N, 1)). Of two texts the one with the higher
    score is better, with the probability sigmoid(difference).
    """
    import safetensors.torch

    from w2s.learn import accelerator as accelerators
    from w2s.learn import labels, models, predict

    manifest = store.manifest("train", digest)
    if manifest is None:
        raise SpecError(f"digest: {digest[:12]} is not a finished train step in {store.root}; `w2s status` lists them")
    weights = store.path("train", digest) / "model" / "trained.safetensors"
    if not weights.exists():
        raise SpecError(
            f"digest: the weights of {digest[:12]} were not kept. Run its sweep once more with --keep_weights: only "
            "steps without weights are trained again, and their numbers stay the same"
        )
    spec = validated(TrainSpec, manifest["spec"])
    task = _task_of(store, spec.data).task
    if task.kind == "generate":
        raise SpecError(f"digest: {digest[:12]} generates text, and `w2s label` gives classes and scores only; its "
                        "answers for transfer, val and test are in the predictions of its artifact")  # fmt: skip
    # One process is enough here, whatever it took to train.
    alone = Engine(device=spec.engine.device, mixed_precision=spec.engine.mixed_precision)
    spec = spec.model_copy(update={"engine": alone})
    plugins.load(spec, _plugins(store))
    if spec.solved:
        return _labelled_by_solution(spec, task, weights.parent, texts, batch_size)
    base = _base(spec)
    model = models.build(base, task.n_outputs, spec.recipe, spec.seed, alone)
    trained = safetensors.torch.load_file(weights)
    odd = set(trained) ^ {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if odd:  # a part that is missing would silently be the base model's
        raise StepError(
            f"{weights}: not the weights of this step ({min(odd)}); remove {weights.parents[1]} and run again"
        )
    model.load_state_dict(trained, strict=False)
    accelerator = accelerators.make(spec.engine, spec.recipe)
    prepared = accelerator.prepare(model)
    logits_NC = predict.predict(prepared, models.tokenise(base, texts), batch_size, accelerator.device)
    return (("score",), logits_NC) if task.kind == "compare" else (task.class_names, labels.probabilities(logits_NC))


def _labelled_by_solution(
    spec: TrainSpec, task: TaskSpec, folder: Path, texts: list[str], batch_size: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """`label`, by a map of counts of words or of pooled features."""
    from w2s.learn import accelerator as accelerators
    from w2s.learn import labels, models, solved, trunk

    linear, vocabulary = solved.load(folder, spec.model.words, 1)
    if vocabulary is not None:
        vectors = vocabulary.vectors(texts)
    else:
        base = _base(spec)
        model = models.build(base, 1, Recipe(tune=Probe()), 0, spec.engine)
        device = accelerators.device(spec.engine)
        vectors = trunk.pooled(model, models.tokenise(base, texts), batch_size, device)
    if task.kind == "compare":
        return ("score",), linear.outputs(vectors)
    return task.class_names, labels.probabilities(linear.logits(vectors))
