"""The latent world model: encode, step by a token, value a token, propose a token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel import senses as naming
from worldmodel import twohot
from worldmodel.encoder import Encoder
from worldmodel.gaussian import SquashedGaussian
from worldmodel.layers import Linear, NormedLinear, mlp
from worldmodel.normaliser import Normaliser
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, Shapes
from worldmodel.settings import ModelConfig
from worldmodel.vision import patches


@dataclass(frozen=True)
class Imagined:
    """One imagined jump: next latent (B, D), reward logits (B, bins), continue logit (B,)."""

    latent: Float[Tensor, "B D"]
    reward_logits: Float[Tensor, "B N"]
    continue_logit: Float[Tensor, " B"]

    @property
    def reward(self) -> Float[Tensor, " B"]:
        """Discounted reward over the whole token, (B,)."""
        return twohot.mean(self.reward_logits)


class ValueHeads(nn.Module):
    """An ensemble of distributional values Q(z, w)."""

    def __init__(self, config: ModelConfig, points: int, dtype: torch.dtype):
        super().__init__()
        self.net = mlp(config.latent + points, config.width, config.bins, config.value_heads, dtype, zero=True)

    def forward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "E B N"]:
        """Logits of each head over the return that follows token w in latent z."""
        return self.net(torch.cat([z, w], -1))


class WorldModel(nn.Module):
    """z = encode(observation); (z', R, continue) = step(z, w); Q = value(z, w); policy(z) -> w.

    A token w (B, P) is its points (knots x action dimensions). How it becomes motion is the policy layer's business.
    Joined tokens begin with the A numbers (one control point) that the one before ended with.
    """

    def __init__(self, senses: Shapes, points: int, config: ModelConfig):
        """`senses`: the shape of one observation of each (`worldmodel.senses`), in the order that they are kept in.

        Raises ValueError for a sense that is not known.
        """
        super().__init__()
        self.config, self.points = config, points
        self.senses = {key: tuple(shape) for key, shape in senses.items()}
        shows = [float(key != LANGUAGE_KEY) for key in self.senses]  # 0 for words, which do not show what happens
        self.register_buffer("shows", torch.tensor(shows), persistent=False)
        dtype = matmul_dtype(config.precision, self.shows.device)
        d, h = config.latent, config.width
        self.normaliser = Normaliser(self.state_size)
        self.encoder = Encoder(self.senses, config, dtype)
        self.trunk = nn.Sequential(NormedLinear(d + points, h, dtype=dtype), NormedLinear(h, h, dtype=dtype))
        self.next = NormedLinear(h, d, dtype=dtype, group=config.group)
        self.outcome = Linear(h, config.bins + 1, dtype=dtype, zero=True)
        self.value = ValueHeads(config, points, dtype)
        self.actor = mlp(d, h, (2 + config.rank) * points, 0, dtype)
        chosen = torch.arange(points) >= self.shared
        which = torch.cat([chosen, chosen, chosen.repeat_interleave(config.rank)]).float()
        self.register_buffer("chosen", which, persistent=False)  # 0 for what says of a point that is never chosen

    def _apply(self, fn, recurse=True):
        """PyTorch's, by which a model moves; its products are from then on as its new device multiplies best."""
        super()._apply(fn, recurse)
        dtype = matmul_dtype(self.config.precision, self.device)
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.dtype = dtype
        return self

    @property
    def action_size(self) -> int:
        """Numbers in an action, and so in a control point."""
        return self.points // self.config.token.knots

    @property
    def shared(self) -> int:
        """Numbers that a token shares with the one before: a control point's, or none where they are not joined."""
        return self.action_size if self.config.token.joined else 0

    @property
    def state_size(self) -> int:
        """Numbers in the state; 0 for a model that does not perceive it."""
        return self.senses.get(STATE_KEY, (0,))[0]

    @property
    def sees(self) -> bool:
        """Whether it has cameras."""
        return any(map(naming.is_image, self.senses))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.normaliser.mean.device

    def encode(self, observation: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """Latent of an observation with LeRobot's keys, on any device. A key that is not there is a sense missing.

        `observation.state` (B, S), `observation.images.<camera>` (B, F, H, W, 3) uint8, the frames of `vision.lags`,
        `observation.language` (B, T).
        """
        return self.perceive(self.prepare(observation))

    def prepare(self, observation: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `perceive` reads: on the model's device, frames in patches. Nothing in it depends on a weight."""
        side, ready = self.config.vision.patch, {}
        for key in self.senses:
            if key in observation:
                value = observation[key]
                ready[key] = (patches(value, side) if naming.is_image(key) else value).to(self.device)
                if (masked := naming.mask(key)) in observation:
                    ready[masked] = observation[masked].to(self.device)
        return ready

    def perceive(self, seen: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """Latent of what `prepare` gave."""
        return self.encoder(self.scaled(seen))

    def scaled(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same, the state normalised."""
        return seen | {STATE_KEY: self.normaliser(seen[STATE_KEY])} if STATE_KEY in seen else seen

    def blank(self, count: int) -> dict[str, Tensor]:
        """`count` observations of nothing, for what only asks how much work they are."""
        frames, ready = len(self.config.vision.lags), {}
        for key, shape in self.senses.items():
            whole = (count, frames, *shape) if naming.is_image(key) else (count, *shape)
            ready[key] = torch.zeros(whole, dtype=torch.uint8 if naming.is_image(key) else torch.float32)
        return ready

    def step(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Imagined:
        """Imagine one token: where it leads, what it earns, whether the episode goes on."""
        feature = self.transition_features(z, w)
        outcome = self.outcome(feature)
        return Imagined(self.next(feature), outcome[..., :-1], outcome[..., -1])

    def transition_features(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """Features of the transition by one token, which the heads `next` and `outcome` read."""
        return self.trunk(torch.cat([z, w], -1))

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        """The distribution over the points of tokens proposed in latent z; of the shared one it says nothing."""
        logits = self.actor(z)
        return SquashedGaussian.from_logits(logits * self.chosen if self.shared else logits, self.config.rank)

    def token(self, points: Float[Tensor, "*B P"], start: Float[Tensor, "*B A"] | None = None) -> Float[Tensor, "*B P"]:
        """Make a token of its points: the first of them is `start`, if tokens are joined.

        `start`: where the token before ended (`ends`), 0 unless given; A is 0 where tokens are not joined.
        """
        if not self.shared:
            return points
        start = torch.zeros_like(self.starts(points)) if start is None else start
        return torch.cat([start, points[..., self.shared :]], -1)

    def starts(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """What tokens begin with, if they are joined to others."""
        return w[..., : self.shared]

    def ends(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """What the tokens that follow these begin with, if they are joined to them."""
        return w[..., self.points - self.shared :]

    def before(self, w: Float[Tensor, "T *B P"], start: Float[Tensor, "*B A"]) -> Float[Tensor, "T *B A"]:
        """What each token of a sentence begins with, the first one with `start`, if they are joined."""
        return torch.cat([start.unsqueeze(0), self.ends(w)[:-1]])

    def greedy_token(
        self, z: Float[Tensor, "B D"], start: Float[Tensor, "B A"] | None = None
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
        """The policy's mode, and its value. `start`: as for `token`."""
        w = self.token(self.policy(z).mode, start)
        return w, twohot.mean(self.value(z, w)).mean(0)


def matmul_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bf16 where asked for, or under `auto` where the device multiplies it natively (a CPU: avx512_bf16, amx)."""
    if precision == "auto":
        return torch.bfloat16 if _native_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    wide = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # Builds without oneDNN, as of Apple silicon, do not have that operator: it is asked last.
    return device.type == "cpu" and wide and torch.ops.mkldnn._is_mkldnn_bf16_supported()
