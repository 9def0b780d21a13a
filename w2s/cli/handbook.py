"""The tree of a sweep's fields in, docs/sweeps.md out, as text: a test compares the file with this."""

from __future__ import annotations

from collections.abc import Mapping

from w2s.cli.fields import NAME, Entry, Variant, below, sections

PREFACE = """\
<!-- Written by `w2s fields --markdown > docs/sweeps.md` from the specs of w2s: change the sentences there. -->

# Fields of a sweep

A sweep is one YAML file that asks one question. Each field is listed here once, with its type, its default, and whether
it is part of a result's identity; `w2s fields PATH` shows the same at a terminal.

```yaml
question: How much do students of two sizes recover?
tasks: [movie, amazon]
sizes: {weak_train: 500, transfer: 500, test: 600}
models: # weakest first
  minilm@2: {use: minilm, layers: 2, recipe: {lr: 4e-4, epochs: 4}}
  minilm: {use: minilm}
  smollm2@20: {use: smollm2, layers: 20, recipe: {lr: 4e-4, tune: {kind: frozen, layers: 17}}}
pairs: {weak: [minilm@2], student: [minilm, smollm2@20]}
methods:
  xent: {}
  slow: {loss: logconf, recipe: {lr: 1e-4}}
seeds: [0, 1, 2]
engine: {cache_frozen: true}
```

* **Names.** Tasks, models and methods are a mapping by names of your own, or a list of names that w2s knows and of
  mappings with a `name`. `NAME` in the paths below is such a name.
* **Recipes** are built from layers, the later one winning field by field: the defaults, the sweep's `recipe`, the
  model's, and for students the method's. Weak models and ceilings have the loss xent whatever a method says.
* **Changes** from the command line go by the same paths: `--set recipe.lr=1e-5 --set methods.slow.recipe.lr=5e-5`.
* **Refused**, all at once and before anything runs: an unknown field (with the nearest known one), a value of another
  type or out of bounds, and what does not go together.
* **Identity**: a change makes other steps, with other names in the store. The other fields change no number beyond
  rounding, so that finished steps are found again whatever they say.
"""
HEAD = "| field | type | default | identity | |\n|---|---|---|---|---|"


def page() -> str:
    """docs/sweeps.md."""
    found = sections()
    places = {variants: path for path, variants, _ in found}
    parts = [PREFACE]
    for path, variants, entry in found:
        level = "###" if "." in path.removesuffix(f".{NAME}") else "##"
        parts.append(f"{level} `{path}`\n" if path else "## The sweep\n")
        if entry is not None and entry.about not in (variant.about for variant in variants):
            parts.append(f"{entry.about}\n")
        for variant in variants:
            heading = ": ".join(part for part in (f"**`{variant.tag}`**" * bool(variant.tag), variant.about) if part)
            parts.append(f"{heading}\n" if heading else "")
            if variant.fields:
                rows = (_row(field, path, places) for field in variant.fields)
                parts.append("\n".join([HEAD, *rows]) + "\n")
    return "\n".join(part for part in parts if part)


def _row(entry: Entry, path: str, places: Mapping[tuple[Variant, ...], str]) -> str:
    name = f"`{entry.name}`"
    if entry.inner:
        name = f"[{name}](#{anchor(places.get(entry.inner, below(path, entry)))})"
    default = "required" if entry.default is None else f"`{entry.default}`" if entry.default else ""
    return f"| {name} | {entry.type} | {default} | {'yes' if entry.counts else 'no'} | {entry.about} |".replace(
        "||", "&#124;&#124;"
    )


def anchor(path: str) -> str:
    """What a heading with this path is linked by."""
    return path.replace(".", "").lower()
