"""Fitting a codec to demonstrations: the channels that switch, the strokes of the others, and the order of bits."""

from collections.abc import Callable, Iterable, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float

from policies.codec.bits import IdString, order
from policies.codec.companding import Trees
from policies.codec.corners import Corners
from policies.codec.curves import Curves
from policies.codec.gestures import fit_corners
from policies.codec.scaling import Scaling
from policies.codec.settings import CodecConfig
from policies.codec.strokes import Strokes
from policies.codec.switches import PARTS, Switches, any_duration, bank, changes, fit_events, resting_levels
from policies.tokens.splines import design, ends
from worldmodel.mistakes import Mistake

STROKE_BITS, EVENT_BITS = 8, (8, 3, 3)  # largest number of bits of a stroke's number, and of an event's three parts
SLOTS = 4  # largest number of events of a channel in a chunk
ENOUGH = 0.7  # another slot is kept only if the squared error falls to this fraction or less
FAR = 0.05  # corners are tried where curves leave at least this RMS error (scaled), even with unlimited ids
CLEARLY = 0.5  # events (corners) are preferred to curves if they leave less than this fraction of the squared error
STRIDE = 3  # steps between the chunks that a codec is fitted to
SAMPLE = 400  # number of chunks used to compare alternatives, about


def fit(
    episodes: list[np.ndarray],
    config: CodecConfig,
    limits: tuple | None = None,
    switching: Iterable[SupportsIndex] | None = None,
    stride: int = STRIDE,
) -> tuple[CodecConfig, Scaling, Curves | Corners]:
    """Fit the fields of a `Codec`, returned in order; see `Codec.fit`."""
    episodes = _checked(episodes, config.length)
    width = episodes[0].shape[1]
    given = None if switching is None else [int(channel) for channel in switching]  # NumPy integers or tensors too
    if given is not None and not set(given) <= set(range(width)):
        raise ValueError(f"switching={given}: channels from 0 to {width - 1}")
    if stride < 1:
        raise ValueError(f"stride={stride}: at least 1")
    scaling = Scaling.fit(episodes, config.margin, limits)
    scaled = [np.clip(scaling.scale(e), scaling.low, scaling.high) for e in episodes]
    windows = windows_of(scaled, config.length + 1, stride)
    start, chunks = windows[:, 0] * config.relative, windows[:, 1:]
    return config, scaling, fit_writing(chunks, start, config, given)


def fit_writing(
    chunks: np.ndarray, start: np.ndarray, config: CodecConfig, switching: Sequence[int] | None
) -> Curves | Corners:
    """Fit curves or corners to scaled chunks, as the settings say, or whichever suits them better.

    Raises ValueError if the settings ask for corners and `bits` are too few for them.
    """
    if config.writing == "corners":
        corners = fit_corners(chunks, start, config)
        if corners is None:
            raise Mistake(
                f"bits={config.bits}: too few for corners of {chunks.shape[2]} channels in {config.length} steps"
            )
        return corners
    curves, left = fit_curves(chunks, start, config, switching)
    if config.writing == "curves" or np.sqrt(left) < FAR:
        return curves
    corners = fit_corners(chunks, start, config)
    if corners is None:
        return curves
    some = slice(None, None, max(1, len(chunks) // SAMPLE))
    far = np.full(chunks.shape[2], np.inf)
    errors = [
        np.mean((writing.read(writing.write(chunks[some], start[some]), start[some], -far, far) - chunks[some]) ** 2)
        for writing in (corners, curves)
    ]
    return corners if errors[0] < CLEARLY * errors[1] else curves


def fit_curves(
    chunks: np.ndarray, start: np.ndarray, config: CodecConfig, switching: Sequence[int] | None
) -> tuple[Curves, float]:
    """Fit curves to scaled chunks; also return the mean squared error that would remain with unlimited ids."""
    switches = find_switches(chunks, start, config, switching)
    events = switches.numbers(chunks, start)
    event_trees = grow_events(events, switches.length)
    smooth = chunks - start[:, None] - switches.signal(events, start)
    strokes = Strokes.fit(smooth, start, config)
    numbers = strokes.numbers(smooth, start)
    far = np.full(chunks.shape[2], np.inf)
    left = float(np.mean((strokes.curve(numbers, start, -far, far) - start[:, None] - smooth) ** 2))
    trees = Trees.grow(numbers, STROKE_BITS).after(event_trees)
    gains = event_gains(chunks, start, events, switches, event_trees)
    errors = trees.errors[switches.count :]
    gains += [
        [((switches.count + k,), float(e[b] - e[b + 1])) for b in range(STROKE_BITS)] for k, e in enumerate(errors)
    ]
    budget = config.ids * config.bits
    refines = order(gains, budget)
    used = np.unique(np.concatenate([np.arange(switches.count), refines]))
    renamed = np.full(len(trees.values), -1)
    renamed[used] = np.arange(len(used))
    refines = np.concatenate([renamed[refines], np.full(budget - len(refines), -1, dtype=int)])
    strokes = strokes.of_numbers(used[switches.count :] - switches.count)
    string = IdString(config.ids, config.bits, refines, len(used))
    return Curves(strokes, switches, trees.of_numbers(used), string), left


def windows_of(episodes: list[np.ndarray], length: int, stride: int) -> Float[np.ndarray, "N L D"]:
    """Return all windows of `length` steps that begin at a multiple of `stride` in an episode.

    Raises ValueError if there is none.
    """
    longest = max(map(len, episodes), default=0)
    if longest < length:
        raise Mistake(f"{len(episodes)} episodes of at most {longest} steps: at least {length} are needed in one")
    return np.stack([e[i : i + length] for e in episodes for i in range(0, len(e) - length + 1, stride)])


def _checked(episodes: list[np.ndarray], length: int) -> list[np.ndarray]:
    episodes = [np.asarray(e, dtype=float) for e in episodes]
    if not episodes or any(e.ndim != 2 or e.shape[1] != episodes[0].shape[1] for e in episodes):
        raise ValueError(f"episodes: arrays (steps, D) of one D, not {sorted({e.shape[1:] for e in episodes})}")
    for i, episode in enumerate(episodes):
        if not np.isfinite(episode).all():
            raise ValueError(f"episode {i}: a number that is not finite")
    if max(map(len, episodes)) <= length:
        longest = max(map(len, episodes))
        raise Mistake(f"length={length}: below the longest episode's {longest} steps")
    return [e for e in episodes if len(e) > length]


def find_switches(chunks: np.ndarray, start: np.ndarray, config: CodecConfig, given: Sequence[int] | None) -> Switches:
    """Determine the channels that switch: those given, or those that events describe clearly better than a curve.

    Raises ValueError for a given channel that does not rest on at least two levels.
    """
    channels = range(chunks.shape[2]) if given is None else given
    length = config.length
    curves = design(ends(length), config.control_points, config.degree)[:, 1:]
    across = np.eye(length) - curves @ np.linalg.pinv(curves)
    some = slice(None, None, max(1, len(chunks) // SAMPLE))
    found, slots, durations = {}, 1, {1.0}
    for channel in channels if config.events else ():
        change = chunks[some, :, channel] - start[some, channel, None]
        levels = resting_levels(chunks[:, :, channel])
        if levels is None or len(levels) < 2:
            if given is not None:
                raise ValueError(f"switching: channel {channel} does not rest on two levels or more")
            continue
        curve_error = np.mean((change @ across.T) ** 2)
        events, error = _events(change, start[some, channel], levels)
        if given is not None or error < CLEARLY * curve_error:
            found[channel], slots = levels, max(slots, events.shape[1])
            durations |= _durations(events, length)
    most = max(map(len, found.values()), default=1)
    levels = np.array([np.pad(v, (0, most - len(v)), mode="edge") for v in found.values()]).reshape(len(found), most)
    return Switches(tuple(found), levels, tuple(sorted(durations)), slots, length, chunks.shape[2])


def _events(change: np.ndarray, start: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit as many events of any duration as a chunk needs; also return the mean squared error that they leave."""
    error, best = np.inf, np.empty((len(change), 0, PARTS))
    ramps = bank(change.shape[1], any_duration(change.shape[1]))
    while best.shape[1] < SLOTS:
        events = fit_events(change, start, levels, best.shape[1] + 1, ramps)
        left = float(np.mean((changes(events, start, change.shape[1]) - change) ** 2))
        if left > ENOUGH * error:
            break
        error, best = left, events
    return best, error


def _durations(events: np.ndarray, length: int) -> set[float]:
    """Return the few durations that represent those of all events."""
    taken = events[events[..., 0] < length][:, 2]
    if not len(taken):
        return {1.0}
    depth = EVENT_BITS[2]
    return set(Trees.grow(taken[:, None], depth).values[0, 2**depth :].tolist())


def grow_events(events: np.ndarray, length: int) -> Trees:
    """Grow trees for the numbers of events (N, P).

    With no bits there is no event: the value of the root of a beginning is the end of the chunk.
    """
    depth = max(EVENT_BITS)
    count = events.shape[1]
    trees = Trees(np.zeros((count, 2**depth)), np.zeros((count, 2 ** (depth + 1))), np.zeros((count, depth + 1)))
    for k in range(count):
        happens = events[:, k - k % PARTS] < length
        of = events[:, k] if k % PARTS == 0 or not happens.any() else events[happens, k]
        tree = Trees.grow(of[:, None], depth)
        trees.splits[k], trees.values[k], trees.errors[k] = tree.splits[0], tree.values[0], tree.errors[0]
    trees.values[::PARTS, 1] = length
    return trees


def event_gains(
    chunks: np.ndarray, start: np.ndarray, events: np.ndarray, switches: Switches, trees: Trees
) -> list[list[tuple[tuple[int, ...], float]]]:
    """Return for each event slot the groups of bits to spend on it, and the squared error per chunk each group saves.

    An event's beginning tells nothing without its level, so several bits may have to be spent together.
    """
    some = slice(None, None, max(1, len(chunks) // SAMPLE))
    events, start, chunks = events[some], start[some], chunks[some]
    exact = (
        np.stack([_at_depth(trees, k, EVENT_BITS[k % PARTS], events[:, k]) for k in range(events.shape[1])], axis=1)
        if events.shape[1]
        else events
    )
    offers = []
    for slot in range(events.shape[1] // PARTS):
        first = slot * PARTS
        channel = slot // switches.slots
        moved = switches.channels[channel]
        target = chunks[:, :, moved] - start[:, moved, None]

        def error(depths: tuple[int, ...], first=first, moved=moved, target=target) -> float:
            trial = exact.copy()
            for part, depth in enumerate(depths):
                trial[:, first + part] = _at_depth(trees, first + part, depth, events[:, first + part])
            return float(((switches.signal(trial, start)[:, :, moved] - target) ** 2).sum(1).mean())

        offers.append(_path(error, first))
    return offers


def _path(error: Callable[[tuple[int, ...]], float], first: int) -> list[tuple[tuple[int, ...], float]]:
    """Return groups of bits of one event, greedily by the error saved per bit, looking a few bits ahead.

    `error` maps the numbers of bits of the event's parts to the squared error; `first` is the event's first number.
    """
    at: tuple[int, ...] = (0, 0, 0)
    known = {at: error(at)}
    path: list[tuple[tuple[int, ...], float]] = []
    while True:
        ahead = [
            tuple(a + m for a, m in zip(at, more, strict=True))
            for more in np.ndindex(4, 3, 2)
            if any(more) and all(a + m <= most for a, m, most in zip(at, more, EVENT_BITS, strict=True))
        ]
        if not ahead:
            return path
        known |= {depths: error(depths) for depths in ahead if depths not in known}
        best = max(ahead, key=lambda depths: (known[at] - known[depths]) / (sum(depths) - sum(at)))
        group = tuple(first + part for part in range(PARTS) for _ in range(best[part] - at[part]))
        path.append((group, known[at] - known[best]))
        at = best


def _at_depth(trees: Trees, k: int, depth: int, values: np.ndarray) -> np.ndarray:
    """Quantize values (N,) of number k to its first `depth` bits."""
    node = np.ones(len(values), dtype=int)
    for _ in range(depth):
        node = 2 * node + (values >= trees.splits[k, node])
    return trees.values[k, node]
