"""The commands as functions: their docstrings are the help, their signatures the arguments, their result the exit code.

Thin: each imports what it needs when it runs, so that `w2s --help` loads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.cli.cluster import cancel, logs, work

if TYPE_CHECKING:
    from w2s.cli.arguments import Command
    from w2s.plan import Plan
    from w2s.store import Store
    from w2s.sweep import Sweep

RESULTS = Path("results")
LOG_LINES = 40


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
    """Run one cell: a weak supervisor, a strong student and its ceiling on one task.

    It is a sweep of one cell, so its steps are shared with every other sweep in the same results folder.

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
    from w2s import sweep as sweeps
    from w2s.cli.shorthand import changes, model_of, name_of

    models = {name_of(model): model_of(model) for model in (weak, strong)}
    data: dict[str, Any] = {
        "name": name or f"run-{task}-{name_of(weak)}-{name_of(strong)}-{method}-seed{seed}",
        "tasks": [task],
        "sizes": {"weak_train": weak_train, "transfer": transfer, "val": val, "test": test},
        "models": models,
        "pairs": [[name_of(weak), name_of(strong)]],
        "methods": [method],
        "seeds": [seed],
    }
    found = sweeps.sweep_of(data, Path.cwd(), "run", changes(given))
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


def status(name: str | None = None, *, results: Path = RESULTS) -> int:
    """Show how far each sweep is: cells and steps done, running, waiting, and why steps failed.

    Arguments:
      NAME                 one sweep (all)
      --results DIR        the results folder (results)

    Examples:
      w2s status
      w2s status quickstart
    """
    from w2s.cli import describe

    _print(describe.status(results, name))
    return 0


def results(
    name: Sequence[str] = (),
    *,
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
    watch: bool = False,
    every: float | None = None,
    results: Path = RESULTS,
) -> int:
    """Make the tables, figures and report of sweeps again from what is in the store, and print the tables.

    Several sweeps are put together, in results/sweeps/A+B: seeds of runs that were asked the same are pooled, and what
    was asked otherwise stays apart. docs/results.md says what each number means. The exit code is 1 where an artifact
    is damaged; it is named and left out.

    Arguments:
      NAME                 a sweep's name, its YAML file or its folder; may be repeated (the sweep that was run last)
      --baseline METHOD    what methods are compared with (the sweep's first method)
      --metric NAME        accuracy or auroc (accuracy)
      --size WHAT          of models, in figures: params or flops, of training and predicting (params)
      --watch              again whenever a step is done or has failed, until nothing is to come
      --every S            seconds between two looks, for --watch (10)
      --results DIR        the results folder (results)

    Examples:
      w2s results
      w2s results quickstart --metric auroc
      w2s results quickstart my_sweep --baseline xent --size flops
      w2s results my_sweep --watch --every 60
    """
    from w2s.cli import results as asked

    return asked.results(name, results, baseline, metric, size, watch, every)


def compare(
    first: str, second: str, *, exact: bool = False, other_results: Path | None = None, results: Path = RESULTS
) -> int:
    """Show what changed between two sweeps: cells, what runs were asked, numbers, and where they ran.

    Rows of the same task, models, method, selection and seed are compared; a difference is held against the noise of
    the test examples where both were measured on the same ones. The exit code is 1 where an artifact is damaged; it is
    named and left out.

    Arguments:
      FIRST                a sweep's name, its YAML file or its folder
      SECOND               another one
      --exact              exit code 1 where any number of a row differs, or a row is in one of them only
      --results DIR        the results folder (results)
      --other-results DIR  the results folder of SECOND (the same)

    Examples:
      w2s compare quickstart my_sweep
      w2s compare quickstart quickstart --other-results old/results --exact
    """
    from w2s.cli import results as asked

    return asked.compare(first, second, results, other_results, exact)


def prefetch(yaml: Path, *, set_: Sequence[str] = ()) -> int:
    """Fetch the data and models that a sweep needs, so that it can run without a network.

    Arguments:
      YAML                 the sweep's file
      --set PATH=VALUE     change a field before anything else; may be repeated

    Examples:
      w2s prefetch sweeps/quickstart.yaml
      W2S_CACHE=/data/w2s w2s prefetch sweeps/paper_nlp.yaml
    """
    from w2s.cli import catalogue
    from w2s.sweep import read_sweep

    failed = catalogue.prefetch(read_sweep(yaml, set_), print)
    for line in failed:
        print(f"w2s: {line}", file=sys.stderr)
    return 1 if failed else 0


def tasks() -> int:
    """List the built-in tasks: classes, where the data comes from, whether it is on this machine.

    Examples:
      w2s tasks
    """
    from w2s.cli import catalogue, terminal

    _print(catalogue.tasks(terminal.width()))
    return 0


def models() -> int:
    """List the built-in models: size, layers, where the weights come from, whether they are on this machine.

    Examples:
      w2s models
    """
    from w2s.cli import catalogue, terminal

    _print(catalogue.models(terminal.width()))
    return 0


def show(digest: str, *, results: Path = RESULTS) -> int:
    """Show one step: what it was asked, what came out, and for a failed one the reason and the end of its log.

    Arguments:
      DIGEST               the step's digest, or its first digits (4 or more)
      --results DIR        the results folder (results)

    Examples:
      w2s show 3fa9c1d2
    """
    from w2s.cli import describe

    _print(describe.step(results, digest, LOG_LINES))
    return 0


def label(digest: str, file: Path, *, text: str = "text", out: Path | None = None, results: Path = RESULTS) -> int:
    """Let a trained step label a file of texts; prints one JSON line per text, with the probability of each class.

    The step's weights must have been kept: `w2s sweep YAML --keep-weights` trains again only steps without weights.

    Arguments:
      DIGEST               a train step's digest, or its first digits (4 or more)
      FILE                 .txt with one text per line, .jsonl or .csv
      --text COLUMN        the field or column that holds the text, in .jsonl and .csv (text)
      --out FILE           write here instead of printing: .jsonl or .csv
      --results DIR        the results folder (results)

    Examples:
      w2s label 3fa9c1d2 reviews.txt
      w2s label 3fa9c1d2 reviews.csv --text body --out labelled.csv
    """
    from w2s.cli import describe, labelling

    store = _store(results)
    kind, whole = store.find(digest)
    texts = labelling.read_texts(file, text)
    labelling.require_room(out)
    commands = [describe.command_of(results, sweep) for sweep, _ in describe.uses(results, whole)]
    labelling.require_weights(store, kind, whole, [command for command in commands if command])
    from w2s.inference import label as labelled

    classes, p_NC = labelled(store, whole, texts)
    labelling.write(out, texts, classes, p_NC)
    if out is not None:
        print(f"{len(texts)} texts labelled: {out}")
    return 0


def verify(digest: str | None = None, *, results: Path = RESULTS) -> int:
    """Check that every file of every artifact is as it was written, and that equal sources were equal commits.

    The exit code is 1 where anything is wrong.

    Arguments:
      DIGEST               one step (all)
      --results DIR        the results folder (results)

    Examples:
      w2s verify
      w2s verify 3fa9c1d2
    """
    from w2s.cli.audit import audit

    count, problems = audit(_store(results), digest)
    _print([*problems, f"artifacts checked: {count}, problems: {len(problems)}"])
    return 1 if problems else 0


def doctor(*, results: Path = RESULTS) -> int:
    """Show versions, devices, cache and disk, with a loud warning where a GPU is there that torch cannot use.

    Arguments:
      --results DIR        the results folder to look at (results)

    Examples:
      w2s doctor
    """
    from w2s.cli import doctor as examination

    problems = 0
    for line in examination.lines(results):
        print(line, flush=True)
        problems += line.startswith(examination.LOUD)
    return 1 if problems else 0


COMMANDS: dict[str, Command] = {
    command.__name__: command
    for command in (
        *(run, sweep, plan, status, results, compare, prefetch, tasks, models, show, label, verify, doctor),
        *(work, cancel, logs),
    )
}


def _store(results: Path) -> Store:
    from w2s.store import Store

    return Store(results / "store")


def _planned(found: Sweep) -> Plan:
    from w2s import plan as plans
    from w2s.experiments import expand

    return plans.build(found, expand(found))


def _show_plan(found: Sweep, results: Path) -> int:
    from w2s.cli import describe

    _print(describe.plan(_planned(found), _store(results)))
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

    planned, store = _planned(found), _store(results)
    if not all(plans.is_done(node, store) for node in planned.nodes.values()):
        requirements.require(found.file.engine)
    restart.begin(planned, store, results, restart_step)
    expected = {d: c.seconds for d, c in estimate.costs(planned, store).items() if c.seconds is not None}
    outcome = local.execute(planned, store, engine=found.file.engine, display=display.choose(), seconds=expected)
    code = report(planned.name, results)
    if outcome.ok:
        return code
    _print(describe.failures(planned, outcome.failed, outcome.blocked, results), sys.stderr)
    return 1


def _print(lines: Sequence[str], to: Any = None) -> None:
    for line in lines:
        print(line, file=to)
