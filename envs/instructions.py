"""An instruction for each task, and paraphrases that no agent is ever trained on. Cheap to import."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envs import suite
from sim.so101.tasks import TASKS as ARM_TASKS
from worldmodel.errors import UserError

if TYPE_CHECKING:
    import gymnasium

    from envs.settings import TaskConfig

LONGEST = 120  # characters
CHARACTERS = "".join(map(chr, [*range(32, 127), *range(161, 256)]))
"""Characters allowed in an instruction: printable ASCII and Latin-1. (`gymnasium.spaces.Text` needs them listed.)"""

INSTRUCTIONS: dict[str, str] = {
    **{name: suite.TASKS[" ".join(pair)] for name, pair in suite.BY_NAME.items()},
    **{name: task.instruction for name, task in ARM_TASKS.items()},
}
"""The training instruction of each task, by task name."""


def check(text: str, where: str) -> str:
    """Return `text`. Raises ValueError, naming its key `where`, if it is blank, too long or not all in CHARACTERS."""
    if not text.strip(" .!"):
        raise UserError(f"{where}: {text!r} is without text; it says what to do, e.g. 'walk forward'")
    if len(text) > LONGEST:
        raise UserError(f"{where}: {len(text)} characters; at most {LONGEST}")
    if odd := sorted(set(text) - set(CHARACTERS)):
        raise UserError(f"{where}: {text!r} has characters outside Latin-1: {' '.join(map(repr, odd))}")
    return text


def instruct(envs: "Sequence[gymnasium.Env]", task: "TaskConfig", instruction: str, first: int = 0) -> None:
    """Set the instruction of a task's environments; if it is empty, give each a paraphrase of its task in turn.

    `first` is the number of the first environment, at which the count of the paraphrases starts.

    Raises:
        ValueError: if `instruction` is empty and a task has no paraphrases.
    """
    if lacking := [part.name for part in task.parts if not instruction and part.name not in PARAPHRASES]:
        raise UserError(f"paraphrases=true: there are none of {', '.join(lacking)}; of {', '.join(PARAPHRASES)}")
    for number, env in enumerate(envs, first):
        turn = number // len(task.parts)  # so that every task goes through all its paraphrases
        for name, part in getattr(env, "parts", {task.name: env}).items():
            words = instruction or PARAPHRASES[name][turn % len(PARAPHRASES[name])]
            part.set_wrapper_attr("instruction", words)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split("; "))


PARAPHRASES: dict[str, tuple[str, ...]] = {
    "walker-stand": _parts(
        """
        stand still; stay on your feet; get up and keep standing; hold your body upright; remain standing; keep your
        balance and stay where you are; stand tall without moving; rise to your feet and stay there; do not go
        anywhere, just stand; keep upright in one place; stop and stand; balance on both legs; please stand up; hold
        a standing position; stay upright; straighten up and hold still; stand in place; be still on two legs; keep
        your torso vertical and your feet planted; maintain a standing posture
        """
    ),
    "walker-walk": _parts(
        """
        stroll ahead; go for a walk; take steps forward at an easy pace; move forward at walking speed; walk
        straight on; step forward steadily; amble along; please walk; keep walking; march ahead calmly; proceed on
        foot without hurrying; walk ahead at a gentle pace; advance slowly, one step after another; stride forward;
        make your way forward on foot; pace forward; move ahead slowly; walk at a normal speed; take a leisurely
        walk; go forward step by step
        """
    ),
    "walker-run": _parts(
        """
        sprint; jog as fast as possible; run ahead at full speed; dash forward; race ahead; go as fast as you can;
        hurry forward at top speed; keep running; please run; move forward very fast; bolt straight ahead; rush
        ahead; sprint forward; gallop along; speed up and run; run quickly; charge ahead; go forward at a run; tear
        along as quickly as possible; take off running
        """
    ),
}
"""Paraphrases for evaluating an agent, by task name; never to be trained on."""
