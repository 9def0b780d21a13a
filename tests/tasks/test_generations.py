"""Prompts and targets of records: what fits, what is left out and named, which splits are how hard; chess by hand."""

from __future__ import annotations

import json
import sys

import pytest

from w2s.errors import MachineError, SpecError
from w2s.spec import Sizes
from w2s.tasks import chessboard
from w2s.tasks.generations import answer
from w2s.tasks.registry import builtin, task_of
from w2s.tasks.splits import materialize

SIZES = Sizes(weak_train=2, transfer=2, val=1, test=2)

# White gives mate on the back rank: before it, Black moved h7h6, which the file has as the first move.
BEFORE = "6k1/5ppp/8/8/8/8/5PPP/R5K1 b - - 0 1"
AFTER = "6k1/5pp1/7p/8/8/8/5PPP/R5K1 w - - 0 2"


def task_in(folder, lines, **more):
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return task_of({"file": "t.jsonl", "prompt": "q", "target": "a", **more}, folder, "task")


def puzzle(name, fen=BEFORE, moves=("h7h6", "a1a8"), rating=900):
    return {"id": name, "fen": fen, "moves": list(moves), "rating": rating}


def test_a_puzzle_is_the_position_after_the_opponents_move_and_its_answer_the_second(tmp_path):
    # The rook stands elsewhere in each, so that no two positions are the same.
    lines = [puzzle(name, BEFORE.replace("R5K1", row), ("h7h6", f"{name}1{name}8")) for name, row in
             [("a", "R5K1"), ("b", "1R4K1"), ("c", "2R3K1"), ("d", "3R2K1"), ("e", "4R1K1")]]  # fmt: skip
    lines += [puzzle("x", moves=("h7h4", "a1a8")), puzzle("y", moves=("h7h6", "a1b8")), puzzle("z", fen="8/8 w")]
    lines += [puzzle("w", moves=("h7h6", "rook takes"))]
    task = task_in(tmp_path, lines, prepare="lichess", prompt="{side}: {white} / {black}", target="answer",
                   position="position")  # fmt: skip
    made = materialize(task, Sizes(weak_train=1, transfer=1, val=1, test=2), 0)
    rows = {row["target"]: row for table in made.tables.values() for row in table.to_pylist()}
    assert sorted(rows) == ["a1a8", "b1b8", "c1c8", "d1d8", "e1e8"]
    assert rows["a1a8"]["text"] == "White: Kg1 Ra1 Pf2 Pg2 Ph2 / Kg8 Ph6 Pf7 Pg7"
    assert rows["a1a8"]["position"] == AFTER
    assert rows["a1a8"]["answer"] == "a1a8"
    assert "label" not in rows["a1a8"]
    pool = made.summary["pool"]
    assert (pool["records"], pool["dropped"]) == (9, {"illegal move or position": 4})
    named = pool["dropped_first"]["illegal move or position"]
    assert named[0] == f"row 6: puzzle x: h7h4 is no legal move in {BEFORE}"
    assert named[1] == f"row 7: puzzle y: a1b8 is no legal move in {AFTER}"
    assert [line.split(":")[1] for line in named] == [" puzzle x", " puzzle y", " puzzle z", " puzzle w"]


def test_moves_are_legal_where_the_rules_say_so():
    assert chessboard.after(BEFORE, "h7h6") == AFTER
    for move, legal in {"a1a8": True, "a1b8": False, "A1A8": False, "a1a8q": False, "": False, "Ra8": False}.items():
        assert chessboard.is_legal(AFTER, move) is legal, move
    assert chessboard.is_legal("8/P6k/8/8/8/8/8/K7 w - - 0 1", "a7a8q")
    assert not chessboard.is_legal("8/P6k/8/8/8/8/8/K7 w - - 0 1", "a7a8")  # a pawn becomes something
    with pytest.raises(ValueError, match="no legal position"):
        chessboard.is_legal("8/8/8/8/8/8/8/8 w - - 0 1", "a1a8")
    assert chessboard.described(AFTER)["board"].splitlines()[:3] == [
        ". . . . . . k .",
        ". . . . . p p .",
        ". . . . . . . p",
    ]


@pytest.mark.parametrize(
    ("position", "move", "castling", "en_passant"),
    [
        ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 4 20", "e1g1", "KQkq", "-"),
        ("r3k2r/8/8/8/8/8/8/R3K2R w Qkq - 4 20", "e1c1", "Qkq", "-"),
        ("r3k2r/8/8/8/8/8/8/R3K2R w - - 4 20", "e1d1", "-", "-"),
        ("4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 9", "e5d6", "-", "d6"),
        ("4k3/8/8/3pP3/8/8/8/4K3 w - - 1 9", "e5e6", "-", "-"),
        ("4k3/8/8/3p4/8/8/8/4K3 w - d6 0 9", "e1e2", "-", "-"),  # there is no pawn that could take in passing
        ("4k3/1P6/8/8/8/8/8/4K3 w - - 0 9", "b7b8q", "-", "-"),
    ],
)
def test_what_a_prompt_says_of_a_position_decides_which_moves_are_legal(position, move, castling, en_passant):
    """Read back from the words of the built-in prompt, the position has the same legal moves as before."""
    import chess

    told = chessboard.described(position)
    assert (told["castling"], told["en_passant"]) == (castling, en_passant)
    board = chess.Board(None)
    for color, words in ((chess.WHITE, told["white_squares"]), (chess.BLACK, told["black_squares"])):
        for word in words.split():
            if word.isupper():
                kind = chess.PIECE_SYMBOLS.index(word.lower())
            else:
                board.set_piece_at(chess.parse_square(word), chess.Piece(kind, color))
    board.turn = told["side"] == "White"
    board.set_castling_fen(told["castling"])
    board.ep_square = None if told["en_passant"] == "-" else chess.parse_square(told["en_passant"])
    assert {one.uci() for one in board.legal_moves} == {one.uci() for one in chess.Board(position).legal_moves}
    assert chess.Move.from_uci(move) in board.legal_moves
    prompt = builtin()["chess"].format.prompt
    assert all(f"{{{name}}}" in prompt for name in ("white_squares", "black_squares", "side", "castling", "en_passant"))


def test_targets_of_any_task_may_be_moves_and_are_checked(tmp_path):
    lines = [{"q": f"{n}", "a": "a1a8", "fen": AFTER} for n in range(7)] + [{"q": "bad", "a": "a1h8", "fen": AFTER}]
    made = materialize(task_in(tmp_path, lines, position="fen"), SIZES, 0)
    assert made.summary["pool"]["dropped_first"] == {"illegal move or position": [f"row 8: 'a1h8' in {AFTER}"]}


def test_without_the_library_chess_a_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "chess", None)
    chessboard._board.cache_clear()
    with pytest.raises(MachineError, match=r"pip install 'w2s\[chess\]'"):
        chessboard.is_legal(AFTER, "a1a8")


def test_splits_take_what_is_as_hard_as_their_band(tmp_path):
    lines = [{"q": f"q{n}", "a": f"a{n}", "rating": n} for n in range(40)]
    bands = {"weak_train": [None, 12], "test": [30, None], "val": [12, 30]}
    task = task_in(tmp_path, lines, difficulty="rating", bands=bands)
    made = materialize(task, Sizes(weak_train=10, transfer=10, val=5, test=8), 3)
    hard = {name: [int(one[1:]) for one in table["target"].to_pylist()] for name, table in made.tables.items()}
    assert [len(hard[name]) for name in ("weak_train", "transfer", "val", "test")] == [10, 10, 5, 8]
    assert max(hard["weak_train"]) <= 12
    assert min(hard["test"]) >= 30
    assert min(hard["val"]) >= 12
    assert max(hard["val"]) <= 30
    assert min(hard["transfer"]) < 12 or max(hard["transfer"]) > 30  # from all that is left
    with pytest.raises(SpecError, match=r"only weak_train 13 could be filled"):
        materialize(task, Sizes(weak_train=20, transfer=5, val=2, test=5), 3)


def test_what_counts_of_an_answer_stands_after_the_mark(tmp_path):
    assert answer(" 3 + 4 = 7 #### 7 ", "####") == "7"
    assert answer("#### 1 or #### 2", "####") == "2"
    assert answer("I do not know", "####") == "I do not know"  # not empty: two of these do not agree
    assert answer(" 7 #### 8", None) == "7 #### 8"
    lines = [{"q": f"q{n}", "a": f"steps #### {n}"} for n in range(7)]
    table = materialize(task_in(tmp_path, lines, answer_after="####"), SIZES, 0).tables["test"]
    assert [row["target"] for row in table.to_pylist()] == [f"steps #### {row['answer']}" for row in table.to_pylist()]
    with pytest.raises(SpecError, match=r"row 8: the target has no '####'"):
        materialize(task_in(tmp_path, [*lines, {"q": "q", "a": "7"}], answer_after="####"), SIZES, 0)


def test_one_prompt_with_two_targets_is_dropped_and_repeats_are(tmp_path):
    lines = [{"q": f"q{n}", "a": "same"} for n in range(8)]
    lines += [{"q": "q0", "a": "same"}, {"q": "twice", "a": "1"}, {"q": "twice", "a": "2"}]
    pool = materialize(task_in(tmp_path, lines), SIZES, 0).summary["pool"]
    assert pool["dropped"] == {"same text and label": 1, "same text, different labels": 2}
    assert (pool["examples"], pool["classes"]) == (8, {})


def test_all_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, numbers in (("b", range(4, 8)), ("a", range(4))):
        rows = [{"q": f"q{n}", "a": f"{n}"} for n in numbers]
        (folder / f"{name}.json").write_text(json.dumps({"version": 1, "rows": rows}))
    (folder / "notes.txt").write_text("none of it")
    task = task_of({"file": "parts", "prompt": "q", "target": "a", "read": {"format": "json"}}, tmp_path, "task")
    made = materialize(task, SIZES, 0)
    assert made.summary["pool"]["records"] == 8
    with pytest.raises(SpecError, match=r"parts: holds no csv file"):
        materialize(task.model_copy(update={"read": task.read.model_copy(update={"format": "csv"})}), SIZES, 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": ["a", "b"]}, "texts that are generated have no classes"),
        ({"balance": True}, "texts that are generated have no classes"),
        ({"kind": "classify"}, "kind: generate and a format of kind generate"),
        ({"difficulty": "rating"}, "give both `difficulty`"),
        ({"difficulty": "rating", "bands": {"test": [3, 1]}}, "bands.test: 3 is above 1"),
        ({"targt": "a"}, r"targt: unknown field \(did you mean target\?\)"),
    ],
)
def test_what_is_wrong_with_a_task_is_told_before_the_data_is_read(tmp_path, more, message):
    with pytest.raises(SpecError, match=message):
        task_in(tmp_path, [], **more)


def test_the_built_in_tasks_generate():
    tasks = builtin()
    assert {name for name, task in tasks.items() if task.kind == "generate"} == {"chess", "gsm8k"}
    assert tasks["chess"].n_classes == 0
    assert tasks["chess"].n_outputs == 1
    assert not tasks["chess"].is_balanced
    assert tasks["gsm8k"].format.answer_after == "####"
