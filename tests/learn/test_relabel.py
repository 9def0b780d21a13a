"""Labels steps as pure functions: every transform and source by hand, what is kept and dropped, what is refused."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from w2s.errors import StepError
from w2s.learn import labels, relabel
from w2s.learn.relabel import Evidence
from w2s.supervision import (
    Confident,
    Harden,
    LabelsSpec,
    MajorityLabels,
    MixTruth,
    SimulatedLabels,
    Smooth,
    Subsample,
    SupervisorLabels,
    Temperature,
    TruthLabels,
)

D, A, B, C = ("d" * 64, "a" * 64, "b" * 64, "c" * 64)
OF_A = SupervisorLabels(supervisors=(A,))


def spec(*transforms, source=OF_A, **fields):
    return LabelsSpec(data=D, source=source, transforms=transforms, **fields)


def ids_of(n):
    return [f"example {i}" for i in range(n)]


def evidence(p, y=None, classes=2, **fields):
    """`p`: rows by supervisor."""
    found = {digest: np.array(rows, dtype=np.float32) for digest, rows in p.items()}
    n = len(next(iter(found.values()))) if found else len(y)
    return Evidence(ids_of(n), classes, found, None if y is None else np.array(y), **fields)


def made(p, *transforms, y=None, drops=True, source=OF_A, **fields):
    rows = p if isinstance(p, dict) else {A: p}
    return relabel.made(spec(*transforms, source=source, **fields), evidence(rows, y), drops)


FOUR = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]]


# -- transforms by hand -----------------------------------------------------------------------------------------


def test_temperature_by_hand():
    """p^(1/2): sqrt(0.9) / (sqrt(0.9) + sqrt(0.1)) = 3 / 4; p^2: 0.81 / 0.82."""
    p_NC = np.array([[0.9, 0.1], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(relabel.temperature(p_NC, 2.0), [[0.75, 0.25], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(relabel.temperature(p_NC, 0.5), [[0.81 / 0.82, 0.01 / 0.82], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(relabel.temperature(p_NC, 1.0), p_NC, atol=1e-7)


def test_temperature_is_that_of_the_softmax():
    logits = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    softened = relabel.temperature(labels.probabilities(logits), 3.0)
    np.testing.assert_allclose(softened, labels.probabilities(logits / np.float32(3.0)), atol=1e-6)


def test_smooth_by_hand():
    p_NC = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], dtype=np.float32)
    np.testing.assert_allclose(relabel.smooth(p_NC, 0.3), [[0.8, 0.1, 0.1], [0.45, 0.275, 0.275]], atol=1e-7)


def test_transforms_are_applied_in_their_order():
    first, _ = made(FOUR, Smooth(eps=0.2), Harden())
    second, _ = made(FOUR, Harden(), Smooth(eps=0.2))
    np.testing.assert_allclose(first.p_NC, [[1, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(second.p_NC, [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], atol=1e-7)


def test_confident_keeps_the_most_confident_of_each_class_or_of_all():
    p = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.35, 0.65], [0.45, 0.55]]
    kept, told = made(p, Confident(keep=0.5))
    assert kept.ids == ["example 0", "example 1", "example 4"]
    assert (told[0]["kept"], told[0]["dropped"]) == (3, 3)
    kept, _ = made(p, Confident(keep=0.7, per_class=False))  # 4.2 examples
    assert kept.ids == ["example 0", "example 1", "example 2", "example 4"]
    np.testing.assert_allclose(kept.p_NC[-1], [0.35, 0.65], atol=1e-7)


def test_half_examples_count_up():
    assert [relabel.share_of(0.5, n) for n in range(6)] == [0, 1, 1, 2, 2, 3]
    assert relabel.share_of(0.1, 30) == 3


def test_mixed_truth_is_one_hot_and_says_so():
    y = [1] * 10 + [0] * 10
    mixed, told = made([[0.7, 0.3], [0.3, 0.7]] * 10, MixTruth(share=0.25), y=y, seed=3)
    changed = [i for i, origin in enumerate(mixed.origins) if origin == "truth"]
    assert len(changed) == 5
    assert told[0]["dropped"] == 0
    for i, origin in enumerate(mixed.origins):
        if i in changed:
            assert mixed.p_NC[i].tolist() == [float(y[i] == 0), float(y[i] == 1)]
        else:
            assert origin == f"supervisor {A}"
            assert mixed.p_NC[i].max() == np.float32(0.7)


def test_more_truth_holds_the_truth_of_less_and_another_seed_is_another_draw():
    p, y = [[0.7, 0.3], [0.4, 0.6]] * 50, [0, 1] * 50

    def chosen(share, seed):
        origins = made(p, MixTruth(share=share), y=y, seed=seed)[0].origins
        return {i for i, origin in enumerate(origins) if origin == "truth"}

    assert chosen(0.1, 0) < chosen(0.3, 0)
    assert chosen(0.3, 0) != chosen(0.3, 1)


def test_subsample_by_a_share_and_by_a_supervisors_accuracy():
    assert len(made(FOUR, Subsample(share=0.5))[0]) == 2
    y = [0, 1, 1, 1, 1]  # the supervisor is right on 4 of 5
    five = [*FOUR, [0.2, 0.8]]
    kept, told = made({B: five}, Subsample(like=B), y=y, source=TruthLabels())
    assert len(kept) == 4
    assert told[0]["transform"] == {"name": "subsample", "like": B}
    for example_id, p_C in zip(kept.ids, kept.p_NC, strict=True):
        assert p_C.tolist()[y[int(example_id.split()[1])]] == 1.0


def test_val_keeps_every_example():
    kept, told = made(FOUR, Confident(keep=0.5), Subsample(share=0.5), Harden(), drops=False)
    assert kept.ids == ids_of(4)
    assert [row["dropped"] for row in told] == [0, 0, 0]
    np.testing.assert_allclose(kept.p_NC, [[1, 0], [1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            Subsample(share=0.1),
            r"labels.transforms\[0\]: subsample leaves no example \(0 of 4 examples, by class 0, 0\)",
        ),
        (Confident(keep=0.25, per_class=False), r"confident leaves one class \(1 of 4 examples, by class 1, 0\)"),
    ],
)
def test_what_leaves_nothing_to_learn_is_refused_with_counts(transform, message):
    with pytest.raises(StepError, match=message):
        made(FOUR, transform)


def test_labels_that_were_of_one_class_before_are_not_the_transforms_fault():
    kept, _ = made([[0.9, 0.1], [0.8, 0.2]], Confident(keep=0.5))
    assert len(kept) == 1


# -- the order of examples, parts --------------------------------------------------------------------------------


@hypothesis.given(st.permutations(range(12)))
@hypothesis.settings(max_examples=20, deadline=None)
def test_no_draw_depends_on_the_order_of_the_examples(order):
    p = np.random.default_rng(0).dirichlet([1, 1], 12).astype(np.float32)
    y, ids = np.arange(12) % 2, ids_of(12)
    asked = spec(MixTruth(share=0.3), Subsample(share=0.8), Confident(keep=0.9), seed=5)

    def by_id(rows):
        found = Evidence([ids[i] for i in rows], 2, {A: p[rows]}, y[rows])
        one, _ = relabel.made(asked, found, True)
        return {i: (p_C.tolist(), origin) for i, p_C, origin in zip(one.ids, one.p_NC, one.origins, strict=True)}

    assert by_id(list(order)) == by_id(list(range(12)))


@pytest.mark.parametrize(("n", "parts"), [(10, 3), (9, 3), (5, 1), (7, 7)])
def test_parts_are_disjoint_and_together_all(n, parts):
    ids = ids_of(n)
    found = [relabel.part_of(ids, (i, parts)) for i in range(parts)]
    assert sorted(row for part in found for row in part) == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1


# -- sources -----------------------------------------------------------------------------------------------------

TWO = {A: [[0.9, 0.1], [0.4, 0.6]], B: [[0.2, 0.8], [0.55, 0.45]], C: [[0.6, 0.4], [0.3, 0.7]]}


def combined(combine, weights=None, supervisors=(A, B, C), p=TWO):
    source = SupervisorLabels(supervisors=supervisors, combine=combine, weights=weights)
    return relabel.given(spec(source=source), evidence(p))


def test_a_mean_by_hand():
    np.testing.assert_allclose(combined("mean", supervisors=(A, B)).p_NC, [[0.55, 0.45], [0.475, 0.525]], atol=1e-6)
    weighted = combined("mean", (0.5, 0.25, 0.25)).p_NC
    np.testing.assert_allclose(weighted, [[0.65, 0.35], [0.4125, 0.5875]], atol=1e-6)
    assert set(combined("mean").origins) == {"mean of 3 supervisors"}


def test_a_vote_by_hand_and_its_ties():
    assert combined("vote").p_NC.tolist() == [[1, 0], [0, 1]]
    tied = combined("vote", supervisors=(A, B)).p_NC  # one each: the mean is 0.55 and 0.475 for class 0
    assert tied.tolist() == [[1, 0], [0, 1]]
    even = {A: [[0.7, 0.3]], B: [[0.3, 0.7]]}
    assert combined("vote", supervisors=(A, B), p=even).p_NC.tolist() == [[1, 0]]


def test_a_vote_of_many_classes_counts_heads_not_probabilities():
    p = {A: [[0.4, 0.35, 0.25]], B: [[0.4, 0.35, 0.25]], C: [[0.0, 1.0, 0.0]]}
    assert relabel.labels.vote(np.array(list(p.values()), dtype=np.float32)).tolist() == [[1, 0, 0]]


def test_routing_takes_the_most_confident_and_names_it():
    routed = combined("route")
    np.testing.assert_allclose(routed.p_NC, [[0.9, 0.1], [0.3, 0.7]], atol=1e-7)
    assert routed.origins == [f"supervisor {A}", f"supervisor {C}"]


def test_truth_and_majority():
    truth = relabel.given(spec(source=TruthLabels()), evidence({}, [1, 0, 1]))
    assert (truth.p_NC.tolist(), truth.origins) == ([[0, 1], [1, 0], [0, 1]], ["truth"] * 3)
    found = evidence({A: FOUR}, y_weak_M=np.array([1, 0, 1]))
    same, _ = relabel.made(spec(source=MajorityLabels()), found, True)
    assert (same.p_NC.tolist(), set(same.origins)) == ([[0, 1]] * 4, {"majority"})
    even = evidence({A: FOUR}, y_weak_M=np.array([1, 0]))
    assert relabel.given(spec(source=MajorityLabels()), even).p_NC.tolist() == [[1, 0]] * 4


@pytest.mark.parametrize("asked", [spec(), spec(Harden(), Smooth(eps=0.1), Temperature(t=2.0), Confident(keep=1.0))])
def test_without_being_asked_nothing_looks_at_ground_truth(asked):
    assert not asked.reads_truth
    found = evidence({A: FOUR})
    labelled, _ = relabel.made(asked, found, True)
    assert found.right(labelled) is None
    with pytest.raises(AssertionError, match="did not ask for ground truth"):
        relabel.made(spec(MixTruth(share=0.5)), found, True)


@pytest.mark.parametrize("errors", ["random", "class", "difficulty"])
def test_simulated_labels_say_so_and_are_as_often_right(errors):
    rng = np.random.default_rng(1)
    p = {A: rng.dirichlet([1, 1], 40), B: rng.dirichlet([1, 1], 40)}
    source = SimulatedLabels(like=A, errors=errors, by=B if errors == "difficulty" else None)
    found = evidence(p, rng.integers(0, 2, 40))
    labelled, _ = relabel.made(spec(source=source), found, True)
    assert set(labelled.origins) == {"simulated"}
    assert found.right(labelled) == found.accuracy(A)
    assert not math.isclose(found.accuracy(A), 1.0)
