"""semagram-eval: evaluate a checkpoint with its planner and without, and measure what a decision costs."""

from pathlib import Path

from configs.importing import importing

HELP = """\
semagram-eval: run a trained checkpoint for some episodes, with the planner and without it.

  semagram-eval checkpoint=runs/walker-walk/<run>                     the run's newest checkpoint, 10 episodes
  semagram-eval checkpoint=<run>/checkpoints/000050000 episodes=20    one checkpoint
  semagram-eval checkpoint=<run> video=true                           leave a video, too
  semagram-eval checkpoint=<run> planner.samples=256 planner.iterations=4
                                                                      plan with another budget than it was trained with
  semagram-eval checkpoint=<run> planner.deadline_ms=5                ... or for five milliseconds a decision

Keys, with their defaults:

  checkpoint=              a run folder, its checkpoints folder, or one checkpoint; it also says which task
  episodes=10              episodes; the planner and the policy alone get the same ones
  seed=100                 chooses the episodes
  video=false              leave rollout.mp4 (needs EGL or OSMesa; without them there is no video)
  drop=[]                  senses that fail in mid-episode, e.g. drop=[images.main], from control step drop_at=0 on
  paraphrases=false        true: each episode says its task in words that nothing was trained on (the walker's tasks)
  sentence=''              said in place of the task's own, where the checkpoint hears (senses=[...,language])
  randomise=off            mild or strong, and its ranges, for the SO-101's tasks: as in semagram-train
  planner.<key>=null       samples, policy_samples, elites, iterations, horizon, spread, min_spread, carry, anchor,
                           temperature, indifference, deadline_ms, replan_every, patience;
                           null leaves the checkpoint's own setting
  device=cpu               cpu, cuda or auto
  threads=1                of the CPU
  compile=auto             of the timed decisions; false is quicker to start and decides more slowly
  hydra.run.dir=...        where to put the results (default runs/evaluations/<time>-<process>)

Leaves in the folder: summary.json, returns.png (every episode with the planner and without) and, with video=true,
rollout.mp4 and its first plan (plan.svg, .png, .json). Progress goes to stderr; the last line of stdout is one JSON
object, the same as summary.json:

  drop, drop_at, sentence, paraphrases        what was asked for
  return_mean, return_std, return_interval    with the planner; the interval is the 95 % bootstrap one of the mean
  policy_return_mean, ...                     the same of the policy alone
  success_rate, policy_success_rate           episodes that succeeded at any step; null where the task does not tell
  tasks                                       the mean return of each of several tasks; null for one
  agreement                                   of several senses, how far each alone gives the latent of all: 1, the
                                              same; 0, no nearer than that of any other moment
  plan_ms_p50, plan_ms_p99                    one decision for one environment, from an observation to a token
  decisions_per_second                        of those, with the planner on
  plan_gflop                                  arithmetic of one plan, in the mean of these episodes
  imagined_per_plan                           calls of the world model's step in it
  gflop_per_control_step                      of a control step: its share of plans and of the updates in training;
                                              null without the run's summary.json
  train_seconds, env_steps_per_second         of the training up to this checkpoint; null where it does not say
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    run("evaluate", HELP, evaluate)


def evaluate(keys: dict, folder: Path) -> dict:
    """Evaluate with the settings `keys` and write everything to `folder`. Returns the summary.

    Raises ValueError, OSError.
    """
    from configs.preflight import check_there
    from configs.schema import EvaluateConfig
    from configs.strict import build

    config = build(EvaluateConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.runs.evaluation import Evaluation

    return Evaluation.begin(config).run(folder)


if __name__ == "__main__":
    main()
