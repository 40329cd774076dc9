"""The cringe loss on tokens, and the limits of the gate of its pairwise form."""

import math
import random

import jaxtyping
import pytest
import torch
from families.cringe import sigmoid
from hypothesis import given
from hypothesis import strategies as st
from references import log1pexp

from rankbench.losses import asft_loss, pairwise_cringe_loss, ranknet_loss
from rankbench.losses.cringe import cringe_loss, list_cringe

PAIR = torch.tensor([1.0, 0.0])
REFUSED = (ValueError, jaxtyping.TypeCheckError)  # By us, or by the types before us.


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def close(a, b, rtol=1e-9, atol=1e-9):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(fn, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(fn(x), x)[0]


# Tokens -----------------------------------------------------------------------------------------


@st.composite
def responses(draw, spread=16):
    """Logits without ties, tokens and a mask of two responses."""
    length, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    r = random.Random(draw(st.integers(0, 10**6)))
    rows = [[[r.uniform(-spread, spread) for _ in range(vocabulary)] for _ in range(length)]
            for _ in range(2)]  # fmt: skip
    tokens = [[r.randrange(vocabulary) for _ in range(length)] for _ in range(2)]
    where = [[r.random() < 0.7 for _ in range(length)] for _ in range(2)]
    return rows, tokens, where


def best_rival(rows, tokens, where):
    """Adolphs et al. 2022 with k = 1: each token against the best other one."""
    values = []
    for row, chosen, real in zip(rows, tokens, where, strict=True):
        costs = [
            log1pexp(s[y] - max(x for i, x in enumerate(s) if i != y))
            for s, y, ok in zip(row, chosen, real, strict=True) if ok
        ]  # fmt: skip
        values.append(math.fsum(costs) / len(costs) if costs else 0.0)
    return values


@given(responses())
def test_one_rival_is_the_best_other_token(data):
    rows, tokens, where = data
    ours = cringe_loss(double(*rows), torch.tensor(tokens), where=torch.tensor(where), k=1)
    close(ours, best_rival(rows, tokens, where))


@given(responses())
def test_the_gradient_pushes_the_token_down_and_its_rival_up(data):
    rows, tokens, where = data
    logits, tokens, where = double(*rows), torch.tensor(tokens), torch.tensor(where)
    gradient = slope(lambda s: cringe_loss(s, tokens, where=where, k=1).sum(), logits)
    expected = torch.zeros_like(logits)
    for a, t in where.nonzero().tolist():
        y = tokens[a, t].item()
        rival = logits[a, t].clone()
        rival[y] = -math.inf
        push = sigmoid(logits[a, t, y].item() - rival.max().item()) / where[a].sum().item()
        expected[a, t, y], expected[a, t, rival.argmax()] = push, -push
    close(gradient, expected)


def test_the_likeliest_token_meets_the_second_best():
    s = double([3.0, 1.0, 0.5, -1.0])
    close(cringe_loss(s, torch.tensor([0]), k=1), log1pexp(3 - 1))
    close(cringe_loss(s, torch.tensor([2]), k=1), log1pexp(0.5 - 3))


@pytest.mark.parametrize(("k", "rivals"), [(1, [2.0]), (2, [2.0, 1.0]), (3, [2.0, 1.0, -0.5]),
                                           (9, [2.0, 1.0, -0.5])])  # fmt: skip
def test_rivals_are_drawn_from_the_softmax_of_the_top_k(k, rivals):
    s = double([1.0, 1.5, -0.5, 2.0]).expand(20000, 4)
    tokens = torch.ones(20000, dtype=torch.long)
    costs = cringe_loss(s.unsqueeze(1), tokens[:, None], k=k, generator=generator())
    drawn = 1.5 - torch.log(torch.expm1(costs))  # log(1 + e^x) inverted
    shares = double(rivals)[0].softmax(0)
    for rival, share in zip(rivals, shares.tolist(), strict=True):
        assert abs((drawn - rival).abs().lt(1e-6).double().mean().item() - share) < 0.015
    assert torch.isin(drawn.round(decimals=6), double(rivals)[0]).all()


def test_the_token_itself_is_never_drawn():
    s = torch.zeros(1000, 1, 3)
    s[..., 0] = 50.0
    costs = cringe_loss(s, torch.zeros(1000, 1, dtype=torch.long), generator=generator())
    close(costs.double(), torch.full((1000,), 50.0), rtol=1e-6)


def test_the_seed_decides_the_draw():
    s, y = torch.randn(2, 6, 8, generator=generator()), torch.zeros(2, 6, dtype=torch.long)
    first, again, other = (cringe_loss(s, y, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_padding_changes_nothing():
    s, y = torch.randn(3, 7, generator=generator()), torch.tensor([4, 0, 6])
    alone = cringe_loss(s, y, k=1)
    longer = torch.cat([s, torch.full((2, 7), torch.nan)]).requires_grad_()
    tokens, where = torch.cat([y, torch.tensor([-100, 99])]), torch.arange(5) < 3
    padded = cringe_loss(longer, tokens, where=where, k=1)
    (gradient,) = torch.autograd.grad(padded, longer)
    close(padded.detach().double(), alone.double())
    assert gradient.isfinite().all() and not gradient[3:].any()


def test_nothing_to_say_costs_nothing():
    s = torch.zeros(2, 3, 4, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    costs = cringe_loss(s, torch.zeros(2, 3, dtype=torch.long), where=nothing)
    assert costs.tolist() == [0, 0] and not torch.autograd.grad(costs.sum(), s)[0].any()
    assert cringe_loss(torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.long)).shape == (0,)


def test_huge_and_half_logits_are_fine():
    s = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    costs = cringe_loss(s, torch.tensor([0, 0]), k=1)
    assert costs == 1e4 and torch.autograd.grad(costs, s)[0].isfinite().all()
    assert (
        cringe_loss(s.detach().clamp(-8, 8).bfloat16(), torch.tensor([0, 0])).dtype == torch.float32
    )


def test_no_gradient_flows_through_the_draw():
    s = double([0.5, 1.0, -1.0, 0.2])
    gradient = slope(lambda x: cringe_loss(x, torch.tensor([0]), generator=generator(3)), s)
    assert (gradient != 0).sum() == 2 and abs(gradient.sum()) < 1e-12


def test_wrong_arguments_are_refused():
    s, y = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="k=0 of 4 tokens leaves no rival; k must be 1 or more"):
        cringe_loss(s, y, k=0)
    with pytest.raises(ValueError, match="k=5 of 1 tokens leaves no rival"):
        cringe_loss(s[..., :1], y)
    with pytest.raises(REFUSED, match="tokens"):
        cringe_loss(s, y[:, :2])
    with pytest.raises(REFUSED, match="where"):
        cringe_loss(s, y, where=torch.ones(2, 4, dtype=torch.bool))


# Pairs ------------------------------------------------------------------------------------------


@st.composite
def judged_lists(draw):
    """Log-probabilities, labels with both sides, and a cost per response."""
    n = draw(st.integers(2, 6))
    number = st.floats(-12, -0.01)
    u = draw(st.lists(number, min_size=n, max_size=n))
    y = [1.0, 0.0, *draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n - 2, max_size=n - 2))]
    costs = draw(st.lists(st.floats(0, 5), min_size=n, max_size=n))
    return double(*u), double(*y), double(*costs)


def gates(u, y, b, t):
    """[good, bad]"""
    return torch.sigmoid((b - (u[y > 0][:, None] - u[y <= 0])) / t)


@given(judged_lists(), st.sampled_from([-2.0, 0.0, 3.0]), st.sampled_from([0.5, 1.0, 4.0]))
def test_the_gradient_takes_the_gate_for_a_constant(data, b, t):
    u, y, _ = data
    g, good = gates(u, y, b, t), u[y > 0]
    q, share = torch.sigmoid(u[y <= 0] - good.logsumexp(0)), good.softmax(0)
    expected = torch.zeros_like(u)
    expected[y > 0] = -(g.sum(1) + 2 * share * (g * q).sum()) / g.numel()
    expected[y <= 0] = 2 * q * g.sum(0) / g.numel()
    fn = lambda x: pairwise_cringe_loss(x, y, margin_shift=b, temperature=t, alpha=2.0)  # noqa: E731
    close(slope(fn, u), expected)


@given(judged_lists(), st.sampled_from([-2.0, 0.0, 3.0]))
def test_with_given_costs_the_gradient_reaches_good_responses_and_costs(data, b):
    u, y, costs = data
    g = gates(u, y, b, 1.0)
    fn = lambda x, c: pairwise_cringe_loss(x, y, margin_shift=b, alpha=0.5, cringe=c)  # noqa: E731
    by_response, by_cost = slope(lambda x: fn(x, costs), u), slope(lambda c: fn(u, c), costs)
    close(by_response[y > 0], -g.sum(1) / g.numel())
    close(by_cost[y <= 0], 0.5 * g.sum(0) / g.numel())
    assert not by_response[y <= 0].any() and not by_cost[y > 0].any()


@given(judged_lists(), st.booleans())
def test_with_the_gate_in_it_the_gradient_is_that_of_the_value(data, given_costs):
    u, y, costs = data

    def fn(x):
        return pairwise_cringe_loss(x, y, margin_shift=1.0, temperature=2.0, gate_gradient=True,
                                    cringe=costs if given_costs else None)  # fmt: skip

    assert torch.autograd.gradcheck(fn, (u.requires_grad_(),))


@given(judged_lists())
def test_the_gate_adds_a_push_towards_the_right_order(data):
    u, y, costs = data
    with_gate, without = (
        slope(lambda x, k=k: pairwise_cringe_loss(x, y, cringe=costs, gate_gradient=k), u)
        for k in (True, False)
    )
    added = with_gate - without
    assert (added[y > 0] <= 1e-12).all() and (added[y <= 0] >= -1e-12).all()
    close(added.sum(), 0.0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("b", [-3.0, 0.0, 2.0])
def test_at_a_lead_of_b_the_gate_is_half_open(b, temperature):
    u = double(-4.0, -4.0 - b)
    value = pairwise_cringe_loss(u, PAIR, cringe=double(9.0, 2.0), margin_shift=b,
                                 temperature=temperature)  # fmt: skip
    close(value, 0.5 * (4 + 2))


@given(judged_lists(), st.sampled_from([-1.03, 0.51, 2.02]))
def test_a_cold_gate_is_a_switch(data, b):
    u, y, costs = data
    leads = u[y > 0][:, None] - u[y <= 0]
    terms = -u[y > 0][:, None] + costs[y <= 0]
    if (leads - b).abs().min() > 1e-3:
        value = pairwise_cringe_loss(u, y, cringe=costs, margin_shift=b, temperature=1e-6)
        close(value, (terms * (leads < b)).mean())


@given(judged_lists(), st.sampled_from([0.3, 1.0]))
def test_a_far_shift_is_the_binary_loss(data, alpha):
    u, y, costs = data
    value = pairwise_cringe_loss(u, y, cringe=costs, margin_shift=1e4, alpha=alpha)
    close(value, -u[y > 0].mean() + alpha * costs[y <= 0].mean())


@given(judged_lists())
def test_the_gate_closes_as_the_good_responses_lead(data):
    u, y, costs = data
    values = [
        pairwise_cringe_loss(torch.where(y > 0, u, u - lead), y, cringe=costs)
        for lead in (0.0, 1.0, 5.0, 50.0)
    ]
    assert values[0] > values[1] > values[2] > values[3] >= 0 and values[3] < 1e-12


@given(st.tuples(*[st.floats(-12, -0.01)] * 2))
def test_an_open_gate_on_a_pair_is_fine_tuning_plus_ranknet(u):
    u = double(*u)
    value = pairwise_cringe_loss(u, PAIR, margin_shift=1e4)
    close(value, -u[0] + ranknet_loss(u, PAIR))


@given(judged_lists())
def test_without_logits_a_response_stands_against_all_good_ones(data):
    u, y, _ = data
    costs = list_cringe(u, y > 0)
    close(costs, torch.log1p(u.exp() / u[y > 0].exp().sum()))
    close(pairwise_cringe_loss(u, y), pairwise_cringe_loss(u, y, cringe=costs))


def test_with_certain_good_responses_the_cost_is_that_of_asft():
    u, y = double(0.0, -2.0, -3.0), double(1.0, 0.0, 0.0)
    costs = list_cringe(u, y > 0)[1:]
    close(costs, torch.log1p(u[1:].exp()))
    assert (costs < -torch.log1p(-u[1:].exp())).all()  # unlikelihood has no rival
    assert asft_loss(u, y, nll=False) > costs.mean()


def test_costs_of_good_responses_and_of_padding_are_ignored():
    u, y = double(-1.0, -2.0, -3.0), double(1.0, 0.0, 0.0)
    where = torch.tensor([True, True, False])
    costs = double(math.nan, 0.5, math.inf).requires_grad_()
    value = pairwise_cringe_loss(u, y, where=where, cringe=costs)
    close(value.detach(), sigmoid(-1.0) * 1.5)
    assert torch.autograd.grad(value, costs)[0].isfinite().all()


def test_half_costs_are_taken():
    u = torch.tensor([-1.0, -2.0])
    assert pairwise_cringe_loss(u, PAIR, cringe=PAIR.half()).dtype == torch.float32


def test_costs_of_another_shape_are_refused():
    with pytest.raises(REFUSED, match="cringe"):
        pairwise_cringe_loss(torch.zeros(2), PAIR, cringe=torch.zeros(3))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        pairwise_cringe_loss(torch.zeros(2), PAIR, temperature=temperature)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ValueError, match="alpha is -1.0; expected 0 or more, such as 1.0"):
        pairwise_cringe_loss(torch.zeros(2), PAIR, alpha=-1.0)


def test_long_lists_agree_with_the_table_of_pairs():
    u = -torch.rand(900, generator=generator(), dtype=torch.float64).mul(6)
    y = (torch.rand(900, generator=generator(1)) < 0.3).double()
    g = gates(u, y, 0.5, 2.0)
    costs = list_cringe(u, y > 0)[y <= 0]
    value = pairwise_cringe_loss(u, y, margin_shift=0.5, temperature=2.0, alpha=0.7)
    close(value, (g * (-u[y > 0][:, None] + 0.7 * costs)).mean())
