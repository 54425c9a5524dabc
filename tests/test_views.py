"""What a person sees of a run: lines, as they come; rerun's viewer."""

import errno
import io
import threading

import numpy as np
import pytest

from configs.arm.running import RunSession
from envs.settings import TaskConfig
from robot import views
from robot.settings import RunConfig
from worldmodel.errors import UserError

SIZE, WAIT_S = 32, 60.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, untaught):
    """An agent with a camera."""
    task = TaskConfig("so101-touch", state="joints")
    return untaught(tmp_path_factory.mktemp("run"), task, senses=("state", "images.overhead"), image_size=SIZE)


@pytest.fixture
def running(checkpoint, serving):
    """Makes runs of the checkpoint for an episode, shown by rerun."""

    def begin(**keys):
        usual = {"checkpoint": str(checkpoint), "remote": serving(checkpoint), "viewer": "rerun", "episodes": 1}
        return RunSession.begin(RunConfig(**usual | keys))

    return begin


def test_where_nobody_reads_nothing_is_raised(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise OSError(errno.EIO, "Input/output error")

    tried = []
    monkeypatch.setattr(views.sys, "stderr", Closed())
    views.NoView().say("SIGHUP")
    assert tried == ["SIGHUP"]


def test_the_rerun_viewer_gets_every_tick_with_what_the_camera_shows_the_model(running, tmp_path, monkeypatch):
    from rerun.experimental import RrdReader

    steps, log = [], views.RerunView.__call__

    def noting(view, step, follower):
        steps.append((step.reading.values.tolist(), follower.cameras.newest["overhead"]))
        log(view, step, follower)

    monkeypatch.setattr(views.RerunView, "__call__", noting)
    file = tmp_path / "run.rrd"
    running(seconds=0.5, viewer_file=str(file)).run()
    frames, measured = [], []
    for chunk in RrdReader(file).store().stream():
        columns = {} if chunk.is_static else chunk.to_record_batch().to_pydict()
        frames += columns.get("Image:buffer", []) if chunk.entity_path == "/camera/overhead" else []
        measured += columns.get("Scalars:scalars", []) if chunk.entity_path == "/joints/measured" else []
    assert len(steps) > 10 and measured == [values for values, _ in steps]
    for (shown,), (_, frame) in zip(frames, steps, strict=True):
        np.testing.assert_array_equal(np.array(shown).reshape(SIZE, SIZE, 3), frame)
    with pytest.raises(FileExistsError):  # it is not written over
        running(viewer_file=str(file)).run()


def test_a_viewer_that_does_not_come_up_is_a_line_before_anything_is_begun(running, monkeypatch):
    from rerun import RecordingStream

    def spawn(_):
        raise RuntimeError("no screen")

    monkeypatch.setattr(RecordingStream, "spawn", spawn)
    with pytest.raises(UserError, match=r"^viewer=rerun: the viewer does not come up.*; viewer_file=run\.rrd leaves"):
        running().run()


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_viewer_that_hangs_or_fails_says_so_and_the_arm_goes_on(running, tmp_path, monkeypatch, capsys, how):
    hung = threading.Event()

    def log(*_):
        if how == "fails":
            raise RuntimeError("no room")
        hung.wait(WAIT_S)

    monkeypatch.setattr(views, "PATIENCE_S", 0.1)
    monkeypatch.setattr(views.RerunView, "_log", log)
    result = running(seconds=1.0, viewer_file=str(tmp_path / "run.rrd")).run()
    hung.set()
    for left in threading.enumerate():  # it goes on with what was queued, which is no business of the next test
        if left.name == "rerun":
            left.join(WAIT_S)
            assert not left.is_alive()
    assert (result["ended"], result["faults"]) == ("done", [])
    line = {"hangs": "the viewer did not take the last of it", "fails": "the viewer shows no more: no room\n"}[how]
    assert capsys.readouterr().err.count(line) == 1
