"""semagram-serve: plan on this machine for a robot that another machine drives."""

from configs.command import run


def main() -> None:
    """Run the command."""
    run("serve", serve)


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
    return {"decisions": service.agent.totals.decisions, "refused": service.refused}


if __name__ == "__main__":
    main()
