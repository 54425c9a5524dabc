"""Convert LeRobot's batches to model inputs: resized uint8 frames, sentences as vectors, masks of missing senses."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from policies.text_encoder import WORDS
from sim.renderer import resized, shows, within
from worldmodel import senses as naming
from worldmodel.errors import UserError
from worldmodel.observation import Observation, ages, unbroken
from worldmodel.senses import IMAGE_KEY_PREFIX, LANGUAGE_KEY, STATE_KEY, Shapes, is_image

TASK = "task"
"""Key of the sentences in a LeRobot batch, a list of strings."""


def perceived(batch: Mapping, senses: Shapes, wordless: bool = False) -> Observation:
    """Return what a batch holds of `senses`, for its leading axes *B: robots (B,), or windows of steps (B, T).

    LeRobot's frames are (*B, 3, h, w), floats in [0, 1] or bytes, of any size. A frame of a single colour counts as
    missing; so does, if `wordless`, a task without text. Raises ValueError for a state of another size or that is not
    finite, for a task without text unless `wordless`, and if the batch has none of the senses besides language.
    """
    values, present = {}, {}
    for key in senses.keys() & batch.keys():
        values[key] = framed(batch[key], *senses[key][:2]) if is_image(key) else batch[key].clone()
        if is_image(key):
            present[key] = torch.tensor([shows(frame) for frame in values[key].flatten(0, -4).numpy()])
        elif (here := values[key].shape[-1]) != senses[key][0]:
            raise UserError(f"{key} has {here} numbers here, {senses[key][0]} where this policy was trained")
    if values and LANGUAGE_KEY in senses and TASK in batch:
        key, value = next(iter(values.items()))
        lead = value.shape[: value.dim() - len(senses[key])]
        sentences = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
        there = [bool(each and each.strip()) or not wordless for each in sentences]
        vectors = WORDS.encode(sentences, there)
        axes = len(sentences), *[1] * (len(lead) - 1)
        values[LANGUAGE_KEY] = vectors.view(*axes, -1).expand(*lead, -1)
        present[LANGUAGE_KEY] = torch.tensor(there).view(axes).expand(lead)
    return Observation.of(senses, {**batch, **values}, present)


def framed(frames: Tensor, height: int, width: int) -> UInt8[Tensor, "*B height width 3"]:
    """Bring frames (*B, 3, h, w), floats in [0, 1] or bytes, to a model's size, as `sim.renderer.middle` does.

    Frames are processed one at a time, cropped before conversion, so that each stays in the processor's cache.
    """
    down, right = frames.shape[-2:]
    rows, columns = within(down, right, height, width)
    parts = [_bytes(frame[:, rows, columns]) for frame in frames.cpu().reshape(-1, *frames.shape[-3:])]
    small = np.stack([resized(part.movedim(0, -1).numpy(), height, width) for part in parts])
    return torch.from_numpy(small).view(*frames.shape[:-3], *small.shape[1:])


def _bytes(frame: Tensor) -> UInt8[Tensor, "C h w"]:
    """Return a frame as bytes; floats are taken to be in [0, 1]."""
    return frame if frame.dtype == torch.uint8 else frame.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def unlike(batch: Mapping, senses: Shapes) -> str:
    """Return how a batch's frames differ from those of the model's training (absent or of another size); else ""."""
    for key, shape in senses.items():
        if is_image(key) and key not in batch:
            return f"{key} is not there"
        if is_image(key) and tuple(batch[key].shape[-2:]) != tuple(shape[:2]):
            here, trained = (f"{height} x {width}" for height, width in (batch[key].shape[-2:], shape[:2]))
            return f"{key} has frames of {here} pixels here, {trained} where this policy was trained"
    return ""


def at_moments(seen: Observation, moments: list[list[int]]) -> Observation:
    """From observations at many times (B, T), select M moments as observations (M, B) with stacked frames.

    Each moment is a list of F times, newest first. State and masks are taken at the newest, frames at all of them, by
    the rule of `worldmodel.observation`; what is missing between a moment's times goes unnoticed.
    """
    now, values = [times[0] for times in moments], {}
    for key, value in seen.values.items():
        if is_image(key):
            there = seen.present[key][:, moments].movedim(1, 0)  # (M, B, F)
            at = ages((unbroken(there) - 1).clamp(min=0), range(there.shape[-1]))
            values[key] = torch.take_along_dim(value[:, moments].movedim(1, 0), at[..., None, None, None], 2)
    return seen.map(lambda x: x[:, now].movedim(1, 0)).with_values(values)


def sized(features: Mapping, image_size: int) -> dict[str, list[int]]:
    """Return the senses that LeRobot's features (key to shape) give a new policy: the state and cameras (3, h, w).

    Warns of a camera that cannot be used: a depth map, or one under another key. Raises ValueError if no sense is left.
    """
    found = _perceivable(features)
    for key, shape in features.items():
        if key not in found and key.startswith("observation.image"):
            warnings.warn(f"{key} {tuple(shape)}: not perceived; {IMAGE_KEY_PREFIX}<camera> (3, h, w) is", stacklevel=2)
    if not found:
        some = ", ".join(features) or "nothing"
        raise UserError(f"policy: it acts by {STATE_KEY} and {IMAGE_KEY_PREFIX}<camera>; the features are {some}")
    return {key: [image_size, image_size, 3] if is_image(key) else list(features[key]) for key in found}


def check_there(senses: Mapping, features: Mapping) -> None:
    """Raise ValueError if a new policy is to perceive a sense that LeRobot's features (key to shape) lack.

    A trained policy may meet a robot without a camera: that sense is then missing by design. Language is not a feature.
    """
    found = _perceivable(features)
    for key in senses:
        if key not in found and key != LANGUAGE_KEY:
            some = ", ".join(found) or "nothing"
            raise UserError(f"policy.senses.{key}: not there; of what is there it can perceive {some}")


def _perceivable(features: Mapping) -> list[str]:
    """Return the keys of LeRobot's features (key to shape) that are senses: the state, then cameras (3, h, w)."""
    state = [STATE_KEY] if STATE_KEY in features else []
    return state + [key for key, shape in features.items() if is_image(key) and shape[0] == 3]


def check_shapes(senses: Mapping) -> None:
    """Raise ValueError unless `policy.senses` maps known senses to valid shapes, with frames of a supported size."""
    for key, shape in senses.items():
        if not isinstance(shape, list | tuple) or not all(type(number) is int for number in shape):
            raise UserError(f"policy.senses.{key}={shape}: a shape, [48, 64, 3] of a camera 48 pixels high, 64 wide")
    if tuple(senses.get(LANGUAGE_KEY, (WORDS.size,))) != (WORDS.size,):
        raise UserError(f"policy.senses.{LANGUAGE_KEY}={senses[LANGUAGE_KEY]}: [{WORDS.size}], as long as its vectors")
    try:
        naming.check({key: tuple(shape) for key, shape in senses.items()})
    except UserError as error:
        raise UserError(f"policy.senses: {error}") from error
    for key, shape in senses.items():
        if is_image(key):
            naming.check_sides(f"policy.senses.{key}={list(shape)}", *shape[:2], example="[48, 64, 3]")
