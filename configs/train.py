"""semagram-train: train a world model on a task. Leaves a run folder with a plot, a video and checkpoints."""

from pathlib import Path

from configs.importing import importing

HELP = """\
semagram-train: train a latent world model that plans, on a task in simulation.

  semagram-train                                    the default task, cartpole-swingup
  semagram-train task=walker-walk seed=3            any dm_control suite task by its name
  semagram-train task=so101-touch steps=60000       a task of the SO-101 arm (its keys are below)
  semagram-train task=gym task.id=Pendulum-v1       any installed Gymnasium environment with continuous actions
  semagram-train resume=runs/walker-walk/<run>      go on where it stopped, bit for bit

Keys, with their defaults (a key is set as key=value, in any order):

  task=cartpole-swingup    what to learn; `python -m envs.suite` lists the suite's names
  steps=25000              environment steps in all (enough for the default task; most want 100000 or more)
  seed=1                   makes the run repeatable
  envs=1                   environments stepped side by side (more cores, more of them)
  device=cpu               cpu, cuda or auto
  threads=1                of the CPU; a second one brings little at these sizes
  compile=auto             true, false, or auto: where a C++ compiler is found
  video=true               leave rollout.mp4 (needs EGL or OSMesa; without them the run goes on without a video)
  seed_steps=500           random control steps before it learns (one: an action, held for task.action_repeat steps)
  noise=mixed              what exploring adds: pink (swings of every duration), white, or mixed (episodes by turns)
  scarcity=0               0.01: where less than 1 % of all steps had another reward than the median one, an episode
                           explores all of the range of actions; for rewards that are hard to find
  senses=[state]           what is perceived: state, images.<camera> (images.main: the task's usual one), language;
                           any of them together, e.g. senses=[state,images.main]; each may fail later (semagram-eval)
  image_size=64            height and width of the frames, in pixels; a camera's own size stands behind its name,
                           a square's or height by width: senses=[state,images.front:96,images.wrist:48x64]
  replay.capacity=1000000  control steps it remembers; with cameras at most replay.frames=100000, each of
                           12 kB at 64 x 64 pixels
  evaluation.every=50000   environment steps between evaluations of evaluation.episodes=10 episodes
  checkpoint.every=10000   environment steps between checkpoints; the newest checkpoint.keep=2 stay
  token=step               what is decided as one: a control step, or a straight line over several that begins where the
                           last one ended: line4 (for the arm's touch), line2; docs/trainer.md says which for what.
                           Other curves: model.token.length=8 model.token.knots=4 model.token.degree=3 ...
  hydra.run.dir=...        where to put the run folder (default runs/<task>/<time>-seed<seed>)

The SO-101's tasks: so101-touch, -look-at, -move, -pick-lift, -pick-return, -pick-and-place, -stack-cube. Their keys:

  task.control_hz=30       joint targets a second, as LeRobot's loops send them
  task.control=tied        an action moves the last target (at most 2.5 rad/s, the gripper 5), so that a curve begins
                           where the last ended; absolute: it says the target itself, anywhere in the joint's range
  task.end_on_success=false  true ends an episode where it succeeds
  demonstrations=0         so many episodes, the first ones, are driven by a script (touch and pick-lift have one), and
                           imitated; learning.demonstrated=0.5 of each batch begins with a step of a script's
  takeover=0               how likely the script takes over at each control step of a later episode, until its end:
                           0.01 shows it how to mend its own mistakes; learning.expert=10 is what imitating weighs
  task.state=full          joints: only what the arm's encoders tell; where things are has to be seen, e.g. with
                           senses=[state,images.overhead]
  randomise=off            mild or strong: each episode's arm differs from its model; each range is a key, too:
                           randomise.gains, .friction, .masses (factors), .latency_ms, .offset_deg (of the calibration),
                           .camera_mm, .camera_deg, .light (factor), e.g. randomise=mild randomise.latency_ms=[0,40]

Several tasks of one body in one agent, told apart by their sentences; each episode is one of them:

  semagram-train task=multi task.names=[walker-stand,walker-walk,walker-run] senses=[state,language] steps=300000
  task.sentence='...'      a single task in your own words (with senses=[...,language])

The model, its learning and its planner have keys of their own: `semagram-train --cfg job` prints them all; what each
means stands in worldmodel/settings.py, policies/settings.py and envs/settings.py.

Leaves in the run folder: config.yaml, metrics.csv, summary.json, curve.png, rollout.mp4 and its first plan
(plan.svg, .png, .json), checkpoints/.
Progress goes to stderr; the last line of stdout is one JSON object, the same as summary.json.
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    run("train", HELP, train)


def train(keys: dict, folder: Path) -> dict:
    """Train with the settings `keys` and write everything to `folder`, or to the run folder that `resume` names.

    Returns the summary. Raises ValueError, OSError.
    """
    from configs.arguments import check_eyes, given, moved
    from configs.schema import TrainConfig
    from configs.strict import ConfigError, build

    if keys["resume"] and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={keys['resume']}, which goes on in its own folder")
    if not keys["resume"]:  # a resumed run takes its task and more from its checkpoint
        check_eyes(build(TrainConfig, keys), given())  # report mistakes before the slow import of PyTorch
    from configs.runs.training import Training

    return Training.begin(keys, folder, given()).run()


if __name__ == "__main__":
    main()
