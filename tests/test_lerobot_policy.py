"""Laws of the LeRobot policy: a checkpoint is one, acts as Semagram's agent does, and comes back from LeRobot whole."""

import json
from dataclasses import replace

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.policies.factory import get_policy_class

from policies.agent import Agent
from policies.storage.checkpoint import load_model, read_spec, save_checkpoint
from policies.storage.folders import FORMAT, FolderError, check_folder, write_folder
from policies.tokens.curves import Curve
from robot import configuration_semagram  # noqa: F401  registers it
from worldmodel.planner import Planner
from worldmodel.senses import STATE_KEY


@pytest.fixture(scope="module")
def checkpoint(toys, tmp_path_factory):
    """A checkpoint of a trainer whose tokens last four steps."""
    trainer = toys.trainer(toys.slides(7), length=4)
    toys.run(trainer, 20)
    return save_checkpoint(tmp_path_factory.mktemp("policy"), toys.spec(trainer), trainer.state_dict(), {}, 1)


def load(path, **changes):
    """What LeRobot's own loader makes of a checkpoint."""
    config = PreTrainedConfig.from_pretrained(path, cli_overrides=["--device=cpu"])
    for name, value in changes.items():
        setattr(config, name, value)
    return get_policy_class(config.type).from_pretrained(path, config=config)


def as_joined(model):
    """The same model's settings, its tokens joined."""
    return replace(model, token=replace(model.token, joined=True))


def processors(config, path=None):
    given = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    return make_pre_post_processors(config, path, preprocessor_overrides=given if path else {})


@pytest.mark.parametrize("planned", [True, False])
def test_it_acts_as_semagrams_own_agent(checkpoint, planned, toys):
    """Through LeRobot's processors, for two robots, over several tokens and a new episode."""
    policy, identity = load(checkpoint, planned=planned), read_spec(checkpoint)
    before, after = processors(policy.config, checkpoint)
    curve, token = Curve.of_token(identity.model.token, identity.action_size), identity.model.token
    model = load_model(checkpoint, identity)
    planner = Planner(model, token.discount(identity.discount), identity.planner) if planned else None
    agent = Agent(model, curve, planner, torch.Generator().manual_seed(policy.config.seed))
    states = torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(1))
    policy.reset()
    chunk, actions = policy.predict_action_chunk({STATE_KEY: states[0]}), []
    for t, state in enumerate(states):
        if t == 6:
            policy.reset()
            agent.reset(torch.ones(2, dtype=torch.bool))
        with torch.inference_mode():
            action = after(policy.select_action(before({STATE_KEY: state})))
        assert torch.equal(action, agent.act(toys.observed({STATE_KEY: state})))
        actions.append(action)
    assert torch.equal(chunk, torch.stack(actions[:4], 1))  # it has the actions until the next decision


def test_what_lerobot_saves_semagram_reads_and_the_other_way_round(checkpoint, tmp_path):
    policy = load(checkpoint)
    for part in (policy, *processors(policy.config, checkpoint)):
        part.save_pretrained(tmp_path)
    check_folder(tmp_path, ("config.json", "model.safetensors"))
    identity = read_spec(checkpoint)
    assert read_spec(tmp_path) == identity
    saved, kept = (load_model(path, identity).state_dict() for path in (tmp_path, checkpoint))
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert load(tmp_path).config == policy.config
    for part in processors(policy.config):  # those that LeRobot makes for this policy
        part.save_pretrained(tmp_path / "new")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        ours, *others = (json.loads((path / name).read_text()) for path in (checkpoint, tmp_path, tmp_path / "new"))
        assert others == [ours, ours]
        assert all(set(step) == {"registry_name", "config"} for step in ours["steps"])  # no class is named


def changed(checkpoint, folder, **changes):
    """A copy of the checkpoint whose settings are changed."""
    saved = json.loads((checkpoint / "config.json").read_text()) | changes
    files = {"model.safetensors": (checkpoint / "model.safetensors").read_bytes()}
    write_folder(folder, files | {"config.json": json.dumps(saved).encode()}, {})


def test_a_checkpoint_of_another_format_is_refused_in_one_line(checkpoint, tmp_path):
    """Whether LeRobot reads its settings, or was given others, and has the weights alone from a hub."""
    changed(checkpoint, tmp_path / "x", format=FORMAT + 1)
    line = f"of format {FORMAT + 1}, this Semagram reads {FORMAT}; train again, or use the commit that made it$"
    with pytest.raises(FolderError, match=f"^(policy|{tmp_path / 'x'}): {line}"):
        load(tmp_path / "x")
    with pytest.raises(FolderError, match=f"^{tmp_path / 'x'}: {line}"):
        get_policy_class("semagram").from_pretrained(tmp_path / "x", config=load(checkpoint).config)


def test_a_robot_of_another_state_is_refused_in_one_line(checkpoint):
    with pytest.raises(ValueError, match=r"^observation.state has 6 numbers here, 3 where .* \(slide; on an arm .*\)$"):
        load(checkpoint).select_action({STATE_KEY: torch.zeros(1, 6)})


def batch(policy, steps):
    """Recorded windows of which only the first `steps` control steps are within the episode."""
    h, length = policy.config.horizon, policy.config.model.token.length
    seen, draw = torch.tensor(policy.config.observation_delta_indices), torch.Generator().manual_seed(2)
    return {
        STATE_KEY: torch.randn(2, len(seen), 3, generator=draw),
        "action": torch.rand(2, h * length, 2, generator=draw) * 2 - 1,
        f"{STATE_KEY}_is_pad": (seen > steps).expand(2, -1),
        "action_is_pad": (torch.arange(h * length) >= steps).expand(2, -1),
    }


def test_what_lies_beyond_an_episode_is_not_learned(checkpoint):
    policy = load(checkpoint)
    cut = batch(policy, 6)
    other = {**cut, "action": cut["action"].clone(), STATE_KEY: cut[STATE_KEY].clone()}
    beyond = [step > 6 for step in policy.config.observation_delta_indices]
    other["action"][:, 4:], other[STATE_KEY][:, beyond] = 1, 9
    assert torch.equal(policy.forward(cut)[0], policy.forward(other)[0])
    other["action"][:, 3] = -other["action"][:, 3]
    assert not torch.equal(policy.forward(cut)[0], policy.forward(other)[0])


def test_once_it_learns_from_recordings_it_no_longer_plans(checkpoint):
    policy = load(checkpoint)
    policy.forward(batch(policy, 12))
    assert policy.config.planned
    policy.train()
    loss, parts = policy.forward(batch(policy, 12))
    assert set(parts) == {"loss_consistency", "loss_imitation"}
    wanted = policy.config.consistency * parts["loss_consistency"] + parts["loss_imitation"]
    assert loss.item() == pytest.approx(wanted)
    assert not policy.config.planned
    assert policy.agent.planner is None
    with pytest.raises(ValueError, match=r"^policy\.planned=true: "):
        replace(policy.config, planned=True).validate_features()
    joined = as_joined(policy.config.model)
    with pytest.raises(ValueError, match=r"^policy\.model\.token\.joined=true: "):
        replace(policy.config, model=joined).validate_features()


@pytest.mark.parametrize("planned", [False, True])
def test_a_policy_of_joined_tokens_gives_no_chunks_and_learns_recordings_unjoined(checkpoint, tmp_path, planned):
    policy = load(checkpoint, planned=planned, model=as_joined(load(checkpoint).config.model))
    assert policy.model.shared == 2
    with pytest.raises(ValueError, match=r"^policy\.model\.token\.joined: a chunk does not know"):
        policy.predict_action_chunk({STATE_KEY: torch.randn(2, 3)})
    policy.train()
    policy.forward(batch(policy, 12))
    policy.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (policy.model.shared, again.model.shared, again.config.model.token.joined) == (0, 0, False)
    assert not again.config.task and not again.config.planned
    assert again.predict_action_chunk({STATE_KEY: torch.randn(2, 3)}).shape == (2, 4, 2)


def test_actions_that_were_not_normalised_are_refused(checkpoint):
    policy = load(checkpoint)
    for wrong in (37.0, torch.nan):
        given = batch(policy, 12)
        given["action"][0, 0, 0] = wrong
        with pytest.raises(ValueError, match=r"^action: (37|nan) after"):
            policy.forward(given)


def test_it_knows_as_semagrams_own_does_whether_it_learned_from_novelty_alone(checkpoint):
    task = read_spec(checkpoint).task
    assert not load(checkpoint).model.explores
    assert load(checkpoint, task=task | {"reward": "none"}).model.explores
