"""Tables, figures and report of sweeps of this folder: `python results/aggregate.py NAME ...`, as `w2s results` does.

Takes the same arguments (`--help` shows them) and works from any folder. In a notebook: `from w2s.analyze import load`.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # a checkout that was not installed will do
    from w2s.cli.main import main

    given = sys.argv[1:]
    elsewhere = any(word == "--results" or word.startswith("--results=") for word in given)
    sys.exit(main(["results", *([] if elsewhere else ["--results", str(HERE)]), *given]))
