"""Prompts as data: a template, words that stand for classes, how many examples are shown. Text in, text out.

Knows no model and no tokens. Refuses templates that hold no text of an example, or that name anything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator

from w2s.identity import Spec, identity
from w2s.tasks.task import TaskSpec

FIELD = re.compile(r"\{(\w*)\}")
TEXT = re.compile(r"text[1-9]?")
TEMPLATE = "Text: {text}\nLabel:"
BETWEEN = "\n\n"  # the examples of a prompt
LETTERS = "ABCDEFGHI"


class Prompt(Spec):
    """No weight is trained: classes are words that a decoder's language-model head finds likely after a prompt.

    A class scores the sum of the log-probabilities of its word's tokens. The prompt may show `shots` examples of the
    split that is learned from, with the labels that are learned from (of soft ones the most probable class). They are
    drawn from the seed, as equally from all classes as labels allow, and ordered at random. Without any, labels are not
    read at all. What else a recipe holds does not count, but for `eval_every`; the loss has to be xent.
    Sources: Burns et al. 2023, sec. 5.2.1 (0 and 5 shots); batch calibration: Zhou et al. 2023, arXiv 2309.17249.
    """

    kind: Literal["prompt"] = identity("prompt")
    shots: int = identity(
        0, ge=0, about="Examples with their labels that the prompt shows, as equal in class as can be."
    )
    template: str | None = identity(
        None,
        about="How an example is put; {text} stands for its text, {text1}, {text2} for those of a comparison. "
        "null: 'Text: {text}' and 'Label:' on the next line, or texts A and B and 'Better text:'.",
    )
    words: tuple[str, ...] | None = identity(
        None, min_length=2, about="What follows the template, for each class; null: a space and the class's name."
    )
    instruction: str = identity("", about="What stands before everything else, once.")
    calibrated: bool = identity(
        True,
        about="True: a class's log-probability counts from its mean over the texts of transfer, which fits where "
        "classes are about equally frequent; no label is read for it.",
    )

    @model_validator(mode="after")
    def _template_holds_a_text(self) -> Prompt:
        fields = FIELD.findall(self.template or TEMPLATE)
        strange = [name for name in fields if not TEXT.fullmatch(name)]
        if strange:
            raise ValueError(f"template: no field {{{strange[0]}}}; there are {{text}}, or {{text1}}, {{text2}}, ...")
        if not fields:
            raise ValueError(f"template: holds no {{text}} (got {self.template!r})")
        words = self.words or ()
        if "" in words or len(set(words)) < len(words):
            raise ValueError(f"words: expected another one for each class (got {list(words)})")
        spaced = self.words is None or any(word.startswith(" ") for word in words)
        if spaced and (self.template or TEMPLATE).endswith(" "):
            raise ValueError("template: ends in a space, and so words begin with one; leave out that of the template")
        return self

    def template_for(self, task: TaskSpec) -> str:
        """The template as written, or that of the task's kind."""
        if self.template is not None or task.kind != "compare":
            return self.template or TEMPLATE
        texts = (f"Text {LETTERS[place]}: {{text{place + 1}}}" for place in range(task.n_texts))
        return "\n\n".join([*texts, "Better text:"])

    def words_for(self, task: TaskSpec) -> tuple[str, ...]:
        """The words as written, or those of the task's classes."""
        if self.words is not None:
            return self.words
        names = LETTERS[: task.n_texts] if task.kind == "compare" else task.class_names
        return tuple(f" {name}" for name in names)

    def misfits(self, task: TaskSpec) -> list[str]:
        """What of this prompt does not fit a task: 'field: why', for each field."""
        problems = []
        if task.kind == "compare" and task.n_texts > len(LETTERS):
            return [f"kind: {task.n_texts} texts do not go into one prompt; use another kind"]
        wanted = {f"text{place + 1}" for place in range(task.n_texts)} if task.kind == "compare" else {"text"}
        found = set(FIELD.findall(self.template_for(task)))
        if found != wanted:
            named = " and ".join(f"{{{name}}}" for name in sorted(wanted))
            problems.append(f"template: has to hold {named} (got {self.template!r})")
        if len(self.words_for(task)) != task.n_classes:
            what = f"{task.n_texts} texts" if task.kind == "compare" else f"{task.n_classes} classes"
            problems.append(f"words: {len(self.words_for(task))} for {what}; give one for each")
        return problems


def filled(template: str, texts: Sequence[str]) -> str:
    """The template with an example's texts in it: {text} the only one, {text2} the second of several."""
    return FIELD.sub(lambda field: texts[int(field[1].removeprefix("text") or "1") - 1], template)


def tail(template: str) -> str:
    """What of a template stands behind its last field."""
    return FIELD.split(template)[-1]
