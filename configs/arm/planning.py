"""A checkpoint's planner: as a service, in a process of its own on this machine, and what a robot begins it with."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from configs.arm.mcp_server import offer
from configs.reporting import say
from configs.runs.guiding import latent, remembered
from configs.runs.loading import Loaded, load_agent
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.alarms import NEVER, Alarms, Watch
from policies.cases import Uses
from policies.decisions.trace import traced
from policies.guidance.chosen import Chosen
from policies.guidance.shown import levels, plausible
from policies.ladder import UNDO, Ladder
from policies.planner_link.client import PlannerClient, reach
from policies.planner_link.messages import LONGEST_TEXT, Begin, Refusal, receive, send
from policies.planner_link.service import PlannerService, listening
from policies.storage.checkpoint import AgentSpec
from policies.tools import Tool
from robot.safety.stops import handled
from robot.settings import RunConfig, ServeConfig, planner_address
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import build

ENDING_S = 3.0


def begin_of(spec: AgentSpec, task: TaskConfig, lead: int = 1, instruction: str = "") -> Begin:
    """Return a robot's first message to a planner asked `lead` steps ahead; half of that is its deadline to plan."""
    token = spec.model.token
    sizes = Senses.of(spec.senses).sizes
    every = spec.planner.replan_every or token.length
    return Begin(
        task=task.label,
        state_size=spec.state_size,
        action_size=spec.action_size,
        control=task.control or "",
        control_hz=task.control_hz or 0.0,
        every=every,
        length=token.length,
        control_points=token.control_points,
        degree=token.degree,
        cameras=",".join(f"{camera}:{height}x{width}" for camera, (height, width) in sizes.items()),
        lags=",".join(map(str, spec.model.vision.frame_lags)) if sizes else "",
        sentence=instruction,
        deadline_ms=500.0 * min(lead, every) / task.control_hz if task.control_hz else 0.0,
    )


def planner_service(config: RunConfig | ServeConfig, say: Callable[[str], None] = lambda line: None) -> PlannerService:
    """Return a service with the config's agent; see `load_agent`, `Chosen.load`. Raises UserError without alarms."""
    loaded = load_agent(config.checkpoint, config.seed, config.device, config.threads, config.planner)
    chosen = Chosen.load(config.guidance, loaded.path, loaded.agent.model) if config.guidance.given else None
    run = config if isinstance(config, RunConfig) else None
    if run and chosen and run.shown:
        chosen = _shown(run.shown, loaded, chosen)
        run = replace(run, ask=len(chosen.wishes) > 1, shown="")
    if chosen and not (run and run.ask):
        chosen.guide(loaded.agent)
    watch = _watch(run, loaded, chosen) if run else None
    return PlannerService(loaded.agent, begin_of(loaded.spec, loaded.task), say, watch)


def _shown(said: str, loaded: Loaded, chosen: Chosen) -> Chosen:
    """Return those of the guidances that may be meant by a moment. Raises UserError."""
    model, guidances = loaded.agent.model, [each for each, _ in chosen.guidances]
    try:
        memory = remembered(loaded.path, model)
        z = latent(said, loaded.path, model, memory)
        found = chosen.only(plausible(guidances, levels(guidances, memory), z))
    except UserError as error:
        raise UserError(f"shown={said}: {error}") from error
    say(f"{said} may mean: {'; or: '.join(wish.sentence for wish in found.wishes)}")
    return found


def _watch(config: RunConfig, loaded: Loaded, chosen: Chosen | None) -> Watch | None:
    """Return what watches a run's planner: to ask which guidance is meant, to climb a ladder, or to make alarms."""
    if config.ask and chosen:
        sentences = [wish.sentence for wish in chosen.wishes]
        if len(set(sentences)) < len(sentences) or len(json.dumps(sentences)) > LONGEST_TEXT // 2:
            raise UserError(f"ask=true: short sentences that differ, not {'; '.join(sentences)}")
        options = dict(zip(sentences, (each for each, _ in chosen.guidances), strict=True))
        return Ladder(NEVER, ask=None, options=options)
    if config.ladder:
        alarms = Alarms.needed(loaded.path, chosen.sentence if chosen else "", config.robot)
        uses = Uses.kept(loaded.path, live=True)
        return Ladder(alarms, UNDO[loaded.task.control or ""], None, tools=Tool.each(config.tools), uses=uses)
    return Watch() if config.calibrate else None


def serve(config: ServeConfig, _folder: Path) -> dict:
    """Plan for robots at an address, until a signal ends it. Returns what was done. Raises ValueError, OSError."""
    with listening(planner_address(config.address, "address")) as listener:
        service = planner_service(config, say)
        with handled(lambda *_: service.close()):
            where = listener.getsockname()
            say(f"planning for {service.settings.task} at {where}")
            if config.mcp:
                offer(service, partial(service.serve, listener), config.checkpoint, where, config.mcp)
            else:
                service.serve(listener)
    return {"decisions": service.agent.totals.decisions, "refused": service.refused}


def planner_client(
    stack: ExitStack, config: RunConfig, checkpoint: Path, begin: Begin, say: Callable[[str], None], trace: str = ""
) -> PlannerClient:
    """Return a client, not yet connected, of the planner that `config` names; `trace`: a folder, "" for none."""
    if config.remote:
        client = PlannerClient(partial(reach, planner_address(config.remote, "remote")), begin, say)
    else:
        sock = start_planner(stack, replace(config, checkpoint=str(checkpoint)), trace)
        client = PlannerClient(lambda: sock, begin, say, patience_s=None, reconnect=False)
    stack.callback(client.close)
    return client


def start_planner(stack: ExitStack, config: RunConfig, trace: str) -> socket.socket:
    """Start a planner in a process of its own, which ends with the stack; return the robot's end of a socket to it.

    So a planner that dies cannot take the control loop with it. It is in a process group of its own, since Ctrl-C is
    for the robot's process, which then ends this one.
    """
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    with theirs:
        own = str(theirs.fileno()), json.dumps(asdict(config)), trace
        command = [sys.executable, "-P", "-m", "configs.arm.planning", *own]
        null, passed = subprocess.DEVNULL, [theirs.fileno()]
        process = subprocess.Popen(command, stdin=null, stdout=null, pass_fds=passed, process_group=0)
    stack.enter_context(process)
    stack.callback(_end, process)
    return ours


def _end(process: subprocess.Popen) -> None:
    """End a planner, which has been hung up on, at once or as soon as its trace is written."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_S)
    process.terminate()


def main() -> None:
    """Run the planner's process: answer until the robot hangs up, or refuse it with a reason."""
    descriptor, given, trace = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as sock:
        try:
            keys = json.loads(given)
            registry.load(keys["plugins"])
            service = planner_service(build(RunConfig, keys))
        except (UserError, OSError) as error:
            receive(sock)
            send(sock, Refusal.of(error))
        else:
            about = {"checkpoint": keys["checkpoint"], "task": service.settings.task}
            with traced(service.agent, Path(trace) if trace else None, about):
                service.converse(sock)


if __name__ == "__main__":
    main()
