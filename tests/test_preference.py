"""Preference on pairs: what DPO, IPO, the hinge and implicit rewards promise."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import (
    bpr_loss,
    constant_margin_mse_loss,
    dpo_loss,
    hinge_loss,
    listmle_loss,
    margin_mse_loss,
    ranknet_loss,
)
from rankbench.losses.preference import VARIANTS, implicit_rewards

BETAS = st.sampled_from([0.05, 0.1, 0.5, 2.0])
WIN = torch.tensor([1.0, 0.0], dtype=torch.float64)


def close(actual, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype),
                               rtol=rtol, atol=atol)  # fmt: skip


@st.composite
def responses(draw, most=6):
    """Log-probabilities of policy and reference, and grades with an order."""
    n = draw(st.integers(2, most))
    nats = st.lists(st.integers(-4000, -1).map(lambda x: x / 8), min_size=n, max_size=n)
    grades = st.lists(st.integers(0, 3).map(float), min_size=n, max_size=n)
    grades = draw(grades.filter(lambda y: len(set(y)) > 1))
    return [torch.tensor(x, dtype=torch.float64) for x in (draw(nats), draw(nats), grades)]


def pair(h):
    """Two responses whose winner has moved ahead by h nats."""
    return torch.stack(
        [torch.as_tensor(h, dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    )


def slope(h, **settings):
    x = pair(h).requires_grad_()
    (gradient,) = torch.autograd.grad(dpo_loss(x, WIN, **settings), x)
    return gradient


# Identities --------------------------------------------------------------------------------------


@given(responses(), BETAS)
def test_dpo_is_ranknet_on_implicit_rewards(data, beta):
    log_probs, reference, labels = data
    rewards = implicit_rewards(log_probs, reference, beta=beta)
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta)
    assert torch.equal(ours, ranknet_loss(rewards, labels))
    close(ours, ranknet_loss(log_probs - reference, labels, sigma=beta))


@given(responses(), BETAS)
def test_the_hinge_variant_is_the_hinge_loss_on_implicit_rewards(data, beta):
    log_probs, reference, labels = data
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta, variant="hinge")
    close(ours, hinge_loss(implicit_rewards(log_probs, reference, beta=beta), labels))


@given(responses(), BETAS)
def test_ipo_is_a_constant_margin_on_log_ratios(data, beta):
    log_probs, reference, labels = data
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta, variant="ipo")
    target = 1 / (2 * beta)
    close(ours, constant_margin_mse_loss(log_probs - reference, labels, margin=target))
    ordered = {"pairs": "ordered", "margin": target}
    close(ours, margin_mse_loss(log_probs - reference, labels, **ordered))


@given(responses(most=2), BETAS)
def test_an_order_of_two_by_plackett_and_luce_is_dpo(data, beta):
    log_probs, reference, labels = data
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta)
    close(ours, listmle_loss(implicit_rewards(log_probs, reference, beta=beta), labels))


@given(responses())
def test_without_a_reference_dpo_of_two_grades_is_bpr(data):
    log_probs, _, labels = data
    labels = (labels > labels.min()).double()
    close(dpo_loss(log_probs, labels, beta=1.0), bpr_loss(log_probs, labels))


@given(responses(), st.sampled_from(VARIANTS), st.sampled_from([0.0, 0.1, 0.5]))
def test_only_log_ratios_matter(data, variant, smoothing):
    log_probs, reference, labels = data
    more = {"variant": variant, "label_smoothing": smoothing}
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, **more)
    close(ours, dpo_loss(log_probs - reference, labels, **more))


@given(responses(), st.sampled_from(VARIANTS), st.integers(-500, 500))
def test_a_constant_per_prompt_cancels(data, variant, shift):
    log_probs, reference, labels = data
    ours = dpo_loss(log_probs, labels, ref_log_probs=reference, variant=variant)
    for moved in ((log_probs + shift, reference), (log_probs, reference + shift)):
        other = dpo_loss(moved[0], labels, ref_log_probs=moved[1], variant=variant)
        close(other, ours, atol=1e-8)


@given(responses(), st.sampled_from(VARIANTS), st.sampled_from([0.0, 0.1, 0.4, 0.5]))
def test_wrong_judgements_are_an_expectation(data, variant, share):
    log_probs, reference, labels = data
    known = {"ref_log_probs": reference, "variant": variant}
    right, wrong = (dpo_loss(log_probs, y, **known) for y in (labels, -labels))
    ours = dpo_loss(log_probs, labels, label_smoothing=share, **known)
    close(ours, (1 - share) * right + share * wrong)


@given(responses(), BETAS)
def test_dpo_bounds_the_share_of_wrong_pairs(data, beta):
    log_probs, reference, labels = data
    ratios = log_probs - reference
    better = labels[:, None] > labels[None, :]
    wrong = (better & (ratios[:, None] <= ratios[None, :])).sum() / better.sum().double()
    value = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=beta)
    assert value / math.log(2) >= wrong - 1e-9


# Special places ----------------------------------------------------------------------------------


@given(responses(), BETAS)
def test_the_reference_itself_costs_log_two(data, beta):
    log_probs, _, labels = data
    known = {"ref_log_probs": log_probs, "beta": beta}
    close(dpo_loss(log_probs, labels, **known), math.log(2))
    close(dpo_loss(log_probs, labels, variant="ipo", **known), 1 / (4 * beta**2))
    close(dpo_loss(log_probs, labels, variant="hinge", **known), 1.0)
    close(dpo_loss(log_probs, labels, label_smoothing=0.3, **known), math.log(2))


@given(BETAS, st.integers(-100, 100).map(lambda x: x / 8))
def test_the_gradient_of_a_pair_is_that_of_the_paper(beta, h):
    force = beta / (1 + math.exp(beta * h))
    close(slope(h, beta=beta), [-force, force])
    gap = 2 * (h - 1 / (2 * beta))
    close(slope(h, beta=beta, variant="ipo"), [gap, -gap])


@given(BETAS)
def test_ipo_stops_at_its_target_and_dpo_does_not(beta):
    target = 1 / (2 * beta)
    close(dpo_loss(pair(target), WIN, beta=beta, variant="ipo"), 0.0)
    close(slope(target, beta=beta, variant="ipo"), [0.0, 0.0])
    assert slope(target, beta=beta)[0] < 0
    assert slope(2 * target, beta=beta, variant="ipo")[0] > 0 > slope(2 * target, beta=beta)[0]


@given(BETAS, st.sampled_from([0.01, 0.1, 0.3]))
def test_wrong_judgements_move_the_minimum_to_their_log_odds(beta, share):
    h = math.log((1 - share) / share) / beta
    close(slope(h, beta=beta, label_smoothing=share), [0.0, 0.0])
    h = (1 - 2 * share) / (2 * beta)
    close(slope(h, beta=beta, label_smoothing=share, variant="ipo"), [0.0, 0.0], atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_when_half_of_the_judgements_are_wrong_the_minimum_is_at_the_reference(variant):
    more = {"label_smoothing": 0.5, "variant": variant}
    close(slope(0.0, **more), [0.0, 0.0])
    at = [dpo_loss(pair(h), WIN, **more) for h in (0.0, 3.0, -3.0)]
    assert at[0] <= at[1] and at[0] <= at[2]
    close(at[1], at[2])


@given(responses())
def test_a_large_strength_leaves_the_inverted_pairs(data):
    log_probs, reference, labels = data
    ratios = log_probs - reference
    lead = ratios[:, None] - ratios[None, :]
    better = labels[:, None] > labels[None, :]
    perceptron = (-lead).clamp(min=0)[better].mean()
    value = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=1e3) / 1e3
    assert -1e-9 <= value - perceptron <= math.log(2) / 1e3 + 1e-9
    small = dpo_loss(log_probs, labels, ref_log_probs=reference, beta=1e-7)
    close(small, math.log(2) - 1e-7 / 2 * lead[better].mean(), atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("h", [300.0, -300.0, 1e4, -1e4])
def test_hundreds_of_nats_stay_finite(h, dtype):
    x = torch.tensor([-400.0 + h, -400.0], dtype=dtype).requires_grad_()
    for variant in VARIANTS:
        for smoothing in (0.0, 0.2):
            value = dpo_loss(x, WIN, beta=1.0, variant=variant, label_smoothing=smoothing)
            (gradient,) = torch.autograd.grad(value, x)
            assert value.isfinite() and gradient.isfinite().all()


def test_a_badly_inverted_pair_still_gets_a_gradient():
    x = torch.tensor([-900.0, -100.0]).requires_grad_()
    (gradient,) = torch.autograd.grad(dpo_loss(x, WIN.float()), x)
    assert torch.allclose(gradient, torch.tensor([-0.1, 0.1]))


# Implicit rewards --------------------------------------------------------------------------------


def test_rewards_are_log_ratios_times_their_strength():
    log_probs, reference = torch.tensor([-4.0, -6.0]), torch.tensor([-5.0, -3.0])
    assert torch.allclose(implicit_rewards(log_probs, reference), torch.tensor([0.1, -0.3]))
    half = implicit_rewards(log_probs, reference, beta=0.5)
    assert torch.equal(half, torch.tensor([0.5, -1.5]))
    assert torch.equal(implicit_rewards(log_probs, beta=0.5), torch.tensor([-2.0, -3.0]))


def test_lengths_divide():
    log_probs, reference = torch.tensor([-4.0, -6.0]), torch.tensor([-5.0, -3.0])
    found = implicit_rewards(log_probs, reference, beta=1.0, lengths=torch.tensor([2, 3]))
    assert torch.equal(found, torch.tensor([0.5, -1.0]))


def test_a_slot_without_tokens_has_a_finite_gradient():
    log_probs = torch.tensor([-4.0, 0.0]).requires_grad_()
    implicit_rewards(log_probs, lengths=torch.tensor([4, 0])).sum().backward()
    assert torch.allclose(log_probs.grad, torch.tensor([0.025, 0.1]))


def test_no_gradient_reaches_the_reference():
    log_probs = torch.tensor([-4.0, -6.0]).requires_grad_()
    reference = torch.tensor([-5.0, -3.0]).requires_grad_()
    dpo_loss(log_probs, torch.tensor([1, 0]), ref_log_probs=reference).backward()
    assert reference.grad is None and log_probs.grad.any()


def test_padding_of_the_reference_reaches_nothing():
    log_probs = torch.tensor([-4.0, -6.0, torch.nan]).requires_grad_()
    reference, where = torch.tensor([-5.0, -3.0, torch.inf]), torch.tensor([True, True, False])
    value = dpo_loss(log_probs, torch.tensor([1.0, 0.0, 2.0]), where=where,
                     ref_log_probs=reference)  # fmt: skip
    value.backward()
    expected = dpo_loss(log_probs[:2], torch.tensor([1.0, 0.0]), ref_log_probs=reference[:2])
    assert value == expected and log_probs.grad[2] == 0 and log_probs.grad.isfinite().all()


def test_halves_are_subtracted_in_single_precision():
    log_probs = torch.tensor([-300.0, -200.0]).bfloat16()
    reference = torch.tensor([-299.75, -200.25])
    found = implicit_rewards(log_probs, reference, beta=1.0)
    assert torch.equal(found, torch.tensor([-0.25, 0.25]))


def test_every_policy_is_the_best_for_its_implicit_reward():
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(5, generator=g, dtype=torch.float64).log_softmax(-1)
    quality = torch.randn(5, generator=g, dtype=torch.float64)
    best = (reference + quality / 0.3).log_softmax(-1)
    constant = 0.3 * (reference + quality / 0.3).logsumexp(-1)
    close(implicit_rewards(best, reference, beta=0.3), quality - constant)
    close(margin_mse_loss(implicit_rewards(best, reference, beta=0.3), quality), 0.0)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "simgoid"}, "unknown variant 'simgoid'; did you mean sigmoid"),
        ({"label_smoothing": 0.6}, "label_smoothing is 0.6; expected 0 to 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1; expected 0 to 0.5"),
        ({"beta": 0.0}, "beta is 0.0; expected a number above 0, such as 0.1"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        dpo_loss(torch.tensor([-4.0, -6.0]), torch.tensor([1.0, 0.0]), **wrong)


@pytest.mark.parametrize("name", ["ref_log_probs", "lengths"])
def test_another_shape_is_refused(name):
    fn = inspect.unwrap(implicit_rewards)  # as it is without checks of types
    with pytest.raises(ValueError, match=rf"{name} has shape \(3,\) but log_probs has \(2,\)"):
        fn(torch.zeros(2), **{name: torch.ones(3)})
