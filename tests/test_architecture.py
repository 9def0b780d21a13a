"""The two halves stay apart, imports only descend, and the README names what is there."""

from __future__ import annotations

import ast
import graphlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import w2s
from w2s.cli.arguments import checked
from w2s.cli.commands import COMMANDS

ROOT = Path(w2s.__file__).resolve().parent.parent
README = ROOT / "README.md"

# From the ground up: a module may import what stands in an earlier line, or a neighbour within its own package.
# A new module needs a place here, and its clause in the README.
LAYERS = (
    {"errors", "progress", "claim", "stopping", "compiling"},
    {"disk"},
    {"identity", "yamlfile", "store", "provenance"},
    {"plugins"},
    {"randomness", "sources", "pairs"},
    {"models", "objectives", "supervision", "tasks"},
    {"prompts"},
    {"spec"},
    {"labelling", "memory", "resources", "starts"},
    {"misfits", "sweepfile"},
    {"chains", "pluginfiles", "promptable"},
    {"cost", "sweep", "learn"},
    {"experiments", "notes"},
    {"plan"},
    {"inputs", "loop", "outputs"},
    {"generation", "prompting", "language", "solving"},
    {"inference", "training"},
    {"estimate", "analyze", "execute", "steps"},
    {"cli"},
    {"__main__"},
)
LEARNING = {"tasks", "learn"}
LEARNING_LIBRARIES = {"torch", "transformers", "accelerate", "deepspeed", "datasets", "peft", "safetensors", "gguf"}
SLOW_LIBRARIES = {"numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "rich", "fire"}
# Where the halves meet: steps calls the learning half, its worker runs steps, doctor asks torch for devices.
BODIES = {
    "steps",
    "inputs",
    "loop",
    "training",
    "generation",
    "language",
    "prompting",
    "solving",
    "inference",
}  # of steps, and what uses their models
MEET = {*BODIES, "outputs", "cli.doctor", "execute.worker"}


class Import(NamedTuple):
    line: int
    name: str
    lazy: bool  # inside a function: runs when it is called


def modules() -> dict[str, Path]:
    """Every module of the package by its name below w2s."""
    paths = sorted((ROOT / "w2s").rglob("*.py"))
    return {".".join(p.relative_to(ROOT / "w2s").with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports_of(path: Path) -> list[Import]:
    """Every import of a module but those for type checkers."""
    found: list[Import] = []

    def walk(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend(Import(child.lineno, alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports are absolute"
                base = child.module or ""
                below = [f"{base}.{alias.name}" for alias in child.names]
                names = [n if n.removeprefix("w2s.") in MODULES else base for n in below]
                found.extend(Import(child.lineno, name, lazy) for name in dict.fromkeys(names))
            else:
                walk(child, lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    walk(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


MODULES = modules()
IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}
OWN = {
    name: [i._replace(name=i.name.removeprefix("w2s.")) for i in found if i.name.startswith("w2s.")]
    for name, found in IMPORTS.items()
}


def part(module: str) -> str:
    """The top-level module or package that a module belongs to."""
    return module.split(".")[0]


def test_the_reader_of_imports_sees_what_it_must(tmp_path):
    """Negative control for every test below."""
    (tmp_path / "m.py").write_text(
        "import torch\nfrom w2s import store\nfrom w2s.errors import SpecError\nif TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import rich.table\nexcept ImportError:\n    pass\ndef f():\n    from w2s.learn import models\n"
    )
    assert [(i.name, i.lazy) for i in imports_of(tmp_path / "m.py")] == [
        ("torch", False),
        ("w2s.store", False),
        ("w2s.errors", False),
        ("rich.table", False),
        ("w2s.learn.models", True),
    ]


def test_every_module_has_a_layer():
    placed = [name for layer in LAYERS for name in layer]
    assert sorted(placed) == sorted({part(name) for name in MODULES if name != "w2s"} - {"__init__"})


def test_imports_only_descend():
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    climbing = [
        f"w2s/{name}:{i.line}: {part(name)} imports {part(i.name)}, which stands no lower"
        for name, found in OWN.items()
        for i in found
        if part(i.name) != part(name) and level[part(i.name)] >= level[part(name)]
    ]
    assert climbing == []


def test_no_modules_import_each_other_in_a_ring():
    """Imports inside functions included."""
    graph = {name: {i.name for i in found} for name, found in OWN.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_control_half_never_imports_a_library_that_learns():
    wrong = [
        f"w2s/{name}:{i.line}: imports {i.name}"
        for name, found in IMPORTS.items()
        for i in found
        if part(name) not in LEARNING and i.name.split(".")[0] in LEARNING_LIBRARIES and not (name in MEET and i.lazy)
    ]
    assert wrong == []


def test_only_steps_imports_the_learning_half():
    """What a task or a model is, as data, belongs to both halves; how to learn belongs to one."""
    wrong = [
        f"w2s/{name}:{i.line}: imports {i.name}"
        for name, found in OWN.items()
        for i in found
        if part(name) not in LEARNING and part(i.name) == "learn" and not (name in BODIES and i.lazy)
    ]
    assert wrong == []


def test_the_learning_half_knows_no_plan_and_no_store():
    control = {"sweep", "plan", "estimate", "store", "claim", "steps", "execute", "analyze", "cli"}
    wrong = [
        f"w2s/{name}:{i.line}: imports {i.name}"
        for name, found in OWN.items()
        for i in found
        if part(name) in LEARNING and part(i.name) in control
    ]
    assert wrong == []


def loaded_by(*names: str) -> set[str]:
    """Top-level names of the modules that a fresh process holds after importing these."""
    program = f"import sys, {', '.join(names)}; print(*{{m.split('.')[0] for m in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(found.stdout.split())


def test_importing_the_command_line_loads_next_to_nothing():
    loaded = loaded_by("w2s.cli.main")
    assert loaded & (LEARNING_LIBRARIES | SLOW_LIBRARIES | {"pydantic", "yaml"}) == set()
    assert "w2s" in loaded


def test_importing_the_whole_control_half_loads_no_library_that_learns():
    names = [f"w2s.{name}" for name in MODULES if part(name) != "learn" and name not in ("w2s", "__init__", "__main__")]
    assert loaded_by(*names) & LEARNING_LIBRARIES == set()


def test_planning_loads_neither_tables_nor_arrays():
    assert loaded_by("w2s.sweep", "w2s.cli.describe", "w2s.cli.catalogue") & SLOW_LIBRARIES == set()


# -- the README --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme():
    return README.read_text(encoding="utf-8")


def test_the_readme_lists_every_module_with_a_clause(readme):
    """A line per module, in a tree, a list or a table: `learn/losses.py`, then what it is for."""
    line = re.compile(r"^[\s|*-]*`?(?:w2s/)?((?:\w+/)*\w+\.py)`?[\s|:-]+(\w.*)$", re.MULTILINE)
    listed = {path: clause for path, clause in line.findall(readme) if not path.startswith("tests/")}
    there = {
        str(path.relative_to(ROOT / "w2s"))
        for path in MODULES.values()
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert set(listed) == there
    assert [path for path, clause in listed.items() if len(clause.split()) < 3] == []


def test_commands_in_the_readme_are_accepted(readme):
    """Every line of a code block that calls w2s or make."""
    commands = [
        c.strip() for block in re.findall(r"^```.*?\n(.*?)^```", readme, re.M | re.S) for c in block.splitlines()
    ]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    seen = set()
    for command in commands:
        words = shlex.split(command.removeprefix("$ "), comments=True)
        if words and Path(words[0]).name == "w2s" and len(words) > 1:
            checked(COMMANDS[words[1]], words[2:])
            seen.add("w2s")
        elif words and words[0] == "make":
            assert [w for w in words[1:] if "=" not in w and w not in targets] == [], command
            seen.add("make")
    assert seen == {"w2s", "make"}


def test_paths_in_the_readme_exist(readme):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", readme) if "://" not in link]
    named = re.findall(r"(?<![\w/.])(?:sweeps|w2s|slurm|tests|benchmarks|results/reference)/[\w./-]*[\w/]", readme)
    missing = [path for path in dict.fromkeys(links + named) if path and not (ROOT / path).exists()]
    assert missing == []
    assert named
