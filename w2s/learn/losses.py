"""Losses as pure functions of tensors and numbers; schedules and batch statistics arrive as arguments.

Shapes: B examples of a micro-batch, G examples of the global batch, C classes.

A loss has two parts. `aims` makes a target and a weight for each example, without gradient, from the labels and, where
the loss reads them, the student's own logits. `loss_sum` adds up a function of each example's logits, target and
weight alone. So sums over micro-batches and ranks cannot depend on how the batch was cut, as long as the aims of a
loss that reads the batch are made on the global one. Formulas and sources: w2s/objectives.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from w2s.errors import StepError
from w2s.learn import custom
from w2s.objectives import AdaptConf, Entropy, Gce, Kl, LogConf, Loss, PluginLoss, Product, Window, Xent

LEAST_LABEL = 1e-6  # of a class, in the reverse KL divergence: log 0 has no gradient to follow
ROUNDING = 1e-6  # of a label in float32


class Course(NamedTuple):
    """What a loss may know beside one batch: the labels of the training set, and how far training is."""

    prior_C: Tensor  # the mean label
    certainty: float  # the median over examples of the largest label minus 1/C
    step: int  # optimizer steps done
    total_steps: int


class Aims(NamedTuple):
    """What each example is pulled to, and by how much; neither carries a gradient."""

    target_GC: Tensor
    weight_G: Tensor

    def rows(self, part: Any, device: torch.device) -> Aims:
        """Those of some examples of the batch."""
        return Aims(self.target_GC[part].to(device), self.weight_G[part].to(device))


class Rule(NamedTuple):
    """How a loss is computed.

    `reads`: labels only; the example's own logits too; or those of its whole batch. `value` takes the loss,
    log f (B, C), target (B, C) and weight (B,), and gives the sum over examples. `drops`: a weight of 0 leaves an
    example out of a step, which is recorded.
    """

    reads: Literal["labels", "own", "batch"]
    aims: Callable[[Any, Tensor, Tensor, Course], Aims]
    value: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    drops: bool = False


def reads(loss: Loss) -> Literal["labels", "own", "batch"]:
    """What the aims of a loss are made of."""
    return custom.reads(loss) if isinstance(loss, PluginLoss) else RULES[type(loss)].reads


def drops(loss: Loss) -> bool:
    """True where a step may leave examples out."""
    return custom.reads(loss) != "labels" if isinstance(loss, PluginLoss) else RULES[type(loss)].drops


def aims(loss: Loss, p_GC: Tensor, logits_GC: Tensor | None, course: Course) -> Aims:
    """Targets and weights of the examples of one global batch, or of some of them if `reads` is not `batch`.

    `p_GC` are the labels, `logits_GC` the student's logits on the same examples (None where `reads` is `labels`).
    """
    if isinstance(loss, PluginLoss):
        return Aims(*custom.aims(loss, p_GC, logits_GC, course))
    rule = RULES[type(loss)]
    assert (logits_GC is None) == (rule.reads == "labels")
    return rule.aims(loss, p_GC, p_GC if logits_GC is None else logits_GC.detach(), course)


def loss_sum(loss: Loss, logits_BC: Tensor, aims_B: Aims) -> Tensor:
    """Sum of the loss over examples, in nats and in float32."""
    if isinstance(loss, PluginLoss):
        return custom.loss_sum(loss, logits_BC, *aims_B)
    log_f_BC = torch.log_softmax(logits_BC.float(), dim=-1)
    return RULES[type(loss)].value(loss, log_f_BC, aims_B.target_GC, aims_B.weight_G)


def unlikelihood_sum(log_p_B1: Tensor, aims_B: Aims) -> Tensor:
    """Cross-entropy of target texts: -w log p, where log p is the sum over a text's tokens. In nats."""
    return -(aims_B.weight_G * log_p_B1[:, 0]).sum()


def course_of(loss: Loss, labels_NC: Tensor) -> Course:
    """The course of a training at its start. Raises StepError where the labels leave no meaning to the loss."""
    classes = labels_NC.shape[-1]
    certainty = float(labels_NC.max(dim=-1).values.median()) - 1.0 / classes
    if isinstance(loss, Window) and loss.radius == "midweak":
        if certainty >= 1.0 - 1.0 / classes - ROUNDING:
            why = "more than half of the labels are hard, so that the window would hold every example, as in xent"
        elif certainty <= ROUNDING:
            why = "half or more of the labels are equal for all classes, so that the window would hold no example"
        else:
            why = ""
        if why:
            raise StepError(f"recipe.loss.radius: midweak has no meaning here: {why}; write a number, such as 0.15")
    return Course(labels_NC.double().mean(dim=0).float(), certainty, 0, 0)


# -- values: pure functions of each example -----------------------------------------------------------------------


def cross_entropy(_: Loss, log_f_BC: Tensor, target_BC: Tensor, weight_B: Tensor) -> Tensor:
    """-w sum_c t log f."""
    return -(weight_B[:, None] * target_BC * log_f_BC).sum()


def divergence(loss: Kl, log_f_BC: Tensor, target_BC: Tensor, weight_B: Tensor) -> Tensor:
    """w KL(t || f), or w KL(f || t) in reverse."""
    if loss.direction == "forward":
        terms_BC = torch.xlogy(target_BC, target_BC) - target_BC * log_f_BC
    else:
        terms_BC = log_f_BC.exp() * (log_f_BC - target_BC.clamp_min(LEAST_LABEL).log())
    return (weight_B[:, None] * terms_BC).sum()


def with_entropy(loss: Entropy, log_f_BC: Tensor, target_BC: Tensor, weight_B: Tensor) -> Tensor:
    """w CE(f, t) + (1 - w) H(f); detached, the gradient of CE(f, f) with f a fixed target is f - f = 0."""
    own_BC = log_f_BC.detach() if loss.detach else log_f_BC
    entropy_B = -(own_BC.exp() * own_BC).sum(dim=-1)
    return cross_entropy(loss, log_f_BC, target_BC, weight_B) + ((1.0 - weight_B) * entropy_B).sum()


def generalised(loss: Gce, log_f_BC: Tensor, target_BC: Tensor, weight_B: Tensor) -> Tensor:
    """w sum_c t (1 - f^q) / q."""
    lost_BC = -torch.expm1(loss.q * log_f_BC) / loss.q  # keeps its digits where q is small
    return (weight_B[:, None] * target_BC * lost_BC).sum()


# -- aims: of labels, own logits, the batch -----------------------------------------------------------------------


def labels_alone(_: Loss, p_GC: Tensor, *_more: object) -> Aims:
    """The labels as they are, all of one weight."""
    return Aims(p_GC, torch.ones_like(p_GC[:, 0]))


def confident(loss: LogConf, p_GC: Tensor, logits_GC: Tensor, course: Course) -> Aims:
    """(1 - a) CE(f, p) + a CE(f, hard_t(f)) is cross-entropy against the mixed target."""
    a = ramp(course.step, course.total_steps, loss.warmup_frac, loss.a_max)
    y_G = hard_labels(logits_GC, course.prior_C, loss.threshold)
    return _all((1.0 - a) * p_GC + a * one_hot(y_G, p_GC))


def product(loss: Product, p_GC: Tensor, logits_GC: Tensor, _: Course) -> Aims:
    """Label to the alpha times prediction to the beta, made to sum to 1; by logarithms, which do not underflow."""
    log_f_GC = torch.log_softmax(logits_GC.double(), dim=-1)
    return _all(torch.softmax(loss.alpha * p_GC.double().log() + loss.beta * log_f_GC, dim=-1).to(p_GC))


def scheduled(loss: Entropy, p_GC: Tensor, _: Tensor, course: Course) -> Aims:
    """The labels with weight 1 - a."""
    a = ramp(course.step, course.total_steps, loss.warmup_frac, loss.a_max)
    return Aims(p_GC, torch.full_like(p_GC[:, 0], 1.0 - a))


def window(loss: Window, p_GC: Tensor, logits_GC: Tensor, course: Course) -> Aims:
    """Weight 1 where the student's largest probability is below 1/C + radius, 0 elsewhere."""
    radius = course.certainty if isinstance(loss.radius, str) else loss.radius
    largest_G = torch.softmax(logits_GC.double(), dim=-1).max(dim=-1).values
    return Aims(p_GC, (largest_G < 1.0 / p_GC.shape[-1] + radius).to(p_GC))


def adaptive(loss: AdaptConf, p_GC: Tensor, logits_GC: Tensor, course: Course) -> Aims:
    """(1 - b) p + b hard f with an own b for each example. Ties go to the lower class."""
    log_f_GC = torch.log_softmax(logits_GC.double(), dim=-1)
    y_G = log_f_GC.argmax(dim=-1)
    log_own_G, log_weak_G = (log_f_GC.gather(1, chosen[:, None])[:, 0] for chosen in (y_G, p_GC.argmax(dim=-1)))
    # s / (s + w) by its logistic form: the exponentials alone overflow.
    b_G = torch.sigmoid((log_weak_G - log_own_G) / loss.temperature) * ramp(
        course.step, course.total_steps, loss.warmup_frac, 1.0
    )
    b_G1 = b_G[:, None].to(p_GC)
    return _all((1.0 - b_G1) * p_GC + b_G1 * one_hot(y_G, p_GC))


def _all(target_GC: Tensor) -> Aims:
    return Aims(target_GC, torch.ones_like(target_GC[:, 0]))


def one_hot(y_G: Tensor, p_GC: Tensor) -> Tensor:
    """Class indices as probabilities, of the shape, type and place of `p_GC`."""
    return torch.nn.functional.one_hot(y_G, p_GC.shape[-1]).to(p_GC)


def ramp(step: int, total_steps: int, warmup_frac: float, a_max: float) -> float:
    """The weight a of a term that is only trusted later, at optimizer step `step` (0-based) of `total_steps`.

    Linear from 0 at the first step to `a_max`, which is reached after `warmup_frac` of the steps and kept.
    Source: Burns et al. 2023, appendix A.4.
    """
    warmup_steps = warmup_frac * total_steps
    return a_max if step >= warmup_steps else a_max * step / warmup_steps


def hard_labels(logits_GC: Tensor, prior_C: Tensor, threshold: str | float) -> Tensor:
    """The student's own hard predictions on one global batch, as class indices (G,).

    Two classes: the `k` examples most inclined to class 1 are positive, with k = round(share * G); share is the prior
    of class 1 (`prior`) or one half (`half`). A number is a threshold on the probability of class 1 instead. Ties go
    to the earlier example, so that exactly k are positive.
    More classes: argmax of the probabilities divided by their batch mean and multiplied by the prior (`half` has no
    meaning there and uses equal shares). A number has none either: StepError.
    Source: Burns et al. 2023, sec. 4.3.2 (adaptive threshold), generalised to K classes.
    """
    classes = logits_GC.shape[-1]
    if classes == 2:
        inclination_G = logits_GC[:, 1].double() - logits_GC[:, 0].double()
        if not isinstance(threshold, str):
            p1_G = torch.sigmoid(inclination_G)
            return (p1_G > threshold).long()
        share = 0.5 if threshold == "half" else float(prior_C[1])
        # Python's round would send 16.5 to 16 and 17.5 to 18; half up keeps the rule the same for every batch size.
        positives = int(share * len(inclination_G) + 0.5)
        order_G = torch.sort(inclination_G, descending=True, stable=True).indices
        y_G = torch.zeros(len(inclination_G), dtype=torch.long, device=logits_GC.device)
        y_G[order_G[:positives]] = 1
        return y_G
    if not isinstance(threshold, str):
        raise StepError(
            f"recipe.loss.threshold: {threshold:g} is a number, which needs two classes, and the task has {classes} "
            "classes; use prior or half"
        )
    p_GC = torch.softmax(logits_GC.double(), dim=-1)
    wanted_C = prior_C.double() if threshold == "prior" else torch.full_like(prior_C, 1.0 / classes, dtype=torch.double)
    return (p_GC / p_GC.mean(dim=0).clamp_min(1e-12) * wanted_C.to(p_GC.device)).argmax(dim=-1)


RULES: dict[type, Rule] = {
    Xent: Rule("labels", labels_alone, cross_entropy),
    Kl: Rule("labels", labels_alone, divergence),
    Gce: Rule("labels", labels_alone, generalised),
    Entropy: Rule("labels", scheduled, with_entropy),
    LogConf: Rule("batch", confident, cross_entropy),
    Product: Rule("own", product, cross_entropy),
    Window: Rule("own", window, cross_entropy, drops=True),
    AdaptConf: Rule("own", adaptive, cross_entropy),
}
