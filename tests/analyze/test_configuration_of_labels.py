"""Transforms that name other steps are compared by what was asked of those, not by their digests."""

from __future__ import annotations

import pytest

from w2s.analyze.reading import configuration
from w2s.models import ModelSpec
from w2s.sources.spec import HubSource
from w2s.spec import FeaturesSpec, LabelsSpec, Made, Recipe, TrainSpec, Weak
from w2s.store import Store
from w2s.supervision import Knn, Subsample, SupervisorLabels

MODEL = ModelSpec(name="m", source=HubSource(hub="org/m"), layers=4)


@pytest.fixture
def asked(tmp_path):
    """(digest of the data, seed, layer of the activations) -> what was asked of a student's labels."""
    store = Store(tmp_path)

    def made(spec):
        with store.staging(spec.kind, spec.digest()) as staged:
            staged.commit({"spec": spec.model_dump(mode="json"), "parents": list(spec.parents)}, replace=True)
        return spec.digest()

    def of(data, seed, layers):
        weak = made(TrainSpec(data=data, split="weak_train", model=MODEL, seed=seed))
        low = MODEL.model_copy(update={"layers": layers})
        pair = tuple(
            made(FeaturesSpec(data=data, split=split, model=low, pooled=True)) for split in ("transfer", "val")
        )
        transforms = (Knn(features=pair, do="relabel"), Subsample(like=weak))
        labels = made(LabelsSpec(data=data, source=SupervisorLabels(supervisors=(weak,)), transforms=transforms))
        student = made(TrainSpec(data=data, split="transfer", model=MODEL, labels=Made(labels=labels), seed=seed))
        assert made(TrainSpec(data=data, split="transfer", model=MODEL, labels=Weak(supervisor=weak)))
        return configuration.read(store, "train", student)

    return of


def test_other_data_and_seeds_are_no_other_configuration_and_another_layer_is(asked):
    first = asked("1" * 64, 0, 2)
    assert first.text == asked("2" * 64, 1, 2).text
    assert first.text != asked("1" * 64, 0, 3).text
    assert [key for key in first.identity if "supervisors" in key] == ["labels.supervisors[0]"]


def test_another_model_as_the_supervisor_is_another_configuration(tmp_path):
    """Runs of other seeds by one method are pooled where they are equal: those of other supervisors are not."""
    store = Store(tmp_path)

    def student(model, split, seed, data="1" * 64, lr=1e-5):
        weak = TrainSpec(data=data, split=split, model=model, seed=seed, recipe=Recipe(lr=lr))
        spec = TrainSpec(data=data, split="transfer", model=MODEL, labels=Weak(supervisor=weak.digest()), seed=seed)
        for step in (weak, spec):
            with store.staging(step.kind, step.digest()) as staged:
                staged.commit({"spec": step.model_dump(mode="json"), "parents": list(step.parents)}, replace=True)
        return configuration.read(store, "train", spec.digest()).text

    first = student(MODEL, "weak_train", 0)
    renamed = MODEL.model_copy(update={"name": "n"})
    assert student(renamed, "weak_train", 1, "2" * 64, 1e-3) == first  # how it is trained is told by itself
    assert student(MODEL.model_copy(update={"layers": 2}), "weak_train", 1) != first
    assert student(MODEL, "transfer", 1) != first  # a ceiling, which labels: truth leads to
