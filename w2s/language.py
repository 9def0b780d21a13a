"""The language step: texts of named splits in, the weights of a model that learned to go on with them out.

Generative fine-tuning before a task (Burns et al. 2023, sec. 5.2.2): next-token training on the texts that supervisors
and students will see, of which no label and no target is read. As with target texts, an example's loss is the sum over
its tokens, in nats. Refuses models that are no decoders.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s import inputs, loop, outputs
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.errors import StepError
from w2s.progress import Report
from w2s.spec import LanguageSpec
from w2s.stopping import Stopping
from w2s.store import Staged, Store

if TYPE_CHECKING:
    from w2s.learn.batching import Tokens
    from w2s.learn.models import Base


@dataclass
class _Setting:
    """Texts that are learned and those of val that are not, how many were too short to be, and the model."""

    learned: Tokens
    held_out: Tokens
    left_out: int
    base: Base
    model: Any
    accelerator: Any


def train(
    spec: LanguageSpec, store: Store, staged: Staged | None, report: Report, stopping: Stopping
) -> dict[str, Any]:
    """Train, on every rank alike; the one with a staged folder writes. Returns the manifest's part."""
    from w2s.learn import accelerator as accelerators
    from w2s.learn import partition

    report("load", 0, 1)
    clock = time.perf_counter()
    setting = _setting(spec, store)
    before = _loss_per_token(spec, setting, setting.model.to(setting.accelerator.device), report)
    phases, clock = {"load": loop.since(clock)}, time.perf_counter()
    learned = (setting.learned, loop.equal_weights(len(setting.learned)))
    trained = loop.trained(spec, store, setting.model, learned, setting.accelerator, report, stopping)
    phases["train"], clock = loop.since(clock), time.perf_counter()
    after = _loss_per_token(spec, setting, trained.model, report)
    phases["predict"] = loop.since(clock)
    kept = partition.trained_state(setting.accelerator.unwrap_model(setting.model))
    outputs.write_weights(staged.folder if staged else None, kept)
    accelerators.release(setting.accelerator, trained.model)
    if staged is None:
        return {}
    outputs.write_history(staged.folder, trained.history, [], {}, {})
    metrics = {
        "val_loss_per_token_before": before,
        "val_loss_per_token_after": after,
        "val_tokens": int(setting.held_out.lengths.sum() - len(setting.held_out)),
        "train_n": len(setting.learned),
        "left_out": setting.left_out,  # texts of one token, which nothing goes before
        "final_loss": trained.history[-1]["loss"],  # per text
        "truncated": {"learned": setting.learned.truncated, "val": setting.held_out.truncated},
    }
    write_json(staged.folder / "metrics.json", metrics)
    seen = float(setting.learned.lengths.sum()) * spec.recipe.epochs
    predicted = 2 * float(setting.held_out.lengths.sum())
    return {
        "fetched": [inputs.fetched(spec.model, setting.base.commit)],
        "devices": [str(setting.accelerator.device)] * spec.engine.ranks,
        "phases": phases,
        "examples": len(setting.learned) * spec.recipe.epochs,
        "tokens": seen + predicted,
        "flops": step_flops(spec, seen, predicted),
    }


def _setting(spec: LanguageSpec, store: Store) -> _Setting:
    from w2s.learn import accelerator as accelerators
    from w2s.learn import language, tracking

    base = inputs.base(spec, store)
    texts = [text for split in spec.splits for text in inputs.texts(store, spec.data, split)[1]]
    learned = language.running_text(base, texts)
    held_out = language.running_text(base, inputs.texts(store, spec.data, "val")[1])
    for tokens, where in ((learned, " and ".join(spec.splits)), (held_out, "val")):
        if not len(tokens):
            raise StepError(f"model {spec.model.name}: no text of {where} has two tokens, so there is no next one to "
                            "learn; leave start out")  # fmt: skip
    folder = tracking.folder_of(store.root.parent, spec.digest())
    accelerator = accelerators.make(spec.engine, spec.recipe, tracking.trackers_for(spec.engine.trackers, folder))
    model = language.build(base, spec.recipe, spec.seed, spec.engine)
    return _Setting(learned, held_out, len(texts) - len(learned), base, model, accelerator)


def _loss_per_token(spec: LanguageSpec, setting: _Setting, model: Any, report: Report) -> float:
    """Nats per token of the texts of val, over all tokens but each text's first."""
    from w2s.learn import fitting, predict

    tokens = setting.held_out
    with fitting.predicting(spec.engine):
        log_p_N1 = predict.predict(
            model, tokens, spec.engine.predict_batch_size, setting.accelerator.device,
            lambda done, total: report("read val", done, total),
        )  # fmt: skip
    return -float(log_p_N1.sum(dtype="float64")) / float(tokens.lengths.sum() - len(tokens))
