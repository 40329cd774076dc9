"""Jensen-Shannon divergence: its bounds, its ends, its gradient, and what it is not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.checks import autograd
from rankbench.losses import js_divergence_loss, kl_loss, soft_label_alignment_loss

BETAS = st.sampled_from([0.01, 0.2, 0.5, 0.7, 0.99])


@st.composite
def rows(draw, count=2, scale=None):
    """Scores of `count` models on three lists of four items."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0, 50.0])) if scale is None else scale
    return (scale * torch.randn(count, 3, 4, generator=g, dtype=torch.float64)).unbind()


def js(scores, teacher, **settings):
    return js_divergence_loss(scores, teacher, reduction="none", **settings)


def entropy(p):
    return torch.special.entr(p).sum(-1)


def coin(beta):
    return -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)


@given(rows(), BETAS)
def test_it_stays_between_zero_and_the_entropy_of_the_coin(data, beta):
    value = js(*data, beta=beta)
    assert (value >= -1e-12).all() and (value <= coin(beta) + 1e-12).all()
    assert coin(beta) <= math.log(2) + 1e-12


@given(rows(), BETAS)
def test_it_is_the_information_of_an_item_about_the_coin(data, beta):
    q, p = (x.softmax(-1) for x in data)
    mixed = beta * p + (1 - beta) * q
    expected = entropy(mixed) - beta * entropy(p) - (1 - beta) * entropy(q)
    torch.testing.assert_close(js(*data, beta=beta), expected, rtol=1e-9, atol=1e-12)


@given(rows(), BETAS)
def test_exchanging_the_models_exchanges_the_shares(data, beta):
    scores, teacher = data
    there, back = js(scores, teacher, beta=beta), js(teacher, scores, beta=1 - beta)
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(js(scores, teacher), js(teacher, scores), rtol=1e-9, atol=1e-12)


@given(rows(count=3))
def test_its_root_obeys_the_triangle_inequality(data):
    x, y, z = data
    root = lambda a, b: js(a, b).clamp(min=0).sqrt()  # noqa: E731
    assert (root(x, z) <= root(x, y) + root(y, z) + 1e-7).all()


def test_it_does_not_obey_the_triangle_inequality_itself():
    x, y, z = torch.tensor([[5.0, 0.0], [0.0, 0.0], [0.0, 5.0]]).double()
    through = js_divergence_loss(x, y) + js_divergence_loss(y, z)
    assert js_divergence_loss(x, z) > through + 0.1


@given(rows(scale=1.0), st.sampled_from([0.1, 0.5, 0.8]))
def test_near_agreement_it_is_a_part_of_the_divergence(data, beta):
    scores, teacher = data
    near = teacher + 1e-3 * scores
    ratio = js(near, teacher, beta=beta) / kl_loss(near, teacher, reduction="none")
    expected = torch.full_like(ratio, beta * (1 - beta))
    torch.testing.assert_close(ratio, expected, rtol=0.02, atol=0)


@given(rows(scale=1.0))
def test_its_ends_are_the_two_divergences(data):
    forward, reverse = (
        kl_loss(*data, direction=d, reduction="none") for d in ("forward", "reverse")
    )
    small = 1e-7
    torch.testing.assert_close(js(*data, beta=small) / small, forward, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(js(*data, beta=1 - small) / small, reverse, rtol=1e-3, atol=1e-6)


@given(rows(scale=1.0), st.sampled_from([0.2, 0.5]))
def test_a_high_temperature_gives_the_variance_of_the_gaps(data, beta):
    scores, teacher = data
    hot = 1e3**2 * js(scores, teacher, temperature=1e3, beta=beta)
    expected = beta * (1 - beta) / 2 * (scores - teacher).var(-1, correction=0)
    torch.testing.assert_close(hot, expected, rtol=5e-3, atol=1e-6)


@given(rows())
def test_half_of_jeffreys_is_at_least_four_times_as_much(data):
    jeffreys = soft_label_alignment_loss(*data, temperature=1.0, reduction="none")
    assert (jeffreys >= 4 * js(*data) - 1e-12).all()


@given(rows(), BETAS, st.sampled_from([0.5, 1.0, 3.0]))
def test_its_gradient_is_the_boxed_formula_and_bounded(data, beta, temperature):
    scores, teacher = data
    settings = {"beta": beta, "temperature": temperature}
    slope = autograd(lambda s: js(s, teacher, **settings).sum(), scores)
    log_q = (scores / temperature).log_softmax(-1)
    log_p = (teacher / temperature).log_softmax(-1)
    ratio = log_q - torch.logaddexp(math.log(beta) + log_p, math.log(1 - beta) + log_q)
    centred = ratio - (log_q.exp() * ratio).sum(-1, keepdim=True)
    by_hand = (1 - beta) / temperature * log_q.exp() * centred
    torch.testing.assert_close(slope, by_hand, rtol=1e-7, atol=1e-12)
    bound = (1 - beta) / temperature * (math.exp(-1) - math.log(1 - beta))
    assert slope.abs().max() <= bound + 1e-12


@given(rows(), BETAS)
def test_for_its_gradient_the_mixture_is_a_constant(data, beta):
    scores, teacher = data
    log_p, log_q = teacher.log_softmax(-1), scores.log_softmax(-1)
    log_m = torch.logaddexp(math.log(beta) + log_p, math.log(1 - beta) + log_q)

    def frozen(s):
        log_q = s.log_softmax(-1)
        return (1 - beta) * (log_q.exp() * (log_q - log_m)).sum()

    slope = autograd(lambda s: js(s, teacher, beta=beta).sum(), scores)
    torch.testing.assert_close(slope, autograd(frozen, scores), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_models_that_share_nothing_cost_the_entropy_of_the_coin(beta):
    a, b = 1e4 * torch.eye(3)[:2]
    leaf = a.clone().requires_grad_()
    value = js_divergence_loss(leaf, b, beta=beta)
    value.backward()
    assert abs(value.item() - coin(beta)) < 1e-6
    assert not leaf.grad.any()  # the price of the bound


def test_the_reverse_divergence_explodes_where_this_does_not():
    undecided, sure = torch.zeros(2).double(), torch.tensor([100.0, -100.0]).double()
    steep = autograd(lambda s: kl_loss(s, sure, direction="reverse"), undecided)
    calm = autograd(lambda s: js_divergence_loss(s, sure), undecided)
    assert steep.abs().max() > 40 and calm.abs().max() < 0.2


def test_it_is_not_convex():
    a, b = 5 * torch.eye(3)[:2].double()
    hessian = torch.autograd.functional.hessian(lambda s: js_divergence_loss(s, b), a)
    assert torch.linalg.eigvalsh(hessian)[0] < -1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_forbidden_item_has_no_share(dtype):
    teacher = torch.tensor([0.0, -torch.inf], dtype=dtype)
    leaf = torch.zeros(2, dtype=dtype, requires_grad=True)
    value = js_divergence_loss(leaf, teacher)
    value.backward()
    expected = (math.log(4 / 3) + math.log(2 / 3) / 2 + math.log(2) / 2) / 2
    assert abs(value.item() - expected) < 1e-6
    assert leaf.grad.isfinite().all() and leaf.grad[1] > 0


def test_padded_slots_add_nothing_at_all():
    scores, teacher = torch.tensor([[0.5, 1.5]]), torch.tensor([[2.0, 1.0]])
    value = js_divergence_loss(scores, teacher, beta=0.3)
    longer = [torch.nn.functional.pad(x, (0, 10_000)) for x in (scores, teacher)]
    where = torch.arange(10_002)[None] < 2
    padded = js_divergence_loss(*longer, where=where, beta=0.3)
    torch.testing.assert_close(padded, value, rtol=1e-6, atol=0)


def test_no_gradient_flows_to_the_teacher():
    scores, teacher = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    js_divergence_loss(scores, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_a_share_outside_of_zero_to_one_is_refused(beta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        js_divergence_loss(torch.zeros(1, 2), torch.zeros(1, 2), beta=beta)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature is 0.0"):
        js_divergence_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0.0)


def test_a_learned_temperature_gets_a_gradient():
    temperature = torch.tensor(2.0, requires_grad=True)
    scores, teacher = torch.tensor([[0.5, 1.5]]), torch.tensor([[2.0, 1.0]])
    js_divergence_loss(scores, teacher, temperature=temperature).backward()
    assert temperature.grad != 0
