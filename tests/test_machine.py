"""Laws of what a process was granted: no quota above it is passed, cards are shared out; and of its compiler."""

import functools
import math
import os

import pytest
import torch._inductor.exc

from configs import machine
from configs.reporting import Ended
from configs.runs import loading


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_smallest_quota_on_the_way_to_the_root_counts_in_both_versions(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    write(new / "job" / "step", cpu__max="max 100000\n")
    write(new / "job", cpu__max="150000 100000\n")
    write(new, cpu__max="400000 100000\n")
    assert [machine.quota(f"0::{name}\n", new) for name in ("/job/step", "/job", "/elsewhere")] == [1.5, 1.5, 4]
    write(old / "cpu" / "job", cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="50000\n")
    write(old / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert machine.quota("5:memory:/other\n4:cpuacct,cpu:/job\n0::/\n", old) == 4
    assert machine.quota("4:cpu:/\n", old) == math.inf


def test_threads_are_of_the_cores_granted(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(machine, "quota", lambda *_: 1.5)
    assert machine.cores() == 2
    with pytest.raises(ValueError, match=r"^threads=3: at most 2, the cores granted here$"):
        machine.check_threads(3)


def test_members_take_turns_on_the_cards_that_are_there_unless_they_name_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    turns = [machine.own_card("auto", number).get("CUDA_VISIBLE_DEVICES") for number in range(4)]
    assert turns == ["2", "5", "7", "2"] and machine.own_card("cuda", 1) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert machine.own_card("cpu", 1) == machine.own_card("cuda:1", 1) == machine.own_card(None, 1) == {}
    for alone in ("", "3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", alone)
        assert machine.own_card("cuda", 1) == {}


def test_a_device_that_is_not_here_is_refused_before_pytorch_where_linux_knows_it(monkeypatch):
    monkeypatch.setattr(machine, "OTHER_DRIVERS", ())
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    for there in ("cuda", "cuda:1", "cpu", "auto", "cuda:x", None):
        machine.check_device(there)
    with pytest.raises(ValueError, match=r"^device=cuda:2: CUDA devices here: 2; device=cpu works$"):
        machine.check_device("cuda:2")
    monkeypatch.setattr(machine, "OTHER_DRIVERS", ("null",))
    machine.check_device("cuda:2")


def test_an_empty_library_in_the_compilers_cache_is_removed_unless_it_is_being_written(tmp_path):
    write(tmp_path / "ab", left__so="", whole__so="x", new__so="", left__cpp="")
    for name in ("left.so", "whole.so", "left.cpp"):
        os.utime(tmp_path / "ab" / name, (0, 0))
    loading.mend(tmp_path)
    assert {path.name for path in (tmp_path / "ab").iterdir()} == {"whole.so", "new.so", "left.cpp"}


def test_what_does_not_compile_ends_in_one_line_that_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cause = ImportError("x.so: file too short\nmore")
    says = f"^compiling failed: ImportError: x.so: file too short; delete {tmp_path} .*go on with: y$"
    failed = torch._inductor.exc.InductorError, functools.partial(torch._dynamo.exc.BackendCompilerFailed, "inductor")
    for error in failed:
        with pytest.raises(Ended, match=says), loading.compiler_faults("go on with: y"):
            raise error(cause, None)
    with pytest.raises(RuntimeError, match="a bug"), loading.compiler_faults(""):
        raise RuntimeError("a bug")
