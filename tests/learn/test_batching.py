"""Batches: every row once, an order that hangs on seed and epoch alone, little padding; padding itself."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, by_length, cut, epoch_batches, length_chunks

quick = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300).map(np.array)


def padding(lengths_N, batches) -> int:
    return sum(int(lengths_N[b].max()) * len(b) - int(lengths_N[b].sum()) for b in batches)


def cost(lengths_N, batches, overhead):
    return padding(lengths_N, batches) + int(lengths_N.sum()) + overhead * len(batches)


def as_lists(batches):
    return [b.tolist() for b in batches]


@quick
@hypothesis.given(n=st.integers(1, 300), size=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_row_once_and_all_batches_full_but_the_last(n, size, seed, epoch):
    batches = epoch_batches(n, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert [len(b) for b in batches] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert as_lists(epoch_batches(n, size, seed, epoch)) == as_lists(batches)


def test_order_depends_on_seed_and_epoch():
    orders = {(s, e): str(as_lists(epoch_batches(200, 8, s, e))) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9  # (seed 0, epoch 1) and (seed 1, epoch 0) too


def test_order_ignores_the_global_stream():
    np.random.seed(1)
    first = as_lists(epoch_batches(100, 8, 0, 0))
    np.random.seed(2)
    assert as_lists(epoch_batches(100, 8, 0, 0)) == first


def test_batches_hold_the_classes_as_a_random_draw_does_where_length_tells_the_label():
    """A confidence loss that holds each batch to the prior is wrong on batches of one class."""
    y_N = np.repeat([0, 1], 1000)
    lengths_N = np.where(y_N == 1, 40, 10) + np.random.default_rng(0).integers(0, 5, 2000)
    shares = [y_N[b].mean() for b in epoch_batches(2000, 32, 0, 0)]
    expected = np.sqrt(0.25 / 32)  # of a binomial share, nearly that of a draw without replacement
    assert 0.8 * expected < np.std(shares) < 1.2 * expected
    sorted_batches = [np.argsort(lengths_N)[i : i + 32] for i in range(0, 2000, 32)]
    assert np.std([y_N[b].mean() for b in sorted_batches]) > 4 * expected  # negative control: buckets by length


@quick
@hypothesis.given(lengths_B=lengths, overhead=st.integers(0, 300))
def test_length_chunks_hold_every_row_once_shortest_first(lengths_B, overhead):
    chunks = length_chunks(lengths_B, overhead)
    flat = np.concatenate(chunks)
    assert sorted(flat.tolist()) == list(range(len(lengths_B)))
    assert len(chunks) == 1 or (np.diff(lengths_B[flat]) >= 0).all()
    assert as_lists(length_chunks(lengths_B, overhead)) == as_lists(chunks)


def cheapest(lengths, overhead, rows):
    """The least padded tokens + overhead x parts over all ways to cut the sorted texts, found by trying them all."""
    n = len(lengths)
    costs = []
    for cuts in itertools.product([False, True], repeat=n - 1):
        bounds = [0, *(i for i, cut_here in enumerate(cuts, 1) if cut_here), n]
        parts = [sorted(lengths)[a:b] for a, b in itertools.pairwise(bounds)]
        if all(len(part) <= rows for part in parts):
            costs.append(sum(len(part) * part[-1] + overhead for part in parts))
    return min(costs)


@quick
@hypothesis.given(lengths_B=st.lists(st.integers(1, 40), min_size=1, max_size=9).map(np.array), o=st.integers(0, 60))
def test_no_other_chunks_cost_less(lengths_B, o):
    assert cost(lengths_B, length_chunks(lengths_B, o), o) == cheapest(lengths_B.tolist(), o, len(lengths_B))


def test_length_chunks_by_hand():
    lengths_B = np.array([9, 2, 10, 2])
    assert as_lists(length_chunks(lengths_B, 0)) == [[1, 3], [0], [2]]
    assert as_lists(length_chunks(lengths_B, 2)) == [[1, 3], [0, 2]]
    assert as_lists(length_chunks(lengths_B, 15)) == [[1, 3], [0, 2]]  # 16 tokens of padding for one chunk less
    assert as_lists(length_chunks(lengths_B, 17)) == [[0, 1, 2, 3]]  # one chunk: the order stays
    assert as_lists(length_chunks(np.array([5]), 20)) == [[0]]


# Token counts of the quickstart's 500 transfer texts for SmolLM2: how many have 0, 1, 2, ... 48 tokens.
MOVIE = [
    0, 0, 0, 0, 1, 7, 8, 9, 10, 11, 9, 14, 9, 16, 17, 11, 18, 18, 17, 17, 19, 19, 16, 20, 11,
    17, 15, 13, 20, 10, 10, 16, 16, 7, 7, 8, 9, 8, 2, 13, 8, 7, 11, 6, 1, 3, 4, 2, 10,
]  # fmt: skip
LONG_TAILED = np.minimum(np.random.default_rng(0).lognormal(4.0, 1.0, 2000).astype(int) + 1, 512)


@pytest.mark.parametrize("lengths_N", [np.repeat(np.arange(len(MOVIE)), MOVIE), LONG_TAILED], ids=["movie", "long"])
def test_less_than_a_tenth_of_the_tokens_of_random_batches_is_padding(lengths_N):
    batches = [b for epoch in range(4) for b in epoch_batches(len(lengths_N), 32, 0, epoch)]

    def waste(chunks_of) -> float:
        padded = sum(padding(lengths_N[b], chunks_of(lengths_N[b])) for b in batches)
        return padded / (padded + sum(int(lengths_N[b].sum()) for b in batches))

    def eights(lengths_B):
        return np.split(np.argsort(lengths_B), range(8, len(lengths_B), 8))

    assert waste(lambda lengths_B: length_chunks(lengths_B, OVERHEAD_TOKENS["cpu"])) < 0.10
    assert waste(eights) > 0.14  # negative control: as many rows in each chunk
    assert waste(lambda lengths_B: [np.arange(len(lengths_B))]) > 0.4


@quick
@hypothesis.given(lengths_G=lengths, ranks=st.integers(1, 5), micro=st.one_of(st.none(), st.integers(1, 60)))
def test_a_batch_is_cut_so_that_each_text_has_one_place_and_ranks_have_equal_turns(lengths_G, ranks, micro):
    parts = cut(lengths_G, ranks, micro)
    assert len(parts) == ranks
    assert len({len(own) for own in parts}) == 1
    flat = np.concatenate([part for own in parts for part in own])
    assert sorted(flat.tolist()) == list(range(len(lengths_G)))
    assert all(len(part) <= (micro or len(lengths_G)) for own in parts for part in own)
    sizes = [sum(map(len, own)) for own in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(part) for part in parts[0])  # who runs short are the last ranks, and only at the end
    work = [int(lengths_G[np.concatenate(own)].sum()) for own in parts]
    assert max(work) - min(work) <= lengths_G.max()


def test_one_process_with_the_whole_batch_keeps_its_order():
    lengths_G = np.array([3, 9, 1, 7])
    assert [[part.tolist() for part in own] for own in cut(lengths_G, 1, None)] == [[[0, 1, 2, 3]]]
    assert [[part.tolist() for part in own] for own in cut(lengths_G, 2, 1)] == [[[1], [0]], [[3], [2]]]
    assert [[part.tolist() for part in own] for own in cut(lengths_G[:3], 2, 1)] == [[[1], [2]], [[0], []]]


@quick
@hypothesis.given(lengths_N=lengths, size=st.integers(1, 40), overhead=st.integers(0, 300))
def test_prediction_takes_the_largest_batch_first(lengths_N, size, overhead):
    batches = by_length(lengths_N, size, overhead)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths_N)))
    tokens = [len(b) * int(lengths_N[b].max()) for b in batches]
    assert tokens == sorted(tokens, reverse=True)
    assert max(map(len, batches)) <= size
    assert as_lists(by_length(lengths_N, size, overhead)) == as_lists(batches)


def test_prediction_by_hand():
    lengths_N = np.array([3, 3, 3, 7, 8])
    assert as_lists(by_length(lengths_N, 2, 0)) == [[4], [3], [0, 1], [2]]
    assert as_lists(by_length(lengths_N, 2, 3)) == [[3, 4], [0, 1], [2]]
    assert as_lists(by_length(lengths_N, 3, 3)) == [[3, 4], [0, 1, 2]]
    assert as_lists(by_length(lengths_N, 5, 99)) == [[0, 1, 2, 3, 4]]


@quick
@hypothesis.given(
    lengths_N=st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True).map(np.array),
    size=st.integers(1, 9),
    o=st.integers(0, 60),
)
def test_no_other_batches_for_prediction_cost_less(lengths_N, size, o):
    assert cost(lengths_N, by_length(lengths_N, size, o), o) == cheapest(lengths_N.tolist(), o, size)


@quick
@hypothesis.given(
    rows=st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=12), min_size=1, max_size=12), data=st.data()
)
def test_padded_gives_back_each_text_and_pads_on_the_right(rows, data):
    tokens = Tokens.of(rows, pad_id=3)
    assert len(tokens) == len(rows)
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    ids_BT, mask_BT = tokens.padded(np.array(chosen))
    width = max(len(rows[i]) for i in chosen)
    assert ids_BT.tolist() == [rows[i] + [3] * (width - len(rows[i])) for i in chosen]
    assert mask_BT.tolist() == [[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in chosen]


def test_padded_brings_the_hidden_states_of_its_own_tokens():
    rows = [[5, 6, 7], [8], [9, 10]]
    hidden_SD = np.arange(12, dtype=np.float32).reshape(6, 2) + 1
    tokens = Tokens(np.array([5, 6, 7, 8, 9, 10]), np.array([0, 3, 4, 6]), 0, 0, hidden_SD)
    ids_BT, _, hidden_BTD = tokens.padded(np.array([2, 1]))
    assert ids_BT.tolist() == [rows[2], [8, 0]]
    assert hidden_BTD.tolist() == [[[9.0, 10.0], [11.0, 12.0]], [[7.0, 8.0], [0.0, 0.0]]]


@pytest.mark.parametrize("per_example", [1, 2])
def test_some_examples_are_those_of_the_whole_with_their_hidden_states(per_example):
    """Texts of lengths 1 to 8; hidden states tell their token."""
    ids = [list(range(10 * i, 10 * i + i + 1)) for i in range(8)]
    whole = Tokens.of(ids, 0, 3, per_example)
    whole = dataclasses.replace(whole, hidden_SD=np.stack([whole.ids_S, -whole.ids_S], axis=1).astype(np.float32))
    some = whole.some(np.array([3, 0, 2]))
    again = some.some(np.array([2, 0]))
    for found, chosen in ((some, [3, 0, 2]), (again, [2, 3])):
        texts = [ids[example * per_example + k] for example in chosen for k in range(per_example)]
        assert found.lengths.tolist() == [len(text) for text in texts]
        assert (found.examples, found.truncated) == (len(chosen), 3)
        ids_BT, mask_BT, hidden_BTD = found.padded(np.arange(len(texts)))
        for row, text in enumerate(texts):
            assert ids_BT[row, : len(text)].tolist() == text
            assert hidden_BTD[row, : len(text)].tolist() == [[i, -i] for i in text]
            assert mask_BT[row].sum() == len(text)
            assert not hidden_BTD[row, len(text) :].any()
    assert whole.some(np.arange(whole.examples)) is whole
