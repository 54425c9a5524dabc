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
    from policies.serving.sealing import read_secret
    from robot.running.settings import ServeConfig
    from robot.safety.signals import handled

    config = build(ServeConfig, keys)
    check_there(config)
    secret = read_secret(config.secret)
    from configs.arm.planning import decider
    from policies.serving.server import Server
    from policies.storage.checkpoint import find_checkpoint

    found = decider(
        find_checkpoint(Path(config.checkpoint)), config.seed, config.device, config.threads, config.planner
    )
    server = Server((config.host, config.port), secret, found, lambda line: print(line, file=sys.stderr, flush=True))
    with handled(lambda *_: server.close()):
        host, port = server.address
        print(f"planning for {found.label} on {host}:{port}", file=sys.stderr, flush=True)
        server.run()
    return {"decisions": found.agent.spent.decisions, "refused": server.refused}


if __name__ == "__main__":
    main()
