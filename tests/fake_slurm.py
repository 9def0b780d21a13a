"""SLURM's programs as far as w2s calls them: small scripts on PATH that write down their words and answer from a file.

The real ones are met by the tests in tests/slurm.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")
# Stands in each program's file. `state.json` is what the tests set, see FakeSlurm.
SCRIPT = """\
#!{python} -IS
import json, os, sys
folder, name, words = {folder!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
with open(folder + "/calls.jsonl", "a") as file:
    file.write(json.dumps([name, *words]) + "\\n")
with open(folder + "/state.json") as file:
    state = json.load(file)
options = dict(word.partition("=")[::2] for word in words if word.startswith("--"))

def fail(message, code=1):
    print(message, file=sys.stderr)
    sys.exit(code)

if name in state["broken"]:
    fail(state["broken"][name])
if name == "sbatch":
    test = "--test-only" in words
    for word, message in state["refused"].items():
        if word in words:
            fail(message)
    if test:
        fail(state["test_says"] or "sbatch: Job 1 to start at 2030-01-01T00:00:00", bool(state["test_says"]))
    if state["takes"] is not None and state["jobs"] >= state["takes"]:
        fail("sbatch: error: QOSMaxSubmitJobPerUserLimit\\nsbatch: error: Batch job submission failed: Job violates "
             "accounting/QOS policy")
    state["jobs"] += 1
    job = str(state["first"] + state["jobs"] - 1)
    tasks = options["--array"].partition("%")[0][2:] if "--array" in options else ""
    places = [str(n) for n in range(1, int(tasks) + 1)] if tasks else ["N/A"]
    reason = "Dependency" if "--dependency" in options else "Priority"
    script = next(at for at, word in enumerate(words) if not word.startswith("--"))
    state["queue"] += [[options["--job-name"], job, place, "PENDING", reason, " ".join(words[script:])]
                       for place in places]
    print(job + state["suffix"])
elif name == "squeue":
    names = options["--name"].split(",")
    for named, job, place, task_state, reason, command in state["queue"]:
        if named in names:
            print("|".join([job, place, task_state, named, reason, command]))
elif name == "scontrol" and words == ["show", "config"]:
    print("Configuration data as of 2030-01-01T00:00:00\\nMaxArraySize            = %s" % state["array_size"])
    print("MaxJobCount             = 10000")
elif name == "scancel":
    state["queue"] = [task for task in state["queue"] if task[1] not in words]
with open(folder + "/state.json", "w") as file:
    json.dump(state, file)
"""


class FakeSlurm:
    """Programs in `bin`, to be put on PATH.

    What they answer: `first` job id and the `suffix` behind it; `takes`: so many jobs and no more; `refused`: word ->
    message of an sbatch that has it; `test_says`: why --test-only fails; `broken`: program -> message; `array_size`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for name in PROGRAMS:
            program = self.bin / name
            program.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)), encoding="utf-8")
            program.chmod(0o755)
        self._write({"jobs": 0, "first": 11, "suffix": "", "takes": None, "refused": {}, "test_says": "", "broken": {},
                     "queue": [], "array_size": 1001})  # fmt: skip

    def answers(self, **changes: Any) -> None:
        self._write({**self._state(), **changes})

    def calls(self, program: str | None = None) -> list[list[str]]:
        """The words of every call so far, of one program or all."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        calls: list[list[str]] = [json.loads(line) for line in lines]
        return [call for call in calls if program in (None, call[0])]

    def submitted(self) -> list[list[str]]:
        """The words of every call of sbatch that is no test."""
        return [call for call in self.calls("sbatch") if "--test-only" not in call]

    def forget_calls(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def queue(self) -> list[str]:
        """JOB_PLACE of what is in the queue; JOB where it is no array."""
        return [job if place == "N/A" else f"{job}_{place}" for _, job, place, *_ in self._state()["queue"]]

    def runs(self, *tasks: str) -> None:
        """These tasks, JOB_PLACE each, have begun."""
        self._set(tasks, "RUNNING", "None")

    def ends(self, *tasks: str) -> None:
        """These tasks, or all of a JOB, are over."""
        left = [task for task in self._state()["queue"] if not {task[1], f"{task[1]}_{task[2]}"} & set(tasks)]
        self.answers(queue=left)

    def _set(self, tasks: tuple[str, ...], state: str, reason: str) -> None:
        changed = [
            [*task[:3], state, reason, *task[5:]] if f"{task[1]}_{task[2]}" in tasks else task
            for task in self._state()["queue"]
        ]
        self.answers(queue=changed)

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        return found

    def _write(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
