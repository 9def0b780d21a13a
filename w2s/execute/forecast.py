"""Expected and measured seconds of steps in, time left out. Pure; the clock is the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LATE = 0.1  # a step that has outlasted what was expected is taken to need a tenth of its time again


class Forecast:
    """Learns from finished steps. `kinds`: step -> kind; `seconds`: what is expected of a step, where something is."""

    def __init__(self, kinds: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        self._kinds, self._seconds = kinds, seconds
        self._walls: dict[str, list[float]] = {}  # kind -> seconds of finished steps
        self._ratios: dict[str, list[float]] = {}  # kind -> measured over expected seconds

    def finished(self, digest: str, wall_s: float) -> None:
        """A step was carried out in so many seconds."""
        kind, expected_s = self._kinds[digest], self._seconds.get(digest, 0.0)
        self._walls.setdefault(kind, []).append(wall_s)
        if expected_s > 0:
            self._ratios.setdefault(kind, []).append(wall_s / expected_s)

    def expected_s(self, digest: str) -> float | None:
        """Seconds of a step: what was expected, corrected by how wrong that was so far; else the mean of its kind."""
        kind = self._kinds[digest]
        if digest in self._seconds:
            ratios = self._ratios.get(kind, [1.0])
            return self._seconds[digest] * sum(ratios) / len(ratios)
        walls = self._walls.get(kind)
        return sum(walls) / len(walls) if walls else None

    def left_s(self, to_start: Iterable[str], elapsed_s: Mapping[str, float], workers: int) -> float | None:
        """Seconds until all is done; None while some step's length is anybody's guess.

        `elapsed_s`: running step -> seconds so far. The work is spread evenly over the workers, which is what a full
        queue comes to; never less than the longest running step still needs.
        """
        running: list[float] = []
        for digest, so_far_s in elapsed_s.items():
            expected_s = self.expected_s(digest)
            if expected_s is None:
                return None
            # One that is late was expected wrongly: nobody knows by how much, but it is not about to end at any moment.
            running.append(max(expected_s - so_far_s, LATE * so_far_s))
        waiting = [self.expected_s(digest) for digest in to_start]
        known = [seconds for seconds in waiting if seconds is not None]
        if len(known) < len(waiting):
            return None
        return max([(sum(running) + sum(known)) / max(1, workers), *running])
