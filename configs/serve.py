"""semagram-serve: plan on this machine for a robot that another machine drives."""

from configs.importing import importing

HELP = """\
semagram-serve: plan on this machine for a robot that `semagram-run` drives from another. It runs until Ctrl-C,
SIGTERM or SIGHUP.

  semagram-serve checkpoint=runs/so101-touch/<run>
  ssh -N -L $HOME/planner.sock:<folder>/planner.sock <this machine>                        over there, and in another
  semagram-run checkpoint=runs/so101-touch/<run> remote=$HOME/planner.sock ...             terminal

Keys, with their defaults:

  checkpoint=              a run folder, its checkpoints folder, or one checkpoint
  address=~/.semagram/planner.sock    a Unix socket in a folder that only you may enter; or localhost:<port> (0: any
                           that is free; stderr says which), which every user of this machine can reach
  seed=100                 of the planner's random numbers
  device=cpu               cpu, cuda or auto
  threads=1                of the CPU
  planner=true             false: the policy alone

Messages are numbers and short texts, never code. One robot at a time: the newest with this checkpoint takes over. The
last line of stdout is one JSON object: decisions, refused.
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    run("serve", HELP, serve)


def serve(keys: dict, _folder) -> dict:
    """Serve until stopped by a signal. Returns the numbers of decisions made and of robots refused.

    Raises ValueError, OSError.
    """
    import sys
    from pathlib import Path

    from configs.preflight import check_there
    from configs.strict import build
    from robot.running.settings import ServeConfig, planner_address
    from robot.safety.signals import handled

    config = build(ServeConfig, keys)
    check_there(config)
    from configs.arm.planning import planner_service
    from policies.planner_link.service import listening

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    own = config.seed, config.device, config.threads, config.planner
    with listening(planner_address(config.address, "address")) as listener:
        service = planner_service(Path(config.checkpoint), *own, say)
        name = listener.getsockname()
        place = name if isinstance(name, str) else f"localhost:{name[1]}"
        with handled(lambda *_: service.close()):
            say(f"planning for {service.settings.task} at {place}")
            service.serve(listener)
    return {"decisions": service.agent.spent.decisions, "refused": service.refused}


if __name__ == "__main__":
    main()
