"""Loss and evaluations of a running step in; rows in a file, or curves in TensorBoard or Weights & Biases, out.

The trackers go to Accelerate (`Accelerator(log_with=...)`, `Accelerator.log`), by which only the main rank writes. Each
step makes its own, and `tracked` ends them: `Accelerator.end_training` would destroy the process group too, and a
group of ranks works through several steps.

What is written here is for watching; numbers that count are in the artifact.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import accelerate
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from w2s.disk import disk_errors, make_folder, write_json
from w2s.errors import MachineError

Scalar = bool | int | float | str
ID_CHARS = 16  # of the step's digest: the name of its folder, and of its run at Weights & Biases
PROJECT = "w2s"
REPORTING = "WANDB_ERROR_REPORTING"


def folder_of(results: Path, digest: str) -> Path:
    """Where the trackers of a step write."""
    return results / "tracking" / digest[:ID_CHARS]


def trackers_for(names: Sequence[str], folder: Path, title: str = "") -> list[Any]:
    """One tracker for each of `engine.trackers`; nothing is written before `tracked`.

    `title` is what a person calls the run. Raises MachineError for a package that is not installed.
    """
    for name in names:
        if name != "jsonl" and not _is_installed(name):
            raise MachineError(f"engine.trackers: {name} is not installed; pip install {name}, or take it out")
    return [TRACKERS[name](folder, title) for name in dict.fromkeys(names)]


@contextlib.contextmanager
def tracked(accelerator: accelerate.Accelerator, config: Mapping[str, Scalar]) -> Iterator[None]:
    """Inside, `accelerator.log(values, step=...)` reaches the trackers that the Accelerator was made with.

    Steps do not fall. Of what an earlier start of the same run wrote, only what lies before the first step logged now
    is kept: a run that goes on from a checkpoint has each step once. Raises MachineError where a tracker cannot start.
    """
    try:
        accelerator.init_trackers(PROJECT, dict(config))
        yield
    finally:
        with contextlib.ExitStack() as endings:  # one that cannot end must not keep the others open
            for tracker in accelerator.trackers:
                endings.callback(tracker.finish)
            accelerator.trackers = []


def flattened(data: Mapping[str, Any], above: str = "") -> dict[str, Scalar]:
    """Nested plain data as one level of scalars, `recipe.lr`; lists as JSON text, None as "none"."""
    flat: dict[str, Scalar] = {}
    for key, value in data.items():
        name = f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            flat |= flattened(value, name)
        elif isinstance(value, (list, tuple)):
            flat[name] = json.dumps(value, ensure_ascii=False)
        else:
            flat[name] = "none" if value is None else value
    return flat


class JsonlTracker(GeneralTracker):  # type: ignore[misc]  # accelerate is published without types
    """`metrics.jsonl`, one row per call, and `config.json`; needs no package."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, folder: Path, title: str) -> None:
        super().__init__()
        self.folder, self.title = folder, title
        self._file: BinaryIO | None = None

    @property
    def tracker(self) -> Path:
        """The file of rows."""
        return self.folder / "metrics.jsonl"

    def start(self) -> None:
        """Make the folder; the file is opened by the first row."""
        with disk_errors(self.folder):
            make_folder(self.folder)

    def store_init_configuration(self, values: dict[str, Scalar]) -> None:
        """Write `config.json`."""
        with disk_errors(self.folder):
            write_json(self.folder / "config.json", {"title": self.title, **values})

    def log(self, values: Mapping[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Append one row; it is with the operating system when this returns. Not a number is null."""
        del kwargs
        assert step is not None
        row = {name: number if math.isfinite(number) else None for name, number in _plain(values).items()}
        with disk_errors(self.tracker):
            if self._file is None:
                self._file = self._opened(step)
            self._file.write(json.dumps({"step": step, **row}, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def _opened(self, step: int) -> BinaryIO:
        """The file without the steps that come now, and without the line in the middle of which a run was killed."""
        before = self.tracker.read_bytes().splitlines(keepends=True) if self.tracker.exists() else []
        kept = [line for line in before if _step_of(line) < step]
        if kept != before:
            part = self.tracker.with_suffix(".part")
            part.write_bytes(b"".join(kept))
            part.replace(self.tracker)
        return self.tracker.open("ab")

    def finish(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class TensorboardTracker(TensorBoardTracker):  # type: ignore[misc]  # accelerate is published without types
    """Event files in the step's folder; a later start hides what an earlier one wrote of the same steps.

    Accelerate's own makes one more folder, named after the time, at every start, and shows such steps twice.
    """

    def __init__(self, folder: Path, title: str) -> None:
        super().__init__("", folder)
        self.folder, self.title = folder, title
        self.writer: Any = None
        self._config: dict[str, Scalar] = {}

    def start(self) -> None:
        """Make the folder; the event file is opened by the first row."""
        with disk_errors(self.folder):
            make_folder(self.folder)

    def store_init_configuration(self, values: dict[str, Scalar]) -> None:
        """Keep what the HPARAMS page shows for the first row."""
        self._config = values

    def log(self, values: Mapping[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Add one point to each curve."""
        del kwargs
        assert step is not None
        points = _plain(values)
        with disk_errors(self.folder):
            if self.writer is None:
                self.writer = self._opened(step)
            for name, number in points.items():
                self.writer.add_scalar(name, number, global_step=step)
            self.writer.flush()

    def _opened(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        writer: Any = SummaryWriter(str(self.folder), purge_step=step)
        # Not by `add_hparams`, which writes a file of its own: TensorBoard goes on in the newest of a folder only.
        for summary in hparams(self._config, {}):  # type: ignore[no-untyped-call]  # torch's own lacks types here
            writer.file_writer.add_summary(summary)
        return writer

    def finish(self) -> None:
        """Close the event file."""
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()


class WandbTracker(WandBTracker):  # type: ignore[misc]  # accelerate is published without types
    """A run at Weights & Biases with the step's digest for its id, so that a new start goes on with it.

    WANDB_MODE and WANDB_PROJECT are respected. Who is not logged in, or cannot reach the server, gets an offline run.
    """

    def __init__(self, folder: Path, title: str) -> None:
        super().__init__(PROJECT)
        self.folder, self.title = folder, title
        self.run: Any = None
        self._known_steps = 0
        self._before: tuple[Any, Any, str | None] | None = None  # what wandb changes in this process

    def start(self) -> None:
        """Open the run."""
        wandb: Any = importlib.import_module("wandb")  # types only where it is installed
        self._before = sys.excepthook, sys.exit, os.environ.get(REPORTING)
        os.environ.setdefault(REPORTING, "false")  # else a run that stays offline reports its errors to the maker
        with disk_errors(self.folder):
            make_folder(self.folder)
        try:
            mode, why = _wandb_mode(wandb)
            try:
                self.run = self._opened(wandb, mode)
            except wandb.Error as error:
                if mode == "offline":
                    raise
                why = f"it cannot start ({_in_a_line(error)})"
                self.run = self._opened(wandb, "offline")
            self._known_steps = self.run.step
        except Exception as error:
            self.finish()
            raise MachineError(f"engine.trackers: wandb cannot start: {_in_a_line(error)}; take it out") from error
        if why:
            runs = self.folder / "wandb" / "offline-run-*"
            print(f"engine.trackers: wandb: {why}, so the run stays offline: `wandb sync {runs}`", file=sys.stderr)

    def _opened(self, wandb: Any, mode: str) -> Any:
        return wandb.init(
            project=wandb.setup().settings.project or PROJECT,
            name=self.title or None,
            id=self.folder.name,
            resume="allow",
            dir=self.folder,
            mode=mode,
            settings=wandb.Settings(console="off"),  # the log is the worker's
        )

    def store_init_configuration(self, values: dict[str, Scalar]) -> None:
        """Set the run's configuration."""
        self.run.config.update(values, allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Add one point to each curve, but for those that the server has from an earlier start: it takes none twice."""
        del kwargs
        assert step is not None
        if step >= self._known_steps:
            self.run.log(_plain(values), step=step)

    def finish(self) -> None:
        """End the run, and what wandb left in this process: a service, an environment variable, hooks."""
        if self._before is None:
            return
        wandb: Any = importlib.import_module("wandb")
        run, self.run = self.run, None
        try:
            if run is not None:
                run.finish()
            wandb.teardown()
        finally:
            sys.excepthook, sys.exit, reporting = self._before
            if reporting is None:
                os.environ.pop(REPORTING, None)
            self._before = None


TRACKERS: dict[str, Any] = {"jsonl": JsonlTracker, "tensorboard": TensorboardTracker, "wandb": WandbTracker}


def _wandb_mode(wandb: Any) -> tuple[str, str]:
    """(mode, why it is not the one that was set up)."""
    mode = str(wandb.setup().settings.mode)
    if mode != "online":
        return mode, ""
    try:
        known = wandb.login(prompt=False)  # never waits for a person
    except TypeError:  # an older wandb: `init` refuses then
        return mode, ""
    except wandb.Error as error:
        return "offline", _in_a_line(error)
    return (mode, "") if known else ("offline", "nobody is logged in (`wandb login`)")


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    """The values as floats. A tensor is refused: reading it would make the device wait, unseen."""
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name}: a {type(value).__name__} cannot be logged; make it a float")
    return {name: float(value) for name, value in values.items()}


def _step_of(line: bytes) -> float:
    """The step of a whole row; infinity for anything else."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return math.inf
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else math.inf


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # a folder of that name, such as wandb makes, has none


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
