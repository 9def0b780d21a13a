"""Weights in shares on two real ranks: what each holds, what they make together, and what stays behind (nothing)."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from w2s.errors import StepError
from w2s.learn import models, partition
from w2s.models import ModelSpec
from w2s.sources import FileSource, resolve
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe

SCRIPT = Path(__file__).with_name("partition_ranks.py")
STAGE_3 = {"device": "cpu", "processes": 2, "zero_stage": 3}
COMMON = {"head_init": "normal", "lr": 1e-3, "clip_norm": None}
# Name: (model, fields of ModelSpec, recipe, engine). DeepSpeed keeps weights of less than 100 000 numbers whole once
# they were gathered, so most of the wide model's are let go between layers and the tiny models' are not.
CASES = {
    "full": ("wide", {}, Recipe(**COMMON), STAGE_3),
    "full, bf16, checkpointed": (
        "wide", {}, Recipe(**COMMON), {**STAGE_3, "mixed_precision": "bf16", "gradient_checkpointing": True},
    ),
    "lora, bf16": ("wide", {}, Recipe(**COMMON, tune=Lora(r=2)), {**STAGE_3, "mixed_precision": "bf16"}),
    "frozen, truncated, checkpointed": (
        "llama", {"layers": 2}, Recipe(**COMMON, tune=Frozen(layers=1)), {**STAGE_3, "gradient_checkpointing": True},
    ),
    "unembedding": ("qwen3", {}, Recipe(**COMMON | {"head_init": "unembedding"}), STAGE_3),
    "probe of an encoder": ("bert", {}, Recipe(**COMMON, tune=Probe()), STAGE_3),
    "transposed weights": ("gpt2", {}, Recipe(**COMMON, tune=Lora(r=2)), STAGE_3),
    "host": ("wide", {}, Recipe(**COMMON), {**STAGE_3, "offload": "parameters"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def specs(folder_of, tiny, tmp_path_factory):
    """Name -> (folder, fields) -> ModelSpec; beside the tiny models a wide one, and one of 100 MB."""
    folders = {}
    for name, width, layers in (("wide", 320, 2), ("large", 512, 8)):
        folders[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=47, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=layers,
            num_attention_heads=8, max_position_embeddings=48, pad_token_id=0, initializer_range=0.05,
        )  # fmt: skip
        transformers.LlamaModel(config).save_pretrained(folders[name])
        tiny.save_tokenizer(folders[name])

    def make(name, **fields):
        folder = folders.get(name) or folder_of(name)
        return ModelSpec(name=name, source=resolve(FileSource(file=str(folder)), folder, "model"), **fields)

    return make


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Cases -> what each rank found, by case; all in the same two processes, one after the other."""

    def run(cases):
        file = tmp_path_factory.mktemp("cases") / "cases.json"
        file.write_text(json.dumps(cases))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        # Else the heap keeps the room of whole weights between the shares, and what is measured is the heap.
        environment["MALLOC_MMAP_THRESHOLD_"] = "262144"
        done = subprocess.run(
            [*command, str(SCRIPT), str(file)], capture_output=True, text=True, timeout=600, env=environment
        )
        assert done.returncode == 0, done.stderr[-8000:]
        return list(zip(*(json.loads(Path(f"{file}.rank{rank}").read_text()) for rank in range(2)), strict=True))

    return run


def case_of(spec, recipe, engine, **more):
    return {"model": spec.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json"), "engine": engine, **more}


@pytest.fixture(scope="module")
def found(specs, launch):
    """Case -> what both ranks found."""
    cases = [case_of(specs(name, **fields), recipe, engine) for name, fields, recipe, engine in CASES.values()]
    return dict(zip(CASES, launch(cases), strict=True))


@pytest.mark.recipe
@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_its_share_and_no_more(name, found):
    for result in found[name]:
        assert not result["base has a module"]
        assert result["shares"]
        for held, share, shape in result["shares"].values():
            assert (held, share) == (0, math.ceil(math.prod(shape) / 2))


@pytest.mark.recipe
@pytest.mark.parametrize("name", CASES)
def test_gathered_weights_are_those_of_an_ordinary_model(name, found):
    for result in found[name]:
        assert [weight for weight, same in result["same weights"].items() if not same] == []
        # Every weight of the base model, and of the adapters none, is in shares.
        expected = {weight for weight in result["same weights"] if weight.startswith("base.") and "lora" not in weight}
        assert set(result["shares"]) == expected
        assert result["pooling"] == ["mean" if name == "probe of an encoder" else "last"] * 2


@pytest.mark.recipe
@pytest.mark.parametrize("name", CASES)
def test_a_model_in_shares_learns_what_a_whole_one_learns(name, found):
    for result in found[name]:
        untrained, *later = result["logits"]
        assert untrained < 5e-6
        # In bf16 the sum of the ranks' gradients may round the other way, and AdamW makes whole steps of that.
        assert max(later) < (0.2 * result["moved"] if "bf16" in name else 5e-6)
        assert result["moved"] > 0.01  # negative control: there was something to learn
    first, second = found[name]
    assert second["state"] == {}  # only the first rank keeps what is written
    assert {weight: shape for weight, (shape, _) in first["state"].items()} == first["trained"]
    if "attn" not in str(first["trained"]) and "bf16" not in name:  # a bias of keys gets no gradient but rounding
        assert max(change for _, change in first["state"].values()) < 1e-5


@pytest.mark.recipe
@pytest.mark.parametrize("name", ["full", "full, bf16, checkpointed"])
def test_weights_are_let_go_between_steps(name, found):
    """All but norms and the embedding, which DeepSpeed calls small."""
    for result in found[name]:
        whole = sum(math.prod(shape) for _, _, shape in result["shares"].values())
        assert result["held between steps"] < 0.05 * whole


@pytest.mark.recipe
def test_the_next_model_of_the_process_is_an_ordinary_one(found):
    for results in found.values():
        assert all(result["next model is whole"] and result["linear is torch's"] for result in results)


@pytest.mark.recipe
def test_no_rank_ever_holds_a_whole_model(specs, launch):
    recipe, stage_2 = Recipe(**COMMON, tune=Full()), {**STAGE_3, "zero_stage": 2}
    large = specs("large")
    shared, whole = launch([case_of(large, recipe, engine, measure=True) for engine in (STAGE_3, stage_2)])
    mib = whole[0]["parameters"] * 4 / 2**20
    assert mib > 90
    assert shared[0]["parameters"] == whole[0]["parameters"]
    assert [result["peak_mib"] < 0.7 * mib for result in shared] == [True, True], shared
    assert [result["peak_mib"] > 0.85 * mib for result in whole] == [True, True], whole  # negative control


@pytest.mark.recipe
def test_what_the_model_cannot_do_is_said_by_every_rank(specs, launch):
    refused = Recipe(tune=Lora(targets=("no_such_proj",))), Recipe(tune=Frozen(layers=9)), Recipe(dropout=0.1)
    for results in launch([case_of(specs("llama"), recipe, STAGE_3) for recipe in refused]):
        assert results[0] == results[1]
        assert "model llama: recipe." in results[0]["error"]


# -- in one process ----------------------------------------------------------------------------------------------


def test_without_ranks_it_is_refused(base_of):
    with pytest.raises(StepError, match=r"engine\.zero_stage: 3 needs a launched group of ranks"):
        models.build(base_of("llama"), 2, Recipe(), 0, Engine.model_validate(STAGE_3))


def test_the_base_is_not_loaded(spec_of):
    base = models.load_base(spec_of("llama"), Engine.model_validate(STAGE_3))
    assert base.module is None
    assert base.pooling == "last"


@pytest.mark.parametrize("tune", [Full(), Lora(r=2), Frozen(layers=2), Probe()], ids=lambda tune: tune.kind)
def test_trained_state_of_an_ordinary_model(tune, base_of):
    model = models.build(base_of("llama"), 2, Recipe(tune=tune, head_init="normal"), 0)
    state = partition.trained_state(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert state.keys() == trained.keys()
    for name, value in state.items():
        assert torch.equal(value, trained[name])
        assert not value.requires_grad
        assert value.data_ptr() != trained[name].data_ptr()  # to be written while training may go on
