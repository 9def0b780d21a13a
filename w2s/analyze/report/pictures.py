"""SVGs in, the same in less room out: shapes that several of them draw (letters, mostly) are kept once.

In each SVG the `d` of such a shape is replaced by its number in braces; the page puts the shape back. That can only
concern an attribute's value or a comment, and what is put there is a shape that one of the SVGs had itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

SHAPE = re.compile(r' d="([^"{}<>]{40,})"')  # shorter ones are not worth a number


def shortened(svgs: Mapping[str, bytes]) -> tuple[dict[str, str], list[str]]:
    """The SVGs with numbers for the shapes that two or more of them have, and these shapes in the order of numbers."""
    texts = {name: svg.decode("utf-8") for name, svg in svgs.items()}
    count: Counter[str] = Counter()
    for text in texts.values():
        count.update(dict.fromkeys(SHAPE.findall(text), 1))
    shapes = [shape for shape, pictures in count.items() if pictures > 1]
    place = {shape: number for number, shape in enumerate(shapes)}

    def short(found: re.Match[str]) -> str:
        return f' d="{{{place[found[1]]}}}"' if found[1] in place else found[0]

    return {name: SHAPE.sub(short, text) for name, text in texts.items()}, shapes
