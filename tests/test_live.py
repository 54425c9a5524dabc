"""Laws of viewer=web: the page shows the run, its button stops the arm as Ctrl-C does, and nobody else reaches it."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request

import pytest

import configs.arm.live
import configs.arm.running
from configs.arm.live import WebView
from policies.tools import Asker
from robot.settings import RunConfig
from worldmodel.errors import UserError


@pytest.fixture
def views(monkeypatch):
    """The views that runs have opened, and an event for the first."""
    made, there = [], threading.Event()

    def opened(*given):
        made.append(WebView(*given))
        there.set()
        return made[-1]

    monkeypatch.setattr(configs.arm.running, "WebView", opened)
    return made, there


@pytest.mark.slow
@pytest.mark.usefixtures("patient_driver", "patient_gate")
@pytest.mark.parametrize("robot", ["so101-sim", "so101-twin"])
def test_its_button_stops_the_arm_through_the_gate(robot, browser, views, arm_checkpoint, serving, request):
    (made, there), failed, running = views, [], threading.Event()
    running.set()

    def look():
        try:
            assert there.wait(120)
            with browser(made[0].url) as view:
                view.locator("#plan svg path").first.wait_for(timeout=120_000)
                assert view.get_by_role("meter").count() == 4
                assert view.locator("#title").inner_text() == f"so101-touch on {robot}"
                frames = view.locator("#frames img").evaluate_all("all => all.map(each => each.naturalWidth)")
                assert frames == [320] * (robot == "so101-sim")
                assert "episode 1 of 10" in view.locator("#status").inner_text()
                view.locator("#stop").click()
                view.get_by_text("the run has ended").wait_for(timeout=120_000)
                assert view.locator("#stop").is_disabled()
                assert "stopped from the page" in view.locator("#log").inner_text()
        except BaseException as error:
            failed.append(error)
            if running.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    keys = {"checkpoint": str(arm_checkpoint), "remote": serving(arm_checkpoint), "viewer": "web", "seconds": 600}
    if robot == "so101-twin":
        keys |= {"robot": robot, "port_file": str(request.getfixturevalue("served").port_file)}
        twin = request.getfixturevalue("twin")
    looking = threading.Thread(target=look)
    looking.start()
    result = configs.arm.running.RunSession.begin(RunConfig(**keys)).run()
    running.clear()
    looking.join()
    assert not failed, failed[0]
    assert (result["ended"], result["faults"]) == ("SIGINT", [])
    if robot == "so101-twin":
        assert [joint["torque_on"] for joint in twin.ask("state")["joints"].values()] == [False] * 6


def asked(url: str, data: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as reply:
            reply.read()
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_only_who_knows_its_address_may_look_or_stop(toys, monkeypatch):
    stops = []
    monkeypatch.setattr(configs.arm.live.signal, "pthread_kill", lambda thread, number: stops.append(number))
    view = WebView(toys.token_settings(4), 30.0, "a run", 1)
    port, _, place = view.url.removeprefix("http://127.0.0.1:").partition("/")
    root = f"http://127.0.0.1:{port}"
    assert len(place) > 10
    try:
        assert [asked(f"{root}{path}") for path in ("/", "/events", "/x/")] == [404] * 3
        assert [asked(f"{root}{path}", b"") for path in ("/stop", "/")] == [404] * 2
        assert stops == []
        assert asked(view.url) == 200 and asked(f"{view.url}stop", b"") == 204
        assert stops == [signal.SIGINT]
        view.say("stopped: late-loop: 1 s since the last step")
        event = json.loads(next(view.events()).removeprefix(b"data: "))
        assert event["alarms"] == ["stopped: late-loop: 1 s since the last step"] and not event["over"]
        assert asked(f"{view.url}answer/1", b"") == 404 and not event["question"]
        view.asker = Asker(60.0, view.say)
        view.asker.begin("what is meant?", ["stand", "hang"])
        event = json.loads(next(view.events()).removeprefix(b"data: "))
        assert (event["question"], event["choices"]) == ("what is meant?", ["stand", "hang"])
        assert [asked(f"{view.url}answer/{each}", b"") for each in ("3", "0", "x", "2")] == [404, 404, 404, 204]
        assert view.asker.poll() == "hang" and asked(f"{view.url}answer/1", b"") == 404
        with pytest.raises(UserError, match=rf"^viewer_port={port}: Address already in use"):
            WebView(toys.token_settings(4), 30.0, "a run", 1, int(port))
    finally:
        view.close()
    with pytest.raises(urllib.error.URLError):
        asked(view.url)
