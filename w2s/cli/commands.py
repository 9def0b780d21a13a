"""The commands as functions: their docstrings are the help, their signatures the arguments, their result the exit code.

Thin: each imports what it needs when it runs, so that `w2s --help` loads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.cli.arguments import RESULTS
from w2s.cli.cluster import cancel, logs, work
from w2s.cli.running import plan, run, sweep
from w2s.cli.terminal import say

if TYPE_CHECKING:
    from w2s.cli.arguments import Command
    from w2s.store import Store

LOG_LINES = 40


def status(name: str | None = None, *, results: Path = RESULTS) -> int:
    """Show how far each sweep is: experiments and steps done, running, waiting, and why steps failed.

    Arguments:
      NAME                 one sweep (all)
      --results DIR        the results folder (results)

    Examples:
      w2s status
      w2s status quickstart
    """
    from w2s.cli import describe

    say(describe.status(results, name))
    return 0


def results(
    name: Sequence[str] = (),
    *,
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
    watch: bool = False,
    every: float | None = None,
    results: Path = RESULTS,
) -> int:
    """Make the tables, figures and report of sweeps again from what is in the store, and print the tables.

    Several sweeps are put together, in results/sweeps/A+B: seeds of runs that were asked the same are pooled, and what
    was asked otherwise stays apart. docs/results.md says what each number means. The exit code is 1 where an artifact
    is damaged; it is named and left out.

    Arguments:
      NAME                 a sweep's name, its YAML file or its folder; may be repeated (the sweep that was run last)
      --baseline METHOD    what methods are compared with (the sweep's first method)
      --metric NAME        accuracy or auroc (accuracy)
      --size WHAT          of models, in figures: params or flops, of training and predicting (params)
      --watch              again whenever a step is done or has failed, until nothing is to come
      --every S            seconds between two looks, for --watch (10)
      --results DIR        the results folder (results)

    Examples:
      w2s results
      w2s results quickstart --metric auroc
      w2s results quickstart my_sweep --baseline xent --size flops
      w2s results my_sweep --watch --every 60
    """
    from w2s.cli import results as asked

    return asked.results(name, results, baseline, metric, size, watch, every)


def compare(
    first: str, second: str, *, exact: bool = False, other_results: Path | None = None, results: Path = RESULTS
) -> int:
    """Show what changed between two sweeps: cells, what runs were asked, numbers, and where they ran.

    Rows of the same task, models, method, selection and seed are compared; a difference is held against the noise of
    the test examples where both were measured on the same ones. The exit code is 1 where an artifact is damaged; it is
    named and left out.

    Arguments:
      FIRST                a sweep's name, its YAML file or its folder
      SECOND               another one
      --exact              exit code 1 where any number of a row differs, or a row is in one of them only
      --results DIR        the results folder (results)
      --other-results DIR  the results folder of SECOND (the same)

    Examples:
      w2s compare quickstart my_sweep
      w2s compare quickstart quickstart --other-results old/results --exact
    """
    from w2s.cli import results as asked

    return asked.compare(first, second, results, other_results, exact)


def prefetch(yaml: Path, *, set_: Sequence[str] = ()) -> int:
    """Fetch the data and models that a sweep needs, so that it can run without a network.

    Arguments:
      YAML                 the sweep's file
      --set PATH=VALUE     change a field before anything else; may be repeated

    Examples:
      w2s prefetch sweeps/quickstart.yaml
      W2S_CACHE=/data/w2s w2s prefetch sweeps/paper_nlp.yaml
    """
    from w2s.cli import catalogue
    from w2s.sweep import read_sweep

    failed = catalogue.prefetch(read_sweep(yaml, set_), print)
    for line in failed:
        print(f"w2s: {line}", file=sys.stderr)
    return 1 if failed else 0


def tasks() -> int:
    """List the built-in tasks: classes, where the data comes from, whether it is on this machine.

    Examples:
      w2s tasks
    """
    from w2s.cli import catalogue, terminal

    say(catalogue.tasks(terminal.width()))
    return 0


def models() -> int:
    """List the built-in models: size, layers, where the weights come from, whether they are on this machine.

    Examples:
      w2s models
    """
    from w2s.cli import catalogue, terminal

    say(catalogue.models(terminal.width()))
    return 0


def fields(path: str | None = None, *, markdown: bool = False) -> int:
    """List what a sweep's YAML may say: types, bounds, defaults, what is part of a result's identity.

    Arguments:
      PATH                 a field as --set names it, such as recipe.tune (all of the first level)
      --markdown           every field, as docs/sweeps.md has them

    Examples:
      w2s fields
      w2s fields methods.mine.labels.transforms
      w2s fields --markdown
    """
    from w2s.cli import fields as listed
    from w2s.cli import handbook, terminal
    from w2s.errors import SpecError

    if markdown and path is not None:
        raise SpecError(f"--markdown: is of all fields; leave out {path}")
    say([handbook.page().removesuffix("\n")] if markdown else listed.lines(path or "", terminal.width()))
    return 0


def show(digest: str, *, results: Path = RESULTS) -> int:
    """Show one step: what it was asked, what came out, and for a failed one the reason and the end of its log.

    Arguments:
      DIGEST               the step's digest, or its first digits (4 or more)
      --results DIR        the results folder (results)

    Examples:
      w2s show 3fa9c1d2
    """
    from w2s.cli import describe

    say(describe.step(results, digest, LOG_LINES))
    return 0


def label(digest: str, file: Path, *, text: str = "text", out: Path | None = None, results: Path = RESULTS) -> int:
    """Let a trained step label a file of texts; prints one JSON line per text, with the probability of each class.

    The step's weights must have been kept: `w2s sweep YAML --keep-weights` trains again only steps without weights.

    Arguments:
      DIGEST               a train step's digest, or its first digits (4 or more)
      FILE                 .txt with one text per line, .jsonl or .csv
      --text COLUMN        the field or column that holds the text, in .jsonl and .csv (text)
      --out FILE           write here instead of printing: .jsonl or .csv
      --results DIR        the results folder (results)

    Examples:
      w2s label 3fa9c1d2 reviews.txt
      w2s label 3fa9c1d2 reviews.csv --text body --out labelled.csv
    """
    from w2s.cli import describe, labelling

    store = _store(results)
    kind, whole = store.find(digest)
    texts = labelling.read_texts(file, text)
    labelling.require_room(out)
    commands = [describe.command_of(results, sweep) for sweep, _ in describe.uses(results, whole)]
    labelling.require_weights(store, kind, whole, [command for command in commands if command])
    from w2s.inference import label as labelled

    classes, p_NC = labelled(store, whole, texts)
    labelling.write(out, texts, classes, p_NC)
    if out is not None:
        print(f"{len(texts)} texts labelled: {out}")
    return 0


def verify(digest: str | None = None, *, results: Path = RESULTS) -> int:
    """Check that every file of every artifact is as it was written, and that equal sources were equal commits.

    The exit code is 1 where anything is wrong.

    Arguments:
      DIGEST               one step (all)
      --results DIR        the results folder (results)

    Examples:
      w2s verify
      w2s verify 3fa9c1d2
    """
    from w2s.cli.audit import audit

    count, problems = audit(_store(results), digest)
    say([*problems, f"artifacts checked: {count}, problems: {len(problems)}"])
    return 1 if problems else 0


def doctor(*, results: Path = RESULTS) -> int:
    """Show versions, devices, cache and disk, with a loud warning where a GPU is there that torch cannot use.

    Arguments:
      --results DIR        the results folder to look at (results)

    Examples:
      w2s doctor
    """
    from w2s.cli import doctor as examination

    problems = 0
    for line in examination.lines(results):
        print(line, flush=True)
        problems += line.startswith(examination.LOUD)
    return 1 if problems else 0


COMMANDS: dict[str, Command] = {
    command.__name__: command
    for command in (
        *(run, sweep, plan, status, results, compare, prefetch, tasks, models, fields, show, label, verify, doctor),
        *(work, cancel, logs),
    )
}


def _store(results: Path) -> Store:
    from w2s.store import Store

    return Store(results / "store")
