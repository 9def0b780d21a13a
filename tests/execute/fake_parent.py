"""Carries out a plan of fake steps and ends as the command line does: FOLDER GRAPH WORKERS PROCESSES."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fake_lab import Lab  # type: ignore[import-not-found]

from w2s.errors import W2SError
from w2s.execute.display import choose


def main() -> int:
    graph, workers, processes = dict(json.loads(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])
    lab = Lab(Path(sys.argv[1]))
    try:
        outcome = lab.execute(graph, workers=workers, processes=processes or None, display=choose())
    except W2SError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(
        json.dumps({"done": len(outcome.done), "reused": len(outcome.reused), "failed": list(outcome.failed.values())})
    )
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
