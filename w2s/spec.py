"""Specs of recipes and steps; a step's digest is its name. Knows nothing of sweeps, files or torch."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from w2s.identity import Spec, identity, runtime
from w2s.models import ModelSpec
from w2s.objectives import LogConf as LogConf  # recipes name their losses, and so does who imports this
from w2s.objectives import Loss as Loss
from w2s.objectives import Xent as Xent
from w2s.prompts import Prompt as Prompt  # as with losses
from w2s.supervision import Labels as Labels
from w2s.supervision import LabelsSpec as LabelsSpec
from w2s.supervision import Made as Made
from w2s.supervision import Truth as Truth
from w2s.supervision import Unread as Unread
from w2s.supervision import Weak as Weak
from w2s.tasks.task import TaskSpec

Split = Literal["weak_train", "transfer", "val", "test"]
DIGEST = r"^[0-9a-f]{64}$"
INTERVAL = re.compile(r"never|[1-9][0-9]* (min|steps)")
PREDICTED: tuple[Split, ...] = ("test", "val", "transfer")  # by every trained model: all it may later be asked about
EVALUATED: tuple[Split, ...] = ("val", "test")  # on the way, for selections


class Full(Spec):
    """Every weight is trained."""

    kind: Literal["full"] = identity("full")


class Frozen(Spec):
    """The lowest `layers` layers stay as they are, and so do the embeddings unless told otherwise."""

    kind: Literal["frozen"] = identity("frozen")
    layers: int = identity(ge=0, about="So many of the lowest layers stay as they are.")
    embeddings: bool = identity(
        True,
        about="True: embeddings stay as they are, too; false: they are trained, through the frozen layers.",
    )


class Lora(Spec):
    """Low-rank adapters on the linear layers named by `targets`, and the head; all else is frozen."""

    kind: Literal["lora"] = identity("lora")
    r: int = identity(8, ge=1, about="Rank of the adapters.")
    alpha: float = identity(16.0, gt=0.0, about="What an adapter adds is multiplied by alpha / r.")
    dropout: float = identity(0.0, ge=0.0, lt=1.0, about="Dropout of what enters an adapter, while it is trained.")
    targets: tuple[str, ...] | None = identity(
        None, about="Names of the linear layers that get adapters; null: every linear layer but the head."
    )


class Probe(Spec):
    """Only the head is trained: by gradient steps like everything else, or as the convex problem that it is.

    `logistic` finds the minimum of mean cross-entropy + l2 / 2 |w|^2 on pooled features, standardized, with a bias
    (see w2s.learn.logistic). l2 None: the strength whose loss on the labels of val is least. No other field of a
    recipe counts then but the loss, which has to be xent; with `eval_every` the one solution is the one evaluation.
    """

    kind: Literal["probe"] = identity("probe")
    solver: Literal["sgd", "logistic"] = identity(
        "sgd",
        later=True,
        about="sgd: by gradient steps, like everything else; logistic: the minimum of the convex problem that it is.",
    )
    l2: float | None = identity(
        None,
        gt=0.0,
        later=True,
        about="Penalty on weights, for solver: logistic; null: the one of least loss on the labels of val.",
    )

    @model_validator(mode="after")
    def _l2_is_of_a_solver(self) -> Probe:
        if self.l2 is not None and self.solver != "logistic":
            raise ValueError("l2 is for solver: logistic; for sgd there is recipe.weight_decay")
        return self


Tune = Annotated[Full | Frozen | Lora | Probe | Prompt, Field(discriminator="kind")]


class Recipe(Spec):
    """How a model is trained. Every field can change a number, so every field is identity."""

    loss: Loss = identity(
        Xent(), about="What is minimized; written at a method, since weak models and ceilings always have xent."
    )
    tune: Tune = identity(Full(), about="Which weights are trained.")
    optimizer: Literal["adamw", "adafactor"] = identity(
        "adamw", about="AdamW, or Adafactor with this learning rate in place of its own schedule."
    )
    lr: float = identity(1e-5, gt=0.0, about="The learning rate at its highest.")
    schedule: Literal["cosine", "linear", "constant"] = identity(
        "cosine", about="How the learning rate falls towards 0 after its warm-up, or that it does not."
    )
    warmup_frac: float = identity(
        0.0, ge=0.0, le=1.0, about="Over this share of the optimizer steps the learning rate climbs to lr."
    )
    weight_decay: float = identity(
        0.0, ge=0.0, about="Decoupled weight decay, of all that is trained but biases and norms."
    )
    betas: tuple[float, float] = identity((0.9, 0.999), about="Decay rates of AdamW's two averages.")
    epochs: int = identity(2, ge=1, about="Passes over the training split.")
    batch_size: int = identity(32, ge=1, about="Examples of one optimizer step, over all processes and micro-batches.")
    clip_norm: float | None = identity(
        1.0, gt=0.0, about="A longer gradient is scaled down to this norm; null: it is not."
    )
    dropout: float = identity(
        0.0, ge=0.0, lt=1.0, about="Probability of the dropout layers that the architecture has, while it is trained."
    )
    head_init: Literal["zeros", "normal", "unembedding"] = identity(
        "zeros",
        about="The head at first: zeros, a normal of deviation 1 / sqrt(hidden size), or rows of the unembedding.",
    )
    head_words: tuple[str, ...] | None = identity(
        None,
        about="For unembedding: the word of each class; null: ' 0', ' 1' and so on, as in the paper.",
    )
    eval_every: int | None = identity(
        None,
        ge=1,
        later=True,
        about="Optimizer steps between evaluations on val and test, for `selections`; null: only at the end.",
    )


class Engine(Spec):
    """Where and how steps run; but for the precision, none of it may change a number beyond rounding.

    `docs/engine.md` has what each moves, measured.
    """

    workers: int | None = runtime(
        None, ge=1, about="Steps at a time; null: one per device, on a CPU as many as memory and cores allow."
    )
    threads: int | None = runtime(None, ge=1, about="CPU threads of each process; null: the cores, shared out.")
    device: Literal["auto", "cpu", "cuda"] = runtime("auto", about="Where models run; auto: on CUDA where it is there.")
    devices_per_step: int = runtime(1, ge=1, about="CUDA devices that one step occupies, one process on each.")
    processes: int | None = runtime(None, ge=1, about="Processes of one step on a CPU; null: one per device.")
    zero_stage: Literal[0, 1, 2, 3] | None = runtime(
        None,
        about="DeepSpeed ZeRO: from 1 on optimizer states, from 2 gradients, at 3 weights are cut; null: no DeepSpeed.",
    )
    offload: Literal["none", "optimizer", "parameters"] = runtime(
        "none", about="What lies in the host's memory: with ZeRO 1 to 3 the optimizer, with ZeRO 3 parameters too."
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = identity(
        "no",
        later=True,
        about="Precision of matrix products; weights that are trained, the head and the losses stay in float32.",
    )
    micro_batch_size: int | Literal["auto"] | None = runtime(
        None, about="Examples that a process takes at a time; auto: as many as fit; null: its whole share of the batch."
    )
    predict_batch_size: int = runtime(64, ge=1, about="Examples that a process predicts at a time.")
    gradient_checkpointing: bool = runtime(
        False,
        about="Activations are computed again in the backward pass: less memory for about a third more computation.",
    )
    attention: Literal["sdpa", "flash_attention_2"] = runtime(
        "sdpa", about="How attention is computed; flash_attention_2 needs its package, a GPU and half precision."
    )
    compile: bool = runtime(False, about="Models are compiled by torch.compile: slow to start, then faster.")
    cache_frozen: bool = runtime(
        False,
        about="Frozen lower layers run once per text, and are replayed from disk (4 bytes x tokens x hidden size).",
    )
    checkpoint_every: str = runtime(
        "10 min", about="How often a training saves what it has: '10 min', '200 steps' or never."
    )
    trackers: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = runtime(
        ("jsonl",), about="Who hears of losses while they come."
    )

    @field_validator("micro_batch_size")
    @classmethod
    def _above_zero(cls, size: int | str | None) -> int | str | None:
        if isinstance(size, int) and size < 1:
            raise ValueError("expected 1 or more, or 'auto'")
        return size

    @field_validator("checkpoint_every", mode="before")  # before: whatever is wrong with it, this is the advice
    @classmethod
    def _interval(cls, text: Any) -> Any:
        if not (isinstance(text, str) and INTERVAL.fullmatch(text)):
            raise ValueError("write '10 min', '200 steps' or never")
        return text

    @field_validator("trackers")
    @classmethod
    def _no_tracker_twice(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        for name in trackers:
            if trackers.count(name) > 1:
                raise ValueError(f"{name} is given twice; keep one")
        return trackers

    @property
    def ranks(self) -> int:
        """Processes of one step."""
        return self.processes or self.devices_per_step

    @property
    def launched(self) -> bool:
        """True where a step needs a launched group of ranks: several processes, or DeepSpeed."""
        return self.ranks > 1 or self.zero_stage is not None


class Sizes(Spec):
    """Examples per split. `shrink`: a task with fewer rows gets what it has, in the same proportions, not an error."""

    weak_train: int = identity(gt=0, about="Examples with ground truth that weak models learn from.")
    transfer: int = identity(
        gt=0, about="Examples that supervisors label and students learn from; ceilings learn from their ground truth."
    )
    val: int = identity(
        100, gt=0, about="Examples with a supervisor's labels only, by which weak_val selects and l2 is chosen."
    )
    test: int = identity(gt=0, about="Examples that every number is measured on.")
    shrink: bool = identity(
        False, about="True: a task with fewer rows gets what it has, in the same proportions; false: that is an error."
    )


class MaterializeSpec(Spec):
    """Task -> four disjoint splits with ids, texts and ground truth."""

    kind: Literal["materialize"] = identity("materialize")
    version: int = identity(1)  # raise when the code of this step changes meaning
    task: TaskSpec = identity()
    sizes: Sizes = identity()
    split_seed: int = identity(0, ge=0)

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the steps whose artifacts this one reads: none."""
        return ()


class Start(Spec):
    """A finished step whose trained weights another begins from.

    `lowest`: it left the embeddings and so many of the lowest layers as they were.
    """

    kind: Literal["language", "train"] = identity()
    step: str = identity(pattern=DIGEST)
    lowest: int = identity(0, ge=0)


class FeaturesSpec(Spec):
    """The hidden states that leave the frozen lowest `model.layers` layers, for every token of one split.

    `pooled`: one vector for each text instead, as a head on the model cut to these layers sees it (behind the last
    norm, where there is one). A hundredth of the bytes, and all that probes and neighbours need.
    """

    kind: Literal["features"] = identity("features")
    version: int = identity(1)  # raise when the code of this step changes meaning
    data: str = identity(pattern=DIGEST)  # digest of its materialize step
    split: Split = identity()
    model: ModelSpec = identity()
    engine: Engine = identity(Engine(), later=True)
    pooled: bool = identity(False, later=True)
    start: tuple[Start, ...] = identity((), later=True)  # as in TrainSpec, without those that change nothing here

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the steps whose artifacts this one reads."""
        return (self.data, *(start.step for start in self.start))


class LanguageSpec(Spec):
    """Model + texts -> the model's weights after next-token training on them. No label is read.

    Of the recipe only what `language_recipe` keeps counts.
    """

    kind: Literal["language"] = identity("language")
    version: int = identity(1)  # raise when the code of this step changes meaning
    data: str = identity(pattern=DIGEST)  # digest of its materialize step
    splits: tuple[Literal["weak_train", "transfer"], ...] = identity(("transfer",), min_length=1)
    model: ModelSpec = identity()
    recipe: Recipe = identity(Recipe())
    seed: int = identity(0, ge=0)
    engine: Engine = identity(Engine(), later=True)  # of which only the precision counts

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the steps whose artifacts this one reads."""
        return (self.data,)


class TrainSpec(Spec):
    """Model + labels -> predictions for val, test and transfer."""

    kind: Literal["train"] = identity("train")
    version: int = identity(1)  # raise when the code of this step changes meaning
    data: str = identity(pattern=DIGEST)  # digest of its materialize step
    split: Literal["weak_train", "transfer"] = identity()
    labels: Labels = identity(Truth())
    model: ModelSpec = identity()
    recipe: Recipe = identity(Recipe())
    seed: int = identity(0, ge=0)
    engine: Engine = identity(Engine(), later=True)  # of which only the precision counts
    keep_weights: bool = runtime(False)
    start: tuple[Start, ...] = identity((), later=True)  # each begun from the one before; then this training

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the steps whose artifacts this one reads."""
        labels: tuple[str, ...] = ()
        if isinstance(self.labels, Weak):
            labels = (self.labels.supervisor,)
        elif isinstance(self.labels, Made):
            labels = (self.labels.labels,)
        begun = () if self.solved else tuple(start.step for start in self.start)  # a solver sees features only
        return (self.data, *labels, *(spec.digest() for spec in self.features().values()), *begun)

    @property
    def used_splits(self) -> tuple[Split, ...]:
        """The split that is trained on, then those that are predicted."""
        return tuple(dict.fromkeys((self.split, *PREDICTED)))

    @property
    def solved(self) -> bool:
        """True where it is one convex problem, for which no model has to be loaded."""
        return self.model.words is not None or is_solved(self.recipe)

    @property
    def prompted(self) -> bool:
        """True where no weight is trained, and classes are words that follow a prompt."""
        return isinstance(self.recipe.tune, Prompt)

    def features(self) -> dict[Split, FeaturesSpec]:
        """By split, the cached hidden states that training starts from; empty where nothing frozen is cached.

        Cached and computed hidden states agree to rounding in float32, so the cache is no part of the identity.
        A probe that is solved starts from pooled ones, cached in any case.
        """
        if self.solved:
            if self.model.words is not None:
                return {}
            own = _features(self.data, self.used_splits, self.model, self.model.layers, self.engine, self.start, True)
            return {spec.split: spec for spec in own}
        depth, tune = None, self.recipe.tune
        if isinstance(tune, Frozen) and tune.embeddings and tune.layers > 0:
            depth = tune.layers
        elif isinstance(tune, Probe):
            depth = self.model.layers or self.model.depth
        exact = self.engine.mixed_precision == "no" and self.recipe.dropout == 0 and self.model.build is None
        whole = self.engine.zero_stage != 3  # weights in parts cannot be run by one process
        if not (self.engine.cache_frozen and exact and whole) or depth is None:
            return {}
        own = _features(self.data, self.used_splits, self.model, depth, self.engine, _below(self.start, depth))
        return {spec.split: spec for spec in own}


def _below(starts: tuple[Start, ...], depth: int | None) -> tuple[Start, ...]:
    """Those whose weights the lowest `depth` layers (None: all) depend on; what leaves these layers is that of fewer
    starts, and shared with them."""
    while starts and depth is not None and starts[-1].lowest >= depth:
        starts = starts[:-1]
    return starts


@functools.lru_cache(maxsize=1024)  # the same objects for all seeds and methods, so that each digest is computed once
def _features(
    data: str,
    splits: tuple[Split, ...],
    model: ModelSpec,
    depth: int | None,
    engine: Engine,
    start: tuple[Start, ...] = (),
    pooled: bool = False,
) -> tuple[FeaturesSpec, ...]:
    trunk = model if pooled else model.model_copy(update={"layers": depth, "pooling": "auto"})
    return tuple(
        FeaturesSpec(data=data, split=split, model=trunk, engine=engine, start=start, pooled=pooled) for split in splits
    )


def is_solved(recipe: Recipe) -> bool:
    """True where a recipe has its head found by a solver."""
    return isinstance(recipe.tune, Probe) and recipe.tune.solver == "logistic"


def solved_recipe(recipe: Recipe) -> Recipe:
    """What of a recipe counts where a solver finds the head; so recipes that differ in the rest share a step."""
    l2 = recipe.tune.l2 if isinstance(recipe.tune, Probe) else None
    return Recipe(loss=recipe.loss, tune=Probe(solver="logistic", l2=l2), eval_every=recipe.eval_every)


def prompted_recipe(recipe: Recipe) -> Recipe:
    """What of a recipe counts where nothing is trained but a prompt is written; its predictions are one evaluation."""
    return Recipe(loss=recipe.loss, tune=recipe.tune, eval_every=None if recipe.eval_every is None else 1)


def reads_no_labels(recipe: Recipe) -> bool:
    """True for a prompt without examples."""
    return isinstance(recipe.tune, Prompt) and recipe.tune.shots == 0


def language_recipe(recipe: Recipe) -> Recipe:
    """What of a recipe counts for a language step, which has no classes and evaluates at its ends only."""
    plain = Recipe()
    kept = {"loss": plain.loss, "head_init": plain.head_init, "head_words": None, "eval_every": None}
    return recipe.model_copy(update=kept)


def begun_with(step: LanguageSpec | TrainSpec, digest: str) -> tuple[Start, ...]:
    """The starts of a training that begins from the weights of this step. It has to train layers of its model."""
    tune = step.recipe.tune
    lowest = tune.layers if isinstance(tune, Frozen) and tune.embeddings else 0
    before = step.start if isinstance(step, TrainSpec) else ()
    return (*before, Start(kind=step.kind, step=digest, lowest=lowest))


AnyStep = MaterializeSpec | FeaturesSpec | LanguageSpec | LabelsSpec | TrainSpec
Step = Annotated[AnyStep, Field(discriminator="kind")]
