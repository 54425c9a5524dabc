"""Laws of the losses: what a target is, what must not matter, and which weights which loss may move."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel import twohot
from worldmodel.batch import Batch
from worldmodel.losses import METRICS, UNLIKE, contrastive_loss, loss, variance_loss, window_return, world_losses
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import IMAGE_KEY_PREFIX, STATE_KEY
from worldmodel.settings import LearningConfig

DISCOUNT = 0.9
CONFIG = LearningConfig(batch=6)


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
    return *torch.randn(2, size, 2, generator=g, dtype=dtype), torch.ones(size, 1, dtype=dtype)


def target_of(toys, **changes):
    """A target net that is not the model's own."""
    return toys.tiny_model(seed=7, **changes).value.requires_grad_(False)


def gradients(model, target, data, config, scale=1.0):
    """The gradient of the total, by parameter, and the total."""
    total, parts, _ = loss(model, target, data, noise(), torch.tensor(scale), DISCOUNT, config)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(total, list(model.parameters())), strict=True)), total, parts


def changed(data, **fields):
    """A batch with some fields replaced."""
    return dataclasses.replace(data, **fields)


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
    config = dataclasses.replace(CONFIG, imitation=imitation)
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
    config = dataclasses.replace(CONFIG, imitation=0.0)
    _, _, before = gradients(model, target, data, config)
    field = (data.seen.values[STATE_KEY] if name == "state" else getattr(data, name)).clone()
    field[0, 2] -= 0.5
    change = {"seen": data.seen.with_values({STATE_KEY: field})} if name == "state" else {name: field}
    _, _, after = gradients(model, target, changed(data, **change), config)
    parts = {m.removeprefix("loss_") for m, a, b in zip(METRICS, before, after, strict=True) if a != b}
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
    other, _, _ = gradients(model, target, data, dataclasses.replace(config, entropy=10.0, imitation=1.0), 3.0)
    for name in one:
        assert torch.equal(one[name], other[name]) != name.startswith("actor."), name


def test_an_expert_is_imitated_whatever_the_value_holds_of_it(toys, model):
    """A token chosen moves the policy only where the value holds the one executed better, an expert's anywhere."""
    target, config = target_of(toys), dataclasses.replace(CONFIG, imitation=1.0)

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
    other, _, _ = gradients(model, target, demonstrated, dataclasses.replace(config, entropy=10.0, imitation=9.0), 3.0)
    assert all(torch.equal(one[name], other[name]) for name in one)
    more, _, _ = gradients(model, target, demonstrated, dataclasses.replace(config, expert=20.0))
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], more[name])}
    assert moved == {"actor", "encoder"}


@pytest.mark.parametrize("part", ["consistency", "reward", "value", "continuation"])
def test_no_other_loss_moves_the_policy(toys, model, part):
    data, target, config = batch(), target_of(toys), CONFIG
    one, _, _ = gradients(model, target, data, config)
    more = dataclasses.replace(config, **{part: 10 * getattr(config, part)})
    other, _, _ = gradients(model, target, data, more)
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("actor."))
    assert any(not torch.equal(one[n], other[n]) for n in one if n.startswith("encoder."))


def test_the_return_scale_keeps_the_policys_step_independent_of_the_unit(toys, model):
    """With values twice as large and a scale twice as large, the policy moves the same."""
    config = dataclasses.replace(CONFIG, entropy=0.0, imitation=0.0)
    data, target = batch(), target_of(toys)
    one, _, parts = gradients(model, target, data, config, 2.0)
    mean = twohot.mean
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twohot, "mean", lambda logits: 2 * mean(logits))
        twice, _, same = gradients(model, target, data, config, 4.0)
        other, _, _ = gradients(model, target, data, config, 2.0)
    for name in one:
        if name.startswith("actor."):
            assert torch.allclose(one[name], twice[name], atol=1e-7), name
    assert any(not torch.allclose(one[n], other[n], atol=1e-5) for n in one if n.startswith("actor."))
    at = METRICS.index("loss_policy")
    assert float(parts[at]) == pytest.approx(float(same[at]), rel=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 99))
def test_a_batch_in_another_order_has_the_same_loss(toys, seed):
    model, target, config = toys.tiny_model(), target_of(toys), CONFIG
    data, draws = changed(batch(), demonstrated=torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])), noise()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = {name: getattr(data, name)[:, order] for name in ("token", "reward", "continues", "valid")}
    shuffled |= {name: getattr(data, name)[order] for name in ("planned_token", "demonstrated")}
    mixed = Batch(data.seen.map(lambda x: x[:, order]), **shuffled)
    one, parts, estimate = loss(model, target, data, draws, torch.ones(()), DISCOUNT, config)
    other, again, swapped = loss(model, target, mixed, tuple(n[order] for n in draws), torch.ones(()), DISCOUNT, config)
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-5)
    assert torch.allclose(parts, again, atol=1e-4)
    assert torch.allclose(estimate[order], swapped, atol=1e-5)


def test_the_value_learns_on_what_was_seen_not_on_what_was_imagined(toys, model):
    """The dynamics may be as wrong as they like."""
    data, target = batch(), target_of(toys)

    def valued():
        parts = loss(model, target, data, noise(), torch.ones(()), DISCOUNT, CONFIG)[1]
        return float(parts[METRICS.index("loss_value")]), float(parts[METRICS.index("loss_consistency")])

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
    ones = dict.fromkeys(("consistency", "reward", "value", "continuation"), 1.0)
    config = dataclasses.replace(CONFIG, imitation=0.1, **ones)
    own = [(name == "loss_policy") == (group == "actor") for name in METRICS]
    chosen = [n for n, name in enumerate(METRICS) if name.startswith("loss_") and own[n]]

    def run():
        return loss(model, target, data, draws, torch.tensor(1.5, dtype=torch.float64), DISCOUNT, config)

    weights = list(getattr(model, group).parameters())
    exact = torch.autograd.grad(run()[0], weights)
    g = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = [torch.randn(w.shape, generator=g, dtype=torch.float64) for w in weights]
        sides = []
        for sign in (1, -2, 1):  # forth, back, home
            with torch.no_grad():
                for w, d in zip(weights, direction, strict=True):
                    w.add_(d, alpha=sign * 1e-6)
            sides.append(float(run()[1][chosen].sum()))
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
    model.transition_features, model.next = (lambda z, w: z), (lambda feature: next(imagined))
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
