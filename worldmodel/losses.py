"""The losses of the world model, value and policy: one scalar to minimise per batch of token windows."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from worldmodel import twohot
from worldmodel.batch import Batch
from worldmodel.model import ValueHeads, WorldModel
from worldmodel.observation import Observation
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


SHARPNESS = 8.0  # inverse temperature of the similarity of two latents
APART, UNLIKE = 0.1, 10.0  # minimum standard deviation of a latent entry over a batch; its weight in the contrast loss


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


def bootstrap(
    model: WorldModel,
    target: ValueHeads,
    z: Float[Tensor, "B D"],
    noise: Float[Tensor, "B P"],
    start: Float[Tensor, "B A"] | None = None,
) -> Float[Tensor, " B"]:
    """Estimate the value of a latent: the minimum over the target's heads, at a token sampled from the policy.

    `start`: where the previous token ended, as for `WorldModel.token`.
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
    observations distinguishable, whereas consistency alone may drop what is hard to predict. Source: van den Oord et
    al. 2018 (arXiv 1807.03748), eq. 4. `others` holds the targets, one for each window; those of other windows are
    negatives that differ in what is constant within an episode. `near` holds the K other moments of the same window,
    negatives that differ in what moves, used where `there` is 1: beyond an episode's end its last moment is repeated,
    which may be the target itself.
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


def encode_with_dropout(
    model: WorldModel, seen: Observation, keep: Float[Tensor, "B n"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Encode without the senses for which `keep` is 0, and with all of them; the latter is detached, as a target."""
    encoder, parts = model.encoder, model.encode_each(seen)
    if len(model.senses) == 1:
        z = encoder.fuse(parts, keep)
        return z, z.detach()
    presence = seen.presence
    return encoder.fuse(parts, presence * keep), encoder.fuse(parts, presence).detach()


def targets(
    model: WorldModel,
    target: ValueHeads,
    batch: Batch,
    noise: Float[Tensor, "B P"],
    discount: float,
) -> tuple[Float[Tensor, "H B D"], Float[Tensor, " B"]]:
    """Return the targets: the latents of the observations after each token, and the return of each window."""
    ahead = model.encode(batch.seen.map(lambda x: x[1:].flatten(0, 1)))
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
    """Roll out from the first latents z and return four losses (): consistency, contrast, reward, continuation.

    `whole`: the same latents encoded from all senses; `ahead`: the target latents after each token. The contrast is 0
    if the model has no camera or the loss has weight 0.
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
        # No latent follows a termination, so there is nothing to predict beyond it.
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
    """Return the policy's loss () at the first latents, and the log-densities and values (B,) of its samples there.

    `heads`: value logits of the tokens that were executed. The loss maximises value and entropy; it imitates the
    planner's token where the executed one has the higher value, and only imitates where an expert acted (L1 distance).
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
    """Compute the total loss (), its parts in the order of METRICS (9,), and value estimates of the first latents (B,).

    `noise`: standard normal draws (B, P) for the value targets and (B, P) for the policy, and a mask (B, n) that is 1
    for the senses kept at the first observation. `scale`: the current spread of returns, which makes the policy's step
    independent of the reward's unit. `discount`: over a whole token. World-model and value losses train the encoder;
    the policy loss trains only the policy, except on demonstrations: there the policy only imitates, and the gradient
    also reaches the encoder, so that the latent holds what imitation needs. Structure of the losses: Hansen et al. 2024
    (arXiv 2310.16828), eq. 3-5, with returns over the whole window, a continue head, and value and policy losses on the
    first latent only.
    """
    with torch.no_grad():
        ahead, returns = targets(model, target, batch, noise[0], discount)
    start, whole = encode_with_dropout(model, batch.seen.map(lambda x: x[0]), noise[2])
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
