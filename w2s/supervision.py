"""What labels are learned from, as data: sources, transforms, parts. Knows no sweep, no files, no arrays.

A training reads ground truth, one supervisor's predictions as they are, or a labels step, which holds everything else:
several supervisors, a file, controls, and whatever is done to labels before somebody learns from them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from w2s.identity import Spec, identity
from w2s.plugins import PluginUse
from w2s.sources.spec import FileSource

DIGEST = r"^[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=DIGEST)]


# -- what a training learns from ---------------------------------------------------------------------------------------


class Truth(Spec):
    """Labels are the ground truth of the split that is trained on."""

    kind: Literal["truth"] = identity("truth")


class Weak(Spec):
    """Labels are a supervisor's predictions, joined by example id."""

    kind: Literal["weak"] = identity("weak")
    supervisor: str = identity(pattern=DIGEST)  # digest of its train step
    hard: bool = identity(False)  # True: the supervisor's argmax instead of its probabilities


class Made(Spec):
    """Labels are those of a labels step; examples that it has none for are not trained on."""

    kind: Literal["made"] = identity("made")
    labels: str = identity(pattern=DIGEST)  # digest of the labels step


class Unread(Spec):
    """No label is read: nothing is learned, as by a prompt without examples."""

    kind: Literal["none"] = identity("none")


Labels = Annotated[Truth | Weak | Made | Unread, Field(discriminator="kind")]


# -- where labels come from --------------------------------------------------------------------------------------------


class SupervisorLabels(Spec):
    """Predictions of train steps. Of several: their (weighted) mean; the class that most of them choose; or, for each
    example, the prediction of the one that is most confident there."""

    kind: Literal["supervisors"] = identity("supervisors")
    supervisors: tuple[Digest, ...] = identity(min_length=1)
    combine: Literal["mean", "vote", "route"] = identity("mean")
    weights: tuple[float, ...] | None = identity(None)  # of a mean; None: equal ones

    @model_validator(mode="after")
    def _weights_fit(self) -> SupervisorLabels:
        wrong = wrong_weights(self.weights, len(self.supervisors), self.combine)
        if wrong is not None:
            raise ValueError(wrong)
        return self


def wrong_weights(weights: tuple[float, ...] | None, supervisors: int, combine: str) -> str | None:
    """What is wrong with the weights of so many supervisors; None where nothing is."""
    if weights is None:
        return None
    if combine != "mean":
        return f"weights: are of a mean, and combine is {combine}; leave one of them out"
    if len(weights) != supervisors:
        return f"weights: expected one for each of {supervisors} supervisors (got {len(weights)})"
    if min(weights) < 0:
        return f"weights: expected 0 or more (got {min(weights):g})"
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        return f"weights: must sum to 1 (got {sum(weights):g})"
    return None


class FileLabels(Spec):
    """Labels of people, or of a program that is none of ours, from a file; `origin` is what the labels' origin says."""

    kind: Literal["file"] = identity("file")
    source: FileSource = identity()
    origin: str = identity(min_length=1)


class TruthLabels(Spec):
    """Ground truth of transfer and val, asked for by name."""

    kind: Literal["truth"] = identity("truth")


class MajorityLabels(Spec):
    """For every example the class that is most frequent in weak_train; of several the first."""

    kind: Literal["majority"] = identity("majority")


class SimulatedLabels(Spec):
    """Ground truth with as many errors, and the same confidences, as the predictions of the train step `like`.

    random: errors fall on any example. class: errors as frequent between each two classes as those of `like`.
    difficulty: errors fall where the train step `by` is least sure of the truth.
    """

    kind: Literal["simulated"] = identity("simulated")
    like: str = identity(pattern=DIGEST)
    errors: Literal["random", "class", "difficulty"] = identity("random")
    by: Digest | None = identity(None)

    @model_validator(mode="after")
    def _judged(self) -> SimulatedLabels:
        if (self.errors == "difficulty") != (self.by is not None):
            raise ValueError("errors by difficulty need `by`, the model that says what is difficult, and others none")
        return self


LabelSource = Annotated[
    SupervisorLabels | FileLabels | TruthLabels | MajorityLabels | SimulatedLabels, Field(discriminator="kind")
]


# -- what is done to them ----------------------------------------------------------------------------------------------


class Harden(Spec):
    """The most probable class, with probability 1."""

    name: Literal["harden"] = identity("harden")


class Temperature(Spec):
    """Probabilities to the power 1/t, scaled to sum to 1: softer above 1, sharper below."""

    name: Literal["temperature"] = identity("temperature")
    t: float = identity(gt=0.0, about="Above 1 labels get softer, below sharper.")


class Smooth(Spec):
    """(1 - eps) p + eps / C. Source: Szegedy et al. 2016 (arXiv 1512.00567), sec. 7."""

    name: Literal["smooth"] = identity("smooth")
    eps: float = identity(ge=0.0, le=1.0, about="Share of every label that is spread evenly over the classes.")


class Confident(Spec):
    """Keeps the share `keep` of the examples whose most probable class is most probable; of each class, or of all."""

    name: Literal["confident"] = identity("confident")
    keep: float = identity(gt=0.0, le=1.0, about="Share of the examples to keep.")
    per_class: bool = identity(
        True,
        about="True: of each class this share; false: of all, so that what is easy may shift the classes.",
    )


class MixTruth(Spec):
    """Ground truth instead of the label for this share of the examples, drawn at random."""

    name: Literal["mix_truth"] = identity("mix_truth")
    share: float = identity(ge=0.0, le=1.0, about="Share of the examples that get ground truth.")


class Subsample(Spec):
    """Keeps a share of the examples, drawn at random: a given one, or as many as a supervisor has right."""

    name: Literal["subsample"] = identity("subsample")
    share: float | None = identity(
        None, gt=0.0, le=1.0, about="Share of the examples to keep; of true labels also a supervisor's accuracy."
    )
    like: Digest | None = identity(None)

    @model_validator(mode="after")
    def _one_of_two(self) -> Subsample:
        if (self.share is None) == (self.like is None):
            raise ValueError("expected either a share or a model whose accuracy is the share")
        return self


class Probing(Spec):
    """What transforms have in common that go by the activations of an untuned model; ground truth is never used."""

    features: tuple[Digest, Digest] = identity()  # of transfer and of val: pooled features steps


class ByProbe(Probing):
    """A transform that gives every label a second opinion, and then relabels or filters.

    relabel: the opinion in place of the label; of val by what the labels of transfer say. filter: of each most probable
    class, or of all, the share `keep` whose label is nearest to the opinion, by total variation distance.
    """

    do: Literal["relabel", "filter"] = identity(
        about="relabel: the opinion in place of the label; filter: only labels near to the opinion are kept."
    )
    keep: float | None = identity(None, gt=0.0, le=1.0, about="For filter: share of the examples to keep.")
    per_class: bool = identity(
        True,
        about="True: of each class this share; false: of all, so that what is easy may shift the classes.",
    )

    @model_validator(mode="after")
    def _keep_is_of_filters(self) -> ByProbe:
        if (self.do == "filter") != (self.keep is not None):
            raise ValueError("filter needs `keep`, the share of examples to keep, such as 0.9, and relabel has none")
        return self


class Knn(ByProbe):
    """The opinion is the mean label of the `k` nearest other examples, by Euclidean distance of standardized features.

    Source: EleutherAI/w2s, probe.py (`zeta`), where features are not standardized and an example is a neighbour of
    itself; k = 20 as there.
    """

    name: Literal["knn"] = identity("knn")
    k: int = identity(20, ge=1, about="Neighbours of an example.")


class LogisticProbe(ByProbe):
    """The opinion is that of a logistic regression on the other folds.

    l2 None: the strength of least loss on labels that were left out.

    Source: EleutherAI/w2s, probe.py, where a probe judges the labels that it was fitted on; left-out ones as in
    Northcutt et al. 2021 (confident learning, arXiv 1911.00068).
    """

    name: Literal["logistic"] = identity("logistic")
    l2: float | None = identity(
        None, gt=0.0, about="Penalty on the weights; null: the strength of least loss on labels that were left out."
    )
    folds: int = identity(5, ge=2, about="Parts of the examples, each of which a probe of all others judges.")


class TopoFilter(Probing):
    """Keeps the largest component of each class in the graph of `k` nearest neighbours, and of it those whose labels
    are nearest to the mean label of their neighbours, down to the share `keep` of all.

    Source: Wu et al. 2020, A Topological Filter for Learning with Label Noise, once and on an untuned model's features
    as EleutherAI/w2s (topo.py) does it, not in every epoch of a training.
    """

    name: Literal["topofilter"] = identity("topofilter")
    keep: float = identity(gt=0.0, le=1.0, about="Share of the examples to keep, at most.")
    k: int = identity(20, ge=1, about="Neighbours of an example.")


class PluginTransform(PluginUse):
    """What a user's own function makes of the labels; it sees no ground truth. See docs/extending.md."""

    name: Literal["plugin"] = identity("plugin")
    random: bool = identity(False)  # it draws at random, from the seed


AnyTransform = (
    Harden
    | Temperature
    | Smooth
    | Confident
    | MixTruth
    | Subsample
    | PluginTransform
    | Knn
    | LogisticProbe
    | TopoFilter
)
Transform = Annotated[AnyTransform, Field(discriminator="name")]


# -- the step ----------------------------------------------------------------------------------------------------------


class LabelsSpec(Spec):
    """Labels for transfer and val, with their origins; shared by all that learn from them.

    `part` and transforms that drop examples concern transfer alone: val keeps every example that has a label.
    """

    kind: Literal["labels"] = identity("labels")
    version: int = identity(1)  # raise when the code of this step changes meaning
    data: str = identity(pattern=DIGEST)  # digest of its materialize step
    source: LabelSource = identity()
    transforms: tuple[Transform, ...] = identity(())  # in this order
    part: tuple[int, int] | None = identity(None)  # (i, n): the i-th (from 0) of n disjoint parts of transfer
    seed: int = identity(0, ge=0)  # of what is drawn at random; 0 where nothing is, so that seeds share the step

    @model_validator(mode="after")
    def _part_is_one(self) -> LabelsSpec:
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"part: expected [i, n] with 0 <= i < n (got {list(self.part)})")
        return self

    @property
    def supervisors(self) -> tuple[str, ...]:
        """Digests of the train steps whose predictions this step reads, each once."""
        source, found = self.source, list[str | None]()
        if isinstance(source, SupervisorLabels):
            found += source.supervisors
        elif isinstance(source, SimulatedLabels):
            found += [source.like, source.by]
        found += [t.like for t in self.transforms if isinstance(t, Subsample)]
        return tuple(dict.fromkeys(digest for digest in found if digest is not None))

    @property
    def features(self) -> tuple[str, ...]:
        """Digests of the features steps that transforms go by, each once."""
        return tuple(dict.fromkeys(d for t in self.transforms if isinstance(t, Probing) for d in t.features))

    def features_of(self, split: str) -> tuple[str, ...]:
        """Those of one split, each once."""
        place = ("transfer", "val").index(split)
        probing = [t for t in self.transforms if isinstance(t, Probing)]
        return tuple(dict.fromkeys(t.features[place] for t in probing))

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the steps whose artifacts this one reads."""
        return (self.data, *self.supervisors, *self.features)

    @property
    def reads_truth(self) -> bool:
        """True where ground truth of transfer and val is asked for, as labels, as part of them, or to count errors."""
        asks = isinstance(self.source, (TruthLabels, SimulatedLabels))
        return asks or any(isinstance(t, MixTruth) or (isinstance(t, Subsample) and t.like) for t in self.transforms)

    @property
    def share(self) -> float:
        """The share of transfer that gets a label, as far as the spec tells."""
        kept = 1.0 if self.part is None else 1.0 / self.part[1]
        for transform in self.transforms:
            if isinstance(transform, Confident):
                kept *= transform.keep
            elif isinstance(transform, Subsample):
                kept *= transform.share or 1.0
            elif isinstance(transform, (Knn, LogisticProbe, TopoFilter)):
                kept *= transform.keep or 1.0
        return kept


def draws(source: LabelSource, transforms: tuple[AnyTransform, ...]) -> bool:
    """True where something is drawn at random, so that labels depend on the seed."""
    random = any(
        isinstance(t, (MixTruth, Subsample)) or (isinstance(t, PluginTransform) and t.random) for t in transforms
    )
    return isinstance(source, SimulatedLabels) or random
