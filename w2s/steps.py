"""The step bodies, read top to bottom; the only place where the control half and the learning half meet.

Ground truth of `transfer` and `val` never reaches a student, and its label column is not even read, unless the sweep
asks for it by name (`truth`, `mix_truth`, `simulated`, `subsample: MODEL`): then a labels step reads it and says so of
every label, or, for `labels: truth` alone, the training itself, which is a ceiling's or like one.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Literal

from w2s import inputs, language, outputs, plugins, provenance, solving, training
from w2s.cost import step_flops
from w2s.disk import write_json
from w2s.errors import StepError
from w2s.plan import lacks_weights
from w2s.progress import Report, silent
from w2s.spec import AnyStep, FeaturesSpec, LabelsSpec, LanguageSpec, MaterializeSpec, Probe, Recipe, Split, TrainSpec
from w2s.stopping import Stopping
from w2s.store import Staged, Store
from w2s.supervision import FileLabels, MajorityLabels

if TYPE_CHECKING:
    from w2s.learn.external import External
    from w2s.learn.relabel import Evidence

LABELLED: tuple[Split, ...] = ("transfer", "val")  # by a labels step


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
    if verdict == "made here" and isinstance(spec, (LanguageSpec, TrainSpec)):
        plugins.load(spec, inputs.plugins_folder(store))
        body = language.train if isinstance(spec, LanguageSpec) else training.train
        body(spec, store, None, silent, stopping)  # type: ignore[arg-type] # the body of this kind
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
    plugins.load(spec, inputs.plugins_folder(store))
    if isinstance(spec, MaterializeSpec):
        return _materialize(spec, staged, report)
    if isinstance(spec, FeaturesSpec):
        return _features(spec, store, staged, report)
    if isinstance(spec, LabelsSpec):
        return _labels(spec, store, staged, report)
    if isinstance(spec, LanguageSpec):
        return language.train(spec, store, staged, report, stopping)
    return training.train(spec, store, staged, report, stopping)


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
    _, texts, per_example = inputs.texts(store, spec.data, spec.split)
    if spec.pooled:  # by one process, whatever it takes to train
        alone = spec.engine.model_copy(update={"processes": 1, "devices_per_step": 1, "zero_stage": None})
        spec = spec.model_copy(update={"engine": alone})
    base = inputs.base(spec, store)
    tokens = inputs.tokens(spec, base, spec.split, texts, per_example)
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
        "fetched": [inputs.fetched(spec.model, base.commit)],
        "devices": [str(device)],
        "tokens": predicted,
        "flops": step_flops(spec, 0.0, predicted),
    }


def _labels(spec: LabelsSpec, store: Store, staged: Staged, report: Report) -> dict[str, Any]:
    """Labels of transfer and val, as files that name each label's origin, and what became of how many examples."""
    from w2s.learn import relabel
    from w2s.learn.external import External
    from w2s.sources.fetch import fetch

    report("label", 0, 1)
    task = inputs.task_of(store, spec.data).task
    read = None
    if isinstance(spec.source, FileLabels):
        read = External(fetch(spec.source.source).path, task.class_names, task.kind == "compare")
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
        named = "texts (or example_id)" if task.kind == "compare" else "text (or example_id)"
        raise StepError(f"{read.path}: none of its {len(read.p)} labels is for an example of transfer; {named} has to "
                        "be that of the materialized task (`w2s show` names its folder)")  # fmt: skip
    matched = {} if read is None else {"file": {"labels": len(read.p), "used": len(read.matched)}}
    write_json(staged.folder / "summary.json", {"classes": list(task.class_names), "splits": splits, **matched})
    return {"fetched": [], "devices": []}


def _evidence(
    spec: LabelsSpec, store: Store, split: Split, read: External | None, n_classes: int
) -> tuple[Evidence, int]:
    """What labels of a split are made of, no more than the spec asks for, and how many examples the split has."""
    from w2s.learn import relabel

    ids, texts, per_example = inputs.texts(store, spec.data, split)
    rows = list(range(len(ids)))
    if spec.part is not None and split == "transfer":
        rows = relabel.part_of(ids, spec.part)
    own = [ids[row] for row in rows]
    of_majority = isinstance(spec.source, MajorityLabels)
    found = relabel.Evidence(
        own,
        n_classes,
        {digest: inputs.probabilities(store, digest, split, own) for digest in spec.supervisors},
        inputs.truth(store, spec.data, split, ids)[rows] if spec.reads_truth else None,
        inputs.truth(store, spec.data, "weak_train", None) if of_majority else None,
        read,
        [texts[row] if per_example == 1 else texts[row * per_example : (row + 1) * per_example] for row in rows],
        {digest: solving.read_pooled(store, digest)[rows] for digest in spec.features_of(split)},
    )
    return found, len(ids)
