"""What step bodies read: the store and one spec in, texts, labels, ground truth, tokens and base models out.

Ground truth is a column of its own, read by `truth` alone. Base weights and tokenised texts stay in memory between
steps. Refuses data that no finished step made, and labels of examples that are not there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from w2s import plugins
from w2s.errors import StepError
from w2s.identity import validated
from w2s.models import ModelSpec
from w2s.spec import FeaturesSpec, LanguageSpec, Made, MaterializeSpec, Split, Start, TrainSpec, Truth, Weak
from w2s.store import Store

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.batching import Tokens
    from w2s.learn.models import Base
    from w2s.learn.relabel import Labelled
    from w2s.learn.starts import Begun

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


def task_of(store: Store, data: str) -> MaterializeSpec:
    manifest = store.manifest("materialize", data)
    if manifest is None:
        raise StepError(f"materialize {data[:12]} is not finished in {store.root}; run the sweep that needs it")
    return validated(MaterializeSpec, manifest["spec"])


def texts(store: Store, data: str, split: str) -> tuple[list[str], list[str], int]:
    """(ids, texts, how many of them each example has) of a split; the label column is not read."""
    column = "texts" if task_of(store, data).task.kind == "compare" else "text"
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", column])
    ids: list[str] = table["example_id"].to_pylist()
    if column == "text":
        return ids, table["text"].to_pylist(), 1
    texts = [text for texts in table["texts"].to_pylist() for text in texts]
    return ids, texts, len(texts) // len(ids)


def given(spec: TrainSpec, store: Store, split: Split, ids: list[str], n_classes: int) -> Labelled:
    """The labels of a split as this model may know them, in the order of `ids`, and where each came from."""
    import numpy as np

    from w2s.learn import labels
    from w2s.learn.relabel import Labelled

    if isinstance(spec.labels, Truth):
        y_N = truth(store, spec.data, split, ids)
        return Labelled(ids, labels.one_hot(y_N, n_classes), ["truth"] * len(ids))
    if isinstance(spec.labels, Weak):
        p_NC = probabilities(store, spec.labels.supervisor, split, ids)
        origins = [f"supervisor {spec.labels.supervisor}"] * len(ids)
        return Labelled(ids, labels.harden(p_NC) if spec.labels.hard else p_NC, origins)
    assert isinstance(spec.labels, Made), "who learns nothing asks for no labels"
    table = store.read_table("labels", spec.labels.labels, f"{split}.parquet")
    p_NC = np.array(table["p"].to_pylist(), dtype=np.float32).reshape(-1, n_classes)
    made = Labelled(table["example_id"].to_pylist(), p_NC, table["origin"].to_pylist())
    places(made.ids, ids)
    return made


def probabilities(store: Store, supervisor: str, split: Split, ids: list[str]) -> np.ndarray:
    """A supervisor's probabilities (N, C) for the examples `ids` of a split."""
    import numpy as np

    from w2s.learn import labels

    table = store.read_table("train", supervisor, f"predictions/{split}.parquet")
    p_NC = labels.probabilities(np.array(table["logits"].to_pylist(), dtype=np.float32))
    return labels.join(ids, table["example_id"].to_pylist(), p_NC, f"train {supervisor[:12]}")


def truth(store: Store, data: str, split: Split, ids: list[str] | None) -> np.ndarray:
    """Ground truth (N,) of a split; of transfer and val only for what is not a student, or asks for it by name."""
    table = store.read_table("materialize", data, f"{split}.parquet", ["example_id", "label"])
    assert ids is None or table["example_id"].to_pylist() == ids
    y_N: np.ndarray = table["label"].to_numpy()
    return y_N


def places(some: list[str], ids: list[str]) -> list[int]:
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


def base(spec: TrainSpec | FeaturesSpec | LanguageSpec, store: Store) -> Base:
    """The base model of a step, as published or with the weights that it begins from."""
    from w2s.learn import models

    start = () if isinstance(spec, LanguageSpec) else spec.start
    key = (spec.model.digest(), spec.engine.attention, spec.engine.zero_stage == 3, *(one.step for one in start))
    return BASES.get(key, lambda: models.load_base(spec.model, spec.engine, tuple(_begun(one, store) for one in start)))


def _begun(start: Start, store: Store) -> Begun:
    from w2s.learn.starts import Begun

    manifest, name = store.manifest(start.kind, start.step), f"{start.kind} {start.step[:12]}"
    if manifest is None:
        raise StepError(f"{name} is not finished in {store.root}; run the sweep that needs it")
    file = store.path(start.kind, start.step) / "model" / "trained.safetensors"
    if not file.exists():
        raise StepError(f"{name} was finished without its weights, from which this step begins; run the sweep again, "
                        "which trains it once more for them")  # fmt: skip
    made: type[LanguageSpec] | type[TrainSpec] = LanguageSpec if start.kind == "language" else TrainSpec
    step = validated(made, manifest["spec"])
    writes = start.kind == "language" or task_of(store, step.data).task.kind == "generate"
    return Begun(file, step.recipe.tune, writes)


def tokens(spec: TrainSpec | FeaturesSpec, base: Base, split: str, texts: list[str], per_example: int) -> Tokens:
    from w2s.learn import models

    assert spec.model.source is not None
    key = (spec.data, split, spec.model.source.digest(), spec.model.gguf, base.max_length)
    return TOKENS.get(key, lambda: models.tokenise(base, texts, per_example))


def fetched(model: ModelSpec, commit: str | None) -> dict[str, Any]:
    """What a manifest says of where a model's weights are from."""
    return {"source": None if model.source is None else model.source.model_dump(mode="json"), "commit": commit}


def plugins_folder(store: Store) -> Path:
    """Where the copies of plugins are that sweeps of this results folder were begun with."""
    return store.root.parent / plugins.COPIES
