"""A method's `labels` as written in a sweep in, what they come from and what is done to them out.

Names of models and methods are checked here, and every problem told at once; what they lead to for each pair is for
w2s.chains to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from w2s.errors import SpecError
from w2s.identity import Spec, identity, nearest, runtime, validated
from w2s.sources.fetch import find_file, resolve
from w2s.sources.spec import FileSource
from w2s.supervision import (
    AnyTransform,
    Confident,
    FileLabels,
    Harden,
    Knn,
    LogisticProbe,
    MixTruth,
    PluginTransform,
    Probing,
    Smooth,
    Subsample,
    Temperature,
    TopoFilter,
    wrong_weights,
)

WEAK, SAME, BELOW = "weak", "same", "below"
WORDS = (WEAK, "truth", "majority", SAME, BELOW)  # mean something in `labels`, so no model there may be called so
Combine = Literal["mean", "vote", "route"]
Errors = Literal["random", "class", "difficulty"]
COMBINE, ERRORS = get_args(Combine), get_args(Errors)
# What a transform is called in a sweep, and the field that a bare value after its name stands for.
TRANSFORMS: Mapping[str, tuple[type[Spec], str | None]] = {
    "harden": (Harden, None),
    "temperature": (Temperature, "t"),
    "smooth": (Smooth, "eps"),
    "confident": (Confident, "keep"),
    "mix_truth": (MixTruth, "share"),
    "subsample": (Subsample, "share"),
    "knn": (Knn, "do"),
    "logistic": (LogisticProbe, "do"),
    "topofilter": (TopoFilter, "keep"),
}
EXAMPLES = {"temperature": "2", "knn": "relabel", "logistic": "relabel"}  # of values; elsewhere 0.5
# Of movie snippets that a two-layer MiniLM had labelled, neighbours gave 0.742 the right label by the middle of 20
# layers of SmolLM2, as EleutherAI/w2s takes it, and 0.794 by layer 15.
LAYER = 0.75
UNKNOWN = "0" * 64  # digest of a step that is not known yet


# -- what may be written -----------------------------------------------------------------------------------------------
# Checked below field by field, since names have to be looked up; `w2s fields` shows these.


class Block(Spec):
    """Where labels come from and what is done to them. A source alone, such as `labels: truth`, is its `from`."""

    from_: Any = identity(
        WEAK,
        alias="from",
        about="Whose labels: a supervisor, a list (the same one counts once), truth, majority, a file, simulated.",
    )
    combine: Combine = identity(
        "mean",
        about="Of a list: their mean; the class that most choose; for each example the surest supervisor's label.",
    )
    weights: tuple[float, ...] | None = identity(None, about="Of a mean, one for each, with sum 1; null: equal ones.")
    transforms: tuple[Any, ...] = identity((), about="What is done to the labels, in this order.")
    fresh: bool = identity(False, about="True: each link of a chain learns on a part of transfer of its own.")


class StudentSource(Spec):
    """A student of the pair's weak model as the supervisor: chains, and rounds of one model."""

    student: str = identity(about="A model; same: the student's own; below: the next one before it (weak, if none is).")
    method: str = identity(about="The method by which it learns.")


class FileSourceOfLabels(Spec):
    """Labels of people or of another program, from a file of rows with `example_id` or `text`, and `label` or `p`."""

    file: str = runtime(
        about="JSON lines, JSON, CSV, TSV or Parquet, relative to the YAML file; counts by its content."
    )
    sha256: str | None = identity(None, about="SHA-256 of the file; another content is refused.")
    origin: str = identity("", about="What the origin of these labels is called; by default the file's name.")


class SimulatedSource(Spec):
    """Ground truth with as many errors, and the same confidences, as a supervisor's labels."""

    simulated: Any = identity(about="The supervisor whose errors are moved to other examples.")
    errors: Errors = identity(
        "random", about="Errors fall on any example, between classes as often as its own, or on difficult examples."
    )
    by: Any = identity(None, about="For difficulty: the supervisor that says, by how unsure of the truth it is.")


class Activations(Spec):
    """Of what model the activations are that a transform goes by."""

    model: str | None = identity(None, about="Whose activations, untuned; null: the student's own model.")
    layer: int | float = identity(LAYER, about="Of the so-many-th layer from below, or at a share of the layers.")
    pooling: Literal["auto", "last", "mean"] = identity(
        "auto", about="As `pooling` of models; auto: as the model's own."
    )


def names_in(written: type[Spec]) -> tuple[str, ...]:
    """What its fields are called in a sweep."""
    return tuple(field.alias or name for name, field in written.model_fields.items())


FIELDS = names_in(Block)
SOURCES = (StudentSource, FileSourceOfLabels, SimulatedSource)


# -- what is meant -----------------------------------------------------------------------------------------------------


class Ref(NamedTuple):
    """A supervisor by name: a model trained on weak_train, or (with a method) a student of the pair's weak model."""

    model: str  # one of the sweep's, or WEAK; of a student also SAME or BELOW
    method: str | None = None


class Like(NamedTuple):
    """`subsample: weak`: to the accuracy of a supervisor."""

    ref: Ref


class Probed(NamedTuple):
    """A transform that goes by activations, before it is known whose: its `features` are still UNKNOWN."""

    transform: Knn | LogisticProbe | TopoFilter
    model: str | None = None  # None: the student's own, untuned
    layer: int | float = LAYER  # layers from below, or a share of them
    pooling: Literal["auto", "last", "mean"] = "auto"  # auto: as the model's own head

    def layers_of(self, depth: int | None) -> int | None:
        """The lowest layers that run, of so many; None where that cannot be told, or there are fewer."""
        if isinstance(self.layer, int):
            return self.layer if depth is None or self.layer <= depth else None
        return None if depth is None else max(1, int(self.layer * depth + 0.5))


class Labelling(NamedTuple):
    """Where a method's labels come from, names of models not yet replaced by steps."""

    source: Literal["supervisors", "file", "truth", "majority", "simulated"] = "supervisors"
    refs: tuple[Ref, ...] = (Ref(WEAK),)  # supervisors; of simulated labels the one they are like, then the judge
    combine: Combine = "mean"
    weights: tuple[float, ...] | None = None
    errors: Errors = "random"
    file: FileLabels | None = None
    transforms: tuple[AnyTransform | Like | Probed, ...] = ()
    fresh: bool = False

    @property
    def asked(self) -> tuple[Ref, ...]:
        """Every supervisor that it needs."""
        return (*self.refs, *(t.ref for t in self.transforms if isinstance(t, Like)))

    @property
    def is_one_supervisor(self) -> bool:
        """True where labels are the predictions of one supervisor, as they are."""
        return self.source == "supervisors" and len(self.refs) == 1 and not self.transforms and not self.fresh

    @property
    def is_hard(self) -> bool:
        """True where every label is certain, whatever the supervisors say."""
        hard = self.source in ("truth", "majority") or self.combine == "vote"
        for transform in self.transforms:
            softens = isinstance(transform, (Smooth, PluginTransform))
            softens = softens or (isinstance(transform, Probed) and getattr(transform.transform, "do", "") == "relabel")
            hard = (hard or isinstance(transform, Harden)) and not softens
        return hard


class _Names(NamedTuple):
    """What a `labels` block may refer to."""

    models: Collection[str]
    methods: Collection[str]
    base: Path  # of relative paths


def labelling_of(
    given: Any, where: str, models: Collection[str], methods: Collection[str], base: Path, hard: bool = False
) -> Labelling:
    """A method's `labels` as written. `hard`: the method asks for hard labels besides. Raises SpecError."""
    known, problems = _Names(models, methods, base), list[str]()
    block = given if isinstance(given, dict) and ("from" in given or set(given) & set(FIELDS)) else {"from": given}
    if given is None:
        block = {}
    problems += [f"{where}.{key}: unknown field{nearest(str(key), FIELDS)}" for key in block if key not in FIELDS]
    if given is not None:
        problems += [f"models.{n}: has a meaning of its own in labels; name it otherwise" for n in WORDS if n in models]
    made = Labelling()
    try:
        made = _source(block.get("from", WEAK), f"{where}.from", known)
    except SpecError as error:
        problems += error.problems
    several = isinstance(block.get("from"), list) and len(block["from"]) > 1
    combine, weights = block.get("combine", "mean"), block.get("weights")
    if combine not in COMBINE:
        problems.append(f"{where}.combine: no {combine!r}{nearest(str(combine), COMBINE)}")
    elif ("combine" in block or weights is not None) and not several:
        problems.append(f"{where}: combine and weights need two or more supervisors, as a list in `from`")
    elif weights is not None:
        numbers = isinstance(weights, list) and all(type(w) in (int, float) for w in weights)
        wrong = (
            wrong_weights(tuple(map(float, weights)), len(block["from"]), combine)
            if numbers
            else f"weights: expected a list of numbers (got {weights!r})"
        )
        problems += [f"{where}.{wrong}"] if wrong else []
    transforms = _transforms(block.get("transforms", []), f"{where}.transforms", made.source, known, problems)
    fresh = block.get("fresh", False)
    if not isinstance(fresh, bool):
        problems.append(f"{where}.fresh: expected true or false (got {fresh!r})")
    elif fresh and not problems and not any(ref.method for ref in made.refs):
        problems.append(f"{where}.fresh: is for chains, each link on examples of its own; no student is in `from`")
    if problems:
        raise SpecError(problems)
    shares = None if weights is None else tuple(map(float, weights))
    made = made._replace(combine=combine, weights=shares, transforms=transforms, fresh=fresh)
    # What is hard already is not made another step that holds the same.
    return made._replace(transforms=(*transforms, Harden())) if hard and not made.is_hard else made


def _source(given: Any, where: str, known: _Names) -> Labelling:
    if given in ("truth", "majority") and isinstance(given, str):
        return Labelling("truth" if given == "truth" else "majority", ())
    if isinstance(given, list):
        if not given:
            raise SpecError(f"{where}: an empty list; name at least one supervisor")
        problems, refs = list[str](), list[Ref]()
        for place, item in enumerate(given):
            try:
                refs.append(_ref(item, f"{where}[{place}]", known))
            except SpecError as error:
                problems += error.problems
        twice = [given[refs.index(ref)] for ref in dict.fromkeys(refs) if refs.count(ref) > 1] if not problems else []
        problems += [f"{where}: {name} is there twice; name each supervisor once" for name in twice]
        if problems:
            raise SpecError(problems)
        return Labelling(refs=tuple(refs))
    if isinstance(given, dict) and "file" in given:
        _only(given, FileSourceOfLabels, where)
        sha256 = {"sha256": given["sha256"]} if "sha256" in given else {}
        source = validated(FileSource, {"file": given["file"], **sha256}, where)
        path = find_file(source.file, known.base, f"{where}.file")
        if not path.is_file():  # before all of it is hashed
            raise SpecError(f"{where}.file: {path} is a folder; name the file with the labels in it")
        source = resolve(source, known.base, f"{where}.file")
        origin = given.get("origin", Path(source.file).stem)
        data = {"source": source.model_dump(mode="json"), "origin": origin}
        return Labelling("file", (), file=validated(FileLabels, data, where))
    if isinstance(given, dict) and "simulated" in given:
        return _simulated(given, where, known)
    return Labelling(refs=(_ref(given, where, known),))


def _simulated(given: dict[str, Any], where: str, known: _Names) -> Labelling:
    _only(given, SimulatedSource, where)
    like, errors = _ref(given["simulated"], f"{where}.simulated", known), given.get("errors", "random")
    if errors not in ERRORS:
        raise SpecError(f"{where}.errors: no {errors!r}{nearest(str(errors), ERRORS)}")
    if (errors == "difficulty") != ("by" in given):
        why = (
            "say with `by` which model tells what is difficult" if errors == "difficulty" else "only difficulty has it"
        )
        raise SpecError(f"{where}.by: {why}")
    refs = (like, _ref(given["by"], f"{where}.by", known)) if "by" in given else (like,)
    if len(set(refs)) < len(refs):
        raise SpecError(f"{where}.by: by its own certainty the supervisor's own labels come back; name another model")
    return Labelling("simulated", refs, errors=errors)


def _ref(given: Any, where: str, known: _Names) -> Ref:
    if isinstance(given, str):
        if given in ("truth", "majority"):
            raise SpecError(f"{where}: {given} is no supervisor; it can only stand alone, as `from: {given}`")
        if given != WEAK and given not in known.models:
            raise SpecError(f"{where}: no model {given!r}{nearest(given, [WEAK, 'truth', 'majority', *known.models])}")
        return Ref(given)
    if not (isinstance(given, dict) and "student" in given):
        raise SpecError(
            f"{where}: expected weak, the name of a model, {{student: same, method: NAME}}, or outside of lists truth, "
            f"majority, {{file: PATH}} or {{simulated: weak}} (got {given!r})"
        )
    _only(given, StudentSource, where)
    student, method = given["student"], given.get("method")
    problems = []
    if student not in (SAME, BELOW, *known.models):
        problems.append(f"{where}.student: no {student!r}{nearest(str(student), [SAME, BELOW, *known.models])}")
    if method not in known.methods:
        got = f"no method {method!r}" if "method" in given else "say with `method` how the student learns"
        problems.append(f"{where}.method: {got}{nearest(str(method), known.methods)}")
    if problems:
        raise SpecError(problems)
    return Ref(student, method)


def _only(given: dict[str, Any], written: type[Spec], where: str) -> None:
    fields = names_in(written)
    problems = [f"{where}.{key}: unknown field{nearest(str(key), fields)}" for key in given if key not in fields]
    if problems:
        raise SpecError(problems)


def _transforms(
    given: Any, where: str, source: str, known: _Names, problems: list[str]
) -> tuple[AnyTransform | Like | Probed, ...]:
    """The transforms as written; what is wrong with them is added to `problems`."""
    if not isinstance(given, list):
        problems.append(f"{where}: expected a list, such as [harden] or [{{temperature: 2}}] (got {given!r})")
        return ()
    found: list[AnyTransform | Like | Probed] = []
    for place, item in enumerate(given):
        try:
            found.append(_transform(item, f"{where}[{place}]", source, known))
        except SpecError as error:
            problems += error.problems
    return tuple(found)


def _transform(given: Any, where: str, source: str, known: _Names) -> AnyTransform | Like | Probed:
    """One of: `harden`, `{temperature: 2}`, `{confident: {keep: 0.5}}`."""
    name, value = given, None
    if isinstance(given, dict) and len(given) == 1:
        ((name, value),) = given.items()
    elif not isinstance(given, str):
        raise SpecError(
            f"{where}: expected a name, or one name with its value, such as {{temperature: 2}} (got {given!r})"
        )
    if name == "plugin" and isinstance(value, dict):  # what w2s.pluginfiles makes of a plugin's
        return validated(PluginTransform, {**value, "name": name}, where)
    if name not in TRANSFORMS:
        raise SpecError(f"{where}: no transform {name!r}{nearest(str(name), TRANSFORMS)}")
    made, field = TRANSFORMS[name]
    if name == "subsample" and isinstance(value, str):
        if source != "truth":
            raise SpecError(
                f"{where}.subsample: to the accuracy of {value} needs the truth, so `from: truth`; or give a share"
            )
        return Like(_ref(value, f"{where}.subsample", known))
    if value is None and field is not None:
        raise SpecError(f"{where}: {name} needs a value, such as {{{name}: {EXAMPLES.get(name, '0.5')}}}")
    if value is not None and field is None:
        raise SpecError(f"{where}: {name} takes no value (got {value!r})")
    fields: dict[str, Any] = value if isinstance(value, dict) else {} if value is None else {str(field): value}
    if issubclass(made, Probing):
        return _probed(made, name, fields, f"{where}.{name}", known)
    checked: Any = validated(made, {**fields, "name": name}, f"{where}.{name}")
    return checked  # type: ignore[no-any-return] # one of the classes of TRANSFORMS


def _probed(made: type[Probing], name: str, given: dict[str, Any], where: str, known: _Names) -> Probed:
    """A transform by activations: whose, of which layer and how pooled stands beside its own fields."""
    fields = {key: value for key, value in given.items() if key not in Activations.model_fields}
    model, layer, pooling = given.get("model"), given.get("layer", LAYER), given.get("pooling", "auto")
    problems: list[str] = []
    if "features" in fields:
        fields.pop("features")
        problems.append(f"{where}.features: unknown field; say with `model`, `layer` and `pooling` what they are of")
    if model is not None and model not in known.models:
        problems.append(f"{where}.model: no model {model!r}{nearest(str(model), known.models)}")
    share, number = type(layer) is float and 0.0 < layer <= 1.0, type(layer) is int and layer >= 1
    if not (share or number):
        problems.append(
            f"{where}.layer: expected a share of the layers from below, such as 0.5, or their number (got {layer!r})"
        )
    if pooling not in ("auto", "last", "mean"):
        problems.append(f"{where}.pooling: no {pooling!r}{nearest(str(pooling), ('auto', 'last', 'mean'))}")
    checked: Any = None
    try:
        checked = validated(made, {**fields, "name": name, "features": [UNKNOWN, UNKNOWN]}, where)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)
    return Probed(checked, model, layer, pooling)
