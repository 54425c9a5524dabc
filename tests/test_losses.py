"""Laws of the losses: what a target is, what must not matter, and which weights which loss may move."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.losses import (
    METRICS,
    UNLIKE,
    Batch,
    ImitationBatch,
    Losses,
    UpdateNoise,
    contrastive_loss,
    imitation_loss,
    losses,
    variance_loss,
    window_return,
    world_losses,
)
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import IMAGE_KEY_PREFIX, LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import LearningConfig

DISCOUNT = 0.9
CONFIG = LearningConfig(batch_size=6)


def batch(seed=0, horizon=CONFIG.horizon, size=6, dtype=torch.float32):
    """Windows of which the first goes to the end, the second terminates, the third is cut, the fourth never began."""
    g = torch.Generator().manual_seed(seed)
    state = torch.randn(horizon + 1, size, 3, generator=g, dtype=dtype)
    token = torch.rand(horizon, size, 2, generator=g, dtype=dtype) * 2 - 1
    reward = torch.randn(horizon, size, generator=g, dtype=dtype)
    continues, valid = torch.ones(horizon, size, dtype=dtype), torch.ones(horizon, size, dtype=dtype)
    continues[1:, 1], valid[2:, 1] = 0, 0
    valid[1:, 2] = 0
    valid[:, 3] = 0
    return Batch(
        Observation.of({STATE_KEY: (3,)}, {STATE_KEY: state}),
        token,
        reward,
        continues,
        valid,
        token[0],
        torch.zeros(size, dtype=dtype),
    )


def noise(size=6, seed=1, dtype=torch.float32):
    """The draws of one loss."""
    g = torch.Generator().manual_seed(seed)
    return UpdateNoise(*torch.randn(2, size, 2, generator=g, dtype=dtype), torch.ones(size, 1, dtype=dtype))


def target_of(toys, **changes):
    """A target net that is not the model's own."""
    return toys.tiny_model(seed=7, **changes).value.requires_grad_(False)


def gradients(model, target, data, config, scale=1.0):
    """The gradient of the total, by parameter, the total, and the parts by name."""
    found = losses(model, target, data, noise(), torch.tensor(scale), DISCOUNT, config)
    total, parts = found.total(config), {name: float(getattr(found, name).detach()) for name in METRICS}
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(total, list(model.parameters())), strict=True)), total, parts


def changed(data, **fields):
    """A batch with some fields replaced."""
    return dataclasses.replace(data, **fields)


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


@pytest.fixture(params=[0, 1])
def case(request, toys, monkeypatch):
    """A model of two senses that contrasts its latents, and a batch in which everything occurs."""
    monkeypatch.setattr(WorldModel, "sees", True)
    model = toys.tiny_model({STATE_KEY: (3,), LANGUAGE_KEY: (4,)})
    target, data, g = target_of(toys), batch(request.param), torch.Generator().manual_seed(5 + request.param)
    words = torch.randn(CONFIG.horizon + 1, 6, 4, generator=g)
    seen = Observation.of(model.senses, {**data.seen.values, LANGUAGE_KEY: words})
    demonstrated = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    data = changed(data, seen=seen, planned_token=torch.randn(6, 2, generator=g), demonstrated=demonstrated)
    keep = torch.tensor([[1.0, 1], [0, 1], [1, 0], [1, 1], [1, 1], [0, 1]])
    draws = UpdateNoise(*torch.randn(2, 6, 2, generator=g), keep)
    weights = dict(rho=0.6, entropy_coef=0.3, planner_distillation_coef=0.7, bc_coef=1.3, contrastive_coef=0.4)
    weights |= dict(modality_consistency_coef=2.0, consistency_coef=5.0)
    config = dataclasses.replace(CONFIG, reward_coef=0.2, value_coef=0.5, termination_coef=0.9, **weights)
    parts = vars(losses(model, target, data, draws, torch.tensor(1.7), DISCOUNT, config))
    found = Losses(**{name: part.detach() for name, part in parts.items()})
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
        z = case.model.step(z, case.data.token[t])[0]
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
    assert {*better[[0, 1, 2, 5]]} == {False, True}
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


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=5), min_size=1, max_size=4), st.booleans())
def test_returns_are_the_sum_written_out(rewards, terminates):
    horizon, size = 5, len(rewards)
    reward, continues, valid = torch.zeros(horizon, size), torch.ones(horizon, size), torch.zeros(horizon, size)
    for b, known in enumerate(rewards):
        reward[: len(known), b] = torch.tensor(known)
        valid[: len(known), b] = 1
        if terminates:
            continues[len(known) - 1 :, b] = 0
    value = torch.arange(size) + 1.0
    targets = window_return(reward, continues, valid, value, DISCOUNT)
    for b, known in enumerate(rewards):
        want = sum(DISCOUNT**k * r for k, r in enumerate(known))
        if not terminates:
            want += DISCOUNT ** len(known) * float(value[b])
        assert float(targets[b]) == pytest.approx(want, abs=1e-4)


def test_a_terminated_tokens_target_ignores_the_value(generator):
    reward = torch.randn(3, 4, generator=generator)
    continues = torch.tensor([1.0, 0.0, 0.0]).unsqueeze(1).expand(3, 4)
    valid = torch.tensor([1.0, 1.0, 0.0]).unsqueeze(1).expand(3, 4)
    one, other = (window_return(reward, continues, valid, torch.full((4,), v), DISCOUNT) for v in (0.0, 1e6))
    assert torch.equal(one, other)
    assert torch.allclose(one, reward[0] + DISCOUNT * reward[1])


@pytest.mark.parametrize("imitation", [0.0, 0.1])
def test_what_never_happened_does_not_matter(toys, model, imitation):
    data, target = batch(), target_of(toys)
    config = dataclasses.replace(CONFIG, planner_distillation_coef=imitation)
    before, total, _ = gradients(model, target, data, config)
    absent = data.valid == 0
    assert absent.any()
    state = data.seen.values[STATE_KEY].clone()
    state[1:][absent] = 37.0
    others = (
        changed(data, seen=data.seen.with_values({STATE_KEY: state})),
        changed(data, token=torch.where(absent.unsqueeze(-1), 0.77, data.token)),
        changed(data, reward=torch.where(absent, 1e3, data.reward)),
        changed(data, continues=torch.where(absent, 1 - data.continues, data.continues)),
        changed(data, planned_token=torch.where(absent[0].unsqueeze(-1), 0.77, data.planned_token)),
    )
    for other in others:
        after, again, _ = gradients(model, target, other, config)
        assert torch.equal(again, total)
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "felt"),
    [
        ("state", {"consistency", "reward", "value", "continue", "policy"}),
        ("token", {"consistency", "reward", "value", "continue"}),
        ("reward", {"reward", "value"}),
        ("continues", {"consistency", "value", "continue"}),
    ],
)
def test_what_did_happen_matters_where_it_should(toys, model, name, felt):
    data, target = batch(), target_of(toys)
    config = dataclasses.replace(CONFIG, planner_distillation_coef=0.0)
    _, _, before = gradients(model, target, data, config)
    field = (data.seen.values[STATE_KEY] if name == "state" else getattr(data, name)).clone()
    field[0, 2] -= 0.5
    change = {"seen": data.seen.with_values({STATE_KEY: field})} if name == "state" else {name: field}
    _, _, after = gradients(model, target, changed(data, **change), config)
    parts = {name.removeprefix("loss_") for name in METRICS if before[name] != after[name]}
    assert parts & {"consistency", "reward", "value", "continue", "policy"} == felt


def test_nothing_is_learned_from_beyond_a_termination(toys, model):
    data, target, config = batch(), target_of(toys), CONFIG
    before, total, _ = gradients(model, target, data, config)
    state = data.seen.values[STATE_KEY].clone()
    state[2, 1] = 37.0  # what was seen after the token that ended the episode
    after, again, _ = gradients(model, target, changed(data, seen=data.seen.with_values({STATE_KEY: state})), config)
    assert torch.equal(again, total)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_policys_loss_moves_the_policy_only(toys, model):
    data, target, config = batch(), target_of(toys), CONFIG
    one, _, _ = gradients(model, target, data, config)
    other, _, _ = gradients(
        model, target, data, dataclasses.replace(config, entropy_coef=10.0, planner_distillation_coef=1.0), 3.0
    )
    for name in one:
        assert torch.equal(one[name], other[name]) != name.startswith("actor."), name


def test_an_expert_is_imitated_whatever_the_value_holds_of_it(toys, model):
    """A token chosen moves the policy only where the value holds the one executed better, an expert's anywhere."""
    target, config = target_of(toys), dataclasses.replace(CONFIG, planner_distillation_coef=1.0)

    def pulls(demonstrated):
        """Which of the windows that happened (all but the fourth) move the policy by their choice."""
        data, found = changed(batch(), demonstrated=torch.full((6,), demonstrated)), []
        for i in (0, 1, 2, 4, 5):
            choices = [data.planned_token.clone() for _ in range(2)]
            choices[0][i], choices[1][i] = 2.0, -2.0
            one, other = (gradients(model, target, changed(data, planned_token=token), config)[0] for token in choices)
            found.append(any(not torch.equal(one[n], other[n]) for n in one if n.startswith("actor.")))
        return found

    assert True in pulls(0.0) and False in pulls(0.0)
    assert all(pulls(1.0))


def test_what_an_expert_did_is_only_imitated_and_shapes_the_latent(toys, model):
    target, config = target_of(toys), CONFIG
    demonstrated = changed(batch(), demonstrated=torch.ones(6))
    one, _, _ = gradients(model, target, demonstrated, config)
    other, _, _ = gradients(
        model, target, demonstrated, dataclasses.replace(config, entropy_coef=10.0, planner_distillation_coef=9.0), 3.0
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    more, _, _ = gradients(model, target, demonstrated, dataclasses.replace(config, bc_coef=20.0))
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], more[name])}
    assert moved == {"actor", "encoder"}


@pytest.mark.parametrize("part", ["consistency_coef", "reward_coef", "value_coef", "termination_coef"])
def test_no_other_loss_moves_the_policy(toys, model, part):
    data, target, config = batch(), target_of(toys), CONFIG
    one, _, _ = gradients(model, target, data, config)
    more = dataclasses.replace(config, **{part: 10 * getattr(config, part)})
    other, _, _ = gradients(model, target, data, more)
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("actor."))
    assert any(not torch.equal(one[n], other[n]) for n in one if n.startswith("encoder."))


def test_the_return_scale_keeps_the_policys_step_independent_of_the_unit(toys, model):
    """With values twice as large and a scale twice as large, the policy moves the same."""
    config = dataclasses.replace(CONFIG, entropy_coef=0.0, planner_distillation_coef=0.0)
    data, target = batch(), target_of(toys)
    one, _, parts = gradients(model, target, data, config, 2.0)
    from worldmodel import losses as module

    mean = module.twohot_mean
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "twohot_mean", lambda logits: 2 * mean(logits))
        twice, _, same = gradients(model, target, data, config, 4.0)
        other, _, _ = gradients(model, target, data, config, 2.0)
    for name in one:
        if name.startswith("actor."):
            assert torch.allclose(one[name], twice[name], atol=1e-7), name
    assert any(not torch.allclose(one[n], other[n], atol=1e-5) for n in one if n.startswith("actor."))
    assert parts["loss_policy"] == pytest.approx(same["loss_policy"], rel=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 99))
def test_a_batch_in_another_order_has_the_same_loss(toys, seed):
    model, target, config = toys.tiny_model(), target_of(toys), CONFIG
    data, draws = changed(batch(), demonstrated=torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])), noise()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = {name: getattr(data, name)[:, order] for name in ("token", "reward", "continues", "valid")}
    shuffled |= {name: getattr(data, name)[order] for name in ("planned_token", "demonstrated")}
    mixed = Batch(data.seen.map(lambda x: x[:, order]), **shuffled)
    moved = UpdateNoise(*(n[order] for n in vars(draws).values()))
    one = losses(model, target, data, draws, torch.ones(()), DISCOUNT, config)
    other = losses(model, target, mixed, moved, torch.ones(()), DISCOUNT, config)
    for name in METRICS:
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-4), name
    assert torch.allclose(one.values[order], other.values, atol=1e-5)


def test_the_value_learns_on_what_was_seen_not_on_what_was_imagined(toys, model):
    """The dynamics may be as wrong as they like."""
    data, target = batch(), target_of(toys)

    def valued():
        found = losses(model, target, data, noise(), torch.ones(()), DISCOUNT, CONFIG)
        return float(found.loss_value.detach()), float(found.loss_consistency.detach())

    before = valued()
    with torch.no_grad():
        for p in [*model.trunk.parameters(), *model.next.parameters()]:
            p.normal_()
    after = valued()
    assert after[0] == before[0] > 0
    assert after[1] != before[1]


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
    data, draws = batch(dtype=torch.float64), noise(dtype=torch.float64)
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


def test_the_contrastive_loss_is_that_of_guessing_where_all_look_alike_and_none_where_symbols_differ():
    symbols = torch.eye(4)[torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1]])]  # three latents of four symbols
    latents = symbols.transpose(1, 2).flatten(1)  # a symbol's entries are strided
    nothing = latents[:0].unsqueeze(1).expand(-1, 3, -1)
    assert float(contrastive_loss(latents, latents, nothing, nothing[..., 0], 4).max()) < 1e-5
    even = torch.full((3, 16), 0.25)
    assert torch.allclose(
        contrastive_loss(latents, even, nothing, nothing[..., 0], 4), torch.tensor(3.0).log().expand(3)
    )
    other = contrastive_loss(latents, latents.roll(1, 0), nothing, nothing[..., 0], 4)
    assert (other > 10).all()


def test_the_contrastive_loss_counts_the_other_moments_of_a_latents_own_window_and_of_no_other():
    symbols = torch.eye(4)[torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1]])]
    latents = symbols.transpose(1, 2).flatten(1)
    there = torch.ones(3, 3)
    same = latents.unsqueeze(0).repeat(3, 1, 1)  # nothing moves in three more moments: one guess of four is right
    assert torch.allclose(contrastive_loss(latents, latents, same, there, 4), torch.tensor(4.0).log().expand(3))
    moved = same.clone()
    moved[:, 1:] = 1 - moved[:, 1:]  # no symbol of theirs is left
    found = contrastive_loss(latents, latents, moved, there, 4)
    assert found[0] == pytest.approx(torch.tensor(4.0).log())
    assert float(found[1:].max()) < 1e-5
    there[:2, 0] = 0
    assert contrastive_loss(latents, latents, moved, there, 4)[0] == pytest.approx(torch.tensor(2.0).log())


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_repeated_beyond_an_end_is_not_told_from_itself(cut):
    """Two windows of two tokens, each moment another latent; the first may be cut after one token, and repeat it."""
    moments = torch.eye(6).view(3, 2, 6)
    if cut:
        moments[2, 0] = moments[1, 0]
    valid = torch.tensor([[1.0, 1.0], [float(not cut), 1.0]])
    imagined = iter(moments[1:])  # all as it comes
    model = WorldModel.__new__(WorldModel)
    torch.nn.Module.__init__(model)
    model.senses, model.config = {f"{IMAGE_KEY_PREFIX}front": (8, 8, 3)}, SimpleNamespace(group=6)
    model.unroll = lambda z, tokens: ((next(imagined), z) for _ in tokens)
    model.outcome = lambda feature: torch.zeros(len(feature), 12)
    none, ones = torch.zeros(2, 2), torch.ones(2, 2)
    windows = Batch(Observation({}, {}), none.unsqueeze(-1), none, ones, valid, none[:, :1], none[0])
    _, contrast, _, _ = world_losses(model, moments[0], moments[0], moments[1:], windows, CONFIG)
    told = contrast - UNLIKE * variance_loss(moments[0])
    assert 0 <= float(told) < 0.01


@pytest.mark.parametrize(("scale", "slope"), [(1e-3, -1.0), (0.03, -1.0), (0.09, -1.0), (0.11, 0.0)])
def test_latents_that_are_all_the_same_are_drawn_apart_as_strongly_however_same_they_are(generator, scale, slope):
    ways = torch.randn(64, 16, generator=generator, dtype=torch.float64)
    ways = (ways - ways.mean(0)) / ways.std(0, correction=0)
    width = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    same = variance_loss(0.5 + width * ways)
    assert float(same.detach()) == pytest.approx(max(0.0, 0.1 - scale), abs=1e-5)
    assert float(torch.autograd.grad(same, width)[0]) == pytest.approx(slope, abs=0.01)
    # Of that size there is nothing in what tells one latent from the others.
    nothing = ways[:0].unsqueeze(1).expand(-1, 64, -1)
    latents = 0.5 + width * ways
    told = contrastive_loss(latents, latents.detach(), nothing, nothing[..., 0], 8).mean()
    if scale < 0.01:
        assert abs(float(torch.autograd.grad(told, width)[0])) < 0.1


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


def test_imitation_learns_nothing_of_reward_and_value_and_does_what_was_done(model, windows):
    imitation_loss(model, windows, 20.0)[0].backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"encoder", "trunk", "next", "actor"}
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = imitation_loss(model, windows, 1.0)[1]
    for _ in range(300):
        optimiser.zero_grad()
        imitation_loss(model, windows, 1.0)[0].backward()
        optimiser.step()
    after = imitation_loss(model, windows, 1.0)[1]
    assert all(after[name] < 0.2 * before[name] for name in before)
    mode, _ = model.greedy_token(model.encode(windows.seen.map(lambda x: x[0])))
    assert (mode - windows.token[0]).abs().mean() < 0.2
