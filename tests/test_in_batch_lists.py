"""Identities, limits and faults of the losses on the lists of a batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.candidates import in_batch_candidates, similarities
from rankbench.losses import (
    in_batch_psl_loss,
    infonce_loss,
    localized_contrastive_loss,
    psl_loss,
    score_based_in_batch_loss,
    softmax_loss,
)
from rankbench.losses.in_batch_lists import listed_candidates, sample_negatives

ACTIVATIONS = ("tanh", "atan", "relu", "exp")
seeds = st.integers(0, 10_000)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grades(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, shape, generator=g).double()


def same(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-9, atol=1e-10)


# Score-based selection ---------------------------------------------------------------------------


def selected(labels, min_target_diff):
    """Positives and negatives as Lightning IR lists them: row after row, numbers of columns."""
    labels = torch.tensor(labels)
    vectors = torch.ones(*labels.shape, 2)
    lists = listed_candidates(vectors[:, 0], vectors, labels, min_target_diff=min_target_diff)
    _, positive, where = lists
    negative = where & ~positive.bool()
    return {"pos": positive.nonzero()[:, 1].tolist(), "neg": negative.nonzero()[:, 1].tolist()}


def test_the_selection_by_score_is_that_of_lightning_ir(golden):
    case = golden["lir.scorebased_ib_idcs.1.0"]
    assert selected(case["inputs"]["labels"], 1.0) == case["value"]


@pytest.mark.parametrize(
    ("name", "min_target_diff"), [("first.all", math.inf), ("first.all_and_non_first", 1e-9)]
)
def test_the_first_document_as_positive_is_a_selection_by_score(golden, name, min_target_diff):
    falling = [[4.0, 3.0, 2.0, 1.0]] * 2
    assert selected(falling, min_target_diff) == golden[f"lir.ib_idcs.{name}"]["value"]


def test_every_document_as_positive_is_one_selection_for_each(golden):
    value = golden["lir.ib_idcs.all.all"]["value"]
    parts = [selected(torch.eye(4)[[k, k]].tolist(), math.inf) for k in range(4)]
    assert sorted(p for part in parts for p in part["pos"]) == value["pos"]
    assert all(part["neg"] == value["neg"] for part in parts)


def test_only_first_documents_are_in_batch_candidates(golden):
    _, positive, where = in_batch_candidates(torch.ones(2, 3), torch.ones(2, 3))
    found = {"pos": positive, "neg": where & ~positive.bool()}
    columns = {k: (4 * v.nonzero()[:, 1]).tolist() for k, v in found.items()}
    assert columns == golden["lir.ib_idcs.first.first"]["value"]


@given(seeds)
def test_one_document_per_list_is_infonce(seed):
    queries, documents = drawn(seed, 2, 4, 3)
    value = score_based_in_batch_loss(queries, documents[:, None], grades(seed, 4, 1))
    same(value, infonce_loss(queries, documents))


@given(seeds)
def test_the_positive_first_and_the_rest_clearly_worse_is_infonce_with_hard_negatives(seed):
    # hard negatives of all, and the positives of all
    queries, documents = drawn(seed, 4, 3), drawn(seed + 1, 4, 3, 3)
    labels = torch.tensor([1.0, 0.0, 0.0]).expand(4, 3)
    value = score_based_in_batch_loss(queries, documents, labels)
    same(value, infonce_loss(queries, documents[:, 0], negatives=documents[:, 1:]))


@given(seeds)
def test_the_loss_falls_as_the_difference_that_is_asked_for_grows(seed):
    data = drawn(seed, 4, 3), drawn(seed + 1, 4, 5, 3), grades(seed, 4, 5)
    at = [score_based_in_batch_loss(*data, min_target_diff=d) for d in (1e-9, 1.5, 2.5, math.inf)]
    assert at[0] >= at[1] >= at[2] >= at[3]
    everything = torch.ones(4, 20, dtype=torch.bool)
    tied = data[2] == data[2].max(-1, keepdim=True).values
    first = torch.nn.functional.one_hot(data[2].argmax(-1), 5).bool()
    where = everything & ~torch.block_diag(*(tied & ~first)[:, None]).bool()
    scores = similarities(data[0], data[1].flatten(0, 1), temperature=0.05)
    label = torch.block_diag(*first[:, None].double())
    same(at[0], softmax_loss(scores, label, where=where))


@given(seeds)
def test_the_gradient_is_the_share_minus_the_positive(seed):
    labels, columns = grades(seed, 3, 2), torch.eye(6, dtype=torch.float64).view(3, 2, 6)
    scores = drawn(seed, 3, 6).requires_grad_()
    raw = {"similarity": "dot", "temperature": 1.0}
    value = score_based_in_batch_loss(scores, columns, labels, **raw)
    (gradient,) = torch.autograd.grad(value, scores)
    _, positive, where = listed_candidates(scores, columns, labels, **raw)
    shares = scores.detach().masked_fill(~where, -torch.inf).softmax(-1)
    same(gradient, (shares - positive.double()) / 3)


def test_the_first_of_equally_good_documents_is_the_positive():
    assert selected([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], 1.0) == {
        "pos": [1, 3],
        "neg": [0, 3, 4, 5, 0, 1, 2],
    }


def test_a_list_of_padding_has_no_positive_and_gives_no_candidates():
    where = torch.tensor([[True, True], [False, False]])
    vectors, labels = torch.ones(2, 2, 3), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    lists = listed_candidates(vectors[:, 0], vectors, labels, where=where)
    _, positive, candidates = lists
    assert positive.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert candidates.tolist() == [[True, True, False, False], [True, True, False, False]]


def test_teacher_scores_may_be_negative():
    assert selected([[-5.0, -3.0]], 1.0) == {"pos": [1], "neg": [0]}


def test_a_positive_is_never_its_own_negative():
    with pytest.raises(ValueError, match="min_target_diff is 0.0; expected a number above 0"):
        selected([[1.0, 0.0]], 0.0)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_padding_that_is_not_a_number_changes_nothing(chunk_size):
    queries, documents = drawn(0, 3, 4).requires_grad_(), drawn(1, 3, 3, 4)
    labels = grades(0, 3, 3)
    where = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    clean = score_based_in_batch_loss(queries, documents, labels, where=where)
    for x in (documents, labels):
        x[~where] = torch.nan
    value = score_based_in_batch_loss(
        queries, documents, labels, where=where, chunk_size=chunk_size
    )
    same(value, clean.detach())
    (gradient,) = torch.autograd.grad(value, queries)
    assert gradient.isfinite().all() and not gradient[2].any()


@given(seeds, st.integers(1, 12))
def test_sampling_keeps_the_positive_and_as_many_negatives_as_there_are(seed, count):
    labels = grades(seed, 3, 4)
    where = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) < 0.7
    lists = listed_candidates(drawn(seed, 3, 2), drawn(seed, 3, 4, 2), labels, where=where)
    few = sample_negatives(lists, count, torch.Generator().manual_seed(seed))
    (_, positive, every), (_, again, kept) = lists, few
    negatives = (every & ~positive.bool()).sum(-1)
    assert (again == positive).all() and not (kept & ~every).any()
    assert (kept[positive.bool()]).all()
    same((kept & ~positive.bool()).sum(-1), negatives.clamp(max=count))


def test_sampling_does_not_depend_on_tiles_and_repeats_with_its_generator():
    data = drawn(0, 5, 3), drawn(1, 5, 4, 3), grades(0, 5, 4)

    def value(seed, chunk_size, reduction="mean"):
        return score_based_in_batch_loss(
            *data, max_negatives=3, generator=torch.Generator().manual_seed(seed),
            chunk_size=chunk_size, reduction=reduction,
        )  # fmt: skip

    same(value(0, 2), value(0, None))
    same(value(0, 2, "none"), value(0, None, "none"))
    assert value(0, None) != value(1, None)


def test_every_negative_is_drawn_equally_often():
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    lists = listed_candidates(torch.ones(2, 2), torch.ones(2, 3, 2), labels)
    g = torch.Generator().manual_seed(0)
    counts = sum(sample_negatives(lists, 2, g).masks(slice(0, 2))[1].double() for _ in range(2000))
    expected = torch.full((2, 6), 2000 * 2 / 5).double()
    expected[0, 0] = expected[1, 3] = 2000
    assert ((counts - expected).abs() < 100).all()


def test_fewer_than_one_negative_is_refused():
    with pytest.raises(ValueError, match="max_negatives is 0"):
        score_based_in_batch_loss(
            drawn(0, 2, 3), drawn(1, 2, 2, 3), grades(0, 2, 2), max_negatives=0
        )


def test_a_part_of_a_negative_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="expected a whole number"):
        sample_negatives(listed_candidates(drawn(0, 2, 3), drawn(1, 2, 2, 3), grades(0, 2, 2)), 1.5)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 3), (2, 2, 4)])
def test_lists_that_do_not_fit_the_queries_are_refused(shape, without_shape_checks):
    with pytest.raises(ValueError, match=r"expected \[B, L, D\]"):
        score_based_in_batch_loss(drawn(0, 2, 3), drawn(1, *shape), grades(0, 2, 2))


def test_the_list_of_a_twin_is_left_out():
    queries, documents, labels = drawn(0, 1, 3), drawn(1, 1, 2, 3), torch.tensor([[1.0, 0.0]])
    once = score_based_in_batch_loss(queries, documents, labels)
    pair = queries[[0, 0]], documents[[0, 0]], labels[[0, 0]]
    same(score_based_in_batch_loss(*pair, exclude=torch.tensor([7, 7])), once)
    assert score_based_in_batch_loss(*pair) > once + math.log(2) - 1e-9


# Localized contrastive loss ----------------------------------------------------------------------


@given(seeds)
def test_a_group_with_one_positive_is_softmax(seed):
    scores, labels = drawn(seed, 4, 6), torch.eye(6)[:4].double()
    expected = softmax_loss(scores, labels)
    for kind in ("mean", "union", "isolated"):
        same(localized_contrastive_loss(scores, labels, multi_positive=kind), expected)


@given(seeds)
def test_a_group_is_a_row_with_its_own_negatives_and_a_hidden_batch(seed):
    queries, documents, hard = drawn(seed, 3, 4), drawn(seed + 1, 3, 4), drawn(seed + 2, 3, 2, 4)
    scores, labels, where = in_batch_candidates(
        queries, documents, negatives=hard, own_negatives_only=True,
        exclude=torch.ones(3, 3, dtype=torch.bool), temperature=1.0,
    )  # fmt: skip
    groups = torch.cat([documents[:, None], hard], 1)
    alone = torch.stack([similarities(q[None], g)[0] for q, g in zip(queries, groups, strict=True)])
    label = torch.tensor([1.0, 0.0, 0.0]).expand(3, 3)
    expected = localized_contrastive_loss(alone, label)
    same(localized_contrastive_loss(scores, labels, where=where), expected)


@given(st.integers(1, 20))
def test_equal_scores_cost_the_log_of_the_group(size):
    label = torch.eye(size, dtype=torch.float64)[:1]
    same(localized_contrastive_loss(torch.zeros(1, size).double(), label), math.log(size))


@given(seeds)
def test_several_positives_are_ordered_and_have_their_floors(seed):
    scores, labels = 3 * drawn(seed, 8, 6), (drawn(seed + 1, 8, 6) > 0).double()
    counts = labels.sum(-1)
    kinds = ("mean", "union", "isolated")
    mean, union, isolated = (
        localized_contrastive_loss(scores, labels, multi_positive=k, reduction="none")
        for k in kinds
    )
    some = counts > 0
    floor = counts[some].log()
    assert (isolated <= mean + 1e-12).all() and (mean[some] >= floor - 1e-12).all()
    assert (union[some] + floor <= mean[some] + 1e-12).all()


def test_the_argmax_as_label_is_the_loss_of_views():
    views = drawn(0, 3, 4)
    label = torch.nn.functional.one_hot(views.argmax(-1), 4).double()
    same(localized_contrastive_loss(views, label), -views.softmax(-1).amax(-1).log().mean())


def test_the_loss_of_views_is_that_of_lightning_ir(golden):
    views = torch.tensor(golden["lir.contrastive_local"]["inputs"]["scores"]).squeeze(1)
    label = torch.nn.functional.one_hot(views.argmax(-1), 3).float()
    value = localized_contrastive_loss(views, label).item()
    assert value == pytest.approx(golden["lir.contrastive_local"]["value"], rel=1e-5)


# PSL in the batch --------------------------------------------------------------------------------


@given(seeds, st.sampled_from([0.05, 0.3, 1.0]))
def test_exp_is_infonce_at_twice_the_temperature(seed, temperature):
    queries, documents = drawn(seed, 2, 4, 3)
    also = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) < 0.3
    for extra in ({}, {"positives": also}, {"negatives": drawn(seed, 4, 2, 3)}):
        value = in_batch_psl_loss(
            queries, documents, activation="exp", temperature=temperature, **extra
        )
        isolated = {"multi_positive": "isolated"}
        same(
            value,
            infonce_loss(queries, documents, temperature=2 * temperature, **extra, **isolated),
        )


@given(seeds, st.sampled_from(ACTIVATIONS))
def test_psl_in_the_batch_is_psl_on_the_lists_of_the_batch(seed, activation):
    queries, documents = drawn(seed, 2, 4, 3)
    also = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) < 0.3
    keywords = {"negatives": drawn(seed + 1, 4, 2, 3), "positives": also}
    scores, labels, where = in_batch_candidates(queries, documents, temperature=2.0, **keywords)
    expected = psl_loss(scores, labels, where=where, activation=activation, dro_temperature=0.3)
    value = in_batch_psl_loss(
        queries, documents, activation=activation, temperature=0.3, **keywords
    )
    same(value, expected)


@given(seeds, st.sampled_from(ACTIVATIONS), st.sampled_from([0.05, 0.5, 2.0]))
def test_psl_lies_between_the_log_rank_and_softmax(seed, activation, temperature):
    queries, documents = drawn(seed, 2, 6, 3)
    value = in_batch_psl_loss(
        queries, documents, activation=activation, temperature=temperature, reduction="none"
    )
    above = infonce_loss(queries, documents, temperature=2 * temperature, reduction="none")
    cosines = similarities(queries, documents)
    rank = (cosines >= cosines.diagonal()[:, None] - 1e-12).sum(-1).double()
    assert (value <= above + 1e-9).all() and (value >= rank.log() - 1e-9).all()
    assert (rank.log() >= (1 + rank).log2().log() - 1e-12).all()  # -log DCG of the positive


@given(seeds, st.sampled_from(ACTIVATIONS))
def test_the_gradient_of_psl_is_the_boxed_one(seed, activation):
    tau, size = 0.2, 4
    queries = drawn(seed, size, 3)
    queries = (queries / queries.norm(dim=-1, keepdim=True)).requires_grad_()
    documents = torch.nn.functional.normalize(drawn(seed + 1, size, 3), dim=-1)
    value = in_batch_psl_loss(queries, documents, activation=activation, temperature=tau)
    (gradient,) = torch.autograd.grad(value, queries)
    halves = (queries.detach() @ documents.T) / 2
    lead = halves - halves.diagonal()[:, None]
    phi, slope = {
        "tanh": (1 + lead.tanh(), 1 - lead.tanh() ** 2),
        "atan": (1 + lead.atan(), 1 / (1 + lead**2)),
        "relu": (1 + lead, torch.ones_like(lead)),
        "exp": (lead.exp(), lead.exp()),
    }[activation]
    others = ~torch.eye(size, dtype=torch.bool)
    w = phi ** (1 / tau) / (phi ** (1 / tau)).sum(-1, keepdim=True)
    push = torch.where(others, w * slope / phi / tau, 0.0)
    of_halves = push - torch.diag(push.sum(-1))
    pull = of_halves @ documents / 2 / size
    unit = queries.detach()
    torch.testing.assert_close(
        gradient, pull - (pull * unit).sum(-1, keepdim=True) * unit, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_psl_of_equal_similarities_is_the_log_of_the_candidates(activation):
    alike = torch.ones(3, 2, dtype=torch.float64)
    hard = torch.ones(3, 2, 2, dtype=torch.float64)
    value = in_batch_psl_loss(alike, alike, negatives=hard, activation=activation)
    same(value, math.log(3 * (1 + 2)))
    same(in_batch_psl_loss(alike[:1], alike[:1], activation=activation), 0.0)


def test_a_negative_on_the_other_side_adds_nothing_to_relu():
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).requires_grad_()
    value = in_batch_psl_loss(pair, pair.detach(), activation="relu")
    (gradient,) = torch.autograd.grad(value, pair)
    assert value == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_temperature_of_psl_is_learned_with_and_without_tiles(activation, chunk_size):
    pair = drawn(0, 2, 5, 3)

    def fn(t):
        return in_batch_psl_loss(*pair, temperature=t, activation=activation, chunk_size=chunk_size)

    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fn(t), t)
    slope = (fn(torch.tensor(0.5 + 1e-6).double()) - fn(torch.tensor(0.5 - 1e-6).double())) / 2e-6
    step = torch.tensor(0.5 + 1e-6).double() - torch.tensor(0.5 - 1e-6).double()
    torch.testing.assert_close(gradient, slope * 2e-6 / step, rtol=1e-5, atol=1e-7)


def test_an_unmarked_answer_is_pushed_less_than_by_softmax():
    angles = torch.tensor([30.0, 0.0, 50.0]).double().deg2rad()
    documents = torch.stack([angles.cos(), angles.sin()], -1)
    cosines = documents[:, 0].clone().requires_grad_()
    label = torch.tensor([1.0, 0.0, 0.0])
    slopes = {
        k: torch.autograd.grad(
            psl_loss(cosines / 2, label, activation=k, dro_temperature=0.1), cosines
        )[0]
        for k in ("exp", "tanh")
    }
    assert 0 < slopes["tanh"][1] < slopes["exp"][1]
