"""semagram-bench: train on a suite with several runs in parallel, and make their table, curves and summary."""

import sys
from pathlib import Path

from configs.importing import importing

HELP = """\
semagram-bench: train on every task of a suite with several seeds, and compare with published results.

  semagram-bench                                       three tasks, one seed, 20,000 steps: a first look
  semagram-bench suite=dmc-100k                        eight tasks x three seeds x 100,000 steps
  semagram-bench suite=dmc-ablation agent=white noise=white
                                                       the same with a setting changed, under a name of its own
  semagram-bench tasks=[walker-run,Pendulum-v1] steps=50000 seeds=2
  semagram-bench table=docs/results/dmc-100k.csv readme=README.md
                                                       write the README's table from a results file; runs nothing
  semagram-bench suite=dmc-quick peer=tdmpc2 peer.path=../tdmpc2
                                                       run the official TD-MPC2 too, from a checkout of it

It can be stopped at any moment, even killed, and goes on where it was when the same command is given again: finished
runs are in results.csv, others have checkpoints. A worker that dies is tried again, three times at most.

Keys, with their defaults:

  suite=dmc-quick          dmc-quick, dmc-100k or dmc-ablation
  tasks=[]                 these tasks instead of the suite's (suite names, or Gymnasium ids)
  seeds=null               how many seeds, 1 and up; null: as many as the suite says
  steps=null               environment steps of a run; null: as many as the suite says
  workers=auto             runs at a time; auto: one for each core
  agent=semagram           the name in the results for these settings
  out=runs/bench/<suite>-<agent>
                           the folder for everything
  table=""                 a results file, or a list of them, to make a table of instead of running anything
  readme=""                with table=: a Markdown file to put it in, where <!-- results:begin --> stands
  peer=none                tdmpc2: run the official TD-MPC2 as well
  peer.path=""             its checkout
  peer.python=""           an interpreter that has what it needs; else an environment is made with uv, once
  peer.decisions=0         above 0: run no suite, but time so many of its decisions and of ours in alternation

  senses=[state]           what is perceived, as in semagram-train; image_size=64

Every key of semagram-train except task, randomise, seed and resume works, too: device, threads (of one worker),
compile, envs, seed_steps, noise, scarcity, demonstrations, takeover, video (here false), token, model.*,
learning.*, planner.*, replay.*, evaluation.*, checkpoint.*.

Leaves in the folder: results.csv (a line a run), table.md, curves.png and every run's own folder <task>-seed<seed>,
with its log.txt. Progress goes to stderr; the last line of stdout is one JSON object. Exit code 1 if a run failed.
"""


@importing()
def main() -> None:
    """Run the command; exit with code 1 if a run failed."""
    from configs.command import run

    outcome = run("bench", HELP, bench)
    if any(result.get("failed") for result in outcome):
        sys.exit(1)


def bench(keys: dict, folder: Path) -> dict:
    """Run a suite, time a duel with a peer, or only make tables, as `keys` say. Returns the result.

    Raises ValueError, OSError.
    """
    from configs.arguments import check_eyes, given
    from configs.schema import BenchConfig
    from configs.strict import build

    config = build(BenchConfig, keys)
    if config.table:
        return tabulate(config)
    check_eyes(config, given())
    if config.peer.decisions:
        from configs.suites.duel import duel

        return duel(config, folder)
    from configs.suites.benchmark import Benchmark

    return Benchmark.begin(config, folder).run()


def tabulate(config) -> dict:
    """Make the table of one or several results files; write it into `readme` or, without one, to stderr.

    Returns the summary of `agent`. Raises ConfigError if the files hold no result of ours, the same run twice, one task
    at different numbers of steps (a mean would mix them), or no result of the chosen agent.
    """
    from configs.schema import BenchConfig
    from configs.strict import ConfigError
    from configs.suites import report
    from envs.benchmark.results import read

    paths = [config.table] if isinstance(config.table, str) else config.table
    parts = [read(path) for path in paths]
    results = [result for part in parts for result in part]
    names, agent, files = report.agents(results), config.agent, ", ".join(paths)
    if not names:
        raise ConfigError(f"table={files}: no results of ours")
    if twice := report.in_several(parts):
        raise ConfigError(f"table={files}: more than one has {twice}; run one of them as agent=<another name>")
    if mixed := report.mixed(results):
        raise ConfigError(f"table={files}: {mixed}; keep the lines of one")
    if agent not in names:
        if agent != BenchConfig.agent:
            raise ConfigError(f"agent={agent}: not in {files}, which have {', '.join(names)}")
        agent = names[0]
    if config.readme:
        changed = report.update_readme(Path(config.readme), results)
        print(f"{config.readme}: {'written' if changed else 'was up to date'}", file=sys.stderr)
    else:
        print(report.document(results), file=sys.stderr)
    return {"table": paths, **report.summary(results, agent)}


if __name__ == "__main__":
    main()
