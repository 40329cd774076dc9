"""Preferences with degrees: what MMPO and LiPO promise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_preference import close, responses

from rankbench.losses import (
    dpo_loss,
    kl_loss,
    lambda_loss,
    lipo_loss,
    listmle_loss,
    mmpo_loss,
    ranknet_loss,
    softmax_loss,
)
from rankbench.losses.preference import implicit_rewards
from rankbench.metrics import dcg

GAMMAS = st.sampled_from([0.1, 0.5, 1.0, 3.0])
BETAS = st.sampled_from([0.05, 0.5])
WIN = torch.tensor([1.0, 0.0], dtype=torch.float64)


def gradient(fn, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(fn(x), x)[0]


def entropy(p):
    return torch.special.entr(p) + torch.special.entr(1 - p)


# MMPO --------------------------------------------------------------------------------------------


@given(responses(), GAMMAS, BETAS, st.booleans())
def test_mmpo_is_smallest_where_rewards_are_grades(data, gamma, beta, ties):
    log_probs, reference, labels = data

    def fn(x):
        return mmpo_loss(x, labels, ref_log_probs=reference, beta=beta, gamma=gamma,
                         include_ties=ties)  # fmt: skip

    best = reference + gamma * labels / beta + 3.0
    close(gradient(fn, best), torch.zeros_like(best), atol=1e-10)
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    gaps = labels[first] - labels[second]
    gaps = gaps if ties else gaps[gaps != 0]
    floor = entropy(torch.sigmoid(gamma * gaps)).mean()
    close(fn(best), floor)
    assert fn(log_probs) >= floor - 1e-9


@given(responses(), GAMMAS, BETAS)
def test_mmpo_exceeds_the_entropy_by_a_divergence(data, gamma, beta):
    log_probs, reference, labels = data
    rewards = implicit_rewards(log_probs, reference, beta=beta)
    pairs = (labels[:, None] > labels[None, :]).nonzero()
    gaps = gamma * (labels[pairs[:, 0]] - labels[pairs[:, 1]])
    excess = kl_loss(rewards[pairs], gamma * labels[pairs])
    ours = mmpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta, gamma=gamma)
    close(ours, excess + entropy(torch.sigmoid(gaps)).mean(), rtol=1e-7, atol=1e-8)


@given(responses(), BETAS)
def test_a_sure_judge_makes_mmpo_dpo(data, beta):
    log_probs, reference, labels = data
    known = {"ref_log_probs": reference, "beta": beta}
    close(mmpo_loss(log_probs, labels, gamma=1e4, **known), dpo_loss(log_probs, labels, **known))


@given(responses(), BETAS)
def test_an_unsure_judge_wants_equal_rewards(data, beta):
    log_probs, reference, labels = data
    known = {"ref_log_probs": reference, "beta": beta, "gamma": 1e-9}
    close(mmpo_loss(reference, labels, **known), math.log(2), atol=1e-7)
    half = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta, label_smoothing=0.5)
    close(mmpo_loss(log_probs, labels, **known), half, rtol=1e-6)


@given(responses(), GAMMAS)
def test_mmpo_of_two_grades_is_dpo_with_smoothed_labels(data, gamma):
    log_probs, reference, labels = data
    labels = (labels > labels.min()).double()
    share = 1 / (1 + math.exp(gamma))
    ours = mmpo_loss(log_probs, labels, ref_log_probs=reference, gamma=gamma)
    close(ours, dpo_loss(log_probs, labels, ref_log_probs=reference, label_smoothing=share))


@given(responses(), GAMMAS)
def test_only_the_product_of_scale_and_grade_matters(data, gamma):
    log_probs, _, labels = data
    ours = mmpo_loss(log_probs, labels, gamma=gamma)
    close(mmpo_loss(log_probs, 10 * labels + 5, gamma=gamma / 10), ours)


@given(responses(), GAMMAS)
def test_mmpo_with_ties_counts_every_pair_once(data, gamma):
    log_probs, _, labels = data
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    lead = 0.1 * (log_probs[first] - log_probs[second])
    sure = torch.sigmoid(gamma * (labels[first] - labels[second]))
    expected = (-torch.nn.functional.logsigmoid(-lead) - sure * lead).mean()
    close(mmpo_loss(log_probs, labels, gamma=gamma, include_ties=True), expected, rtol=1e-8)


@given(responses(), GAMMAS, st.booleans())
def test_the_gradient_of_mmpo_is_a_difference_of_probabilities(data, gamma, ties):
    log_probs, _, labels = data
    lead = 0.1 * (log_probs[:, None] - log_probs[None, :])
    gaps = labels[:, None] - labels[None, :]
    slope = torch.sigmoid(lead) - torch.sigmoid(gamma * gaps)
    compared = gaps != 0
    if ties:
        compared = ~torch.eye(len(labels), dtype=torch.bool)
    by_hand = 0.1 * torch.where(compared, slope, 0.0).sum(1) / (compared.sum() / 2)
    found = gradient(lambda x: mmpo_loss(x, labels, gamma=gamma, include_ties=ties), log_probs)
    close(found, by_hand, atol=1e-10)


@given(responses(), GAMMAS)
def test_mmpo_bounds_the_share_of_wrong_pairs(data, gamma):
    log_probs, _, labels = data
    better = labels[:, None] > labels[None, :]
    wrong = (better & (log_probs[:, None] <= log_probs[None, :])).sum() / better.sum().double()
    assert mmpo_loss(log_probs, labels, gamma=gamma) / math.log(2) >= wrong - 1e-9


def test_mmpo_of_equal_grades_asks_for_equal_rewards():
    log_probs, same = torch.tensor([-4.0, -9.0, -2.0]), torch.ones(3)
    assert mmpo_loss(log_probs, same) == 0
    fn = lambda x: mmpo_loss(x, same, include_ties=True)  # noqa: E731
    assert gradient(fn, log_probs)[1] < 0 < gradient(fn, log_probs)[2]
    close(fn(torch.full((3,), -4.0)), math.log(2), rtol=1e-6)


def test_mmpo_of_a_long_list_equals_its_pairs():
    g = torch.Generator().manual_seed(0)
    log_probs = -30 * torch.rand(2, 400, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 400), generator=g).double()
    lead = 0.1 * (log_probs.unsqueeze(-1) - log_probs.unsqueeze(-2))
    gaps = labels.unsqueeze(-1) - labels.unsqueeze(-2)
    costs = -torch.nn.functional.logsigmoid(-lead) - torch.sigmoid(gaps) * lead
    close(mmpo_loss(log_probs[0], labels[0]), costs[0][gaps[0] > 0].mean())
    above = torch.ones(400, 400).triu(1).bool()
    close(mmpo_loss(log_probs[1], labels[1], include_ties=True), costs[1][above].mean())


# LiPO --------------------------------------------------------------------------------------------


@given(responses(), BETAS, st.sampled_from(["exp2", "linear"]))
def test_lipo_is_lambdarank_on_implicit_rewards(data, beta, gain):
    log_probs, reference, labels = data
    rewards = implicit_rewards(log_probs, reference, beta=beta)
    ours = lipo_loss(log_probs, labels, ref_log_probs=reference, beta=beta, gain=gain)
    close(ours, lambda_loss(rewards, labels, weighting="dcg", gain=gain))
    best = dcg(labels.sort(descending=True).values, gain=gain)
    close(ours, best * lambda_loss(rewards, labels, weighting="lambdarank", gain=gain))


@given(responses(most=2), BETAS)
def test_lipo_of_two_is_a_constant_times_dpo(data, beta):
    log_probs, reference, labels = data
    known = {"ref_log_probs": reference, "beta": beta}
    labels = (labels == labels.max()).double()
    dpo = dpo_loss(log_probs, labels, **known)
    close(lipo_loss(log_probs, labels, **known), (1 - 1 / math.log2(3)) * dpo)
    close(lipo_loss(log_probs, labels, normalize_weights=True, **known), dpo)
    assert abs(1 - 1 / math.log2(3) - 0.369070) < 1e-6


@given(responses(), BETAS)
def test_normalised_weights_make_a_mean_of_costs(data, beta):
    log_probs, _, labels = data
    lead = beta * (log_probs[:, None] - log_probs[None, :])
    costs = -torch.nn.functional.logsigmoid(lead)[labels[:, None] > labels[None, :]]
    value = lipo_loss(log_probs, labels, beta=beta, normalize_weights=True)
    assert costs.min() - 1e-9 <= value <= costs.max() + 1e-9
    twice = lipo_loss(log_probs, 2 * labels, beta=beta, gain="linear", normalize_weights=True)
    once = lipo_loss(log_probs, labels, beta=beta, gain="linear", normalize_weights=True)
    close(twice, once)


@given(responses(), BETAS)
def test_without_weights_lipo_would_be_dpo(data, beta):
    log_probs, reference, labels = data
    rewards = implicit_rewards(log_probs, reference, beta=beta)
    count = (labels[:, None] > labels[None, :]).sum()
    unweighted = lambda_loss(rewards, labels, weighting="none") / count
    close(unweighted, dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta))


def test_the_gradient_of_lipo_holds_the_weights():
    log_probs = torch.tensor([-21.0, -18.0, -20.5, -12.0], dtype=torch.float64)
    labels = torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    ranks = torch.tensor([4.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    gains, discounts = labels.exp2() - 1, 1 / (1 + ranks).log2()
    delta = (gains[:, None] - gains[None, :]).clamp(min=0)
    delta = delta * (discounts[:, None] - discounts[None, :]).abs()
    lead = 0.05 * (log_probs[:, None] - log_probs[None, :])
    force = 0.05 * delta * torch.sigmoid(-lead)
    by_hand = force.sum(0) - force.sum(1)
    close(gradient(lambda x: lipo_loss(x, labels), log_probs), by_hand)
    mean = gradient(lambda x: lipo_loss(x, labels, normalize_weights=True), log_probs)
    close(mean, by_hand / delta.sum())


def test_equal_grades_weigh_nothing():
    log_probs = torch.tensor([-4.0, -9.0, -2.0])
    for normalize in (False, True):
        fn = lambda x, n=normalize: lipo_loss(x, torch.ones(3), normalize_weights=n)  # noqa: E731
        assert fn(log_probs) == 0 and not gradient(fn, log_probs).any()


# All of them -------------------------------------------------------------------------------------


@given(responses(), st.integers(-300, 300))
def test_a_constant_per_prompt_changes_no_list_loss(data, shift):
    log_probs, _, labels = data
    rewards = implicit_rewards(log_probs)
    moved = implicit_rewards(log_probs + shift)
    for fn in (ranknet_loss, listmle_loss, softmax_loss, kl_loss):
        close(fn(moved, labels), fn(rewards, labels), atol=1e-8)
    for fn in (dpo_loss, mmpo_loss):
        close(fn(log_probs + shift, labels), fn(log_probs, labels), atol=1e-8)


@pytest.mark.parametrize("fn", [mmpo_loss, lipo_loss])
@pytest.mark.parametrize("h", [300.0, -300.0, 1e4, -1e4])
def test_hundreds_of_nats_stay_finite(fn, h):
    for settings in (
        {},
        {"include_ties": True} if fn is mmpo_loss else {"normalize_weights": True},
    ):
        x = torch.tensor([-400.0 + h, -400.0, -400.0]).requires_grad_()
        value = fn(x, torch.tensor([2.0, 1.0, 1.0]), beta=1.0, **settings)
        (slopes,) = torch.autograd.grad(value, x)
        assert value.isfinite() and slopes.isfinite().all()


@pytest.mark.parametrize("fn", [mmpo_loss, lipo_loss])
def test_no_gradient_reaches_the_reference(fn):
    reference = torch.tensor([-5.0, -3.0]).requires_grad_()
    x = torch.tensor([-4.0, -6.0]).requires_grad_()
    fn(x, WIN.float(), ref_log_probs=reference).backward()
    assert reference.grad is None and x.grad.any()


@pytest.mark.parametrize(
    ("fn", "wrong", "message"),
    [
        (mmpo_loss, {"gamma": 0.0}, "gamma is 0.0; expected a number above 0"),
        (mmpo_loss, {"beta": -1.0}, "beta is -1.0; expected a number above 0"),
        (lipo_loss, {"beta": 0.0}, "beta is 0.0; expected a number above 0"),
        (lipo_loss, {"gain": "exponential"}, "unknown gain 'exponential'; did you mean"),
    ],
)
def test_wrong_settings_are_named(fn, wrong, message):
    with pytest.raises(ValueError, match=message):
        fn(torch.tensor([-4.0, -6.0]), WIN.float(), **wrong)
