"""The training step of tasks whose answers are texts: prompts and target texts in, greedy answers out.

A student learns from its supervisor's answers, joined by example id. Ground truth of `transfer` and `val` is not read
for it. Refuses a supervisor that answered other examples.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s import loop, outputs
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.errors import StepError
from w2s.progress import Report
from w2s.spec import PREDICTED, Made, Split, TrainSpec, Truth, Weak
from w2s.stopping import Stopping
from w2s.store import Staged, Store
from w2s.tasks import chessboard
from w2s.tasks.generations import answer
from w2s.tasks.task import GenerateFormat, TaskSpec

if TYPE_CHECKING:
    from w2s.learn.batching import Tokens
    from w2s.learn.language import Generated, Words
    from w2s.learn.models import Base
    from w2s.learn.trainer import Trained


@dataclass
class _Setting:
    """Prompts by split, the targets that are learned and where each came from, the model and how it reads text."""

    ids: dict[Split, list[str]]
    prompts: dict[Split, Tokens]
    learned: Tokens
    targets: list[str]
    origin: str
    cut: int  # targets that are longer than an answer may be
    words: Words
    model: Any
    accelerator: Any


def train(
    spec: TrainSpec,
    task: TaskSpec,
    base: Base,
    store: Store,
    staged: Staged | None,
    report: Report,
    stopping: Stopping,
) -> dict[str, Any]:
    """Train and answer, on every rank alike; the one with a staged folder writes. Returns the manifest's part."""
    from w2s.learn import accelerator as accelerators
    from w2s.learn import partition

    form = task.format
    assert isinstance(form, GenerateFormat)
    clock = time.perf_counter()
    setting = _setting(spec, form, base, store)
    phases, clock = {"load": loop.since(clock)}, time.perf_counter()
    learned = (setting.learned, loop.equal_weights(len(setting.targets)))
    trained = loop.trained(spec, store, setting.model, learned, setting.accelerator, report, stopping)
    phases["train"], clock = loop.since(clock), time.perf_counter()
    made = {split: _answers(spec, setting, trained.model, split, report) for split in PREDICTED}
    phases["predict"] = loop.since(clock)
    if spec.keep_weights:
        kept = partition.trained_state(setting.accelerator.unwrap_model(setting.model))
        outputs.write_weights(staged.folder if staged else None, kept)
    accelerators.release(setting.accelerator, trained.model)
    if staged is None:
        return {}
    answers = {split: [answer(text, form.answer_after) for text in found.texts] for split, found in made.items()}
    for split, found in made.items():
        outputs.write_answers(staged.folder, split, setting.ids[split], found.texts, answers[split], found.log_p_N)
    if not isinstance(spec.labels, Truth):
        outputs.write_targets(
            staged.folder / "labels.parquet", setting.ids[spec.split], setting.targets, setting.origin
        )
    outputs.write_history(staged.folder, trained.history, [], {}, {})
    write_json(staged.folder / "metrics.json", _metrics(spec, form, store, setting, trained, answers))
    return {
        "fetched": [{"source": spec.model.source and spec.model.source.model_dump(mode="json"), "commit": base.commit}],
        "devices": [str(setting.accelerator.device)] * spec.engine.ranks,
        "phases": phases,
        **_amounts(spec, setting, made),
    }


def _setting(spec: TrainSpec, form: GenerateFormat, base: Base, store: Store) -> _Setting:
    from w2s.learn import accelerator as accelerators
    from w2s.learn import language, tracking

    words = language.words_of(base, form.max_new_tokens)
    read = {
        split: store.read_table("materialize", spec.data, f"{split}.parquet", ["example_id", "text"])
        for split in spec.used_splits
    }
    ids = {split: table["example_id"].to_pylist() for split, table in read.items()}
    targets, origin = _targets(spec, store, ids[spec.split])
    folder = tracking.folder_of(store.root.parent, spec.digest())
    accelerator = accelerators.make(spec.engine, spec.recipe, tracking.trackers_for(spec.engine.trackers, folder))
    prompts = {split: words.prompts(table["text"].to_pylist()) for split, table in read.items()}
    ends = words.targets(targets)
    cut = sum(one[-1] != words.end for one in ends)
    learned = language.joined_with(prompts[spec.split], ends)
    model = language.build(base, spec.recipe, spec.seed, spec.engine)
    return _Setting(ids, prompts, learned, targets, origin, cut, words, model, accelerator)


def _targets(spec: TrainSpec, store: Store, ids: list[str]) -> tuple[list[str], str]:
    """What this model may learn for the examples `ids` of its split, and where that comes from."""
    if isinstance(spec.labels, Made):
        raise StepError(
            "labels: those of a labels step are classes; a text is learned from one supervisor or the truth"
        )
    if isinstance(spec.labels, Truth):
        table = store.read_table("materialize", spec.data, f"{spec.split}.parquet", ["example_id", "target"])
        assert table["example_id"].to_pylist() == ids
        return table["target"].to_pylist(), "truth"
    assert isinstance(spec.labels, Weak), "who generates text learns from somebody"
    supervisor = spec.labels.supervisor
    name = f"predictions/{spec.split}.parquet"
    table = store.read_table("train", supervisor, name, ["example_id", "text"])
    found = dict(zip(table["example_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    missing = [example_id for example_id in ids if example_id not in found]
    if missing or len(found) < len(table):
        raise StepError(
            f"{name} of train {supervisor[:12]}: no answer for {len(missing)} of {len(ids)} examples, or two; the "
            "supervisor was trained on other data; remove that artifact and run again"
        )
    return [found[example_id] for example_id in ids], f"supervisor {supervisor}"


def _answers(spec: TrainSpec, setting: _Setting, model: Any, split: Split, report: Report) -> Generated:
    from w2s.learn import fitting, language

    with fitting.predicting(spec.engine):
        return language.generate(
            model, setting.prompts[split], setting.words, spec.engine.predict_batch_size, setting.accelerator.device,
            lambda done, total: report(f"answer {split}", done, total),
        )  # fmt: skip


def _metrics(
    spec: TrainSpec,
    form: GenerateFormat,
    store: Store,
    setting: _Setting,
    trained: Trained,
    answers: dict[Split, list[str]],
) -> dict[str, Any]:
    """Exact match on test, and of chess moves the share that is legal, which needs no ground truth."""
    test = store.read_table("materialize", spec.data, "test.parquet", ["answer"])["answer"].to_pylist()
    told: dict[str, Any] = {
        "test_accuracy": _share(one == right for one, right in zip(answers["test"], test, strict=True)),
        "test_n": len(test),
        "train_n": len(setting.targets),
        "final_loss": trained.history[-1]["loss"],
        "truncated": {split: tokens.truncated for split, tokens in setting.prompts.items()},
        "targets_cut": setting.cut,
    }
    if form.position is not None:
        told["legal_share"] = {}
        for split, moves in answers.items():
            table = store.read_table("materialize", spec.data, f"{split}.parquet", ["position"])
            positions = table["position"].to_pylist()
            told["legal_share"][split] = _share(
                chessboard.is_legal(position, move) for position, move in zip(positions, moves, strict=True)
            )
    return told


def _share(hits: Iterable[bool]) -> float:
    listed = list(hits)
    return sum(listed) / len(listed)


def _amounts(spec: TrainSpec, setting: _Setting, made: dict[Split, Generated]) -> dict[str, float | None]:
    """Examples, tokens and FLOPs that the step went through, counted after truncation."""
    trained = float(setting.learned.lengths.sum()) * spec.recipe.epochs
    predicted = float(sum(setting.prompts[split].lengths.sum() + made[split].tokens for split in PREDICTED))
    examples: float = setting.learned.examples * spec.recipe.epochs
    return {"examples": examples, "tokens": trained + predicted, "flops": step_flops(spec, trained, predicted)}
