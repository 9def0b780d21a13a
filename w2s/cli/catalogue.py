"""The built-in tasks and models as tables, and the sources of a sweep fetched ahead of time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from w2s import models as registry
from w2s import plan
from w2s.cli.terminal import count, table
from w2s.errors import W2SError
from w2s.models import ModelSpec
from w2s.sources.cache import cache_dir
from w2s.sources.fetch import fetch, is_fetched
from w2s.sources.spec import ArchiveSource, HubSource, PluginSource, Source
from w2s.spec import AnyStep, LabelsSpec, MaterializeSpec
from w2s.sweep import Sweep
from w2s.tasks.registry import builtin


def tasks(room: int | None = None) -> list[str]:
    """A row per built-in task, cut after `room` columns."""
    rows = [
        (
            name,
            _yes(all(is_fetched(source, kind="dataset") for source in task.sources)),
            _words(task.class_names) if task.kind != "generate" else "text",
            _origin(task.source),
            task.about,
        )
        for name, task in builtin().items()
    ]
    return [
        *table(("task", "here", "classes", "source", "about"), rows, room=room),
        "",
        "Own data in a sweep's YAML: tasks: {mine: {file: my.jsonl, text: review, label: stars, classes: [bad, good]}}",
        "Own comparisons: tasks: {mine: {file: my.jsonl, prompt: question, chosen: better, rejected: worse}}",
        "Own prompts with answers: tasks: {mine: {file: my.jsonl, prompt: question, target: answer}}",
    ]


def models(room: int | None = None) -> list[str]:
    """A row per built-in model, cut after `room` columns."""
    rows = [
        (name, count(model.params), model.depth, _origin(model.source), _yes(registry.is_here(model)))
        for name, model in registry.builtin().items()
    ]
    return [
        *table(("model", "params", "layers", "source", "here"), rows, right=("params", "layers"), room=room),
        "",
        "NAME@K on the command line, or {use: NAME, layers: K} in YAML, keeps the lowest K layers.",
        "Any hub id, local folder or GGUF file can stand in place of a name.",
    ]


def _words(classes: tuple[str, ...]) -> str:
    return ", ".join(classes) if len(classes) <= 4 else f"{len(classes)} classes"


def _yes(fetched: bool) -> str:
    return "yes" if fetched else ""


def _origin(source: Source | None) -> str:
    if source is None:
        return "words of the training texts"
    if isinstance(source, HubSource):
        return f"hub {source.hub}" + (f"/{source.config}" if source.config else "")
    if isinstance(source, ArchiveSource):
        return f"archive {source.package}"
    if isinstance(source, PluginSource):
        return f"plugin {source.file}"
    return f"file {source.file}"


class _Need(NamedTuple):
    """Data or weights that steps read: where from, whether they are on this machine, and how to get them."""

    title: str
    is_here: Callable[[], bool]
    get: Callable[[], object]


def _needs(specs: Iterable[AnyStep]) -> list[_Need]:
    """What steps read beside artifacts, each source once, however many steps share it."""
    tasks: dict[Source, str] = {}  # by source, the task that needs it
    models: dict[tuple[Source, str | None], ModelSpec] = {}
    for spec in specs:  # specs compare cheaper than their digests, and there may be a hundred thousand
        if isinstance(spec, MaterializeSpec):
            for source in spec.task.sources:
                tasks.setdefault(source, spec.task.name)
        elif not isinstance(spec, LabelsSpec) and spec.model.source is not None:
            models.setdefault((spec.model.source, spec.model.gguf), spec.model)
    data = [
        _Need(
            f"{name}: {_origin(source)}",
            functools.partial(is_fetched, source, kind="dataset"),
            functools.partial(fetch, source, kind="dataset"),
        )
        for source, name in tasks.items()
    ]
    weights = [
        _Need(
            f"{model.name}: {_origin(model.source)}",
            functools.partial(registry.is_here, model),
            functools.partial(_weights, model),
        )
        for model in models.values()
    ]
    return [*data, *weights]


def unfetched(specs: Iterable[AnyStep]) -> list[str]:
    """What these steps need and is not on this machine, a line each; `prefetch` of their sweep gets it.

    Touches no network, and looks for each source once. A source that is there but still packed counts as there.
    """
    return [need.title for need in _needs(specs) if not need.is_here()]


def prefetch(sweep: Sweep, say: Callable[[str], None]) -> list[str]:
    """Fetch what a sweep's steps need, each source once, down to unpacking and converting it.

    Steps then only read the cache. Returns what failed, a line each; `say` gets a line per source.
    """
    failed: list[str] = []
    for need in _needs(node.spec for node in plan.of_sweep(sweep).nodes.values()):
        say(f"{'there' if need.is_here() else 'fetching':<9} {need.title}")
        try:
            need.get()  # of what is there too: it may have to be unpacked
        except W2SError as error:  # the others may still be had
            failed.append(f"{need.title}: {error}")
    say(f"cache     {cache_dir()}")
    return failed


def _weights(model: ModelSpec) -> None:
    found = registry.weights(model)
    if found.gguf is not None and not registry.is_converted(registry.converted(model, found.gguf)):
        from w2s.inputs import prepare  # loads torch

        prepare(model)
