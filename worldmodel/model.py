"""The latent world model: encode, step by a token, value a token, propose a token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel import twohot
from worldmodel.gaussian import SquashedGaussian
from worldmodel.layers import Linear, NormedLinear, mlp
from worldmodel.normaliser import Normaliser
from worldmodel.settings import ModelConfig

STATE = "observation.state"


@dataclass(frozen=True)
class Imagined:
    """One imagined jump: next latent (B, D), reward logits (B, bins), continue logit (B,)."""

    latent: Float[Tensor, "B D"]
    reward_logits: Float[Tensor, "B N"]
    continue_logit: Float[Tensor, "B"]

    @property
    def reward(self) -> Float[Tensor, "B"]:
        """Discounted reward over the whole token, (B,)."""
        return twohot.mean(self.reward_logits)


class ValueHeads(nn.Module):
    """An ensemble of distributional values Q(z, w)."""

    def __init__(self, config: ModelConfig, token_size: int, dtype: torch.dtype):
        super().__init__()
        self.net = mlp(config.latent + token_size, config.width, config.bins, config.value_heads, dtype, zero=True)

    def forward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "E B N"]:
        """Logits of each head over the return that follows token w in latent z."""
        return self.net(torch.cat([z, w], -1))


class WorldModel(nn.Module):
    """z = encode(observation); (z', R, continue) = step(z, w); Q = value(z, w); policy(z) -> distribution over w.

    A token w (B, P) has P = knots x action dimensions; how it becomes motion is the policy layer's business.
    """

    def __init__(self, state_size: int, token_size: int, config: ModelConfig):
        super().__init__()
        self.config, self.state_size, self.token_size = config, state_size, token_size
        dtype = matmul_dtype(config.precision)
        d, h = config.latent, config.width
        self.normaliser = Normaliser(state_size)
        self.encoder = nn.Sequential(
            NormedLinear(state_size, h, dtype=dtype), NormedLinear(h, d, dtype=dtype, group=config.group)
        )
        self.trunk = nn.Sequential(NormedLinear(d + token_size, h, dtype=dtype), NormedLinear(h, h, dtype=dtype))
        self.next = NormedLinear(h, d, dtype=dtype, group=config.group)
        self.outcome = Linear(h, config.bins + 1, dtype=dtype, zero=True)
        self.value = ValueHeads(config, token_size, dtype)
        self.actor = mlp(d, h, 2 * token_size, 0, dtype)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.normaliser.mean.device

    def encode(self, observation: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """Latent of an observation with LeRobot's keys; `observation.state` is (B, S), on any device."""
        return self.encoder(self.normaliser(observation[STATE].to(self.device)))

    def step(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Imagined:
        """Imagine one token: where it leads, what it earns, whether the episode goes on."""
        feature = self.leap(z, w)
        outcome = self.outcome(feature)
        return Imagined(self.next(feature), outcome[..., :-1], outcome[..., -1])

    def leap(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """The feature of one imagined token, which `next` and `outcome` read."""
        return self.trunk(torch.cat([z, w], -1))

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        """The distribution over tokens proposed in latent z."""
        return SquashedGaussian.from_logits(self.actor(z))


def matmul_dtype(precision: str) -> torch.dtype:
    """bf16 where asked for, or under `auto` where the CPU (avx512_bf16, amx) or a GPU multiplies it natively."""
    if precision == "auto":
        fast = torch.cuda.is_available() or (torch.ops.mkldnn._is_mkldnn_bf16_supported() and _native_bf16())
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _native_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
