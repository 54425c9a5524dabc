"""semagram-serve: plan on this machine for a robot that another machine drives."""

from configs.importing import importing

HELP = """\
semagram-serve: plan on this machine for a robot that `semagram-run` drives from another. It runs until Ctrl-C,
SIGTERM or SIGHUP.

  openssl rand -hex 32 > secret && chmod 600 secret         once; copy it to the other machine
  semagram-serve checkpoint=runs/so101-touch/<run> secret=secret host=0.0.0.0
  semagram-run   checkpoint=runs/so101-touch/<run> secret=secret remote=<this machine>:7766 ...   over there

Keys, with their defaults:

  checkpoint=              a run folder, its checkpoints folder, or one checkpoint
  secret=                  a file with at least 16 bytes that only you can read
  host=127.0.0.1           where to listen; 0.0.0.0: on every network of this machine
  port=7766                0: any that is free; stderr says which
  seed=100                 of the planner's random numbers
  device=cpu               cpu, cuda or auto
  threads=1                of the CPU
  planner=true             false: the policy alone

Each message is sealed with the secret, and good once, on one connection: what is changed, repeated, of another version
or of another secret is refused in one line. Messages are numbers and short texts, never code. They are not hidden: on
a network you do not trust, put them through ssh (`ssh -L 7766:localhost:7766 ...`) or a VPN. One robot at a time: the
newest that knows the secret, and has this checkpoint, takes over. The last line of stdout is one JSON object:
decisions, refused.
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
    from policies.serving.sealing import read_secret
    from robot.running.settings import ServeConfig
    from robot.safety.signals import handled

    config = build(ServeConfig, keys)
    check_there(config)
    secret = read_secret(config.secret)
    from configs.arm.planning import decider
    from policies.serving.server import Server

    found = decider(Path(config.checkpoint), config.seed, config.device, config.threads, config.planner)
    server = Server((config.host, config.port), secret, found, lambda line: print(line, file=sys.stderr, flush=True))
    with handled(lambda *_: server.close()):
        host, port = server.address
        print(f"planning for {found.label} on {host}:{port}", file=sys.stderr, flush=True)
        server.run()
    return {"decisions": found.agent.spent.decisions, "refused": server.refused}


if __name__ == "__main__":
    main()
