"""semagram-tokens: each of its verbs ends with one JSON line, and a mistake with one line that says what is right."""

import json
import re
import sys

import numpy as np
import pytest

from configs.codec import codecs
from configs.schema import TokensConfig
from configs.tokens import main
from policies.codec import Codec
from robot.datasets import Recording
from sim.demonstrations import CHANNELS, RATE_HZ, demonstrations

CODES = ["semagram", "bins", "fast-10", "fast-4", "beast-10"]


@pytest.fixture(scope="module")
def episodes():
    return demonstrations(seed=0, count=24)


@pytest.fixture
def tokens(monkeypatch, capsys, tmp_path, episodes):
    """Run the command in an empty folder on demonstrations that need no LeRobot to be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codecs.datasets, "read", lambda folder: Recording(episodes, CHANNELS, RATE_HZ))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["semagram-tokens", *words])
        main()
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1
        return json.loads(out), err

    return run


def test_compare_leaves_a_table_and_a_plot(tokens, episodes, monkeypatch, tmp_path):
    monkeypatch.setattr("configs.codec.figures.SCALES", (4, 10))  # fewer codes to fit for the plot
    monkeypatch.setattr("configs.codec.figures.POINTS", (0.5, 1))
    result, _ = tokens("compare", "dataset=arm", "strings=200", "hydra.run.dir=out")
    rows = {row["codec"]: row for row in result["rows"]}
    assert list(rows) == CODES and result["switching"] == ["gripper"]
    assert set(rows["semagram"]) >= {
        *("codec", "bits", "ids", "rmse", "max_error", "jump", "valid", "prefix_rmse", "encode_us", "decode_us"),
    }
    ours = rows["semagram"]
    assert ours["bits"] == 96 and ours["ids"] == 8 and ours["valid"] == 1
    assert ours["rmse"] < rows["fast-4"]["rmse"] and ours["jump"] < rows["fast-4"]["jump"] / 4
    assert ours["prefix_rmse"][0] < rows["fast-4"]["prefix_rmse"][0] / 2
    assert rows["bins"]["rmse"] < 0.05 and rows["bins"]["bits"] == 50 * 6 * 8
    _, held_out = codecs.split(episodes, TokensConfig(verb="compare", dataset="arm"))
    beyond = max(np.abs(episode).max() for episode in held_out) - 1
    assert rows["bins"]["max_error"] <= beyond + 1 / 255  # they err by what they cut off, and by half a bin
    assert (tmp_path / "out" / "rate-distortion.png").stat().st_size > 5000
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 1 + len(CODES)
    assert "| semagram | 96 |" in (tmp_path / "out" / "table.md").read_text()


def test_codes_are_measured_on_all_that_an_arm_did_also_beyond_the_range_they_were_fitted_to(episodes):
    for part in codecs.split(episodes, TokensConfig(verb="compare", dataset="arm")):
        for scaled in part:
            alike = [e for e in episodes if len(e) == len(scaled)]
            (of,) = (e for e in alike if np.corrcoef(e[:, 0], scaled[:, 0])[0, 1] > 1 - 1e-9)
            for channel, true in zip(scaled.T, of.T, strict=True):
                line = np.polyfit(true, channel, 1)
                np.testing.assert_allclose(np.polyval(line, true), channel, atol=1e-6)
        assert max(np.abs(scaled).max() for scaled in part) > 1.05


def test_fit_leaves_a_codec_that_codes_actions_in_their_own_units(tokens, episodes):
    result, _ = tokens("fit", "dataset=arm", "ids=6", "seconds=0.5", "out=codec")
    codec = Codec.load(result["codec"])
    assert codec.config.length == 25 and result["string_bits"] == 72
    chunk, start = episodes[0][1:26], episodes[0][0]
    assert np.abs(codec.decode(codec.encode(chunk, start), start) - chunk).max() < 0.2


def test_a_codec_that_is_not_relative_is_compared_too(tokens, monkeypatch):
    monkeypatch.setattr("configs.codec.figures.rate_distortion", lambda *_: None)  # it takes most of the time
    result, _ = tokens("compare", "dataset=arm", "strings=100", "relative=false", "ids=10", "hydra.run.dir=out")
    assert [row["codec"] for row in result["rows"]] == CODES
    ours = result["rows"][0]
    assert ours["valid"] == 1 and ours["rmse"] < 0.06 and ours["encode_batch_us"] is None


def test_a_codec_does_not_take_the_place_of_other_things(tokens, capsys, tmp_path):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        tokens("fit", "dataset=arm", "out=arm")
    assert stop.value.code == 2 and capsys.readouterr().err == (
        "semagram: arm: already there, and no codec; give a new folder\n"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["arm", "thesis.txt"]


def test_that_a_codec_has_no_place_is_said_before_one_is_fitted(tokens, monkeypatch, tmp_path):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "thesis.txt").write_text("mine")
    monkeypatch.setattr(codecs.datasets, "read", lambda folder: pytest.fail("it takes long"))
    with pytest.raises(SystemExit) as stop:
        tokens("fit", "dataset=data", "out=arm")
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("verb", "said"), [("compare", "2 chunks in a row have 100 steps"), ("draw", "a chunk has 50 steps")]
)
def test_held_out_episodes_that_are_too_short_are_named(tokens, monkeypatch, capsys, episodes, verb, said):
    short = [episodes[0], *(e[:40] for e in episodes[1:])]
    monkeypatch.setattr(codecs.datasets, "read", lambda folder: Recording(short, CHANNELS, RATE_HZ))
    with pytest.raises(SystemExit) as stop:
        tokens(verb, "dataset=arm", "seed=1")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and f"{said}, and one comes before; the longest" in err, err
    assert len(err.splitlines()) == 1


def test_episodes_too_short_for_two_chunks_in_a_row_are_named_before_any_code_is_fitted(tokens, monkeypatch, capsys):
    monkeypatch.setattr(codecs.Codec, "fit", lambda *_, **__: pytest.fail("it takes long"))
    with pytest.raises(SystemExit) as stop:
        tokens("compare", "dataset=arm", "seconds=4")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1
    assert "seconds=4: 2 chunks in a row have 400 steps, and one comes before; the longest episode" in err


def test_an_interrupt_is_one_line_and_leaves_nothing(tokens, monkeypatch, capsys, tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(codecs.datasets, "read", interrupted)
    with pytest.raises(SystemExit) as stop:
        tokens("fit", "dataset=arm")
    assert stop.value.code == 130 and capsys.readouterr().err == "semagram: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_draw_leaves_a_picture(tokens, tmp_path):
    result, _ = tokens("draw", "dataset=arm")
    assert (tmp_path / result["figure"]).stat().st_size > 5000 and len(result["ids"]) == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "semagram-tokens: one of fit, compare, draw, demo"),
        (("fold",), "semagram-tokens fold: one of fit, compare, draw, demo"),
        (("fit",), "dataset=: a LeRobotDataset's folder; `semagram-tokens demo out=runs/arm` makes one"),
        (("demo",), "out=: a new folder for the demonstrations, e.g. out=runs/arm"),
        (("demo", "out=new", "dataset=arm"), "dataset=arm: not of demo, which makes one; out= says where"),
        (("draw", "dataset=arm", "sentence=plan.json"), "dataset=, sentence=: one of them"),
        (("fit", "dataset=arm", "ids=0"), "ids=0: from 1 to 256"),
        (("fit", "dataset=arm", "twice"), "twice: keys are given as key=value"),
        (("fit", "dataset=arm", "hydra.run.dir=/dev/null/run"), "Not a directory: '/dev/null/run'"),
        (("fit", "dataset=arm", "seconds=0.01"), "seconds=0.01: a chunk of 0 steps at 50 Hz; at least 2"),
        (
            ("fit", "dataset=arm", "seconds=60"),
            "seconds=60: a chunk has 3000 steps, and one comes before; the longest episode",
        ),
        (("compare", "dataset=arm", "seconds=60"), "seconds=60: a chunk has 3000 steps, and one comes before;"),
        (("draw", "dataset=arm", "seconds=30"), "knots=0 at 50 Hz: 300 control points; a motion has at most 256"),
        (("draw", "dataset=arm", "seconds=75", "knots=9"), "knots=9 at 50 Hz: 75 s; a motion lasts from 0.001 to 60 s"),
        (("fit", "dataset=arm", "idz=3"), "idz: no such key; did you mean ids?"),
        (("compare", "dataset=arm", "held_out=1.5"), "held_out=1.5: from 0.05 to 0.9"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tokens, capsys, tmp_path, words, says):
    with pytest.raises(SystemExit) as stop:
        tokens(*words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and says in err, err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_before_there_are_demonstrations(tokens, monkeypatch, capsys):
    monkeypatch.setattr("sim.demonstrations.demonstrations", lambda *_: pytest.fail("they take long"))
    for out in ("/proc/arm", "/dev/null/arm"):
        with pytest.raises(SystemExit) as stop:
            tokens("demo", f"out={out}")
        assert stop.value.code == 2
        assert re.fullmatch(
            rf"semagram: out={out}: cannot be written \(.+\); e.g. out=runs/arm\n", capsys.readouterr().err
        )


def test_a_dataset_that_is_not_there_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["semagram-tokens", "fit", "dataset=nothing"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "semagram: nothing: no such folder\n"
