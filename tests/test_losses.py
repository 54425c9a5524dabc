"""Laws of the losses: what each is, in closed form; what must not matter; and which weights which loss may move."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodel.imitation import ImitationBatch, imitation_loss
from worldmodel.losses import (
    METRICS,
    Losses,
    LossInputs,
    UpdateNoise,
    losses,
    readable,
)
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import LearningConfig

DISCOUNT = 0.9
CONFIG = LearningConfig(batch_size=6)


def noise(dtype=torch.float32):
    """The draws of one loss."""
    g = torch.Generator().manual_seed(1)
    return UpdateNoise(*torch.randn(2, 6, 2, generator=g, dtype=dtype), torch.ones(6, 1, dtype=dtype))


def target_of(toys):
    """A target net that is not the model's own."""
    return toys.tiny_model(seed=7).value.requires_grad_(False)


def gradients(toys, model, data, config=CONFIG):
    """The gradient of the total by parameter, and the total."""
    total = losses(model, target_of(toys), data, noise(), torch.tensor(1.0), DISCOUNT, config).total(config)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(total, list(model.parameters())), strict=True)), total


def moved(one, other):
    """The parts of the model whose gradient differs."""
    return {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}


def test_the_readable_loss_is_the_share_of_the_state_that_no_line_reads_from_the_latents(toys):
    """None where the state is linear in them, all of it where they know nothing; its gradient moves only them."""
    g = torch.Generator().manual_seed(0)
    model, latents = toys.tiny_model(), torch.randn(3, 200, 16, generator=g).requires_grad_()
    size, found = model.state_size, []
    unknown = torch.randn(3, 200, size, generator=g)
    for state in (latents.detach() @ torch.randn(16, size, generator=g), unknown):
        model.normaliser.take(state.flatten(0, 1).mean(0), state.flatten(0, 1).std(0), 600)
        batch = dataclasses.replace(toys.batch(model), seen=Observation.of(model.senses, {STATE_KEY: state}))
        found.append(readable(LossInputs(model, batch, latents, latents)))
    assert float(found[0].detach()) < 1e-3 and float(found[1].detach()) > 0.9
    (slope,) = torch.autograd.grad(found[1], latents)
    assert found[1] > readable(LossInputs(model, batch, latents.detach() - 50 * slope, latents))


# Every part, written out in double precision from what the nets say.


def numbers(x):
    """A tensor as NumPy's numbers."""
    return x.detach().double().numpy()


def log_softmax(x):
    """Along the last axis."""
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def decoded(logits):
    """The number that logits over bins stand for."""
    place = (np.exp(log_softmax(logits)) * np.linspace(-10, 10, logits.shape[-1])).sum(-1)
    return np.sign(place) * np.expm1(np.abs(place))


def surprise(logits, x):
    """The cross-entropy of one row of logits to the two-hot code of the number x."""
    centres = np.linspace(-10, 10, len(logits))
    code = [np.interp(np.sign(x) * np.log1p(abs(x)), centres, row) for row in np.eye(len(logits))]
    return -(code * log_softmax(logits)).sum()


@pytest.fixture(params=[2, 5])
def case(request, toys, monkeypatch):
    """A model of two senses that contrasts its latents, and a batch in which everything occurs."""
    monkeypatch.setattr(WorldModel, "sees", True)
    model = toys.tiny_model({STATE_KEY: (3,), LANGUAGE_KEY: (4,)}, group=2)
    target, data, g = (
        target_of(toys),
        toys.batch(model, seed=request.param),
        torch.Generator().manual_seed(5 + request.param),
    )
    seen = data.seen
    demonstrated = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    data = dataclasses.replace(data, planned_token=torch.randn(6, 2, generator=g), demonstrated=demonstrated)
    keep = torch.tensor([[1.0, 1], [0, 1], [1, 0], [1, 1], [1, 1], [0, 1]])
    draws = UpdateNoise(*torch.randn(2, 6, 2, generator=g), keep)
    weights = dict(rho=0.6, entropy_coef=0.3, planner_distillation_coef=0.7, bc_coef=1.3, contrastive_coef=0.4)
    weights |= dict(modality_consistency_coef=2.0, consistency_coef=5.0)
    config = dataclasses.replace(CONFIG, reward_coef=0.2, value_coef=0.5, termination_coef=0.9, **weights)
    parts = vars(losses(model, target, data, draws, torch.tensor(1.7), DISCOUNT, config))
    found = Losses(**{name: part.detach() for name, part in parts.items() if name != "own"})
    whole = model.encode(seen.map(lambda x: x.flatten(0, 1))).unflatten(0, (CONFIG.horizon + 1, 6))
    kept = dict(zip(model.senses, keep.T > 0, strict=True))
    start = model.encode(Observation(seen.map(lambda x: x[0]).values, kept))
    return SimpleNamespace(
        model=model, target=target, data=data, draws=draws, config=config, found=found, whole=whole, start=start
    )


def test_the_world_losses_are_their_equations(case):
    """Token t of H counts rho^t; what comes after a termination is not predicted, what never happened not at all."""
    valid, going, rewards = (numbers(getattr(case.data, name)) for name in ("valid", "continues", "reward"))
    consistency = contrast = reward = ends = 0.0
    whole, z = numbers(case.whole), case.start
    start = numbers(z)
    symbols = start.shape[1] // case.model.config.group
    for t in range(3):
        outcome = numbers(case.model.outcome(case.model.transition_features(z, case.data.token[t])))
        z, earned, goes_on = case.model.step(z, case.data.token[t])
        np.testing.assert_allclose(numbers(earned), decoded(outcome[:, :-1]), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(numbers(goes_on), 1 / (1 + np.exp(-outcome[:, -1])), rtol=1e-5)
        here = numbers(z)
        alike = here @ whole[t + 1].T
        for b in range(6):
            weight = valid[t, b] * 0.6**t
            consistency += weight * going[t, b] * ((here[b] - whole[t + 1, b]) ** 2).mean() / 3 / 6
            rivals = [here[b] @ whole[k, b] for k in range(4) if k != t + 1 and (k == 0 or valid[k - 1, b])]
            row = np.array([*alike[b], *rivals]) * 8 / np.sqrt(symbols)
            contrast += weight * going[t, b] * -log_softmax(row)[b] / 3 / 6
            reward += weight * surprise(outcome[b, :-1], rewards[t, b]) / 18
            chance = 1 / (1 + np.exp(-outcome[b, -1]))
            ends -= weight * np.log(chance if going[t, b] else 1 - chance) / 18
    contrast += 10 * np.maximum(0, 0.1 - start.std(0)).mean()
    for name, want in dict(consistency=consistency, contrast=contrast, reward=reward, **{"continue": ends}).items():
        assert float(getattr(case.found, f"loss_{name}")) == pytest.approx(want, rel=1e-4), name
    assert float(case.found.loss_agreement) == pytest.approx(((start - whole[0]) ** 2).mean(), rel=1e-4)


def test_the_value_loss_is_its_equation(case):
    """An n-step return with the smaller of two target heads after the last token that happened; both heads learn it."""
    data, total = case.data, 0.0
    heads = numbers(case.model.value(case.start, data.token[0]))
    for b in range(6):
        n = int(data.valid[:, b].sum())
        last = case.whole[n, b : b + 1]
        sampled = case.model.policy(last)
        w = torch.tanh(sampled.mean + sampled.log_std.exp() * case.draws.value_noise[b])
        want = decoded(numbers(case.target(last, w))).min()
        for t in reversed(range(n)):
            want = float(data.reward[t, b]) + DISCOUNT * float(data.continues[t, b]) * want
        total += float(data.valid[0, b]) * sum(surprise(head[b], want) for head in heads) / 12
    assert float(case.found.loss_value) == pytest.approx(total, rel=1e-4)


def test_the_policys_loss_is_its_equation(case):
    """Value over scale plus entropy; the planner's token where the executed one is better; an expert's token always."""
    data, noise, total = case.data, numbers(case.draws.policy_noise), 0.0
    policy = case.model.policy(case.start)
    u = numbers(policy.mean) + np.exp(numbers(policy.log_std)) * noise
    density = -0.5 * noise**2 - numbers(policy.log_std) - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(u) ** 2)
    density = density.sum(-1)
    value = decoded(numbers(case.model.value(case.start, torch.from_numpy(np.tanh(u)).float()))).mean(0)
    executed = decoded(numbers(case.model.value(case.start, data.token[0]))).mean(0)
    away = np.tanh(numbers(policy.mean)) - numbers(data.planned_token)
    happened, better = numbers(data.valid[0]), executed > value
    assert {*better[[0, 1, 2, 5]]} == {False, True} and not better[4]
    for b in range(6):
        if data.demonstrated[b]:
            total += 1.3 * happened[b] * np.abs(away[b]).sum() / 6
        else:
            total += (0.3 * density[b] - value[b] / 1.7) / 6
            total += 0.7 * happened[b] * better[b] * (away[b] ** 2).sum() / 6
    assert float(case.found.loss_policy) == pytest.approx(total, rel=1e-4)
    assert float(case.found.policy_entropy) == pytest.approx(-density.mean(), rel=1e-4)
    np.testing.assert_allclose(numbers(case.found.values), value, rtol=1e-3, atol=1e-5)
    assert float(case.found.value_mean) == pytest.approx(value.mean(), rel=1e-3)


def test_the_total_is_the_sum_by_weight(case):
    found, config = case.found, case.config
    want = 5 * found.loss_consistency + 0.2 * found.loss_reward + 0.5 * found.loss_value + 0.9 * found.loss_continue
    want = want + found.loss_policy + 0.4 * found.loss_contrast + 2 * found.loss_agreement
    torch.testing.assert_close(found.total(config), want)


# What must not matter, and which weights which loss may move.


def test_what_never_happened_does_not_matter_nor_what_was_seen_after_a_termination(toys, model):
    data = toys.batch(model)
    before, total = gradients(toys, model, data)
    absent = data.valid == 0
    state, beyond = (data.seen.values[STATE_KEY].clone() for _ in range(2))
    state[1:][absent] = 37.0
    beyond[2, 1] = 37.0
    for change in (
        {"seen": data.seen.with_values({STATE_KEY: state})},
        {"seen": data.seen.with_values({STATE_KEY: beyond})},
        {"token": torch.where(absent.unsqueeze(-1), 0.77, data.token)},
        {"reward": torch.where(absent, 1e3, data.reward)},
        {"continues": torch.where(absent, 1 - data.continues, data.continues)},
        {"planned_token": torch.where(absent[0].unsqueeze(-1), 0.77, data.planned_token)},
    ):
        after, again = gradients(toys, model, dataclasses.replace(data, **change))
        assert torch.equal(again, total) and not moved(before, after), change.keys()


@pytest.mark.parametrize(
    ("demonstrated", "coefs", "felt"),
    [
        (0.0, ["entropy"], {"actor"}),
        (0.0, ["planner_distillation"], {"actor"}),
        (0.0, ["bc"], set()),
        (0.0, ["consistency"], {"encoder", "trunk", "next"}),
        (0.0, ["reward"], {"encoder", "trunk", "next", "outcome"}),
        (0.0, ["termination"], {"encoder", "trunk", "next", "outcome"}),
        (0.0, ["value"], {"encoder", "value"}),
        (0.0, ["contrastive"], set()),  # without a camera it is 0
        (1.0, ["entropy", "planner_distillation"], set()),  # what an expert did is only imitated
        (1.0, ["bc"], {"actor", "encoder"}),
    ],
)
def test_each_loss_moves_what_it_should_and_nothing_else(toys, model, demonstrated, coefs, felt):
    data = toys.batch(model)
    away = (data.token[0] + 0.3).clamp(-1, 1)
    data = dataclasses.replace(data, demonstrated=torch.full((6,), demonstrated), planned_token=away)
    more = {f"{name}_coef": 3 * getattr(CONFIG, f"{name}_coef") for name in coefs}
    one, other = (gradients(toys, model, data, each)[0] for each in (CONFIG, dataclasses.replace(CONFIG, **more)))
    assert moved(one, other) == felt
    assert not losses(model, target_of(toys), data, noise(), torch.ones(()), DISCOUNT, CONFIG).loss_contrast


class Exact(WorldModel):
    """In double precision; where no gradient is asked for, it perceives and proposes as the reference does.

    So its losses, as functions of its weights, have the stopped gradients' targets held still.
    """

    reference: list

    def encode(self, seen):
        return super().encode(seen) if torch.is_grad_enabled() else self.reference[0].encode(seen)

    def policy(self, z):
        return (super() if torch.is_grad_enabled() else self.reference[0]).policy(z)


@pytest.mark.parametrize("group", ["encoder", "trunk", "next", "outcome", "value", "actor"])
def test_gradients_agree_with_finite_differences(toys, monkeypatch, group):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the layers' way back from bf16
    plain = toys.tiny_model()
    model = Exact({STATE_KEY: (3,)}, 2, plain.config)
    model.load_state_dict(plain.state_dict())
    target = target_of(toys)
    for net in (plain, model, target):
        net.double()
        for part in net.modules():
            if hasattr(part, "dtype"):
                part.dtype = torch.float64
    model.reference = [plain]  # in a list: not a part of the model
    data, draws = toys.batch(plain, dtype=torch.float64), noise(torch.float64)
    ones = dict.fromkeys(("consistency_coef", "reward_coef", "value_coef", "termination_coef"), 1.0)
    config = dataclasses.replace(CONFIG, planner_distillation_coef=0.1, **ones)
    chosen = [n for n in METRICS if n.startswith("loss_") and (n == "loss_policy") == (group == "actor")]

    def run():
        return losses(model, target, data, draws, torch.tensor(1.5, dtype=torch.float64), DISCOUNT, config)

    weights = list(getattr(model, group).parameters())
    exact = torch.autograd.grad(run().total(config), weights)
    g = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = [torch.randn(w.shape, generator=g, dtype=torch.float64) for w in weights]
        sides = []
        for sign in (1, -2, 1):  # forth, back, home
            with torch.no_grad():
                for w, d in zip(weights, direction, strict=True):
                    w.add_(d, alpha=sign * 1e-6)
            found = run()
            sides.append(sum(float(getattr(found, name).detach()) for name in chosen))
        slope = (sides[0] - sides[1]) / 2e-6
        along = sum(float((e * d).sum()) for e, d in zip(exact, direction, strict=True))
        assert along == pytest.approx(slope, rel=1e-5, abs=1e-7)
        assert abs(along) > 1e-4


# Learning from recordings alone.


@pytest.fixture
def windows():
    """Three tokens for four starts, the second of which ends after one token, the third within its second one."""
    draw = torch.Generator().manual_seed(0)
    whole, followed = torch.ones(3, 4), torch.ones(3, 4)
    whole[1:, 1], followed[1:, 1] = 0, 0
    whole[2, 2], followed[1:, 2] = 0, 0
    state, token = torch.randn(4, 4, 3, generator=draw), torch.rand(3, 4, 2, generator=draw) * 2 - 1
    seen = Observation.of({STATE_KEY: (3,)}, {STATE_KEY: state})
    return ImitationBatch(seen, torch.ones(4, 1), token, whole, followed)


def test_imitations_loss_is_its_equation(model, windows):
    """Only what was recorded counts, and each part is a mean over it."""
    total, parts = imitation_loss(model, windows, 20.0)
    found, z = model.encode(windows.seen.map(lambda x: x.flatten(0, 1))).unflatten(0, (4, 4)), None
    apart, off = [], []
    for t in range(3):
        z = model.step(found[0] if z is None else z, windows.token[t])[0]
        apart += [(z - found[t + 1]).square().mean(-1)[windows.followed[t] > 0]]
        off += [(model.policy(found[t]).mode - windows.token[t]).square().mean(-1)[windows.whole[t] > 0]]
    torch.testing.assert_close(parts["loss_consistency"], torch.cat(apart).mean().detach())
    torch.testing.assert_close(parts["loss_imitation"], torch.cat(off).mean().detach())
    torch.testing.assert_close(total, 20 * torch.cat(apart).mean() + torch.cat(off).mean())
    nothing = dataclasses.replace(windows, whole=torch.zeros(3, 4), followed=torch.zeros(3, 4))
    assert imitation_loss(model, nothing, 20.0)[0].item() == 0


def test_imitation_brings_the_latent_of_the_senses_kept_to_that_of_all(toys, windows):
    model = toys.tiny_model({STATE_KEY: (3,), LANGUAGE_KEY: (4,)})
    seen, keep = toys.batch(model, 4).seen, torch.tensor([[1.0, 0], [1, 1], [0, 1], [1, 1]])
    total, parts = imitation_loss(model, dataclasses.replace(windows, seen=seen, keep=keep), 20.0)
    whole = model.encode(seen.map(lambda x: x[0]))
    kept = model.encode(Observation(seen.map(lambda x: x[0]).values, dict(zip(model.senses, keep.T > 0, strict=True))))
    torch.testing.assert_close(parts["loss_agreement"], (kept - whole).square().mean().detach())
    want = 20 * parts["loss_consistency"] + parts["loss_imitation"] + 20 * parts["loss_agreement"]
    torch.testing.assert_close(total.detach(), want)
