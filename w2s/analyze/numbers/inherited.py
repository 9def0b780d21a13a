"""The rows of a cell in, what its students took over from those who labelled for them out.

Agreement is with the weak model of the pair; where a student learned from another one (a chain), agreement with that
supervisor stands beside it. Errors: a student may repeat a weak model's error because it learned it, or because the
example is hard. The ceiling never saw the weak labels, so the share of those errors that the ceiling makes too is what
chance and hardness explain; the excess is the rest. Misfit: the student's loss against the weak model's (soft)
predictions on test, in nats; 0 only where those are certain and followed. It alone takes logits, and so is kept.

Sources: Burns et al. 2023, sec. 5.1 (agreement); Charikar et al. 2024, arXiv 2405.15116 (misfit, of squared loss).
Shapes: S seeds, N test examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.numbers import resamples, stats
from w2s.analyze.numbers.cells import AGREEMENTS, LABELS, MISFIT, OVERLAPS, SUPERVISED
from w2s.analyze.numbers.pool import Group, Pool, in_the_way, models_of, present
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.stats import Contrasts, Estimate, absent
from w2s.analyze.reading.learned import LABELS as STEP
from w2s.analyze.reading.selection import ROLES, Taken
from w2s.analyze.reading.standing import UNPLANNED
from w2s.errors import StepError

NEVER_WRONG = "the supervisor is never wrong"
Part = tuple[list[Measure], Callable[[], dict[str, Estimate]]]  # what estimates are made of, and how


def inherited(group: Group, pool: Pool) -> dict[str, Estimate]:
    """Every estimate of this kind, by its name in a cell."""
    own = any(record["label_digest"] != record["weak_digest"] for record in group)
    parts = [
        _agreements(group, pool),
        _overlaps(group, pool),
        _supervised(group, pool) if own else _without(SUPERVISED, absent("is the weak model")),
        _misfit(group, pool),
    ]
    resamples.resampled([measure for measures, _ in parts for measure in measures])  # once for all: that is the cost
    return {**_labels(group, pool), **{name: one for _, made in parts for name, one in made().items()}}


def _without(names: Iterable[str], why: Estimate) -> Part:
    return [], lambda: dict.fromkeys(names, why)


def _labels(group: Group, pool: Pool) -> dict[str, Estimate]:
    """How good the labels are that the students learned from: on transfer, over the examples that had one."""
    if all(pool.rows.taught.get(record["student_digest"]) == "nothing" for record in group):
        return dict.fromkeys(LABELS, absent("no label read"))
    sources = [record["label_digest"] for record in group if record["label_digest"] in pool.rows.learned]
    if sources:
        return {name: pool.labels(name, sources) for name in LABELS}
    for record in group:
        status = pool.rows.standing.get(record["label_digest"].removeprefix(STEP), UNPLANNED).status
        if status != "done":
            role = "weak" if record["label_digest"] == record["weak_digest"] else "labels"
            return dict.fromkeys(LABELS, absent(f"{role} {status}"))
    return dict.fromkeys(LABELS, in_the_way(group, ()))


def _agreements(group: Group, pool: Pool) -> Part:
    """Shares of test examples on which student and weak model agree."""
    couple = present(group, ("weak", "student"), pool.rows)
    if not couple["weak"]:
        return _without(AGREEMENTS, in_the_way(group, ("weak", "student")))
    return _agreement(AGREEMENTS, couple["weak"], couple["student"], pool)


def _supervised(group: Group, pool: Pool) -> Part:
    """The same with the one train step whose labels the students learned from, transformed or not."""
    supervisors = [Taken(str(record["supervisor_digest"])) for record in group]
    both = [
        pair for pair in zip(supervisors, models_of(group, "student"), strict=True)
        if all(model in pool.rows.test for model in pair)
    ]  # fmt: skip
    if both:
        supervisor, student = ([pair[side] for pair in both] for side in (0, 1))
        return _agreement(SUPERVISED, supervisor, student, pool)
    if not any(record["supervisor_digest"] for record in group):
        return _without(SUPERVISED, absent("not one supervisor: several, or labels of another kind"))
    why = in_the_way(group, ("student",))
    return _without(SUPERVISED, why if why.reason.startswith("student") else absent("supervisor missing"))


def _agreement(names: Iterable[str], weak: list[Taken], student: list[Taken], pool: Pool) -> Part:
    """Of all examples, of those where the supervisor is right, of those where it is wrong."""
    test = pool.rows.test
    same_SN = np.stack([test[a].predicted_N == test[b].predicted_N for a, b in zip(weak, student, strict=True)])
    right_SN = np.stack([test[model].right_N for model in weak])
    same, right, wrong = Measure(same_SN), Measure(right_SN), Measure(~right_SN)
    same_right, same_wrong = Measure(same_SN & right_SN), Measure(same_SN & ~right_SN)

    def made() -> dict[str, Estimate]:
        shares = (
            stats.mean(same),
            stats.share(same_right, right, "the supervisor is never right"),
            stats.share(same_wrong, wrong, NEVER_WRONG),
        )
        return dict(zip(names, shares, strict=True))

    return [same, right, wrong, same_right, same_wrong], made


def _overlaps(group: Group, pool: Pool) -> Part:
    """Of the weak model's errors, those that the student repeats, those that the ceiling makes too, and the excess."""
    full = present(group, ROLES, pool.rows)
    if not full["weak"]:
        return _without(OVERLAPS, in_the_way(group, ROLES))
    test = pool.rows.test
    wrong_SN = ~np.stack([test[model].right_N for model in full["weak"]])
    predicted = {role: np.stack([test[model].predicted_N for model in full[role]]) for role in ROLES}
    wrong = Measure(wrong_SN)
    repeated, expected = (Measure((predicted[role] == predicted["weak"]) & wrong_SN) for role in ("student", "ceiling"))
    if wrong.mean == 0.0:
        return _without(OVERLAPS, absent(NEVER_WRONG, wrong.n, wrong.seeds))
    return [wrong, repeated, expected], lambda: {
        "error_overlap": stats.share(repeated, wrong, NEVER_WRONG),
        "error_overlap_expected": stats.share(expected, wrong, NEVER_WRONG),
        "error_overlap_excess": _excess(repeated, expected, wrong),
    }


def _excess(repeated: Measure, expected: Measure, wrong: Measure) -> Estimate:
    """(repeated - expected) / wrong, paired by seed and example."""
    top, bottom = np.array([1.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    low, high = np.clip(Contrasts(repeated, expected, wrong).ratio(top, bottom), -1.0, 1.0)
    value = (repeated.mean - expected.mean) / wrong.mean
    return Estimate(value, float(low), float(high), wrong.n, wrong.seeds)


def _misfit(group: Group, pool: Pool) -> Part:
    if group[0]["selection"] != "final":
        return _without([MISFIT], absent("of final predictions only"))
    if not int(group[0]["n_classes"]):
        return _without([MISFIT], absent("generated text has no probabilities of classes"))
    couple = present(group, ("weak", "student"), pool.rows)
    if not couple["weak"]:
        return _without([MISFIT], in_the_way(group, ("weak", "student")))
    data = str(group[0]["data_digest"])
    name = pool.kept.name(
        MISFIT, [model for pair in zip(couple["weak"], couple["student"], strict=True) for model in pair]
    )
    if (known := pool.kept.get(data, name)) is not None:
        return _without([MISFIT], known)
    by_student = {record["student_digest"]: record for record in group}
    losses = []
    for weak, student in zip(couple["weak"], couple["student"], strict=True):
        record = by_student[student.digest]
        try:
            of = [pool.logits(m.digest, record["data_digest"], int(record["n_classes"])) for m in (weak, student)]
        except StepError:  # changed since it was scored
            return _without([MISFIT], absent("predictions could not be read"))
        losses.append(cross_entropy(*of))
    loss = Measure(np.stack(losses))
    return [loss], lambda: {MISFIT: pool.kept.put(data, name, stats.mean(loss, (0.0, math.inf)))}


def cross_entropy(weak_NC: NDArray[np.floating[Any]], student_NC: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N,) -sum_c p_weak log p_student in nats, both from logits."""
    weak_NC, student_NC = weak_NC.astype(np.float64), student_NC.astype(np.float64)
    exp_NC = np.exp(weak_NC - weak_NC.max(axis=1, keepdims=True))
    p_NC = exp_NC / exp_NC.sum(axis=1, keepdims=True)
    off_NC = student_NC - student_NC.max(axis=1, keepdims=True)
    log_NC = off_NC - np.log(np.exp(off_NC).sum(axis=1, keepdims=True))
    return np.asarray(-(p_NC * log_NC).sum(axis=1))
