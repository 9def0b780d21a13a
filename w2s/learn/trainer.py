"""A classifier, tokenised texts and labels in, a trained classifier and its history out: the one training loop.

One process, DDP and DeepSpeed go through the same lines. A step's gradient is that of the mean loss over its global
batch, however the batch is cut into ranks, micro-batches and chunks; losses and aims are those of the global batch.

Shapes: N training examples, G examples of the global batch, B of a micro-batch, C classes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import accelerate
import numpy as np
import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

from w2s.errors import StepError
from w2s.learn import losses, ranks
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, cut, epoch_batches, length_chunks
from w2s.learn.checkpoint import Checkpoints, Evaluation, Progress
from w2s.learn.optimizer import inner_optimizer, lr_at, make_optimizer
from w2s.progress import Count, silent
from w2s.randomness import stream_seed
from w2s.spec import Recipe
from w2s.stopping import Stopped, Stopping


@dataclass(frozen=True)
class Trained:
    """The classifier as prepared, after its last step; one row per step: step, epoch, loss, lr, examples, seconds.

    A loss that leaves examples out adds `weight`, the share of the batch that it learnt from.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    evaluations: list[Evaluation]


class Spent(NamedTuple):
    """Sums over examples: of the loss, in nats, and of the weights where the loss leaves examples out."""

    loss: float = 0.0
    weight: float = 0.0


@dataclass(frozen=True)
class Around:
    """What a training tells and asks the world around it.

    `report` hears of steps, `log` of numbers after so many of them; `evaluate` gives logits by split every
    `recipe.eval_every` steps and after the last; `checkpoints` keep what is done, and `stopping` says when to leave.
    """

    report: Count = silent
    log: Callable[[dict[str, float], int], None] = silent
    evaluate: Callable[[nn.Module, int], dict[str, np.ndarray]] | None = None
    checkpoints: Checkpoints | None = None
    stopping: Stopping = field(default_factory=Stopping)


def train(
    model: nn.Module,
    tokens: Tokens,
    p_NC: np.ndarray,
    recipe: Recipe,
    seed: int,
    accelerator: accelerate.Accelerator,
    micro_batch_size: int | None = None,
    around: Around | None = None,
) -> Trained:
    """Train for `recipe.epochs` epochs, or go on from the newest checkpoint; called by every rank of a step alike.

    `micro_batch_size` is per process; None: its whole share of a batch at once. Raises StepError at the first loss
    that is not finite, before the update, and Stopped after a checkpoint where somebody wants it.
    """
    around = around or Around()
    model, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    batches = [
        (epoch, batch)
        for epoch in range(recipe.epochs)
        for batch in epoch_batches(tokens.examples, recipe.batch_size, seed, epoch)
    ]
    # One process draws from the stream it always had; every further one needs masks of its own.
    torch.manual_seed(stream_seed(seed, "dropout", *([ranks.rank()] if ranks.rank() else [])))
    progress = around.checkpoints.load(model, optimizer, accelerator) if around.checkpoints is not None else Progress()
    labels_NC = torch.from_numpy(p_NC)
    training = _Training(
        model, optimizer, accelerator, tokens, labels_NC, batches, recipe, micro_batch_size, around, progress
    )
    inner_optimizer(optimizer).register_step_pre_hook(training.require_finite)
    return training.run()


@dataclass
class _Training:
    """One training under way. `batches`: epoch and rows of every optimizer step, done or not."""

    model: nn.Module
    optimizer: Any
    accelerator: accelerate.Accelerator
    tokens: Tokens
    labels_NC: Tensor
    batches: list[tuple[int, np.ndarray]]
    recipe: Recipe
    micro_batch_size: int | None
    around: Around
    progress: Progress

    def __post_init__(self) -> None:
        self.course = losses.course_of(self.recipe.loss, self.labels_NC)

    def run(self) -> Trained:
        """Every step that is left."""
        progress, total_steps = self.progress, len(self.batches)
        with self.around.stopping.at_own_time():
            while progress.step < total_steps:
                row, stop, due = self._step(*self.batches[progress.step])
                progress.history.append(row)
                progress.step += 1
                self.around.report(progress.step, total_steps)
                speed = row["examples"] / max(row["seconds"], 1e-9)
                self.around.log({"loss": row["loss"], "lr": row["lr"], "examples_per_s": speed}, progress.step)
                self._evaluate(progress.step == total_steps)
                self._keep(stop, due)
            # Somebody may have asked since the last step was under way, and may while the predictions are made.
            _, stop, due = self._agreed(Spent(), ended=True)
            self._keep(stop, due)
        return Trained(self.model, progress.history, progress.evaluations)

    def _keep(self, stop: bool, due: bool) -> None:
        """Save what is done where somebody wants it, and leave where somebody wants that."""
        if self.around.checkpoints is not None and (stop or due):
            self.around.checkpoints.save(self.progress, self.model, self.optimizer, self.accelerator)
        if stop:
            raise Stopped

    def _evaluate(self, last: bool) -> None:
        every, step = self.recipe.eval_every, self.progress.step
        if every is not None and self.around.evaluate is not None and (last or step % every == 0):
            self.progress.evaluations.append(Evaluation(step, self.around.evaluate(self.model, step)))

    def _step(self, epoch: int, batch: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        """One update: (its row, somebody wants to stop, a checkpoint is due), the same on every rank."""
        started = time.perf_counter()
        step, recipe = self.progress.step, self.recipe
        lr = lr_at(step, len(self.batches), recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        spent, stop, due = self._backward(batch)
        if recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if getattr(self.optimizer.optimizer, "overflow", False):  # ZeRO 1 to 3 leave such an update out, and go on
            self._diverged("gradient", math.nan)
        row = {"step": step, "epoch": epoch, "loss": spent.loss / len(batch), "lr": lr, "examples": len(batch)}
        if losses.drops(recipe.loss):
            row["weight"] = spent.weight / len(batch)  # the share of the batch that the step learnt from
        return {**row, "seconds": time.perf_counter() - started}, stop, due

    def require_finite(self, inner: torch.optim.Optimizer, *_: Any) -> None:
        """Before the update: a gradient that is not finite would be in the weights for good, and in checkpoints.

        In fp16 some steps overflow; the scaler leaves their update out, so that they do not come by here.
        """
        gradients = [p.grad for group in inner.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self._diverged("norm of the gradient", norm)

    def _diverged(self, what: str, value: float) -> None:
        raise StepError(
            f"the {what} of step {self.progress.step + 1} of {len(self.batches)} is {value}. "
            f"Lower recipe.lr (now {self.recipe.lr:g}), or clip harder (clip_norm is {self.recipe.clip_norm})"
        )

    def _backward(self, batch: np.ndarray) -> tuple[Spent, bool, bool]:
        """Accumulate the gradient of the global batch's mean loss; DeepSpeed makes its update in here, too.

        Returns the sums over the global batch, and the wishes of all ranks to stop and to save.
        """
        parts = cut(self.tokens.example_lengths[batch], ranks.size(), self.micro_batch_size)[ranks.rank()]
        aims_G = self._aims_before(batch, parts)
        spent, stop, due = Spent(), False, False
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with self._gradients_sent(last):
                logits_BC = self._logits(batch, part)
                aims_B = self._aims_of(batch, part, logits_BC, aims_G)
                if self.tokens.target_M is None:
                    loss = losses.loss_sum(self.recipe.loss, logits_BC, aims_B)
                else:  # of text that is generated the model gives log-probabilities
                    loss = losses.unlikelihood_sum(logits_BC, aims_B)
                weight = float(aims_B.weight_G.sum()) if losses.drops(self.recipe.loss) else 0.0
                spent = Spent(spent.loss + float(loss.detach()), spent.weight + weight)
                if last:  # before the last backward pass, because DeepSpeed updates at its end
                    spent, stop, due = self._agreed(spent)
                    if not math.isfinite(spent.loss):
                        self._diverged("loss", spent.loss / len(batch))
                # Sum over the global count, not a mean of means: the last micro-batch may be short. Ranks are
                # averaged by DDP and DeepSpeed.
                self.accelerator.backward(loss * (ranks.size() / len(batch)))
        return spent, stop, due

    def _agreed(self, spent: Spent, ended: bool = False) -> tuple[Spent, bool, bool]:
        """The sums over all ranks, and whether any of them wants to stop or a checkpoint is due."""
        checkpoints = self.around.checkpoints
        due = checkpoints is not None and (
            checkpoints.due_at_end() if ended else checkpoints.due(self.progress.step + 1)
        )
        mine = torch.tensor([*spent, self.around.stopping.asked, due], dtype=torch.float64)
        loss, weight, stop, save = ranks.total(mine).tolist()
        return Spent(loss, weight), stop > 0, save > 0

    @contextlib.contextmanager
    def _gradients_sent(self, last: bool) -> Any:
        """Ranks exchange gradients in the backward pass of the last micro-batch only."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        ddp = self.accelerator.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        with contextlib.nullcontext() if last or not ddp else self.accelerator.no_sync(self.model):
            yield

    def _aims_before(self, batch: np.ndarray, parts: list[np.ndarray]) -> losses.Aims | None:
        """Aims of the global batch, made before the pass that is trained on; None where its own logits serve."""
        reads = losses.reads(self.recipe.loss)
        if reads == "labels":
            return self._aims(batch, None)
        # Dropout would make a micro-batch's own logits a random student's.
        if (reads == "own" or len(parts) == 1) and not _has_dropout(self.recipe):
            return None
        self.model.eval()
        with torch.no_grad():
            logits = [self._logits(batch, part) for part in parts]
        self.model.train()
        return self._aims(batch, self._gathered(len(batch), parts, logits))

    def _aims_of(
        self, batch: np.ndarray, part: np.ndarray, logits_BC: Tensor, aims_G: losses.Aims | None
    ) -> losses.Aims:
        """Aims of a micro-batch: from those of the batch, or from its own logits, where they serve."""
        if aims_G is None and losses.reads(self.recipe.loss) == "own":
            return self._aims(batch[part], logits_BC.detach())
        if aims_G is None:
            aims_G = self._aims(batch, self._gathered(len(batch), [part], [logits_BC.detach()]))
        return aims_G.rows(part, logits_BC.device)

    def _aims(self, rows: np.ndarray, logits_GC: Tensor | None) -> losses.Aims:
        p_GC = self.labels_NC[rows] if logits_GC is None else self.labels_NC[rows].to(logits_GC.device)
        course = self.course._replace(step=self.progress.step, total_steps=len(self.batches))
        return losses.aims(self.recipe.loss, p_GC, logits_GC, course)

    def _gathered(self, examples: int, parts: list[np.ndarray], logits: list[Tensor]) -> Tensor:
        """Logits (G, C) of the global batch from all ranks, on the CPU."""
        logits_GC = torch.zeros(examples, logits[0].shape[-1])
        for part, logits_BC in zip(parts, logits, strict=True):
            logits_GC[part] = logits_BC.float().cpu()
        return ranks.total(logits_GC)  # every row is one rank's, and zero on the others

    def _logits(self, batch: np.ndarray, part: np.ndarray) -> Tensor:
        """Logits (B, C) of a micro-batch, in its order; texts of similar length go through the model together.

        Where an example is several texts the model gives each a score, and those of an example are its logits.
        A rank without examples goes through the model with one, as the others do, and keeps none of it.
        """
        texts = self.tokens.texts_of(batch[part] if len(part) else batch[:1])
        device = self.accelerator.device
        chunks = length_chunks(self.tokens.lengths[texts], OVERHEAD_TOKENS[device.type])
        outputs: Tensor = self.model([self.tokens.padded(texts[chunk], device) for chunk in chunks])
        in_order = outputs[torch.from_numpy(np.argsort(np.concatenate(chunks))).to(device)]
        return in_order.reshape(len(texts) // self.tokens.per_example, -1)[: len(part)]


def _has_dropout(recipe: Recipe) -> bool:
    return recipe.dropout > 0.0 or getattr(recipe.tune, "dropout", 0.0) > 0.0
