"""The commands that carry out sweeps, or show what they would do: docstrings are the help, signatures the arguments.

Thin: each imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.cli.arguments import RESULTS
from w2s.cli.terminal import say

if TYPE_CHECKING:
    from w2s.sweep import Sweep


def run(
    *,
    task: str,
    weak: str,
    strong: str,
    method: str = "logconf",
    seed: int = 0,
    weak_train: int = 500,
    transfer: int = 500,
    val: int = 100,
    test: int = 500,
    set_: Sequence[str] = (),
    workers: int | None = None,
    devices_per_step: int | None = None,
    processes: int | None = None,
    zero_stage: int | None = None,
    offload: str | None = None,
    mixed_precision: str | None = None,
    micro_batch_size: str | None = None,
    gradient_checkpointing: bool = False,
    attention: str | None = None,
    compile_: bool = False,
    checkpoint_every: str | None = None,
    eval_every: int | None = None,
    restart_step: bool = False,
    keep_weights: bool = False,
    name: str | None = None,
    dry_run: bool = False,
    results: Path = RESULTS,
) -> int:
    """Run one experiment: a weak supervisor, a strong student and its ceiling on one task.

    It is a sweep of one experiment, so its steps are shared with every other sweep in the same results folder.

    Arguments:
      --task NAME          a task of `w2s tasks`, or any name with --set 'tasks.NAME={file: ..., text: ..., label: ...}'
      --weak, --strong     a model of `w2s models`, a hub id, a folder or a GGUF file; NAME@K keeps the lowest K layers
      --method NAME        the student's loss at its defaults: xent, logconf, product, kl, entropy, window, adaptconf,
                           gce (logconf); its numbers by --set methods.NAME.loss.FIELD=VALUE
      --seed N             of the model's head and the order of the batches (0)
      --weak-train N, --transfer N, --val N, --test N    examples per split (500, 500, 100, 500)
      --set PATH=VALUE     change a field of the sweep, such as recipe.lr=1e-5; may be repeated
      --workers N          steps at a time (one per device; on a CPU as many as memory and cores allow)
      --devices-per-step N    CUDA devices that one step occupies, one process on each (1)
      --processes N        processes of one step on a CPU (1)
      --zero-stage N       DeepSpeed ZeRO: 0, 1 (cuts the optimizer's state into a piece per process), 2 (gradients
                           too), 3 (weights too) (no DeepSpeed)
      --offload WHAT       to the host's memory: none, optimizer (ZeRO 1 to 3), parameters (ZeRO 3) (none)
      --mixed-precision P  of matrix products: no, bf16, fp16; changes numbers, so such steps have other digests (no)
      --micro-batch-size N    examples at a time in each process; auto: as many as fit (its share of the batch)
      --gradient-checkpointing    less memory for about a third more computation
      --attention KIND     sdpa, or flash_attention_2 with bf16 or fp16 on CUDA (sdpa)
      --compile            compile the model by torch.compile: slow to start, then faster
      --checkpoint-every T    '10 min', '200 steps' or never (10 min)
      --eval-every N       evaluate every N optimizer steps, which --set selections=[final,weak_val] needs
      --restart-step       drop the checkpoints of unfinished steps, which then begin anew
      --keep-weights       keep what was trained, for `w2s label`
      --name NAME          the folder under results/sweeps (made of the other arguments)
      --dry-run            show the plan and stop
      --results DIR        where artifacts and tables go (results)

    Examples:
      w2s run --task movie --weak minilm@2 --strong minilm@6 --set recipe.lr=3e-4
      w2s run --task sarcasm --weak ./small --strong ./large --method xent --seed 1 --keep-weights
      w2s run --task movie --weak minilm@2 --strong smollm2 --processes 2 --zero-stage 3 --micro-batch-size 8
    """
    given = locals()
    from w2s.cli import shorthand
    from w2s.sweep import sweep_of

    found = sweep_of(shorthand.one_cell(given), Path.cwd(), "run", shorthand.changes(given))
    return _carry_out(found, results, dry_run, restart_step)


def sweep(
    yaml: Path,
    *,
    set_: Sequence[str] = (),
    workers: int | None = None,
    launcher: str = "local",
    steps_per_task: int | None = None,
    max_parallel: int | None = None,
    restart_step: bool = False,
    keep_weights: bool = False,
    dry_run: bool = False,
    results: Path = RESULTS,
) -> int:
    """Carry out a sweep: plan it, run the steps that are not there yet, write and print its tables.

    Finished steps are kept whatever happens; the same command goes on where it stopped. A step that fails blocks
    only what needs it, and the exit code is 1.

    Arguments:
      YAML                 the sweep's file
      --set PATH=VALUE     change a field before anything else, such as recipe.lr=1e-5 or seeds=[0,1]; may be repeated
      --workers N          steps at a time (one per device; on a CPU as many as memory and cores allow)
      --launcher WHERE     local: on this machine; slurm: as job arrays, see slurm/README.md (local)
      --steps-per-task N   steps that one task of an array carries out, one after the other (1)
      --max-parallel N     tasks of arrays at a time (as many as SLURM allows)
      --restart-step       drop the checkpoints of unfinished steps, which then begin anew
      --keep-weights       keep what was trained, for `w2s label`
      --dry-run            show the plan, or every call of sbatch, and stop
      --results DIR        where artifacts and tables go (results)

    Examples:
      w2s sweep sweeps/quickstart.yaml
      w2s sweep sweeps/quickstart.yaml --dry-run --set seeds=[0] --set recipe.epochs=1
      w2s sweep sweeps/paper_nlp.yaml --set engine.devices_per_step=2 --set engine.zero_stage=2 --restart-step
      w2s sweep sweeps/paper_nlp.yaml --launcher slurm --steps-per-task 4 --max-parallel 50 --dry-run
    """
    given = locals()
    from w2s.cli import cluster
    from w2s.cli.shorthand import changes
    from w2s.sweep import read_sweep

    if cluster.is_slurm(launcher, workers, steps_per_task, max_parallel):
        return cluster.launch(yaml, set_, read_sweep(yaml, changes(given)), results, dry_run, restart_step)
    return _carry_out(read_sweep(yaml, changes(given)), results, dry_run, restart_step)


def plan(yaml: Path, *, set_: Sequence[str] = (), results: Path = RESULTS) -> int:
    """Show what a sweep would do: its steps by kind and state, what is shared, and an estimate of what is left.

    Nothing is run, fetched or written. Times come from steps that this results folder already has.

    Arguments:
      YAML                 the sweep's file
      --set PATH=VALUE     change a field before anything else; may be repeated
      --results DIR        where artifacts are looked for (results)

    Examples:
      w2s plan sweeps/quickstart.yaml
      w2s plan sweeps/paper_nlp.yaml --set seeds=[0]
    """
    from w2s.sweep import read_sweep

    return _show_plan(read_sweep(yaml, set_), results)


def _show_plan(found: Sweep, results: Path) -> int:
    from w2s import plan as plans
    from w2s.cli import describe
    from w2s.store import Store

    say(describe.plan(plans.of_sweep(found), Store(results / "store")))
    return 0


def _carry_out(found: Sweep, results: Path, dry_run: bool, restart_step: bool) -> int:
    """Plan, execute, tables; 1 where a step failed."""
    if dry_run:
        return _show_plan(found, results)
    from w2s import estimate
    from w2s import plan as plans
    from w2s.cli import describe, requirements, restart
    from w2s.cli.report import report
    from w2s.execute import display, local
    from w2s.store import Store

    planned, store = plans.of_sweep(found), Store(results / "store")
    say(describe.notes(planned), sys.stderr)
    if not all(plans.is_done(node, store) for node in planned.nodes.values()):
        requirements.require(found.file.engine)
    restart.begin(planned, store, results, restart_step)
    expected = {d: c.seconds for d, c in estimate.costs(planned, store).items() if c.seconds is not None}
    outcome = local.execute(planned, store, engine=found.file.engine, display=display.choose(), seconds=expected)
    code = report(planned.name, results)
    if outcome.ok:
        return code
    say(describe.failures(planned, outcome.failed, outcome.blocked, results), sys.stderr)
    return 1
