"""A trained step and texts in, probabilities or scores out: what `w2s label` gives.

Refuses steps whose weights were not kept, weights that are not the step's, and steps that generate text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from w2s import inputs, plugins, prompting
from w2s.errors import SpecError, StepError
from w2s.identity import validated
from w2s.spec import Engine, Probe, Recipe, TrainSpec
from w2s.store import Store
from w2s.tasks.task import TaskSpec

if TYPE_CHECKING:
    import numpy as np


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
    spec = validated(TrainSpec, manifest["spec"])
    weights = store.path("train", digest) / "model" / "trained.safetensors"
    if not weights.exists() and not spec.prompted:
        raise SpecError(
            f"digest: the weights of {digest[:12]} were not kept. Run its sweep once more with --keep_weights: only "
            "steps without weights are trained again, and their numbers stay the same"
        )
    task = inputs.task_of(store, spec.data).task
    if task.kind == "generate":
        raise SpecError(f"digest: {digest[:12]} generates text, and `w2s label` gives classes and scores only; its "
                        "answers for transfer, val and test are in the predictions of its artifact")  # fmt: skip
    # One process is enough here, whatever it took to train.
    alone = Engine(device=spec.engine.device, mixed_precision=spec.engine.mixed_precision)
    spec = spec.model_copy(update={"engine": alone})
    plugins.load(spec, inputs.plugins_folder(store))
    if spec.prompted:
        return task.class_names, prompting.label(spec, task, store, digest, texts, batch_size)
    if spec.solved:
        return _labelled_by_solution(spec, task, store, weights.parent, texts, batch_size)
    base = inputs.base(spec, store)
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
    spec: TrainSpec, task: TaskSpec, store: Store, folder: Path, texts: list[str], batch_size: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """`label`, by a map of counts of words or of pooled features."""
    from w2s.learn import accelerator as accelerators
    from w2s.learn import labels, models, solved, trunk

    linear, vocabulary = solved.load(folder, spec.model.words, 1)
    if vocabulary is not None:
        vectors = vocabulary.vectors(texts)
    else:
        base = inputs.base(spec, store)
        model = models.build(base, 1, Recipe(tune=Probe()), 0, spec.engine)
        device = accelerators.device(spec.engine)
        vectors = trunk.pooled(model, models.tokenise(base, texts), batch_size, device)
    if task.kind == "compare":
        return ("score",), linear.outputs(vectors)
    return task.class_names, labels.probabilities(linear.logits(vectors))
