"""What the world model learns from: one scalar to minimise, from a batch of token windows."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from worldmodel import twohot
from worldmodel.batch import Batch
from worldmodel.model import ValueHeads, WorldModel
from worldmodel.settings import LearningConfig

METRICS = (
    "loss_consistency",
    "loss_reward",
    "loss_value",
    "loss_policy",
    "loss_continue",
    "policy_entropy",
    "value_mean",
    "loss_agreement",
    "loss_contrast",
)


SHARPNESS = 8.0  # of the similarity of two latents
APART, UNLIKE = 0.1, 10.0  # the least deviation of a symbol's entry over a batch, and what it weighs in the contrast


def window_return(
    reward: Float[Tensor, "H B"],
    continues: Float[Tensor, "H B"],
    valid: Float[Tensor, "H B"],
    value: Float[Tensor, " B"],
    discount: float,
) -> Float[Tensor, " B"]:
    """Targets (B,): the rewards from the first token to the window's last valid one, then `value` (B,), V after it.

    G_t = R_t + g c_t G_{t+1}, and V in the place of G_{t+1} where no valid token follows; g is the discount over one
    token, c whether the episode goes on. One bootstrap a window: an n-step return (Sutton & Barto 2018, eq. 7.1).
    """
    following = value
    for t in reversed(range(len(reward))):
        if t + 1 < len(reward):
            following = torch.where(valid[t + 1] > 0, following, value)
        following = reward[t] + discount * continues[t] * following
    return following


def bootstrap(
    model: WorldModel,
    target: ValueHeads,
    z: Float[Tensor, "B D"],
    noise: Float[Tensor, "B P"],
    start: Float[Tensor, "B A"] | None = None,
) -> Float[Tensor, " B"]:
    """What follows a latent: the least of the target's heads, at a token that the policy draws.

    `start`: where the token before ended, as for `WorldModel.token`.
    """
    points, _ = model.policy(z).sample(noise)
    return twohot.mean(target(z, model.token(points, start))).amin(0)


def contrastive_loss(
    z: Float[Tensor, "B D"],
    others: Float[Tensor, "B D"],
    near: Float[Tensor, "K B D"],
    there: Float[Tensor, "K B"],
    group: int,
) -> Float[Tensor, " B"]:
    """InfoNCE of each of B imagined latents: the cross-entropy, in nats, of picking its own target among negatives.

    The similarity of two latents is how many of their soft symbols agree, sum_g <z_g, z'_g>. The loss keeps
    observations distinguishable, where consistency alone may drop what is hard to predict. Source: van den Oord et al.
    2018 (arXiv 1807.03748), eq. 4. Negatives are the `others` of the batch, which differ in what stands still for an
    episode, and those `near`, of other moments of the same window, which differ in what moves, as far as they are
    `there`: beyond an episode's end its last moment is repeated, which may be the target itself.
    """
    symbols = z.shape[-1] // group
    same_window = (z * near).sum(-1).masked_fill(there == 0, -torch.inf)
    alike = torch.cat([z @ others.T, same_window.T], 1) * (SHARPNESS / symbols**0.5)
    return F.cross_entropy(alike, torch.arange(len(z), device=z.device), reduction="none")


def variance_loss(z: Float[Tensor, "B D"]) -> Tensor:
    """Hinge loss, (), on the standard deviation of each latent entry over the batch; 0 where all reach APART.

    Where all latents are nearly the same, `contrastive_loss` has no gradient, and this has. Source: the variance term
    of VICReg, Bardes et al. 2022 (arXiv 2105.04906), eq. 1.
    """
    return F.relu(APART - (z.var(0, correction=0) + 1e-8).sqrt()).mean()


def encode_with_dropout(
    model: WorldModel, seen: dict[str, Tensor], keep: Float[Tensor, "B n"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Encode with some senses dropped (`keep` is 0) and with all of them; the latter is detached, as a target."""
    encoder = model.encoder
    seen = model.scaled(seen)
    parts = encoder.sense(seen)
    if len(model.senses) == 1:
        z = encoder.join(parts, keep)
        return z, z.detach()
    present = encoder.present(seen)
    return encoder.join(parts, present * keep), encoder.join(parts, present).detach()


def targets(
    model: WorldModel,
    target: ValueHeads,
    batch: Batch,
    noise: Float[Tensor, "B P"],
    discount: float,
) -> tuple[Float[Tensor, "H B D"], Float[Tensor, " B"]]:
    """What is to be imagined and what the value is to be: the latents of what was seen next, the windows' returns."""
    ahead = model.perceive({key: value[1:].flatten(0, 1) for key, value in batch.seen.items()})
    ahead = ahead.unflatten(0, (len(batch.reward), -1))
    end = (batch.valid.sum(0).long() - 1).clamp(min=0)
    last = _at(ahead, end)
    value = bootstrap(model, target, last, noise, model.ends(_at(batch.token, end)))
    return ahead, window_return(batch.reward, batch.continues, batch.valid, value, discount)


def _at(values: Float[Tensor, "H B N"], place: Int[Tensor, " B"]) -> Float[Tensor, "B N"]:
    return values.gather(0, place.view(1, -1, 1).expand(1, -1, values.shape[-1]))[0]


def world_losses(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    whole: Float[Tensor, "B D"],
    ahead: Float[Tensor, "H B D"],
    batch: Batch,
    config: LearningConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four losses () of what is imagined from the first latents: consistency, contrast, reward, continuation.

    The contrast is 0 where no camera sees, or where it weighs nothing.
    """
    steps = len(batch.reward)
    asked = config.contrast > 0 and model.sees
    weight = batch.valid * config.rho ** torch.arange(steps, device=z.device).unsqueeze(1)
    consistency, contrast, features = torch.zeros((), device=z.device), torch.zeros((), device=z.device), []
    if asked:
        contrast, moments = UNLIKE * variance_loss(z), torch.cat([whole.unsqueeze(0), ahead])
        there = torch.cat([torch.ones_like(batch.valid[:1]), batch.valid])
    for t in range(steps):
        features.append(model.transition_features(z, batch.token[t]))
        z = model.next(features[-1])
        # Nothing is to be predicted beyond a termination: no latent follows it.
        known = weight[t] * batch.continues[t]
        consistency = consistency + (known * (z - ahead[t]).square().mean(-1)).mean() / steps
        if asked:
            near, near_there = (torch.cat([x[: t + 1], x[t + 2 :]]) for x in (moments, there))
            confused = contrastive_loss(z, ahead[t], near, near_there, model.config.group)
            contrast = contrast + (known * confused).mean() / steps
    weight, continues = weight.flatten(), batch.continues.flatten()
    outcome = model.outcome(torch.cat(features))
    reward = (weight * twohot.cross_entropy(outcome[:, :-1], batch.reward.flatten())).mean()
    ends = F.binary_cross_entropy_with_logits(outcome[:, -1], continues, reduction="none")
    return consistency, contrast, reward, (weight * ends).mean()


def policy_loss(
    model: WorldModel,
    start: Float[Tensor, "B D"],
    heads: Float[Tensor, "E B N"],
    batch: Batch,
    noise: Float[Tensor, "B P"],
    scale: Tensor,
    config: LearningConfig,
) -> tuple[Tensor, Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The policy's loss () in the first latents, the log-density of the tokens that it draws there, and their value.

    `heads`: the value's logits of the tokens that were done instead.
    """
    first = start.detach()
    policy = model.policy(first + batch.demonstrated.unsqueeze(1) * (start - first))
    points, log_density = policy.sample(noise)
    before = model.starts(batch.token[0])
    token = model.token(points, before)
    frozen = {name: p.detach() for name, p in model.value.named_parameters()}
    estimate = twohot.mean(functional_call(model.value, frozen, (first, token))).mean(0)
    total = ((1 - batch.demonstrated) * (config.entropy * log_density - estimate / scale)).mean()
    away = model.token(policy.mode, before) - batch.planned_token
    if config.imitation:
        done = twohot.mean(heads.detach()).mean(0)
        better = batch.valid[0] * (1 - batch.demonstrated) * (done > estimate.detach())
        total = total + config.imitation * (better * away.square().sum(-1)).mean()
    total = total + config.expert * (batch.valid[0] * batch.demonstrated * away.abs().sum(-1)).mean()
    return total, log_density, estimate


def loss(
    model: WorldModel,
    target: ValueHeads,
    batch: Batch,
    noise: tuple[Tensor, Tensor, Tensor],
    scale: Tensor,
    discount: float,
    config: LearningConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total loss (), its parts in the order of METRICS (9,), and the value estimates of the first latents (B,).

    `noise`: standard normal (B, P) for the value's targets and (B, P) for the policy, and (B, n): 1 for the senses
    that are not hidden where the windows begin. `scale`: the current spread of returns, which makes the policy's step
    independent of the reward's unit. `discount`: over a whole token. World-model losses reach the
    encoder; the policy's reaches only the policy, but for what an expert did: there it imitates, does nothing else, and
    the latent is to tell what that takes. Structure of the losses: Hansen et al. 2024 (arXiv 2310.16828),
    eq. 3-5, with returns over the whole window, a continue head, and the losses of value and policy on the first
    latent only.
    """
    with torch.no_grad():
        ahead, returns = targets(model, target, batch, noise[0], discount)
    start, whole = encode_with_dropout(model, {key: value[0] for key, value in batch.seen.items()}, noise[2])
    agreement = (start - whole).square().mean() if len(model.senses) > 1 else torch.zeros((), device=start.device)
    consistency, contrast, reward, continuation = world_losses(model, start, whole, ahead, batch, config)
    heads = model.value(start, batch.token[0])
    value = (batch.valid[0] * twohot.cross_entropy(heads, returns)).mean()
    policy, log_density, estimate = policy_loss(model, start, heads, batch, noise[1], scale, config)
    total = (
        config.consistency * consistency
        + config.reward * reward
        + config.value * value
        + config.continuation * continuation
        + policy
        + config.contrast * contrast
        + config.agreement * agreement
    )
    entropy = -log_density.mean()
    parts = (consistency, reward, value, policy, continuation, entropy, estimate.mean(), agreement, contrast)
    return total, torch.stack([p.detach() for p in parts]), estimate.detach()
