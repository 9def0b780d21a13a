from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from w2s.errors import StepError
from w2s.learn import fitting, models
from w2s.learn.batching import Tokens
from w2s.models import ModelSpec
from w2s.sources import FileSource
from w2s.spec import Engine, Frozen, Lora, Recipe, TrainSpec

SHARE = 8
LIMIT_MIB = 80
AGAIN = 75

# One process that trains one step under a limit on its address space, which torch's CPU allocator runs into.
UNDER_A_LIMIT = """
import json, resource, sys
import numpy as np, torch
from torch import nn
from w2s.learn import fitting
from w2s.learn.batching import Tokens
from w2s.spec import Engine

mode, share, limit_mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 128)
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(128, 128), nn.GELU()) for _ in range(12)])
    def forward(self, chunks):
        return torch.cat([self.layers(self.words(ids_BT)).mean(dim=(1, 2)) for ids_BT, mask_BT in chunks])

model = Tower()
tokens = Tokens.of(np.random.default_rng(0).integers(0, 8, (share, 1024)).tolist(), 0)
def train(size):
    model.zero_grad()
    for start in range(0, share, size):
        rows = np.arange(start, min(start + size, share))
        (model([tokens.padded(rows)]).sum() / share).backward()
    return sum(float(p.grad.double().abs().sum()) for p in model.parameters())

said = {}
if mode == "trial":
    said["unlimited"] = train(share)
    model.zero_grad(set_to_none=True)
train(1)  # what is set up once is no part of the need
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + limit_mib * 2**20,) * 2)
key = "k" * 64
if mode == "trial":
    size = fitting.largest_that_fits(model, tokens, share, torch.device("cpu"))
else:
    size = fitting.start_size(share, key)
said["size"] = size
try:
    said["gradient"] = train(size)
except (RuntimeError, MemoryError) as error:
    if not fitting.is_out_of_memory(error):
        raise
    fitting.halve(key, size, share, Engine())
    print(json.dumps(said))
    sys.exit(75)
print(json.dumps(said))
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))


def spec_with(*, model=None, engine=None, **recipe):
    source = FileSource(file="m", sha256="0" * 64)
    return TrainSpec(
        data="d" * 64,
        split="transfer",
        model=ModelSpec(**{"name": "tiny", "source": source, **(model or {})}),
        recipe=Recipe(**recipe),
        engine=Engine(micro_batch_size="auto", **(engine or {})),
    )


def started(mode):
    # Memory that is given back leaves the process at once, so that the limit meets what is in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", UNDER_A_LIMIT, mode, str(SHARE), str(LIMIT_MIB)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, AGAIN), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.recipe
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_out_of_memory_halves_and_goes_on():
    """A real allocation fails in one process after the other, each starting from what the last one remembered."""
    tried = []
    for _ in range(SHARE.bit_length()):
        code, said = started("train")
        tried.append(said["size"])
        if code == 0:
            break
    assert code == 0
    assert len(tried) > 1
    assert tried == [SHARE >> n for n in range(len(tried))]
    code, trial = started("trial")  # finds the same at once, and training then goes through
    assert (code, trial["size"]) == (0, tried[-1])
    # Negative control: before the limit was set, the same process trained on the whole share.
    assert trial["unlimited"] == pytest.approx(said["gradient"], rel=1e-5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (StepError("the loss of step 3 is nan"), False),
        (KeyError("memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert fitting.is_out_of_memory(error) is expected
    wrapped = RuntimeError("compiling failed")
    wrapped.__cause__ = error
    assert fitting.is_out_of_memory(wrapped) is expected


def test_cpu_allocator_says_what_we_listen_for():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert fitting.is_out_of_memory(caught.value)


def test_sizes_are_halved_down_to_one():
    sizes = [fitting.start_size(12, "k")]
    while sizes[-1] > 1:
        sizes.append(fitting.halve("k", sizes[-1], 12, Engine()))
        assert fitting.remembered("k") == sizes[-1]
    assert sizes == [12, 6, 3, 1]
    assert fitting.remembered("other") is None
    with pytest.raises(StepError, match=r"one text at a time.*gradient_checkpointing: true"):
        fitting.halve("k", 1, 12, Engine())


def test_ranks_that_fail_together_halve_once():
    assert [fitting.halve("k", 8, 8, Engine()) for _ in range(2)] == [4, 4]
    assert fitting.start_size(8, "k") == 4


@given(share=st.integers(1, 5000), found=st.integers(1, 5000))
def test_every_size_divides_the_share(share, found):
    size = fitting._divisor(share, found)
    assert share % size == 0
    assert size <= found
    assert not [better for better in range(size + 1, min(share, found) + 1) if share % better == 0]


@pytest.mark.parametrize("text", ["", "{", "[3]", '{"size": 0}', '{"size": "4"}', '{"size": null}'])
def test_a_damaged_memory_is_none(text):
    fitting.remember("k", 4)
    assert fitting.remembered("k") == 4
    (fitting.cache_dir() / "micro_batch" / "k.json").write_text(text)
    assert fitting.remembered("k") is None
    assert fitting.start_size(8, "k") == 8


def test_a_cache_that_cannot_be_written_only_forgets(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    assert fitting.halve("k", 8, 8, Engine()) == 4
    assert fitting.start_size(8, "k") == 8


def test_a_size_is_remembered_for_what_memory_depends_on():
    cpu = torch.device("cpu")
    specs = [
        spec_with(),
        spec_with(model={"layers": 2}),
        spec_with(engine={"processes": 2}),
        spec_with(engine={"zero_stage": 2}),
        spec_with(engine={"zero_stage": 3, "offload": "parameters"}),
        spec_with(engine={"mixed_precision": "bf16"}),
        spec_with(engine={"gradient_checkpointing": True}),
        spec_with(tune=Frozen(layers=1)),
        spec_with(tune=Lora(r=4)),
        spec_with(optimizer="adafactor"),
    ]
    keys = {fitting.key_of(spec, 100, 8, cpu) for spec in specs}
    keys |= {fitting.key_of(specs[0], 101, 8, cpu), fitting.key_of(specs[0], 100, 16, cpu)}
    assert len(keys) == len(specs) + 2
    same = [spec_with(lr=1e-3), spec_with(engine={"workers": 2, "trackers": ()})]
    assert {fitting.key_of(spec, 100, 8, cpu) for spec in (*same, spec_with(model={"name": "other"}))} < keys


@pytest.mark.parametrize("training", [True, False])
def test_a_trial_leaves_no_trace(training, base_of, texts):
    recipe = Recipe(dropout=0.3)
    base = base_of("gpt2")
    model, tokens = models.build(base, 2, recipe, 0).train(training), models.tokenise(base, texts)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    assert fitting.largest_that_fits(model, tokens, 12, torch.device("cpu")) == 12
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training is training
    model.train()([tokens.padded(np.arange(3))])
    assert not torch.equal(torch.random.get_rng_state(), before)  # negative control: dropout draws


class Hungry(torch.nn.Module):
    """Runs out of memory, as torch would say it, above a number of texts; and remembers what it was given."""

    def __init__(self, room):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.room, self.seen = room, []

    def forward(self, chunks):
        ids_BT = chunks[0][0]
        self.seen.append(tuple(ids_BT.shape))
        if len(ids_BT) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ids_BT.float() @ torch.ones(ids_BT.shape[1]) * self.weight


def test_a_trial_takes_the_longest_texts_and_both_gradients():
    tokens, cpu = Tokens.of([[1] * n for n in (3, 9, 4, 8, 5, 7)], 0), torch.device("cpu")
    model = Hungry(room=3)
    assert fitting.largest_that_fits(model, tokens, 6, cpu) == 3
    assert model.seen == [(6, 9), (3, 9), (3, 9)]  # below the whole share gradients add up, so twice
    with pytest.raises(StepError, match="one example of 9 tokens"):
        fitting.largest_that_fits(Hungry(room=0), tokens, 6, cpu)


def test_a_trial_hides_no_other_error():
    class Broken(torch.nn.Module):
        def forward(self, chunks):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        fitting.largest_that_fits(Broken(), Tokens.of([[1]], 0), 1, torch.device("cpu"))


def test_what_a_trial_must_leave_free(base_of):
    base, cpu = base_of("llama"), torch.device("cpu")
    full, lora = (models.build(base, 2, Recipe(tune=t), 0) for t in (Recipe().tune, Lora(r=2)))
    numbers = sum(parameter.numel() for parameter in full.parameters())
    adam, factored = Recipe(), Recipe(optimizer="adafactor")
    assert fitting.reserved_bytes(full, adam, Engine(), cpu) == 8 * numbers
    assert fitting.reserved_bytes(full, factored, Engine(), cpu) == numbers
    trained = sum(parameter.numel() for parameter in lora.parameters() if parameter.requires_grad)
    assert fitting.reserved_bytes(lora, adam, Engine(), cpu) == 8 * trained < 8 * numbers
    two = Engine(processes=2)
    assert fitting.reserved_bytes(full, adam, two, cpu) == 12 * numbers  # the buckets of DDP
    assert fitting.reserved_bytes(full, adam, Engine(processes=2, zero_stage=2), cpu) == 10 * numbers
    assert not fitting.can_be_tried(Engine(), cpu)


@pytest.mark.gpu
def test_a_trial_on_a_device(base_of, texts):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    base, device = base_of("llama"), torch.device("cuda", 0)
    tokens = models.tokenise(base, texts * 2000)
    model = models.build(base, 2, Recipe(), 0)
    share = 32768
    assert fitting.can_be_tried(Engine(), device)
    whole = fitting.largest_that_fits(model, tokens, share, device)
    torch.cuda.reset_peak_memory_stats()
    fitting._fits(model, tokens, np.arange(share), device, 0, 1)
    peak = torch.cuda.max_memory_allocated()
    assert whole == share
    total = fitting.memory_of(device)[1]
    reserve = total - peak // 2  # too little is left for the whole share
    found = fitting.largest_that_fits(model, tokens, share, device, reserve)
    assert 1 < found < share
    assert share % found == 0
    assert torch.cuda.memory_allocated() < peak // 8  # nothing is held afterwards
