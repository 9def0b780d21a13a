"""What steps ask of SLURM: every field, what is wrong with it, who overrides whom, and how processes lie in a job."""

from __future__ import annotations

from typing import Any

import pytest

from w2s.errors import SpecError
from w2s.experiments import expand
from w2s.identity import validated
from w2s.resources import (
    OURS,
    Processes,
    Resources,
    Slurm,
    count_of,
    of_model,
    of_small_jobs,
    on,
    processes,
    seconds_of,
)  # fmt: skip
from w2s.spec import Engine
from w2s.sweep import on_slurm, read_sweep, sweep_of

TIME = "write minutes (90), hours '2:00:00' or days '1-12:00:00'"
GPUS = "write a number above 0, or a type and a number such as a100:4"
MEM = "write 32G, 500M or a number of MiB"
SWEEP: dict[str, Any] = {
    "name": "s",
    "tasks": ["movie"],
    "sizes": {"weak_train": 8, "transfer": 8, "val": 4, "test": 8},
    "models": {"a": {"use": "minilm", "layers": 1}, "b": {"use": "minilm", "layers": 2}},
    "methods": ["xent"],
}


def slurm(**fields):
    return validated(Slurm, fields, "slurm")


def problems(make, *given):
    with pytest.raises(SpecError) as caught:
        make(*given)
    return caught.value.problems


# -- fields -----------------------------------------------------------------------------------------------------------

FIELDS = {  # field -> value, as an option of sbatch
    "partition": ("gpu,long", "--partition=gpu,long"),
    "account": ("my project", "--account=my project"),
    "constraint": ("a100|h100", "--constraint=a100|h100"),
    "qos": ("high", "--qos=high"),
    "time": ("1-12:00:00", "--time=1-12:00:00"),
    "nodes": (2, "--nodes=2"),
    "gpus": ("a100:4", "--gpus=a100:4"),
    "gpus_per_node": (8, "--gpus-per-node=8"),
    "cpus": (12, "--cpus-per-task=12"),
    "mem": ("32G", "--mem=32G"),
    "options": (["--mail-type=END", "--exclude=n1,n2"], "--mail-type=END"),
}


def test_what_is_not_given_is_not_asked_for_but_where_processes_lie_always_is():
    assert Resources().sbatch(Processes()) == ("--nodes=1", "--ntasks=1", "--ntasks-per-node=1")
    assert Resources().sbatch(Processes(2, 8)) == ("--nodes=2", "--ntasks=16", "--ntasks-per-node=8")


@pytest.mark.parametrize("name", Resources.model_fields)
def test_every_field_is_an_option_of_sbatch(name):
    value, option = FIELDS[name]
    asked = of_model(slurm(**{name: value}), {}, "models.a.slurm")
    assert option in asked.sbatch(Processes(nodes=asked.nodes or 1))
    assert option not in of_model(slurm(), {}, "models.a.slurm").sbatch(Processes())


def test_options_stand_last_and_all_in_one_order():
    given = {name: value for name, (value, _) in FIELDS.items() if name != "gpus"}
    assert of_model(slurm(**given), {}, "").sbatch(Processes(2, 8)) == (
        "--partition=gpu,long", "--account=my project", "--constraint=a100|h100", "--qos=high", "--time=1-12:00:00",
        "--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=12", "--mem=32G",
        "--mail-type=END", "--exclude=n1,n2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"partition": ""}, "slurm.partition: string should have at least 1 character (got '')"),
        ({"account": 3}, "slurm.account: expected text (got 3)"),
        ({"constraint": ["a"]}, "slurm.constraint: expected text (got ['a'])"),
        ({"qos": ""}, "slurm.qos: string should have at least 1 character (got '')"),
        ({"time": "2h"}, f"slurm.time: {TIME} (got '2h')"),
        ({"time": 1.5}, "slurm.time: expected a whole number or text (got 1.5)"),
        ({"nodes": 0}, "slurm.nodes: expected 1 or more (got 0)"),
        ({"nodes": "2"}, "slurm.nodes: expected a whole number (got '2')"),
        ({"gpus": 0}, f"slurm.gpus: {GPUS} (got 0)"),
        ({"gpus": "a100"}, f"slurm.gpus: {GPUS} (got 'a100')"),
        ({"gpus_per_node": "a100:0"}, f"slurm.gpus_per_node: {GPUS} (got 'a100:0')"),
        ({"gpus_per_node": "80:2"}, f"slurm.gpus_per_node: {GPUS} (got '80:2')"),
        ({"gpus": 2, "gpus_per_node": 2}, "slurm: gpus and gpus_per_node are both given; keep one"),
        ({"gpus": "v:3", "nodes": 2}, "slurm: v:3 gpus cannot be spread evenly over 2 nodes; give gpus_per_node"),
        ({"cpus": 0}, "slurm.cpus: expected 1 or more (got 0)"),
        ({"mem": "32 GB"}, f"slurm.mem: {MEM} (got '32 GB')"),
        ({"mem": "1.5G"}, f"slurm.mem: {MEM} (got '1.5G')"),
        ({"mem": "\u0663"}, f"slurm.mem: {MEM} (got '\u0663')"),
        ({"options": "--x"}, "slurm.options: expected a list (got '--x')"),
        ({"options": ["-p gpu"]},
         "slurm.options: '-p gpu' is no option of sbatch; write each as '--name=value' (got ['-p gpu'])"),
        ({"options": ["--array=1-3"]}, "slurm.options: --array is set by w2s; take it out (got ['--array=1-3'])"),
        ({"options": ["--mem=3"]}, "slurm.options: --mem is set by w2s; write slurm.mem (got ['--mem=3'])"),
        ({"steps_per_task": 0}, "slurm.steps_per_task: expected 1 or more (got 0)"),
        ({"max_parallel": 0}, "slurm.max_parallel: expected 1 or more (got 0)"),
        ({"notice_s": 0}, "slurm.notice_s: expected 1 or more (got 0)"),
        ({"notice_s": 65_536}, "slurm.notice_s: expected 65535 or less (got 65536)"),
        ({"script": 3}, "slurm.script: expected text (got 3)"),
        ({"time": 2}, "slurm.time: 2 is over before the notice of notice_s: 120 seconds could be given; raise time, "
                      "or lower notice_s"),
        ({"gpu": 1}, "slurm.gpu: unknown field (did you mean gpus?)"),
        ({"small_jobs": {"time": "x"}}, f"slurm.small_jobs.time: {TIME} (got 'x')"),
        ({"small_jobs": {"max_parallel": 2}},
         "slurm.small_jobs.max_parallel: unknown field (known: account, constraint, cpus, gpus, gpus_per_node, mem, "
         "nodes, options, partition, qos, time)"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence(fields, problem):
    assert problems(lambda: slurm(**fields)) == [problem]


@pytest.mark.parametrize("name", OURS)
def test_options_that_w2s_sets_or_that_hide_the_job_are_refused(name):
    for option in (f"--{name}", f"--{name}=1"):
        (problem,) = problems(lambda option=option: slurm(options=[option]))
        assert problem.startswith(f"slurm.options: --{name} is set by w2s; ")
    assert slurm(options=[f"--{name}x"]).options == (f"--{name}x",)  # control: only that very name


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("90:30", 5430),
        ("2:00:00", 7200),
        ("0:00:30", 30),
        ("1-12", 36 * 3600),
        ("1-12:30", 36.5 * 3600),
        ("1-12:30:15", 36.5 * 3600 + 15),
        ("0-1", 3600),
        ("10-0", 10 * 86400),
        ("unlimited", float("inf")),
        ("INFINITE", float("inf")),
    ],
)
def test_time_is_read_as_slurm_reads_it(time, seconds):
    assert seconds_of(time) == seconds
    asked = slurm(time=time, notice_s=1)
    assert f"--time={time}" in of_model(asked, {}, "").sbatch(Processes())


@pytest.mark.parametrize("time", [0, "0", "0:00", "0-0", -1, "", "1:2:3:4", "1-", "-1", "1-2-3", "2:000", "1 2", "2h",
                                  "\u0663", "1:00\n"])  # fmt: skip
def test_what_slurm_does_not_read_as_a_time_is_refused(time):
    assert problems(lambda: slurm(time=time)) == [f"slurm.time: {TIME} (got {time!r})"]


def test_times_of_yaml_stay_text(tmp_path):
    """In YAML 1.1 2:00:00 is the number 7200, which sbatch would take for five days."""
    file = tmp_path / "s.yaml"
    text = "tasks: [movie]\nsizes: {weak_train: 8, transfer: 8, test: 8}\nmodels: [minilm@1, minilm]\nmethods: [xent]\n"
    file.write_text(f"{text}slurm: {{time: 2:00:00, mem: 32G}}\n")
    assert read_sweep(file).file.slurm.time == "2:00:00"
    assert read_sweep(file, ["slurm.time=1-12:00:00"]).file.slurm.time == "1-12:00:00"
    assert read_sweep(file, ["slurm.time=90"]).file.slurm.time == 90


def test_gpus_are_counted_by_node():
    assert [count_of(gpus) for gpus in (4, "4", "a100:4", "nvidia_h100.80gb-x:16")] == [4, 4, 4, 16]
    assert slurm().gpus_on_a_node == 0
    assert slurm(gpus=4).gpus_on_a_node == 4
    assert slurm(gpus="a:4", nodes=2).gpus_on_a_node == 2
    assert slurm(gpus_per_node="a:4", nodes=2).gpus_on_a_node == 4


# -- who overrides whom -----------------------------------------------------------------------------------------------


def test_a_model_overrides_field_by_field_and_null_takes_back():
    base = slurm(partition="gpu", time=90, mem="32G", gpus=1, options=["--mail-type=END"])
    assert of_model(base, {}, "") == Resources(
        partition="gpu", time=90, mem="32G", gpus=1, options=("--mail-type=END",)
    )
    own = of_model(base, {"time": "8:00:00", "mem": None, "options": ["--nice=5"]}, "models.a.slurm")
    assert own == Resources(partition="gpu", time="8:00:00", gpus=1, options=("--nice=5",))


def test_gpus_of_a_job_over_several_nodes_are_asked_for_by_node():
    words = slurm(gpus="a100:16", nodes=2).sbatch(Processes(nodes=2, per_node=8))
    assert words == ("--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--gpus-per-node=a100:8")
    assert "--gpus=8" in slurm(gpus=8).sbatch(Processes())


def test_one_kind_of_gpus_replaces_the_other():
    assert of_model(slurm(gpus=1), {"gpus_per_node": 8}, "") == Resources(gpus_per_node=8)
    assert of_model(slurm(gpus_per_node=8), {"gpus": "a100:1"}, "") == Resources(gpus="a100:1")
    assert of_model(slurm(gpus_per_node=8), {"gpus": None}, "") == Resources()


def test_what_does_not_fit_together_is_told_at_the_model():
    where = "models.big.slurm"
    assert problems(of_model, slurm(gpus=4), {"nodes": 3}, where) == [
        "models.big.slurm: 4 gpus cannot be spread evenly over 3 nodes; give gpus_per_node"
    ]
    assert problems(of_model, slurm(), {"time": 2}, where) == [
        "models.big.slurm.time: 2 is no longer than slurm.notice_s (120 s); raise it"
    ]
    assert problems(of_model, slurm(), {"steps_per_task": 4}, where)[0].startswith(
        "models.big.slurm.steps_per_task: unknown field"
    )
    assert problems(of_model, slurm(), 5, where) == ["models.big.slurm: expected a mapping (got 5)"]
    assert of_model(slurm(notice_s=60), {"time": 2}, where).time == 2  # control


def test_small_jobs_ask_for_no_gpu_and_one_node_unless_told():
    base = {"partition": "gpu", "nodes": 2, "gpus_per_node": 8, "time": 90, "mem": "400G"}
    assert of_small_jobs(slurm(**base)) == Resources(partition="gpu", time=90, mem="400G")
    own = {"partition": "cpu", "mem": "4G", "gpus": 1}
    assert of_small_jobs(slurm(**base, small_jobs=own)) == Resources(partition="cpu", time=90, mem="4G", gpus=1)
    assert problems(of_small_jobs, slurm(small_jobs={"time": "1:30"})) == [
        "slurm.small_jobs.time: 1:30 is no longer than slurm.notice_s (120 s); raise it"
    ]


# -- how processes lie ------------------------------------------------------------------------------------------------

CPU, CUDA = {"device": "cpu"}, {"device": "cuda"}


@pytest.mark.parametrize(
    ("engine", "asked", "lie"),
    [
        ({}, {}, (1, 1)),
        ({"zero_stage": 2}, {}, (1, 1)),
        ({"processes": 4}, {}, (1, 4)),
        ({**CPU, "processes": 4}, {"gpus": 2}, (1, 4)),  # GPUs that the engine leaves alone
        ({}, {"gpus": 1}, (1, 1)),
        ({}, {"gpus_per_node": 8}, (1, 1)),  # w2s shares them out itself
        ({"devices_per_step": 2}, {"gpus_per_node": 8}, (1, 1)),
        ({"devices_per_step": 4}, {"gpus": "a100:4"}, (1, 4)),
        ({"devices_per_step": 4, "processes": 4, **CUDA}, {"gpus_per_node": 4, "nodes": 1}, (1, 4)),
        ({"processes": 4}, {"nodes": 2}, (2, 2)),
        ({"processes": 2}, {"nodes": 2}, (2, 1)),
        ({**CPU, "processes": 4}, {"nodes": 2, "gpus_per_node": 8}, (2, 2)),
        ({}, {"nodes": 2, "gpus_per_node": 8}, (2, 8)),
        ({}, {"nodes": 2, "gpus": 8}, (2, 4)),
        ({"devices_per_step": 16}, {"nodes": 2, "gpus_per_node": 8}, (2, 8)),
        ({"devices_per_step": 16, "processes": 16}, {"nodes": 2, "gpus_per_node": 8}, (2, 8)),
    ],
)
def test_how_the_processes_of_a_step_lie_in_its_job(engine, asked, lie):
    assert processes(Engine(**engine), Resources(**asked)) == Processes(*lie)


@pytest.mark.parametrize(
    ("engine", "asked", "problem"),
    [
        ({"devices_per_step": 2}, {}, "engine.devices_per_step: a step asks for 2 GPUs, but slurm asks SLURM for none; "
                                      "set slurm.gpus_per_node=2"),
        ({"devices_per_step": 4}, {"gpus": 2}, "engine.devices_per_step: a step asks for 4 GPUs, but slurm asks SLURM "
                                               "for 2; set slurm.gpus_per_node=4"),
        ({"devices_per_step": 2, **CPU}, {"gpus": 2}, "engine.devices_per_step: a step asks for 2 GPUs, but slurm asks "
                                                      "SLURM for none; set slurm.gpus_per_node=2"),
        ({"devices_per_step": 5}, {"nodes": 2}, "engine.devices_per_step: a step asks for 5 GPUs, but slurm asks SLURM "
                                                "for none; set slurm.gpus_per_node=3"),
        ({"processes": 4}, {"gpus": 1}, "engine.processes: 4 were asked for on 1 GPU; each process has a GPU of its "
                                        "own: set engine.devices_per_step=4, or engine.device=cpu"),
        ({"devices_per_step": 2, "processes": 1}, {"gpus": 8},
         "engine.processes: 1 were asked for on 2 GPUs; each process has a GPU of its own: set "
         "engine.devices_per_step=1, or engine.device=cpu"),
        ({}, {"nodes": 2}, "slurm.nodes: 2 nodes, but a step has 1 process; give slurm.gpus_per_node, or set "
                           "engine.processes to a multiple of 2"),
        ({"processes": 3}, {"nodes": 2}, "slurm.nodes: 2 nodes, but a step has 3 processes; give slurm.gpus_per_node, "
                                         "or set engine.processes to a multiple of 2"),
        ({"devices_per_step": 8}, {"nodes": 2, "gpus_per_node": 8},
         "engine.devices_per_step: is 8, but over several nodes a step has one process per GPU, which makes 2 x 8 = 16 "
         "by slurm; leave engine.devices_per_step out"),
        ({"processes": 2}, {"nodes": 2, "gpus": 4},
         "engine.processes: is 2, but over several nodes a step has one process per GPU, which makes 2 x 2 = 4 by "
         "slurm; leave engine.processes out"),
    ],
)  # fmt: skip
def test_engine_and_job_that_do_not_fit_are_refused(engine, asked, problem):
    assert problems(processes, Engine(**engine), Resources(**asked)) == [problem]


def test_over_several_nodes_a_step_has_all_gpus_of_all_of_them():
    asked = Resources(nodes=2, gpus_per_node=8)
    assert on(Engine(zero_stage=3), processes(Engine(), asked), asked) == Engine(zero_stage=3, devices_per_step=16)
    for engine, elsewhere in (
        (Engine(processes=4), Resources(nodes=2)),
        (Engine(devices_per_step=2), Resources(gpus=2)),
        (Engine(processes=4, device="cpu"), asked),
    ):
        assert on(engine, processes(engine, elsewhere), elsewhere) == engine


# -- in a sweep -------------------------------------------------------------------------------------------------------


def made(tmp_path, sets=(), **changes):
    return sweep_of({**SWEEP, **changes}, tmp_path, "s.yaml", sets)


def test_each_model_has_its_own_resources_and_engine(tmp_path):
    models = {**SWEEP["models"], "b": {"use": "minilm", "layers": 2, "slurm": {"nodes": 2, "gpus_per_node": 4}}}
    sweep = on_slurm(made(tmp_path, models=models, slurm={"partition": "gpu", "gpus": 1}))
    assert sweep.resources == {
        "a": Resources(partition="gpu", gpus=1),
        "b": Resources(partition="gpu", nodes=2, gpus_per_node=4),
    }
    assert [sweep.engines[name].devices_per_step for name in "ab"] == [1, 8]
    cell = expand(sweep)[0]
    assert [step.engine.devices_per_step for step in (cell.weak_step, cell.ceiling_step, cell.student_step)] == [
        1,
        8,
        8,
    ]


def test_no_digest_changes_with_anything_that_is_asked_of_slurm(tmp_path):
    block = {name: value for name, (value, _) in FIELDS.items() if name not in ("nodes", "gpus", "gpus_per_node")}
    more = {"steps_per_task": 7, "max_parallel": 3, "notice_s": 60, "small_jobs": {"mem": "1G"}}
    models = {name: {**model, "slurm": {"nodes": 2, "gpus_per_node": 4}} for name, model in SWEEP["models"].items()}
    plain = expand(made(tmp_path))
    assert [cell.digests for cell in expand(on_slurm(made(tmp_path, slurm={**block, **more}, models=models)))] == [
        cell.digests for cell in plain
    ]
    other = expand(made(tmp_path, recipe={"lr": 1e-3}))  # control: a recipe does
    assert other[0].digests.weak != plain[0].digests.weak


def test_every_problem_of_a_sweep_is_told_with_its_place(tmp_path):
    models = {"a": {"use": "minilm", "layers": 1, "slurm": {"cpu": 1}},
              "b": {"use": "minilm", "layers": 2, "slurm": {"time": 1}}}  # fmt: skip
    assert problems(lambda: made(tmp_path, models=models, slurm={"small_jobs": {"time": 2}})) == [
        "s.yaml: slurm.small_jobs.time: 2 is no longer than slurm.notice_s (120 s); raise it",
        "s.yaml: models.a.slurm.cpu: unknown field (did you mean cpus?)",
        "s.yaml: models.b.slurm.time: 1 is no longer than slurm.notice_s (120 s); raise it",
    ]
    assert problems(lambda: made(tmp_path, models=models, slurm={"tme": 3}, methods=["xen"])) == [
        "s.yaml: methods.xen.loss.name: no 'xen' (did you mean xent?)",
        "s.yaml: slurm.tme: unknown field (did you mean time?)",
    ]
    sweep = made(tmp_path, engine={"devices_per_step": 2})
    assert problems(on_slurm, sweep) == [
        f"engine.devices_per_step: a step asks for 2 GPUs, but models.{name}.slurm asks SLURM for none; "
        f"set models.{name}.slurm.gpus_per_node=2"
        for name in "ab"
    ]


def test_the_script_is_looked_for_beside_the_yaml(tmp_path):
    script = tmp_path / "my array.sbatch"
    script.write_text("#!/bin/bash\n")
    assert made(tmp_path, slurm={"script": "my array.sbatch"}).file.slurm.script == str(script)
    (problem,) = problems(lambda: made(tmp_path, slurm={"script": "none.sbatch"}))
    assert problem.startswith("s.yaml: slurm.script: no such file or folder 'none.sbatch'")
