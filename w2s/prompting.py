"""The training step that trains nothing: texts, a decoder and few labels in, the artifact of a training out.

A prompt shows labelled examples of the split that is learned from, and every split is asked about. Without examples no
label is read. What was shown, and what calibration took off, stands in `prompt.json`, from which `label` asks again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from w2s import inputs, loop, outputs
from w2s.cost import step_flops
from w2s.disk import read_json, write_json
from w2s.errors import SpecError, StepError
from w2s.progress import Report
from w2s.prompts import Prompt
from w2s.spec import EVALUATED, PREDICTED, TrainSpec, Truth
from w2s.store import Staged, Store
from w2s.tasks.task import TaskSpec

if TYPE_CHECKING:
    import numpy as np

    from w2s.learn.models import Base
    from w2s.learn.prompting import Asker, Wording
    from w2s.learn.relabel import Labelled

FILE = "prompt.json"
Texts = list[tuple[str, ...]]  # of every example its texts: one, or those that are compared


class _Data(NamedTuple):
    """Ids and texts by split."""

    ids: dict[str, list[str]]
    texts: dict[str, Texts]


@dataclass
class _Prompt:
    """What stands before every example: its tokens, and the labels that it shows."""

    before: list[int]
    shown: Labelled | None  # None: no labels were read
    drawn: int


def train(spec: TrainSpec, task: TaskSpec, store: Store, staged: Staged | None, report: Report) -> dict[str, Any]:
    """Ask about every split, on every rank alike; the one with a staged folder writes. Returns the manifest's part."""
    from w2s.learn.prompting import shift_of

    clock = time.perf_counter()
    base = inputs.base(spec, store)
    data = _data(spec, store)
    wording = _wording(spec, task, base)
    prompt = _prompt(spec, task, store, data, wording)
    asker = _asker(spec, base, wording, prompt.before)
    phases, clock = {"load": loop.since(clock)}, time.perf_counter()
    log_p: dict[str, np.ndarray] = {}
    truncated: dict[str, int] = {}
    for split in PREDICTED:
        log_p[split], truncated[split] = _asked(spec, asker, data.texts[split], f"ask {split}", report)
    unshown = _unshown(spec, data, prompt)
    if _tune(spec).calibrated and not len(unshown):
        raise StepError("recipe.tune.calibrated: every text of transfer is shown, and none is left; show fewer")
    shift_C = shift_of(log_p["transfer"][unshown]) if _tune(spec).calibrated else None
    logits = {split: found if shift_C is None else found - shift_C for split, found in log_p.items()}
    phases["predict"] = loop.since(clock)
    if staged is None:
        return {}
    _write(spec, staged, data, prompt, logits)
    write_json(staged.folder / FILE, _told(wording, prompt, task, shift_C))
    y_N = inputs.truth(store, spec.data, "test", data.ids["test"])
    shown = 0 if prompt.shown is None else len(prompt.shown)
    write_json(
        staged.folder / "metrics.json",
        {
            "test_accuracy": outputs.accuracy(y_N, logits["test"]),
            "test_n": len(y_N),
            "train_n": shown,
            "shots_left_out": prompt.drawn - shown,
            "prompt_tokens": len(prompt.before),
            "truncated": truncated,
        },
    )
    tokens = float(asker.tokens)
    return {
        "fetched": [inputs.fetched(spec.model, base.commit)],
        "devices": [str(asker.device)] * spec.engine.ranks,
        "phases": phases,
        "examples": shown,
        "tokens": tokens,
        "flops": step_flops(spec, 0.0, tokens),
    }


def label(
    spec: TrainSpec, task: TaskSpec, store: Store, digest: str, texts: Sequence[str], batch_size: int
) -> np.ndarray:
    """Probabilities (N, C) of texts by the prompt of a finished step. Raises SpecError where texts are compared."""
    import numpy as np

    from w2s.learn import labels
    from w2s.progress import silent

    if task.kind == "compare":
        raise SpecError(
            f"digest: {digest[:12]} compares texts by a prompt that holds all of them, and `w2s label` has one text at "
            "a time; its predictions for transfer, val and test are in its artifact"
        )
    file = store.path("train", digest) / FILE
    told = read_json(file)
    if told is None:
        raise StepError(f"{file}: cannot be read; remove {file.parent} and run again")
    spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"predict_batch_size": batch_size})})
    base = inputs.base(spec, store)
    asker = _asker(spec, base, _wording(spec, task, base), told["tokens"])
    log_p_NC, _ = _asked(spec, asker, [(text,) for text in texts], "ask", silent)
    shift_C = np.array(told["calibration"] or [0.0] * task.n_classes, dtype=np.float32)
    return labels.probabilities(log_p_NC - shift_C)


def _tune(spec: TrainSpec) -> Prompt:
    assert isinstance(spec.recipe.tune, Prompt)
    return spec.recipe.tune


def _data(spec: TrainSpec, store: Store) -> _Data:
    ids, texts = {}, {}
    for split in spec.used_splits:
        ids[split], flat, k = inputs.texts(store, spec.data, split)
        texts[split] = [tuple(flat[at : at + k]) for at in range(0, len(flat), k)]
    return _Data({str(split): own for split, own in ids.items()}, {str(split): own for split, own in texts.items()})


def _wording(spec: TrainSpec, task: TaskSpec, base: Base) -> Wording:
    from w2s.learn import prompting

    tune = _tune(spec)
    return prompting.wording(
        base, tune.template_for(task), tune.words_for(task), tune.instruction, tune.calibrated
    )  # fmt: skip


def _prompt(spec: TrainSpec, task: TaskSpec, store: Store, data: _Data, wording: Wording) -> _Prompt:
    """Draw the examples to show from those that have labels, and show what fits. Without any, no label is read."""
    from w2s.learn import labels, prompting

    shots = _tune(spec).shots
    if not shots:
        return _Prompt(prompting.shown(wording, [], 0).ids, None, 0)
    ids, texts = data.ids[spec.split], data.texts[spec.split]
    given = inputs.given(spec, store, spec.split, ids, task.n_classes)
    y_N = given.p_NC.argmax(axis=1)
    places = inputs.places(given.ids, ids)
    drawn = prompting.drawn(given.ids, y_N, shots, task.n_classes, spec.seed)
    examples = [(texts[places[one]], int(y_N[one])) for one in drawn]
    shown = prompting.shown(wording, examples, prompting.reserve_of(wording, texts))
    if not shown.kept:
        raise StepError(
            f"recipe.tune.shots: not one of {shots} examples fits into the {wording.base.max_length} tokens that "
            f"{spec.model.name} reads; raise its max_length, or use shots: 0"
        )
    kept = given.keep([drawn[place] for place in shown.kept])
    kept.p_NC[:] = labels.harden(kept.p_NC)  # as it was shown
    return _Prompt(shown.ids, kept, shots)


def _asker(spec: TrainSpec, base: Base, wording: Wording, before: Sequence[int]) -> Asker:
    from w2s.learn import accelerator as accelerators
    from w2s.learn import language, prompting

    model = language.build(base, spec.recipe, spec.seed, spec.engine)
    return prompting.Asker(model, wording, before, accelerators.device(spec.engine))


def _asked(spec: TrainSpec, asker: Asker, texts: Texts, what: str, report: Report) -> tuple[np.ndarray, int]:
    from w2s.learn import fitting

    with fitting.predicting(spec.engine):
        return asker.ask(texts, spec.engine.predict_batch_size, lambda done, total: report(what, done, total))


def _unshown(spec: TrainSpec, data: _Data, prompt: _Prompt) -> list[int]:
    """Places of the texts of transfer whose label does not stand in the prompt."""
    shown = set(prompt.shown.ids) if prompt.shown is not None and spec.split == "transfer" else set()
    return [place for place, example_id in enumerate(data.ids["transfer"]) if example_id not in shown]


def _write(spec: TrainSpec, staged: Staged, data: _Data, prompt: _Prompt, logits: dict[str, Any]) -> None:
    from w2s.learn.checkpoint import Evaluation

    ids: dict[str, list[str]] = {split: data.ids[split] for split in PREDICTED}
    outputs.write_predictions(staged.folder, ids, logits)
    evaluated: dict[str, Any] = {split: logits[split] for split in EVALUATED}
    evaluations = [] if spec.recipe.eval_every is None else [Evaluation(1, evaluated)]
    outputs.write_evaluations(staged.folder, ids, evaluations)
    if prompt.shown is not None and not isinstance(spec.labels, Truth):
        shown = prompt.shown
        outputs.write_labels(staged.folder / "labels.parquet", shown.ids, shown.p_NC, shown.origins)


def _told(wording: Wording, prompt: _Prompt, task: TaskSpec, shift_C: np.ndarray | None) -> dict[str, Any]:
    """What `prompt.json` says: the prompt as text and as tokens, the examples in it, words, and what was taken off."""
    decode = wording.base.tokenizer.decode
    classes = [] if prompt.shown is None else [task.class_names[c] for c in prompt.shown.p_NC.argmax(axis=1)]
    return {
        "text": decode(prompt.before, clean_up_tokenization_spaces=False),
        "template": wording.template,
        "words": [decode(list(word), clean_up_tokenization_spaces=False) for word in wording.words],
        "shown": [] if prompt.shown is None else prompt.shown.ids,
        "classes": classes,
        "of_class": dict(Counter(classes)),
        "left_out": prompt.drawn - len(classes),
        "calibration": None if shift_C is None else [float(value) for value in shift_C],
        "tokens": prompt.before,
    }
