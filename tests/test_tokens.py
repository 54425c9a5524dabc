"""Laws of tokens of several lengths: a kind for each, one form for each motion, and sentences that stay of one kind."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens import Tokens
from worldmodel import twohot
from worldmodel.batch import Batch
from worldmodel.elites import common, fit_elites
from worldmodel.imagination import prior_distance, propose
from worldmodel.losses import bootstrap, loss
from worldmodel.planner import Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import LearningConfig, PlannerConfig, TokenConfig

SETTINGS = TokenConfig(4, 2, 1, shorter=(2, 1))
TOKENS = Tokens.of(SETTINGS, 2)
DISCOUNTS = torch.tensor([0.9, 0.9**2, 0.9**4])


def uniform(*shape, seed=0):
    """Numbers in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def mixed(toys):
    """A model that knows tokens of 1, 2 and 4 steps."""
    return toys.tiny_model(3, TOKENS.points, forms=TOKENS.forms, token=SETTINGS)


def test_kinds_are_the_lengths_the_shortest_first():
    assert TOKENS.lengths.tolist() == [1, 2, 4] == list(SETTINGS.lengths)
    assert (TOKENS.points, TOKENS.size) == (4, 7)
    assert Tokens.of(TokenConfig(4, 2, 1), 2).size == 4  # of one length: nothing but the points


@pytest.mark.parametrize("shorter", [(4,), (0,), (2, 2), (5,)])
def test_lengths_that_are_not_shorter_or_not_distinct_are_refused(shorter):
    with pytest.raises(ValueError, match=r"^model\.token\.shorter=.*: different lengths from 1 to 3"):
        TokenConfig(4, 2, 1, shorter)
    with pytest.raises(ValueError, match=r": empty \("):
        TokenConfig(shorter=(1,))


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_token_says_its_kind_and_gives_that_many_actions_back(kind):
    length = [1, 2, 4][kind]
    straight = torch.linspace(-0.3, 0.4, length).view(1, length, 1).expand(5, length, 2)
    token = TOKENS.encode(straight, kind)
    assert TOKENS.kind(token).tolist() == [kind] * 5
    actions = TOKENS.decode(token.unsqueeze(0), 4)
    assert torch.allclose(actions[:, :length], straight, atol=1e-5)
    assert torch.allclose(actions[:, length:], straight[:, -1:].expand(-1, 4 - length, -1), atol=1e-5)  # held


@given(st.integers(0, 2), st.integers(0, 99))
def test_every_motion_has_one_form(kind, seed):
    points = uniform(20, 4, seed=seed)
    form = TOKENS.forms[kind]
    formed = points @ form.T
    curve = TOKENS.curves[kind]
    assert torch.allclose(curve.decode(formed), curve.decode(points), atol=1e-5)
    assert torch.allclose(formed @ form.T, formed, atol=1e-5)
    assert torch.allclose(curve.inverse @ curve.decode(points), formed.unflatten(-1, (2, 2)), atol=1e-5)


def test_sentences_advance_each_by_its_own_steps():
    sentences = torch.cat([uniform(3, 6, 4), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])].expand(3, -1, -1)], -1)
    later = TOKENS.advance(sentences, torch.tensor([1, 2, 4, 2, 4, 8]))
    for b, tokens in enumerate([1, 1, 1, 2, 2, 2]):
        assert torch.equal(later[: 3 - tokens, b], sentences[tokens:, b])
        assert torch.equal(later[3 - tokens :, b], sentences[-1:, b].expand(tokens, -1))


def test_the_model_knows_equal_motions_as_equal_tokens(mixed):
    kind = torch.eye(3)[0].expand(6, -1)
    points = uniform(6, 4)
    swapped = points.unflatten(-1, (2, 2)).flip(1).flatten(1)  # one step's action is the mean of both points
    assert torch.allclose(mixed.token(points, kind), mixed.token(swapped, kind), atol=1e-6)
    assert not torch.allclose(mixed.token(points, kind.roll(1, -1)), mixed.token(swapped, kind.roll(1, -1)), atol=1e-2)


def test_a_form_for_each_length_is_needed(toys):
    with pytest.raises(ValueError, match=r"^forms: one for each of 3 lengths"):
        toys.tiny_model(3, 4, token=SETTINGS)


def test_the_greedy_token_is_of_the_kind_of_the_highest_value(mixed):
    z = mixed.encode({STATE_KEY: torch.randn(50, 3, generator=torch.Generator().manual_seed(0))})
    tokens, values = mixed.greedy_token(z)
    each = [mixed.token(mixed.policy(z, kind).mode, kind) for kind in mixed.each_kind(z)]
    known = torch.stack([twohot.mean(mixed.value(z, w)).mean(0) for w in each])
    assert torch.equal(values, known.amax(0))
    assert torch.equal(TOKENS.kind(tokens), known.argmax(0))
    drawn = bootstrap(mixed, mixed.value, z, torch.zeros(50, 4))
    assert (drawn <= values + 1e-5).all()  # the least of the heads is at most their mean


def batch(kind, count=8, seed=0):
    """Windows of tokens of one kind."""
    g = torch.Generator().manual_seed(seed)
    token = torch.cat([uniform(3, count, 4, seed=seed), torch.eye(3)[kind].expand(3, count, -1)], -1)
    ones = torch.ones(3, count)
    reward = torch.randn(3, count, generator=g)
    return Batch(
        {STATE_KEY: torch.randn(4, count, 3, generator=g)}, token, reward, ones, ones, token[0], torch.zeros(count)
    )


def test_a_mixed_batch_is_the_mean_of_its_parts(mixed, toys):
    target = toys.tiny_model(3, 4, seed=7, forms=TOKENS.forms, token=SETTINGS).value.requires_grad_(False)
    noise = (*torch.randn(2, 24, 4, generator=torch.Generator().manual_seed(5)), torch.ones(24, 1))
    parts = [batch(kind, seed=kind) for kind in range(3)]

    def losses(data, draws):
        return loss(mixed, target, data, draws, torch.ones(()), DISCOUNTS, LearningConfig(batch=8))[1]

    whole = losses(Batch.joined(parts), noise)
    alone = [losses(part, tuple(n[8 * i : 8 * i + 8] for n in noise)) for i, part in enumerate(parts)]
    assert torch.allclose(whole, torch.stack(alone).mean(0), atol=1e-4)


def test_each_length_is_discounted_by_itself(mixed):
    tokens = torch.cat([uniform(3, 4), torch.eye(3)], -1)
    assert torch.allclose(mixed.token_discount(tokens, DISCOUNTS), DISCOUNTS)


def test_only_elites_of_the_winning_kind_make_the_mean():
    config = PlannerConfig(samples=6, policy_samples=4, elites=4, horizon=2)
    kinds = torch.eye(3)[torch.tensor([2, 2, 0, 0, 1, 1])]
    candidates = torch.cat([uniform(2, 1, 6, 4), kinds.expand(2, 1, 6, 3)], -1)
    returns = torch.tensor([[5.0, 4.9, 4.95, 1.0, -9.0, -9.0]])
    mean, spread, _, weights, elites, _ = fit_elites(candidates, returns, 4, config)
    assert torch.equal(mean[..., 4:], torch.eye(3)[2].expand(2, 1, 3))
    middle, ways, code = common(elites, weights, 4)
    assert torch.equal(code, torch.eye(3)[2:]) and torch.equal(middle, mean[..., :4])
    two = weights[0, [0, 2]] / weights[0, [0, 2]].sum()
    assert torch.allclose(mean[:, 0, :4], (two.view(1, 2, 1) * candidates[:, 0, :2, :4]).sum(1), atol=1e-6)
    assert spread.shape == (2, 1, 4)
    for t in range(2):
        covariance = torch.cov(candidates[t, 0, :2, :4].T, correction=0, aweights=two)
        assert torch.allclose(ways[t, 0].T @ ways[t, 0], covariance, atol=1e-6)
    alone = common(elites, weights, 7)[0]  # one kind only: all have their weights
    assert torch.equal(alone, torch.einsum("be,tbep->tbp", weights, elites))


def test_a_plan_is_of_one_kind_and_every_kind_is_considered(mixed):
    config = PlannerConfig(samples=24, policy_samples=6, elites=20, iterations=1, horizon=2, budget="fixed")
    observation = {STATE_KEY: torch.randn(30, 3, generator=torch.Generator().manual_seed(1))}
    plan = Planner(mixed, DISCOUNTS.tolist(), config).plan(observation, None, torch.Generator().manual_seed(0))
    kinds = TOKENS.kind(plan.tokens)
    assert torch.equal(kinds[0], kinds[1])
    assert torch.equal(plan.tokens[..., 4:].sum(-1), torch.ones(2, 30))
    assert set(TOKENS.kind(plan.elites).flatten().tolist()) == {0, 1, 2}
    for elite in (plan.elites, plan.tokens):
        points, kind = elite.split([4, 3], -1)
        assert torch.allclose(mixed.token(points, kind), elite, atol=1e-5)  # in the form that the nets know


def test_fewer_candidates_than_lengths_are_refused(mixed):
    few = dataclasses.replace(PlannerConfig(), policy_samples=2)
    with pytest.raises(ValueError, match=r"^planner\.policy_samples, planner\.elites=2: at least 3, the lengths$"):
        Planner(mixed, DISCOUNTS.tolist(), few)


def test_a_token_strays_from_the_policys_of_its_own_kind(mixed):
    z, generator = mixed.encode({STATE_KEY: torch.zeros(2, 3)}), torch.Generator().manual_seed(0)
    modes = propose(mixed, z, torch.zeros(2, 2, 3, 4), mixed.codes)
    turns = mixed.codes[torch.tensor([2, 0, 1, 0])]
    others = propose(mixed, z, torch.randn(2, 2, 4, 4, generator=generator), turns)
    wanted = (others - modes[:, :, [2, 0, 1, 0]])[..., :4].square().sum((0, 3))
    torch.testing.assert_close(prior_distance(others, modes, 4), wanted)
    assert (wanted > 0).all()
    assert (prior_distance(modes, modes, 4) < 1e-12).all()


def test_the_policy_is_asked_for_each_kind_by_itself(mixed):
    z = mixed.encode({STATE_KEY: torch.zeros(2, 3)})
    proposed = propose(mixed, z, torch.zeros(2, 2, 3, 4), mixed.codes)
    assert TOKENS.kind(proposed[0, 0]).tolist() == [0, 1, 2]
    assert not torch.allclose(proposed[0, 0, 1, :4], proposed[0, 0, 2, :4], atol=1e-3)
