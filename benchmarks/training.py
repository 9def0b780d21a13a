"""Training and prediction against plain PyTorch loops, and against what this machine's cores can do at best.

Three contenders take turns on the same token ids, batches, weights and schedule, A B C A B C: w2s; a plain loop over
the same chunks of similar length, as a careful script would hold it (no Accelerate, no history, no checks); and a plain
loop that pads each batch to its longest text, as most scripts do. Before each turn a large float32 product measures the
peak of that moment, so that a busy neighbour slows both. FLOPs are 6 N per unpadded token in training and 2 N in
prediction, N the parameters of the layers that are computed (no embeddings; attention over the context is left out, as
in Kaplan et al. 2020, sec. 2.1). Prediction goes against a loop over fixed batches in the order of the texts.

Fetches the archives of the quickstart once.

Run: python benchmarks/training.py [PAIRS [THREADS [NAMES OF CASES]]]   about 15 minutes for all with five pairs
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from w2s.learn import accelerator, losses, models, optimizer, predict, trainer, trunk
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, epoch_batches, length_chunks
from w2s.learn.heads import Classifier
from w2s.models import model_of
from w2s.spec import Engine, Frozen, Recipe, Sizes
from w2s.tasks import registry, splits

MAX_LENGTH = 48  # as in sweeps/quickstart.yaml
RECIPE = Recipe(lr=4e-4, epochs=1, tune=Frozen(layers=0))
Chunks = Callable[[np.ndarray], list[np.ndarray]]  # lengths of a batch -> positions that are padded together


@dataclass(frozen=True)
class Case:
    """A model to train: all of its layers, or those above the lowest `replayed`, whose hidden states are at hand."""

    model: str
    replayed: int
    texts: int  # of one training epoch; few where a text takes long

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.model}, {self.replayed} layers replayed" if self.replayed else self.model


CASES = (Case("minilm", 0, 480), Case("smollm2@20", 0, 96), Case("smollm2@20", 17, 480))


def chunked(lengths_B: np.ndarray) -> list[np.ndarray]:
    """The chunks that w2s cuts a batch into on a CPU."""
    return length_chunks(lengths_B, OVERHEAD_TOKENS["cpu"])


def whole(lengths_B: np.ndarray) -> list[np.ndarray]:
    """The whole batch, padded to its longest text."""
    return [np.arange(len(lengths_B))]


def plain_training(model: Classifier, tokens: Tokens, p_NC: torch.Tensor, recipe: Recipe, chunks: Chunks) -> None:
    """The loop a script would write."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    batches = epoch_batches(len(tokens), recipe.batch_size, 0, 0)
    course = losses.course_of(recipe.loss, p_NC)
    model.train()
    for step, batch in enumerate(batches):
        for group in adamw.param_groups:
            group["lr"] = optimizer.lr_at(step, len(batches), recipe)
        adamw.zero_grad(set_to_none=True)
        for chunk in chunks(tokens.lengths[batch]):
            texts = batch[chunk]
            logits_BC = model([tokens.padded(texts)])
            wanted = losses.aims(recipe.loss, p_NC[texts], None, course)
            loss = losses.loss_sum(recipe.loss, logits_BC, wanted) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has it without types
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm or float("inf"))
        adamw.step()


def plain_prediction(model: Classifier, tokens: Tokens, batch_size: int) -> None:
    """Fixed batches in the order of the texts, each padded to its longest."""
    model.eval()
    with torch.no_grad():
        for start in range(0, len(tokens), batch_size):
            rows = np.arange(start, min(start + batch_size, len(tokens)))
            model([tokens.padded(rows)]).numpy()


def peak_flops() -> float:
    """FLOP/s of a large float32 matrix product at the threads in use: the best of five."""
    a, b, product = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    return 2.0 * 2048**3 / min(seconds(lambda: torch.mm(a, b, out=product)) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def computed_params(model: Classifier) -> int:
    """Parameters of the layers that are computed: no embeddings, no layers that are replayed."""
    return sum(p.numel() for p in models.layers_of(model.base)[1].parameters())


def waste(lengths_N: np.ndarray, batches: list[np.ndarray], chunks: Chunks) -> float:
    """The share of padding among the tokens that go through the model."""
    parts = [batch[chunk] for batch in batches for chunk in chunks(lengths_N[batch])]
    return 1.0 - float(lengths_N.sum()) / sum(len(part) * int(lengths_N[part].max()) for part in parts)


def prepared(case: Case, texts: list[str], folder: Path) -> tuple[models.Base, Tokens]:
    """The base model and the tokens of `texts`, with the hidden states that the lowest layers are replayed from."""
    name, _, layers = case.model.partition("@")
    row = {"use": name, "max_length": MAX_LENGTH}
    base = models.load_base(model_of(row | ({"layers": int(layers)} if layers else {}), Path(), "model"))
    tokens = models.tokenise(base, texts)
    if not case.replayed:
        return base, tokens
    trunk_base = models.load_base(model_of(row | {"layers": case.replayed}, Path(), "model"))
    path = folder / f"{len(texts)}.npy"
    trunk.write_hidden(trunk_base.module, case.replayed, tokens, path, 64, "cpu")
    return base, replace(tokens, hidden_SD=trunk.read_hidden(path))


def built(case: Case, base: models.Base) -> Classifier:
    """A fresh classifier, made as a train step makes it."""
    recipe = RECIPE.model_copy(update={"tune": Frozen(layers=case.replayed)})
    model = models.build(base, 2, recipe, 0)
    if case.replayed:
        trunk.start_from(model, case.replayed)
    return model


def train_turns(case: Case, base: models.Base, tokens: Tokens, p_NC: np.ndarray, pairs: int) -> None:
    """Print training speeds. The first round warms up."""
    lengths_N = tokens.lengths
    batches = epoch_batches(len(tokens), RECIPE.batch_size, 0, 0)
    labels_NC = torch.from_numpy(p_NC)
    ours: list[float] = []
    same: list[float] = []
    padded: list[float] = []
    share: list[float] = []
    for _ in range(pairs + 1):
        peak = peak_flops()
        model, maker = built(case, base), accelerator.make(Engine(device="cpu"), RECIPE)
        ours.append(seconds(lambda m=model, a=maker: trainer.train(m, tokens, p_NC, RECIPE, 0, a)))  # type: ignore[misc]
        share.append(6.0 * computed_params(model) * float(lengths_N.sum()) / ours[-1] / max(peak, peak_flops()))
        for taken, chunks in ((same, chunked), (padded, whole)):
            model = built(case, base)
            taken.append(seconds(lambda m=model, c=chunks: plain_training(m, tokens, labels_NC, RECIPE, c)))  # type: ignore[misc]
    print(f"  training   {len(tokens) / statistics.median(ours[1:]):7.1f} examples/s, {spread(share[1:])} of the peak")
    print(f"             {spread(ratios(same, ours))} of the plain loop over the same chunks")
    print(f"             {spread(ratios(padded, ours))} of the plain loop that pads whole batches")
    print(
        f"             padding {waste(lengths_N, batches, chunked):.1%} (whole: {waste(lengths_N, batches, whole):.1%})"
    )


def predict_turns(case: Case, base: models.Base, tokens: Tokens, pairs: int) -> None:
    """Print prediction speeds. The first round warms up."""
    model, size = built(case, base), Engine().predict_batch_size
    flops = 2.0 * computed_params(model) * float(tokens.lengths.sum())
    ours: list[float] = []
    naive: list[float] = []
    share: list[float] = []
    for _ in range(pairs + 1):
        peak = peak_flops()
        ours.append(seconds(lambda: predict.predict(model, tokens, size, "cpu")))
        share.append(flops / ours[-1] / max(peak, peak_flops()))
        naive.append(seconds(lambda: plain_prediction(model, tokens, size)))
    print(f"  prediction {len(tokens) / statistics.median(ours[1:]):7.1f} examples/s, {spread(share[1:])} of the peak")
    print(f"             {spread(ratios(naive, ours))} of fixed batches in the order of the texts")


def ratios(others: list[float], ours: list[float]) -> list[float]:
    """How many times as fast as another is ours, round by round, the first left out."""
    return [other / own for other, own in zip(others[1:], ours[1:], strict=True)]


def spread(values: list[float]) -> str:
    """Median, and the range in brackets."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(pairs: int, threads: int, names: list[str]) -> None:
    """Print padding on a long-tailed task, then training and prediction of every case."""
    torch.set_num_threads(threads)
    print(f"{threads} thread(s), {pairs} round(s), peak now {peak_flops() / 1e9:.1f} GFLOP/s; median (min to max)")
    long_N = np.minimum(np.random.default_rng(0).lognormal(4.0, 1.0, 2000).astype(int) + 1, 512)
    batches = epoch_batches(len(long_N), RECIPE.batch_size, 0, 0)
    print(f"long-tailed lengths (lognormal 4, 1; to 512): padding {waste(long_N, batches, chunked):.1%} ", end="")
    print(f"(whole: {waste(long_N, batches, whole):.1%})")
    sizes = Sizes(weak_train=480, transfer=2, val=2, test=600)
    tables = splits.materialize(registry.task_of("movie", Path(), "task"), sizes, 0).tables
    for case in [case for case in CASES if not names or case.name in names]:
        train = tables["weak_train"].slice(0, case.texts)
        test = tables["test"].slice(0, case.texts)
        with tempfile.TemporaryDirectory() as folder:
            base, tokens = prepared(case, train["text"].to_pylist(), Path(folder))
            print(f"{case.name}: N = {computed_params(built(case, base)) / 1e6:.1f} million, {len(tokens)} texts")
            p_NC = np.eye(2, dtype=np.float32)[train["label"].to_numpy()]
            train_turns(case, base, tokens, p_NC, pairs)
            base, tokens = prepared(case, test["text"].to_pylist(), Path(folder))
            predict_turns(case, base, tokens, pairs)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, int(sys.argv[2]) if len(sys.argv) > 2 else 1, sys.argv[3:])
