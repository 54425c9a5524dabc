"""The commands: for each, the function that does its work and the dataclass of its keys, imported once needed.

What each is for stands in configs/<name>.yaml. `python -m configs.commands train steps=1000` is `semagram-train
steps=1000`.
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
    """Return 1 after a fault of the arm, 128 + its number after a signal."""
    ended = result["ended"]
    return {"done": 0, "fault": 1}[ended] if ended in ("done", "fault") else 128 + signal.Signals[ended]


def _failed(result: dict) -> int:
    return int(bool(result.get("failed")))


train = Command("train", "configs.train:command")
evaluate = Command("evaluate", "configs.runs.evaluation:evaluate", "configs.schema:EvaluateConfig", words=_task_by_name)
bench = Command("bench", "configs.bench:bench", "configs.schema:BenchConfig", _failed, _checkpoints)
tokens = Command("tokens", "configs.codec:tokens", "configs.schema:TokensConfig", words=_verb_as_key)
guide = Command("guide", "configs.runs.guiding:guide", "configs.schema:GuideConfig", words=_as_said)
why = Command("why", "configs.runs.explaining:why", "configs.schema:WhyConfig")
record = Command("record", "configs.arm.recording:record", "robot.settings:RecordConfig")
data = Command("data", "configs.arm.dataset:data", "robot.settings:DataConfig", words=_one_mark)
run = Command("run", "configs.arm.running:run", "robot.settings:RunConfig", _exit_code, _task_by_name)
play = Command("play", "configs.arm.playing:play", "robot.settings:PlayConfig")
serve = Command("serve", "configs.arm.planning:serve", "robot.settings:ServeConfig")
twin = Command("twin", "configs.arm.twin_process:serve", "sim.twin.twin:TwinConfig")

if __name__ == "__main__":
    known = (train, evaluate, bench, tokens, guide, why, record, data, run, play, serve, twin)
    names = {each.name: each for each in known}
    names["eval"] = evaluate  # as in semagram-eval
    if sys.argv[1:2] == [] or sys.argv[1] not in names:
        sys.exit(f"python -m configs.commands <name> ...: one of {', '.join(names)}")
    names[sys.argv.pop(1)]()
