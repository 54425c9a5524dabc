"""The smooth part of a chunk: a B-spline from where the arm is, as a few uncorrelated numbers.

The first control point is the start; least squares gives the others. In an orthonormal basis of those curves, the
coefficients of all channels are predicted from the start by ridge regression, and the residual is rotated to its
principal axes (Karhunen-Loeve), so that the first numbers explain most of the whole arm's movement.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from policies.codec.settings import CodecConfig
from policies.tokens.splines import design, ends, gaps, midpoints

RIDGE = 1e-3


@dataclass(frozen=True)
class Strokes:
    """The maps between a scaled chunk (T, D), minus its start, and its K numbers.

    numbers = analysis @ chunk - foresight @ (1, start); steps between consecutive control points (M x D) =
    synthesis @ numbers + drift @ (1, start), clipped to +-`stride`; actions = basis @ (start, control points). For a
    codec that is not relative, the start is zero and so is its weight in `basis`.
    """

    basis: Float[np.ndarray, "T _"]
    analysis: Float[np.ndarray, "K TD"]
    foresight: Float[np.ndarray, "K _"]
    synthesis: Float[np.ndarray, "MD K"]
    drift: Float[np.ndarray, "MD _"]
    stride: Float[np.ndarray, "M D"]

    @classmethod
    def fit(cls, chunks: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"], config: CodecConfig) -> "Strokes":
        """Fit to scaled chunks minus their starts, and those starts (zeros for a codec that is not relative)."""
        length, channels = chunks.shape[1:]
        count, degree, free = config.control_points, config.degree, not config.relative
        at = midpoints(length) if free else ends(length)
        whole = design(at, count, degree)
        own = whole if free else whole[:, 1:]
        unitary, sizes, turn = np.linalg.svd(own, full_matrices=False)
        numbers = np.einsum("tm,ntd->nmd", unitary, chunks).reshape(len(chunks), -1)
        known = _known(start)
        guess = np.linalg.solve(known.T @ known + RIDGE * len(known) * np.eye(known.shape[1]), known.T @ numbers)
        axes = np.linalg.svd(numbers - known @ guess, full_matrices=False)[2]
        steps = np.eye(own.shape[1]) - np.eye(own.shape[1], k=-1)
        control = steps @ (turn.T / sizes)  # from orthonormal coefficients to steps between control points
        analysis = np.einsum("kmd,tm->ktd", axes.reshape(len(axes), -1, channels), unitary)
        wide = np.kron(control, np.eye(channels))
        moves = np.abs(numbers @ wide.T).reshape(len(chunks), -1, channels)
        return cls(
            whole if not free else np.concatenate([np.zeros((length, 1)), whole], axis=1),
            analysis.reshape(len(axes), -1),
            axes @ guess.T,
            wide @ axes.T,
            wide @ guess.T,
            _strides(moves.max(0), count, degree, free),
        )

    def of_numbers(self, which: Int[np.ndarray, " k"]) -> "Strokes":
        """Return these maps for the numbers `which` only."""
        kept = self.analysis[which], self.foresight[which], self.synthesis[:, which]
        return Strokes(self.basis, *kept, self.drift, self.stride)

    def numbers(self, chunk: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        """Return the numbers from which `curve` reconstructs chunks minus their starts, as well as K numbers can."""
        return chunk.reshape(len(chunk), self.analysis.shape[1]) @ self.analysis.T - _known(start) @ self.foresight.T

    def curve(
        self,
        numbers: Float[np.ndarray, "N K"],
        start: Float[np.ndarray, "N D"],
        low: Float[np.ndarray, " D"],
        high: Float[np.ndarray, " D"],
    ) -> Float[np.ndarray, "N T D"]:
        """Return the curves from `start`, with control points clamped to `low` and `high`.

        A curve lies in the convex hull of its control points, so it stays within the bounds, whatever the numbers, if
        it begins there. The bounds on the steps between control points bound its rate in the same way.
        """
        steps = numbers @ self.synthesis.T + _known(start) @ self.drift.T
        steps = steps.reshape(len(start), *self.stride.shape)
        control = np.empty((len(start), len(self.stride) + 1, start.shape[1]))
        control[:, 0] = start
        np.minimum(np.maximum(steps, -self.stride), self.stride, out=control[:, 1:])
        control = np.minimum(np.maximum(control.cumsum(1), low), high)  # np.clip takes twice as long
        return self.basis @ control


def _known(start: np.ndarray) -> np.ndarray:
    """Return (1, start) (N, D + 1) for each chunk."""
    known = np.empty((len(start), start.shape[1] + 1))
    known[:, 0], known[:, 1:] = 1, start
    return known


def _strides(moves: np.ndarray, count: int, degree: int, free: bool) -> np.ndarray:
    """Return the largest steps (M, D) between control points that the fastest rate in the data allows.

    The rate is degree x step / gap, the gap being that between knots (de Boor 1978); the same bound on it holds
    throughout the chunk. The first step is unbounded if `free`.
    """
    gap = gaps(count, degree)
    between = moves[1:] if free else moves
    allowed = (between / gap[:, None]).max(0) * gap[:, None]
    return np.concatenate([np.full((1, moves.shape[1]), np.inf), allowed]) if free else allowed
