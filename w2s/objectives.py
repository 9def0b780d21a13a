"""Specs of the losses a student is trained with: their names and numbers. What they compute is in learn/losses.py.

In formulas f is the student's softmax, p the label (soft or hard), C the number of classes, CE(f, t) = -sum t log f.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from w2s.identity import Spec, identity
from w2s.plugins import PluginUse


class Xent(Spec):
    """Cross-entropy against the labels, soft or hard."""

    name: Literal["xent"] = identity("xent")


class LogConf(Spec):
    """Auxiliary confidence loss. Source: Burns et al. 2023, sec. 4.3.2 and appendix A.4."""

    name: Literal["logconf"] = identity("logconf")
    a_max: float = identity(
        0.5, ge=0.0, le=1.0, about="Weight of the student's own hard predictions, once it is reached."
    )
    warmup_frac: float = identity(
        0.2, ge=0.0, le=1.0, about="Over this share of the optimizer steps the weight climbs from 0 to a_max."
    )
    threshold: Literal["prior", "half"] | Annotated[float, Field(gt=0.0, lt=1.0)] = identity(
        "prior",
        about="Share of positives in each global batch: that of the labels (prior) or a half; or a probability.",
    )


class Product(Spec):
    """CE(f, t) with t proportional to p^alpha f^beta, without gradient. Source: openai/weak-to-strong, loss.py.

    Its `warmup_frac`, which nothing there reads, is left out. Against hard labels t is the label: xent.
    """

    name: Literal["product"] = identity("product")
    alpha: float = identity(1.0, gt=0.0, about="Power of the label.")
    beta: float = identity(1.0, gt=0.0, about="Power of the student's prediction.")


class Kl(Spec):
    """Kullback-Leibler divergence. forward: KL(p || f); reverse: KL(f || p), which prefers one class over a spread.

    forward has the gradient of xent; only the loss that is recorded differs, by the entropy of the labels.
    In reverse a label's probability below 1e-6 counts as 1e-6.
    Sources: EleutherAI/w2s, loss.py (forward); Yao et al. 2025, "Reverse KL vs. Forward KL" (reverse).
    """

    name: Literal["kl"] = identity("kl")
    direction: Literal["forward", "reverse"] = identity(
        "forward",
        about="forward: KL(p || f), the gradient of xent; reverse: KL(f || p), which prefers one class over a spread.",
    )


class Entropy(Spec):
    """(1 - a) CE(f, p) + a H(f): logconf with the student's soft predictions. a ramps up as in logconf.

    Source: EleutherAI's blog post of 2024-06-14. Its program (EleutherAI/w2s, loss.py) stops the gradient in the
    student's prediction, so that the second term moves nothing and the gradient is (1 - a) times that of xent:
    `detach: true` is that. There a ramps over 100 optimizer steps, here over a share of the training.
    """

    name: Literal["entropy"] = identity("entropy")
    a_max: float = identity(0.5, ge=0.0, le=1.0, about="Weight of the entropy, once it is reached.")
    warmup_frac: float = identity(
        0.2, ge=0.0, le=1.0, about="Over this share of the optimizer steps the weight climbs from 0 to a_max."
    )
    detach: bool = identity(
        False,
        about="True: no gradient through the entropy, as in EleutherAI/w2s; it then only scales xent by 1 - a.",
    )


class Window(Spec):
    """CE(f, p) of the examples with max f < 1/C + radius, where the student is unsure; the others count as zero.

    midweak: the radius is the median over the training set of max p - 1/C. The sum is divided by all examples of a
    batch, in the window or not; a batch without any has loss and gradient 0, and AdamW moves on by its momentum.
    Source: EleutherAI/w2s, loss.py and sft.py, for C = 2, where 1/C is its one half.
    """

    name: Literal["window"] = identity("window")
    radius: Literal["midweak"] | Annotated[float, Field(gt=0.0, lt=1.0)] = identity(
        0.15,
        about="How far above 1/C the student's largest probability may be; midweak: the median of that of the labels.",
    )


class AdaptConf(Spec):
    """(1 - b) CE(f, p) + b CE(f, hard f), with a weight b of each example's own and without gradient.

    b = s / (s + w), with s = exp(CE(f, hard f) / temperature) and w = exp(CE(f, hard p) / temperature): one half
    where student and label agree on the class, less the surer the student is of another one.
    Source: Guo et al. 2024, arXiv 2402.03749, and ggjy/vision_weak_to_strong, adaptconf.py, whose default temperature
    this is. Left out: its loss on ground truth; its temperature of distillation, which is 1 here. b may ramp up from
    0 over `warmup_frac`, as in its program for noisy labels (0.25 there).
    """

    name: Literal["adaptconf"] = identity("adaptconf")
    temperature: float = identity(
        0.5,
        gt=0.0,
        about="Of the two cross-entropies that an example's weight is made of; the lower, the harder the choice.",
    )
    warmup_frac: float = identity(
        0.0, ge=0.0, le=1.0, about="Over this share of the optimizer steps the weights climb from 0 to their values."
    )


class Gce(Spec):
    """Generalised cross-entropy sum_c p_c (1 - f_c^q) / q: xent as q goes to 0, mean absolute error (halved) at 1.

    Source: Zhang & Sabuncu 2018, arXiv 1805.07836, the L_q loss without its truncated form. Written for hard labels;
    a soft label weighs the losses of its classes, whose sum is least at f proportional to p^(1 / (1 - q)), sharper
    than p.
    """

    name: Literal["gce"] = identity("gce")
    q: float = identity(0.7, gt=0.0, le=1.0, about="Towards 0 the loss is xent, at 1 half the mean absolute error.")


class PluginLoss(PluginUse):
    """A loss of the user's own, from a file that the sweep's `plugins` names. See docs/extending.md."""

    name: Literal["plugin"] = identity("plugin")


AnyLoss = Xent | LogConf | Product | Kl | Entropy | Window | AdaptConf | Gce
Loss = Annotated[AnyLoss | PluginLoss, Field(discriminator="name")]
