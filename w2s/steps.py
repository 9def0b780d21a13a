"""The step bodies, read top to bottom; the only place where the control half and the learning half meet.

Ground truth of `transfer` and `val` never reaches a student: its label column is not even read.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from w2s import outputs, provenance
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.errors import SpecError, StepError
from w2s.identity import validated
from w2s.models import ModelSpec
from w2s.plan import lacks_weights
from w2s.progress import Report, silent
from w2s.spec import EVALUATED, PREDICTED, AnyStep, Engine, FeaturesSpec, MaterializeSpec, Split, TrainSpec, Truth
from w2s.stopping import Stopping
from w2s.store import Staged, Store

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.batching import Tokens
    from w2s.learn.models import Base
    from w2s.learn.trainer import Trained

T = TypeVar("T")


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
    if isinstance(spec, MaterializeSpec):
        return _materialize(spec, staged, report)
    if isinstance(spec, FeaturesSpec):
        return _features(spec, store, staged, report)
    return _train(spec, store, staged, report, stopping)


def _materialize(spec: MaterializeSpec, staged: Staged, report: Report) -> dict[str, Any]:
    import pyarrow.parquet

    from w2s.tasks import splits

    made = splits.materialize(spec.task, spec.sizes, spec.split_seed, report)
    for split, table in made.tables.items():
        pyarrow.parquet.write_table(table, staged.folder / f"{split}.parquet")
    write_json(staged.folder / "summary.json", made.summary)
    return {"fetched": made.fetched, "devices": []}


def _features(spec: FeaturesSpec, store: Store, staged: Staged, report: Report) -> dict[str, Any]:
    from w2s.learn import accelerator as accelerators
    from w2s.learn import adapt, trunk

    report("load", 0, 1)
    texts = _texts(store, spec.data, spec.split)[1]
    base = _base(spec)
    tokens = _tokens(spec, base, spec.split, texts)
    depth = len(adapt.layers_of(base.module)[1])
    device = accelerators.device(spec.engine)
    trunk.write_hidden(
        base.module, depth, tokens, staged.folder / "hidden.npy", spec.engine.predict_batch_size, device,
        lambda done, total: report("features", done, total),
    )  # fmt: skip
    predicted = float(tokens.lengths.sum())
    return {
        "fetched": [{"source": spec.model.source.model_dump(mode="json"), "commit": base.commit}],
        "devices": [str(device)],
        "tokens": predicted,
        "flops": step_flops(spec, 0.0, predicted),
    }


@dataclass
class _Setting:
    """What a training works with: texts, labels and tokens by split, the model, and the processes it runs on."""

    ids: dict[str, list[str]]
    tokens: dict[str, Tokens]
    p_NC: np.ndarray
    origin: str
    known: dict[str, np.ndarray]  # classes that evaluations are held against: of val what this model may know
    base: Base
    model: Any
    accelerator: Any


def _train(spec: TrainSpec, store: Store, staged: Staged | None, report: Report, stopping: Stopping) -> dict[str, Any]:
    """Train and predict, on every rank alike; the one with a staged folder writes."""
    from w2s.learn import accelerator as accelerators

    report("load", 0, 1)
    clock = time.perf_counter()
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
        outputs.write_labels(staged.folder, setting.ids[spec.split], setting.p_NC, setting.origin)
    against = {"val": setting.origin.partition(" ")[0], "test": "truth"}
    outputs.write_history(staged.folder, trained.history, trained.evaluations, setting.known, against)
    write_json(
        staged.folder / "metrics.json",
        {
            "test_accuracy": outputs.accuracy(setting.known["test"], logits["test"]),
            "test_n": len(setting.ids["test"]),
            "train_n": len(setting.p_NC),
            "final_loss": trained.history[-1]["loss"],
            "truncated": {split: tokens.truncated for split, tokens in setting.tokens.items()},
        },
    )
    return {
        "fetched": [{"source": spec.model.source.model_dump(mode="json"), "commit": setting.base.commit}],
        "devices": [str(setting.accelerator.device)] * spec.engine.ranks,
        "phases": phases,
        **_amounts(spec, setting.tokens, len(trained.evaluations)),
    }


def _setting(spec: TrainSpec, store: Store) -> _Setting:
    from w2s.learn import accelerator as accelerators
    from w2s.learn import models, tracking, trunk

    n_classes = _task_of(store, spec.data).task.n_classes
    texts: dict[str, tuple[list[str], list[str]]] = {s: _texts(store, spec.data, s) for s in spec.used_splits}
    ids = {split: column[0] for split, column in texts.items()}
    p_NC, origin = _labels(spec, store, spec.split, ids[spec.split], n_classes)
    val_NC, _ = _labels(spec, store, "val", ids["val"], n_classes)
    known: dict[str, np.ndarray] = {
        "val": val_NC.argmax(axis=1),
        "test": _truth(store, spec.data, "test", ids["test"]),
    }
    folder = tracking.folder_of(store.root.parent, spec.digest())
    accelerator = accelerators.make(spec.engine, spec.recipe, tracking.trackers_for(spec.engine.trackers, folder))
    base = _base(spec)
    tokens = {split: _tokens(spec, base, split, column[1]) for split, column in texts.items()}
    model = models.build(base, n_classes, spec.recipe, spec.seed, spec.engine)
    for split, features in spec.features().items():
        hidden_SD = trunk.read_hidden(store.path("features", features.digest()) / "hidden.npy")
        tokens[split] = dataclasses.replace(tokens[split], hidden_SD=hidden_SD)
        trunk.start_from(model, features.model.layers)
    return _Setting(ids, tokens, p_NC, origin, known, base, model, accelerator)


def _trained(spec: TrainSpec, store: Store, setting: _Setting, report: Report, stopping: Stopping) -> Trained:
    from w2s.learn import fitting, tracking, trainer
    from w2s.learn.checkpoint import Checkpoints

    def evaluate(model: Any, step: int) -> dict[str, np.ndarray]:
        logits: dict[str, np.ndarray] = {s: _predicted(spec, setting, model, s, silent) for s in EVALUATED}
        right = {f"{split}_accuracy": outputs.accuracy(setting.known[split], logits[split]) for split in EVALUATED}
        setting.accelerator.log(right, step=step)
        return logits

    around = trainer.Around(
        report=lambda done, total: report("train", done, total),
        log=lambda row, step: setting.accelerator.log(row, step=step),
        evaluate=evaluate,
        checkpoints=Checkpoints(store.checkpoints(spec.digest()), spec.engine),
        stopping=stopping,
    )
    tokens = setting.tokens[spec.split]
    with (
        fitting.fitted(spec, setting.model, tokens, setting.accelerator.device) as micro_batch_size,
        tracking.tracked(setting.accelerator, tracking.flattened(spec.identity())),
    ):
        return trainer.train(
            setting.model, tokens, setting.p_NC, spec.recipe, spec.seed, setting.accelerator, micro_batch_size, around
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


def _texts(store: Store, data: str, split: str) -> tuple[list[str], list[str]]:
    """(ids, texts) of a split; the label column is not read."""
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", "text"])
    return table["example_id"].to_pylist(), table["text"].to_pylist()


def _labels(spec: TrainSpec, store: Store, split: Split, ids: list[str], n_classes: int) -> tuple[np.ndarray, str]:
    """Labels (N, C) of a split as this model may know them, for the examples `ids`, and where they came from."""
    import numpy as np

    from w2s.learn import labels

    if isinstance(spec.labels, Truth):
        return labels.one_hot(_truth(store, spec.data, split, ids), n_classes), "truth"
    supervisor = spec.labels.supervisor
    table = store.read_table("train", supervisor, f"predictions/{split}.parquet")
    p_NC = labels.probabilities(np.array(table["logits"].to_pylist(), dtype=np.float32))
    joined_NC = labels.join(ids, table["example_id"].to_pylist(), p_NC, f"train {supervisor[:12]}")
    return (labels.harden(joined_NC) if spec.labels.hard else joined_NC), f"supervisor {supervisor}"


def prepare(model: ModelSpec) -> None:
    """Have a model's files on this machine as steps load them: fetched, and converted where they are GGUF."""
    from w2s.learn import models

    models.files_of(model)


def _base(spec: TrainSpec | FeaturesSpec) -> Base:
    from w2s.learn import models

    key = (spec.model.digest(), spec.engine.attention, spec.engine.zero_stage == 3)
    return BASES.get(key, lambda: models.load_base(spec.model, spec.engine))


def _tokens(spec: TrainSpec | FeaturesSpec, base: Base, split: str, texts: list[str]) -> Tokens:
    from w2s.learn import models

    key = (spec.data, split, spec.model.source.digest(), spec.model.gguf, base.max_length)
    return TOKENS.get(key, lambda: models.tokenise(base, texts))


def _truth(store: Store, data: str, split: Split, ids: list[str]) -> np.ndarray:
    """Ground truth (N,) of a split; of transfer and val only for what is not a student."""
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", "label"])
    assert table["example_id"].to_pylist() == ids
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


def _amounts(spec: TrainSpec, tokens: dict[str, Tokens], evaluations: int) -> dict[str, float | None]:
    """Examples, tokens and FLOPs that the step went through, counted after truncation."""
    trained = float(tokens[spec.split].lengths.sum()) * spec.recipe.epochs
    predicted = float(sum(tokens[split].lengths.sum() for split in PREDICTED))
    predicted += evaluations * float(sum(tokens[split].lengths.sum() for split in EVALUATED))
    examples = len(tokens[spec.split]) * spec.recipe.epochs
    return {"examples": examples, "tokens": trained + predicted, "flops": step_flops(spec, trained, predicted)}


def label(store: Store, digest: str, texts: list[str], batch_size: int = 64) -> tuple[tuple[str, ...], np.ndarray]:
    """(classes, probabilities (N, C)) of texts under a trained step. Raises SpecError where it has no weights."""
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
    classes = _task_of(store, spec.data).task.class_names
    # One process is enough here, whatever it took to train.
    alone = Engine(device=spec.engine.device, mixed_precision=spec.engine.mixed_precision)
    spec = spec.model_copy(update={"engine": alone})
    base = _base(spec)
    model = models.build(base, len(classes), spec.recipe, spec.seed, alone)
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
    return tuple(classes), labels.probabilities(logits_NC)
