"""The smooth part of a chunk: a B-spline from where the arm is, as a few uncorrelated numbers.

The first control point is the start; least squares gives the others. In an orthonormal basis of those curves, the
coefficients of all channels are predicted from the start by ridge regression, and the residual is rotated to its
principal axes (Karhunen-Loeve), so that the first numbers explain most of the whole arm's movement.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from policies.tokens.curves import design, ends, gaps

RIDGE = 1e-3
DEGREE, STEPS = 3, 5  # of a chunk's curve, and how many control steps there are for each of its control points


@dataclass(frozen=True)
class SplinePCA:
    """The maps between a scaled chunk (T, D), minus its start, and its K numbers.

    numbers = analysis @ chunk - prediction @ (1, start); steps between consecutive control points (M x D) =
    synthesis @ numbers + drift @ (1, start), clipped to +-`max_step`; actions = basis @ (start, control points).
    """

    basis: Float[np.ndarray, "T _"]
    analysis: Float[np.ndarray, "K TD"]
    prediction: Float[np.ndarray, "K _"]
    synthesis: Float[np.ndarray, "MD K"]
    drift: Float[np.ndarray, "MD _"]
    max_step: Float[np.ndarray, "M D"]

    @classmethod
    def fit(cls, chunks: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> "SplinePCA":
        """Fit to scaled chunks minus their starts, and those starts."""
        length, channels = chunks.shape[1:]
        count = max(DEGREE + 2, round(length / STEPS))
        basis = design(ends(length), count, DEGREE)
        free = basis[:, 1:]
        orthonormal, sizes, turn = np.linalg.svd(free, full_matrices=False)
        numbers = np.einsum("tm,ntd->nmd", orthonormal, chunks).reshape(len(chunks), -1)
        known = _with_one(start)
        guess = np.linalg.solve(known.T @ known + RIDGE * len(known) * np.eye(known.shape[1]), known.T @ numbers)
        axes = np.linalg.svd(numbers - known @ guess, full_matrices=False)[2]
        steps = np.eye(free.shape[1]) - np.eye(free.shape[1], k=-1)
        to_steps = np.kron(steps @ (turn.T / sizes), np.eye(channels))  # from orthonormal coefficients
        analysis = np.einsum("kmd,tm->ktd", axes.reshape(len(axes), -1, channels), orthonormal)
        moves = np.abs(numbers @ to_steps.T).reshape(len(chunks), -1, channels).max(0)
        gap = gaps(count, DEGREE)[:, None]  # the rate is degree x step / gap (de Boor 1978); one bound on it for all
        maps = analysis.reshape(len(axes), -1), axes @ guess.T, to_steps @ axes.T, to_steps @ guess.T
        return cls(basis, *maps, (moves / gap).max(0) * gap)

    def select(self, which: Int[np.ndarray, " k"]) -> "SplinePCA":
        """Return these maps for the numbers `which` only."""
        kept = self.analysis[which], self.prediction[which], self.synthesis[:, which]
        return SplinePCA(self.basis, *kept, self.drift, self.max_step)

    def numbers(self, chunk: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        """Return the numbers from which `curve` reconstructs chunks minus their starts, as well as K numbers can."""
        flat = chunk.reshape(len(chunk), self.analysis.shape[1])
        return flat @ self.analysis.T - _with_one(start) @ self.prediction.T

    def curve(
        self, numbers: Float[np.ndarray, "N K"], start: Float[np.ndarray, "N D"], most: float
    ) -> Float[np.ndarray, "N T D"]:
        """Return the curves from `start`, with control points clamped to +-`most`.

        A curve lies in the convex hull of its control points, so it stays within the bounds, whatever the numbers, if
        it begins there. The bounds on the steps between control points bound its rate in the same way.
        """
        steps = numbers @ self.synthesis.T + _with_one(start) @ self.drift.T
        steps = np.clip(steps.reshape(len(start), *self.max_step.shape), -self.max_step, self.max_step)
        return self.basis @ np.concatenate([start[:, None], steps], 1).cumsum(1).clip(-most, most)


def _with_one(start: np.ndarray) -> np.ndarray:
    """Return (1, start) (N, D + 1) for each chunk."""
    return np.concatenate([np.ones((len(start), 1)), start], 1)
