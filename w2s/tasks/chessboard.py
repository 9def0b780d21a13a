"""Chess positions (FEN) and moves (UCI) in; positions after a move, how they look, and whether moves are legal out.

Needs the library chess, which is imported where it is used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from w2s.errors import MachineError

if TYPE_CHECKING:
    import chess


def after(position: str, move: str) -> str:
    """The position after a move. Raises ValueError where one of them is illegal."""
    board = _board(position).copy()
    if not is_legal(position, move):
        raise ValueError(f"{move} is no legal move in {position}")
    board.push_uci(move)
    return board.fen()


def is_legal(position: str, move: str) -> bool:
    """Whether a text is a legal move, in UCI, of the side to move. Raises ValueError for an illegal position."""
    board = _board(position)
    try:
        return board.parse_uci(move).uci() == move
    except ValueError:  # no move at all, or none that is legal here
        return False


def described(position: str) -> dict[str, str]:
    """board (a line for each rank), white and black (pieces with their squares), side (to move)."""
    import chess

    board = _board(position)

    def pieces(color: bool) -> str:
        found = [
            (-kind, square) for kind in chess.PIECE_TYPES for square in board.pieces(kind, color)
        ]  # the king first
        return " ".join(
            f"{chess.piece_symbol(-kind).upper()}{chess.square_name(square)}" for kind, square in sorted(found)
        )

    return {
        "board": str(board),
        "white": pieces(chess.WHITE),
        "black": pieces(chess.BLACK),
        "side": "White" if board.turn else "Black",
    }


@functools.lru_cache(maxsize=8)  # the same one is asked for several times in a row
def _board(position: str) -> chess.Board:
    try:
        import chess
    except ImportError:
        raise MachineError(
            "chess tasks need the library chess: pip install 'w2s[chess]', or pip install chess"
        ) from None
    board = chess.Board(position)
    if not board.is_valid():
        raise ValueError(f"{position} is no legal position")
    return board
