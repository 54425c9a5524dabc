"""A sentence for each task, and paraphrases that no agent is ever trained on. Cheap to import."""

from envs import suite
from worldmodel.errors import UserError

LONGEST = 120  # characters
CHARACTERS = "".join(map(chr, [*range(32, 127), *range(161, 256)]))
"""Characters allowed in a sentence: printable ASCII and Latin-1. (`gymnasium.spaces.Text` needs them listed.)"""

SENTENCES: dict[str, str] = {
    "acrobot-swingup": "swing the two linked poles up and balance them",
    "acrobot-swingup-sparse": "swing the two linked poles up and hold them exactly upright",
    "ball-in-cup-catch": "catch the ball in the cup",
    "cartpole-balance": "keep the pole balanced on the cart",
    "cartpole-balance-sparse": "keep the pole exactly upright and the cart in the middle",
    "cartpole-swingup": "swing the pole up and balance it on the cart",
    "cartpole-swingup-sparse": "swing the pole up and hold it exactly upright in the middle",
    "cartpole-two-poles": "balance two linked poles on the cart",
    "cartpole-three-poles": "balance three linked poles on the cart",
    "cheetah-run": "run forward as fast as you can",
    "dog-stand": "stand upright on all four legs and stay where you are",
    "dog-walk": "walk forward at a steady pace",
    "dog-trot": "trot forward briskly",
    "dog-run": "run forward as fast as you can",
    "dog-fetch": "fetch the ball and bring it back",
    "finger-spin": "keep the body spinning",
    "finger-turn-easy": "turn the body until its tip is in the large target",
    "finger-turn-hard": "turn the body until its tip is in the small target",
    "fish-upright": "float upright",
    "fish-swim": "swim to the target",
    "hopper-stand": "stand upright and stay where you are",
    "hopper-hop": "hop forward",
    "humanoid-stand": "stand upright and stay where you are",
    "humanoid-walk": "walk forward at a steady pace",
    "humanoid-run": "run forward as fast as you can",
    "humanoid-run-pure-state": "run forward as fast as you can, feeling only your joints",
    "humanoid-CMU-stand": "stand upright and stay where you are",
    "humanoid-CMU-walk": "walk forward at a steady pace",
    "humanoid-CMU-run": "run forward as fast as you can",
    "lqr-lqr-2-1": "bring two masses to rest in the middle by pushing one of them",
    "lqr-lqr-6-2": "bring six masses to rest in the middle by pushing two of them",
    "manipulator-bring-ball": "bring the ball to the target",
    "manipulator-bring-peg": "bring the peg to the target",
    "manipulator-insert-ball": "put the ball into the basket",
    "manipulator-insert-peg": "put the peg into the slot",
    "pendulum-swingup": "swing the pendulum up and balance it",
    "point-mass-easy": "move to the middle",
    "point-mass-hard": "find out how you are pushed, and move to the middle",
    "quadruped-walk": "walk forward at a steady pace",
    "quadruped-run": "run forward as fast as you can",
    "quadruped-escape": "climb out of the hilly ground",
    "quadruped-fetch": "fetch the ball and bring it to the target",
    "reacher-easy": "reach the large target with the fingertip",
    "reacher-hard": "reach the small target with the fingertip",
    "stacker-stack-2": "stack two boxes at the target",
    "stacker-stack-4": "stack four boxes at the target",
    "swimmer-swimmer6": "swim with six links until your nose is at the target",
    "swimmer-swimmer15": "swim with fifteen links until your nose is at the target",
    "walker-stand": "stand upright and stay where you are",
    "walker-walk": "walk forward at a steady pace",
    "walker-run": "run forward as fast as you can",
    "so101-touch": "touch the cube with the gripper",
    "so101-look-at": "turn the gripper to look at the cube",
    "so101-move": "move the gripper to the given place",
    "so101-pick-lift": "pick up the cube and lift it",
    "so101-pick-return": "pick up the cube and come back to where you began",
    "so101-pick-and-place": "pick up the cube and put it on the target",
    "so101-stack-cube": "stack one cube on the other",
}
"""The training sentence of each task, by task name."""


def other_words(number: int) -> dict[str, str]:
    """Return one paraphrase per task that has any: number `number`, modulo how many the task has."""
    return {name: said[number % len(said)] for name, said in PARAPHRASES.items()}


PARAPHRASES: dict[str, tuple[str, ...]] = {
    "walker-stand": (
        "stand still",
        "stay on your feet",
        "get up and keep standing",
        "hold your body upright",
        "remain standing",
        "keep your balance and stay where you are",
        "stand tall without moving",
        "rise to your feet and stay there",
        "do not go anywhere, just stand",
        "keep upright in one place",
        "stop and stand",
        "balance on both legs",
        "please stand up",
        "hold a standing position",
        "stay upright",
        "straighten up and hold still",
        "stand in place",
        "be still on two legs",
        "keep your torso vertical and your feet planted",
        "maintain a standing posture",
    ),
    "walker-walk": (
        "stroll ahead",
        "go for a walk",
        "take steps forward at an easy pace",
        "move forward at walking speed",
        "walk straight on",
        "step forward steadily",
        "amble along",
        "please walk",
        "keep walking",
        "march ahead calmly",
        "proceed on foot without hurrying",
        "walk ahead at a gentle pace",
        "advance slowly, one step after another",
        "stride forward",
        "make your way forward on foot",
        "pace forward",
        "move ahead slowly",
        "walk at a normal speed",
        "take a leisurely walk",
        "go forward step by step",
    ),
    "walker-run": (
        "sprint",
        "jog as fast as possible",
        "run ahead at full speed",
        "dash forward",
        "race ahead",
        "go as fast as you can",
        "hurry forward at top speed",
        "keep running",
        "please run",
        "move forward very fast",
        "bolt straight ahead",
        "rush ahead",
        "sprint forward",
        "gallop along",
        "speed up and run",
        "run quickly",
        "charge ahead",
        "go forward at a run",
        "tear along as quickly as possible",
        "take off running",
    ),
}
"""Paraphrases for evaluating an agent, by task name; never to be trained on."""


def sentence(name: str) -> str:
    """Return the sentence of a suite or arm task, by any of its names."""
    return SENTENCES[suite.ALIASES.get(name, name)]


def check(text: str, where: str) -> str:
    """Return `text`. Raises ValueError, naming its key `where`, if it is blank, too long or not all in CHARACTERS."""
    if not text.strip(" .!"):
        raise UserError(f"{where}: {text!r} is without text; it says what to do, e.g. 'walk forward'")
    if len(text) > LONGEST:
        raise UserError(f"{where}: {len(text)} characters; at most {LONGEST}")
    if odd := sorted(set(text) - set(CHARACTERS)):
        raise UserError(f"{where}: {text!r} has characters outside Latin-1: {' '.join(map(repr, odd))}")
    return text
