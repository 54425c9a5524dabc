"""semagram-run: run a trained checkpoint on an arm, simulated or real."""

from configs.importing import importing

HELP = """\
semagram-run: run a checkpoint of one of the SO-101's tasks on an arm, at the rate it was trained for (30 Hz).

  semagram-run checkpoint=runs/so101-touch/<run>                                   on the simulated arm
  semagram-run checkpoint=... robot=so101-twin                                     through LeRobot's driver, on the
                                                                                   hardware twin: the dress rehearsal
  semagram-run checkpoint=... robot=so101 port=/dev/ttyACM0 id=my_arm target=[0.25,0.05,0.012] episodes=1
                                                                                   on yours. Read docs/robot.md first

The next curve is planned, in a process of its own, while the current one runs. If a plan is late the arm follows the
tail of the curve to rest, and goes on when the plan is there. Everything goes through the safety gate (docs/gate.md).

Keys, with their defaults:

  checkpoint=              a run folder, its checkpoints folder, or one checkpoint; it also says which task
  robot=so101-sim          so101-sim, so101-twin or so101
  episodes=10              how many
  seconds=0                of each; 0: as long as the task's episodes are in training
  target=[]                where the task's object is: x, y, z in metres from the arm's base (x forward, y left, z up);
                           needed on a real arm, unless the checkpoint has cameras and only the joints' state
                           (task.state=joints). The twin draws one for each episode, as training does
  robot_cameras={}         of an arm: those that the checkpoint looks through, with LeRobot's keys, e.g.
                           'robot_cameras={overhead:{type:opencv,index_or_path:0,width:640,height:480,fps:30}}'
  sentence=                what to do, for a checkpoint that hears it; the task's own if not given
  limits=                  careful (the default on a real arm), normal, or trained (the default elsewhere): docs/gate.md
  lead=2                   control steps before a curve ends that the next one is asked for
  seed=100                 chooses the episodes
  port=, id=               of robot=so101: the serial port, and the name it was calibrated under with lerobot-calibrate
  calibration_dir=         where its calibration is, if not where LeRobot keeps it
  port_file=               of robot=so101-twin: the port_file of a semagram-twin that runs already; else one is started
  remote=                  plan where semagram-serve does: its Unix socket, or localhost:<port>; ssh -L brings either
                           here from another machine
  viewer=terminal          terminal, none, or rerun, which a checkout has; else: uv pip install 'rerun-sdk>=0.32,<0.34'
  viewer_file=             of viewer=rerun: open no window, write to this file, for `rerun <file>`, on any machine
  real_time=false          ask the system to serve the control loop before everything else, the serial port's own
                           kernel threads included: only with cores to spare
  device=cpu, threads=1    of the planner; with remote= they are semagram-serve's
  planner=true             false: the policy alone decides (semagram-eval tells which of the two does better)

Progress goes to stderr. The last line of stdout is one JSON object:

  success_rate, episodes               episodes in which the task was done at any step, by its own judgement; null where
                                       nobody knows where things are
  control_hz                           ticks a second that there really were
  missed_deadlines                     plans that were not there when they were due, of `plans`
  p50_, p99_, max_jitter_ms            how late ticks began; late_ticks: by more than 5 ms; skipped_ticks: left out
  plan_ms_p50, plan_ms_p99             in the planner; round_ms_p50, round_ms_p99: from asking to having the answer
  largest_step_deg, mean_squared_jerk  how smoothly it was commanded: a joint's largest step in a tick, and the mean
                                       over ticks and joints of the jerk squared, in rad^2/s^6
  planner_losses                       how often the planner was lost, and looked for again
  faults                               what the arm was stopped for, in order
  driver                               LeRobot's name of the robot
  scheduling                           real-time, raised or ordinary: what the system granted the control loop
  ended                                done, fault, or the signal: exit codes 0, 1, and 128 + its number

Whatever ends it, the arm is braked, each motor released, the port closed. A released arm sinks: after the last episode
it is first taken back to where it was found.
"""


@importing()
def main() -> None:
    """Run the command; exit with 1 after a fault, with 128 + its number after a signal."""
    import signal

    from configs.command import run as command

    for result in command("run", HELP, run):
        if isinstance(result, dict) and result["ended"] != "done":
            raise SystemExit(1 if result["ended"] == "fault" else 128 + signal.Signals[result["ended"]])


def run(keys: dict, _folder) -> dict:
    """Run the checkpoint with the settings `keys`. Returns what happened. Raises ValueError, OSError."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.running.settings import RunConfig

    config = build(RunConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.arm.running import Running

    return Running.begin(config).run()


if __name__ == "__main__":
    main()
