"""The tokens of one agent: curves of one length or of several, each token marked with its kind."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policies.curves import Curve
from worldmodel.settings import TokenConfig


@dataclass(frozen=True)
class Tokens:
    """Tokens (..., W): the P points of a curve and, where there are n > 1 lengths, the one-hot code (n,) of its kind.

    `curves`: one for each length, the shortest first, all of the same number of points.
    """

    curves: tuple[Curve, ...]

    @classmethod
    def of(cls, config: TokenConfig, action_size: int) -> "Tokens":
        """The tokens of these settings."""
        return cls(tuple(Curve.of(length, config.knots, config.degree, action_size) for length in config.lengths))

    @property
    def action_size(self) -> int:
        """A, the numbers in an action."""
        return self.curves[0].action_size

    @property
    def points(self) -> int:
        """P, the numbers in a token's points."""
        return self.curves[0].size

    @property
    def size(self) -> int:
        """W, the numbers in a token."""
        return self.points + (len(self.curves) if len(self.curves) > 1 else 0)

    @property
    def lengths(self) -> Int[Tensor, " n"]:
        """Control steps of a token of each kind."""
        return torch.tensor([curve.length for curve in self.curves])

    @property
    def forms(self) -> Float[Tensor, "n P P"]:
        """Each kind's projection to the points that stand for its motions."""
        return torch.stack([curve.form for curve in self.curves])

    def kind(self, tokens: Float[Tensor, "*B W"]) -> Int[Tensor, "*B"]:
        """Each token's place in `curves`."""
        if len(self.curves) == 1:
            return torch.zeros(tokens.shape[:-1], dtype=torch.long)
        return tokens[..., self.points :].argmax(-1)

    def curve(self, token: Float[Tensor, " W"]) -> Curve:
        """The curve that one token is a point of."""
        return self.curves[int(self.kind(token))]

    def encode(self, actions: Float[Tensor, "*B L A"], kind: int) -> Float[Tensor, "*B W"]:
        """The token of a kind that is nearest to the actions."""
        points = self.curves[kind].encode(actions)
        if len(self.curves) == 1:
            return points
        code = torch.eye(len(self.curves))[kind].expand(*points.shape[:-1], -1)
        return torch.cat([points, code], -1)

    def decode(self, sentences: Float[Tensor, "T B W"], steps: int) -> Float[Tensor, "B N A"]:
        """The first N = `steps` actions of B sentences; beyond the end of one its last action is held."""
        kinds = self.kind(sentences[0])
        actions = torch.zeros(len(kinds), steps, self.action_size)
        for kind, curve in enumerate(self.curves):
            chosen = kinds == kind
            known = curve.decode(sentences[:, chosen, : self.points]).movedim(0, 1).flatten(1, 2)[:, :steps]
            actions[chosen, : known.shape[1]] = known
            actions[chosen, known.shape[1] :] = known[:, -1:]
        return actions

    def advance(self, sentences: Float[Tensor, "T B W"], steps: Int[Tensor, " B"]) -> Float[Tensor, "T B W"]:
        """Each of B sentences as it stands so many control steps later; all tokens of a sentence are of one kind."""
        kinds, later = self.kind(sentences[0]), sentences.clone()
        for kind, curve in enumerate(self.curves):
            for count in steps[kinds == kind].unique().tolist():
                chosen = (kinds == kind) & (steps == count)
                later[:, chosen, : self.points] = curve.advance(sentences[:, chosen, : self.points], count)
        return later
