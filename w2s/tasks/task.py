"""What a task is, as data: a source, how its records become examples, the classes and the metric.

A task of kind `classify` has one text per example and its class; one of kind `compare` has k texts per example, and its
class is the place of the better one. One of kind `generate` has a prompt, the text that is to follow, and no classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from w2s.identity import Spec, identity, runtime
from w2s.plugins import PluginUse
from w2s.sources.spec import FileSource, HubSource, Source

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet"]


class Read(Spec):
    """How a file becomes records."""

    format: FileFormat | None = identity(None, about="Format of the file; null: by its extension.")
    columns: tuple[str, ...] | None = identity(
        None, min_length=1, about="Names of the columns of a csv or tsv file without a header line."
    )
    encoding: str = identity("utf-8", min_length=1, about="Encoding of the text.")
    quotes: bool = identity(True, about="False: a quotation mark in csv or tsv is a letter like any other.")


class HubSplits(Spec):
    """Which splits of a hub data set are used."""

    pool: str = identity(
        "train",
        min_length=1,
        about="The hub's split that examples are drawn from; those of test too, where `test` is null.",
    )
    test: str | None = identity(None, about="The hub's split that test is drawn from; null: `pool`.")


class TextFormat(Spec):
    """One record, one example: a text and its class.

    `text` is a field name or a template such as "{passage}\\n\\nQuestion: {question}"; dots reach into nested fields.
    """

    kind: Literal["text"] = identity("text")
    text: str = identity(
        min_length=1,
        about="Field, or template such as '{passage} {question}'; dots reach into nested fields.",
    )
    label: str = identity(min_length=1, about="Field with the class, by its name or its number from 0.")
    labels: dict[str, str | None] | None = identity(
        None, about="Class of each value of `label`, or null for records to leave out."
    )


class RatingFormat(Spec):
    """One record, one example: class 0 below `negative_below`, class 1 above `positive_above`, left out between."""

    kind: Literal["rating"] = identity("rating")
    text: str = identity(min_length=1, about="Field or template with the text.")
    rating: str = identity(min_length=1, about="Field with a number.")
    negative_below: float = identity(about="Ratings below are class 0.")
    positive_above: float = identity(about="Ratings above are class 1; those between are left out.")

    @model_validator(mode="after")
    def _in_order(self) -> RatingFormat:
        if self.negative_below > self.positive_above:
            raise ValueError(f"negative_below {self.negative_below} is above positive_above {self.positive_above}")
        return self


class ChoicesFormat(Spec):
    """One multiple-choice record, two examples of one group: the right answer (class 1) and a wrong one (class 0).

    Which wrong one is decided by a hash of the record, so it depends on no seed and no order.
    """

    kind: Literal["choices"] = identity("choices")
    prompt: str = identity("", about="Field or template with the question; empty where the choices say it all.")
    choices: str | tuple[str, ...] = identity(
        about="A field with the list of choices, or a field (or template) for each."
    )
    answer: str | None = identity(None, min_length=1, about="The field that says which choice is right.")
    answer_as: Literal["index", "one_based", "letter", "text", "first"] = identity(
        "index", about="How it says so; first: the first choice is always right, and there is no such field."
    )
    text: str = identity("{prompt}\n\nAnswer: {choice}", about="How question and choice become one text.")
    never: str | None = identity(None, about="Records with an answer that holds this text are left out.")

    @model_validator(mode="after")
    def _answer_is_known(self) -> ChoicesFormat:
        if (self.answer is None) != (self.answer_as == "first"):
            raise ValueError("give `answer`, the field that says which choice is right, or `answer_as: first`")
        return self


class PairsFormat(Spec):
    """One record, one comparison of k texts: which of them is the better one.

    Either `chosen` and `rejected` (one field, or one for each worse text), or `texts` (one field for each text, or one
    field with the list of them) and `better`, the field that says which. Of a list of more than `k` texts the better
    one and k - 1 others are taken. The order of the texts is that of hashes, so it tells nothing.
    """

    kind: Literal["pairs"] = identity("pairs")
    prompt: str = identity("", about="Field or template with what all texts answer.")
    chosen: str | None = identity(None, min_length=1, about="Field with the better text.")
    rejected: str | tuple[str, ...] | None = identity(
        None, min_length=1, about="Field with the worse text, or one for each of several."
    )
    texts: str | tuple[str, ...] | None = identity(
        None,
        min_length=1,
        about="In place of chosen and rejected: a field for each text, or one field with the list of them.",
    )
    better: str | None = identity(None, min_length=1, about="The field that says which of `texts` is the better one.")
    better_as: Literal["index", "one_based", "letter", "text"] = identity("index", about="How it says so.")
    k: int | None = identity(None, ge=2, about="Texts of an example, where `texts` is one field with a list; null: 2.")
    text: str = identity("{prompt}\n\n{text}", about="How the prompt and each text become what a model reads.")
    most_together: int = identity(
        100, ge=1, about="Examples that share texts or prompts stay in one split, at most so many; more are dropped."
    )

    @property
    def n_texts(self) -> int:
        """Texts of an example."""
        if self.chosen is not None:
            return 1 + (len(self.rejected) if isinstance(self.rejected, tuple) else 1)
        return len(self.texts) if isinstance(self.texts, tuple) else self.k or 2

    @model_validator(mode="after")
    def _one_of_two_ways(self) -> PairsFormat:
        ways = [(self.chosen, self.rejected), (self.texts, self.better)]
        full = [way for way in ways if None not in way]
        if len(full) != 1 or any(None in way and way != (None, None) for way in ways):
            raise ValueError(
                "give `chosen` and `rejected`, or `texts` and `better`, the field that says which one it is"
            )
        if isinstance(self.texts, tuple) and len(self.texts) < 2:
            raise ValueError(f"texts: a comparison needs two or more (got {list(self.texts)})")
        if self.k is not None and not isinstance(self.texts, str):
            raise ValueError("k is for `texts` that names one field with a list; otherwise the texts are counted")
        return self


class RatingPairsFormat(Spec):
    """Rated texts drawn into pairs by hash: the better one is rated higher, by `margin` or more.

    The texts (of each group, where the task has groups) are drawn into parties of `each` + 1, and within a party
    everyone meets everyone; pairs closer than `margin` are left out. A party stays in one split.
    With `raters`, the labels of all splits but `test` are what so many raters would say: of each text so many of its
    single ratings are drawn by hash, anew for every pair, and the higher mean wins, a hash where both are equal.
    """

    kind: Literal["rating_pairs"] = identity("rating_pairs")
    text: str = identity(min_length=1, about="Field or template with the text.")
    rating: str | None = identity(None, min_length=1, about="Field with a text's rating; null: the mean of `ratings`.")
    margin: float = identity(gt=0.0, about="By so much the ratings of a pair differ at least.")
    each: int = identity(1, ge=1, le=50, about="Texts that each text is paired with.")
    ratings: str | None = identity(None, min_length=1, about="Field with the list of single ratings, or it as JSON.")
    raters: int | None = identity(
        None,
        ge=1,
        about="So many single ratings, drawn by hash, make the labels of all splits but test; null: all of them do.",
    )

    @property
    def n_texts(self) -> int:
        """Texts of an example."""
        return 2

    @model_validator(mode="after")
    def _ratings_are_known(self) -> RatingPairsFormat:
        if self.rating is None and self.ratings is None:
            raise ValueError("give `rating`, the field with a text's rating, or `ratings`, that with all single ones")
        if self.raters is not None and self.ratings is None:
            raise ValueError("raters needs `ratings`, the field with the list of single ratings")
        return self


Band = tuple[float | None, float | None]  # lowest and highest value, both included; None: no bound


class GenerateFormat(Spec):
    """One record, one example: a prompt and the text that is to follow it.

    A model reads the prompt, a space, and the target. Its answers have at most `max_new_tokens` tokens, and longer
    targets are cut there. An answer is right where it is the target after spaces around both were stripped; with
    `answer_after`, where the same stands after that mark (the last one) in both.
    """

    kind: Literal["generate"] = identity("generate")
    prompt: str = identity(min_length=1, about="Field or template with the prompt.")
    target: str = identity(min_length=1, about="Field or template with the text that is to follow.")
    answer_after: str | None = identity(
        None, min_length=1, about="Only what stands after the last such mark has to be right."
    )
    max_new_tokens: int = identity(32, ge=1, about="Tokens of an answer, at most; longer targets are cut.")
    position: str | None = identity(
        None,
        min_length=1,
        about="Field with a chess position (FEN) in which targets are moves, whose legality is checked.",
    )
    difficulty: str | None = identity(None, min_length=1, about="Field with a number that `bands` go by.")
    bands: dict[Literal["weak_train", "transfer", "val", "test"], Band] | None = identity(
        None, min_length=1, about="Lowest and highest difficulty of each split, such as {weak_train: [null, 1200]}."
    )

    @model_validator(mode="after")
    def _bands_are_intervals(self) -> GenerateFormat:
        if (self.bands is None) != (self.difficulty is None):
            raise ValueError(
                "give both `difficulty`, the field with a number, and `bands`, such as {weak_train: [null, 1200]}"
            )
        for split, (low, high) in (self.bands or {}).items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"bands.{split}: {low:g} is above {high:g}")
        return self


class Join(Spec):
    """A second file, whose fields are added to the record that has the same value in `key`."""

    source: Source = identity(about="Where the second file is.")
    read: Read = identity(Read(), about="How it becomes records.")
    key: str = identity(min_length=1, about="The field that both files share.")

    @model_validator(mode="after")
    def _not_of_the_hub(self) -> Join:
        if isinstance(self.source, HubSource):
            raise ValueError("joins a file or a file in a package archive, not a hub data set")
        return self


FORMATS = ("text", "rating", "choices", "pairs", "rating_pairs", "generate")
PAIRS = {"chosen", "rejected", "texts", "better"}  # fields that only PairsFormat has


def kind_of(data: Any) -> str | None:
    """The kind of format that a mapping describes: the one it names, or by the keys it has."""
    if isinstance(data, Spec):
        return str(getattr(data, "kind", None))
    if not isinstance(data, dict):
        return None
    if "kind" in data:
        return str(data["kind"]) if data["kind"] in FORMATS else None
    if "target" in data:
        return "generate"
    if PAIRS & set(data):
        return "pairs"
    if {"margin", "raters"} & set(data):
        return "rating_pairs"
    return "rating" if "rating" in data else "choices" if {"prompt", "choices", "answer"} & set(data) else "text"


Format = Annotated[
    Annotated[TextFormat, Tag("text")]
    | Annotated[RatingFormat, Tag("rating")]
    | Annotated[ChoicesFormat, Tag("choices")]
    | Annotated[PairsFormat, Tag("pairs")]
    | Annotated[RatingPairsFormat, Tag("rating_pairs")]
    | Annotated[GenerateFormat, Tag("generate")],
    Discriminator(
        kind_of,
        custom_error_type="format",
        custom_error_message="expected a mapping of kind text (text, label), rating (text, rating), choices, "
        "pairs (chosen, rejected), rating_pairs (text, rating, margin) or generate (prompt, target)",
    ),
]

# Functions of w2s.tasks.prepare that turn a record no template can express into one that it can.
Prepare = Literal["lettered", "which_is_more_pleasant", "last_replies", "lichess"]

_DEFAULT_CLASSES = {"text": ("0", "1"), "rating": ("negative", "positive")}


class TaskSpec(Spec):
    """A source of examples, how a record becomes an example, and the metric."""

    name: str = runtime(min_length=1, about="What tables call it.")
    about: str = runtime("", about="One sentence about the data, for `w2s tasks`.")
    licence: str = runtime("", about="Licence of the data, for `w2s tasks`.")
    kind: Literal["classify", "compare", "generate"] = identity(
        "classify",
        about="A text and its class, texts of which one is better, or a prompt and its answer; by the format.",
    )
    source: Source = identity(about="Where the records are; its fields may stand beside the task's.")
    test_file: FileSource | None = identity(
        None, about="A file of its own for test, read like the source; null: test comes from the source, too."
    )
    splits: HubSplits = identity(HubSplits(), about="Which splits of a hub data set are used.")
    read: Read = identity(Read(), about="How a file becomes records.")
    join: Join | None = identity(None, later=True, about="A second file with further fields of the same records.")
    prepare: Prepare | None = identity(
        None, about="What is done to each record before the format reads it, by w2s or a plugin of that name."
    )
    own_prepare: PluginUse | None = identity(
        None, later=True, about="A plugin's; in a sweep its name stands in `prepare`."
    )
    format: Format = identity(about="How a record becomes an example; its fields may stand beside the task's.")
    group: str | None = identity(
        None, about="Field or template: records that share it stay in one split; null: the text."
    )
    group_before: str | None = identity(
        None, min_length=1, about="Of the group's value only what stands before this mark counts."
    )
    classes: tuple[str, ...] | None = identity(
        None, min_length=2, about="Names of the classes, in the order of the label; null: the usual ones of the format."
    )
    balance: bool | None = identity(
        None, about="Equally many examples of each class in every split; null: yes for two classes."
    )
    drop_empty: bool = identity(False, about="True: an empty text is left out and counted; false: it is an error.")
    sample: int | None = identity(None, gt=0, about="Read at most so many records, spread evenly over the source.")
    metric: Literal["accuracy"] = identity(
        "accuracy", about="What is reported, beside AUROC, calibration and agreement."
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order: those given, or the usual ones of the format; none where text is generated."""
        if isinstance(self.format, GenerateFormat):
            return ()
        if self.classes is None and isinstance(self.format, (PairsFormat, RatingPairsFormat)):
            return tuple(f"text {place + 1}" for place in range(self.format.n_texts))
        return self.classes or _DEFAULT_CLASSES.get(self.format.kind, ("wrong", "right"))

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def n_texts(self) -> int:
        """Texts of an example."""
        return self.n_classes if self.kind == "compare" else 1

    @property
    def n_outputs(self) -> int:
        """Numbers that a model makes of each text: its class logits, or the one score that texts are compared by.

        Where text is generated, the logarithm of the target's probability.
        """
        return self.n_classes if self.kind == "classify" else 1

    @property
    def sources(self) -> tuple[Source, ...]:
        """What has to be fetched; a test file lies on this machine."""
        return (self.source,) if self.join is None else (self.source, self.join.source)

    @property
    def is_balanced(self) -> bool:
        """True where every split holds equally many examples of each class."""
        return self.balance if self.balance is not None else self.n_classes == 2 or self.kind == "compare"

    @model_validator(mode="after")
    def _classes_fit(self) -> TaskSpec:
        names = self.class_names
        if (self.kind == "generate") != isinstance(self.format, GenerateFormat):
            raise ValueError("kind: generate and a format of kind generate (prompt, target) go together")
        if self.kind == "generate" and (self.classes is not None or self.balance):
            raise ValueError("classes and balance: texts that are generated have no classes; leave both out")
        if len(set(names)) != len(names):
            raise ValueError(f"classes: a class is named twice in {list(names)}")
        if isinstance(self.format, (PairsFormat, RatingPairsFormat)):
            if self.kind != "compare":
                raise ValueError(f"kind: the format {self.format.kind} compares texts; write kind: compare")
            if len(names) != self.format.n_texts:
                raise ValueError(
                    f"classes: one for each of {self.format.n_texts} texts, in their order, or leave it out"
                )
        elif self.kind == "compare":
            raise ValueError(f"kind: compare needs a format of kind pairs or rating_pairs, not {self.format.kind}")
        elif self.format.kind not in ("text", "generate") and len(names) != 2:
            raise ValueError(f"classes: the format {self.format.kind} makes two classes, not {len(names)}")
        if isinstance(self.format, TextFormat) and self.format.labels:
            strangers = sorted({c for c in self.format.labels.values() if c is not None} - set(names))
            if strangers:
                raise ValueError(f"labels lead to {strangers}, which the classes {list(names)} do not have")
        if self.test_file is not None and self.splits.test is not None:
            raise ValueError("give test_file or splits.test, not both")
        if self.group_before is not None and self.group is None:
            raise ValueError("group_before needs group")
        return self
