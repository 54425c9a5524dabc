"""Convert LeRobot's batches to model inputs: resized uint8 frames, sentences as vectors, masks of missing senses."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from policies.words import WORDS
from sim.frames import resized, shows, within
from worldmodel import senses as naming
from worldmodel.mistakes import Mistake
from worldmodel.senses import IMAGE_KEY_PREFIX, LANGUAGE_KEY, STATE_KEY, Shapes, is_image

TASK = "task"
"""Key of the sentences in a LeRobot batch, a list of strings."""


def perceived(batch: Mapping, senses: Shapes, wordless: bool = False) -> dict[str, Tensor]:
    """Return the senses that a batch has: state (*B, S), frames (*B, H, W, 3) uint8, language (B, T).

    LeRobot's frames are (*B, 3, h, w), floats in [0, 1] or bytes, of any size. A frame of a single colour counts as
    missing, by `mask.images.<camera>` (*B, 1); so does, if `wordless`, a task without text, by `mask.language` (B, 1).
    Raises ValueError for a state of another size or that is not finite, for a task without text unless `wordless`, and
    if the batch has none of the senses besides language.
    """
    seen = {}
    for key, shape in senses.items():
        if key == LANGUAGE_KEY:
            if TASK in batch:
                sentences = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
                there = [bool(each and each.strip()) or not wordless for each in sentences]
                seen[key] = WORDS.vectors(tuple(sentences), there)
                seen[naming.mask(key)] = torch.tensor(there).float().unsqueeze(1)
        elif key not in batch:
            continue
        elif is_image(key):
            seen[key] = framed(batch[key], *shape[:2])
            seen[naming.mask(key)] = _showing(seen[key])
        else:
            seen[key] = batch[key].clone()
            if seen[key].shape[-1] != shape[0]:
                here = seen[key].shape[-1]
                raise Mistake(f"{key} has {here} numbers here, {shape[0]} where this policy was trained")
            if len(wrong := (~torch.isfinite(seen[key])).nonzero()):
                raise Mistake(f"{key}[{int(wrong[0, -1])}] is {float(seen[key][tuple(wrong[0])])}: finite numbers only")
    if not any(key in seen and key != LANGUAGE_KEY for key in senses):
        wanted = ", ".join(key for key in senses if key != LANGUAGE_KEY)
        raise Mistake(f"none of {wanted} is there; there is {', '.join(map(str, batch))}")
    return seen


def framed(frames: Tensor, height: int, width: int) -> UInt8[Tensor, "*B height width 3"]:
    """Bring frames (*B, 3, h, w), floats in [0, 1] or bytes, to a model's size, as `sim.frames.middle` does.

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


def _showing(frames: UInt8[Tensor, "*B H W 3"]) -> Tensor:
    """Return 1 for each frame that shows anything, else 0; (*B, 1)."""
    there = [float(shows(frame)) for frame in frames.flatten(0, -4).numpy()]
    return torch.tensor(there).view(*frames.shape[:-3], 1)


def unlike(batch: Mapping, senses: Shapes) -> str:
    """Return how a batch's frames differ from those of the model's training (absent or of another size); else ""."""
    for key, shape in senses.items():
        if is_image(key) and key not in batch:
            return f"{key} is not there"
        if is_image(key) and tuple(batch[key].shape[-2:]) != tuple(shape[:2]):
            here, trained = (f"{height} x {width}" for height, width in (batch[key].shape[-2:], shape[:2]))
            return f"{key} has frames of {here} pixels here, {trained} where this policy was trained"
    return ""


def at_moments(seen: dict[str, Tensor], moments: list[list[int]]) -> dict[str, Tensor]:
    """From observations at many times (B, T, ...), select the given moments, which become the first axis.

    Each of the M moments is a list of F times, newest first. State and masks are taken at the newest: (M, B, ...).
    Frames are taken at all of them, (M, B, F, H, W, 3); a missing one and those before it are replaced by the oldest
    one after it. For consecutive times that equals the stacks of an acting robot (`policies.frame_stack`); what is
    missing between a moment's times goes unnoticed. Language has no time axis and is repeated for each moment.
    """
    now = [times[0] for times in moments]
    picked = {}
    for key, value in seen.items():
        if key in (LANGUAGE_KEY, naming.mask(LANGUAGE_KEY)):
            picked[key] = value.expand(len(moments), *value.shape)
        elif is_image(key):
            there = seen[naming.mask(key)][:, moments].movedim(1, 0) > 0 if naming.mask(key) in seen else None
            picked[key] = _filled(value[:, moments].movedim(1, 0), there)
        else:
            picked[key] = value[:, now].movedim(1, 0)
    return picked


def _filled(frames: UInt8[Tensor, "M B F H W 3"], there: Bool[Tensor, "M B F 1"] | None) -> Tensor:
    """Replace the newest missing frame of each stack, and all older ones, by the frame just newer than it.

    Stacks are in the order newest first; where the newest frame itself is missing, it is repeated.
    """
    if there is None or bool(there.all()):
        return frames
    unbroken = there[..., 0].long().cumprod(-1).sum(-1, keepdim=True).clamp(min=1)
    at = torch.arange(frames.shape[2], device=frames.device).minimum(unbroken - 1)
    return torch.take_along_dim(frames, at[..., None, None, None], 2)


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
        raise Mistake(f"policy: it acts by {STATE_KEY} and {IMAGE_KEY_PREFIX}<camera>; the features are {some}")
    return {key: [image_size, image_size, 3] if is_image(key) else list(features[key]) for key in found}


def check_there(senses: Mapping, features: Mapping) -> None:
    """Raise ValueError if a new policy is to perceive a sense that LeRobot's features (key to shape) lack.

    A trained policy may meet a robot without a camera: that sense is then missing by design. Language is not a feature.
    """
    found = _perceivable(features)
    for key in senses:
        if key not in found and key != LANGUAGE_KEY:
            some = ", ".join(found) or "nothing"
            raise Mistake(f"policy.senses.{key}: not there; of what is there it can perceive {some}")


def _perceivable(features: Mapping) -> list[str]:
    """Return the keys of LeRobot's features (key to shape) that are senses: the state, then cameras (3, h, w)."""
    state = [STATE_KEY] if STATE_KEY in features else []
    return state + [key for key, shape in features.items() if is_image(key) and shape[0] == 3]


def check_shapes(senses: Mapping) -> None:
    """Raise ValueError unless `policy.senses` maps known senses to valid shapes, with frames of a supported size."""
    for key, shape in senses.items():
        if not isinstance(shape, list | tuple) or not all(type(number) is int for number in shape):
            raise Mistake(f"policy.senses.{key}={shape}: a shape, [48, 64, 3] of a camera 48 pixels high, 64 wide")
    if tuple(senses.get(LANGUAGE_KEY, (WORDS.size,))) != (WORDS.size,):
        raise Mistake(f"policy.senses.{LANGUAGE_KEY}={senses[LANGUAGE_KEY]}: [{WORDS.size}], as long as its vectors")
    try:
        naming.check({key: tuple(shape) for key, shape in senses.items()})
    except Mistake as error:
        raise Mistake(f"policy.senses: {error}") from error
    for key, shape in senses.items():
        if is_image(key):
            naming.check_sides(f"policy.senses.{key}={list(shape)}", *shape[:2], example="[48, 64, 3]")
