"""Digests: what changes them, what does not, and the sentences for specs that are wrong."""

from __future__ import annotations

import json
import math
import types
import typing
from typing import Any, Literal, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import w2s.sweep  # noqa: F401  # its specs are among those that are walked
from w2s import spec as specs
from w2s.errors import SpecError
from w2s.identity import Spec, canonical_json, identity, nearest, role, runtime, sha256_of, validated
from w2s.models import ModelSpec, Words
from w2s.objectives import AdaptConf, Entropy, Gce, Kl, PluginLoss, Product, Window
from w2s.plugins import PluginUse
from w2s.sources.spec import ArchiveSource, FileSource, HubSource, PluginSource
from w2s.spec import (
    Engine,
    FeaturesSpec,
    Frozen,
    LabelsSpec,
    LanguageSpec,
    LogConf,
    Lora,
    Made,
    MaterializeSpec,
    Prompt,
    Recipe,
    Sizes,
    TrainSpec,
    Truth,
    Unread,
    Weak,
    begun_with,
)
from w2s.supervision import (
    Confident,
    FileLabels,
    Harden,
    Knn,
    LogisticProbe,
    MajorityLabels,
    MixTruth,
    PluginTransform,
    SimulatedLabels,
    Smooth,
    Subsample,
    SupervisorLabels,
    Temperature,
    TopoFilter,
    TruthLabels,
)
from w2s.tasks.task import Join, PairsFormat, RatingPairsFormat, TaskSpec, TextFormat

D1, D2 = "1" * 64, "2" * 64
MODEL = ModelSpec(name="m", source=HubSource(hub="org/m"))
TASK = TaskSpec(name="t", source=HubSource(hub="org/t"), format=TextFormat(text="a", label="b"))


def all_specs(base: type[Spec] = Spec) -> list[type[Spec]]:
    """Every spec class of the package."""
    own = [c for c in base.__subclasses__() if c.__module__.startswith("w2s.")]
    return own + [inner for c in own for inner in all_specs(c)]


def values_of(annotation: Any) -> list[Any]:
    """Some values that the type of a field allows; at least two, unless it allows only one."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return values_of(args[0])
    if origin in (Union, types.UnionType):
        return [value for arg in args for value in values_of(arg)]
    if origin is Literal:
        return list(args)
    if origin is tuple:
        arg = values_of(args[0])
        return [
            tuple(arg[:1]) * (1 if args[-1] is ... else len(args)),
            tuple(arg[1:2]) * (3 if args[-1] is ... else len(args)),
        ]
    if origin is dict:
        return [{"a": value} for value in values_of(args[1])[:1]] + [{"b": value} for value in values_of(args[1])[:1]]
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [example(annotation), *variants(example(annotation))]
    simple: dict[Any, list[Any]] = {
        str: ["a", "b"],
        int: [3, 4],
        float: [0.25, 0.5],
        bool: [True, False],
        type(None): [None],
        Any: [1, 2],
    }
    return simple[annotation]


def example(model: type[Spec]) -> Spec:
    """A spec with its required fields filled in; values are not validated, only their types fit."""
    filled = {name: values_of(f.annotation)[0] for name, f in model.model_fields.items() if f.is_required()}
    return model.model_construct(**filled)


def changes(spec: Spec) -> list[tuple[str, Spec]]:
    """(field, spec with another value there) for every field and some other values that its type allows."""
    found = []
    for name, field in type(spec).model_fields.items():
        now = getattr(spec, name)
        others = [v for v in values_of(field.annotation) if (type(v), v) != (type(now), now)]
        found += [(name, spec.model_copy(update={name: value})) for value in others]
    return found


def variants(spec: Spec) -> list[Spec]:
    return [changed for name, changed in changes(spec) if role(type(spec).model_fields[name]) == "identity"]


@pytest.mark.parametrize("model", all_specs(), ids=lambda model: model.__name__)
def test_every_field_is_classified_and_only_identity_fields_change_the_digest(model):
    spec = example(model)
    seen: set[str] = set()
    for name, changed in changes(spec):
        field = model.model_fields[name]
        assert role(field) in ("identity", "runtime"), f"{model.__name__}.{name}"
        if role(field) == "runtime":
            assert changed.digest() == spec.digest(), f"{name}={getattr(changed, name)!r} is runtime"
        elif getattr(changed, name) != getattr(spec, name) and not _same_identity(spec, changed, name):
            assert changed.digest() != spec.digest(), f"{name}={getattr(changed, name)!r} is identity"
        seen.add(name)
    only_one_value = {name for name, f in model.model_fields.items() if len(values_of(f.annotation)) == 1}
    assert seen | only_one_value == set(model.model_fields)


def _same_identity(spec: Spec, changed: Spec, name: str) -> bool:
    """Nested specs that differ in runtime fields only."""
    before, after = getattr(spec, name), getattr(changed, name)
    return isinstance(before, Spec) and isinstance(after, Spec) and before.identity() == after.identity()


def test_a_field_that_is_neither_identity_nor_runtime_is_refused():
    with pytest.raises(TypeError, match=r"Careless: say identity.* or runtime.* for size"):

        class Careless(Spec):
            name: str = identity("a")
            size: int = 3


def test_recorded_digests_stay_the_same():
    """These were published. A failure means that every stored artifact loses its name: mend the spec, not the test."""
    data = MaterializeSpec(task=TASK, sizes=Sizes(weak_train=10, transfer=20, val=5, test=30))
    weak = TrainSpec(data=D1, split="weak_train", model=MODEL)
    student = TrainSpec(
        data=D1,
        split="transfer",
        labels=Weak(supervisor=D2),
        model=ModelSpec(name="s", source=FileSource(file="/x", sha256=D1), layers=3, pooling="mean", max_length=48),
        recipe=Recipe(loss=LogConf(threshold=0.5), tune=Frozen(layers=2), lr=3e-4),
        seed=7,
        engine=Engine(mixed_precision="bf16"),
    )
    features = FeaturesSpec(data=D1, split="test", model=MODEL)
    archive = ArchiveSource(package="a==1", sha256=D1, file="a.txt")
    assert [spec.digest()[:16] for spec in (data, weak, student, features, archive)] == [
        "13c00d7b6be6fcdd",
        "0798f88bc38d2c9c",
        "a3f212db4ba8cfd8",
        "1460ff81c309cadd",
        "89387f7adc54ff1c",
    ]


@pytest.mark.parametrize(
    ("loss", "digest"),
    [
        (specs.Xent(), "054854b9a4952401"),
        (LogConf(), "0789418200b080bc"),
        (Product(), "422057556311ee5b"),
        (Kl(), "122c4f7469c5a73c"),
        (Kl(direction="reverse"), "bdc9aeb3e129da8e"),
        (Entropy(), "511970299f7ee91b"),
        (Entropy(detach=True), "ed2db6108f9b87f2"),
        (Window(), "c98bb414893db5f6"),
        (Window(radius="midweak"), "298c322690d0827b"),
        (AdaptConf(), "7979240c203221ee"),
        (Gce(), "a81b2240235c07ff"),
    ],
)
def test_recorded_digests_of_losses_stay_the_same(loss, digest):
    assert loss.digest()[:16] == digest


def test_recorded_digests_of_labels_stay_the_same():
    """Published later than those above; the same holds for them."""
    people = FileLabels(source=FileSource(file="/x", sha256=D1), origin="raters")
    mean = SupervisorLabels(supervisors=(D1, D2), weights=(0.25, 0.75))
    simulated = SimulatedLabels(like=D1, errors="difficulty", by=D2)
    every = (
        Harden(),
        Temperature(t=2.0),
        Smooth(eps=0.1),
        Confident(keep=0.5),
        MixTruth(share=0.1),
        Subsample(like=D2),
    )
    found = [
        LabelsSpec(data=D1, source=SupervisorLabels(supervisors=(D2,))),
        LabelsSpec(data=D1, source=mean, transforms=every, part=(1, 3), seed=5),
        *(LabelsSpec(data=D1, source=source) for source in (people, simulated, TruthLabels(), MajorityLabels())),
        TrainSpec(data=D1, split="transfer", labels=Made(labels=D2), model=MODEL),
    ]
    assert [spec.digest()[:16] for spec in found] == [
        "b5e6f4fe55cccf66",
        "842675e21baf45b2",
        "e7166fca53725d4f",
        "ea4390922816fce5",
        "86ab20973b58e391",
        "07e856d219ebf9cb",
        "fbac299ed1aa92a2",
    ]


def test_recorded_digests_of_probes_stay_the_same():
    low = MODEL.model_copy(update={"layers": 3})
    transforms = (
        Knn(features=(D1, D2), do="relabel"),
        LogisticProbe(features=(D1, D2), do="filter", keep=0.8),
        TopoFilter(features=(D1, D2), keep=0.9),
    )
    found = [
        FeaturesSpec(data=D1, split="val", model=low, pooled=True),
        LabelsSpec(data=D1, source=SupervisorLabels(supervisors=(D2,)), transforms=transforms),
        specs.Probe(solver="logistic"),
        specs.Probe(solver="logistic", l2=0.5),
        ModelSpec(name="tfidf", source=None, words=Words()),
    ]
    assert [spec.digest()[:16] for spec in found] == [
        "d814c6e6f0fdbc3b",
        "2ffd49a7dc176e90",
        "4c6b1f5cc0f205ef",
        "421e0ebc4ad5d96b",
        "57d264eb35f223d1",
    ]


def test_recorded_digests_of_starts_stay_the_same():
    language = LanguageSpec(data=D1, model=MODEL)
    both = LanguageSpec(data=D1, splits=("weak_train", "transfer"), model=MODEL, seed=3)
    start = begun_with(language, D2)
    student = TrainSpec(data=D1, split="transfer", labels=Weak(supervisor=D2), model=MODEL, start=start)
    frozen = student.model_copy(update={"recipe": Recipe(tune=Frozen(layers=2))})
    again = student.model_copy(update={"start": begun_with(frozen, D1)})
    features = FeaturesSpec(data=D1, split="val", model=MODEL, pooled=True, start=start)
    assert [spec.digest()[:16] for spec in (language, both, student, again, features)] == [
        "08dde788e00daa74",
        "875127d83db75101",
        "070ba16521fa89d8",
        "1535cbf2ecf39ccb",
        "d48d4a25ab54cf70",
    ]


def test_recorded_digests_of_comparisons_stay_the_same():
    pairs = PairsFormat(prompt="q", chosen="a", rejected="b")
    rated = RatingPairsFormat(text="a", rating="b", margin=0.5, ratings="c", raters=1)
    join = Join(source=ArchiveSource(package="a==1", sha256=D1, file="a.txt"), key="id")
    first = TaskSpec(name="t", kind="compare", source=HubSource(hub="org/t"), format=pairs)
    second = TaskSpec(name="t", kind="compare", source=HubSource(hub="org/t"), format=rated, join=join)
    assert [spec.digest()[:16] for spec in (first, second)] == ["cf6acc22856e4bd6", "7c67dab4ddeb8d64"]


def test_recorded_digests_of_plugins_stay_the_same():
    use = {"use": "mine", "code": D1, "values": (("a", 1.0), ("b", None), ("c", "x"), ("d", 2))}
    built = MODEL.model_copy(update={"build": PluginUse(**use)})
    task = TASK.model_copy(update={"source": PluginSource(**use), "own_prepare": PluginUse(**use)})
    found = [PluginLoss(**use), PluginTransform(**use, random=True), built, task]
    assert [spec.digest()[:16] for spec in found] == [
        "d03b47779812979c",
        "fd5c23954a5a0734",
        "0ada5c0a298242a1",
        "cf7a93c99bde491f",
    ]


def test_the_file_name_of_a_plugin_does_not_count_and_its_values_survive_a_manifest():
    loss = PluginLoss(use="mine", code=D1, file="a.py", values=(("a", 1.0), ("b", True), ("c", 1), ("d", "1")))
    assert loss.digest() == loss.model_copy(update={"file": "b.py"}).digest()
    again = validated(Recipe, json.loads(json.dumps(Recipe(loss=loss).model_dump(mode="json")))).loss
    assert [(value, type(value)) for _, value in again.values] == [(value, type(value)) for _, value in loss.values]
    assert again.digest() == loss.digest()


@pytest.mark.parametrize("model", all_specs(), ids=lambda model: model.__name__)
def test_the_digest_is_that_of_the_canonical_json_also_when_parts_were_asked_before(model):
    for spec in [example(model), *(changed for _, changed in changes(example(model)))]:
        assert spec.digest() == sha256_of(spec.identity())
        assert spec.digest() == spec.model_copy().digest()


def test_a_changed_copy_does_not_inherit_what_was_worked_out_for_the_original():
    step = TrainSpec(data=D1, split="transfer", model=MODEL)
    inside = Recipe(lr=1e-3)
    before = [step.digest(), inside.digest(), step.model_copy(update={"recipe": inside}).digest()]
    other = inside.model_copy(update={"lr": 2e-3})
    after = [step.model_copy(update={"seed": 1}).digest(), other.digest()]
    after.append(step.model_copy(update={"recipe": other}).digest())
    assert not set(before) & set(after)
    assert other == Recipe(lr=2e-3)  # nor do two equal specs differ by what was worked out for one of them
    assert step == TrainSpec(data=D1, split="transfer", model=MODEL)


class Before(Spec):
    lr: float = identity(0.1)
    workers: int = runtime(1)


class After(Spec):
    lr: float = identity(0.1)
    workers: int = runtime(1)
    momentum: float = identity(0.9, later=True)
    paths: tuple[str, ...] = runtime(())


def test_a_later_field_at_its_default_keeps_old_digests_and_counts_once_it_differs():
    assert After().digest() == Before().digest()
    assert After(momentum=0.8).digest() != Before().digest()
    assert After(lr=0.2).digest() == Before(lr=0.2).digest() != Before().digest()


def test_declared_types_decide_not_how_a_number_was_written():
    assert validated(Recipe, {"lr": 1}).digest() == validated(Recipe, {"lr": 1.0}).digest()
    assert Recipe(weight_decay=-0.0).digest() == Recipe(weight_decay=0.0).digest()
    assert Recipe(betas=(-0.0, 0.5)).digest() == Recipe(betas=(0.0, 0.5)).digest()
    assert Recipe(lr=0.1).digest() != Recipe(lr=math.nextafter(0.1, 1.0)).digest()


def test_runtime_fields_deep_inside_do_not_count():
    step = TrainSpec(data=D1, split="transfer", model=MODEL)
    renamed = step.model_copy(update={"model": MODEL.model_copy(update={"name": "other", "params": 5})})
    moved = step.model_copy(update={"engine": Engine(workers=3, device="cpu"), "keep_weights": True})
    assert renamed.digest() == moved.digest() == step.digest()
    cut = step.model_copy(update={"model": MODEL.model_copy(update={"layers": 5})})
    assert cut.digest() != step.digest()


def test_of_the_engine_the_precision_counts_and_nothing_else():
    """`changes` finds every other value that each field's type allows."""
    step = TrainSpec(data=D1, split="transfer", model=MODEL)
    assert step.digest() == step.model_copy(update={"engine": Engine()}).digest()
    assert "engine" not in step.identity()
    moving = {
        name
        for name, engine in changes(Engine())
        if step.model_copy(update={"engine": engine}).digest() != step.digest()
    }
    assert moving == {"mixed_precision"}
    in_bf16 = [engine.model_copy(update={"mixed_precision": "bf16"}) for _, engine in changes(Engine())]
    digests = [step.model_copy(update={"engine": e}).digest() for e in [Engine(mixed_precision="bf16"), *in_bf16]]
    assert len(set(digests)) == 1
    assert set(Engine.model_fields) == {name for name, _ in changes(Engine())}


def test_a_local_file_counts_by_content_not_by_path():
    here, there = FileSource(file="/a", sha256=D1), FileSource(file="/b", sha256=D1)
    assert here.digest() == there.digest() != FileSource(file="/a", sha256=D2).digest()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: reordered(data[key]) for key in reversed(list(data))}
    return [reordered(item) for item in data] if isinstance(data, list) else data


@given(plain)
def test_the_order_of_keys_does_not_matter_and_canonical_json_reads_back(data):
    assert sha256_of(reordered(data)) == sha256_of(data)
    text = canonical_json(data)
    assert json.loads(text) == data
    assert canonical_json(json.loads(text)) == text


@given(st.lists(st.integers(), min_size=2, max_size=5, unique=True))
def test_the_order_of_a_list_does_matter(items):
    assert sha256_of(items) != sha256_of(items[::-1])


def test_nan_has_no_digest():
    with pytest.raises(ValueError, match="Out of range"):
        sha256_of({"a": math.nan})


losses = st.sampled_from(
    [
        specs.Xent(),
        LogConf(),
        LogConf(a_max=0.75, threshold="half"),
        LogConf(threshold=0.3),
        Window(),
        Window(radius="midweak"),
        Gce(q=0.3),
        Kl(),
    ]
)
tunes = st.sampled_from(
    [
        specs.Full(),
        specs.Probe(),
        specs.Probe(solver="logistic", l2=0.5),
        Frozen(layers=4),
        Lora(r=4, targets=("q", "v")),
    ]
)
recipes = st.builds(
    Recipe,
    loss=losses,
    tune=tunes,
    lr=st.floats(1e-9, 1.0),
    epochs=st.integers(1, 9),
    clip_norm=st.none() | st.floats(0.1, 9.0),
    head_words=st.none() | st.tuples(st.text(max_size=3), st.text(max_size=3)),
)


@given(recipes, st.integers(0, 2**31), st.sampled_from([Truth(), Weak(supervisor=D2, hard=True)]))
def test_a_spec_survives_its_manifest(recipe, seed, labels):
    """What a manifest records is read back as the same spec with the same digest."""
    step = TrainSpec(data=D1, split="transfer", labels=labels, model=MODEL, recipe=recipe, seed=seed)
    again = validated(TrainSpec, json.loads(json.dumps(step.model_dump(mode="json"))))
    assert again == step
    assert again.digest() == step.digest()


@given(recipes, recipes)
def test_two_recipes_have_one_digest_only_where_they_are_equal(one, other):
    assert (one.digest() == other.digest()) == (one == other)


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({"warmup": 1}, ["recipe.warmup: unknown field (did you mean warmup_frac?)"]),
        ({"lr": "1e-4"}, ["recipe.lr: expected a number (got '1e-4')"]),
        ({"epochs": 1.5}, ["recipe.epochs: expected a whole number (got 1.5)"]),
        ({"epochs": True}, ["recipe.epochs: expected a whole number (got True)"]),
        ({"lr": 0}, ["recipe.lr: expected more than 0 (got 0)"]),
        ({"loss": {"name": "logcon"}}, ["recipe.loss.name: no 'logcon' (did you mean logconf?)"]),
        (
            {"loss": {"a_max": 0.5}},
            [
                "recipe.loss: say which one with name, one of xent, logconf, product, kl, entropy, window, adaptconf, "
                "gce"
            ],
        ),
        ({"loss": {"name": "logconf", "amax": 1}}, ["recipe.loss.amax: unknown field (did you mean a_max?)"]),
        ({"tune": {"kind": "frozen"}}, ["recipe.tune.layers: missing, and there is no default"]),
        ({"betas": [0.9]}, ["recipe.betas[1]: missing, and there is no default"]),
        ({"head_words": ["a", 3]}, ["recipe.head_words[1]: expected text (got 3)"]),
        (
            {"lr": -1, "batch": 3, "schedule": "cosin"},
            [
                "recipe.lr: expected more than 0 (got -1)",
                "recipe.schedule: expected 'cosine', 'linear' or 'constant' (got 'cosin')",
                "recipe.batch: unknown field (did you mean batch_size?)",
            ],
        ),
        ({"head_words": ["\ud800"]}, ["recipe: holds text that is not Unicode"]),
        ([1], ["recipe: expected a mapping (got [1])"]),
        ({"tune": "probe"}, ["recipe.tune: expected a mapping, such as {kind: probe} (got 'probe')"]),
        (
            {"tune": "prob"},
            ["recipe.tune: expected a mapping with kind, one of full, frozen, lora, probe, prompt (got 'prob')"],
        ),
        ({"tune": {"kind": "prompt", "template": "x"}}, ["recipe.tune.template: holds no {text} (got 'x')"]),
    ],
)
def test_every_problem_is_a_sentence_with_path_value_and_nearest_name(data, problems):
    with pytest.raises(SpecError) as caught:
        validated(Recipe, data, "recipe")
    assert caught.value.problems == problems


@pytest.mark.parametrize("word", ["int", "list", "str", "dict", "tuple", "none"])
def test_an_unknown_field_that_is_called_like_a_type_is_named(word):
    with pytest.raises(SpecError, match=rf"^{word}: unknown field"):
        validated(Recipe, {word: 1})


def test_the_place_inside_a_union_is_named_as_the_user_wrote_it():
    """'text' is both the kind of a format and one of its fields."""
    with pytest.raises(SpecError) as caught:
        validated(TaskSpec, {"name": "t", "source": {"hub": "x"}, "format": {"kind": "text", "lable": "b"}}, "tasks.t")
    assert caught.value.problems == [
        "tasks.t.format.text: missing, and there is no default",
        "tasks.t.format.label: missing, and there is no default",
        "tasks.t.format.lable: unknown field (did you mean label?)",
    ]


def test_a_long_wrong_value_is_cut():
    with pytest.raises(SpecError) as caught:
        validated(Recipe, {"lr": "x" * 10_000})
    assert len(str(caught.value)) < 200


def test_data_that_is_not_plain_is_refused():
    with pytest.raises(SpecError, match="r: not plain data"):
        validated(Recipe, {"lr": {1, 2}}, "r")
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SpecError, match="r: not plain data"):
        validated(Recipe, {"lr": loop}, "r")
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SpecError, match="r: not plain data"):
        validated(Recipe, {"lr": deep}, "r")
    with pytest.raises(SpecError, match=r"r\.lr: .*finite"):
        validated(Recipe, {"lr": math.inf}, "r")


def test_specs_do_not_change_and_do_not_convert():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Recipe().lr = 1.0  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError, match="valid integer"):
        Recipe(epochs="3")


def test_nearest_names():
    assert nearest("minlm", ["minilm", "gpt2"]) == " (did you mean minilm?)"
    assert nearest("zzz", ["b", "a"]) == " (known: a, b)"
    assert nearest("zzz", []) == ""
    assert nearest("zzz", [f"name{i}" for i in range(50)]) == ""


def test_recorded_digests_of_prompts_stay_the_same():
    full = Prompt(shots=5, template="{text}?", words=(" no", " yes"), instruction="Judge.", calibrated=False)
    step = TrainSpec(data=D1, split="transfer", labels=Unread(), model=MODEL, recipe=Recipe(tune=Prompt()))
    assert [spec.digest()[:16] for spec in (Prompt(), full, step)] == [
        "dafcf52269e8cb3e",
        "b0e5a2b3c4c47325",
        "6baf05ebb1dacb21",
    ]
