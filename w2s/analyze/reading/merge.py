"""Several sweeps' rows in, one out: seeds of equal configuration together, everything else apart and said to be so.

What decides is a line: one method for one pair of models, over all tasks and selections. Two sweeps share a line where
their runs were asked the same but for the seed (see `configuration`) and where the test sets of the tasks that both
have are equal, by ids and labels. Where they do not, the line's method is called `xent [SWEEP]` in each; so it is where
models or data of the same names are others, even if no line is in both: nobody would tell them apart in a figure. A run
that both have, by its digest, counts once. Refuses nothing: what cannot be pooled stays apart.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from w2s.analyze.reading import rows
from w2s.analyze.reading.judge import LINE, Judge, Line, lines_of
from w2s.analyze.reading.predictions import Truth
from w2s.analyze.reading.rows import AGREEMENTS, LEARNED, ROLES, SCORES, Rows
from w2s.analyze.reading.scoring import Scored
from w2s.analyze.reading.selection import Taken, taken
from w2s.errors import SpecError
from w2s.progress import Report, silent
from w2s.store import Store

RUN = ["task", *LINE, "selection", "seed"]


class Origin(NamedTuple):
    """Where a method of a merge comes from."""

    method: str
    sweeps: frozenset[str]


@dataclass
class Merged(Rows):
    """Several sweeps as one. `notes` says what was kept apart and why; `origin` has, by a method's name here, its name
    in the sweeps and those that it comes from."""

    notes: list[str] = field(default_factory=list)
    origin: dict[str, Origin] = field(default_factory=dict)


class Stores(Store):
    """Several stores to read from as one: an artifact is where it is finished, else where work on it was begun."""

    def __init__(self, stores: Sequence[Store]) -> None:
        super().__init__(stores[0].root)
        self.stores = list(stores)

    def path(self, kind: str, digest: str) -> Path:
        return next((s for s in self.stores if s.has(kind, digest)), self.stores[0]).path(kind, digest)

    def work(self, digest: str) -> Path:
        return next((s for s in self.stores if s.work(digest).is_dir()), self.stores[0]).work(digest)


def load(names: Sequence[str | Path], root: Path = Path("results"), progress: Report = silent) -> Rows:
    """Read one or several sweeps, each by name, YAML or folder. Raises SpecError for every wrong name at once."""
    folders = locate(names, root)
    parts = []
    for folder in folders:
        what = f"reading {folder.name}"
        progress(what, 0, 0)
        parts.append(rows.load(folder, root, functools.partial(progress, what)))
    return merge(parts, folder_of(folders, root))


def locate(names: Sequence[str | Path], root: Path) -> list[Path]:
    """The folders of the sweeps. Raises SpecError for all that are not there, and for one that is given twice."""
    folders, problems = looked_up(names, root)
    if problems:
        raise SpecError(problems)
    return folders


def looked_up(names: Sequence[str | Path], root: Path) -> tuple[list[Path], list[str]]:
    """The folders of the sweeps that are there, and what is wrong with the names."""
    folders: list[Path] = []
    problems = [] if names else ["sweep: none is given; name at least one"]
    for name in names:
        try:
            folder = rows.locate(name, root)[0]
        except SpecError as error:
            problems += error.problems
            continue
        if any(folder.resolve() == other.resolve() for other in folders):
            problems.append(f"sweep: {str(name)!r} is given twice; give it once")
        else:
            folders.append(folder)
    return folders, list(dict.fromkeys(problems))


def folder_of(folders: Sequence[Path], root: Path) -> Path:
    """Where tables and figures go: a sweep's own folder, or one for these sweeps together, which is no sweep's."""
    if len(folders) == 1:
        return folders[0]
    names = "+".join(file_name(folder.name) for folder in folders)
    place = Path(root) / "sweeps" / file_name(names)
    return place.with_name(f"{place.name}-merged") if (place / "plan.json").exists() else place


def file_name(name: str, most: int = 80) -> str:
    """`name` as a file name that is safe everywhere; different names stay different."""
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", name)[:most]
    if safe == name and name.strip("."):
        return name
    return f"{safe.strip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def merge(parts: Sequence[Rows], folder: Path) -> Rows:
    """The sweeps as one, for tables and figures below `folder`; a single one is given back as it is."""
    if len(parts) == 1:
        return parts[0]
    labels = labels_of(parts)
    problems = [line for part in parts for line in part.problems]
    frames = _without_strangers(parts, labels, problems)
    judge = Judge(parts, frames, labels)
    groups = {line: judge.groups(line) for line in lines_of(frames)}
    apart = {line for line, found in groups.items() if any(judge.strangers(line, group) for group in found)}
    evidence = {
        name: _union([getattr(part, name) for part in parts])
        for name in ("test", "stamps", "transfer", "truth", "learned", "steps", "taught")
    }
    frame, origin = _pooled(frames, groups, apart, labels, evidence["test"])
    stores = list({part.store.root.resolve(): part.store for part in parts}.values())
    common = {f.name: getattr(parts[0], f.name) for f in dataclasses.fields(Rows)}
    common |= {
        "name": " + ".join(labels),
        "question": " / ".join(dict.fromkeys(part.question for part in parts if part.question)),
        "folder": folder,
        "frame": frame,
        **evidence,
        "standing": _standing(parts),
        "store": stores[0] if len(stores) == 1 else Stores(stores),
        "raw": dict(zip(labels, (part.raw for part in parts), strict=True)),
        "problems": list(dict.fromkeys(problems)),
        "unfinished": [
            f"{label}: {line}" for label, part in zip(labels, parts, strict=True) for line in part.unfinished
        ],
    }
    return Merged(**common, notes=[*judge.notes(groups), *_of_two_minds(parts, labels)], origin=origin)


def labels_of(parts: Sequence[Rows]) -> list[str]:
    """What each sweep is called: its name, or its folder where several have one name."""
    names = [part.name for part in parts]
    return [name if names.count(name) == 1 else str(part.folder) for name, part in zip(names, parts, strict=True)]


def _union(mappings: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """All keys; of equal ones the first sweep's, since what has one digest is one run."""
    return {key: value for mapping in reversed(mappings) for key, value in mapping.items()}


def _standing(parts: Sequence[Rows]) -> dict[str, Any]:
    """What became of each step: done, where it is in one of the sweeps."""
    found = _union([part.standing for part in parts])
    found |= {digest: state for part in parts for digest, state in part.standing.items() if state.status == "done"}
    return found


def _without_strangers(parts: Sequence[Rows], labels: Sequence[str], problems: list[str]) -> list[pd.DataFrame]:
    """The frames without rows on data that has the digest of another sweep's data, but holds other test examples."""
    frames: list[pd.DataFrame] = []
    kept: dict[str, Truth] = {}
    for part, label in zip(parts, labels, strict=True):
        strange = {data for data, truth in part.truth.items() if data in kept and not kept[data].equals(truth)}
        kept |= {data: truth for data, truth in part.truth.items() if data not in kept}
        problems += [
            f"{label}: data {data[:12]} is not what another results folder holds under the same digest; left out here "
            "(`w2s verify` finds the damaged one)"
            for data in sorted(strange)
        ]
        frames.append(part.frame[~part.frame["data_digest"].isin(strange)])
    return frames


def _of_two_minds(parts: Sequence[Rows], labels: Sequence[str]) -> list[str]:
    """Runs that predict otherwise in two results folders, under one digest: a note for each two sweeps."""
    first: dict[Taken, tuple[int, Scored]] = {}
    differ: dict[tuple[int, int], dict[str, int]] = {}  # test examples that differ, by run
    for place, part in enumerate(parts):
        for which, scored in part.test.items():
            shown, kept = first.setdefault(which, (place, scored))
            own_N, kept_N = (s.right_N if s.bin_N is None else s.predicted_N for s in (scored, kept))
            if kept is scored or len(own_N) != len(kept_N):  # of other lengths: data that is told to differ
                continue
            if others := int(np.count_nonzero(own_N != kept_N)):
                found = differ.setdefault((shown, place), {})
                found[which.digest] = max(others, found.get(which.digest, 0))
    return [
        f"{labels[b]}: {len(found)} {'runs predict' if len(found) > 1 else 'run predicts'} otherwise than the same in "
        f"{labels[a]}, by another machine or version or damage, which `w2s verify` finds (such as {digest[:12]}, for "
        f"{found[digest]} examples); those of {labels[a]} are shown"
        for (a, b), found in differ.items()
        for digest in [max(found, key=found.__getitem__)]
    ]


def _pooled(
    frames: Sequence[pd.DataFrame],
    groups: Mapping[Line, list[list[int]]],
    apart: set[Line],
    labels: Sequence[str],
    test: Mapping[Taken, Scored],
) -> tuple[pd.DataFrame, dict[str, Origin]]:
    """One frame in the order of the first sweep's tasks, pairs and methods, and where its methods come from. Whichever
    sweep a row is taken from, it stands where it was planned first: what comes first is the baseline."""
    origin: dict[str, Origin] = {}
    renamed: dict[tuple[Line, int], str] = {}
    for line, found in groups.items():
        for group in found:
            added = f" [{_joined(labels, group)}]" if line in apart else ""
            method, sweeps = line[2] + added, frozenset(labels[place] for place in group)
            origin[method] = Origin(line[2], sweeps | (origin[method].sweeps if method in origin else frozenset()))
            renamed |= {(line, place): method for place in group}
    columns = list(frames[0].columns)
    own = []
    for place, frame in enumerate(frames):
        methods = [renamed[line, place] for line in frame[LINE].itertuples(index=False, name=None)]
        own.append(frame.astype(frames[0].dtypes.to_dict()).assign(method=methods, sweep=labels[place]))
    whole = pd.concat([frame for frame in own if len(frame)] or own[:1], ignore_index=True)
    done = sum((whole[f"{role}_status"] == "done").astype(int) for role in ROLES)
    whole = whole.assign(
        _done=done,
        sweep=whole.groupby(RUN, sort=False)["sweep"].transform(lambda names: " + ".join(dict.fromkeys(names))),
        _task=pd.factorize(whole["task"])[0],
        _pair=pd.factorize(pd.MultiIndex.from_frame(whole[["weak", "student"]]))[0],
        _run=whole.groupby(RUN, sort=False).ngroup(),
    )
    best = whole.sort_values("_done", ascending=False, kind="stable").drop_duplicates(RUN).index
    kept = whole.loc[best].sort_values(["_task", "_pair", "_run"], kind="stable").reset_index(drop=True)
    return _by_digest(kept[columns], whole, test), origin


def _by_digest(kept: pd.DataFrame, whole: pd.DataFrame, test: Mapping[Taken, Scored]) -> pd.DataFrame:
    """The rows with the numbers of one run for each digest, those that are in `test`: of the first sweep that has it.

    Two results folders may hold other predictions under one digest, made on other machines.
    """
    found = kept.copy()
    for role in ROLES:
        key = [f"{role}_digest", *(["selection"] if role == "student" else [])]
        columns = [f"{role}_{column}" for column in ("accuracy", "status", "reason", *SCORES[1:], "seconds", "flops")]
        columns += ["selected_step", "evaluations", "selection_note"] if role == "student" else []
        _take_first(found, whole, key, columns)
    _take_first(found, whole, ["label_digest"], list(LEARNED))
    compared = [f"{role}_{column}" for role in ROLES for column in ("status", *SCORES)]
    before, after = kept[compared], found[compared]
    for place in np.flatnonzero(~((before == after) | (before.isna() & after.isna())).all(axis=1)):
        row: dict[str, Any] = {str(name): value for name, value in found.iloc[place].items()}
        models = {role: taken(role, row[f"{role}_digest"], row["selection"]) for role in ROLES}
        if models["weak"] in test and models["student"] in test:
            row |= rows.agreement_of(test[models["student"]], test[models["weak"]])
        states = {role: row[f"{role}_status"] for role in ROLES if models[role] not in test}
        for metric, name in (("accuracy", "pgr"), ("auroc", "pgr_auroc")):
            row[name], row[f"{name}_reason"] = rows.recovered(row, metric, states)
        for name in (*AGREEMENTS, "pgr", "pgr_reason", "pgr_auroc", "pgr_auroc_reason"):
            found.loc[place, name] = row[name]
    return found


def _take_first(found: pd.DataFrame, whole: pd.DataFrame, key: list[str], columns: list[str]) -> None:
    """Have the columns hold what the first row of an equal key has, where one has a number in the first of them."""
    first = whole.loc[whole[columns[0]].notna(), [*key, *columns]].drop_duplicates(key)
    joined = found[key].merge(first, on=key, how="left")
    known = joined[columns[0]].notna()
    for column in columns:
        found[column] = joined[column].where(known, found[column]).astype(found[column].dtype)


def _joined(labels: Sequence[str], group: Sequence[int]) -> str:
    return " + ".join(labels[place] for place in group)
