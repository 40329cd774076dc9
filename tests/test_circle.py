"""What holds for circle losses beyond the contract and the references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import BINARY
from test_values import double

from rankbench.candidates import labelled_candidates
from rankbench.losses import circle_loss, class_circle_loss, softmax_loss

COSINES = st.integers(-16, 16).map(lambda x: x / 16)
LISTS = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(COSINES, min_size=n, max_size=n), st.lists(BINARY, min_size=n, max_size=n)
    )
)
MARGINS = st.sampled_from([-0.2, 0.0, 0.25, 0.4])
PAIR = torch.tensor([1.0, 0.0], dtype=torch.float64)


def mixed(labels) -> bool:
    return 0 < sum(labels) < len(labels)


def sides(s, y, margin):
    """Paces and exponents over gamma of the positives, then of the negatives."""
    p, n = s[y > 0], s[y <= 0]
    pull, push = (1 + margin - p).relu(), (n + margin).relu()
    return pull, pull * (1 - margin - p), push, push * (n - margin)


def paceless(s, y, margin, gamma):
    """The loss with paces of 1."""
    p, n = s[y > 0], s[y <= 0]
    low, high = gamma * (1 - margin - p), gamma * (n - margin)
    return torch.nn.functional.softplus(low.logsumexp(0) + high.logsumexp(0))


# Identities -------------------------------------------------------------------------------------


@given(LISTS, MARGINS)
def test_two_sums_are_one_sum_over_pairs(data, margin):
    s, y = map(double, data)
    if mixed(data[1]):
        _, low, _, high = sides(s, y, margin)
        pairs = (8 * (low[:, None] + high[None, :])).exp().sum()
        torch.testing.assert_close(circle_loss(s, y, margin=margin, gamma=8.0), pairs.log1p())


@given(COSINES, COSINES, st.sampled_from([0.1, 0.25, 0.4]))
def test_a_pair_costs_the_same_on_each_circle(p, n, margin):
    if p <= 1 + margin and n >= -margin:
        squares = n**2 + (1 - p) ** 2 - 2 * margin**2
        value = circle_loss(double([p, n]), PAIR, margin=margin, gamma=8.0)
        assert value.item() == pytest.approx(math.log1p(math.exp(8 * squares)))


def test_the_boundary_is_a_circle():
    angles = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    radius = 0.25 * math.sqrt(2)
    on_it = torch.stack([1 - radius * angles.cos(), radius * angles.sin()], -1)
    inside = (on_it[:, 0] <= 1.25) & (on_it[:, 1] >= -0.25)
    values = circle_loss(on_it, PAIR.expand(9, 2), reduction="none")[inside]
    torch.testing.assert_close(values, torch.full_like(values, math.log(2)))


@given(LISTS, MARGINS, st.sampled_from([4.0, 64.0]))
def test_the_gradient_is_the_boxed_formula_with_constant_paces(data, margin, gamma):
    s, y = map(double, data)
    if not mixed(data[1]):
        return
    pull, low, push, high = sides(s, y, margin)
    z = (gamma * low).logsumexp(0) + (gamma * high).logsumexp(0)
    expected = torch.empty_like(s)
    expected[y > 0] = -torch.sigmoid(z) * (gamma * low).softmax(0) * gamma * pull
    expected[y <= 0] = torch.sigmoid(z) * (gamma * high).softmax(0) * gamma * push
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(circle_loss(s, y, margin=margin, gamma=gamma), s)
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_on_embeddings_holds_the_paces():
    g = torch.Generator().manual_seed(0)
    e = torch.randn(7, 4, generator=g, dtype=torch.float64)
    classes = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    unit = torch.nn.functional.normalize
    cosines = unit(e) @ unit(e).T
    pull, push = 8 * (1.25 - cosines).relu(), 8 * (cosines + 0.25).relu()
    same, own = classes[:, None] == classes, torch.eye(7, dtype=torch.bool)

    def held(x):
        c = unit(x) @ unit(x).T
        low = (pull * (0.75 - c)).masked_fill(~same | own, -torch.inf)
        high = (push * (c - 0.25)).masked_fill(same, -torch.inf)
        counted = [0, 1, 2, 4, 5]
        z = low[counted].logsumexp(-1) + high[counted].logsumexp(-1)
        return torch.nn.functional.softplus(z).mean()

    assert torch.autograd.gradcheck(held, (e.clone().requires_grad_(),))
    e.requires_grad_()
    (expected,) = torch.autograd.grad(held(e), e)
    for chunk_size in (None, 2):
        value = class_circle_loss(e, classes, gamma=8.0, chunk_size=chunk_size)
        torch.testing.assert_close(value, held(e))
        (gradient,) = torch.autograd.grad(value, e)
        torch.testing.assert_close(gradient, expected)


@given(LISTS, MARGINS)
def test_a_large_scale_leaves_the_worst_positive_and_the_worst_negative(data, margin):
    s, y = map(double, data)
    if mixed(data[1]):
        _, low, _, high = sides(s, y, margin)
        worst = (low.max() + high.max()).relu()
        value = circle_loss(s, y, margin=margin, gamma=1e6) / 1e6
        assert 0 <= value - worst + 1e-9 < 1e-5


# Paces of 1 -------------------------------------------------------------------------------------


@given(LISTS, MARGINS)
def test_with_paces_of_1_one_positive_has_the_softmax_with_a_margin(data, margin):
    s, y = map(double, data)
    if data[1].count(1.0) == 1 and len(s) > 1:
        expected = softmax_loss(8 * (s - (1 - 2 * margin) * y), y)
        torch.testing.assert_close(paceless(s, y, margin, 8.0), expected)


@given(LISTS)
def test_with_paces_of_1_a_large_scale_has_the_triplet_of_the_hardest(data):
    s, y = map(double, data)
    if mixed(data[1]):
        hinge = (s[y <= 0].max() - s[y > 0].min() + 1 - 2 * 0.25).relu()
        assert 0 <= paceless(s, y, 0.25, 1e6) / 1e6 - hinge + 1e-9 < 1e-5


def test_a_margin_of_0_alone_is_not_the_softmax():
    s, y = double([0.6, 0.7, 0.4]), double([1.0, 0.0, 0.0])
    value = circle_loss(s, y, margin=0.0, gamma=8.0)
    pairs = [math.exp(8 * (n**2 + 0.4**2)) for n in (0.7, 0.4)]
    assert value.item() == pytest.approx(math.log1p(sum(pairs)))
    assert (value - softmax_loss(8 * s, y)).abs() > 1


# Corners ----------------------------------------------------------------------------------------


def test_gamma_times_a_score_is_never_exponentiated():
    scores = torch.tensor([0.3, 1.2, -0.5, 0.8])
    for labels in ([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]):
        for gamma in (64.0, 256.0, 1e4):
            s, y = scores.clone().requires_grad_(), torch.tensor(labels)
            value = circle_loss(s, y, gamma=gamma)
            (gradient,) = torch.autograd.grad(value, s)
            expected = circle_loss(scores.double(), y, gamma=gamma)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
            assert gradient.isfinite().all()


def test_a_score_beyond_its_ideal_is_left_alone():
    s = double([1.5, 0.2, 0.6, -0.6]).requires_grad_()
    circle_loss(s, double([1.0, 1.0, 0.0, 0.0])).backward()
    assert s.grad[0] == 0 and s.grad[3] == 0 and s.grad[1] < 0 < s.grad[2]


def test_a_negative_margin_leaves_settled_lists_alone():
    s, y = double([0.85, 0.95, 0.15, 0.1, -0.4]).requires_grad_(), double([1, 1, 0, 0, 0])
    value = circle_loss(s, y, margin=-0.2, gamma=10.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(7)) and not s.grad.any()


def test_it_is_neither_shift_invariant_nor_convex():
    s, y = double([0.8, 0.3, 0.7]), double([1.0, 1.0, 0.0])
    assert (circle_loss(s + 0.1, y, gamma=8.0) - circle_loss(s, y, gamma=8.0)).abs() > 1e-2
    ends = double([[1.6, 0.3], [1.0, 0.3]])  # beyond its ideal a positive costs more again
    far, near, middle = (circle_loss(x, PAIR, gamma=8.0) for x in (*ends, ends.mean(0)))
    assert near < far and middle > (far + near) / 2 + 1e-2


def test_lists_without_both_kinds_are_not_counted():
    s, y = double([[0.8, 0.3], [0.8, 0.3], [0.8, 0.3]]), double([[1, 0], [1, 1], [0, 0]])
    torch.testing.assert_close(circle_loss(s, y), circle_loss(s[0], y[0]))


# Embeddings -------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
def test_embeddings_are_lists_of_the_others(seed):
    g = torch.Generator().manual_seed(seed)
    e = torch.randn(6, 3, generator=g, dtype=torch.float64)
    classes = torch.randint(0, 3, (6,), generator=g)
    real = torch.rand(6, generator=g) < 0.8
    scores, same, where = labelled_candidates(e, classes, where=real, temperature=1.0)
    expected = circle_loss(scores, same, where=where, gamma=8.0)
    torch.testing.assert_close(class_circle_loss(e, classes, where=real, gamma=8.0), expected)


def test_rows_without_both_kinds_of_partner_are_not_counted():
    e = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for classes in ([0] * 5, [0, 1, 2, 3, 4]):
        assert class_circle_loss(e, torch.tensor(classes)) == 0
    one_pair = torch.tensor([0, 0, 1, 2, 3])
    values = class_circle_loss(e, one_pair, reduction="none")
    assert not values[2:].any()
    torch.testing.assert_close(class_circle_loss(e, one_pair), values[:2].mean())


def test_lengths_of_embeddings_do_not_matter():
    e, classes = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 2
    lengths = torch.tensor([0.1, 1.0, 3.0, 10.0, 0.5])[:, None]
    torch.testing.assert_close(
        class_circle_loss(lengths * e, classes), class_circle_loss(e, classes)
    )


@pytest.mark.parametrize("loss", [circle_loss, class_circle_loss])
@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_a_scale_that_is_not_above_0_is_refused(loss, gamma):
    data = (torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0]] * 2))
    if loss is class_circle_loss:
        data = (torch.ones(2, 3), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=f"gamma is {gamma}; expected a number above 0"):
        loss(*data, gamma=gamma)
