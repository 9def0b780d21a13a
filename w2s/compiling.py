"""The compiler that `torch.compile` calls on this machine, and what it lacks; without torch, so both halves can ask."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def compiler(on_cuda: bool) -> str | None:
    """The compiler that `torch.compile` would call, by its path; None where there is none.

    It takes CXX or the system's C++ compiler for a CPU; for CUDA, Triton takes CC, gcc or clang.
    """
    if on_cuda:
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    else:
        names = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    return next((path for path in map(shutil.which, names) if path is not None), None)


def compiler_missing(on_cuda: bool) -> str | None:
    """What `torch.compile` lacks here, and what to do about it; None where nothing is missing."""
    variable = "CC" if on_cuda else "CXX"
    if compiler(on_cuda) is None:
        wrong = f" ({variable} is {os.environ[variable]!r})" if variable in os.environ else ""
        kind = "C compiler" if on_cuda else "C++ compiler"
        return f"no {kind} is on PATH{wrong}; install gcc and g++, or name one in {variable}"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"the headers of Python are not installed (no {headers}); install python3-dev or its like"
    return None
