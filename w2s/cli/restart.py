"""A plan that is about to be carried out or submitted: what is kept of it, and steps that are to begin anew.

Leaves alone what another run works on.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from w2s import plan as plans
from w2s import pluginfiles, plugins
from w2s.cli import describe
from w2s.plan import Plan, is_done
from w2s.store import Store


def begin(plan: Plan, store: Store, results: Path, anew: bool) -> None:
    """Write the plan, its plugins and the command that was given; `anew`: drop checkpoints first, and say so.

    Raises MachineError before that where the store cannot be written.
    """
    store.require_writable()
    if anew:
        print(drop_checkpoints(plan, store), file=sys.stderr)
    pluginfiles.keep(plan.plugins, results / plugins.COPIES)
    plans.write(plan, results / "sweeps" / plan.name)
    describe.remember_command(results, plan.name, shlex.join(["w2s", *sys.argv[1:]]))


def drop_checkpoints(plan: Plan, store: Store) -> str:
    """Let every unfinished step begin anew that nobody works on; a line that says what was dropped."""
    dropped, busy = [], 0
    for node in plan.nodes.values():
        if is_done(node, store) or not store.checkpoints(node.digest).is_dir():
            continue
        claim = store.claim(node.digest)  # held meanwhile: another run may be about to go on from them
        if claim is None:
            busy += 1
            continue
        try:
            dropped.append(store.drop_checkpoints(node.digest))
        finally:
            claim.release()
    held = f"; {busy} left alone, which another run works on" if busy else ""
    return f"restart: {_count(sum(dropped), 'checkpoint')} of {_count(len(dropped), 'unfinished step')} dropped{held}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
