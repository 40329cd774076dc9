"""Identities, bounds and limits of L1, L2 and L0; the report of sparsity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.losses import (
    flops_regularizer,
    l0_regularizer,
    l1_regularizer,
    l2_regularizer,
)
from rankbench.losses.norms import gini, sparsity

seeds = st.integers(0, 10_000)
close = torch.testing.assert_close


def draw(seed: int, rows: int = 6, terms: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, terms, generator=g, dtype=torch.float64)


def each(regularizer, e, **settings):
    return regularizer(e, reduction="none", **settings)


# L1 and L2 --------------------------------------------------------------------------------------


@given(seeds)
def test_l2_lies_between_l1_and_its_share(seed):
    e = draw(seed)
    one, two = each(l1_regularizer, e), each(l2_regularizer, e)
    assert (one / 5**0.5 <= two + 1e-12).all() and (two <= one + 1e-12).all()


def test_the_two_ends_are_reached():
    even, single = torch.ones(1, 4).double(), torch.eye(4).double()[:1]
    close(l2_regularizer(even), l1_regularizer(even) / 2)
    close(l2_regularizer(single), l1_regularizer(single))


@given(seeds)
def test_flops_lies_between_norms(seed):
    e = draw(seed)
    value = flops_regularizer(e)
    assert l1_regularizer(e) ** 2 / 5 <= value + 1e-12
    assert value <= each(l2_regularizer, e).square().mean() + 1e-12


@given(seeds, st.floats(0.1, 10))
def test_norms_are_of_degree_one(seed, scale):
    e = draw(seed)
    for norm in (l1_regularizer, l2_regularizer):
        close(norm(-scale * e), scale * norm(e))


@given(seeds)
def test_gradients_of_norms_are_the_boxed_ones(seed):
    e = draw(seed)
    e[0] = 0.0
    for norm in (l1_regularizer, l2_regularizer):
        leaf = e.clone().requires_grad_()
        norm(leaf, reduction="sum").backward()
        lengths = e.norm(dim=-1, keepdim=True)
        expected = e.sign() if norm is l1_regularizer else e / lengths.where(lengths > 0, 1)
        close(leaf.grad, expected)
        assert not leaf.grad[0].any()


def test_l2_is_the_mean_of_lengths_not_the_length_of_the_batch():
    e = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert l2_regularizer(e) == (5 + 1) / 2


@pytest.mark.parametrize("norm", [l1_regularizer, l2_regularizer, l0_regularizer])
def test_a_batch_is_its_rows_one_by_one(norm):
    e = draw(0)
    close(each(norm, e), torch.stack([norm(row[None]) for row in e]))


# L0 ---------------------------------------------------------------------------------------------


@given(seeds, st.floats(0.05, 5))
def test_l0_surrogates_are_ordered(seed, epsilon):
    e = draw(seed).relu()
    exp = each(l0_regularizer, e, surrogate="exp", epsilon=epsilon)
    tanh = each(l0_regularizer, e, epsilon=epsilon)
    assert (exp <= tanh + 1e-12).all()
    assert (tanh <= (e != 0).sum(-1) + 1e-12).all()
    assert (tanh <= each(l1_regularizer, e) / epsilon + 1e-12).all()


@pytest.mark.parametrize("surrogate", ["tanh", "exp"])
@given(seeds)
def test_l0_becomes_the_count_and_l1(surrogate, seed):
    e = draw(seed).relu()
    settings = {"surrogate": surrogate, "reduction": "none"}
    close(l0_regularizer(e, epsilon=1e-9, **settings), (e != 0).sum(-1).double(), rtol=1e-4, atol=0)
    close(1e6 * l0_regularizer(e, epsilon=1e6, **settings), each(l1_regularizer, e), rtol=1e-4,
          atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("surrogate", ["tanh", "exp"])
@given(seeds)
def test_the_gradient_of_l0_is_the_boxed_one(surrogate, seed):
    e = draw(seed)
    leaf = e.clone().requires_grad_()
    settings = {"surrogate": surrogate, "epsilon": 0.8, "target": 2.0, "reduction": "none"}
    values = l0_regularizer(leaf, **settings)
    values.sum().backward()
    x = e.abs() / 0.8
    slope = 1 - x.tanh() ** 2 if surrogate == "tanh" else (-x).exp()
    close(leaf.grad, (values > 0)[:, None] * slope / 0.8 * e.sign())


@given(seeds)
def test_rows_below_the_target_are_free(seed):
    e = draw(seed) * (torch.arange(6) < 3)[:, None]
    values = each(l0_regularizer, e, epsilon=0.01, target=1.0)
    assert (values[:3] > 0).all() and not values[3:].any()
    assert not each(l0_regularizer, e, target=5.0).any()


def test_l0_feels_small_activations_and_not_large_ones():
    e = torch.tensor([[0.01, 5.0]], requires_grad=True)
    l0_regularizer(e).backward()
    assert e.grad[0, 0] > 9 and e.grad[0, 1] == 0


def test_unknown_settings_of_l0_are_refused(without_shape_checks):
    with pytest.raises(UnknownName, match="unknown surrogate 'tan'; did you mean tanh"):
        l0_regularizer(torch.ones(2, 2), surrogate="tan")
    with pytest.raises(ValueError, match="epsilon is 0.0; expected a number above 0"):
        l0_regularizer(torch.ones(2, 2), epsilon=0.0)
    with pytest.raises(ValueError, match="target is -1.0; expected a number of terms"):
        l0_regularizer(torch.ones(2, 2), target=-1.0)


# The report -------------------------------------------------------------------------------------


def by_loops(queries, documents):
    """The report from its definitions."""
    lists = [sum(d[v] != 0 for d in documents) for v in range(len(documents[0]))]
    asks = [sum(q[v] != 0 for q in queries) / len(queries) for v in range(len(queries[0]))]
    count = len(documents)
    apart = sum(abs(a - b) for a in lists for b in lists)
    return {
        "query_nonzeros": sum(asks),
        "document_nonzeros": sum(lists) / count,
        "multiplications": sum(a * n / count for a, n in zip(asks, lists, strict=True)),
        "dead": sum(n == 0 for n in lists) / len(lists),
        "always_on": sum(n == count for n in lists) / len(lists),
        "list_max": max(lists),
        "gini": apart / (2 * len(lists) * sum(lists)) if sum(lists) else 0.0,
    }


@given(seeds)
def test_the_report_is_what_loops_count(seed):
    g = torch.Generator().manual_seed(seed)
    coins = lambda rows: (torch.rand(rows, 6, generator=g) < torch.rand(6, generator=g)).float()  # noqa: E731
    queries, documents = coins(4), coins(7)
    expected = by_loops(queries.tolist(), documents.tolist())
    found = sparsity(queries, documents)
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    lists = documents.sum(0).double()
    assert found["list_median"] == lists.quantile(0.5).item()
    assert found["list_median"] <= found["list_p90"] <= found["list_p99"] <= found["list_max"]


def test_the_report_leaves_padding_out():
    queries, documents = draw(0).relu(), draw(1, rows=8).relu()
    found = sparsity(
        torch.cat([queries, torch.full((2, 5), torch.nan)]),
        torch.cat([documents, torch.ones(3, 5)]),
        where=torch.arange(8) < 6,
        documents_where=torch.arange(11) < 8,
    )
    assert found == sparsity(queries, documents)


def test_the_report_of_nothing_is_all_zero_but_dead():
    found = sparsity(torch.zeros(0, 3), torch.zeros(0, 3))
    assert found.pop("dead") == 1 and set(found.values()) == {0.0}


def test_the_report_counts_terms_that_are_always_on():
    documents = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    found = sparsity(documents, documents)
    assert found["dead"] == found["always_on"] == pytest.approx(1 / 3)
    assert found["multiplications"] == 1 + 0.25


def test_gini_is_zero_for_even_and_near_one_for_one_list():
    assert gini(torch.ones(10)) == pytest.approx(0)
    assert gini(torch.eye(10)[3]) == pytest.approx(9 / 10)
    assert gini(torch.zeros(10)) == 0


def test_the_report_needs_one_vocabulary(without_shape_checks):
    with pytest.raises(ValueError, match="documents has 5 terms; expected the 4 of the others"):
        sparsity(torch.ones(2, 4), torch.ones(3, 5))
