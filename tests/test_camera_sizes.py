"""Laws of cameras of different sizes: a run trains, goes on, is evaluated with one unplugged, and shows both."""

import json

import av
import numpy as np
import pytest

from envs.senses import Senses
from policies.storage.checkpoint import find_checkpoint, load_model, read_spec
from worldmodel.senses import STATE_KEY

FIXED, CART = "observation.images.fixed", "observation.images.lookatcart"
SHAPES = {FIXED: (24, 40, 3), CART: (48, 32, 3), STATE_KEY: (5,)}
CHOSEN = "senses=[state,images.fixed:24x40,images.lookatcart:48x32]"
SIDE, CAPTION, GAP, SCENE = 80, 16, 4, 240  # pixels, of the film


def blank(part):
    """Whether nothing is drawn there; a film's compression lets a line nearby bleed into a few pixels."""
    return np.quantile(part, 0.02) > 240


@pytest.mark.slow
@pytest.mark.usefixtures("drawing")
def test_two_cameras_of_different_sizes_from_training_to_the_film(command, toys, tmp_path):
    keys = ("task=cartpole-swingup", "task.max_control_steps=8", CHOSEN, "evaluation.every=0", "hydra.run.dir=run")
    code, out, err = command("train", *toys.tiny_keys, *keys, "steps=80", "seed_steps=30", "evaluation.episodes=1")
    assert code == 0, err
    code, out, err = command("train", "resume=run", "steps=100")
    assert code == 0, err
    trained = json.loads(out.splitlines()[-1])
    assert (trained["env_steps"], trained["updates"]) == (100, 50)

    path = find_checkpoint(tmp_path / "run")
    identity = read_spec(path)
    assert identity.senses == SHAPES
    assert Senses.of(identity.senses) == Senses(sorted(("state", "images.fixed:24x40", "images.lookatcart:48x32")))
    eyes = dict(zip(identity.senses, load_model(path, identity).encoder.parts, strict=True))
    for name, patches in ((FIXED, 2 * 3), (CART, 3 * 2)):  # 3 x 5 and 6 x 4 squares of 8 pixels, merged once
        assert eyes[name].whole.weight.shape[-1] == patches * identity.model.vision.width

    keys = ("checkpoint=run", "episodes=1", "drop_senses=[images.lookatcart]", "drop_at_step=2", "video=true")
    code, out, err = command("evaluate", *keys, "compile=false", "hydra.run.dir=evaluated")
    assert code == 0, err
    assert set(json.loads(out.splitlines()[-1])["agreement"]) == {"state", "images.fixed", "images.lookatcart"}
    check_film(tmp_path / "evaluated" / "rollout.mp4")


def check_film(path):
    """Both cameras in their own rows, the second lost in the end, and what is expected beside them."""
    with av.open(path) as film:
        first, *_, last = (frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0))
    for whole, lost in ((first, False), (last, True)):
        rows = whole[SCENE : SCENE + 2 * (CAPTION + SIDE)].reshape(2, CAPTION + SIDE, -1, 3)[:, CAPTION:]
        fixed, cart = rows[:, :, GAP : GAP + SIDE]
        assert blank(fixed[50:])  # below its frame, 24 x 40 pixels, 48 x 80 here
        assert np.ptp(fixed[:48]) > 50
        assert blank(cart[:, 55:])  # beside its frame, 48 x 32 pixels, 80 x 53 here
        red = (cart[..., 0] > 150) & (cart[..., 1] < 110)
        for edge in (0, 50):
            assert red[2:78, edge : edge + 2].mean() > 0.9 if lost else red[2:78, edge : edge + 2].mean() < 0.5
        for row, (height, width) in zip(rows, ((48, 80), (80, 53)), strict=True):
            expected = row[:, 2 * GAP + SIDE :]
            assert np.ptp(expected[:height, :width]) > 50
