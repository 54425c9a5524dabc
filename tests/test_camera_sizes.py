"""Laws of cameras of different sizes: a run trains, goes on, is evaluated with one unplugged, and shows both."""

import json

import av
import numpy as np
import pytest

from envs.senses import Senses
from policies.checkpoint import find_checkpoint, load_model, read_identity
from worldmodel.senses import STATE_KEY

FIXED, CART = "observation.images.fixed", "observation.images.lookatcart"
SHAPES = {FIXED: (24, 40, 3), CART: (48, 32, 3), STATE_KEY: (5,)}
CHOSEN = "senses=[state,images.fixed:24x40,images.lookatcart:48x32]"
SIDE, CAPTION, GAP, SCENE = 80, 16, 4, 240  # pixels, of the film


def blank(part):
    """Whether nothing is drawn there; a film's compression lets a line nearby bleed into a few pixels."""
    return np.quantile(part, 0.02) > 240


@pytest.mark.slow
def test_two_cameras_of_different_sizes_from_training_to_the_film(drawing, command, toys, tmp_path):
    keys = ("task=cartpole-swingup", "task.max_control_steps=8", CHOSEN, "evaluation.every=0", "hydra.run.dir=run")
    code, out, err = command("train", *toys.tiny_keys, *keys, "steps=80", "seed_steps=30", "evaluation.episodes=1")
    assert code == 0, err
    code, out, err = command("train", "resume=run", "steps=100")
    assert code == 0, err
    trained = json.loads(out.splitlines()[-1])
    assert (trained["env_steps"], trained["updates"]) == (100, 50)

    path = find_checkpoint(tmp_path / "run")
    identity = read_identity(path)
    assert identity.senses == SHAPES
    assert Senses.of(identity.senses) == Senses(sorted(("state", "images.fixed:24x40", "images.lookatcart:48x32")))
    eyes = dict(zip(identity.senses, load_model(path, identity).encoder.parts, strict=True))
    for name, patches in ((FIXED, 2 * 3), (CART, 3 * 2)):  # 3 x 5 and 6 x 4 squares of 8 pixels, merged once
        assert eyes[name].whole.weight.shape[-1] == patches * identity.model.vision.width

    keys = ("checkpoint=run", "episodes=1", "drop=[images.lookatcart]", "drop_at=2", "video=true", "compile=false")
    code, out, err = command("evaluate", *keys, "hydra.run.dir=evaluated")
    assert code == 0, err
    assert set(json.loads(out.splitlines()[-1])["agreement"]) == {"state", "images.fixed", "images.lookatcart"}
    with av.open(tmp_path / "evaluated" / "rollout.mp4") as film:
        first, *_, last = (frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0))
    left = GAP + SIDE + GAP  # of the second camera's frame: 48 x 32 pixels, which are 80 x 53 here
    for whole, lost in ((first, False), (last, True)):
        shown = whole[SCENE + CAPTION :]
        red = (shown[..., 0] > 150) & (shown[..., 1] < 110)
        for edge in (left, left + 50):
            assert red[2:78, edge : edge + 2].mean() > 0.9 if lost else red[2:78, edge : edge + 2].mean() < 0.5
        assert blank(shown[50:, GAP : GAP + SIDE])  # below the first camera's, 24 x 40 pixels, 48 x 80 here
        assert np.ptp(shown[:48, GAP : GAP + SIDE]) > 50
        assert blank(shown[:, left + 55 : left + SIDE])


@pytest.mark.parametrize("name", ["train", "bench"])
@pytest.mark.parametrize("size", ["0", "9999", "64x", "64X48"])
def test_a_command_refuses_a_misspelt_size_in_one_line(command, name, size):
    code, out, err = command(name, f"senses=[state,images.fixed:{size}]")
    assert (code, out) == (2, "")
    assert err.strip().endswith("a whole number of pixels from 16 to 512, e.g. images.fixed:96 or images.fixed:48x64")
    assert err.count("\n") == 1
