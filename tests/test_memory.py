"""When memory ran out, and what helps; that torch's own errors are known is tested in learn/test_fitting.py."""

from __future__ import annotations

import errno
import os
import types

import pytest

from w2s.errors import StepError
from w2s.memory import advice, is_out_of_memory, while_predicting
from w2s.spec import Engine

ORDER = [
    "micro_batch_size", "gradient_checkpointing", "mixed_precision: bf16", "zero_stage: 3 over more", "offload",
    "--workers", "predict_batch_size",
]  # fmt: skip


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def caused_by(error: BaseException) -> RuntimeError:
    wrapped = RuntimeError("compiling failed")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (StepError("the loss of step 3 is nan"), False),
        (None, False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
    if error is not None:
        assert is_out_of_memory(caused_by(error)) is expected


def places(text: str, names: list[str]) -> list[int]:
    return [text.index(name) for name in names]


def test_the_order_of_the_advice():
    plain = places(advice(Engine()), ORDER)
    assert plain == sorted(plain)
    predicting = places(advice(Engine(), predicting=True), ["predict_batch_size", *ORDER[:-1]])
    assert predicting == sorted(predicting)


def test_the_advice_names_what_is_not_in_use():
    used = advice(
        Engine(
            micro_batch_size="auto", gradient_checkpointing=True, mixed_precision="bf16", zero_stage=3, processes=2,
            offload="parameters", workers=1, predict_batch_size=1,
        )
    )  # fmt: skip
    assert [name for name in ORDER if name in used] == []
    assert "recipe.tune: lora" in used
    on_cpu = advice(Engine(device="cpu"))
    assert "zero_stage" not in on_cpu
    assert "offload" not in on_cpu
    assert advice(None) == "run fewer --workers"  # a step without a model


def raised_in(module: str, error: Exception) -> Exception:
    """The error as it comes out of a function of a module of that name."""
    code = "def go(error):\n    try:\n        raise error\n    except OverflowError:\n        pass\n"
    place = types.ModuleType(module)
    exec(code, place.__dict__)  # noqa: S102 - code of this file
    try:
        place.go(error)
    except Exception as caught:
        return caught
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("module", "error", "expected"),
    [
        ("w2s.learn.predict", MemoryError(), True),
        ("w2s.learn.trunk", OutOfMemoryError(), True),
        ("w2s.learn.predict", caused_by(MemoryError()), True),
        ("w2s.learn.trainer", MemoryError(), False),
        ("w2s.learn.predict", ValueError("not finite"), False),
    ],
)
def test_whether_it_happened_while_predicting(module, error, expected):
    assert while_predicting(raised_in(module, error)) is expected


def test_the_modules_that_predict_are_there():
    """Else the names that are looked for in a traceback have gone stale."""
    from importlib.util import find_spec

    from w2s.memory import PREDICTS

    assert all(find_spec(name) for name in PREDICTS)
