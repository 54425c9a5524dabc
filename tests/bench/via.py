"""via.py <run> [trials] [samples]: an SO-101's shoulder_pan at an angle +- 2 degrees after 16 control steps.

By a guidance's via, by the same as a want, or not said at all; beside a want for the tip, to be where it once was, 5 cm
above the table or more. `on the table`: in how many trials the arm touches it then, which may hold the joint.
"""

import json
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from configs.runs.guiding import Known
from configs.schema import GuideConfig
from envs.arm import POSITIONS, passed
from envs.make import make
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.guidance import wishes
from worldmodel.guidance import Guidance
from worldmodel.observation import Observation
from worldmodel.senses import STATE_KEY
from worldmodel.strict import build

STEPS, TIP, PAN = 16, ("tip.x", "tip.y", "tip.z"), "shoulder_pan.pos"
path, trials, samples = sys.argv[1], *map(int, [*sys.argv[2:], 30, 64][:2])
known, rng = Known.of(GuideConfig(checkpoint=path, show="quantities")), np.random.default_rng(0)
spec, memory = known.spec, known.memory
settings = {"samples": samples, "policy_samples": samples // 4, "elites": samples // 4, "td_check_steps": 0}
tips = memory.quantities[:, [memory.names.index(name) for name in TIP]].numpy()
angles, tips = rng.uniform(-50, 50, trials), rng.choice(tips[tips[:, 2] > 0.05], trials)
with closing(make(build(TaskConfig, spec.task, "task."))) as env:
    targets = env.get_wrapper_attr("targets")
    for how in ("nothing", "via", "want"):
        planner, generator, off = replace(spec.planner, **settings), torch.Generator().manual_seed(0), []
        agent = Agent.acting(known.model, planner, spec.discount, (), generator)
        for trial, (tip, angle) in enumerate(zip(tips, angles, strict=True)):
            said = f"{PAN} = {angle:.2f} +- 2"
            want = [f"{name} = {value:.4f} +- 0.02" for name, value in zip(TIP, tip, strict=True)]
            terms = wishes.parse([*want, said] if how == "want" else want, spec.quantities)
            points = wishes.parse_via(f"{said} at {STEPS / spec.task['control_hz']} s", POSITIONS)
            vias = passed(points, env, {}) if how == "via" else ()
            agent.forget()
            agent.guide([(Guidance(terms, known.probes.chosen([t.quantity for t in terms]), vias=vias), 1.0)])
            seen, _ = env.reset(seed=2_000_000 + trial)
            for _ in range(STEPS):
                state = torch.from_numpy(seen[STATE_KEY])[None]
                action = agent.act(Observation.of(known.model.senses, {STATE_KEY: state}))[0]
                seen, *_ = env.step(action.numpy())
            model, data = env.unwrapped.model, env.unwrapped.data
            now = np.array([env.get_wrapper_attr("target")[0], data.qpos[0]])
            on = (model.geom_bodyid[data.contact.geom] == 0).any()
            off.append([*np.abs(np.degrees(now - (targets.low + targets.high)[0] / 2) - angle), on])
        sent, joint, on = np.array(off).T
        shares = {"target within 2": sent <= 2, "joint within 2": joint <= 2, "on the table": on}
        shares |= {"joint within 2 off it": joint[on == 0] <= 2}
        print(json.dumps({"how": how} | {name: round(share.mean(), 3) for name, share in shares.items()}), flush=True)
