"""Losses against a slow version written from the paper's formula, and against values computed by hand."""

from __future__ import annotations

import math
from typing import get_args

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from w2s.errors import StepError
from w2s.learn import losses
from w2s.objectives import AdaptConf, AnyLoss, Entropy, Gce, Kl, LogConf, Product, Window, Xent

quick = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
number = st.floats(-20, 20, width=32)


@st.composite
def batches(draw, most_classes=4):
    """(logits, labels, prior) of one batch."""
    n, c = draw(st.integers(1, 9)), draw(st.integers(2, most_classes))
    logits = draw(st.lists(st.lists(number, min_size=c, max_size=c), min_size=n, max_size=n))
    weights = draw(st.lists(st.lists(st.floats(0.01, 1), min_size=c, max_size=c), min_size=n + 3, max_size=n + 3))
    p = torch.tensor(weights, dtype=torch.float64)
    p = p / p.sum(dim=1, keepdim=True)
    return torch.tensor(logits, dtype=torch.float32), p[:n].float(), p.mean(dim=0).float()


thresholds = st.one_of(st.sampled_from(["prior", "half"]), st.floats(0.05, 0.95))


def course(step=0, total=10, prior=None, certainty=math.nan):
    return losses.Course(torch.full((2,), 0.5) if prior is None else prior, certainty, step, total)


def aims_of(loss, p, logits, at):
    return losses.aims(loss, p, None if losses.reads(loss) == "labels" else logits, at)


def mean_loss(loss, logits, p, prior, step, total, certainty=math.nan):
    at = course(step, total, prior, certainty)
    return losses.loss_sum(loss, logits, aims_of(loss, p, logits, at)) / len(logits)


def one(loss, logits, p, **at):
    """The loss of one example, given as lists."""
    logits, p = torch.tensor([logits]), torch.tensor([p])
    return float(losses.loss_sum(loss, logits, aims_of(loss, p, logits, course(**at))))


# -- against the slow version -----------------------------------------------------------------------------------


@quick
@hypothesis.given(batch=batches())
def test_xent_and_its_gradient_equal_the_slow_version(slow, batch):
    logits, p, prior = batch
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = mean_loss(Xent(), ours, p, prior, 3, 10)
    reference = slow.loss(Xent(), list(theirs), p.tolist(), prior.tolist(), 3, 10)
    loss.backward()
    reference.backward()
    assert float(loss.detach()) == pytest.approx(float(reference.detach()), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


@quick
@hypothesis.given(
    batch=batches(), threshold=thresholds, step=st.integers(0, 19), warmup=st.floats(0, 1), a_max=st.floats(0, 1)
)
def test_logconf_and_its_gradient_equal_the_slow_version(slow, batch, threshold, step, warmup, a_max):
    logits, p, prior = batch
    hypothesis.assume(isinstance(threshold, str) or logits.shape[1] == 2)  # a number is refused for more classes
    hypothesis.assume(rules_agree_on_ties(slow, logits, prior, threshold))
    loss = LogConf(a_max=a_max, warmup_frac=warmup, threshold=threshold)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = mean_loss(loss, ours, p, prior, step, 20)
    reference = slow.loss(loss, list(theirs), p.tolist(), prior.tolist(), step, 20)
    value.backward()
    reference.backward()
    assert float(value.detach()) == pytest.approx(float(reference.detach()), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


def rules_agree_on_ties(slow, logits, prior, threshold) -> bool:
    """False where rounding alone decides (probability on the threshold to the last digit, equal scores of classes)."""
    nudged = [slow.hard((logits.double() * s).tolist(), prior.tolist(), threshold) for s in (1.0, 1 + 1e-9, 1 - 1e-9)]
    return bool(nudged[0] == nudged[1] == nudged[2])


def test_the_hard_target_carries_no_gradient():
    """d/df of CE(f, hard) is softmax(f) - hard and nothing else; a = 1 leaves that term alone."""
    logits = torch.tensor([[0.2, 0.1], [0.0, 1.0]], requires_grad=True)
    loss = LogConf(a_max=1.0, warmup_frac=0.0, threshold="half")
    aims = losses.aims(loss, torch.tensor([[0.9, 0.1], [0.9, 0.1]]), logits, course())
    assert not aims.target_GC.requires_grad
    assert aims.target_GC.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    losses.loss_sum(loss, logits, aims).backward()
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), -1) - aims.target_GC)


def test_logconf_by_hand():
    """Logits (0, ln 3): p1 = 3/4. Weak label 1/4, own label 1, a = 1/2: target 5/8 of class 1."""
    logits, p = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.75, 0.25]])
    value = mean_loss(LogConf(a_max=0.5, warmup_frac=0.0, threshold=0.5), logits, p, torch.tensor([0.75, 0.25]), 0, 4)
    weak_term = -(0.75 * math.log(0.25) + 0.25 * math.log(0.75))
    own_term = -math.log(0.75)
    assert float(value) == pytest.approx(0.5 * weak_term + 0.5 * own_term, rel=1e-6)
    assert float(value) == pytest.approx(-(3 / 8 * math.log(1 / 4) + 5 / 8 * math.log(3 / 4)), rel=1e-6)


# -- every other loss against the slow version ---------------------------------------------------------------------

a_loss = st.one_of(
    st.builds(Product, alpha=st.floats(0.2, 3), beta=st.floats(0.2, 3)),
    st.builds(Kl, direction=st.sampled_from(["forward", "reverse"])),
    st.builds(Entropy, a_max=st.floats(0, 1), warmup_frac=st.floats(0, 1), detach=st.booleans()),
    st.builds(Window, radius=st.one_of(st.just("midweak"), st.floats(0.01, 0.9))),
    st.builds(AdaptConf, temperature=st.floats(0.2, 4), warmup_frac=st.floats(0, 1)),
    st.builds(Gce, q=st.floats(0.05, 1)),
)
EVERY = [
    Xent(),
    Product(),
    Kl(),
    Kl(direction="reverse"),
    Entropy(),
    Entropy(detach=True),
    Window(),
    AdaptConf(),
    Gce(),
]


def clear(loss, logits, p, certainty) -> bool:
    """False where rounding alone decides which class is the largest, or whether an example is in the window."""
    f = torch.softmax(logits.double(), -1).sort(dim=-1).values
    q = p.sort(dim=-1).values
    radius = certainty if getattr(loss, "radius", "midweak") == "midweak" else loss.radius
    edge = (f[:, -1] - 1 / p.shape[1] - radius).abs() > 1e-6
    return bool(((f[:, -1] - f[:, -2] > 1e-6) & (q[:, -1] - q[:, -2] > 1e-6) & edge).all())


@hypothesis.settings(max_examples=250, deadline=None, derandomize=True)
@hypothesis.given(batch=batches(), loss=a_loss, step=st.integers(0, 19), certainty=st.floats(0.01, 0.6))
def test_every_other_loss_and_its_gradient_equal_the_slow_version(slow, batch, loss, step, certainty):
    logits, p, prior = batch
    logits = logits / 4  # the slow version takes powers of probabilities, not of their logarithms
    hypothesis.assume(clear(loss, logits, p, certainty))
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = mean_loss(loss, ours, p, prior, step, 20, certainty)
    reference = slow.loss(loss, list(theirs), p.tolist(), prior.tolist(), step, 20, certainty)
    value.backward()
    reference.backward()
    assert float(value.detach()) == pytest.approx(float(reference.detach()), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", EVERY)
def test_the_gradient_is_that_of_finite_differences(loss):
    """Of the value with the aims held fixed: what is trained on has no other way in for the logits."""
    logits = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, 0.2]], dtype=torch.float64)
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)
    aims = aims_of(loss, p, logits, course(step=5))
    rule = losses.RULES[type(loss)]

    def value(x):
        return rule.value(loss, torch.log_softmax(x, dim=-1), *aims)

    if getattr(loss, "detach", False):  # the value moves with H(f), the gradient must not
        x = logits.clone().requires_grad_()
        value(x).backward()
        torch.testing.assert_close(x.grad, 0.5 * 2 * 0.5 * (torch.softmax(logits, -1) - p))
    else:
        assert torch.autograd.gradcheck(value, logits.clone().requires_grad_())


# -- and by hand: logits (0, ln 3) are f = (1/4, 3/4) -----------------------------------------------------------------

F = [0.0, math.log(3.0)]
LN2, LN3 = math.log(2.0), math.log(3.0)
CE = 0.5 * math.log(4) + 0.5 * math.log(4 / 3)  # of the label (1/2, 1/2)
H = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)  # of f


def test_product_by_hand():
    """Label (3/5, 2/5): 3/5 * 1/4 to 2/5 * 3/4 is 1 to 2. Squared label: 9 * 1 to 4 * 3 is 3 to 4."""
    third = math.log(4) / 3 + 2 * math.log(4 / 3) / 3
    assert one(Product(), F, [0.6, 0.4]) == pytest.approx(third, rel=1e-6)
    assert one(Product(alpha=2.0), F, [0.6, 0.4]) == pytest.approx(
        3 / 7 * math.log(4) + 4 / 7 * math.log(4 / 3), rel=1e-6
    )
    tenth = math.log(4) / 10 + 9 * math.log(4 / 3) / 10  # 1/2 * 1/16 to 1/2 * 9/16
    assert one(Product(beta=2.0), F, [0.5, 0.5]) == pytest.approx(tenth, rel=1e-6)


def test_a_product_with_a_hard_label_is_the_label():
    for p in ([1.0, 0.0], [0.0, 1.0]):
        assert one(Product(), F, p) == pytest.approx(one(Xent(), F, p), rel=1e-6)


def test_kl_by_hand():
    """KL(p || f) of p = (1/2, 1/2): ln 2 - 1/2 ln 3 ... = CE - ln 2. KL(f || p): ln 2 - H."""
    assert one(Kl(), F, [0.5, 0.5]) == pytest.approx(CE - LN2, rel=1e-6)
    assert one(Kl(direction="reverse"), F, [0.5, 0.5]) == pytest.approx(LN2 - H, rel=1e-6)
    for direction in ("forward", "reverse"):
        assert one(Kl(direction=direction), F, [0.25, 0.75]) == pytest.approx(0.0, abs=1e-6)
    assert one(Kl(), F, [0.0, 1.0]) == pytest.approx(math.log(4 / 3), rel=1e-6)  # 0 log 0 is 0
    reverse_of_hard = 0.25 * (math.log(1 / 4) + 6 * math.log(10)) + 0.75 * math.log(3 / 4)
    assert one(Kl(direction="reverse"), F, [0.0, 1.0]) == pytest.approx(reverse_of_hard, rel=1e-6)


@quick
@hypothesis.given(batch=batches())
def test_forward_kl_has_the_gradient_of_xent(batch):
    logits, p, prior = batch
    gradients = []
    for loss in (Kl(), Xent()):
        x = logits.clone().requires_grad_()
        mean_loss(loss, x, p, prior, 0, 10).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_entropy_by_hand():
    """Half of the ramp (step 1 of 2): a = 1/4. Its value does not depend on where the gradient stops."""
    for detach in (False, True):
        loss = Entropy(a_max=0.5, warmup_frac=0.2, detach=detach)
        assert one(loss, F, [0.5, 0.5], step=1) == pytest.approx(0.75 * CE + 0.25 * H, rel=1e-6)
        assert one(loss, F, [0.5, 0.5], step=0) == pytest.approx(CE, rel=1e-6)
        assert one(loss, F, [0.5, 0.5], step=9) == pytest.approx(0.5 * CE + 0.5 * H, rel=1e-6)


def test_a_detached_entropy_moves_nothing():
    """What the program of the loss's authors does: a = 1 leaves no gradient at all. Not detached, it sharpens f."""
    gradients = []
    for detach in (True, False):
        x = torch.tensor([F], requires_grad=True)
        loss = Entropy(a_max=1.0, warmup_frac=0.0, detach=detach)
        losses.loss_sum(loss, x, aims_of(loss, torch.tensor([[0.5, 0.5]]), x, course())).backward()
        gradients.append(x.grad.tolist()[0])
    assert gradients[0] == pytest.approx([0.0, 0.0], abs=1e-7)
    # dH/dz_1 = -f_1 (log f_1 + H), here -3/4 (ln 3/4 + H) = -3/16 ln 3
    assert gradients[1] == pytest.approx([3 / 16 * LN3, -3 / 16 * LN3], rel=1e-5)


def test_window_by_hand():
    """f = 3/4 is 1/4 above one half: outside a radius of 1/4, inside 0.26. Three classes: above one third."""
    assert one(Window(radius=0.25), F, [0.5, 0.5]) == 0.0
    assert one(Window(radius=0.26), F, [0.5, 0.5]) == pytest.approx(CE, rel=1e-6)
    assert one(Window(radius="midweak"), F, [0.5, 0.5], certainty=0.2) == 0.0
    assert one(Window(radius="midweak"), F, [0.5, 0.5], certainty=0.3) == pytest.approx(CE, rel=1e-6)
    three = [0.0, 0.0, LN2]  # f = (1/4, 1/4, 1/2), 1/6 above chance
    assert one(Window(radius=0.16), three, [1.0, 0.0, 0.0]) == 0.0
    assert one(Window(radius=0.17), three, [1.0, 0.0, 0.0]) == pytest.approx(math.log(4), rel=1e-6)


def test_the_window_divides_by_all_examples():
    logits, p = torch.tensor([F, [0.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    aims = losses.aims(Window(radius=0.1), p, logits, course())
    assert aims.weight_G.tolist() == [0.0, 1.0]
    assert float(losses.loss_sum(Window(), logits, aims)) / 2 == pytest.approx(LN2 / 2)


def test_midweak_is_the_lower_median_of_the_labels_certainty():
    p1 = [0.9, 0.4, 0.5, 0.2]  # 0.4, 0.1, 0, 0.3 from one half
    found = losses.course_of(Window(radius="midweak"), torch.tensor([[1 - x, x] for x in p1]))
    assert found.certainty == pytest.approx(0.1)
    assert found.prior_C.tolist() == pytest.approx([0.5, 0.5])
    three = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    assert losses.course_of(Xent(), three).certainty == pytest.approx(0.6 - 1 / 3)


def test_adaptconf_by_hand():
    """Temperature 1/2: s = f_own^-2, w = f_weak^-2. Against a label of the other class: s = 16/9, w = 16, b = 1/10."""
    agree = 0.5 * (0.4 * math.log(4) + 0.6 * math.log(4 / 3)) + 0.5 * math.log(4 / 3)
    assert one(AdaptConf(), F, [0.4, 0.6]) == pytest.approx(agree, rel=1e-6)
    differ = 0.9 * (0.6 * math.log(4) + 0.4 * math.log(4 / 3)) + 0.1 * math.log(4 / 3)
    assert one(AdaptConf(), F, [0.6, 0.4]) == pytest.approx(differ, rel=1e-6)
    at_one = 0.75 * (0.6 * math.log(4) + 0.4 * math.log(4 / 3)) + 0.25 * math.log(4 / 3)  # s = 4/3, w = 4
    assert one(AdaptConf(temperature=1.0), F, [0.6, 0.4]) == pytest.approx(at_one, rel=1e-6)
    ramped = AdaptConf(warmup_frac=0.4)  # 4 of 10 steps: half the weight at step 2
    half = 0.95 * (0.6 * math.log(4) + 0.4 * math.log(4 / 3)) + 0.05 * math.log(4 / 3)
    assert one(ramped, F, [0.6, 0.4], step=2) == pytest.approx(half, rel=1e-6)


def test_adaptconf_weighs_each_example_by_itself():
    logits, p = torch.tensor([F, F]), torch.tensor([[0.4, 0.6], [0.6, 0.4]])
    aims = losses.aims(AdaptConf(), p, logits, course())
    # b = 1/2: (0.2, 0.8); b = 1/10: (0.54, 0.46)
    torch.testing.assert_close(aims.target_GC, torch.tensor([[0.2, 0.8], [0.54, 0.46]]))
    alone = [losses.aims(AdaptConf(), p[i : i + 1], logits[i : i + 1], course()).target_GC for i in range(2)]
    assert torch.equal(torch.cat(alone), aims.target_GC)


def test_gce_by_hand():
    """q = 1/2 and f = 1/4: 2 (1 - 1/2) = 1. q = 1: 1 - f. A soft label weighs its classes."""
    assert one(Gce(q=0.5), F, [1.0, 0.0]) == pytest.approx(1.0, rel=1e-6)
    assert one(Gce(q=1.0), F, [0.0, 1.0]) == pytest.approx(0.25, rel=1e-6)
    assert one(Gce(q=1.0), F, [0.4, 0.6]) == pytest.approx(0.4 * 0.75 + 0.6 * 0.25, rel=1e-6)
    assert one(Gce(), F, [1.0, 0.0]) == pytest.approx((1 - 0.25**0.7) / 0.7, rel=1e-6)


def test_gce_runs_from_cross_entropy_to_mean_absolute_error():
    assert one(Gce(q=1e-6), F, [0.3, 0.7]) == pytest.approx(one(Xent(), F, [0.3, 0.7]), rel=1e-5)
    f = torch.softmax(torch.tensor(F), -1)
    assert one(Gce(q=1.0), F, [1.0, 0.0]) == pytest.approx(float((f - torch.tensor([1.0, 0.0])).abs().sum()) / 2)


def test_gce_against_a_soft_label_is_least_at_a_sharper_prediction():
    """q = 1/2: f proportional to p^2, here (0.8, 0.2) to the second power, 16 to 1; xent is least at p itself."""
    for loss, least in ((Gce(q=0.5), math.log(16.0)), (Xent(), math.log(4.0))):
        x = torch.tensor([[least, 0.0]], requires_grad=True)
        losses.loss_sum(loss, x, aims_of(loss, torch.tensor([[0.8, 0.2]]), x, course())).backward()
        assert x.grad.tolist()[0] == pytest.approx([0.0, 0.0], abs=1e-6)


# -- for every loss -------------------------------------------------------------------------------------------------


@quick
@hypothesis.given(batch=batches(), cut=st.integers(1, 9), loss=st.one_of(a_loss, st.just(Xent()), st.just(LogConf())))
def test_sums_over_parts_are_the_sum(batch, cut, loss):
    """Also of the aims, but for the loss that reads the batch: those are made once."""
    logits, p, prior = batch
    at = course(3, 20, prior, 0.2)
    whole = aims_of(loss, p, logits, at)
    parts = [slice(i, i + cut) for i in range(0, len(logits), cut)]
    summed = sum(losses.loss_sum(loss, logits[i], whole.rows(i, logits.device)) for i in parts)
    torch.testing.assert_close(summed, losses.loss_sum(loss, logits, whole), rtol=1e-5, atol=1e-5)
    if losses.reads(loss) != "batch":
        made = [aims_of(loss, p[i], logits[i], at) for i in parts]
        for together, apart in zip(whole, zip(*made, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=1e-7)


def test_aims_of_the_confidence_loss_cannot_be_made_of_parts():
    """Negative control: one positive in a batch of two is none or both in batches of one."""
    logits, p = torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.full((2, 2), 0.5)
    loss = LogConf(warmup_frac=0.0)
    apart = torch.cat([aims_of(loss, p[i : i + 1], logits[i : i + 1], course()).target_GC for i in range(2)])
    assert not torch.equal(apart, aims_of(loss, p, logits, course()).target_GC)


@quick
@hypothesis.given(
    batch=batches(), step=st.integers(0, 19), loss=st.one_of(a_loss, st.builds(LogConf, a_max=st.just(0.7)))
)
def test_aims_are_probabilities_and_weights_and_leave_their_inputs_alone(batch, step, loss):
    logits, p, prior = batch
    before = p.clone(), logits.clone()
    aims = aims_of(loss, p, logits.requires_grad_(), course(step, 20, prior, 0.2))
    assert torch.equal(p, before[0])
    assert torch.equal(logits.detach(), before[1])
    assert not any(tensor.requires_grad for tensor in aims)
    assert {tensor.dtype for tensor in aims} == {torch.float32}
    assert bool((aims.target_GC >= 0).all())
    torch.testing.assert_close(aims.target_GC.sum(dim=1), torch.ones(len(p)), rtol=0, atol=1e-6)
    assert bool(((aims.weight_G >= 0) & (aims.weight_G <= 1)).all())
    assert losses.drops(loss) == isinstance(loss, Window)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", [*EVERY, Window(radius="midweak"), AdaptConf(temperature=0.01), Gce(q=1e-3)])
def test_extreme_logits_and_hard_labels_stay_finite(loss, classes):
    rows = [[1e4 if c == k else -1e4 for c in range(classes)] for k in range(classes)] + [[1e4] * classes]
    logits = torch.tensor(rows, requires_grad=True)
    p = torch.eye(classes)[[*range(1, classes), 0, 0]]
    value = mean_loss(loss, logits, p, p.mean(dim=0), 3, 5, 0.3)
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert bool(torch.isfinite(logits.grad).all())


def test_every_loss_has_a_rule():
    assert set(losses.RULES) == set(get_args(AnyLoss))
    assert {loss.__name__: losses.RULES[loss].reads for loss in losses.RULES} == {
        "Xent": "labels", "Kl": "labels", "Gce": "labels", "Entropy": "labels",
        "Product": "own", "Window": "own", "AdaptConf": "own", "LogConf": "batch",
    }  # fmt: skip


# -- the ramp ---------------------------------------------------------------------------------------------------


def test_ramp_by_hand():
    """20 % of 10 steps: two steps of warm-up, a_max from the third on."""
    assert [losses.ramp(s, 10, 0.2, 0.5) for s in range(10)] == [0.0, 0.25, *[0.5] * 8]
    assert [losses.ramp(s, 4, 1.0, 0.8) for s in range(4)] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_ramp_without_warmup_starts_at_a_max():
    assert [losses.ramp(s, 3, 0.0, 0.5) for s in range(3)] == [0.5] * 3


@quick
@hypothesis.given(total=st.integers(1, 400), warmup=st.floats(0, 1), a_max=st.floats(0.01, 1))
def test_ramp_climbs_evenly_to_a_max_and_stays(total, warmup, a_max):
    """Excludes the reference program's fault: 0 -> 0.05 over the warm-up, then a jump to 0.5."""
    values = [losses.ramp(s, total, warmup, a_max) for s in range(total + 1)]
    assert values[0] == (0.0 if warmup * total > 0 else a_max)
    assert values[-1] == pytest.approx(a_max, rel=1e-12)  # at the end of training, were there one more step
    assert all(0.0 <= value <= a_max for value in values)
    first = math.ceil(warmup * total)
    assert all(value == a_max for value in values[first:])
    steepest = a_max / max(warmup * total, 1e-12)
    rises = np.diff(values)
    assert (rises >= 0).all()
    assert (rises <= steepest * (1 + 1e-9)).all()  # no step climbs more than the line does: no jump
    whole = rises[: math.floor(warmup * total)]
    assert whole == pytest.approx(np.full(len(whole), steepest), rel=1e-6, abs=1e-12)


def test_the_reference_programs_ramp_would_fail_these_tests():
    """Negative control: its weight rises to a tenth of a_max over the warm-up and jumps to a_max after it."""
    theirs = [0.5 if s >= 20 else 0.05 * s / 20 for s in range(100)]
    assert max(np.diff(theirs)) > 0.4
    assert max(np.diff([losses.ramp(s, 100, 0.2, 0.5) for s in range(100)])) == pytest.approx(0.025)


# -- the threshold ----------------------------------------------------------------------------------------------


def two_class(inclinations):
    return torch.tensor([[0.0, x] for x in inclinations])


def hard(inclinations, prior1, threshold):
    return losses.hard_labels(two_class(inclinations), torch.tensor([1 - prior1, prior1]), threshold).tolist()


def test_threshold_by_prior_takes_the_most_inclined():
    assert hard([-3.0, -1.0, -2.0, -4.0], 0.25, "prior") == [0, 1, 0, 0]
    assert hard([3.0, 1.0, 2.0, 4.0], 0.75, "prior") == [1, 0, 1, 1]
    assert hard([3.0, 1.0, 2.0, 4.0], 0.0, "prior") == [0, 0, 0, 0]
    assert hard([-3.0, -1.0], 1.0, "prior") == [1, 1]


def test_threshold_by_half_ignores_the_prior_and_rounds_half_up():
    assert hard([5.0, 6.0, 7.0, 8.0], 0.1, "half") == [0, 0, 1, 1]
    assert hard([5.0, 6.0, 7.0], 0.1, "half") == [0, 1, 1]
    assert sum(hard(list(range(33)), 0.5, "half")) == 17  # Python's round(16.5) is 16,
    assert sum(hard(list(range(35)), 0.5, "half")) == 18  # and round(17.5) is 18: the rule must be one


def test_threshold_by_a_number():
    """Probabilities of class 1: 1/4, 1/2, 3/4."""
    inclinations = [-math.log(3.0), 0.0, math.log(3.0)]
    assert hard(inclinations, 0.9, 0.5) == [0, 0, 1]
    assert hard(inclinations, 0.9, 0.2) == [1, 1, 1]
    assert hard(inclinations, 0.9, 0.8) == [0, 0, 0]


def test_ties_go_to_the_earlier_example():
    assert hard([0.0] * 5, 0.4, "prior") == [1, 1, 0, 0, 0]
    assert hard([1.0, 2.0, 1.0, 1.0], 0.5, "half") == [1, 1, 0, 0]
    assert hard([0.0] * 1000, 0.3, "prior") == [1] * 300 + [0] * 700  # so many that an unstable sort would mix them


@quick
@hypothesis.given(inclinations=st.lists(number, min_size=1, max_size=40), share=st.floats(0, 1, width=32))
def test_the_share_of_positives_is_the_prior_to_half_an_example(inclinations, share):
    chosen = hard(inclinations, share, "prior")
    assert abs(sum(chosen) - share * len(chosen)) <= 0.5 + 1e-4
    assert sum(hard(inclinations, share, "half")) == (len(chosen) + 1) // 2
    if 0 < sum(chosen) < len(chosen):
        lowest_in = min(x for x, y in zip(inclinations, chosen, strict=True) if y)
        assert lowest_in >= max(x for x, y in zip(inclinations, chosen, strict=True) if not y)


@quick
@hypothesis.given(batch=batches(most_classes=2), shift=st.floats(-5, 5))
def test_a_common_shift_of_all_inclinations_changes_no_adaptive_label(batch, shift):
    """What the adaptive threshold is for: a student whose bias drifts keeps its labels; a fixed number would not."""
    logits, _, prior = batch
    logits = (logits * 8).round() / 8  # spaced far above rounding
    shifted = logits + torch.tensor([0.0, round(shift * 8) / 8])
    for threshold in ("prior", "half"):
        assert torch.equal(losses.hard_labels(logits, prior, threshold), losses.hard_labels(shifted, prior, threshold))
    assert hard([0.1, 0.2], 0.5, 0.5) != hard([0.1 - 1, 0.2 - 1], 0.5, 0.5)


def test_more_classes_by_hand():
    """Class 0 is likely everywhere: divided by its batch mean it wins only where it is likelier than usual."""
    p = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.1, 0.2], [0.8, 0.1, 0.1]])
    equal = torch.full((3,), 1 / 3)
    # means (0.7, 1/6, 2/15): ratios row 0 (0.857, 1.8, 0.75), row 1 (1, 0.6, 1.5), row 2 (1.143, 0.6, 0.75)
    assert losses.hard_labels(p.log(), equal, "half").tolist() == [1, 2, 0]
    assert losses.hard_labels(p.log(), equal, "prior").tolist() == [1, 2, 0]
    # times the prior (0.7, 0.2, 0.1): row 0 (0.6, 0.36, 0.075), row 1 (0.7, 0.12, 0.15), row 2 (0.8, 0.12, 0.075)
    assert losses.hard_labels(p.log(), torch.tensor([0.7, 0.2, 0.1]), "prior").tolist() == [0, 0, 0]
    assert p.argmax(dim=1).tolist() == [0, 0, 0]  # negative control: a plain argmax would never leave class 0


@pytest.mark.parametrize(("classes", "threshold"), [(2, "prior"), (2, "half"), (2, 0.5), (3, "prior"), (3, "half")])
def test_extreme_logits_stay_finite(classes, threshold):
    rows = [[1e4 if c == k else -1e4 for c in range(classes)] for k in range(classes)] + [[1e4] * classes]
    logits = torch.tensor(rows, requires_grad=True)
    p = torch.full((len(rows), classes), 1 / classes)
    value = mean_loss(LogConf(a_max=0.5, warmup_frac=0.0, threshold=threshold), logits, p, p[0], 0, 5)
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_a_number_is_no_threshold_for_more_than_two_classes():
    """It would have to be ignored, and two sweeps that differ in it would give the same numbers."""
    with pytest.raises(StepError, match=r"recipe\.loss\.threshold: 0\.3 .* 3 classes"):
        losses.hard_labels(torch.zeros(4, 3), torch.full((3,), 1 / 3), 0.3)


def test_a_class_that_no_student_and_no_label_has_is_never_chosen():
    logits = torch.tensor([[0.0, 0.0, -1e4], [1.0, 0.0, -1e4]])
    assert 2 not in losses.hard_labels(logits, torch.tensor([0.5, 0.5, 0.0]), "prior").tolist()
