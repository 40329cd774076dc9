"""Odds at their ends, and the identities between ORPO, ASFT, RankNet and cross-entropy."""

import math

import pytest
import torch
from families.preference_odds import odds
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import asft_loss, bce_loss, orpo_loss, ranknet_loss
from rankbench.losses.preference_odds import log_odds

ALONE = {"lam": 1.0, "nll": False}  # The alignment term.
PAIR = torch.tensor([1.0, 0.0])
LIKELY = st.floats(-1e-6, -1e-9) | st.floats(-8, -1e-3) | st.floats(-1e4, -8)
STEEP = st.sampled_from([0.1, 0.5, 1.0, 3.0])


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def judged_lists(draw, both=True, lowest=-8):
    """Log-probabilities and labels of one list."""
    n = draw(st.integers(2, 6))
    u = draw(st.lists(st.floats(lowest, -1e-3), min_size=n, max_size=n))
    y = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    if both:
        y[0], y[1] = 1.0, 0.0
    return double(*u), double(*y)


def close(a, b, rtol=1e-9, atol=1e-9):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def from_odds(z):
    """The log-probability of given log odds."""
    return torch.nn.functional.logsigmoid(z)


def slope(fn, u):
    u = u.clone().requires_grad_()
    return torch.autograd.grad(fn(u), u)[0]


# Odds -------------------------------------------------------------------------------------------


@given(LIKELY)
def test_log_odds_are_those_of_the_definition(u):
    close(log_odds(double(u)), [odds(u)], rtol=1e-12)
    single = torch.tensor([u], dtype=torch.float32)
    expected = odds(min(single.item(), -(2.0**-23)))
    close(log_odds(single).double(), [expected], rtol=1e-6, atol=1e-6)


@given(LIKELY)
def test_the_slope_of_log_odds_is_one_over_the_rest(u):
    close(slope(lambda x: log_odds(x).sum(), double(u)), [-1 / math.expm1(u)])


@given(st.floats(-30, 30))
def test_log_odds_invert_the_logarithm_of_the_sigmoid(z):
    close(log_odds(from_odds(double(z))), [z], rtol=1e-6 if z < 20 else 1e-2, atol=1e-8)


def test_unlikely_responses_have_their_log_probability_for_log_odds():
    far = double(-40.0, -1e4)
    assert torch.equal(log_odds(far), far)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certainty_has_finite_odds_and_the_slope_at_the_cap(dtype):
    epsilon = torch.finfo(dtype).eps
    at, beyond = torch.tensor([0.0, 1e-9], dtype=dtype), torch.tensor([-epsilon], dtype=dtype)
    assert torch.equal(log_odds(at), log_odds(beyond).expand(2))
    close(slope(lambda x: log_odds(x).sum(), at) * epsilon, [1.0, 1.0], rtol=1e-5)


def test_halves_become_single_precision():
    assert log_odds(torch.tensor([-1.0]).half()).dtype == torch.float32


@pytest.mark.parametrize("loss", [orpo_loss, asft_loss])
def test_a_bad_response_that_is_certain_is_still_pushed_down(loss):
    gradient = slope(lambda u: loss(u, PAIR), double(-1.0, 0.0))
    assert gradient.isfinite().all() and gradient[1] > 1e6


def test_a_step_on_the_logits_is_bounded_though_the_slope_of_odds_is_not():
    for lead in (1.0, 10.0, 17.0, 30.0, 100.0):
        logits = torch.tensor([0.0, lead])
        gradient = slope(lambda x: asft_loss(x.log_softmax(-1), PAIR, **ALONE), logits)
        assert gradient.isfinite().all() and gradient.abs().max() < 3


# Identities -------------------------------------------------------------------------------------


@given(judged_lists(), STEEP)
def test_the_pairs_of_orpo_are_ranknet_on_log_odds(data, beta):
    u, y = data
    close(orpo_loss(u, y, beta=beta, **ALONE), ranknet_loss(log_odds(u), y, sigma=beta))


@given(judged_lists(), STEEP)
def test_the_parts_add_up(data, beta):
    u, y = data
    likelihood = -u[y > 0].mean()
    for loss in (orpo_loss, asft_loss):
        for lam in (0.0, 0.1, 2.0):
            whole = loss(u, y, lam=lam, beta=beta)
            close(whole, likelihood + lam * loss(u, y, beta=beta, **ALONE))


@given(judged_lists(both=False))
def test_at_beta_one_asft_is_cross_entropy_of_probabilities(data):
    u, y = data
    good, bad = u[y > 0], u[y <= 0]
    expected = -good.sum() / max(len(good), 1) - torch.log(-torch.expm1(bad)).sum() / max(
        len(bad), 1
    )
    close(asft_loss(u, y, **ALONE), expected)


@given(st.tuples(*[st.floats(-8, -1e-3)] * 2), STEEP)
def test_asft_of_a_pair_is_twice_cross_entropy_on_log_odds(u, beta):
    u = double(*u)
    close(asft_loss(u, PAIR, beta=beta, **ALONE), 2 * bce_loss(beta * log_odds(u), PAIR))


@given(judged_lists(), STEEP)
def test_both_are_the_mean_of_the_papers_loss_over_pairs(data, beta):
    u, y = data
    for loss in (orpo_loss, asft_loss):
        pairs = [torch.stack([w, b]) for w in u[y > 0] for b in u[y <= 0]]
        each = loss(torch.stack(pairs), PAIR.expand(len(pairs), 2), beta=beta)
        close(loss(u, y, beta=beta), each)


@given(judged_lists(), STEEP)
def test_points_never_cost_less_than_pairs(data, beta):
    u, y = data
    gap = asft_loss(u, y, beta=beta, **ALONE) - orpo_loss(u, y, beta=beta, **ALONE)
    assert gap >= -1e-12


@given(st.tuples(*[st.floats(-8, -1e-3)] * 2))
def test_the_gap_is_the_probability_to_accept_exactly_one(u):
    u = double(*u)
    p, q = u.exp()
    gap = asft_loss(u, PAIR, **ALONE) - orpo_loss(u, PAIR, **ALONE)
    close(gap, -torch.log(p * (1 - q) + q * (1 - p)))


@given(judged_lists(), STEEP)
def test_unlikely_responses_make_orpo_a_dpo_without_reference(data, beta):
    u, y = data
    close(orpo_loss(u - 40, y, beta=beta, **ALONE), ranknet_loss(u, y, sigma=beta))


@given(judged_lists(), st.sampled_from([-2.0, 0.5, 3.0]))
def test_pairs_ignore_a_shift_of_all_log_odds_and_points_do_not(data, shift):
    u, y = data
    z = log_odds(u)
    here, there = from_odds(z), from_odds(z + shift)
    close(orpo_loss(here, y, **ALONE), orpo_loss(there, y, **ALONE), rtol=1e-6)
    gradients = [slope(lambda x: asft_loss(from_odds(x), y, **ALONE), x) for x in (z, z + shift)]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6


@pytest.mark.parametrize("loss", [orpo_loss, asft_loss])
def test_a_shift_of_all_log_probabilities_is_noticed(loss):
    u = double(-1.0, -0.3)
    assert abs(loss(u, PAIR, **ALONE) - loss(u - 3, PAIR, **ALONE)) > 0.05


# Limits -----------------------------------------------------------------------------------------


@given(judged_lists())
def test_a_vanishing_steepness_gives_both_the_same_gradient(data):
    u, y = data
    rest = -torch.expm1(u)
    counts = torch.where(y > 0, (y > 0).sum(), (y <= 0).sum())
    expected = torch.where(y > 0, -1.0, 1.0) / (2 * counts * rest)
    for loss in (orpo_loss, asft_loss):
        gradient = slope(lambda x, f=loss: f(x, y, beta=1e-7, **ALONE), u) / 1e-7
        close(gradient, expected, rtol=1e-5)


@given(judged_lists(), st.sampled_from([10.0, 1e3, 1e6]))
def test_a_growing_steepness_makes_perceptrons(data, beta):
    u, y = data
    z = log_odds(u)
    good, bad = z[y > 0], z[y <= 0]
    pairs = (bad - good[:, None]).clamp(min=0).mean()
    points = (-good).clamp(min=0).mean() + bad.clamp(min=0).mean()
    for loss, limit, terms in ((orpo_loss, pairs, 1), (asft_loss, points, 2)):
        gap = loss(u, y, beta=beta, **ALONE) / beta - limit
        assert -1e-9 <= gap <= terms * math.log(2) / beta + 1e-9


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_equal_probabilities_cost_what_they_should(beta):
    tied = torch.full((3,), -math.log(2), dtype=torch.float64)
    y = double(1, 0, 0)
    close(orpo_loss(tied - 1, y, beta=beta, **ALONE), math.log(2))
    close(asft_loss(tied, y, beta=beta, **ALONE), 2 * math.log(2))


def test_good_responses_alone_are_fine_tuned():
    u = double(-1.0, -2.0)
    close(orpo_loss(u, torch.ones(2)), 1.5)
    close(asft_loss(u, torch.ones(2)), 3.0)


def test_a_list_without_a_pair_counts_only_for_its_likelihood():
    u = double([-1.0, -2.0], [-1.0, -2.0])
    y = double([1.0, 0.0], [1.0, 1.0])
    close(orpo_loss(u, y, **ALONE), orpo_loss(u[0], y[0], **ALONE))
    close(orpo_loss(u, y), (orpo_loss(u[0], y[0]) + 1.5) / 2)


def test_bad_responses_alone_teach_asft_and_not_orpo():
    u = double(-1.0, -2.0)
    assert orpo_loss(u, torch.zeros(2)) == 0
    assert asft_loss(u, torch.zeros(2)) > 0.1


@given(judged_lists())
def test_at_beta_one_the_gradient_of_asft_has_no_exponentials(data):
    u, y = data
    gradient = slope(lambda x: asft_loss(x, y, lam=0.5), u)
    good, bad = y > 0, y <= 0
    close(gradient[good], torch.full((int(good.sum()),), -1.5 / good.sum().item()))
    close(gradient[bad], 0.5 * log_odds(u[bad]).exp() / bad.sum(), rtol=1e-8)


@pytest.mark.parametrize("loss", [orpo_loss, asft_loss])
@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_a_steepness_that_is_not_positive_is_refused(loss, beta):
    with pytest.raises(ValueError, match="beta is"):
        loss(double(-1.0, -2.0), PAIR, beta=beta)


@pytest.mark.parametrize(("loss", "works"), [(orpo_loss, 0.1), (asft_loss, 1.0)])
@pytest.mark.parametrize("lam", [-0.5, math.nan])
def test_a_weight_below_zero_is_refused(loss, works, lam):
    with pytest.raises(ValueError, match=f"lam is {lam}; expected 0 or more, such as {works}"):
        loss(double(-1.0, -2.0), PAIR, lam=lam)
