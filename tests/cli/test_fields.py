"""w2s fields: every field of every mapping has a sentence, and what is said of it is what sweeps are checked by."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2s.cli import fields, handbook
from w2s.cli.main import main
from w2s.errors import SpecError
from w2s.sweep import sweep_of
from w2s.tasks import registry


def by_path():
    return dict(fields.every())


def test_every_field_says_in_one_sentence_what_it_is():
    wrong = [path for path, entry in fields.every() if not entry.about.endswith(".")]
    assert wrong == []
    assert len(by_path()) > 150


def test_every_mapping_says_what_it_is():
    without = [(path, v.tag) for path, variants, _ in fields.sections() for v in variants if path and not v.about]
    assert without == []


@pytest.mark.parametrize(
    ("path", "kind", "default", "counts"),
    [
        ("recipe.lr", "number above 0", "1e-5", True),
        ("recipe.betas", "[number, number]", "[0.9, 0.999]", True),
        ("recipe.tune", "mapping", "full", True),
        ("recipe.tune.lora.dropout", "number from 0 and below 1", "0", True),
        ("recipe.tune.probe.l2", "number above 0 or null", "null", True),
        ("seeds", "list of whole numbers from 0", "[0]", True),
        ("sizes.test", "whole number above 0", None, True),
        ("engine.zero_stage", "0, 1, 2, 3 or null", "null", False),
        ("engine.mixed_precision", "no, bf16 or fp16", "no", True),
        ("engine.micro_batch_size", "whole number, auto or null", "null", False),
        ("methods.NAME.loss.logconf.threshold", "prior, half or number above 0 and below 1", "prior", True),
        ("methods.NAME.labels.from", "source, or list of sources", "weak", True),
        ("tasks.NAME.prepare", "lettered, which_is_more_pleasant, last_replies, lichess, a plugin's name or null",
         "null", True),
        ("tasks.NAME.read.format", "jsonl, json, csv, tsv, parquet or null", "null", True),
        ("keep_weights", "true or false", "false", False),
    ],
)  # fmt: skip
def test_types_defaults_and_identity(path, kind, default, counts):
    entry = by_path()[path]
    assert (entry.type, entry.default, entry.counts) == (kind, default, counts)


def base(**changes):
    sweep = {
        "name": "s",
        "tasks": ["movie"],
        "sizes": {"weak_train": 10, "transfer": 10, "test": 10},
        "models": {"a": {"use": "minilm", "layers": 2}, "b": {"use": "minilm"}},
        "methods": {"xent": {}},
    }
    return {**sweep, **changes}


def refused(**changes):
    with pytest.raises(SpecError) as caught:
        sweep_of(base(**changes), Path())
    return str(caught.value)


def names(path):
    return {entry.name for variant in fields.find(path).variants for entry in variant.fields}


def test_what_is_listed_is_what_a_sweep_knows():
    """The lists of names that are written by hand in w2s, against those of the tree."""
    task = names("tasks.NAME") | {"name", "use"}
    assert task | names("tasks.NAME.source") | names("tasks.NAME.format") == {*registry.KEYS, "use"}
    model = refused(models={"a": {key: [[]] for key in names("models.NAME")}, "b": {"use": "minilm"}})
    assert "unknown field" not in model
    assert "models.a.start: " in model
    method = refused(methods={"m": {key: [[]] for key in names("methods.NAME")}})
    assert "unknown field" not in method
    assert "methods.m.start: " in method
    for path in ("recipe", "engine", "slurm", "sizes"):
        section: dict[str, list[object]] = {key: [[]] for key in names(path)}  # nothing takes that
        problems = refused(**{path: section})
        assert "unknown field" not in problems
        assert all(f"{path}.{name}" in problems for name in section), problems


def test_a_field_that_is_not_listed_is_refused():
    """Negative control."""
    assert "unknown field" in refused(recipe={"learning": 1})


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("recipe.lr", "recipe.lr"),
        ("models.minilm@2.layers", "models.NAME.layers"),
        ("models.layers", "models.NAME.layers"),
        ("methods.mine.loss.q", "methods.NAME.loss.gce.q"),
        ("methods.mine.loss.gce.q", "methods.NAME.loss.gce.q"),
        ("methods.mine.labels.transforms.0.knn.k", "methods.NAME.labels.transforms.knn.k"),
        ("methods[0].labels.fresh", "methods.NAME.labels.fresh"),
        ("models.m.recipe.tune.r", "recipe.tune.lora.r"),
        ("models.m.slurm.mem", "models.NAME.slurm.mem"),
        ("slurm.small_jobs.mem", "models.NAME.slurm.mem"),
        ("models.m.recipe.tune.kind", "recipe.tune"),
        ("methods.mine.loss.name", "methods.NAME.loss"),
    ],
)
def test_a_path_as_in_a_sweep_leads_to_its_field(asked, path):
    assert fields.find(asked).entries == (by_path()[path],)


def test_fields_that_stand_beside_others_are_found_there():
    assert fields.find("tasks.mine.margin").entries == (by_path()["tasks.NAME.format.rating_pairs.margin"],)
    assert len(fields.find("tasks.mine.prompt").entries) == 3  # of choices, pairs and generate
    assert fields.find("models.mine.revision").entries == (by_path()["tasks.NAME.source.revision"],)
    assert fields.find("seeds.0").entries == fields.find("seeds").entries


def test_a_name_that_several_kinds_have_shows_all():
    assert len(fields.find("methods.m.loss.warmup_frac").entries) == 2  # logconf and entropy, and adaptconf's own


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lr", "no field 'lr' (there is recipe.lr)"),
        ("recipe.loss", "recipe has no field 'loss' (there is methods.NAME.loss)"),
        ("recipe.batchsize", "recipe has no field 'batchsize' (did you mean batch_size?)"),
        ("recipe.tune.knn", "recipe.tune has no field 'knn'"),
        ("recipe.lr.x", "recipe.lr has no field 'x'"),
    ],
)
def test_an_unknown_field_leads_to_the_nearest(asked, message):
    with pytest.raises(SpecError) as caught:
        fields.find(asked)
    assert message in str(caught.value)


def test_a_terminal_shows_types_bounds_and_sentences():
    assert fields.lines("recipe.tune.frozen", 70) == [
        "kind: frozen - The lowest `layers` layers stay as they are, and so do",
        "  the embeddings unless told otherwise.",
        "  layers      whole number from 0; required. So many of the lowest",
        "              layers stay as they are.",
        "  embeddings  true or false; default true. True: embeddings stay as",
        "              they are, too; false: they are trained, through the",
        "              frozen layers.",
    ]
    assert fields.lines("engine.workers", None) == [
        "engine.workers: whole number from 1 or null; default null; runtime",
        "  Steps at a time; null: one per device, on a CPU as many as memory and cores allow.",
    ]


def test_the_command_prints_fields_and_the_page(capsys):
    assert main(["fields", "seeds"]) == 0
    assert capsys.readouterr().out.startswith("seeds: list of whole numbers from 0; default [0]\n")
    assert main(["fields", "--markdown"]) == 0
    assert capsys.readouterr().out == handbook.page()
    assert main(["fields", "seed"]) == 2
    assert capsys.readouterr().err == "w2s: seed: no field 'seed' (did you mean seeds?)\n"
    assert main(["fields", "seeds", "--markdown"]) == 2
