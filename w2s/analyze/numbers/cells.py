"""What is said about one (task, weak, student, method, selection) over its seeds: estimates, and what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from w2s.analyze.numbers.spread import Spread
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.rows import AGREEMENTS as AGREEMENTS  # of this module, for those who ask
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.reading.selection import variant
from w2s.identity import nearest


class Words(NamedTuple):
    """What a metric is called."""

    name: str
    many: str
    short: str  # after the name of a model

    @property
    def head(self) -> str:
        """At the beginning of a line."""
        return self.name[0].upper() + self.name[1:]


METRIC_WORDS = {"accuracy": Words("accuracy", "accuracies", "acc."), "auroc": Words("AUROC", "AUROCs", "AUROC")}
METRICS = tuple(METRIC_WORDS)
CHANCE_AUROC = 0.5
UNKNOWN = absent("not measured")
TAUGHT = {"truth": "ground truth used", "nothing": "no label read"}  # remarks on students by `Cell.taught`


def misnamed(what: str, given: str, known: Sequence[str]) -> str:
    """Why a name cannot be taken, with the nearest that can; nothing where it can."""
    return "" if given in known else f"{what}: no such {what} {given!r}{nearest(given, known)}"


class Run(NamedTuple):
    """The steps of one seed of a cell, by digest, whatever became of them."""

    seed: int
    data: str
    weak: str
    student: str
    ceiling: str
    labels: str = ""  # what the student learned from: a train step, or 'labels ' and a labels step


@dataclass(frozen=True)
class Measured:
    """What one metric, from 0 to 1, says in a cell."""

    weak: Estimate
    student: Estimate
    ceiling: Estimate
    gap: Estimate  # ceiling - weak
    pgr: Estimate
    difference: Estimate  # this method's student - the baseline method's, paired by seed and test example
    pgr_difference: Estimate
    p: float  # two-sided, that `difference` is 0, and with it `pgr_difference`: the gap is above 0; NaN where absent
    p_holm: float  # over the tasks of this pair, method and selection. Source: Holm 1979
    noise: Spread | None  # the variance of `difference` over the gap; of the baseline, that of its PGR; None: no gap


MEASURED = (*ROLES, "gap", "pgr", "difference", "pgr_difference")
DIFFERENCES = ("difference", "pgr_difference")
LABELS = ("label_accuracy", "label_share", "label_truth_share")
SUPERVISED = ("supervisor_agreement", "supervisor_agreement_right", "supervisor_agreement_wrong")
OVERLAPS = ("error_overlap", "error_overlap_expected", "error_overlap_excess")
MISFIT = "misfit"
INHERITED = (*AGREEMENTS, *LABELS, *SUPERVISED, *OVERLAPS, MISFIT)


class Bin(NamedTuple):
    """The test examples for whose label the weak model's probability is above `low`, up to `high`."""

    low: float
    high: float
    examples: int  # added over seeds
    confidence: float  # their mean
    weak: Estimate  # shares that are right
    student: Estimate
    ceiling: Estimate
    gain: Estimate  # student - weak, paired by seed and example


@dataclass(frozen=True)
class Cell:
    """What a sweep says about one method for one pair of models on one task. Accuracies are shares from 0 to 1."""

    task: str
    weak_model: str
    student_model: str
    method: str
    selection: str
    weak_params: int | None
    student_params: int | None
    weak_flops: float  # of training and predicting, mean over seeds; NaN where the model's size is not known
    student_flops: float
    n: int  # test examples; 0 where nothing could be read
    n_classes: int
    majority_share: float
    planned: tuple[int, ...]  # seeds
    seeds: tuple[int, ...]  # of `planned`, those with a student
    accuracy: Measured
    auroc: Measured
    agreement: Estimate
    agreement_right: Estimate  # where the supervisor is right
    agreement_wrong: Estimate
    label_accuracy: Estimate  # of the labels that the student learned from, on transfer
    baseline: str
    runs: tuple[Run, ...] = ()  # by seed
    steps: tuple[int, ...] = ()  # those chosen, by seed; empty for the final selection
    notes: tuple[str, ...] = ()
    label_share: Estimate = UNKNOWN  # of transfer, that had a label
    label_truth_share: Estimate = UNKNOWN  # of those labels, that were ground truth by name
    supervisor_agreement: Estimate = UNKNOWN  # with the step whose labels it learned from, where it is not the weak one
    supervisor_agreement_right: Estimate = UNKNOWN
    supervisor_agreement_wrong: Estimate = UNKNOWN
    error_overlap: Estimate = UNKNOWN  # of the weak model's errors, those that the student repeats
    error_overlap_expected: Estimate = UNKNOWN  # those that the ceiling makes too
    error_overlap_excess: Estimate = UNKNOWN
    misfit: Estimate = UNKNOWN  # cross-entropy against the weak model's predictions for test, nats
    taught: str = ""  # truth: ground truth of transfer had a part in the student; nothing: it read no label
    by_confidence: tuple[Bin, ...] = ()  # test examples by how sure the weak model is, the least sure first

    @property
    def own_labels(self) -> bool:
        """True where students learned from others than the weak model's predictions as they are."""
        return any(run.labels not in ("", run.weak) for run in self.runs)

    @property
    def variant(self) -> str:
        """The method, and how its student was selected unless it was simply the final one."""
        return variant(self.method, self.selection)

    @property
    def pair(self) -> tuple[str, str]:
        return self.weak_model, self.student_model

    @property
    def comparison(self) -> tuple[str, str, str, str]:
        """What cells of several tasks have in common: weak, student, method, selection."""
        return (*self.pair, self.method, self.selection)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What tells a cell from all others, in the order of CELL_KEYS."""
        return (self.task, *self.comparison)

    @property
    def is_baseline(self) -> bool:
        return self.method == self.baseline

    def measured(self, metric: str) -> Measured:
        """The estimates of one of METRICS."""
        return self.accuracy if metric == "accuracy" else self.auroc

    @property
    def at_chance(self) -> tuple[str, ...]:
        """The models whose accuracy does not lie above the majority class's share, by their intervals."""
        return self._not_above(self.accuracy, self.majority_share)

    def left_out(self, metric: str = "accuracy") -> str:
        """Why this PGR enters no median over tasks, in a few words; nothing where it does."""
        found = self.measured(metric)
        if not found.pgr.known:
            return found.pgr.reason.partition(":")[0]
        low = self.at_chance if metric == "accuracy" else self._not_above(found, CHANCE_AUROC)
        return f"{' and '.join(low)} at chance" if low else ""

    @staticmethod
    def _not_above(found: Measured, chance: float) -> tuple[str, ...]:
        models = ((role, getattr(found, role)) for role in ROLES)
        return tuple(role for role, estimate in models if estimate.known and not estimate.low > chance)
