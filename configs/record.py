"""semagram-record: record episodes of an arm as a LeRobotDataset; each is safe on disk as soon as it is finished."""

import sys

from configs.importing import importing

HELP = """\
semagram-record: record episodes of an SO-101, simulated or real, as a LeRobotDataset (version 3).

  semagram-record dataset=runs/touch                        20 demonstrations by a script, in simulation
  semagram-record dataset=runs/lift task=pick-lift episodes=50 cameras=[front,wrist]
  semagram-record dataset=runs/mine task=touch by=policy checkpoint=runs/so101-touch/<run>
  semagram-record dataset=runs/bowl robot=so101 port=/dev/ttyACM0 id=my_arm sentence='Put the cube in the bowl.' \\
      by=teleop teleop.type=so101_leader teleop.port=/dev/ttyACM1 teleop.id=my_leader seconds=20 reset_seconds=10

An episode is safe when its line says so: neither Ctrl-C nor kill -9 nor a power cut takes it back. The same command
goes on where the last one stopped, until there are so many episodes.

Keys, with their defaults:

  dataset=""               the folder of the dataset; it appears, and grows, whole or not at all
  episodes=20              in all, those that are already there among them
  robot=so101-sim          the simulated arm; so101: a real one; so101-twin: one that semagram-twin serves
  by=expert                a script (touch, pick-lift); policy: a checkpoint; teleop: a person
  task=touch               in simulation: touch, look-at, move, pick-lift, pick-return, pick-and-place, stack-cube
  sentence=""              the task in words; simulated tasks have their own
  seconds=0                an episode's length at most; 0: as the task says, on a real arm 30
  reset_seconds=0          between episodes, driven but not recorded, to put things back
  control_hz=30            goals a second, a whole number
  paced=auto               in simulation: true makes a second last a second, as a person needs
  real_time=false          ask the system to serve the control loop before everything else, the serial port's own
                           kernel threads included: only with cores to spare
  limits=                  careful (the default on a real arm), normal (elsewhere), or trained: docs/gate.md
  seed=0                   which layouts, and how the script varies
  cameras=[]               in simulation: front, wrist, overhead; camera.width=320 camera.height=240
  video=true               cameras as videos, of at least 32 pixels a side; false: as images
  port="" id="" calibration_dir=""     so101: as LeRobot knows the arm
  robot_cameras={}         so101: as LeRobot's, e.g. 'robot_cameras={front:{type:opencv,index_or_path:0,width:640,..}}'
  port_file=""             so101-twin: the port_file of a semagram-twin that runs already; else one is started
  teleop.type="" teleop.port="" teleop.id=""    any of LeRobot's teleoperators; its other keys as +teleop.key=value
  checkpoint=""            by=policy: a run folder or a checkpoint; planner=false: its policy alone;
                           device=cpu threads=1 are the planner's

Each step holds what was read (observation.state, observation.images.<camera>), what was sent after the safety gate
(action), and when it really was (measured_timestamp, seconds; LeRobot's own timestamp is frame_index / fps); in
simulation next.success, too. The table of episodes (meta/episodes) holds success, seed, control_hz, late_frames, by.

Beside the dataset lies its picture. Progress goes to stderr; the last line of stdout is one JSON object: episodes,
frames, success_rate, control_hz, late_frames (more than 5 ms late), tasks and by (episodes of each), dataset,
picture, ...

Exit codes: 0 done, 1 ended by a fault, 2 a mistake in the command, 128 + its number a signal (130: Ctrl-C).
"""


@importing()
def main() -> None:
    """Run the command."""
    from configs.command import run

    # Hydra would take `task` for the config group of that name; here it is a plain key.
    sys.argv = [f"job{word[4:]}" if word.startswith("task=") else word for word in sys.argv]
    run("record", HELP, record)


def record(keys: dict, _folder) -> dict:
    """Record with the settings `keys`. Returns the summary. Raises ValueError, OSError."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.recording.settings import RecordConfig

    keys["task"] = keys.pop("job")
    config = build(RecordConfig, keys)  # report mistakes before the slow import of LeRobot
    check_there(config)
    from configs.arm.recording import Recording

    return Recording(config).run()


if __name__ == "__main__":
    main()
