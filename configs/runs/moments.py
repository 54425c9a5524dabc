"""An episode up to a decision, of an evaluation played again or of a recording: what was before it, and what came."""

import copy
from collections import deque
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPException
from operator import itemgetter
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from configs.reporting import progress_bar, say
from configs.runs.evaluation import Evaluation
from configs.runs.film import HEIGHT, WIDTH
from configs.runs.recordings import as_recordings
from envs.cameras import frame
from policies.decisions.graph import Explainer
from policies.planner_link.messages import ASKED, LARGEST, Question, unframed
from policies.planner_link.service import observed
from policies.text_encoder import WORDS
from policies.training.episodes import Step, play
from policies.training.rollouts import evaluated
from sim.renderer import RenderingUnavailable
from worldmodel.errors import UserError
from worldmodel.mppi import Plan
from worldmodel.observation import FrameHistory, Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, is_image

PATIENCE_S = 5.0  # for a running arm to answer


@dataclass(frozen=True)
class Moment:
    """A decision as made: where its first curve begins (A,), the true quantities, the scene.

    `recorded`: what was really done then, if it is a moment of a recording.
    """

    step: int
    seen: Observation
    reached: Tensor
    plan: Plan
    tokens: Float[Tensor, "T P"]
    by_policy: bool
    actions: tuple[Tensor, ...]
    quantities: Tensor
    picture: np.ndarray | None
    recorded: Float[Tensor, " A"] | None = None


def played_again(evaluation: Evaluation, episode: int, step: int, around: int) -> tuple[list[Moment], int, dict]:
    """Play the evaluation's episode again, up to the decision asked for; return the decisions and `metadata`."""
    agent, seed = evaluation.agent(True), evaluation.config.seed
    with closing(evaluation.episodes(render=True)) as episodes:
        if step >= episodes.limit:
            raise UserError(f"step={step}: episode {episode} has {episodes.limit} steps at most")
        batch, of = divmod(episode, episodes.env.num_envs)
        most = episodes.env.num_envs
        for before in range(batch):  # what is drawn for a plan depends on all plans before
            running = evaluated(episodes.batch(before * most), agent, seed, before * most)
            play(running, agent, episodes.limit, once=True)
        running = evaluated(episodes.batch(batch * most), agent, seed, batch * most)
        found: deque[Moment] = deque(maxlen=around + 1)
        later: list[Moment] = []
        actions: list[Tensor] = []
        first = step - (around + 1) * agent.most

        def act(observation: Observation, own: Tensor) -> Tensor:
            now = int(running.lengths[of])
            near = now >= first
            seen, reached = observation, agent.reached
            if near:
                seen, reached = copy.deepcopy(agent.frames).see(observation), agent.reached.clone()
            action = agent.act(observation, own)
            if near and bool(agent.planned[of]):
                row, plan = slice(of, of + 1), agent.plan
                assert plan is not None and agent.decision is not None
                own_reached = reached[of] if len(reached) else torch.zeros(agent.model.shared)
                seen = agent.recognised_in(seen).map(lambda x: x[row])
                (later if now > step else found).append(
                    Moment(
                        *(now, seen, own_reached, _of(plan, of), agent.decision.tokens[:, of]),
                        *(bool(agent.decision.by_policy[of]), tuple(actions), running.quantities[of]),
                        _picture(running.env.envs[of]),
                    )
                )
            actions.append(action[of])
            bar.update()
            return action

        def after(made: Step) -> bool:
            enough = len(later) >= around and int(running.lengths[of]) > step
            return enough or bool(made.ended[of])

        with progress_bar(step, desc=f"episode {episode}") as bar:
            play(running, agent, episodes.limit, after, once=True, act=act)
        if not found or int(running.lengths[of]) <= step:
            raise UserError(f"step={step}: episode {episode} has {int(running.lengths[of])} steps")
        return [*found, *later], len(found) - 1, dict(running.env.metadata)


def recorded_again(
    evaluation: Evaluation, data: str, episode: int, step: int, around: int
) -> tuple[list[Moment], int, dict]:
    """Plan anew at moments of a recorded episode, after what was really done there; as `played_again` returns it.

    Raises DatasetError, UserError.
    """
    agent, task = evaluation.agent(True), evaluation.loaded.task
    model, planner = agent.model, agent.planner
    assert planner is not None
    if not task.is_arm:
        raise UserError(f"data={data}: only for an agent of the SO-101, not of {task.label}")
    recordings = as_recordings(task, model.senses, [data], evaluation.config.cache_gb)
    known = {each.episode.number: each for each in recordings.shown}
    if episode not in known:
        raise UserError(f"episode={episode}: {data} has {min(known)} to {max(known)}")
    shown, count = known[episode], len(known[episode].action)
    if step >= count:
        raise UserError(f"step={step}: episode {episode} of {data} has {count} steps")
    every, history, moments = agent.most, FrameHistory(model.config.vision.frame_lags), []
    places = range(max(step - around * every, step % every), min(step + around * every + 1, count), every)
    camera = next(filter(is_image, model.senses), None)
    for now in range(places[-1] + 1):
        seen = history.see(shown.observation.map(itemgetter(slice(now, now + 1))))
        if now in places:
            reached = shown.action[now - 1, : model.shared] if now else torch.zeros(model.shared)
            plan = planner.plan(seen, None, agent.generator, None, reached[None])
            picture = None if camera is None else shown.observation.values[camera][now].numpy()
            nothing, done = torch.zeros(0), shown.action[now]  # no quantities are known
            moments.append(Moment(now, seen, reached, plan, plan.tokens[:, 0], False, (), nothing, picture, done))
    with closing(evaluation.episodes(together=1)) as episodes:
        return moments, places.index(step), dict(episodes.env.metadata)


def last_asked(live: str) -> Question:
    """Return what a run last asked its planner, by its page's address. Raises UserError."""
    try:
        with urlopen(f"{live.rstrip('/')}/{ASKED}", timeout=PATIENCE_S) as reply:
            question = unframed(reply.read(LARGEST))
    except HTTPError as error:
        error.close()
        raise UserError(f"live={live}: no run asks its planner there (yet)") from error
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"live={live}: no run answers; the address that semagram-run viewer=web says") from error
    if not isinstance(question, Question):
        raise UserError(f"live={live}: no question to a planner")
    return question


def planned_anew(evaluation: Evaluation, question: Question) -> tuple[list[Moment], int, dict]:
    """Plan anew what a running arm asked; as `played_again` returns it. Raises UserError for another's question."""
    agent, task = evaluation.agent(True), evaluation.loaded.task
    planner = agent.planner
    assert planner is not None
    if agent.model.shared:
        raise UserError("live=: not for tokens that are joined (model.token.joined)")
    told = WORDS.encode([task.instruction]) if LANGUAGE_KEY in agent.model.senses else torch.zeros(0)
    seen = agent.recognised_in(observed(agent.model, question, told))
    plan = planner.plan(seen, None, agent.generator, None, torch.zeros(1, 0))
    picture = question.frames[0][-1] if question.frames else None
    moment = Moment(question.frame, seen, torch.zeros(0), plan, plan.tokens[:, 0], False, (), torch.zeros(0), picture)
    with closing(evaluation.episodes(together=1)) as episodes:
        return [moment], 0, dict(episodes.env.metadata)


def followed(evaluation: Evaluation, episode: int, moment: Moment, explainer: Explainer) -> Float[Tensor, "T D"] | None:
    """Carry the plan out from there, without another look; return the latents that really followed, or None."""
    agent, model = evaluation.agent(True), explainer.model
    history, latents = FrameHistory(model.config.vision.frame_lags), []
    with closing(evaluation.episodes(together=1)) as episodes:
        running = evaluated(episodes.batch(episode), agent, evaluation.config.seed, episode)
        running.begin(running.everywhere)
        seen = history.see(running.now)
        for action in moment.actions:
            running.step(action[None])
            seen = history.see(running.now)
        if STATE_KEY in seen.values and not torch.equal(seen.values[STATE_KEY], moment.seen.values[STATE_KEY]):
            say(f"step {moment.step}: the environment is not deterministic, so what really followed is unknown")
            return None
        length = agent.curve.length
        planned = agent.curve.actions(moment.tokens[:, None], length * len(moment.tokens))[0].clamp(-1, 1)
        for n, action in enumerate(planned, 1):
            if bool(running.step(action[None]).ended):
                say(f"step {moment.step}: the episode ends within the plan, so what really followed is unknown")
                return None
            seen = history.see(running.now)
            if n % length == 0:
                latents.append(explainer.encode(agent.recognised_in(seen))[0])
    return torch.stack(latents)


def _of(plan: Plan, of: int) -> Plan:
    """Return the plan of one environment."""
    row = slice(of, of + 1)
    rest = {name: getattr(plan, name)[row] for name in ("returns", "weights", "latent")}
    return replace(
        plan, **{name: getattr(plan, name)[:, row] for name in ("tokens", "std", "elites")}, scores=None, **rest
    )


def _picture(env) -> np.ndarray | None:
    try:
        return frame(env, HEIGHT, WIDTH)
    except RenderingUnavailable as error:
        say(f"no picture: {error}")
        return None
