"""The latent world model: encode an observation, step by a token, evaluate a token, propose a token."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel import senses as naming
from worldmodel.encoder import Encoder, Normaliser, patches
from worldmodel.layers import Linear, NormedLinear, SquashedGaussian, mlp, twohot_mean
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, Shapes
from worldmodel.settings import ModelConfig


class ValueHeads(nn.Module):
    """An ensemble of distributional action values Q(z, w)."""

    def __init__(self, config: ModelConfig, points: int, dtype: torch.dtype):
        super().__init__()
        self.net = mlp(config.latent + points, config.width, config.bins, config.value_heads, dtype, zero=True)

    def forward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "E B N"]:
        """Return each head's logits over the return of executing token w in latent z."""
        return self.net(torch.cat([z, w], -1))


class WorldModel(nn.Module):
    """z = encode(preprocess(observation)); (z', R, continue) = step(z, w); Q = value(z, w); policy(z) -> w.

    A token w (B, P) consists of its control points, flattened (P = knots x action dimensions). Decoding it into motion
    is left to the `policies` package. A joined token begins with the A numbers (one control point) with which the
    previous one ended.
    """

    shows: Tensor
    chosen: Tensor
    explores = False
    """Whether its policy was taught by novelty alone, so that it leads nowhere in particular."""

    def __init__(self, senses: Shapes, points: int, config: ModelConfig):
        """Create the nets, for `senses` with their shapes, in order, and tokens of P `points`. Raises ValueError."""
        super().__init__()
        self.config, self.points = config, points
        self.senses = {key: tuple(shape) for key, shape in senses.items()}
        shows = [float(key != LANGUAGE_KEY) for key in self.senses]  # 0 for language, which does not observe the scene
        self.register_buffer("shows", torch.tensor(shows), persistent=False)
        dtype = matmul_dtype(config.precision, self.shows.device)
        d, h = config.latent, config.width
        self.normaliser = Normaliser(self.state_size, config.poses)
        state = {STATE_KEY: tuple(self.normaliser.mean.shape)} if STATE_KEY in self.senses else {}
        self.encoder = Encoder(self.senses | state, config, dtype)
        self.trunk = nn.Sequential(NormedLinear(d + points, h, dtype=dtype), NormedLinear(h, h, dtype=dtype))
        self.next = NormedLinear(h, d, dtype=dtype, group=config.group)
        self.outcome = Linear(h, config.bins + 1, dtype=dtype, zero=True)
        self.value = ValueHeads(config, points, dtype)
        self.actor = mlp(d, h, 2 * points, 0, dtype)
        chosen = torch.arange(points) >= self.shared
        # 0 for the logits of a shared control point
        self.register_buffer("chosen", chosen.repeat(2).float(), persistent=False)

    def share(self, model: "WorldModel") -> None:
        """Take on the nets of another model rather than make new ones: the constructor of one that only corrects it."""
        nn.Module.__init__(self)
        self.config, self.points, self.senses, self.explores = model.config, model.points, model.senses, model.explores
        for name, part in model.named_children():
            setattr(self, name, part)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)

    def _apply(self, fn, recurse=True):
        """Extend PyTorch's hook behind `to()`: choose the matmul dtype again, for the device the model has moved to."""
        super()._apply(fn, recurse)
        dtype = matmul_dtype(self.config.precision, self.device)
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.dtype = dtype
        return self

    @property
    def action_size(self) -> int:
        """Dimension A of an action, and therefore of a control point."""
        return self.points // self.config.token.control_points

    @property
    def shared(self) -> int:
        """Count of numbers that a token shares with the previous one: A (one control point) if joined, else 0."""
        return self.action_size if self.config.token.joined else 0

    @property
    def state_size(self) -> int:
        """Dimension S of the state; 0 for a model that does not perceive it."""
        return self.senses.get(STATE_KEY, (0,))[0]

    @property
    def sees(self) -> bool:
        """Whether the model has at least one camera."""
        return any(map(naming.is_image, self.senses))

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""
        return self.normaliser.mean.device

    def preprocess(self, observation: Observation) -> Observation:
        """Prepare an observation for `encode`: cut frames into patches and move to the device. Uses no weights.

        Cameras: (B, F, H, W, 3) uint8, with the F frames of `vision.frame_lags`; a registered encoder gets them whole.
        """
        side = self.config.vision.patch
        cut = {key: patches(observation.values[key], side) for key in self.encoder.in_patches}
        return observation.with_values(cut).to(self.device)

    def encode(self, observation: Observation) -> Float[Tensor, "B D"]:
        """Encode what `preprocess` returned as a latent."""
        return self.encoder.fuse(self.encode_each(observation), observation.presence)

    def encode_each(self, observation: Observation) -> Float[Tensor, "B n h"]:
        """Return the features of each of the n senses of what `preprocess` returned, to be fused by the encoder."""
        values = observation.values
        if STATE_KEY in values:
            values = values | {STATE_KEY: self.normaliser(values[STATE_KEY])}
        return self.encoder.encode_each(values)

    def observe(self, observation: Observation) -> None:
        """Add the states of B environments, where they are there, to the normaliser's statistics."""
        if STATE_KEY in observation.values:
            states = observation.values[STATE_KEY][observation.present[STATE_KEY]]
            if len(states):
                self.normaliser.observe(states)

    def blank(self, count: int) -> Observation:
        """Return `count` all-zero observations, in the form that `preprocess` takes, for counting or timing work."""
        shapes = naming.stacked(self.senses, len(self.config.vision.frame_lags))
        kinds = {key: torch.uint8 if naming.is_image(key) else torch.float32 for key in shapes}
        return Observation.of(shapes, {key: torch.zeros(count, *shapes[key], dtype=kinds[key]) for key in shapes})

    def step(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Imagine a token: the latent after it, its reward, discounted within it, the probability to go on."""
        features = self.transition_features(z, w)
        outcome = self.outcome(features)
        return self.next(features), twohot_mean(outcome[..., :-1]), torch.sigmoid(outcome[..., -1])

    def transition_features(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """Compute the features of one transition, which the heads `next` and `outcome` read."""
        return self.trunk(torch.cat([z, w], -1))

    def unroll(self, z: Float[Tensor, "B D"], tokens: Float[Tensor, "T B P"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Imagine a sequence of tokens: yield, after each, the latent (B, D) and the transition's features (B, F)."""
        for w in tokens:
            features = self.transition_features(z, w)
            z = self.next(features)
            yield z, features

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        """Return the distribution over token points in latent z; logits of a shared control point are zeroed."""
        return self.distribution(self.actor(z))

    def distribution(self, logits: Float[Tensor, "B M"]) -> SquashedGaussian:
        """Return the distribution over token points that an actor's logits stand for."""
        return SquashedGaussian.from_logits(logits * self.chosen if self.shared else logits)

    def token(self, points: Float[Tensor, "*B P"], start: Float[Tensor, "*B A"] | None = None) -> Float[Tensor, "*B P"]:
        """Make tokens from points; joined ones begin at `start`, where the previous ones ended, or at 0."""
        if not self.shared:
            return points
        start = torch.zeros_like(self.starts(points)) if start is None else start
        return torch.cat([start, points[..., self.shared :]], -1)

    def starts(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """Return the first control point of each token if tokens are joined, else an empty slice (A = 0)."""
        return w[..., : self.shared]

    def ends(self, w: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """Return the last control point of each token, where a joined successor begins; A = 0 if not joined."""
        return w[..., self.points - self.shared :]

    def before(self, w: Float[Tensor, "T *B P"], start: Float[Tensor, "*B A"]) -> Float[Tensor, "T *B A"]:
        """Return where each token of a plan begins: the first at `start`, the others where their predecessor ends."""
        return torch.cat([start.unsqueeze(0), self.ends(w)[:-1]])

    def greedy_token(
        self, z: Float[Tensor, "B D"], start: Float[Tensor, "B A"] | None = None
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
        """Return the policy's mode as a token, and its value (mean of the heads). `start` is as for `token`."""
        w = self.token(self.policy(z).mode, start)
        return w, twohot_mean(self.value(z, w)).mean(0)


def matmul_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Choose bf16 if asked for, or under `auto` if the device multiplies it natively (on a CPU: avx512_bf16, amx)."""
    if precision == "auto":
        return torch.bfloat16 if _native_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    wide = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # Builds without oneDNN, such as those for Apple silicon, lack this operator, so query it last.
    return device.type == "cpu" and wide and torch.ops.mkldnn._is_mkldnn_bf16_supported()
