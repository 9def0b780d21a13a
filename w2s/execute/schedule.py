"""Steps and events in, who works on what out: pure, no clock, no files, no processes. Refuses an unordered graph.

A step is in one state: waiting (for parents), ready, running (a worker of ours has it), away (another process has it),
done, failed, or blocked (an ancestor failed).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

from w2s.spec import AnyStep, FeaturesSpec, LanguageSpec, TrainSpec

State = Literal["waiting", "ready", "running", "away", "done", "failed", "blocked"]
NEAR = 0.8  # steps whose remaining path is so close to the longest are equally urgent, and warmth decides


class Node(Protocol):
    """What the schedule reads of a step of the plan."""

    @property
    def digest(self) -> str: ...
    @property
    def parents(self) -> tuple[str, ...]: ...


class Idle(NamedTuple):
    """A place where a step can run now: a waiting worker, or a slot in which one can be started."""

    slot: int
    warm: frozenset[str] = frozenset()  # what it has in memory, see `warmth`
    live: bool = False  # the process is there and has its libraries loaded


def warmth(spec: AnyStep) -> frozenset[str]:
    """What a worker has in memory after this step, so that a step which needs the same is cheaper there."""
    if isinstance(spec, (FeaturesSpec, LanguageSpec, TrainSpec)):
        begun = "" if isinstance(spec, LanguageSpec) else "".join(f" from {start.step}" for start in spec.start)
        return frozenset({f"model {spec.model.digest()}{begun}", f"data {spec.data}"})
    return frozenset()


class Schedule:
    """The graph of steps with their states. `costs`: expected seconds of a step, where something is known."""

    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        done: Collection[str] = (),
        costs: Mapping[str, float] | None = None,
        warmth: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._parents = {node.digest: tuple(dict.fromkeys(node.parents)) for node in nodes}
        self._order = {digest: place for place, digest in enumerate(self._parents)}
        self._warmth = warmth or {}
        self._children: dict[str, list[str]] = {digest: [] for digest in self._parents}
        for digest, parents in self._parents.items():
            for parent in parents:
                if self._order.get(parent, len(self._order)) >= self._order[digest]:
                    raise ValueError(f"step {digest}: parent {parent} does not stand before it in the plan")
                self._children[parent].append(digest)
        self._path = self._longest_paths(costs or {})
        self._stopped = False
        self.state: dict[str, State] = dict.fromkeys(self._parents, "waiting")
        self.culprit: dict[str, str] = {}  # blocked step -> the failed ancestor
        self.state.update(dict.fromkeys((d for d in self._parents if d in done), "done"))
        for digest in self._parents:
            self._wake(digest)

    def assign(self, idle: Iterable[Idle]) -> list[tuple[int, str]]:
        """(slot, digest) of the steps to start now; they count as running from here on.

        The longest remaining path goes first; among nearly equal ones, the pair of worker and step that shares most
        of what is in memory, then a living worker before a new one.
        """
        free = list(idle)
        ready = [] if self._stopped else self.upcoming()
        given: list[tuple[int, str]] = []
        while free and ready:
            urgent = [digest for digest in ready if self._path[digest] >= NEAR * self._path[ready[0]]]
            place, digest = max(((p, d) for p in free for d in urgent), key=lambda pair: self._fit(*pair))
            free.remove(place)
            ready.remove(digest)
            self.state[digest] = "running"
            given.append((place.slot, digest))
        return given

    def done(self, digest: str) -> None:
        """A step in hand or away is finished; its children may become ready."""
        self._move(digest, "done", ("running", "away"))
        for child in self._children[digest]:
            self._wake(child)

    def fail(self, digest: str) -> list[str]:
        """A step in hand or away failed; everything that needs it is blocked. Returns the newly blocked steps."""
        self._move(digest, "failed", ("running", "away"))
        blocked: list[str] = []
        reached = list(self._children[digest])
        while reached:
            child = reached.pop(0)
            if self.state[child] in ("waiting", "ready"):
                self.state[child], self.culprit[child] = "blocked", digest
                blocked.append(child)
                reached += self._children[child]
        return blocked

    def away(self, digest: str) -> None:
        """Another process turned out to work on this step."""
        self._move(digest, "away", ("running",))

    def requeue(self, digest: str) -> None:
        """A step in hand or away was given up without a result: it is ready again."""
        self._move(digest, "ready", ("running", "away"))

    def stop(self) -> None:
        """Hand out nothing more; what is in hand may end."""
        self._stopped = True

    @property
    def over(self) -> bool:
        """True where nothing is in hand and nothing can be handed out."""
        pending = ("running", "away") if self._stopped else ("running", "away", "ready")
        return not any(state in pending for state in self.state.values())

    def upcoming(self) -> list[str]:
        """The ready steps, most urgent first."""
        return sorted(self.of("ready"), key=lambda digest: (-self._path[digest], self._order[digest]))

    def of(self, *states: State) -> list[str]:
        """The steps in these states, in the order of the plan."""
        return [digest for digest, state in self.state.items() if state in states]

    def _fit(self, place: Idle, digest: str) -> tuple[float, ...]:
        shared = len(place.warm & self._warmth.get(digest, frozenset()))
        return (shared, place.live, self._path[digest], -self._order[digest], -place.slot)

    def _wake(self, digest: str) -> None:
        ready = all(self.state[parent] == "done" for parent in self._parents[digest])
        if ready and self.state[digest] == "waiting":
            self.state[digest] = "ready"

    def _move(self, digest: str, to: State, allowed: tuple[State, ...]) -> None:
        if self.state[digest] not in allowed:
            raise ValueError(f"step {digest} is {self.state[digest]}, it cannot become {to}")
        self.state[digest] = to

    def _longest_paths(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Seconds (or steps) from the start of each step to the end of the longest chain that needs it."""
        usual = sum(costs.values()) / len(costs) if costs else 1.0
        path: dict[str, float] = {}
        for digest in reversed(self._parents):
            after = max((path[child] for child in self._children[digest]), default=0.0)
            path[digest] = costs.get(digest, usual) + after
        return path
