"""Candidate builders: masks against plain loops, and what they refuse."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.candidates import (
    DIRECTIONS,
    check_pairs,
    directional_candidates,
    duplicate_mask,
    in_batch_candidates,
    normalize,
    similarities,
)

NAN, INF = float("nan"), float("inf")


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def message(fn, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        fn(*args, **kwargs)
    return str(error.value)


# Similarity -------------------------------------------------------------------------------------


def test_normalized_vectors_have_length_one():
    torch.testing.assert_close(normalize(draw(5, 3)).norm(dim=-1), torch.ones(5).double())


def test_a_zero_vector_stays_zero():
    assert normalize(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_a_zero_vector_gets_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    normalize(x).sum().backward()
    assert x.grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_length_does_not_matter_in_single_precision(scale):
    x = scale * torch.tensor([3.0, 4.0])
    torch.testing.assert_close(normalize(x), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_normalized_in_single_precision(dtype):
    assert normalize(torch.ones(2, 3, dtype=dtype)).dtype == torch.float32


def test_cosine_is_the_angle():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 2.0]])
    assert similarities(a, b).item() == pytest.approx(math.cos(math.pi / 4))


def test_dot_is_the_product():
    a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.0]])
    assert similarities(a, b, "dot").item() == 1 * 2 + 3 * 2


def test_the_temperature_divides():
    a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.0]])
    assert similarities(a, b, "dot", 0.5).item() == (1 * 2 + 3 * 2) / 0.5


def test_an_unknown_similarity_is_refused(without_shape_checks):
    said = message(similarities, torch.ones(1, 2), torch.ones(1, 2), "cosin")
    assert said == "unknown similarity 'cosin'; did you mean cosine?"


@pytest.mark.parametrize("temperature", [0, -0.1, NAN])
def test_a_temperature_that_is_not_positive_is_refused(temperature, without_shape_checks):
    said = message(similarities, torch.ones(1, 2), torch.ones(1, 2), "dot", temperature)
    assert said == f"temperature is {temperature}; expected a number above 0, such as 0.05."


# What is refused --------------------------------------------------------------------------------

REFUSED = {
    "one query": ((torch.ones(3), torch.ones(3)), "queries has shape (3,); expected [B, D]."),
    "fewer documents": (
        (torch.ones(4, 3), torch.ones(2, 3)),
        "documents has shape (2, 3) but queries has (4, 3); they must match.",
    ),
    "a mask without negatives": (
        (torch.ones(4, 3), torch.ones(4, 3), None, torch.ones(4, 1, dtype=torch.bool)),
        "negatives_where was given without negatives [B, K, D].",
    ),
    "negatives without their axis": (
        (torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 3)),
        "negatives has shape (4, 3); expected [B, K, D] with B=4 and D=3. "
        "Use negatives[:, None] for one per query.",
    ),
    "negatives of another dimension": (
        (torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 1, 2)),
        "negatives has shape (4, 1, 2); expected [B, K, D] with B=4 and D=3.",
    ),
    "negatives of another batch": (
        (torch.ones(4, 3), torch.ones(4, 3), torch.ones(2, 1, 3)),
        "negatives has shape (2, 1, 3); expected [B, K, D] with B=4 and D=3.",
    ),
    "a mask of another shape": (
        (torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 2, 3),
         torch.ones(4, 1, dtype=torch.bool)),
        "negatives_where has shape (4, 1) but negatives is (4, 2); they must match.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_batch_that_does_not_fit_is_refused(case):
    args, expected = REFUSED[case]
    assert message(check_pairs, *args) == expected


@pytest.mark.parametrize("name", ["positives", "exclude"])
def test_pairs_of_another_shape_are_refused(name, without_shape_checks):
    wrong = {name: torch.zeros(4, 3, dtype=torch.bool)}
    said = message(in_batch_candidates, torch.ones(4, 2), torch.ones(4, 2), **wrong)
    assert said == f"{name} has shape (4, 3) but the batch needs (4, 4); they must match."


def test_exclusions_of_another_shape_are_refused_in_every_direction(without_shape_checks):
    wrong = torch.zeros(1, 4, dtype=torch.bool)  # would broadcast
    said = message(directional_candidates, torch.ones(4, 2), torch.ones(4, 2), exclude=wrong)
    assert said == "exclude has shape (1, 4) but the batch needs (4, 4); they must match."


def test_an_unknown_direction_is_refused():
    said = message(
        directional_candidates, torch.ones(4, 2), torch.ones(4, 2), directions=("query_to_docs",)
    )
    assert said.startswith("unknown direction 'query_to_docs'; did you mean query_to_doc")


# Masks against plain loops ----------------------------------------------------------------------


@st.composite
def masks(draw):
    size, k = draw(st.integers(1, 4)), draw(st.integers(0, 2))

    def table(n, m):
        return st.lists(st.lists(st.booleans(), min_size=m, max_size=m), min_size=n, max_size=n)

    return (
        size,
        k,
        draw(st.none() | table(size, k)) if k else None,
        draw(st.none() | table(size, size)),
        draw(st.none() | table(size, size)),
        draw(st.booleans()),
    )


def tensor(x):
    return None if x is None else torch.tensor(x, dtype=torch.bool)


@given(masks())
def test_in_batch_masks_equal_plain_loops(data):
    size, k, real, positives, exclude, own_only = data
    _, labels, where = in_batch_candidates(
        draw(size, 3), draw(size, 3, seed=1), negatives=draw(size, k, 3, seed=2) if k else None,
        negatives_where=tensor(real), positives=tensor(positives), exclude=tensor(exclude),
        own_negatives_only=own_only,
    )  # fmt: skip
    for i in range(size):
        positive = [i == j or bool(positives and positives[i][j]) for j in range(size)]
        seen = [positive[j] or not (exclude and exclude[i][j]) for j in range(size)]
        for owner, slot in itertools.product(range(size), range(k)):
            positive.append(False)
            seen.append((real is None or real[owner][slot]) and (not own_only or owner == i))
        assert labels[i].bool().tolist() == positive and where[i].tolist() == seen


@given(masks())
def test_directional_masks_equal_plain_loops(data):
    size, k, real, exclude, _, mask_own = data
    blocks = directional_candidates(
        draw(size, 3), draw(size, 3, seed=1), negatives=draw(size, k, 3, seed=2) if k else None,
        negatives_where=tensor(real), exclude=tensor(exclude), mask_own_negatives=mask_own,
    )  # fmt: skip

    def out(i, j):
        return bool(exclude) and i != j and exclude[i][j]

    rules = {
        "query_to_doc": lambda i, j: not out(i, j),
        "doc_to_query": lambda i, j: not out(j, i),
        "query_to_query": lambda i, j: i != j and not out(i, j) and not out(j, i),
        "doc_to_doc": lambda i, j: i != j and not out(i, j) and not out(j, i),
    }
    for direction, (_, _, where) in blocks.items():
        for i in range(size):
            seen = [rules[direction](i, j) for j in range(size)]
            if direction.endswith("doc"):
                for owner, slot in itertools.product(range(size), range(k)):
                    hidden = direction == "doc_to_doc" and mask_own and owner == i
                    seen.append((real is None or real[owner][slot]) and not hidden)
            assert where[i].tolist() == seen, direction


def test_columns_are_documents_and_then_hard_negatives_row_by_row():
    q, d, n = draw(2, 3), draw(2, 3, seed=1), draw(2, 2, 3, seed=2)
    scores, _, _ = in_batch_candidates(q, d, negatives=n, similarity="dot", temperature=1.0)
    columns = [d[0], d[1], n[0, 0], n[0, 1], n[1, 0], n[1, 1]]
    torch.testing.assert_close(scores, torch.stack([q @ c for c in columns], 1))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_direction_scores_its_rows_against_its_columns(direction):
    sides = {"query": draw(3, 2), "doc": draw(3, 2, seed=1)}
    start, _, end = direction.split("_")
    blocks = directional_candidates(
        sides["query"], sides["doc"], directions=(direction,), similarity="dot", temperature=1.0
    )
    scores, _, _ = blocks[direction]
    torch.testing.assert_close(scores, sides[start] @ sides[end].T)


def test_directions_come_in_the_order_that_was_asked_for():
    asked = ("doc_to_doc", "query_to_doc")
    blocks = directional_candidates(draw(2, 3), draw(2, 3), directions=asked)
    assert tuple(blocks) == asked


@pytest.mark.parametrize("fill", [NAN, INF])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_padded_negatives_reach_no_gradient(fill, similarity):
    q, d = draw(2, 3).requires_grad_(), draw(2, 3, seed=1)
    negatives = torch.full((2, 1, 3), fill, dtype=torch.float64, requires_grad=True)
    scores, _, where = in_batch_candidates(
        q, d, negatives=negatives, negatives_where=torch.zeros(2, 1, dtype=torch.bool),
        similarity=similarity,
    )  # fmt: skip
    scores.masked_fill(~where, 0.0).sum().backward()
    assert q.grad.isfinite().all() and not negatives.grad.any()


def test_a_positive_is_never_excluded():
    everything = torch.ones(2, 2, dtype=torch.bool)
    _, _, where = in_batch_candidates(draw(2, 3), draw(2, 3), exclude=everything)
    assert where.tolist() == [[True, False], [False, True]]


def test_duplicates_are_marked_off_the_diagonal():
    marked = duplicate_mask(torch.tensor([7, 8, 7]))
    assert marked.tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_the_column_of_the_positive_says_everything_where_nothing_is_hidden():
    q, d, n, no = draw(3, 2), draw(3, 2, seed=1), draw(3, 1, 2, seed=2), torch.eye(3) < 0
    assert in_batch_candidates(q, d).targets.tolist() == [0, 1, 2]
    assert in_batch_candidates(q, d, negatives=n).targets.tolist() == [0, 1, 2]
    for hides in ({"exclude": no}, {"exclude": torch.arange(3)}, {"positives": no},
                  {"negatives": n, "negatives_where": no[:, :1]},
                  {"negatives": n, "own_negatives_only": True}):  # fmt: skip
        assert in_batch_candidates(q, d, **hides).targets is None, hides


@given(masks())
def test_the_softmax_loss_of_lists_is_that_of_their_scores(data):
    size, k, real, positives, exclude, own_only = data
    lists = in_batch_candidates(
        draw(size, 3), draw(size, 3, seed=1), negatives=draw(size, k, 3, seed=2) if k else None,
        negatives_where=tensor(real), positives=tensor(positives), exclude=tensor(exclude),
        own_negatives_only=own_only,
    )  # fmt: skip
    scores, labels, where = lists
    expected = scores.masked_fill(~where, -INF).logsumexp(1) - (scores * labels).sum(
        1
    ) / labels.sum(1)
    for chunk_size in (None, 1, 2):
        found = lists.cross_entropy(reduction="none", chunk_size=chunk_size)
        torch.testing.assert_close(found, expected)


def test_the_mask_of_several_ids_is_that_of_any_of_them():
    ids = torch.tensor([[1, 7], [2, 7], [1, 8], [3, 9]])
    _, _, where = in_batch_candidates(draw(4, 2), draw(4, 2), exclude=ids)
    same = (ids[:, None] == ids[None]).any(-1) & ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(where, ~same)


def test_arguments_are_not_changed():
    negatives = torch.full((2, 1, 3), NAN)
    in_batch_candidates(
        torch.ones(2, 3), torch.ones(2, 3), negatives=negatives,
        negatives_where=torch.zeros(2, 1, dtype=torch.bool),
    )  # fmt: skip
    assert negatives.isnan().all()
