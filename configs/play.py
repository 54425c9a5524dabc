"""semagram-play: play a sentence of tokens on an arm, simulated or real."""

from configs.importing import importing

HELP = """\
semagram-play: do what a sentence of tokens says, on an arm: motions, grips, looks, questions, a stop.

  semagram-play sentence=docs/arm.json                                  on the simulated arm
  semagram-play sentence=docs/arm.json robot=so101-twin                 through LeRobot's driver, on the hardware twin
  semagram-play sentence=my.json robot=so101 port=/dev/ttyACM0 id=my_arm   on yours. Read docs/robot.md first

A sentence is a JSON file, a list of tokens (docs/glyph.md). A move's control points have six columns, the joints in
LeRobot's order, each in its range scaled to -1 ... 1 (the gripper: closed ... open, unless grips say). The first motion
begins where the arm is (but one of degree 0, which jumps). One that does not end at rest is braked beyond its end, by
a stop or a question. Each event is told when it comes; at a question the arm rests until Enter is pressed; any other
line, or Ctrl-D, ends the sentence there. Everything goes through the safety gate (docs/gate.md).

Keys, with their defaults:

  sentence=                the file
  robot=so101-sim          so101-sim, so101-twin or so101
  control_hz=30            commands a second
  limits=                  careful (the default on a real arm), normal (elsewhere), or trained: docs/gate.md
  port=, id=               of robot=so101: the serial port, and the name it was calibrated under with lerobot-calibrate
  calibration_dir=         where its calibration is, if not where LeRobot keeps it
  port_file=               of robot=so101-twin: the port_file of a semagram-twin that runs already; else one is started

Progress goes to stderr. The last line of stdout is one JSON object:

  sentence                             as one line
  events                               what came when, e.g. "0.80 s grip(close)"
  finished                             false: it was ended at a question
  left_deg                             how far the last command was from the sentence's, where the gate held it back
  seconds                              of motion
  farthest_deg                         of the five joints before the gripper, how far one was from its curve at most
  largest_step_deg, mean_squared_jerk  how smoothly they were commanded (rad^2/s^6; not to be compared between
                                       the simulated arm, whose time is even, and others)
  late_ticks, p99_jitter_ms, ...       as of semagram-run
  driver                               LeRobot's name of the robot

A fault brakes and ends it with one line, exit code 1. A real arm is taken back to where it was found, then let go.
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    run("play", HELP, play)


def play(keys: dict, _folder) -> dict:
    """Play the sentence on the arm. Returns what happened. Raises ValueError, OSError, Ended."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.running.settings import PlayConfig

    config = build(PlayConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.arm.playing import Playing

    return Playing.begin(config).run()


if __name__ == "__main__":
    main()
