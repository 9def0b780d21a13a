"""Plain data in, text that may stand inside a `<script>` element out: escaped JSON, or gzip in base64 for the large.

Neither kind can end its element, whatever texts from users hold. The same data give the same text. Refuses
(ValueError) numbers that JSON has no word for: what is absent is None.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any, Final

# In JSON each of these can only stand inside a string, where an escape means the same.
_ESCAPES: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def script_json(data: Any) -> str:
    """JSON that is safe inside `<script type="application/json">`."""
    return _json(data).translate(_ESCAPES)


def packed(data: Any) -> str:
    """JSON as gzip in base64, for `<script type="text/plain">`; the page inflates it when it needs it."""
    return packed_bytes(_json(data).encode())


def packed_bytes(content: bytes) -> str:
    """Any bytes as gzip in base64. No time is written, so the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, compresslevel=9, mtime=0)).decode("ascii")


def number(value: float | None, digits: int = 6) -> float | int | None:
    """A number of so many significant digits; None for what is absent or infinite."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
