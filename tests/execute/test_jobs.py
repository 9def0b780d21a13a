"""The files of a sweep's jobs: what is written is read back, line by line; and what SLURM has of them in hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from fake_lab import plan_of  # type: ignore[import-not-found]
from hypothesis import given
from hypothesis import strategies as st

from w2s.errors import MachineError, SpecError
from w2s.execute import jobs
from w2s.execute.cluster import Task
from w2s.execute.jobs import Held, Job, Queue

HOSTILE = 'a\'; echo b\n ü "$(x)" \\ \u2028 %a'


def nodes_of(graph, title="step {}"):
    """Numbered steps by number, with titles of one's own."""
    plan = plan_of(graph)
    return [dataclasses.replace(node, title=title.format(n)) for n, node in enumerate(plan.nodes.values(), start=1)]


def written(where, wave, lines):
    """A wave's file with lines of nodes."""
    return jobs.write_wave(
        where,
        wave,
        [tuple(node.digest for node in line) for line in lines],
        {n.digest: n for line in lines for n in line},
    )


@pytest.fixture
def where(tmp_path):
    """The folder of a sweep's jobs, below a folder with every kind of character."""
    return jobs.folder(tmp_path / "a'; echo b\n ü" / "results", "s")


# -- waves ------------------------------------------------------------------------------------------------------------


def test_where_things_lie(tmp_path):
    where = jobs.folder(tmp_path / "results", "grid@2")
    assert where == tmp_path / "results" / "sweeps" / "grid@2" / "slurm"
    assert jobs.wave_file(where, 3) == where / "wave-3.txt"
    job = Job("12", "w2s-grid@2", "grid@2", where, 3, 1000, 5)
    assert job.log(7) == where / "logs" / "wave-3+1000" / "7.txt"
    assert job._replace(wave=0, after=0).log(None) == where / "logs" / "tables" / "12.txt"


def test_a_wave_is_read_back_line_by_line(where):
    nodes = nodes_of({1: [], 2: [1], 3: [1, 2], 4: [], 5: [4]}, HOSTILE + "{}")
    file = written(where, 1, [nodes[:2], nodes[2:3], nodes[3:]])
    assert file.read_text() == "".join(
        " ".join(node.digest for node in line) + "\n" for line in (nodes[:2], nodes[2:3], nodes[3:])
    )
    for number, line in enumerate((nodes[:2], nodes[2:3], nodes[3:]), start=1):
        assert jobs.read_line(file, number) == line
    assert sorted(path.name for path in where.iterdir()) == ["wave-1.parquet", "wave-1.txt"]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_lines_and_any_titles(tmp_path_factory, sizes, title):
    nodes = iter(nodes_of({number: [] for number in range(sum(sizes))}, title.replace("{", "").replace("}", "")))
    lines = [[next(nodes) for _ in range(size)] for size in sizes]
    file = written(tmp_path_factory.mktemp("waves"), 1, lines)
    assert [jobs.read_line(file, number) for number in range(1, len(lines) + 1)] == lines


def test_many_lines_lie_in_many_row_groups_and_a_line_may_lie_across_two(where, monkeypatch):
    monkeypatch.setattr(jobs, "ROWS_AT_ONCE", 4)
    nodes = nodes_of({number: [] for number in range(30)})
    lines = [nodes[start : start + 3] for start in range(0, 30, 3)]
    file = written(where, 1, lines)
    assert [jobs.read_line(file, number) for number in range(1, 11)] == lines


def test_the_last_wave_is_told_by_number_not_by_name(where):
    assert jobs.last_wave(where) == 0
    nodes = nodes_of({1: []})
    for wave in (2, 10, 9):
        written(where, wave, [nodes])
    (where / "wave-x.txt").write_text("")
    (where / "wave-99.parquet").write_text("")  # a wave whose writer was killed before its text
    assert jobs.last_wave(where) == 10


@pytest.mark.parametrize("line", [0, -1, 3])
def test_a_line_that_is_not_there(where, line):
    file = written(where, 1, [nodes_of({1: []}), nodes_of({2: []})])
    with pytest.raises(SpecError) as caught:
        jobs.read_line(file, line)
    assert caught.value.problems == [f"line: {file} has the lines 1 to 2 (got {line})"]


def test_a_wave_that_is_not_there(where):
    with pytest.raises(SpecError) as caught:
        jobs.read_line(where / "wave-1.txt", 1)
    assert caught.value.problems == [f"{where / 'wave-1.txt'}: no such wave of steps"]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "not utf-8"])
def test_a_damaged_wave_says_so_and_what_to_do(where, damage):
    file = written(where, 1, [nodes_of({1: []})])
    specs = file.with_suffix(".parquet")
    if damage == "gone":
        specs.unlink()
    elif damage == "not utf-8":
        file.write_bytes(b"\xff\xfe\n")
    else:
        specs.write_bytes(specs.read_bytes()[: 0 if damage == "empty" else 100])
    with pytest.raises(MachineError) as caught:
        jobs.read_line(file, 1)
    broken = file if damage == "not utf-8" else specs
    assert str(caught.value).startswith(f"{broken}: ")
    assert str(caught.value).endswith("submit the sweep again, finished steps are kept")


def test_lines_and_specs_that_tell_of_different_steps_are_refused(where):
    one, other = nodes_of({1: [], 2: []})
    file = written(where, 1, [[one]])
    file.write_text(f"{other.digest}\n")
    with pytest.raises(MachineError, match=r"wave-1\.txt: line 1 and wave-1\.parquet tell of different steps"):
        jobs.read_line(file, 1)


def test_a_file_in_the_way_is_a_sentence(where):
    where.parent.mkdir(parents=True)
    where.write_text("a file")
    with pytest.raises(MachineError, match="a file stands where a folder is needed"):
        written(where, 1, [nodes_of({1: []})])


# -- records ----------------------------------------------------------------------------------------------------------


def test_jobs_are_remembered_in_the_order_of_their_submission(tmp_path, monkeypatch):
    made = []
    # At 0 those of old records, by number; then a cluster that counts from 1 again.
    for at, number, sweep in ((0.0, "9", "b"), (0.0, "10", "a"), (0.0, "101", "a"), (5.0, "4", "b"), (5.0, "11", "b")):
        monkeypatch.setattr("time.time", lambda at=at: at)
        job = Job(number, f"w2s-{sweep}", sweep, jobs.folder(tmp_path, sweep), 1, 0, 2)
        job.folder.mkdir(parents=True, exist_ok=True)
        made.append(jobs.record(job))
    assert [job.at for job in made] == [0.0, 0.0, 0.0, 5.0, 5.0]
    assert jobs.recorded(tmp_path, ["a", "b", "none"]) == made
    assert jobs.recorded(tmp_path, ["a"]) == made[1:3]


def test_a_results_folder_may_be_moved(tmp_path):
    old = Job("9", "w2s-s", "s", jobs.folder(tmp_path / "old", "s"), 1, 0, 2)
    old.folder.mkdir(parents=True)
    old = jobs.record(old)
    (tmp_path / "old").rename(tmp_path / "new")
    assert jobs.recorded(tmp_path / "new", ["s"]) == [old._replace(folder=jobs.folder(tmp_path / "new", "s"))]


WHOLE = {"id": "4", "name": "w2s-s", "sweep": "s", "wave": 1, "after": 0, "tasks": 2}


def test_an_old_record_is_one(tmp_path):
    where = jobs.folder(tmp_path, "s")
    where.mkdir(parents=True)
    (where / "job-4.json").write_text(json.dumps(WHOLE))
    assert jobs.recorded(tmp_path, ["s"]) == [Job("4", "w2s-s", "s", where, 1, 0, 2, "", 0.0)]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"id": "4"}', '{"id": "4", "more": 1}',
     *(json.dumps({**WHOLE, **wrong}) for wrong in (
        {"id": "foo"}, {"id": 4}, {"id": "-4"}, {"name": None}, {"wave": "1"}, {"after": 0.5}, {"tasks": None},
        {"at": "now"}, {"home": 1}))],
)  # fmt: skip
def test_files_that_are_no_record_are_passed_over(tmp_path, text):
    job = Job("9", "w2s-s", "s", jobs.folder(tmp_path, "s"), 1, 0, 2)
    job.folder.mkdir(parents=True)
    job = jobs.record(job)
    (job.folder / "job-4.json").write_text(text)
    assert jobs.recorded(tmp_path, ["s"]) == [job]


# -- who holds what ---------------------------------------------------------------------------------------------------


@pytest.fixture
def submitted(where):
    """Two waves of three and one steps, and a queue of some of their jobs with some of their tasks."""
    nodes = nodes_of({1: [], 2: [], 3: [], 4: []})
    written(where, 1, [nodes[:2], nodes[2:3]])
    written(where, 2, [nodes[2:3], nodes[3:]])
    made = [Job(number, "w2s-s", "s", where, *place) for number, place in
            {"5": (1, 0, 1), "6": (1, 1, 1), "7": (2, 0, 2), "8": (0, 0, 1)}.items()]  # fmt: skip

    def queue(*tasks):
        found = [Task(job, place, state, "", "w2s-s") for job, place, state in tasks]
        return Queue(made, found, True)

    return [node.digest for node in nodes], made, queue


def test_a_step_is_held_by_the_last_task_that_was_given_it(submitted):
    digests, (five, _, seven, _), queue = submitted
    assert queue().held() == {
        digests[0]: Held(five, 1, None),
        digests[1]: Held(five, 1, None),
        digests[2]: Held(seven, 1, None),
        digests[3]: Held(seven, 2, None),
    }


def test_a_task_in_the_queue_goes_before_one_that_is_gone_and_the_later_of_two_before_the_earlier(submitted):
    digests, (_, six, seven, _), queue = submitted
    early, late = ("6", 1, "RUNNING"), ("7", 1, "PENDING")
    assert queue(early).held()[digests[2]] == Held(six, 1, Task(*early, "", "w2s-s"))
    assert queue(late).held()[digests[2]] == Held(seven, 1, Task(*late, "", "w2s-s"))
    assert queue(early, late).held()[digests[2]] == Held(seven, 1, Task(*late, "", "w2s-s"))
    assert queue(("7", 2, "RUNNING")).held()[digests[2]].task is None, "another task of the same job"


def test_live_jobs_are_those_with_something_in_the_queue(submitted):
    _, made, queue = submitted
    assert queue().live == []
    assert queue(("8", None, "PENDING"), ("6", 1, "RUNNING")).live == [made[1], made[3]]


def test_a_wave_that_was_deleted_holds_nothing(submitted, where):
    digests, _, queue = submitted
    (where / "wave-2.txt").unlink()
    assert set(queue().held()) == set(digests[:3])
    (where / "wave-1.txt").write_text(f"{digests[0]}\n")  # or cut short
    assert set(queue().held()) == {digests[0]}


def test_slurm_is_asked_once_and_for_nothing_not_at_all(where, slurm):
    results = where.parents[2]
    assert jobs.queue_of(results, ["s"]) == Queue([], [], True)
    assert not slurm.calls()
    made = [Job(number, f"w2s-{name}", "s", where, 0, 0, 1) for number, name in (("11", "s"), ("12", "t"))]
    where.mkdir(parents=True)
    made = [jobs.record(job) for job in made]
    slurm.answers(
        queue=[["w2s-s", "11", "N/A", "PENDING", "Priority", ""], ["w2s-s", "13", "1", "RUNNING", "None", ""]]
    )
    assert jobs.queue_of(results, ["s"]) == Queue(made, [Task("11", None, "PENDING", "Priority", "w2s-s")], True)
    assert len(slurm.calls()) == 1
    slurm.answers(broken={"squeue": "Unable to contact slurm controller"})
    assert jobs.queue_of(results, ["s"]) == Queue(made, [], False)


# A number that comes again: (the job's wave, what the task there was given to run) -> is it the job's?
RUN = "/x/array.sbatch /x/w2s"
LIVES = [
    (1, f"{RUN} work /a/results/sweeps/s/slurm/wave-1.txt", True),
    (1, f"{RUN} work /a/results/sweeps/s/slurm/wave-1.txt --after 9", True),
    (1, f"{RUN} work /b/results/sweeps/s/slurm/wave-1.txt", False),
    (1, f"{RUN} work /a/results/sweeps/s/slurm/wave-11.txt", False),
    (1, f"{RUN} results s --results /a/results", False),
    (0, f"{RUN} results s --results /a/results", True),
    (0, f"{RUN} results s --results /a/results2", False),
    (0, f"{RUN} work /a/results/sweeps/s/slurm/wave-1.txt", False),
    (1, "", True),  # where SLURM does not tell, or tells the script alone, or cuts
    (1, "/x/array.sbatch", True),
    (1, f"{RUN} work /b/results/swe", True),
]


@pytest.mark.parametrize(("wave", "command", "is_it"), LIVES)
def test_a_number_that_comes_again_is_another_job(wave, command, is_it):
    job = Job("1", "w2s-s", "s", Path("/moved"), wave, 0, 1, "/a/results/sweeps/s/slurm", 1e9)
    task = Task("1", 1, "PENDING", "", "w2s-s", command)
    assert job.has(task) is is_it
    assert job._replace(home="").has(task), "an old record does not say where it was made"
    assert not job.has(task._replace(name="w2s-t"))
    assert not job.has(task._replace(job="2"))


@pytest.mark.parametrize("name", [HOSTILE, "line\nbreak", "\udcff"])
def test_a_folder_of_any_name_has_its_tasks(name):
    results = Path("/a") / name.replace("/", "")
    for wave in (0, 1):
        job = Job("1", "w2s-s", "s", Path("/moved"), wave, 0, 1, str(jobs.folder(results, "s")), 1e9)
        words = f"work {jobs.wave_file(Path(job.home), 1)}" if wave else f"results s --results {results}"
        printed = words.encode(errors="surrogateescape").decode(errors="replace")  # as it comes from squeue
        assert job.has(Task("1", 1, "PENDING", "", "w2s-s", printed.splitlines()[0]))


def test_two_sweeps_whose_jobs_have_one_number_are_told_apart_by_name(tmp_path, slurm):
    made = []
    for sweep in ("a", "b"):
        job = Job("11", f"w2s-{sweep}", sweep, jobs.folder(tmp_path, sweep), 0, 0, 1)
        job.folder.mkdir(parents=True)
        made.append(jobs.record(job))
    slurm.answers(queue=[["w2s-b", "11", "N/A", "PENDING", "Priority", ""]])
    assert jobs.queue_of(tmp_path, ["a", "b"]).live == made[1:]


def test_what_was_submitted_and_where_its_tasks_logged(submitted, where):
    digests, made, _ = submitted
    results = where.parents[2]
    assert jobs.steps_of(results, ["s", "none"]) == set(digests)
    for job in made:
        jobs.record(job)
    assert jobs.logs_of(results, ["s"], digests[2]) == []
    for log in (made[1].log(1), made[2].log(1), made[2].log(2)):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("said")
    assert jobs.logs_of(results, ["s"], digests[2]) == [made[1].log(1), made[2].log(1)]
    assert jobs.logs_of(results, ["s"], digests[3]) == [made[2].log(2)]
    (where / "wave-2.txt").unlink()
    assert jobs.logs_of(results, ["s"], digests[2]) == [made[1].log(1)]


def test_records_are_json_that_people_can_read(where, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    job = Job("9", "w2s-s", "s", where, 1, 1000, 2)
    where.mkdir(parents=True)
    jobs.record(job)
    assert json.loads((where / "job-9.json").read_text()) == {
        "id": "9", "name": "w2s-s", "sweep": "s", "wave": 1, "after": 1000, "tasks": 2, "home": str(where), "at": 1e9,
    }  # fmt: skip
