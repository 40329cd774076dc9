"""Identities, bounds and limits of joint FLOPS and of DF-FLOPS; counts of documents."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import (
    df_flops_regularizer,
    flops_regularizer,
    joint_flops,
    joint_flops_regularizer,
)
from rankbench.losses.joint_flops import DocumentFrequency, df_weights

seeds = st.integers(0, 10_000)


def draw(seed: int, rows: int = 6, terms: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, terms, generator=g, dtype=torch.float64)


def sides(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(seed, rows=4), draw(seed + 20_000, rows=7)


close = torch.testing.assert_close


# Joint FLOPS ------------------------------------------------------------------------------------


@given(seeds)
def test_it_lies_below_the_two_flops(seed):
    q, d = sides(seed)
    alone = flops_regularizer(q), flops_regularizer(d)
    geometric = (alone[0] * alone[1]).sqrt()
    assert joint_flops_regularizer(q, d) <= geometric + 1e-12
    assert geometric <= sum(alone) / 2 + 1e-12


@given(seeds)
def test_the_same_texts_on_both_sides_are_flops(seed):
    e = draw(seed)
    close(joint_flops_regularizer(e, e), flops_regularizer(e))


@given(seeds)
def test_it_is_the_mean_overlap_of_a_query_and_a_document(seed):
    q, d = sides(seed)
    close(joint_flops_regularizer(q, d), (q.abs() @ d.abs().T).mean())


@given(seeds, st.floats(0.1, 10))
def test_it_is_linear_in_the_scale_of_each_side_and_symmetric(seed, scale):
    q, d = sides(seed)
    value = joint_flops_regularizer(q, d)
    close(joint_flops_regularizer(scale * q, d), scale * value)
    close(joint_flops_regularizer(q, scale * d), scale * value)
    close(joint_flops_regularizer(d, q), value)


@given(seeds)
def test_the_gradients_are_the_boxed_ones(seed):
    q, d = (x.relu() for x in sides(seed))  # dead activations feel nothing
    leaves = q.clone().requires_grad_(), d.clone().requires_grad_()
    found = torch.autograd.grad(joint_flops_regularizer(*leaves), leaves)
    close(found[0], d.mean(0) / len(q) * q.sign())
    close(found[1], q.mean(0) / len(d) * d.sign())


@given(seeds)
def test_it_is_convex_in_each_side_and_not_in_both(seed):
    q, d = sides(seed)
    other = draw(seed + 1, rows=4)
    middle = joint_flops_regularizer((q + other) / 2, d)
    ends = joint_flops_regularizer(q, d) + joint_flops_regularizer(other, d)
    assert middle <= ends / 2 + 1e-12
    nothing = torch.zeros_like(q)
    assert joint_flops_regularizer(q / 2, q / 2) > 0 == joint_flops_regularizer(q, nothing)


@given(seeds)
def test_it_is_zero_only_where_supports_are_disjoint(seed):
    g = torch.Generator().manual_seed(seed)
    of_queries = torch.rand(5, generator=g) < 0.5
    q, d = sides(seed)
    q, d = q * of_queries, d * ~of_queries
    assert joint_flops_regularizer(q, d) == 0
    q, d = q + 0.01, d.clone()
    d[0, 0] = 1.0
    assert joint_flops_regularizer(q, d) > 0


def test_descent_ends_where_no_document_matches_any_query():
    """The degenerate optimum: both sides are active, and every score is 0."""
    q, d = (x.abs() for x in sides(3))
    for _ in range(400):
        leaves = q.requires_grad_(), d.requires_grad_()
        steps = torch.autograd.grad(joint_flops_regularizer(*leaves), leaves)
        q, d = ((x - s).relu().detach() for x, s in zip(leaves, steps, strict=True))
    assert q.any() and d.any() and not (q @ d.T).any()


def test_sides_of_another_width_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match="documents has 5 terms; expected the 4 of the others"):
        joint_flops_regularizer(torch.ones(2, 4), torch.ones(3, 5))


def test_one_side_may_be_half_precision():
    q, d = (x.float() for x in sides(0))
    value = joint_flops_regularizer(q.bfloat16(), d)
    assert value.dtype == torch.float32
    close(value, joint_flops_regularizer(q.bfloat16().float(), d))


# Weights of DF-FLOPS ----------------------------------------------------------------------------

shares = st.floats(0, 1)
alphas, betas = st.floats(0.001, 0.9), st.floats(0.5, 30)


def activ(x: float, alpha: float, beta: float) -> float:
    return 1 / (1 + (x ** (math.log(2) / math.log(alpha)) - 1) ** beta)


@given(st.floats(0.001, 1), alphas, betas)
def test_a_weight_is_that_of_the_paper(x, alpha, beta):
    try:
        expected = activ(x, alpha, beta)
    except OverflowError:  # where the paper's form has no number
        expected = 0.0
    found = df_weights(torch.tensor(x, dtype=torch.float64), alpha, beta)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(alphas, betas)
def test_the_curve_passes_its_three_points_and_rises(alpha, beta):
    x = torch.tensor([0.0, alpha, 1.0], dtype=torch.float64)
    close(df_weights(x, alpha, beta), torch.tensor([0, 0.5, 1], dtype=torch.float64))
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (df_weights(grid, alpha, beta).diff() >= -1e-15).all()


@given(alphas, betas)
def test_the_curve_is_finite_in_single_precision(alpha, beta):
    x = torch.tensor([0.0, 1e-45, 1e-38, 1e-7, 1 - 1e-7, 1.0])
    w = df_weights(x, alpha, beta)
    assert w.isfinite().all() and w[0] == 0 and w[-1] == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, -0.1])
def test_alpha_must_be_a_share(alpha):
    with pytest.raises(ValueError, match="expected a share between 0 and 1, such as 0.1"):
        df_weights(torch.ones(2), alpha)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match="beta is 0.0; expected a number above 0"):
        df_weights(torch.ones(2), beta=0.0)


# DF-FLOPS ---------------------------------------------------------------------------------------


@given(seeds)
def test_full_weights_are_flops_and_no_weights_are_nothing(seed):
    e = draw(seed)
    close(df_flops_regularizer(e, document_frequency=torch.ones(5)), flops_regularizer(e))
    assert df_flops_regularizer(e, document_frequency=torch.zeros(5)) == 0


@given(seeds, alphas, betas)
def test_weights_inside_are_below_weights_outside_are_below_flops(seed, alpha, beta):
    e = draw(seed)
    x = draw(seed, rows=1)[0].sigmoid()
    settings = {"document_frequency": x, "alpha": alpha, "beta": beta}
    inside = df_flops_regularizer(e, **settings)
    outside = df_flops_regularizer(e, weight_inside=False, **settings)
    assert inside <= outside + 1e-12 and outside <= flops_regularizer(e) + 1e-12


@given(seeds, st.floats(0.1, 10))
def test_df_flops_is_of_degree_two(seed, scale):
    e = draw(seed).relu()
    close(df_flops_regularizer(scale * e), scale**2 * df_flops_regularizer(e))


@pytest.mark.parametrize("inside", [True, False])
@given(seeds)
def test_weights_are_constants_of_the_gradient(inside, seed):
    """The boxed gradient, for given frequencies and for those of the batch."""
    e = draw(seed).relu()
    of_batch = (e != 0).double().mean(0)
    for frequency in (None, of_batch, of_batch.clone().requires_grad_()):
        leaf = e.clone().requires_grad_()
        value = df_flops_regularizer(
            leaf, document_frequency=frequency, alpha=0.5, beta=2.0, weight_inside=inside
        )
        value.backward()
        w = df_weights(of_batch, 0.5, 2.0)
        close(leaf.grad, 2 * (w**2 if inside else w) * e.mean(0) / len(e) * e.sign())
        assert frequency is None or frequency.grad is None


@given(seeds)
def test_a_sharp_curve_is_a_step(seed):
    e = draw(seed)
    x = torch.tensor([0.0, 0.05, 0.2, 0.5, 1.0])
    step = df_flops_regularizer(e, document_frequency=x, alpha=0.1, beta=1e4)
    close(step, flops_regularizer(e[:, 2:]))


@given(seeds)
def test_a_flat_curve_is_a_quarter_of_flops(seed):
    e = draw(seed)
    x = torch.tensor([0.01, 0.05, 0.2, 0.5, 0.99])
    flat = df_flops_regularizer(e, document_frequency=x, beta=1e-7)
    close(flat, flops_regularizer(e) / 4, rtol=1e-5, atol=0)


def test_frequencies_of_another_vocabulary_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"document_frequency has shape \(4,\)"):
        df_flops_regularizer(torch.ones(2, 5), document_frequency=torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.bool])
def test_counts_in_the_place_of_shares_are_refused(dtype, without_shape_checks):
    with pytest.raises(ValueError, match="expected shares from 0 to 1. Divide the counts"):
        df_flops_regularizer(torch.ones(2, 5), document_frequency=torch.ones(5).to(dtype))


@pytest.mark.parametrize("share", [-0.01, 1.01, 200.0])
def test_numbers_that_are_no_shares_do_not_pass_silently(share):
    frequency = torch.tensor([0.5, share, 0.5])
    assert df_weights(frequency).isnan().tolist() == [False, True, False]
    assert df_flops_regularizer(torch.ones(2, 3), document_frequency=frequency).isnan()


# Counts -----------------------------------------------------------------------------------------


def test_counts_of_many_batches_are_those_of_all_rows():
    e = draw(0, rows=30).relu()
    where = torch.arange(30) % 7 != 0
    counts = DocumentFrequency(5)
    for rows, real in zip(e.split(8), where.split(8), strict=True):
        counts.update(rows, where=real)
    expected = (e[where] != 0).float().mean(0)
    close(counts(), expected)
    close(
        df_flops_regularizer(e, where=where, document_frequency=counts()),
        df_flops_regularizer(e, where=where),
        rtol=1e-5,
        atol=0,
    )


def test_counts_are_saved_and_restored():
    counts, other = DocumentFrequency(5), DocumentFrequency(5)
    counts.update(draw(0).relu())
    other.load_state_dict(counts.state_dict())
    assert other().equal(counts()) and other().any()
    counts.update(draw(1).relu())
    other.update(draw(1).relu())
    assert other().equal(counts())


def test_counts_stay_whole_numbers_in_half_precision():
    counts = DocumentFrequency(5).half()
    counts.update(torch.ones(3, 5))
    assert counts.active.dtype == torch.int64 and counts().tolist() == [1] * 5


def test_counts_can_be_forgotten():
    counts = DocumentFrequency(5)
    assert counts().tolist() == [0] * 5
    counts.update(torch.ones(3, 5))
    counts.reset()
    assert counts.rows == 0 and counts().tolist() == [0] * 5


def test_counts_take_no_gradient():
    counts = DocumentFrequency(5)
    counts.update(torch.ones(3, 5, requires_grad=True))
    assert not counts().requires_grad


def test_counts_of_all_processes_are_added_up(monkeypatch):
    monkeypatch.setattr(joint_flops, "sum_over_processes", lambda x: 3 * x)
    counts = DocumentFrequency(2)
    counts.update(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), gather=True)
    assert counts.active.tolist() == [6, 3] and counts.rows == 6


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="activations has 5 terms; expected the 4 of the others"):
        DocumentFrequency(4).update(torch.ones(2, 5))
