"""Laws of what a LeRobot policy perceives: from LeRobot's batches the same as from Semagram's own environments."""

import types
from dataclasses import replace

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.envs.utils import preprocess_observation

from configs.runs.loading import load_agent
from envs.lerobot_env import SemagramEnv
from envs.make import make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.storage.checkpoint import read_spec
from policies.training.episodes import observe
from robot.configuration_semagram import ImitatorConfig, SemagramConfig
from robot.modeling_semagram import BLIND, SemagramPolicy, at_moments
from worldmodel.observation import FrameHistory, Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import TokenConfig, VisionConfig

SIZE, STEPS = 32, 14
FRONT, SIDE = "observation.images.overhead", "observation.images.side"
TASK = TaskConfig("so101-touch", state="joints")
OVERHEAD = "images.overhead:24x40"
NAMES = ("state", OVERHEAD, "language")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, untaught):
    return untaught(tmp_path_factory.mktemp("run"), TASK, senses=NAMES)


def load(path):
    config = PreTrainedConfig.from_pretrained(path, cli_overrides=["--device=cpu"])
    return SemagramPolicy.from_pretrained(path, config=config)


def test_it_acts_from_lerobots_environment_as_semagrams_own_agent_from_ours(checkpoint):
    """By the joints, a camera's frames with those of before, and the words; through a frame that shows nothing."""
    policy = load(checkpoint)
    theirs = SemagramEnv("so101-touch", state="joints", senses=["state", OVERHEAD]).create_envs(2)["semagram"][0]
    ours = make_vector(TASK, 2, processes=False, senses=Senses(NAMES))
    agent = load_agent(checkpoint, policy.config.seed).agent
    (shown, _), (seen, _) = theirs.reset(seed=[3, 4]), ours.reset(seed=[3, 4])
    policy.reset()
    for step in range(STEPS):
        if step == 5:
            shown["pixels"]["overhead"][1] = 7
            seen[FRONT][1], seen["mask.images.overhead"][1] = 7, False
        batch = preprocess_observation(shown) | {"task": list(theirs.call("task_description"))}
        action = policy.select_action(batch)
        assert torch.equal(action, agent.act(observe(seen, agent.model.senses)))
        (shown, *_), (seen, *_) = theirs.step(action.numpy()), ours.step(action.numpy())
    theirs.close()
    ours.close()


def test_a_window_shows_the_frames_of_before_at_the_ends_of_its_tokens():
    vision = VisionConfig(frame_lags=(0, 2))
    config = SemagramConfig(device="cpu", horizon=2, model=ImitatorConfig(token=TokenConfig(4, 2, 1), vision=vision))
    steps = config.observation_delta_indices
    assert steps == [-2, 0, 2, 4, 6, 8]
    moments = [[steps.index(step) for step in moment] for moment in config.moments]
    time = torch.tensor([steps, [100 + step for step in steps]])
    frames = (time + 2).byte().view(2, -1, 1, 1, 1).expand(-1, -1, 1, 1, 3)
    words = torch.eye(2).unsqueeze(1).expand(-1, len(steps), -1)
    values = {STATE_KEY: time.unsqueeze(-1), FRONT: frames, LANGUAGE_KEY: words}
    there = dict.fromkeys(values, torch.ones(2, len(steps), dtype=torch.bool))
    picked = at_moments(Observation(values, there), moments)
    assert picked.values[STATE_KEY][..., 0].tolist() == [[0, 100], [4, 104], [8, 108]]
    assert picked.values[FRONT][..., 0].flatten(2).tolist() == [[[2 + t, t], [102 + t, 100 + t]] for t in (0, 4, 8)]
    assert picked.values[LANGUAGE_KEY].shape == (3, 2, 2)


def test_the_past_before_a_gap_is_shown_in_training_as_it_is_when_acting():
    there = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1]) > 0
    time = torch.arange(len(there), dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, -1, 4, 4, 3)
    history, whole = FrameHistory((0, 1, 2)), Observation({FRONT: time}, {FRONT: there.view(1, -1)})
    acting = [history.see(whole.map(lambda x, t=t: x[:, t])) for t in range(len(there))]
    moments = [[t, t - 1, t - 2] for t in range(2, len(there))]
    picked = at_moments(whole, moments)
    for (now, *_), learned in zip(moments, picked.values[FRONT], strict=True):
        if there[now]:
            assert torch.equal(learned, acting[now].values[FRONT]), now
    assert picked.present[FRONT][:, 0].tolist() == there[2:].tolist()


def fresh(cameras=(FRONT,), state=6, tasks=(), **keys):
    """A new policy for such a dataset, as LeRobot makes it."""
    features = {key: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for key in cameras}
    features |= {STATE_KEY: PolicyFeature(FeatureType.STATE, (state,))} if state else {}
    if FRONT in cameras and "senses" not in keys:
        keys = {"image_size": SIZE} | keys
    config = SemagramConfig(
        device="cpu",
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        model=ImitatorConfig(latent=16, group=4, width=32, bins=11, precision="fp32", token=TokenConfig(2, 2, 1)),
        **keys,
    )
    return SemagramPolicy(config, dataset_meta=types.SimpleNamespace(tasks=types.SimpleNamespace(index=list(tasks))))


def test_a_new_policy_perceives_what_the_dataset_has_at_the_sizes_it_is_given(tmp_path):
    """Its frames are brought to them, and learned from; a checkpoint of it is the same policy."""
    policy = fresh((FRONT, SIDE), tasks=("wave", "stop"))
    assert policy.model.senses == {STATE_KEY: (6,), FRONT: (SIZE, SIZE, 3), SIDE: (SIZE, SIZE, 3), LANGUAGE_KEY: (256,)}
    assert policy.config.sentences == ["wave", "stop"]
    assert fresh(senses={STATE_KEY: [6]}, tasks=("wave", "stop")).model.senses.keys() == {STATE_KEY}
    assert fresh(state=0, tasks=("wave",)).model.senses == {FRONT: (SIZE, SIZE, 3)}
    assert fresh(tasks=("", "wave")).model.senses.keys() == {STATE_KEY, FRONT}
    senses = {STATE_KEY: [6], FRONT: [24, 40, 3], SIDE: [16, 16, 3]}
    policy = fresh((FRONT, SIDE), senses=senses, horizon=1)
    assert policy.model.senses == {key: tuple(shape) for key, shape in senses.items()}
    batch = windows(policy, 4, (FRONT, SIDE))
    policy.forward(batch)[0].backward()
    for part in list(policy.model.encoder.parts)[1:]:
        assert all(bool(weight.grad.any()) for weight in part.parameters())
    now = first(batch)
    policy.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.model.senses == policy.model.senses
    assert torch.equal(again.select_action(now), policy.eval().select_action(now))


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_trained_policy_goes_on_where_a_camera_is_not_there(tmp_path, pretrained):
    fresh((FRONT, SIDE)).save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=["--device=cpu"])
    config.input_features.pop(SIDE)
    config.pretrained_path = tmp_path if pretrained else None
    policy = SemagramPolicy.from_pretrained(tmp_path, config=config)
    assert SIDE in policy.model.senses and policy.config.image_size == SIZE
    with pytest.warns(UserWarning, match=f"^{SIDE}: not there; it counts as missing$"):
        policy.select_action({STATE_KEY: torch.zeros(1, 6), FRONT: torch.rand(1, 3, 48, 64)})


def test_what_a_dataset_has_and_a_policy_cannot_perceive_is_reported():
    with pytest.warns(UserWarning, match=r"^observation.image \(3, 48, 64\): not perceived; observation.images.<"):
        assert fresh(("observation.image",)).model.senses == {STATE_KEY: (6,)}
    with pytest.warns(UserWarning, match=r"^tasks 'the red block left of the blue' and 'the blue .* distinguished by"):
        fresh(tasks=("the red block left of the blue", "the blue block left of the red"))
    config = replace((policy := fresh((FRONT, SIDE))).config, senses={}, action_size=0)
    config.input_features = policy.config.input_features | {SIDE: PolicyFeature(FeatureType.VISUAL, (1, 48, 64))}
    with pytest.warns(UserWarning, match=rf"^{SIDE} \(1, 48, 64\): not perceived"):  # distances
        config.validate_features()
    assert config.senses.keys() == {STATE_KEY, FRONT}


def shaped(senses):
    return lambda: fresh(senses=senses)


SENSE = "policy.senses.observation"
WRONG = [  # what is made, and the line
    (lambda: fresh((), state=0), r"policy: it acts by observation.state and .*; the features are nothing$"),
    (lambda: fresh(senses={LANGUAGE_KEY: [256]}), rf"{SENSE}.language: no task of the dataset has any text"),
    (shaped({FRONT: [24, 40, 3], f"{FRONT}s": [24, 40, 3]}), rf"policy.senses.{FRONT}s: not there; .*{STATE_KEY}, "),
    (lambda: fresh(image_size=SIZE, senses={FRONT: [24, 40, 3]}), f"policy.image_size={SIZE}: policy.senses says"),
    (lambda: fresh((), image_size=SIZE), f"policy.image_size={SIZE}: no camera is there; leave it out$"),
    (lambda: fresh(dropout=1.0), r"policy.dropout=1.0: from 0 to 0.9$"),
    (lambda: fresh(planned=True), r"policy.planned=true: it learned from recordings"),
    (shaped({FRONT: [48, 64]}), r"policy.senses: observation.images.overhead: frames \(height, width, 3\), not"),
    (shaped({STATE_KEY: [6], LANGUAGE_KEY: [3]}), rf"{SENSE}.language=\[3\]: \[256\], as long as its vectors$"),
    (lambda: SemagramEnv("so101-touch", senses=[f"{OVERHEAD}:"]), rf"senses=\[{OVERHEAD}:\]: {OVERHEAD}:: a whole"),
    (lambda: SemagramEnv("so101-touch", senses=["state"], image_size=SIZE), r"image_size: only with a camera among"),
]


@pytest.mark.parametrize(("make", "line"), WRONG)
def test_what_cannot_be_is_one_line(make, line):
    with pytest.raises(ValueError, match=f"^{line}") as refused:
        make()
    assert "\n" not in str(refused.value)


def test_a_robot_that_sees_nothing_for_a_second_is_not_driven_on():
    policy, dark = fresh(state=0), {FRONT: torch.full((2, 3, 48, 64), 0.02)}
    lit = torch.rand(2, 3, 48, 64)
    half = {FRONT: torch.stack([lit[0], dark[FRONT][1]])}
    with pytest.warns(UserWarning, match=r"^observation.images.overhead: shows nothing; it counts as missing$"):
        policy.select_action(dark)
    for _ in range(3):
        policy.select_action({FRONT: lit})
    for _ in range(BLIND):
        policy.select_action(half)
        policy.predict_action_chunk(dark)  # which does not disturb it, but is not driven on by either
    with pytest.raises(ValueError, match=r"^nothing to be seen for 30 chunks"):
        policy.predict_action_chunk(dark)
    with pytest.raises(ValueError, match=r"^nothing to be seen for 30 steps \(observation.images.overhead\)"):
        policy.select_action(half)
    policy.reset()
    policy.select_action({FRONT: lit})


def first(batch):
    """The observation at the beginning of windows."""
    return {key: value[:, 0] for key, value in batch.items() if torch.is_tensor(value) and "pad" not in key}


@pytest.mark.parametrize("do", ["select_action", "predict_action_chunk", "forward"])
def test_a_joint_that_is_not_a_number_moves_nothing_and_teaches_nothing(do):
    policy = fresh()
    batch = windows(policy, 4)
    batch = batch if do == "forward" else first(batch)
    batch[STATE_KEY][1, ..., 3] = torch.nan
    with pytest.raises(ValueError, match=r"^observation.state\[3\] is nan: finite numbers only$"):
        getattr(policy, do)(batch)
    blind = fresh(state=0)
    with pytest.raises(ValueError, match=r"^none of the senses observation.images.overhead is there; .*images.side"):
        getattr(blind, do)(windows(blind, 4, (SIDE,)))


def windows(policy, count, cameras=(FRONT,)):
    """Recorded windows in which the left half is bright where the action is 0.8, the right half where it is -0.8."""
    config, draw = policy.config, torch.Generator().manual_seed(1)
    times, length = len(config.observation_delta_indices), config.horizon * config.model.token.length
    side = torch.randint(2, (count,), generator=draw)
    frames = torch.zeros(count, times, 3, 48, 64)
    for i, right in enumerate(side.tolist()):
        frames[i, ..., 32 * right : 32 * (right + 1)] = 0.8
    batch = dict.fromkeys(cameras, frames) | {
        STATE_KEY: torch.zeros(count, times, 6),
        "action": (0.8 - 1.6 * side.float()).view(-1, 1, 1).expand(count, length, 2),
        "action_is_pad": torch.zeros(count, length, dtype=torch.bool),
        "task": ["wave", "stop"] * (count // 2),
    }
    batch = {key: value for key, value in batch.items() if key != STATE_KEY or STATE_KEY in config.senses}
    return batch | {f"{key}_is_pad": torch.zeros(count, times, dtype=torch.bool) for key in (STATE_KEY, *cameras)}


def test_it_learns_from_frames_what_to_do():
    """Two cameras show it, one at a time is hidden: either alone shows it afterwards."""
    policy = fresh((FRONT, SIDE), horizon=1, shift=2)
    optimiser = torch.optim.Adam(policy.get_optim_params(), 3e-3)
    policy.train()
    for _ in range(100):
        optimiser.zero_grad()
        loss, parts = policy.forward(windows(policy, 8, (FRONT, SIDE)))
        loss.backward()
        optimiser.step()
    assert set(parts) == {"loss_consistency", "loss_imitation", "loss_agreement"}
    policy.eval()
    now, wanted = first(windows(policy, 8, (FRONT, SIDE))), windows(policy, 8)["action"][:, 0]
    assert (policy.select_action(now) - wanted).abs().max() < 0.4
    for hidden in (FRONT, SIDE):
        policy.reset()
        with pytest.warns(UserWarning, match=f"^{hidden}: not there; it counts as missing$"):
            action = policy.select_action({key: value for key, value in now.items() if key != hidden})
        assert (action - wanted).abs().max() < 0.4


def test_a_checkpoint_of_a_task_takes_no_robots_frames(checkpoint):
    """Its actions are not a robot's, and by its frames alone it could not know."""
    policy, size = load(checkpoint), read_spec(checkpoint).state_size
    batch = {STATE_KEY: torch.zeros(1, size), FRONT: torch.zeros(1, 3, 480, 640), "task": ["touch the cube"]}
    wrong = {
        r"^observation.images.overhead has frames of 480 x 640 pixels here, 24 x 40 where": batch,
        r"^observation.images.overhead is not there": {key: batch[key] for key in (STATE_KEY, "task")},
        r"^observation.language: ": batch | {FRONT: torch.zeros(1, 3, 24, 40), "task": [""]},
    }
    for line, observation in wrong.items():
        with pytest.raises(ValueError, match=line + r".* \(so101-touch; on an arm"):
            policy.select_action(observation)
