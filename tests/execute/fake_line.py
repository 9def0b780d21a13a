"""`w2s work WAVE --line N`, with the fake steps in the place of real ones."""

from __future__ import annotations

import functools
import sys

from w2s.cli.main import main
from w2s.execute import local

if __name__ == "__main__":
    local.execute = functools.partial(local.execute, body="fake_steps:run_step")  # type: ignore[assignment]
    sys.exit(main(["work", *sys.argv[1:]]))
