"""The losses of the world model, value and policy on a batch of token windows.

Letters in shapes: H tokens in each of B windows, P numbers in a token, D in a latent, n senses, E heads of N bins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from worldmodel.layers import twohot_cross_entropy, twohot_mean
from worldmodel.model import ValueHeads, WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import STATE_KEY
from worldmodel.settings import LearningConfig


@dataclass(frozen=True)
class Batch:
    """B windows of H tokens.

    seen (H+1, B): output of `WorldModel.preprocess`. token (H, B, P). reward (H, B): of each token, discounted within
    it. continues (H, B): 0 where the episode terminated within the token or before. valid (H, B): 0 where the token
    never happened. planned_token (B, P): the planner's choice for the first token, executed with noise; the executed
    token if the window begins at no plan. demonstrated (B,): 1 where an expert acted.
    """

    seen: Observation
    token: Float[Tensor, "H B P"]
    reward: Float[Tensor, "H B"]
    continues: Float[Tensor, "H B"]
    valid: Float[Tensor, "H B"]
    planned_token: Float[Tensor, "B P"]
    demonstrated: Float[Tensor, " B"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


SHARPNESS = 8.0  # inverse temperature of the similarity of two latents
APART, UNLIKE = 0.1, 10.0  # minimum standard deviation of a latent entry over a batch; its weight in the contrast loss


@dataclass(frozen=True)
class UpdateNoise:
    """What an update draws: standard normals (B, P) for value targets and policy; a mask (B, n) of senses kept."""

    value_noise: Float[Tensor, "B P"]
    policy_noise: Float[Tensor, "B P"]
    sense_mask: Float[Tensor, "B n"]


@dataclass(frozen=True)
class LossInputs:
    """What a registered loss is computed from, besides the model and the batch.

    latents (H+1, B, D): encoded from the first observation, then imagined after each token. targets (H+1, B, D):
    encoded from each observation, without gradients.
    """

    model: WorldModel
    batch: Batch
    latents: Float[Tensor, "K B D"]
    targets: Float[Tensor, "K B D"]


def readable(inputs: LossInputs) -> Tensor:
    """Return the share () of the states' variance that a ridge regression does not read from the latents."""
    z = inputs.latents.flatten(0, 1).float()
    state = inputs.model.normaliser(inputs.batch.seen.values[STATE_KEY].flatten(0, 1)).detach()
    z, state = z - z.mean(0), state - state.mean(0)
    gram = z.T @ z / len(z)
    gram = gram + 1e-3 * gram.diagonal().mean().detach() * torch.eye(len(gram), device=z.device)
    left = state - z @ torch.linalg.solve(gram, z.T @ state / len(z))
    return left.square().mean() / state.square().mean().clamp(min=1e-6)


OwnLosses = Mapping[str, Callable[[LossInputs], Tensor]]  # registered losses by name
NONE: OwnLosses = MappingProxyType({})


@dataclass(frozen=True)
class Losses:
    """Losses and statistics of a batch, each (), by the names under which they are recorded (`METRICS`).

    `loss_policy` is a weighted sum; the others lack their `*_coef`, but steps ahead are weighted by powers of `rho`.
    `policy_entropy`: estimated from the policy's samples, whose values are `values` (B,), of mean `value_mean`. `own`:
    the registered losses by name.
    """

    loss_consistency: Tensor
    loss_reward: Tensor
    loss_value: Tensor
    loss_policy: Tensor
    loss_continue: Tensor
    policy_entropy: Tensor
    value_mean: Tensor
    loss_agreement: Tensor
    loss_contrast: Tensor
    values: Float[Tensor, " B"]
    own: dict[str, Tensor] = field(default_factory=dict)

    def total(self, config: LearningConfig) -> Tensor:
        """Return the weighted sum () to minimise."""
        total = (
            config.consistency_coef * self.loss_consistency
            + config.reward_coef * self.loss_reward
            + config.value_coef * self.loss_value
            + config.termination_coef * self.loss_continue
            + self.loss_policy
            + config.contrastive_coef * self.loss_contrast
            + config.modality_consistency_coef * self.loss_agreement
        )
        for name, loss in self.own.items():
            total = total + config.losses[name] * loss
        return total


METRICS = tuple(field.name for field in fields(Losses) if field.name not in ("values", "own"))


def losses(
    model: WorldModel,
    target: ValueHeads,
    batch: Batch,
    noise: UpdateNoise,
    scale: Tensor,
    discount: float,
    config: LearningConfig,
    own: OwnLosses = NONE,
) -> Losses:
    """Compute the losses of a batch.

    `scale`: the current range of returns, which makes the policy's step independent of the reward's unit. `discount`:
    over a whole token. `own`: registered losses to compute, too. World-model and value losses train the encoder; the
    policy loss trains only the policy, except on demonstrations: there it only imitates, and also trains the encoder.
    Structure: Hansen et al. 2024 (arXiv 2310.16828), eq. 3-5, with returns over the whole window, a continue head,
    value and policy losses on the first latent only.
    """
    with torch.no_grad():
        ahead, returns = targets(model, target, batch, noise.value_noise, discount)
    first = batch.seen.map(lambda x: x[0])
    start, whole = encode_with_dropout(model, first, noise.sense_mask)
    agreement = (start - whole).square().mean()
    consistency, contrast, reward, continuation, imagined = world_losses(model, start, whole, ahead, batch, config)
    heads = model.value(start, batch.token[0])
    value = (batch.valid[0] * twohot_cross_entropy(heads, returns)).mean()
    policy, log_density, values = policy_loss(model, start, heads, batch, noise.policy_noise, scale, config)
    extra = {}
    if own:
        latents, encoded = torch.stack([start, *imagined]), torch.cat([whole.unsqueeze(0), ahead])
        inputs = LossInputs(model, batch, latents, encoded)
        extra = {name: loss(inputs) for name, loss in own.items()}
    return Losses(
        loss_consistency=consistency,
        loss_reward=reward,
        loss_value=value,
        loss_policy=policy,
        loss_continue=continuation,
        policy_entropy=-log_density.detach().mean(),
        value_mean=values.detach().mean(),
        loss_agreement=agreement,
        loss_contrast=contrast,
        values=values.detach(),
        own=extra,
    )


def targets(
    model: WorldModel, target: ValueHeads, batch: Batch, noise: Float[Tensor, "B P"], discount: float
) -> tuple[Float[Tensor, "H B D"], Float[Tensor, " B"]]:
    """Return the targets: the latents of the observations after each token, and the return of each window.

    A window's bootstrap is the minimum over the target's heads, at a token sampled from the policy.
    """
    ahead = model.encode(batch.seen.map(lambda x: x[1:].flatten(0, 1)))
    ahead = ahead.unflatten(0, (len(batch.reward), -1))
    end = (batch.valid.sum(0).long() - 1).clamp(min=0)
    last = _at(ahead, end)
    points, _ = model.policy(last).sample(noise)
    value = twohot_mean(target(last, model.token(points, model.ends(_at(batch.token, end))))).amin(0)
    return ahead, window_return(batch.reward, batch.continues, batch.valid, value, discount)


def window_return(
    reward: Float[Tensor, "H B"],
    continues: Float[Tensor, "H B"],
    valid: Float[Tensor, "H B"],
    value: Float[Tensor, " B"],
    discount: float,
) -> Float[Tensor, " B"]:
    """Compute return targets (B,): rewards from the first to the last valid token, then the bootstrap `value` (B,).

    G_t = R_t + g c_t G_{t+1}, with V in place of G_{t+1} where no valid token follows; g is the discount over one
    token, c is 0 at a termination. One bootstrap per window: an n-step return (Sutton & Barto 2018, eq. 7.1).
    """
    following = value
    for t in reversed(range(len(reward))):
        if t + 1 < len(reward):
            following = torch.where(valid[t + 1] > 0, following, value)
        following = reward[t] + discount * continues[t] * following
    return following


def encode_with_dropout(
    model: WorldModel, seen: Observation, keep: Float[Tensor, "M n"]
) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M D"]]:
    """Encode M moments without the senses for which `keep` is 0, and with all; the latter is detached, as a target."""
    parts, presence = model.encode_each(seen), seen.presence
    kept = model.encoder.fuse(parts, presence * keep)
    whole = kept if len(model.senses) == 1 else model.encoder.fuse(parts, presence)  # a single sense is never dropped
    return kept, whole.detach()


def world_losses(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    whole: Float[Tensor, "B D"],
    ahead: Float[Tensor, "H B D"],
    batch: Batch,
    config: LearningConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Roll out from the first latents z: return four losses (): consistency, contrast, reward, continuation; latents.

    `whole`: the same latents encoded from all senses; `ahead`: the target latents after each token. Token t counts
    rho^t. The contrast is 0 if the model has no camera or the loss has weight 0.
    """
    steps = len(batch.reward)
    contrasted = config.contrastive_coef > 0 and model.sees
    weight = batch.valid * config.rho ** torch.arange(steps, device=z.device).unsqueeze(1)
    consistency, contrast, features = torch.zeros((), device=z.device), torch.zeros((), device=z.device), []
    imagined = []
    if contrasted:
        contrast, moments = UNLIKE * variance_loss(z), torch.cat([whole.unsqueeze(0), ahead])
        there = torch.cat([torch.ones_like(batch.valid[:1]), batch.valid])
    for t, (latent, feature) in enumerate(model.unroll(z, batch.token)):
        features.append(feature)
        imagined.append(latent)
        # No latent follows a termination, so there is nothing to predict beyond it.
        known = weight[t] * batch.continues[t]
        consistency = consistency + (known * (latent - ahead[t]).square().mean(-1)).mean() / steps
        if contrasted:
            near, near_there = (torch.cat([x[: t + 1], x[t + 2 :]]) for x in (moments, there))
            confused = contrastive_loss(latent, ahead[t], near, near_there, model.config.group)
            contrast = contrast + (known * confused).mean() / steps
    weight, continues = weight.flatten(), batch.continues.flatten()
    outcome = model.outcome(torch.cat(features))
    reward = (weight * twohot_cross_entropy(outcome[:, :-1], batch.reward.flatten())).mean()
    ends = F.binary_cross_entropy_with_logits(outcome[:, -1], continues, reduction="none")
    return consistency, contrast, reward, (weight * ends).mean(), imagined


def contrastive_loss(
    z: Float[Tensor, "B D"],
    others: Float[Tensor, "B D"],
    near: Float[Tensor, "K B D"],
    there: Float[Tensor, "K B"],
    group: int,
) -> Float[Tensor, " B"]:
    """InfoNCE of each of B imagined latents: the cross-entropy, in nats, of picking its own target among negatives.

    The similarity of two latents is how many of their soft symbols agree, sum_g <z_g, z'_g>. The loss keeps
    observations distinguishable, whereas consistency alone may drop what is hard to predict. Source: van den Oord et
    al. 2018 (arXiv 1807.03748), eq. 4. Negatives: in `others` the targets of other windows, and in `near` the K other
    moments of the same window where `there` is 1 (beyond an episode's end its last moment is repeated, which may be the
    target itself).
    """
    symbols = z.shape[-1] // group
    same_window = (z * near).sum(-1).masked_fill(there == 0, -torch.inf)
    alike = torch.cat([z @ others.T, same_window.T], 1) * (SHARPNESS / symbols**0.5)
    return F.cross_entropy(alike, torch.arange(len(z), device=z.device), reduction="none")


def variance_loss(z: Float[Tensor, "B D"]) -> Tensor:
    """Compute a hinge loss () on each latent entry's standard deviation over the batch; 0 if all reach APART.

    Where all latents are nearly the same, `contrastive_loss` has no gradient, but this loss has. Source: the variance
    term of VICReg, Bardes et al. 2022 (arXiv 2105.04906), eq. 1.
    """
    return F.relu(APART - (z.var(0, correction=0) + 1e-8).sqrt()).mean()


def policy_loss(
    model: WorldModel,
    start: Float[Tensor, "B D"],
    heads: Float[Tensor, "E B N"],
    batch: Batch,
    noise: Float[Tensor, "B P"],
    scale: Tensor,
    config: LearningConfig,
) -> tuple[Tensor, Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return the policy's loss () at the first latents, and the log-densities and values (B,) of its samples there.

    Where the agent acted: `soft_value`, and `planner_distillation_coef` times `distillation` of the planner's token.
    Where an expert did: only `bc_coef` times the L1 distance to the expert's token. `heads`: value logits of the
    executed tokens.
    """
    expert = batch.demonstrated
    policy = model.policy(torch.where(expert.bool().unsqueeze(1), start, start.detach()))
    points, log_density = policy.sample(noise)
    before = model.starts(batch.token[0])
    frozen = {name: p.detach() for name, p in model.value.named_parameters()}
    logits = functional_call(model.value, frozen, (start.detach(), model.token(points, before)))
    values = twohot_mean(logits).mean(0)
    total = ((1 - expert) * soft_value(log_density, values, scale, config.entropy_coef)).mean()
    away = model.token(policy.mode, before) - batch.planned_token
    if config.planner_distillation_coef:
        executed = twohot_mean(heads.detach()).mean(0)
        pull = distillation(away, executed, values.detach())
        total = total + config.planner_distillation_coef * (batch.valid[0] * (1 - expert) * pull).mean()
    total = total + config.bc_coef * (batch.valid[0] * expert * away.abs().sum(-1)).mean()
    return total, log_density, values


def soft_value(
    log_density: Float[Tensor, " B"], values: Float[Tensor, " B"], scale: Tensor, entropy: float
) -> Float[Tensor, " B"]:
    """alpha log pi(w|z) - Q(z, w) / scale, to minimise: Haarnoja et al. 2018 (arXiv 1812.05905), eq. 7."""
    return entropy * log_density - values / scale


def distillation(
    away: Float[Tensor, "B P"], executed: Float[Tensor, " B"], proposed: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the squared distance to the planner's tokens where the value of the executed ones is the higher, else 0.

    `away`: the policy's mode minus the planner's token; `executed`, `proposed`: values of the executed token and of the
    policy's.
    """
    return (executed > proposed) * away.square().sum(-1)


def _at(values: Float[Tensor, "H B _"], place: Int[Tensor, " B"]) -> Float[Tensor, "B _"]:
    return values.gather(0, place.view(1, -1, 1).expand(1, -1, values.shape[-1]))[0]
