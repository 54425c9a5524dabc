"""The commands: for each, the function that does its work and the dataclass of its keys, imported once needed.

`python -m configs.commands train steps=1000` is `semagram-train steps=1000`.
"""

import signal
import sys

from configs.command import Command


def _verb_as_key(words: list[str]) -> list[str]:
    """Return the arguments of semagram-tokens, whose first may be the verb alone, with its key before it."""
    alone = words and "=" not in words[0] and not words[0].startswith("-")
    return [f"verb={words[0]}", *words[1:]] if alone else words


def _task_by_name(words: list[str]) -> list[str]:
    """Return the arguments with a task's name under a key of its own: to Hydra, `task` is a group of settings."""
    return [f"on_{word}" if word.startswith("task=") else word for word in words]


def _checkpoints(words: list[str]) -> list[str]:
    """Return the arguments of semagram-bench, a checkpoint as a list under a key of its own."""
    given = {word: word.removeprefix("checkpoint=") for word in words if word.startswith("checkpoint=")}
    lists = {word: value if value[:1] == "[" else f"[{value}]" for word, value in given.items()}
    return [f"checkpoints={lists[word]}" if word in lists else word for word in words]


def _as_said(words: list[str]) -> list[str]:
    """Return the arguments of semagram-guide such that Hydra takes what a person says as text."""
    from configs.arguments import quoted

    split = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    said = {"want", "via", "goal", "examples", "reward", "words"}
    texts = [key in said and value[:1] not in ("", "'", '"') for key, value in split]
    return [f"{k}={quoted(v)}" if text else word for word, (k, v), text in zip(words, split, texts, strict=True)]


def _one_mark(words: list[str]) -> list[str]:
    """Return the arguments of semagram-data, a single mark as a list."""
    return [f"mark=[{word[5:]}]" if word[:5] == "mark=" and word[5:6] != "[" else word for word in words]


def _exit_code(result: dict) -> int:
    ended = result["ended"]
    return {"done": 0, "fault": 1}[ended] if ended in ("done", "fault") else 128 + signal.Signals[ended]


train = Command("train", "configs.train:command")
"""semagram-train: train a world model. Leaves a run folder with a plot, a video and checkpoints."""
evaluate = Command("evaluate", "configs.runs.evaluation:evaluate", "configs.schema:EvaluateConfig", words=_task_by_name)
"""semagram-eval: evaluate a checkpoint with its planner and without, and measure what a decision costs."""
bench = Command(
    "bench",
    "configs.bench:bench",
    "configs.schema:BenchConfig",
    lambda result: int(bool(result.get("failed"))),
    _checkpoints,
)
"""semagram-bench: a sweep of semagram-train over the tasks and seeds of a suite, and its report."""
tokens = Command("tokens", "configs.codec:tokens", "configs.schema:TokensConfig", words=_verb_as_key)
"""semagram-tokens: fit a codec to a dataset, and draw what its ids mean. The first argument is the verb."""
guide = Command("guide", "configs.runs.guiding:guide", "configs.schema:GuideConfig", words=_as_said)
"""semagram-guide: compile what a person says into a guidance, which a trained agent follows."""
why = Command("why", "configs.runs.explaining:why", "configs.schema:WhyConfig")
"""semagram-why: a decision of an agent as a page, with its graph as JSON."""
record = Command("record", "configs.arm.recording:record", "robot.settings:RecordConfig")
"""semagram-record: record episodes of an arm as a LeRobotDataset; a finished one is safe on disk."""
data = Command("data", "configs.arm.dataset:data", "robot.settings:DataConfig", words=_one_mark)
"""semagram-data: check a LeRobotDataset, mark its episodes, or repair what a killed recording left."""
run = Command("run", "configs.arm.running:run", "robot.settings:RunConfig", _exit_code, _task_by_name)
"""semagram-run: run a checkpoint on an arm; exit with 1 after a fault, with 128 + its number after a signal."""
play = Command("play", "configs.arm.playing:play", "robot.settings:PlayConfig")
"""semagram-play: play a plan of tokens on an arm, simulated or real."""
serve = Command("serve", "configs.arm.planning:serve", "robot.settings:ServeConfig")
"""semagram-serve: plan on this machine for a robot that another machine drives, until stopped by a signal."""
twin = Command("twin", "configs.arm.twin_process:serve", "sim.twin.twin:TwinConfig")
"""semagram-twin: a simulated SO-101 on a serial port of its own, for LeRobot's real driver."""

if __name__ == "__main__":
    known = (train, evaluate, bench, tokens, guide, why, record, data, run, play, serve, twin)
    names = {each.name: each for each in known}
    names["eval"] = evaluate  # as in semagram-eval
    if sys.argv[1:2] == [] or sys.argv[1] not in names:
        sys.exit(f"python -m configs.commands <name> ...: one of {', '.join(names)}")
    names[sys.argv.pop(1)]()
