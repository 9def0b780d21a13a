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
    """How a position looks, by what it is called in templates.

    board: a line for each rank. white, black: pieces with their squares, `Kg1 Pf2 Pg2`. white_squares, black_squares:
    the same as `K g1 P f2 g2`, where every square is the word that a move from it begins with, so that a tokenizer
    which joins letters cannot make one token of a piece and half of its square. side: to move, White or Black.
    castling: as in FEN, `KQkq` or `-`. en_passant: the square on which a pawn may be taken in passing, or `-`. White
    or black, side, castling and en_passant say everything that decides which moves are legal.
    """
    import chess

    board = _board(position)
    _, _, castling, en_passant, *_ = board.fen().split()

    def pieces(color: bool) -> str:
        found = [
            (-kind, square) for kind in chess.PIECE_TYPES for square in board.pieces(kind, color)
        ]  # the king first
        return " ".join(
            f"{chess.piece_symbol(-kind).upper()}{chess.square_name(square)}" for kind, square in sorted(found)
        )

    def squares(color: bool) -> str:
        kinds = [(kind, sorted(board.pieces(kind, color))) for kind in reversed(chess.PIECE_TYPES)]
        return " ".join(
            " ".join([chess.piece_symbol(kind).upper(), *map(chess.square_name, found)])
            for kind, found in kinds
            if found
        )

    return {
        "board": str(board),
        "white": pieces(chess.WHITE),
        "black": pieces(chess.BLACK),
        "white_squares": squares(chess.WHITE),
        "black_squares": squares(chess.BLACK),
        "side": "White" if board.turn else "Black",
        "castling": castling,
        "en_passant": en_passant,
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
