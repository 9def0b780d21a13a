"""A plan's cells in, the scored predictions and ground truth that they need out, and what of it is damaged.

What is damaged costs no more than it must: ground truth that cannot be read costs all that is measured with it, final
predictions every selection of their student, evaluations one student's selections, a supervisor's predictions for val
those of its students, and labels for transfer what is said of labels alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s.analyze.reading import learned
from w2s.analyze.reading.demand import Reading
from w2s.analyze.reading.learned import LABELS, Learned
from w2s.analyze.reading.parallel import Data
from w2s.analyze.reading.predictions import Found, Reader, Truth, Wanted, judge
from w2s.analyze.reading.scoring import Scored
from w2s.analyze.reading.selection import ROLES, Choice, Taken, taken
from w2s.analyze.reading.standing import UNPLANNED, Standing, first_line
from w2s.errors import StepError
from w2s.progress import Count
from w2s.store import Store

Numbers = tuple[float, float, float, float, float, float]  # accuracy, auroc, ece, brier, seconds, flops


class Evidence:
    """What there is for each cell. `standing` is that of the plan's steps; damage that is found on the way counts."""

    def __init__(self, store: Store, standing: dict[str, Standing]) -> None:
        self.standing, self._reader, self._store = standing, Reader(store), store
        self.supervisors: dict[str, str] = {}  # train steps, by what students learned from; '' where it is not just one
        self.test: dict[Taken, Scored] = {}
        self.stamps: dict[Taken, bytes] = {}  # of the files of final predictions, hashed
        self.transfer: dict[str, Scored] = {}
        self.truth: dict[str, Truth] = {}  # of test, by materialize digest
        self.majority_share: dict[str, float] = {}
        self.learned: dict[str, Learned] = {}  # labels for transfer, by what students learned from (a cell's `judge`)
        self.numbers: dict[Taken, Numbers] = {}
        self.choices: dict[Taken, Choice] = {}
        self.chosen: dict[Taken, Standing] = {}  # of a student under a selection, where its step's own does not tell
        self.damaged: dict[str, str] = {}  # steps, and why
        self.problems: list[str] = []  # damage that is not a whole step's

    def take(self, results: Path, cells: Sequence[Mapping[str, Any]], there: Collection[str], progress: Count) -> None:
        """Take all that is there for these cells. `there`: digests of all that is finished in the store."""
        for source in dict.fromkeys(cell["judge"] for cell in cells):
            self.supervisors[source] = learned.supervisor(self._store, source)
        finals, others = _finals(cells, self.supervisors), _others(cells)
        for data in finals:
            self._read_truth(data)
        may_be_read = {
            data: [one for one in (*finals[data], *others[data]) if self._is_done(one.digest)]
            for data in finals
            if data.digest in self.truth
        }
        reading = Reading(results, self._reader, may_be_read, progress)
        try:
            asked = {data: [one for one in finals[data] if self._is_done(one.digest)] for data in may_be_read}
            for wanted, found in reading.take(asked).items():
                self._final(wanted, found)
            asked = {data: [one for one in others[data] if self._is_readable(one)] for data in may_be_read}
            answers = reading.take(asked)
            for wanted in (one for ones in asked.values() for one in ones):  # in the order of the plan
                self._other(wanted, answers[wanted])
            self._read_labels(cells)
        finally:
            reading.keep(there)

    def _is_done(self, digest: str) -> bool:
        return digest not in self.damaged and self.standing.get(digest, UNPLANNED).status == "done"

    def _read_truth(self, data: Data) -> None:
        if not self._is_done(data.digest):
            return
        try:
            truth = self.truth[data.digest] = self._reader.truth(data.digest, "test", data.classes)
            self.majority_share[data.digest] = truth.majority_share
        except StepError as error:
            self.damaged[data.digest] = first_line(str(error))

    def _final(self, wanted: Wanted, found: Found | str) -> None:
        if isinstance(found, str):
            self.damaged[wanted.digest] = first_line(found)
        else:
            self._keep(Taken(wanted.digest), found)
            self.stamps[Taken(wanted.digest)] = hashlib.blake2b(found.stamp, digest_size=16).digest()

    def _keep(self, which: Taken, found: Found) -> None:
        scored = self.test[which] = found.scored
        self.numbers[which] = (scored.accuracy, scored.auroc, scored.ece, scored.brier, found.wall_s, found.flops)

    def _is_readable(self, wanted: Wanted) -> bool:
        """True where transfer or evaluations are worth a look; where they are not, why not is noted."""
        if wanted.part == "transfer":
            return self._is_done(wanted.digest)
        if Taken(wanted.digest) not in self.test:
            return False
        supervisor = judge(wanted.supervisor)[1]
        if supervisor and not self._is_done(supervisor):
            state = "damaged" if supervisor in self.damaged else self.standing.get(supervisor, UNPLANNED).status
            self.chosen[Taken(wanted.digest, wanted.part)] = Standing(
                "blocked", f"weak_val needs the supervisor's predictions for val: supervisor {state}"
            )
            return False
        return True

    def _other(self, wanted: Wanted, found: Found | str) -> None:
        which = Taken(wanted.digest, wanted.part)
        if isinstance(found, str):
            self.problems.append(first_line(found))
            if wanted.part != "transfer":
                self.chosen[which] = Standing("damaged", self.problems[-1])
        elif wanted.part == "transfer":
            self.transfer[wanted.digest] = found.scored
            self.learned[wanted.digest] = learned.of_predictions(found.scored)
        else:
            assert found.choice is not None
            self._keep(which, found)
            self.choices[which] = found.choice

    def _read_labels(self, cells: Iterable[Mapping[str, Any]]) -> None:
        """What labels steps made. They are few beside predictions, and so are not kept for the next time."""
        made = {cell["judge"]: _data(cell) for cell in cells if cell["judge"].startswith(LABELS)}
        for source, data in made.items():
            digest = source.removeprefix(LABELS)
            if not (self._is_done(digest) and self._is_done(data.digest)):
                continue
            try:
                self.learned[source] = learned.of_step(self._reader, digest, data.digest, data.classes)
            except StepError as error:
                self.problems.append(first_line(str(error)))


def taken_of(cell: Mapping[str, Any], role: str) -> Taken:
    """The predictions of a cell's model that count."""
    return taken(role, cell[f"{role}_digest"], cell["selection"])


def _finals(cells: Iterable[Mapping[str, Any]], supervisors: Mapping[str, str]) -> dict[Data, dict[Wanted, None]]:
    """Of each data set every model's final predictions, once, those of chains' supervisors too."""
    found: dict[Data, dict[Wanted, None]] = {}
    for cell in cells:
        own = found.setdefault(_data(cell), {})
        for role in ROLES:
            own[Wanted(cell[f"{role}_digest"])] = None
        if supervisors[cell["judge"]]:
            own[Wanted(supervisors[cell["judge"]])] = None
    return found


def _others(cells: Iterable[Mapping[str, Any]]) -> dict[Data, dict[Wanted, None]]:
    """Of each data set its supervisors' predictions for transfer and its students' selections, once."""
    found: dict[Data, dict[Wanted, None]] = {}
    for cell in cells:
        own = found.setdefault(_data(cell), {})
        own[Wanted(cell["weak_digest"], "transfer")] = None
        if not cell["judge"].startswith(LABELS):
            own[Wanted(cell["judge"], "transfer")] = None
        if cell["selection"] != "final":
            chooses = cell["judge"] if cell["selection"] == "weak_val" else ""
            own[Wanted(cell["student_digest"], cell["selection"], chooses)] = None
    return found


def _data(cell: Mapping[str, Any]) -> Data:
    return Data(cell["data_digest"], int(cell["n_classes"]))
