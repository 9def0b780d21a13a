"""Where the tests of this folder find what they share; their worlds are made in tests/conftest.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for rank_grid
