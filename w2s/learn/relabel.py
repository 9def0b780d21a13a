"""Labels as sources give them in, labels as somebody learns from them out: pure functions of ids, labels and a seed.

Refuses a transform that leaves no examples, or one class where there were several. What drops examples concerns the
split that is trained on; of val every label stays.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from w2s.errors import StepError
from w2s.learn import custom, labels, logistic, probing, simulated
from w2s.learn.external import External
from w2s.learn.labels import Floats, Ints
from w2s.randomness import shuffled, stream_seed
from w2s.supervision import (
    AnyTransform,
    ByProbe,
    Confident,
    FileLabels,
    Harden,
    Knn,
    LabelsSpec,
    LogisticProbe,
    MixTruth,
    PluginTransform,
    Probing,
    SimulatedLabels,
    Smooth,
    Subsample,
    SupervisorLabels,
    Temperature,
    TopoFilter,
    TruthLabels,
)


@dataclass(frozen=True)
class Labelled:
    """Labels (N, C) of examples, and where each came from."""

    ids: list[str]
    p_NC: Floats
    origins: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, places: Sequence[int]) -> Labelled:
        """The examples at these places only."""
        return Labelled([self.ids[i] for i in places], self.p_NC[list(places)], [self.origins[i] for i in places])

    def classes(self) -> Ints:
        """How many examples have each class as their most probable one (C,)."""
        return np.asarray(np.bincount(self.p_NC.argmax(axis=1), minlength=self.p_NC.shape[1]))


class Fitted(NamedTuple):
    """Labels of transfer before a transform, and activations (N, D) of these examples, in their order."""

    given: Labelled
    x_ND: Floats


@dataclass(frozen=True)
class Evidence:
    """What labels of one split may be made of. `y_N`: ground truth, there only where the spec asks for it."""

    ids: list[str]
    n_classes: int
    p: Mapping[str, Floats] = field(default_factory=dict)  # by train step, in the order of `ids`
    y_N: Ints | None = None
    y_weak_M: Ints | None = None  # ground truth of weak_train, for the majority
    external: External | None = None
    texts: Sequence[Any] = ()  # of each example its text, or all of them where texts are compared
    activations: Mapping[str, Floats] = field(default_factory=dict)  # (N, D) by features step, in the order of `ids`
    fitted: Fitted | None = None  # of val: what the same transform of transfer had before it

    def truth(self) -> Ints:
        assert self.y_N is not None, "the spec did not ask for ground truth"
        return self.y_N

    def accuracy(self, step: str) -> float:
        """Of a train step's predictions here."""
        return float((self.p[step].argmax(axis=1) == self.truth()).mean())

    def activations_of(self, step: str, ids: Sequence[str]) -> Floats:
        """Those of a features step for some of the examples (N, D)."""
        place = {example_id: row for row, example_id in enumerate(self.ids)}
        return np.asarray(self.activations[step][[place[example_id] for example_id in ids]])

    def right(self, given: Labelled) -> float | None:
        """The share of right labels; None where there are none, or ground truth was not asked for."""
        if self.y_N is None or not len(given):
            return None
        y = dict(zip(self.ids, self.y_N, strict=True))
        return float((given.p_NC.argmax(axis=1) == [y[example_id] for example_id in given.ids]).mean())


def part_of(ids: Sequence[str], part: tuple[int, int]) -> list[int]:
    """Places of the i-th of n parts (part = (i, n)): disjoint, together all, of sizes that differ by one at most."""
    order, (i, n) = shuffled(ids, 0, "part"), part
    return sorted(order[len(ids) * i // n : len(ids) * (i + 1) // n])


def made(
    spec: LabelsSpec, found: Evidence, drops: bool, fits: dict[int, Fitted] | None = None
) -> tuple[Labelled, list[dict[str, Any]]]:
    """The labels of one split, and what each transform did. `drops`: examples may be left out. Raises StepError.

    `fits`: filled while labels of transfer are made, by the place of each transform that goes by activations; those of
    val are made with it afterwards, so that probes are fitted on labels of transfer alone.
    """
    labelled = given(spec, found)
    told = []
    for place, transform in enumerate(spec.transforms):
        before = labelled
        if isinstance(transform, Probing) and fits is not None:
            if drops:
                fits[place] = Fitted(before, found.activations_of(transform.features[0], before.ids))
            found = replace(found, fitted=None if drops else fits[place])
        labelled = _APPLY[type(transform)](before, transform, found, _stream(spec, place), drops)
        _require_classes(before, labelled, transform, place)
        told.append(
            {
                "transform": transform.model_dump(mode="json", exclude_none=True),
                "kept": len(labelled),
                "dropped": len(before) - len(labelled),
            }
        )
        if getattr(transform, "do", "") == "relabel":
            told[-1]["other_class"] = int((labelled.p_NC.argmax(axis=1) != before.p_NC.argmax(axis=1)).sum())
    return labelled, told


def given(spec: LabelsSpec, found: Evidence) -> Labelled:
    """The labels as their source gives them."""
    source, ids = spec.source, found.ids
    if isinstance(source, SupervisorLabels):
        return _of_supervisors(source, found)
    if isinstance(source, FileLabels):
        assert found.external is not None
        places, p_NC = found.external.of(ids, found.texts)
        return Labelled([ids[place] for place in places], p_NC, [f"file {source.origin}"] * len(places))
    if isinstance(source, SimulatedLabels):
        return Labelled(ids, _simulated(source, found, spec.seed), ["simulated"] * len(ids))
    if isinstance(source, TruthLabels):
        return Labelled(ids, labels.one_hot(found.truth(), found.n_classes), ["truth"] * len(ids))
    assert found.y_weak_M is not None
    return Labelled(ids, labels.majority(found.y_weak_M, len(ids), found.n_classes), ["majority"] * len(ids))


def _of_supervisors(source: SupervisorLabels, found: Evidence) -> Labelled:
    names = [f"supervisor {digest}" for digest in source.supervisors]
    p_SNC = np.stack([found.p[digest] for digest in source.supervisors])
    if len(names) == 1:
        return Labelled(found.ids, p_SNC[0], names * len(found.ids))
    if source.combine == "route":
        p_NC, chosen_N = labels.route(p_SNC)
        return Labelled(found.ids, p_NC, [names[chosen] for chosen in chosen_N])
    p_NC = labels.vote(p_SNC) if source.combine == "vote" else labels.mean(p_SNC, source.weights)
    return Labelled(found.ids, p_NC, [f"{source.combine} of {len(names)} supervisors"] * len(found.ids))


def _simulated(source: SimulatedLabels, found: Evidence, seed: int) -> Floats:
    like_NC, y_N = found.p[source.like], found.truth()
    if source.errors == "random":
        return simulated.random_errors(like_NC, y_N, found.ids, seed)
    if source.errors == "class":
        return simulated.class_errors(like_NC, y_N, found.ids, seed)
    assert source.by is not None
    return simulated.difficult_errors(like_NC, y_N, found.ids, seed, found.p[source.by])


def _require_classes(before: Labelled, after: Labelled, transform: AnyTransform, place: int) -> None:
    had, has = int((before.classes() > 0).sum()), int((after.classes() > 0).sum())
    if (len(after) or not len(before)) and not (has < 2 <= had):  # of val a file may label none
        return
    left = f"{len(after)} of {len(before)} examples, by class {', '.join(map(str, after.classes()))}"
    why = "no example" if not len(after) else "one class"
    raise StepError(f"labels.transforms[{place}]: {_name(transform)} leaves {why} ({left}); ask for less of it")


def _name(transform: Any) -> str:
    return str(getattr(transform, "use", transform.name))


# -- transforms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A named random stream of a labels step, of its own for each transform."""

    seed: int
    names: tuple[str | int, ...]

    def shuffled(self, ids: Sequence[str]) -> list[int]:
        return shuffled(ids, self.seed, *self.names)


def _stream(spec: LabelsSpec, place: int) -> Stream:
    return Stream(spec.seed, ("labels", place, spec.transforms[place].name))


def share_of(share: float, examples: int) -> int:
    """So many examples are a share; half up, the same for every size."""
    return int(share * examples + 0.5)


def temperature(p_NC: Floats, t: float) -> Floats:
    """p^(1/t) / sum p^(1/t), which for softmax of logits is softmax of logits / t. A probability of 0 stays 0."""
    with np.errstate(divide="ignore"):
        log_NC = np.log(p_NC.astype(np.float64)) / t
    exp_NC = np.exp(log_NC - log_NC.max(axis=1, keepdims=True))
    return np.asarray(exp_NC / exp_NC.sum(axis=1, keepdims=True), dtype=np.float32)


def smooth(p_NC: Floats, eps: float) -> Floats:
    """(1 - eps) p + eps / C."""
    return np.asarray((1.0 - eps) * p_NC.astype(np.float64) + eps / p_NC.shape[1], dtype=np.float32)


def confident(p_NC: Floats, order: Sequence[int], keep: float, per_class: bool) -> list[int]:
    """Places of the most confident examples, ascending; see `nearest`."""
    return nearest(-p_NC.max(axis=1).astype(np.float64), p_NC.argmax(axis=1), order, keep, per_class)


def nearest(
    far_N: NDArray[np.float64], top_N: NDArray[np.int64], order: Sequence[int], keep: float, per_class: bool
) -> list[int]:
    """Places, ascending, of the share `keep` that is least far, of each class `top_N` or of all together.

    `order` decides between equally far ones.
    """
    place_N = np.empty(len(far_N), dtype=np.int64)
    place_N[list(order)] = np.arange(len(far_N))
    sorted_N = np.lexsort((place_N, far_N))
    groups = [sorted_N[top_N[sorted_N] == label] for label in np.unique(top_N)] if per_class else [sorted_N]
    return sorted(place for group in groups for place in group[: share_of(keep, len(group))].tolist())


def _harden(given: Labelled, _: Harden, __: Evidence, ___: Stream, ____: bool) -> Labelled:
    return replace(given, p_NC=labels.harden(given.p_NC))


def _temperature(given: Labelled, how: Temperature, _: Evidence, __: Stream, ___: bool) -> Labelled:
    return replace(given, p_NC=temperature(given.p_NC, how.t))


def _smooth(given: Labelled, how: Smooth, _: Evidence, __: Stream, ___: bool) -> Labelled:
    return replace(given, p_NC=smooth(given.p_NC, how.eps))


def _confident(given: Labelled, how: Confident, _: Evidence, stream: Stream, drops: bool) -> Labelled:
    order = stream.shuffled(given.ids)
    return given.keep(confident(given.p_NC, order, how.keep, how.per_class)) if drops else given


def _mix_truth(given: Labelled, how: MixTruth, found: Evidence, stream: Stream, _: bool) -> Labelled:
    chosen = stream.shuffled(given.ids)[: share_of(how.share, len(given))]
    y = dict(zip(found.ids, found.truth(), strict=True))
    p_NC, origins = given.p_NC.copy(), list(given.origins)
    for place in chosen:
        p_NC[place] = 0.0
        p_NC[place, y[given.ids[place]]] = 1.0
        origins[place] = "truth"
    return Labelled(given.ids, p_NC, origins)


def _subsample(given: Labelled, how: Subsample, found: Evidence, stream: Stream, drops: bool) -> Labelled:
    if not drops:
        return given
    share = how.share if how.share is not None else found.accuracy(str(how.like))
    return given.keep(sorted(stream.shuffled(given.ids)[: share_of(share, len(given))]))


def _plugin(given: Labelled, how: PluginTransform, found: Evidence, stream: Stream, drops: bool) -> Labelled:
    text_of = dict(zip(found.ids, found.texts, strict=True))
    seed = stream_seed(stream.seed, *stream.names, "transfer" if drops else "val")
    texts = [text_of[example_id] for example_id in given.ids]
    made = custom.transformed(
        how, given.p_NC, given.ids, [text if isinstance(text, str) else None for text in texts], seed
    )
    if made.dtype != np.bool_:
        return replace(given, p_NC=made)
    return given.keep(np.flatnonzero(made).tolist()) if drops else given


def _by_probe(given: Labelled, how: ByProbe, found: Evidence, stream: Stream, drops: bool) -> Labelled:
    if how.do == "filter" and not drops:
        return given
    if drops and len(given) < 2:
        raise StepError(f"labels.transforms: {_name(how)} asks other examples, and there is only {len(given)}")
    opinion_NC = _opinion(given, how, found, stream, drops)
    if how.do == "relabel":
        own = set((found.fitted.given if found.fitted else given).origins)
        origin = f"{_name(how)} on labels of {min(own) if len(own) == 1 else 'several origins'}"
        origin += " and truth" if "truth" in own and len(own) > 1 else ""
        return Labelled(given.ids, opinion_NC, [origin] * len(given))
    far_N = probing.disagreement(given.p_NC, opinion_NC)
    return given.keep(
        nearest(far_N, given.p_NC.argmax(axis=1), stream.shuffled(given.ids), how.keep or 1.0, how.per_class)
    )


def _opinion(given: Labelled, how: ByProbe, found: Evidence, stream: Stream, drops: bool) -> Floats:
    """What neighbours or a probe say of each label (N, C): of transfer the others', of val those of transfer."""
    x_ND = found.activations_of(how.features[0 if drops else 1], given.ids)
    if isinstance(how, Knn):
        if drops:
            return probing.knn(x_ND, given.p_NC, how.k)
        assert found.fitted is not None
        return probing.knn(found.fitted.x_ND, found.fitted.given.p_NC, how.k, x_ND)
    assert isinstance(how, LogisticProbe)
    learned = Fitted(given, x_ND) if drops else found.fitted
    assert learned is not None
    order = stream.shuffled(learned.given.ids)
    opinion_NC, l2 = probing.cross_fitted(learned.x_ND, learned.given.p_NC, order, how.folds, how.l2)
    if drops:
        return opinion_NC
    return labels.probabilities(logistic.fit(learned.x_ND, learned.given.p_NC, l2).logits(x_ND))


def _topofilter(given: Labelled, how: TopoFilter, found: Evidence, _: Stream, drops: bool) -> Labelled:
    if not drops:
        return given
    x_ND = found.activations_of(how.features[0], given.ids)
    return given.keep(probing.topofilter(x_ND, given.p_NC, how.k, how.keep)[0])


_APPLY: Mapping[type[AnyTransform], Callable[[Labelled, Any, Evidence, Stream, bool], Labelled]] = {
    Harden: _harden,
    Temperature: _temperature,
    Smooth: _smooth,
    Confident: _confident,
    MixTruth: _mix_truth,
    Subsample: _subsample,
    PluginTransform: _plugin,
    Knn: _by_probe,
    LogisticProbe: _by_probe,
    TopoFilter: _topofilter,
}
