"""An arm's cameras: the frames of before, their size, which is dark; a cable falls out, and it goes on."""

import re
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.cameras import BLIND_S, CameraBuffer, SteadyCamera

SIZE, WAIT_S, HZ = 32, 60.0, 30.0
LIT, DARK = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)


def until(true) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


moments = st.tuples(st.booleans(), st.integers(1, 3))


@given(st.lists(moments, min_size=1, max_size=12), st.sampled_from([(0,), (0, 2), (1, 3)]))
def test_cameras_give_the_frames_of_before_and_which_of_them_is_dark(taken, lags):
    """Some frames come several control steps after the last one: until then that one was the newest."""
    cameras, shown, lit = CameraBuffer({"a": LIT.shape[:2]}, lags, hz=HZ, say=[].append), [], [True]
    for number, (light, steps) in enumerate(taken):
        shown = [] if not lit[-1] else shown  # before a frame that shows something again there is nothing
        shown += shown[-1:] * (steps - 1) + [np.roll(LIT, number, 0) if light else DARK]
        lit.append(light)
        cameras.see({"a": shown[-1], "joint.pos": 0.0}, steps)
    frames, there = cameras.now()
    assert there.tolist() == [lit[-1]]
    for frame, lag in zip(frames[0], lags, strict=True):
        np.testing.assert_array_equal(frame, shown[max(0, len(shown) - 1 - lag)])
    cameras.forget()
    cameras.see({"a": LIT})
    assert all(np.array_equal(frame, LIT) for frame in cameras.now()[0][0])


@pytest.mark.parametrize("alone", [True, False])
def test_a_dark_camera_is_reported_once_and_only_an_arm_without_another_sense_is_blind(alone):
    said, second = [], round(BLIND_S * HZ)
    cameras = CameraBuffer({"a": (SIZE, SIZE), "b": (16, 24)}, hz=HZ, alone=alone, say=said.append)
    for frames in [(LIT, LIT)] + [(DARK, LIT)] * 60 + [(LIT, DARK)] * 2:
        cameras.see(dict(zip("ab", frames, strict=True)))
        assert not cameras.blind
    kept = ["camera a: frames of one colour", "camera a: shows something again"]
    assert [line.partition(";")[0] for line in said] == kept
    for _ in range(second):
        cameras.see({"a": DARK, "b": DARK})
        assert not cameras.blind
    cameras.see({"a": DARK, "b": DARK})
    assert cameras.blind == alone and not CameraBuffer().blind


@pytest.mark.parametrize(("shape", "size"), [((48, 64), (16, 16)), ((33, 33), (20, 16)), ((480, 640), (16, 64))])
def test_a_real_cameras_frame_is_its_largest_middle_part_of_the_models_proportions(shape, size):
    scale = min(whole / side for whole, side in zip(shape, size, strict=True))
    down, right = (round(scale * side) for side in size)
    top, left = (shape[0] - down) // 2, (shape[1] - right) // 2
    frame = np.zeros((*shape, 3), np.uint8)
    frame[top : top + down, left : left + right] = 200
    cameras = CameraBuffer({"a": size}, hz=HZ)
    cameras.see({"a": frame})
    assert cameras.newest["a"].shape == (*size, 3) and (cameras.newest["a"] == 200).all()
    frame[top, :] = frame[:, left + right - 1] = 0  # which are still in it
    cameras.see({"a": frame})
    assert (cameras.newest["a"][0] < 200).all() and (cameras.newest["a"][:, -1] < 200).all()


SETTINGS = {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 30.0}


class Cable:
    """A camera's driver: frames as long as the cable is in."""

    plugged, tries = True, 0

    def __init__(self, *_):
        self.found = Cable.plugged
        Cable.tries += not Cable.plugged

    def isOpened(self):
        return self.found

    def read(self):
        time.sleep(0.01)
        return (True, np.full((48, 64, 3), 180, np.uint8)) if Cable.plugged else (False, None)

    def get(self, setting):
        return SETTINGS.get(setting, 0.0)

    def set(self, setting, value):
        return SETTINGS.get(setting) == value

    def release(self):
        self.found = False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # LeRobot's reading thread gives up
def test_a_cable_that_falls_out_is_black_frames_until_it_is_in_again(monkeypatch):
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

    monkeypatch.setattr(cv2, "VideoCapture", Cable)
    monkeypatch.setattr("robot.cameras.AGAIN_S", 0.05)
    said = []
    camera = SteadyCamera("front", OpenCVCamera(OpenCVCameraConfig(index_or_path=0, warmup_s=1)), said.append)
    with monkeypatch.context() as out, pytest.raises(ConnectionError):
        out.setattr(Cable, "plugged", False)  # one that is not there at first is an error
        camera.connect()
    assert not camera.is_connected
    camera.connect()
    assert camera.read_latest().mean() == 180
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    assert camera.read_latest().shape == (48, 64, 3) and camera.is_connected
    until(lambda: Cable.tries >= 3)  # it fails to connect again
    assert len(said) == 1 and re.fullmatch(r"camera front: OpenCVCamera\(0\) .*; connecting again", said[0])
    monkeypatch.setattr(Cable, "plugged", True)
    until(lambda: camera.read_latest().any())
    assert said[1:] == ["camera front: connected again"]
    monkeypatch.setattr(Cable, "plugged", False)
    until(lambda: not camera.read_latest().any())
    camera.disconnect()  # while it is being looked for
    assert not camera.is_connected
