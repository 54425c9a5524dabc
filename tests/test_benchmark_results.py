"""Laws of results.csv: what is written is read back, whoever else writes and whenever a writer is killed."""

import errno
import fcntl
import multiprocessing
import os
import threading
from dataclasses import replace

import pytest

from envs.benchmark import results
from envs.benchmark.results import Result, ResultsError, append, latest, read

RUN = Result(
    task="walker-walk",
    seed=1,
    agent="semagram",
    env_steps=100_000,
    return_mean=951.25,
    return_std=0.1 + 0.2,
    episodes=2,
    policy_return_mean=930.0,
    train_seconds=612.5,
    env_steps_per_second=163.3,
    gflop_per_control_step=4.2,
    decisions_per_second=410.0,
    parameters=812_345,
    device='AMD "EPYC", 2 cores',
    commit="5f4b510",
    returns=(950.0, 952.5),
)
UNMEASURED = {"policy_return_mean": None, "gflop_per_control_step": None, "decisions_per_second": None}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "results.csv"
    runs = [
        RUN,
        replace(RUN, agent="tdmpc2", parameters=None, **UNMEASURED),
        replace(RUN, return_mean=-1e-300),
    ]
    for run in runs:
        append(path, run)
    assert read(path) == runs
    assert path.read_bytes().count(b"task,") == 1


@pytest.mark.parametrize("cut", [1, 40, 60])
def test_a_torn_last_line_is_dropped_and_then_overwritten(tmp_path, capsys, cut):
    path = tmp_path / "results.csv"
    append(path, RUN)
    append(path, replace(RUN, seed=2))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == [RUN]
    assert capsys.readouterr().err.count("\n") == 1
    append(path, replace(RUN, seed=3))
    assert capsys.readouterr().err.count("torn last line") == 1
    assert read(path) == [RUN, replace(RUN, seed=3)]
    assert capsys.readouterr().err == ""


def test_a_torn_header_is_started_again(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(results.HEADER[:17])
    assert read(path) == []
    append(path, RUN)
    assert read(path) == [RUN]


def _append_many(path, seeds, start):
    start.wait()
    for seed in seeds:
        append(path, replace(RUN, seed=seed))


def test_two_processes_appending_at_once_lose_no_line(tmp_path):
    path = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    writers = [context.Process(target=_append_many, args=(path, seeds, start)) for seeds in (range(20), range(20, 40))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sorted(run.seed for run in read(path)) == list(range(40))


def test_a_writer_waits_until_another_is_done_with_header_and_line(tmp_path):
    path = tmp_path / "results.csv"
    with open(path, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=append, args=(path, RUN))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        other.write(results.HEADER)
    writer.join()
    assert read(path) == [RUN]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    append(path, RUN)
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    with pytest.raises(OSError) as caught:
        append(path, RUN)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("951.25", "many", "line 2: return_mean='many': a number"),
        ("951.25", "nan", "line 2: return_mean=nan: a finite number"),
        ("walker-walk,1,", "walker-walk,1.5,", "line 2: seed='1.5': a whole number"),
        ("walker-walk,", "", "line 2: 15 cells, there must be 16"),
        ("950.0 952.5", "950.0", "line 2: returns: 2 episodes, but 1 returns"),
        ("612.5", "", "line 2: train_seconds='': a number"),
        ("task,seed", "seed,task", "line 1: the header must be task,seed,agent"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, old, new, said):
    path = tmp_path / "results.csv"
    append(path, RUN)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ResultsError, match=r"^[^\n]*$") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_append_leaves_a_file_that_is_not_ours_alone(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("chapter 1")
    with pytest.raises(ResultsError):
        append(path, RUN)
    assert path.read_text() == "chapter 1"


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(results.HEADER + b"\xff\n")
    with pytest.raises(ResultsError, match="UTF-8"):
        read(tmp_path / "binary.csv")


def test_a_repeated_run_counts_by_its_last_line():
    again = replace(RUN, return_mean=1.0)
    other = replace(RUN, agent="tdmpc2")
    assert latest([RUN, other, again]) == [again, other]
