"""MaxSim against plain loops, tiles against the whole, and what they refuse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.candidates import in_batch_candidates
from rankbench.late_interaction import late_candidates, maxsim

SEEDS = st.integers(0, 2**16)


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def coins(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=g) < 0.6


def by_loops(query, document, query_where, document_where):
    """Khattab and Zaharia 2020; 0 where there is nothing to find."""
    total = 0.0
    for t, asked in zip(query, query_where, strict=True):
        found = [
            math.fsum(a * b for a, b in zip(t, u, strict=True))
            for u, real in zip(document, document_where, strict=True)
            if real
        ]
        total += max(found) if asked and found else 0.0
    return total


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
@given(SEEDS)
def test_scores_equal_plain_loops(chunk_size, seed):
    q, d = draw(2, 3, 4, seed=seed), draw(5, 2, 4, seed=seed + 1)
    qw, dw = coins(2, 3, seed=seed), coins(5, 2, seed=seed + 1)
    ours = maxsim(q, d, query_where=qw, document_where=dw, chunk_size=chunk_size)
    expected = [[by_loops(a, b, x, y) for b, y in zip(d.tolist(), dw, strict=True)]
                for a, x in zip(q.tolist(), qw, strict=True)]  # fmt: skip
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
@given(SEEDS)
def test_tiles_have_the_gradient_of_the_whole(chunk_size, seed):
    qw, dw = coins(2, 3, seed=seed), coins(5, 2, seed=seed + 1)
    upstream, found = draw(2, 5, seed=seed + 2), []
    for size in (None, chunk_size):
        q = draw(2, 3, 4, seed=seed).requires_grad_()
        d = draw(5, 2, 4, seed=seed + 1).requires_grad_()
        scores = maxsim(q, d, query_where=qw, document_where=dw, chunk_size=size)
        found.append(torch.autograd.grad(scores, (q, d), upstream))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    q, d = draw(2, 3, 4).requires_grad_(), draw(3, 2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: maxsim(a, b, chunk_size=2), (q, d))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_padding_reaches_neither_value_nor_gradient(fill, chunk_size):
    q, d = draw(2, 3, 4), draw(3, 2, 4, seed=1)
    more_q = torch.cat([q, torch.full((2, 1, 4), fill).double()], 1).requires_grad_()
    more_d = torch.cat([d, torch.full((3, 1, 4), fill).double()], 1).requires_grad_()
    real_q = (torch.arange(4) < 3).expand(2, 4)
    real_d = (torch.arange(3) < 2).expand(3, 3)
    scores = maxsim(more_q, more_d, query_where=real_q, document_where=real_d,
                    chunk_size=chunk_size)  # fmt: skip
    torch.testing.assert_close(scores, maxsim(q, d))
    scores.sum().backward()
    assert more_q.grad.isfinite().all() and not more_q.grad[:, -1].any()
    assert more_d.grad.isfinite().all() and not more_d.grad[:, -1].any()


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_document_without_tokens_scores_zero_without_a_gradient(chunk_size):
    q, d = draw(2, 3, 4).requires_grad_(), draw(3, 2, 4, seed=1).requires_grad_()
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    scores = maxsim(q, d, document_where=nothing, chunk_size=chunk_size)
    scores.sum().backward()
    assert not scores.any() and not q.grad.any() and not d.grad.any()


def test_a_list_per_query_is_scored_query_by_query():
    q, d = draw(2, 3, 4), draw(2, 5, 2, 4, seed=1)
    each = torch.stack([maxsim(q[i : i + 1], d[i])[0] for i in range(2)])
    torch.testing.assert_close(maxsim(q, d), each)


@given(SEEDS)
def test_unit_tokens_bound_the_score(seed):
    q, d = (torch.nn.functional.normalize(draw(3, 4, 2, seed=seed + i), dim=-1) for i in (0, 1))
    assert maxsim(q, d).abs().max() <= 4 + 1e-12
    assert maxsim(q, d, normalize=True).abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_scored_in_single_precision(dtype):
    q, d = draw(2, 3, 4).to(dtype), draw(3, 2, 4, seed=1).to(dtype)
    scores = maxsim(q, d)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, maxsim(q.float(), d.float()))


# Lists ------------------------------------------------------------------------------------------


def test_one_token_per_text_makes_the_lists_of_vectors():
    q, d, n = draw(3, 1, 4), draw(3, 1, 4, seed=1), draw(3, 2, 1, 4, seed=2)
    real = torch.tensor([[True, False], [True, True], [False, False]])
    also, out = coins(3, 3, seed=3), coins(3, 3, seed=4)
    ours = late_candidates(q, d, negatives=n, negatives_where=real[..., None], positives=also,
                           exclude=out)  # fmt: skip
    dense = in_batch_candidates(q[:, 0], d[:, 0], negatives=n[:, :, 0], negatives_where=real,
                                positives=also, exclude=out, similarity="dot")  # fmt: skip
    scores, labels, where = dense
    torch.testing.assert_close(torch.where(where, ours[0], 0), torch.where(where, scores, 0))
    assert torch.equal(ours[1], labels) and torch.equal(ours[2], where)


def test_negatives_without_a_mask_are_all_candidates():
    _, labels, where = late_candidates(draw(2, 3, 4), draw(2, 2, 4), negatives=draw(2, 2, 3, 4))
    assert where.all() and labels.sum().item() == 2 and where.shape == (2, 6)


# What is refused --------------------------------------------------------------------------------


def message(fn, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        fn(*args, **kwargs)
    return str(error.value)


def test_vectors_are_refused_where_tokens_are_expected(without_shape_checks):
    said = message(maxsim, draw(2, 4), draw(3, 4))
    assert said.startswith("queries has shape (2, 4) and documents (3, 4); expected [B, T, D]")


def test_a_mask_of_another_shape_is_refused(without_shape_checks):
    said = message(maxsim, draw(2, 3, 4), draw(3, 2, 4), query_where=coins(2, 2))
    assert said == "query_where has shape (2, 2) but queries has tokens (2, 3); they must match."


def test_counts_that_do_not_fit_are_refused(without_shape_checks):
    said = message(late_candidates, draw(2, 3, 4), draw(3, 2, 4))
    assert said == "there are 2 queries and 3 documents; document i belongs to query i."


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk_size):
    assert "above 0" in message(maxsim, draw(2, 3, 4), draw(3, 2, 4), chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_autocast_rounds_nothing(chunk_size):
    q, d = draw(2, 3, 4).float().requires_grad_(), draw(5, 2, 4, seed=1).float().requires_grad_()
    plain = maxsim(q, d, chunk_size=chunk_size)
    slopes = torch.autograd.grad(plain.sum(), (q, d))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = maxsim(q, d, chunk_size=chunk_size)
        found = torch.autograd.grad(mixed.sum(), (q, d))
    assert torch.equal(mixed, plain)
    assert all(torch.equal(a, b) for a, b in zip(found, slopes, strict=True))


def test_second_derivatives_are_refused_in_tiles_and_exist_without():
    q, d = draw(2, 3, 4).requires_grad_(), draw(5, 2, 4, seed=1)
    with pytest.raises(RuntimeError, match="second derivatives need chunk_size=None"):
        torch.autograd.grad(maxsim(q, d, chunk_size=2).sum(), q, create_graph=True)
    energy = lambda x: maxsim(x, d, chunk_size=None).square().sum()  # noqa: E731
    assert torch.autograd.gradgradcheck(energy, q)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("empty", [(0, 3, 5, 2), (2, 0, 5, 2), (2, 3, 0, 2), (2, 3, 5, 0)])
def test_nothing_scores_nothing(empty, chunk_size):
    b, t, m, u = empty
    q, d = draw(b, t, 4).requires_grad_(), draw(m, u, 4).requires_grad_()
    scores = maxsim(q, d, chunk_size=chunk_size)
    each = maxsim(q, draw(b, m, u, 4), chunk_size=chunk_size)
    assert scores.tolist() == each.tolist() == torch.zeros(b, m).tolist()
    assert not any(g.any() for g in torch.autograd.grad(scores.sum(), (q, d)))


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_nan_in_a_token_comes_out(chunk_size):
    d = draw(3, 2, 4)
    d[1, 0] = torch.nan
    scores = maxsim(draw(2, 3, 4), d, chunk_size=chunk_size)
    assert scores.isnan().tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("shape", [(5, 2, 3), (3, 5, 2, 4), (4,)])
def test_tokens_that_do_not_fit_are_refused(shape, without_shape_checks):
    with pytest.raises(ValueError, match=r"expected \[B, T, D\] and \[M, U, D\]"):
        maxsim(draw(2, 3, 4), draw(*shape))


@pytest.mark.parametrize("shape, hint", [
    ((3, 1, 2, 4), "B=2"), ((2, 2, 4), r"Use negatives\[:, None\]"), (None, "without negatives"),
])  # fmt: skip
def test_negatives_that_do_not_fit_are_refused(shape, hint, without_shape_checks):
    hard = {"negatives": draw(*shape)} if shape else {"negatives_where": coins(2, 1, 2)}
    with pytest.raises(ValueError, match=hint):
        late_candidates(draw(2, 3, 4), draw(2, 5, 4), **hard)
