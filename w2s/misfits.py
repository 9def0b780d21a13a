"""An engine, recipes, models and tasks in; a sentence for each thing that they cannot do together out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from w2s.identity import unique
from w2s.labelling import Labelling, Probed
from w2s.models import ModelSpec
from w2s.objectives import LogConf, Loss, Product, Window, Xent
from w2s.spec import Engine, Recipe, TrainSpec, is_solved
from w2s.tasks.task import TaskSpec

SHOWN = 6  # names or numbers in a sentence
NO_DATA = "0" * 64


class Use(NamedTuple):
    """A recipe as a model follows it: as a student by `method`, otherwise as a weak model and ceiling."""

    name: str
    method: str | None
    model: ModelSpec | None  # None: not known, which is told elsewhere
    recipe: Recipe
    part: str = ""  # of the model, where the recipe is for that alone

    @property
    def where(self) -> str:
        """The part of the sweep that a message names."""
        return f"models.{self.name}{self.part}" if self.method is None else f"methods.{self.method}"

    @property
    def who(self) -> str:
        """The model, and the method where there is one."""
        return f"{self.name}{self.part}" if self.method is None else f"{self.name} by {self.method}"


def of_engine(engine: Engine) -> list[str]:
    """What the settings of an engine cannot do together."""
    problems = []
    if engine.offload == "optimizer" and not engine.zero_stage:
        problems.append(f"engine.offload: optimizer needs zero_stage 1, 2 or 3 (got {_stage(engine)})")
    if engine.offload == "parameters" and engine.zero_stage != 3:
        problems.append(f"engine.offload: parameters needs zero_stage 3 (got {_stage(engine)})")
    if engine.mixed_precision == "fp16" and engine.device == "cpu":
        problems.append("engine.mixed_precision: fp16 needs a CUDA device, and engine.device is cpu; use bf16 or no")
    if engine.mixed_precision == "fp16" and engine.zero_stage is not None:
        problems.append(
            f"engine.mixed_precision: fp16 is not offered with zero_stage (got {engine.zero_stage}), "
            "because DeepSpeed would hold the head in fp16; use bf16, or leave zero_stage out"
        )
    if engine.attention == "flash_attention_2" and engine.mixed_precision == "no":
        problems.append(
            "engine.attention: flash_attention_2 works in 16 bits only, and engine.mixed_precision is no; "
            "use mixed_precision bf16 or fp16, or attention sdpa"
        )
    if engine.attention == "flash_attention_2" and engine.device == "cpu":
        problems.append("engine.attention: flash_attention_2 needs a CUDA device, and engine.device is cpu; use sdpa")
    return problems + _places(engine)


def _stage(engine: Engine) -> str:
    return "no zero_stage" if engine.zero_stage is None else f"zero_stage {engine.zero_stage}"


def _places(engine: Engine) -> list[str]:
    """What processes and devices cannot do together."""
    devices, processes = engine.devices_per_step, engine.processes
    if devices > 1 and engine.device == "cpu":
        return [
            f"engine.devices_per_step: {devices} are CUDA devices, and engine.device is cpu; "
            f"engine.processes={devices} gives {devices} processes on a CPU"
        ]
    if processes not in (None, devices) and (devices > 1 or engine.device == "cuda"):
        on = "1 device" if devices == 1 else f"{devices} devices"
        return [
            f"engine.processes: {processes} on {on}, but each device runs one process; "
            f"leave processes out, or set devices_per_step to {processes}"
        ]
    return []


def of_recipes(engine: Engine, uses: list[Use]) -> list[str]:
    """What the engine cannot do with the recipes of a sweep, and models with theirs."""
    problems = []
    by_size: dict[int, list[Use]] = {}
    for use in uses:
        if not is_solved(use.recipe) and use.recipe.tune.kind != "prompt":  # which have no batches
            by_size.setdefault(use.recipe.batch_size, []).append(use)
    for size, who in by_size.items():
        problems += _shares(engine, size, _of(who) if len(by_size) > 1 else "")
    whole = [use for use in uses if use.recipe.optimizer == "adafactor"]
    if whole and engine.zero_stage:
        whose = _of(whole) if len(whole) < len(uses) else ""
        problems.append(
            f"engine.zero_stage: {engine.zero_stage} cuts weights into pieces, and adafactor{whose} needs whole "
            "matrices; use optimizer adamw, or zero_stage 0"
        )
    return problems + of_solved(uses) + _built(engine, uses) + _frozen(uses)


def _of(uses: list[Use]) -> str:
    """Who, in brackets: a model alone stands for itself as a student, too."""
    alone = {use.name for use in uses if use.method is None and not use.part}
    names = [use.who for use in uses if use.method is None or use.name not in alone]
    return f" (of {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def _shares(engine: Engine, batch_size: int, whose: str) -> list[str]:
    """Whether a batch can be shared by the processes, and a share be cut into micro-batches, all of one size."""
    ranks, micro = engine.ranks, engine.micro_batch_size
    share, left = divmod(batch_size, ranks)
    if left:
        field = "processes" if engine.processes else "devices_per_step"
        fewer = [d for d in _divisors(batch_size) if d < ranks][:1]
        more = [d for d in _divisors(batch_size) if d > ranks][-1:]
        sizes = [n * ranks for n in (share, share + 1) if n]
        return [
            f"engine.{field}: batch_size {batch_size}{whose} cannot be shared evenly by {ranks} processes; "
            f"use {_or(fewer + more)}, or a batch_size of {_or(sizes)}"
        ]
    if not isinstance(micro, int) or micro >= share or share % micro == 0:
        return []
    near = sorted(_divisors(share)[1:], key=lambda d: abs(d - micro))[:SHOWN]
    use = _or(sorted(near, reverse=True))
    if ranks == 1:
        return [f"engine.micro_batch_size: {micro} does not divide batch_size {batch_size}{whose}; use {use}"]
    return [
        f"engine.micro_batch_size: batch_size {batch_size}{whose} over {ranks} processes is {share} each, "
        f"which {micro} does not divide; use {use}"
    ]


def _divisors(number: int) -> list[int]:
    """The divisors of a number, the largest first."""
    return [d for d in range(number, 0, -1) if number % d == 0]


def _or(numbers: list[int]) -> str:
    words = [str(number) for number in numbers]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _frozen(uses: list[Use]) -> list[str]:
    """Models without the layers that their recipe freezes, as far as the registry knows them."""
    problems: dict[tuple[str, int], str] = {}
    for use in uses:
        frozen = getattr(use.recipe.tune, "layers", None)
        kept = use.model.layers or use.model.depth if use.model is not None else None
        if frozen is not None and kept is not None and frozen > kept:
            model = "a model that keeps" if use.method is None else f"{use.name}, which keeps"
            line = f"{use.where}.recipe.tune.layers: cannot freeze {frozen} layers of {model} {kept}"
            problems.setdefault((use.name, frozen), line)  # not once more for every method
    return list(problems.values())


def _built(engine: Engine, uses: list[Use]) -> list[str]:
    """Models that a plugin builds, which an engine cannot cut into shares."""
    built = {use.name: use.model.build for use in uses if use.model is not None and use.model.build is not None}
    if engine.zero_stage != 3:
        return []
    return [
        f"models.{name}.build: {build.use} of {build.file} takes a whole model, and at zero_stage 3 no process has "
        "one; use zero_stage 2 or less"
        for name, build in built.items()
    ]


def of_cache(engine: Engine, uses: list[Use]) -> list[str]:
    """Whether anything is cached, where that was asked for: a setting that does nothing misleads.

    `uses`: all of a sweep's.
    """
    if not engine.cache_frozen or any(use.model is None for use in uses):
        return []
    exact = engine.model_copy(update={"mixed_precision": "no"})
    whole = engine.model_copy(update={"zero_stage": None})
    if any(_caches(engine, use) for use in uses):
        return []
    if any(_caches(whole, use) for use in uses):
        return ["engine.cache_frozen: at zero_stage 3 nothing is cached; set it to false, or use zero_stage 2 or less"]
    if any(_caches(exact, use) for use in uses):
        why = f"with mixed_precision {engine.mixed_precision} nothing is cached"
    elif any(_caches(exact, use._replace(recipe=use.recipe.model_copy(update={"dropout": 0.0}))) for use in uses):
        why = "with dropout nothing is cached, because no two passes are equal"
    elif all(use.model is not None and use.model.build is not None for use in uses):
        why = "models that a plugin builds are not cached, because what it makes of their lowest layers is not known"
    else:
        why = "no recipe freezes embeddings and lower layers (tune: frozen or probe), so there is nothing to cache"
    return [f"engine.cache_frozen: {why}; set it to false, or leave it out"]


def _caches(engine: Engine, use: Use) -> bool:
    if use.model is None:
        return False
    step = TrainSpec(data=NO_DATA, split="transfer", model=use.model, recipe=use.recipe, engine=engine)
    return bool(step.features()) and not step.solved


def of_classes(name: str, task: TaskSpec, losses: Mapping[str, Loss], uses: list[Use]) -> list[str]:
    """What losses (by method) and heads cannot do with the number of classes of a task."""
    problems = []
    for method, loss in losses.items():
        if task.n_classes > 2 and isinstance(loss, LogConf) and isinstance(loss.threshold, float):
            problems.append(
                f"methods.{method}.loss.threshold: {loss.threshold:g} is a number, which needs two classes, "
                f"and {name} has {task.n_classes}; use prior or half"
            )
        above = 1.0 - 1.0 / task.n_classes  # of a probability, at most, above chance
        if isinstance(loss, Window) and isinstance(loss.radius, float) and loss.radius >= above:
            problems.append(
                f"methods.{method}.loss.radius: {loss.radius:g} leaves no example out, because with the "
                f"{task.n_classes} classes of {name} no probability is more than {above:.3g} above chance; use less, "
                "or xent"
            )
    told = set()
    for use in uses:
        words = use.recipe.head_words
        unnamed = words is None and use.recipe.head_init == "unembedding" and task.kind == "compare"
        if unnamed and (use.name, words) not in told:
            told.add((use.name, words))
            problems.append(
                f"{use.where}.recipe.head_words: {name} compares texts by one score; give the word whose row it starts "
                "from, such as [' good'], or head_init zeros"
            )
        if words is not None and len(words) != task.n_outputs and (use.name, words) not in told:
            told.add((use.name, words))  # not once more for every method
            problems.append(
                f"{use.where}.recipe.head_words: {len(words)} words, and {name} "
                + ("compares texts by one score" if task.kind == "compare" else f"has {task.n_classes} classes")
            )
    return problems


def of_comparisons(name: str, labellings: Mapping[str, Labelling | None]) -> list[str]:
    """What cannot be learned from where texts are compared, as in the task `name`."""
    return [
        f"methods.{method}.labels.from: majority is the most frequent class, and {name} compares texts, where a class "
        "is the place of the better one, drawn at random; use another source"
        for method, labelling in labellings.items()
        if labelling is not None and labelling.source == "majority"
    ]


def of_texts(
    name: str, engine: Engine, losses: Mapping[str, Loss], one_supervisor: Mapping[str, bool], uses: list[Use]
) -> list[str]:
    """What cannot be done where answers are generated texts, as those of the task `name` are.

    `one_supervisor`: by method, whether its labels are one supervisor's answers as they are.
    """
    problems = []
    for method, loss in losses.items():
        if not isinstance(loss, Xent):
            problems.append(
                f"methods.{method}.loss: {loss.name} is written for classes, and {name} generates text, where a label "
                "is a sequence of tokens; use xent"
            )
        if not one_supervisor.get(method, True):
            problems.append(
                f"methods.{method}.labels: {name} generates text, and only one supervisor's answers as they are can be "
                "learned from (they are hard already); use `from: weak`, a model, or a student"
            )
    if engine.cache_frozen:
        problems.append(
            f"engine.cache_frozen: {name} generates text, and hidden states of an answer depend on whose answer it is; "
            "set it to false"
        )
    if engine.zero_stage == 3:
        problems.append(f"engine.zero_stage: 3 cuts apart the head that {name} generates text with; use 2 or less")
    told = set()
    for use in uses:
        wrong = []
        if is_solved(use.recipe) and not (use.model is not None and use.model.words is not None):
            wrong.append("recipe.tune.solver: logistic finds heads for classes; use sgd")
        if use.recipe.eval_every is not None:
            wrong.append("recipe.eval_every: answers are generated after the training only; leave it out")
        if use.recipe.head_init != "zeros" or use.recipe.head_words is not None:
            wrong.append(
                "recipe.head_init: the language-model head comes with the model; leave head_init and head_words out"
            )
        if use.model is not None and use.model.decoder is False and use.method is None:
            wrong.append("use: is an encoder, which generates no text; use a decoder")
        if use.model is not None and use.model.build is not None and use.method is None:
            wrong.append("build: what a plugin builds has no language-model head; use the model itself")
        new = [one for one in wrong if (use.name, one) not in told]
        told |= {(use.name, one) for one in new}
        problems += [f"{use.where}.{one} ({name} generates text)" for one in new]
    return problems


def of_solved(uses: list[Use]) -> list[str]:
    """What a solver cannot be asked for: losses other than cross-entropy. A model by counts of words has one, too."""
    problems = []
    for use in uses:
        words = use.model is not None and use.model.words is not None
        if not (words or is_solved(use.recipe)):
            continue
        how = "has counts of words" if words else "is a probe by solver: logistic"
        if not isinstance(use.recipe.loss, Xent):
            problems.append(
                f"methods.{use.method}.loss: {use.name} {how}, for which the minimum of the cross-entropy is found; "
                f"use xent for it (got {use.recipe.loss.name})"
            )
    return unique(problems)


def of_probing(
    labellings: Mapping[str, Labelling | None],
    specs: Mapping[str, ModelSpec | None],
    students: Collection[tuple[str, str]],
    tasks: Mapping[str, TaskSpec | None],
) -> list[str]:
    """What transforms by activations cannot do with models and tasks. `students`: (model, method) of all there are."""
    problems = []
    for method, labelling in labellings.items():
        for place, probed in enumerate(labelling.transforms if labelling is not None else ()):
            if not isinstance(probed, Probed):
                continue
            where = f"methods.{method}.labels.transforms[{place}].{probed.transform.name}"
            problems += [
                f"{where}: {name} compares texts, and neighbours and probes are of single texts; leave it out"
                for name, task in tasks.items()
                if task is not None and task.kind == "compare"
            ]
            own = sorted(model for model, used_by in students if used_by == method)
            for name in [probed.model] if probed.model is not None else own:
                model = specs.get(name)
                if model is not None:
                    problems += [f"{where}.{what}" for what in _no_activations(probed, name, model)]
    return unique(problems)


def _no_activations(probed: Probed, name: str, model: ModelSpec) -> list[str]:
    depth = model.layers or model.depth
    if model.words is not None:
        return [f"model: {name} has counts of words, no activations; name another"]
    if probed.layers_of(depth) is not None:
        return []
    if depth is None:
        return [f"layer: how many layers {name} has is not known; give a number of layers (got {probed.layer:g})"]
    return [f"layer: {name} has {depth} layers (got {probed.layer})"]


def of_hard_labels(method: str, loss: Loss, field: str = "hard_labels") -> list[str]:
    """Why a loss learns nothing of its own from hard labels, which `field` of the method asks for."""
    if isinstance(loss, Product):
        why = "a product with a hard label is that label, so that this is xent"
    elif isinstance(loss, Window) and loss.radius == "midweak":
        why = "midweak is the median certainty of the labels, and hard ones are all certain, so that this is xent"
    else:
        return []
    return [f"methods.{method}.{field}: {why}; use soft labels, or another loss"]


def of_selections(
    selections: Sequence[str],
    methods: Sequence[str],
    student_recipes: Mapping[tuple[str, str], Recipe | None],
    pairs: Sequence[tuple[str, str]],
) -> list[str]:
    """What cannot be selected: the same thing twice, or among evaluations that a student's recipe does not make."""
    twice = [s for s in dict.fromkeys(selections) if selections.count(s) > 1]
    problems = [f"selections: {selection} is given twice" for selection in twice]
    choosing = [selection for selection in dict.fromkeys(selections) if selection != "final"]
    verb = "chooses" if len(choosing) == 1 else "choose"
    students = dict.fromkeys(student for _, student in pairs)
    for method in methods:
        made = [student_recipes[student, method] for student in students]
        lacking = [s for s, recipe in zip(students, made, strict=True) if recipe and recipe.eval_every is None]
        if choosing and lacking:
            whom = "" if len(lacking) == len(students) else f" for {', '.join(lacking)}"
            problems.append(
                f"selections: {' and '.join(choosing)} {verb} among evaluations during training, and methods.{method} "
                f"makes none{whom}; write methods.{method}.recipe.eval_every: N, in optimizer steps"
            )
    return problems
