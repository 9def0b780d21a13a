"""What methods' labels lead to for each pair, as the steps that make them; refuses chains without a beginning.

A method learns from its pair's weak model unless its `labels` say otherwise. A student may be a supervisor itself, of
the same size or smaller: then its own labels come first, and so on down to weak models, files or ground truth. Every
step on the way is an ordinary one, so chains share what they have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from w2s.errors import SpecError
from w2s.identity import unique
from w2s.labelling import BELOW, SAME, WEAK, Labelling, Like, Probed, Ref
from w2s.spec import (
    AnyStep,
    FeaturesSpec,
    LanguageSpec,
    Recipe,
    Split,
    Start,
    TrainSpec,
    begun_with,
    reads_no_labels,
)
from w2s.supervision import (
    AnyTransform,
    Harden,
    Labels,
    LabelSource,
    LabelsSpec,
    Made,
    MajorityLabels,
    PluginTransform,
    SimulatedLabels,
    Subsample,
    SupervisorLabels,
    Truth,
    TruthLabels,
    Unread,
    Weak,
    draws,
)


class Chains:
    """What the labels of a sweep's methods lead to.

    `models`: the sweep's, weakest first. `starts`: by method, the one whose student it begins from.
    """

    def __init__(
        self, labellings: Mapping[str, Labelling], models: Sequence[str], starts: Mapping[str, str] | None = None
    ) -> None:
        self.labellings, self.starts = labellings, starts or {}
        self._place = {model: place for place, model in enumerate(models)}
        self._models = list(models)
        self._depths: dict[tuple[str, str, str], int] = {}

    def meant(self, ref: Ref, weak: str, student: str) -> Ref:
        """The supervisor that is meant for this pair: the model's name in place of a word."""
        if ref.method is None:
            return Ref(weak) if ref.model == WEAK else ref  # no model is called so where labels are written
        if ref.model != BELOW:
            return Ref(student, ref.method) if ref.model == SAME else ref
        between = self._models[self._place[weak] + 1 : self._place[student]]
        return Ref(between[-1], ref.method) if between else Ref(weak)

    def labelling(self, weak: str, student: str, method: str) -> Labelling:
        """A method's labels for a pair: whoever is meant by name, and supervisors that are the same one once.

        Weights of the same one add up. A vote of one is its most probable class.
        """
        written = self.labellings[method]
        meant = [self.meant(ref, weak, student) for ref in written.refs]
        transforms = tuple(
            Like(self.meant(t.ref, weak, student)) if isinstance(t, Like) else t for t in written.transforms
        )
        if written.source != "supervisors":
            return written._replace(refs=tuple(meant), transforms=transforms)
        refs = unique_refs(meant)
        weights = written.weights
        if weights is not None:
            shares = zip(meant, weights, strict=True)
            total = dict.fromkeys(refs, 0.0)
            for ref, share in shares:
                total[ref] += share
            weights = tuple(total.values())
        if len(refs) == 1:
            hard = (Harden(),) if written.combine == "vote" else ()
            return written._replace(refs=(refs[0],), combine="mean", weights=None, transforms=(*hard, *transforms))
        return written._replace(refs=tuple(refs), weights=weights, transforms=transforms)

    def supervisors(self, weak: str, student: str, method: str) -> list[Ref]:
        """Every supervisor that a student of a method needs at once."""
        return list(self.labelling(weak, student, method).asked)

    def before(self, weak: str, student: str, method: str) -> list[Ref]:
        """Every supervisor that a student needs, and the student that it begins from."""
        start = [Ref(student, self.starts[method])] if method in self.starts else []
        return [*self.supervisors(weak, student, method), *start]

    def depth(self, weak: str, student: str, method: str) -> int:
        """Students in the longest chain that ends in this one, itself included."""
        key = (weak, student, method)
        if key not in self._depths:
            above = [ref for ref in self.supervisors(weak, student, method) if ref.method is not None]
            self._depths[key] = 1 + max((self.depth(weak, ref.model, str(ref.method)) for ref in above), default=0)
        return self._depths[key]

    def students(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """(model, method) of every student that is trained for the pairs, those on the way included.

        Raises SpecError with every chain that comes back to where it began.
        """
        problems: list[str] = []
        met: dict[str, set[Ref]] = {}  # by weak model: what is shared is walked once, or a wide chain never ends
        for weak, student in pairs:
            for method in self.labellings:
                self._walk(weak, [Ref(student, method)], met.setdefault(weak, set()), problems)
        if problems:
            raise SpecError(unique(problems))
        return {(ref.model, str(ref.method)) for refs in met.values() for ref in refs}

    def _walk(self, weak: str, path: list[Ref], met: set[Ref], problems: list[str]) -> None:
        """Add a student and all that it leads to to `met`."""
        here = path[-1]
        if here in met:
            return
        met.add(here)
        method = str(here.method)
        above = self.before(weak, here.model, method)
        if self.labellings[method].source == "simulated" and len(set(above[:2])) < len(self.labellings[method].refs):
            problems.append(
                f"methods.{method}.labels.from.by: for students {here.model} of {weak} it is the supervisor itself, by "
                "whose own certainty its own labels come back; name another model, or leave this pair out"
            )
        for ref in unique_refs(above):
            if ref in path:
                problems.append(self._ring([*path[path.index(ref) :], ref]))
            elif ref.method is not None:
                self._walk(weak, [*path, ref], met, problems)

    def _ring(self, ring: list[Ref]) -> str:
        begin = min(range(len(ring) - 1), key=lambda place: ring[place])  # the same words wherever it was entered
        ring = [*ring[begin:-1], *ring[: begin + 1]]
        one_size = len({ref.model for ref in ring}) == 1
        names = " -> ".join(str(ref.method) if one_size else f"{ref.method} ({ref.model})" for ref in ring)
        begins = [self.starts.get(str(one.method)) == other.method for one, other in itertools.pairwise(ring)]
        mend = "let one of them learn from a smaller student (student: below) or from weak"
        if any(begins):
            mend = "leave out the start of one of them, or let it learn from weak"
        field = "start" if begins[0] else "labels.from"
        return f"methods.{ring[0].method}.{field}: leads back to itself: {names}; {mend}"


def unique_refs(refs: Sequence[Ref]) -> list[Ref]:
    """The supervisors without repeats, in their order."""
    return list(dict.fromkeys(refs))


# -- steps -------------------------------------------------------------------------------------------------------------


class Between(NamedTuple):
    """A step on the way from ground truth to a student's labels."""

    digest: str
    spec: AnyStep
    title: str


class Link(NamedTuple):
    """A student with what its labels need, parents first.

    `labels`: digest of the labels step, or of the train step, that it learned from; '' for the pair's weak model.
    """

    step: TrainSpec
    digest: str
    labels: str
    between: tuple[Between, ...]


class Supply:
    """Makes the steps of one task's students.

    `on_truth`: (step, digest) of a model trained on the ground truth of a split, by model, seed and split.
    """

    def __init__(
        self,
        task: str,
        data: str,
        chains: Chains,
        recipes: Mapping[tuple[str, str], Recipe],
        on_truth: Callable[[str, int, Any], tuple[TrainSpec, str]],
    ) -> None:
        self.task, self.data, self.chains, self.recipes, self.on_truth = task, data, chains, recipes, on_truth
        self._links: dict[tuple[Any, ...], Link] = {}

    def student(self, weak: str, student: str, method: str, seed: int, part: tuple[int, int] | None = None) -> Link:
        """A student of a pair's weak model. `part`: of transfer, where a later link of a chain wants fresh examples."""
        key = (weak, student, method, seed, part)
        if key not in self._links:
            labelling = self.chains.labelling(weak, student, method)
            if part is None and labelling.fresh:
                links = self.chains.depth(weak, student, method)
                part = (links - 1, links) if links > 1 else None
            recipe = self.recipes[student, method]
            labels: Labels = Unread()
            origin, between = "", dict[str, Between]()
            if not reads_no_labels(recipe):
                labels, origin, between = self._labels(weak, student, labelling, seed, part)
            step = self.on_truth(student, seed, "transfer")[0]
            start = self._begun(weak, student, method, seed, between) or step.start
            changes = {"labels": labels, "recipe": recipe, "start": start}
            step = seeded(step.model_copy(update=changes), seed)
            self._links[key] = Link(step, step.digest(), origin, tuple(between.values()))
        return self._links[key]

    def _begun(self, weak: str, student: str, method: str, seed: int, between: dict[str, Between]) -> tuple[Start, ...]:
        """What the method says to begin from; the student by the other method, weights kept, goes between."""
        other = self.chains.starts.get(method)
        if other is None:
            return ()
        link = self.student(weak, student, other, seed)
        step = link.step.model_copy(update={"keep_weights": True})
        title = title_of(self.task, weak, student, other, seed)
        _put(between, *link.between, Between(link.digest, step, title))
        return begun_with(step, link.digest)

    def _labels(
        self, weak: str, student: str, labelling: Labelling, seed: int, part: tuple[int, int] | None
    ) -> tuple[Labels, str, dict[str, Between]]:
        """The labels that a student learns from, `Link.labels`, and the steps that they need."""
        between: dict[str, Between] = {}
        digests, names = [], []
        for ref in labelling.asked:
            digests.append(self._supervisor(ref, weak, seed, part, between))
            names.append(ref.model if ref.method is None else f"{ref.model} by {ref.method}")
        own = self.on_truth(weak, seed, "weak_train")[1]
        plain = not labelling.transforms or all(isinstance(t, Harden) for t in labelling.transforms)
        if labelling.source == "supervisors" and len(labelling.refs) == 1 and plain and part is None:
            (supervisor,) = digests
            return (
                Weak(supervisor=supervisor, hard=bool(labelling.transforms)),
                supervisor * (supervisor != own),
                between,
            )
        likes = iter(digests[len(labelling.refs) :])
        transforms = tuple(
            Subsample(like=next(likes)) if isinstance(t, Like)
            else self._probing(t, student, seed, between) if isinstance(t, Probed) else t
            for t in labelling.transforms
        )  # fmt: skip
        source = _source_of(labelling, digests)
        drawn = draws(source, transforms)
        spec = LabelsSpec(data=self.data, source=source, transforms=transforms, part=part, seed=seed if drawn else 0)
        digest = spec.digest()
        title = f"labels on {self.task}: {_described(labelling, names, part, student)}"
        if drawn or digests:
            title += f", seed {seed}"
        between[digest] = Between(digest, spec, title)
        if labelling.source == "truth" and plain and part is None:
            # What a ceiling learns from: a student by the recipe of a ceiling is that ceiling, and trained once.
            return Truth(), digest, between
        return Made(labels=digest), digest, between

    def _probing(self, probed: Probed, student: str, seed: int, between: dict[str, Between]) -> AnyTransform:
        """The transform with the digests of its features, which go between."""
        like = self.on_truth(probed.model or student, seed, "transfer")[0]
        kept = like.model.layers or like.model.depth
        layers = probed.layers_of(kept)
        # All layers are the model as it is, whose features probes start from as well.
        changes = {"layers": like.model.layers if layers == kept else layers}
        pooling = {} if probed.pooling == "auto" else {"pooling": probed.pooling}
        model = like.model.model_copy(update={**changes, **pooling})
        splits: tuple[Split, Split] = ("transfer", "val")
        digests = []
        for split in splits:
            step = FeaturesSpec(
                data=self.data, split=split, model=model, engine=like.engine, pooled=True, start=like.start
            )
            digests.append(step.digest())
            between[digests[-1]] = Between(digests[-1], step, title_of_features(self.task, step))
        made: AnyTransform = probed.transform.model_copy(update={"features": tuple(digests)})
        return made

    def _supervisor(
        self, ref: Ref, weak: str, seed: int, part: tuple[int, int] | None, between: dict[str, Between]
    ) -> str:
        """The digest of a supervisor; what it needs, and itself where it is not the pair's weak model, goes between."""
        if ref.method is None:
            spec, digest = self.on_truth(ref.model, seed, "weak_train")
            if ref.model != weak:
                between[digest] = Between(digest, spec, f"weak {ref.model} on {self.task}, seed {seed}")
            return digest
        own = None
        if part is not None:  # each link learns from the part that its place in the chain says
            own = (self.chains.depth(weak, ref.model, ref.method) - 1, part[1])
        link = self.student(weak, ref.model, ref.method, seed, own)
        title = title_of(self.task, weak, ref.model, ref.method, seed, own)
        _put(between, *link.between, Between(link.digest, link.step, title))
        return link.digest


def _put(between: dict[str, Between], *steps: Between) -> None:
    """Add steps that are not there, or are there without the weights that are to be kept."""
    for step in steps:
        if step.digest not in between or (isinstance(step.spec, TrainSpec) and step.spec.keep_weights):
            between[step.digest] = step


def seeded(step: TrainSpec, seed: int) -> TrainSpec:
    """The step with this seed, and 0 where nothing is drawn at random, so that seeds share it.

    A prompt without examples learns from nobody, and so all roles share it.
    """
    if reads_no_labels(step.recipe):
        return step.model_copy(update={"seed": 0, "labels": Unread(), "split": "transfer"})
    if step.prompted and isinstance(step.labels, Weak) and step.labels.hard:  # a prompt shows classes in any case
        step = step.model_copy(update={"labels": Weak(supervisor=step.labels.supervisor)})
    seed = 0 if step.solved else seed
    return step if step.seed == seed else step.model_copy(update={"seed": seed})


def title_of(task: str, weak: str, student: str, method: str, seed: int, part: tuple[int, int] | None = None) -> str:
    """What a student is called in plans."""
    on_part = f" (part {part[0] + 1} of {part[1]})" if part is not None else ""
    return f"student {student} of {weak} on {task}{on_part}, {method}, seed {seed}"


def title_of_language(task: str, step: LanguageSpec) -> str:
    """What the training on texts alone is called in plans."""
    return f"language {step.model.name} on {task}, seed {step.seed}"


def title_of_features(task: str, step: FeaturesSpec) -> str:
    """What cached hidden states are called in plans."""
    layers = "all layers" if step.model.layers is None else f"lowest {step.model.layers} layers"
    begun = f" from {step.start[-1].kind} {step.start[-1].step[:12]}" if step.start else ""
    return f"features of {step.model.name}{begun}, {layers}{', pooled' * step.pooled}, on {task}, {step.split}"


def _source_of(labelling: Labelling, digests: Sequence[str]) -> LabelSource:
    if labelling.source == "supervisors":
        supervisors = tuple(digests[: len(labelling.refs)])
        return SupervisorLabels(supervisors=supervisors, combine=labelling.combine, weights=labelling.weights)
    if labelling.source == "simulated":
        by = digests[1] if len(labelling.refs) > 1 else None
        return SimulatedLabels(like=digests[0], errors=labelling.errors, by=by)
    if labelling.file is not None:
        return labelling.file
    return TruthLabels() if labelling.source == "truth" else MajorityLabels()


def _described(labelling: Labelling, names: Sequence[str], part: tuple[int, int] | None, student: str) -> str:
    """Labels in a few words, such as `vote of a, b; harden; part 1 of 2`."""
    own, likes = list(names[: len(labelling.refs)]), iter(names[len(labelling.refs) :])
    first = ", ".join(own)
    if len(own) > 1 and labelling.source == "supervisors":
        weights = f" ({', '.join(f'{w:g}' for w in labelling.weights)})" if labelling.weights else ""
        first = f"{labelling.combine} of {first}{weights}"
    elif labelling.source == "simulated":
        judge = f" by {own[1]}" if len(own) > 1 else ""
        first = f"simulated {own[0]}, errors by {labelling.errors}{judge}".replace("by difficulty by", "difficult for")
        first = first.replace("errors by random", "random errors")
    elif labelling.source != "supervisors":
        first = labelling.file.origin if labelling.file is not None else labelling.source
    words = [first]
    for transform in labelling.transforms:
        if isinstance(transform, Like):
            words.append(f"subsample as {next(likes)}")
        elif isinstance(transform, Probed):
            keep, model = transform.transform.keep, transform.model or student
            does = getattr(transform.transform, "do", "")
            words.append(" ".join([transform.transform.name, does, f"{keep:g}" if keep else "", f"by {model}"]))
            words[-1] = " ".join(words[-1].split())
        elif isinstance(transform, PluginTransform):
            words.append(transform.described)
        else:
            name, *values = transform.model_dump(exclude_none=True).values()
            words.append(" ".join([name, *(f"{v:g}" for v in values if type(v) is float)]))
    if part is not None:
        words.append(f"part {part[0] + 1} of {part[1]}")
    return "; ".join(words)
