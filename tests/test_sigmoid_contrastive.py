"""Identities, limits and faults of SigLIP and BiXSE."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import log1pexp

from rankbench.candidates import in_batch_candidates
from rankbench.losses import bce_loss, bixse_loss, infonce_loss, siglip_loss
from rankbench.losses.sigmoid_contrastive import with_bias

RAW = {"similarity": "dot", "temperature": 1.0, "bias": 0.0}
seeds = st.integers(0, 10_000)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-9, atol=1e-10)


# SigLIP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "hard"), [(1, 0), (3, 0), (3, 2)])
def test_right_angles_cost_what_the_bias_says(size, hard):
    axes = torch.eye(size * (2 + hard), dtype=torch.float64)
    negatives = axes[2 * size :].view(size, hard, len(axes)) if hard else None
    value = siglip_loss(axes[:size], axes[size : 2 * size], negatives=negatives)
    same(value, log1pexp(10) + (size * (1 + hard) - 1) * log1pexp(-10))


def test_without_a_bias_every_candidate_costs_log_2():
    axes = torch.eye(12, dtype=torch.float64)
    same(siglip_loss(axes[:6], axes[6:], bias=0.0), 6 * math.log(2))


@given(seeds)
def test_siglip_is_binary_cross_entropy_summed_over_the_items_of_its_lists(seed):
    queries, documents = drawn(seed, 2, 4, 3)
    extra = {"negatives": drawn(seed + 1, 4, 2, 3), "positives": uniform(seed, 4, 4) < 0.3}
    lists = with_bias(in_batch_candidates(queries, documents, temperature=0.3, **extra), -2.0)
    scores, labels, where = lists
    value = siglip_loss(queries, documents, temperature=0.3, bias=-2.0, **extra)
    same(value, 4 * (1 + 2) * bce_loss(scores, labels, where=where))


@given(seeds)
def test_the_gradient_is_probability_minus_label(seed):
    scores, eye = drawn(seed, 3, 3).requires_grad_(), torch.eye(3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(siglip_loss(scores, eye, **RAW), scores)
    same(gradient, (scores.detach().sigmoid() - eye) / 3)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("loss", ["siglip", "bixse"])
def test_bias_and_temperature_are_learned_with_and_without_tiles(loss, chunk_size):
    pair, grades = drawn(0, 2, 5, 3), uniform(0, 5)
    data, y = ([*pair], torch.eye(5)) if loss == "siglip" else ([*pair, grades], grades.diag())
    fn = siglip_loss if loss == "siglip" else bixse_loss
    bias, temperature = (torch.tensor(x, dtype=torch.float64) for x in (-1.5, 0.4))
    leaves = bias.requires_grad_(), temperature.requires_grad_()
    value = fn(*data, bias=bias, temperature=temperature, chunk_size=chunk_size)
    gradients = torch.autograd.grad(value, leaves)
    units = [x / x.norm(dim=-1, keepdim=True) for x in pair]
    sims = units[0] @ units[1].T
    excess = (sims / 0.4 - 1.5).sigmoid() - y
    same(gradients[0], excess.sum() / 5)
    same(gradients[1], -(excess * sims).sum() / 0.4**2 / 5)


@given(seeds)
def test_candidates_do_not_compete(seed):
    queries, documents = drawn(seed, 2, 4, 3)
    hidden = uniform(seed, 4, 4) < 0.5
    kinds = [{"exclude": hidden}, {"exclude": ~hidden}]
    parts = [siglip_loss(queries, documents, reduction="none", **k) for k in kinds]
    own = siglip_loss(queries, documents, reduction="none", exclude=torch.ones(4, 4) > 0)
    whole = siglip_loss(queries, documents, reduction="none")
    same(whole, parts[0] + parts[1] - own)


@given(seeds)
def test_siglip_is_convex_in_the_scores_and_no_shift_leaves_it_alone(seed):
    a, b = drawn(seed, 2, 3, 3) * 4
    eye = torch.eye(3, dtype=torch.float64)
    fn = lambda s: siglip_loss(s, eye, **RAW)  # noqa: E731
    assert fn((a + b) / 2) <= (fn(a) + fn(b)) / 2 + 1e-12
    # one shift may leave one batch alone by chance, but not three
    assert max((fn(a + c) - fn(a)).abs() for c in (1.0, 2.0, 3.0)) > 1e-6


@given(seeds, st.floats(0.1, 50))
def test_siglip_is_above_zero_and_falls_to_zero_with_the_margins(seed, scale):
    assert siglip_loss(*drawn(seed, 2, 3, 3) * scale, similarity="dot") > 0
    eye = torch.eye(3, dtype=torch.float64)
    values = [siglip_loss(t * (2 * eye - 1), eye, **RAW) for t in (1, 10, 100, 1000)]
    assert values[0] > values[1] > values[2] > 0 == values[3]


def test_the_tiny_cost_of_a_settled_negative_keeps_its_digits():
    axes = torch.eye(64)
    value = siglip_loss(axes[:32], axes[32:]).item()
    assert value - log1pexp(10) == pytest.approx(31 * log1pexp(-10), rel=1e-3)


@given(st.integers(2, 60))
def test_equal_scores_cost_least_at_the_share_of_right_pairs(size):
    alike = torch.ones(size, 2, dtype=torch.float64)
    fn = lambda x: siglip_loss(alike, alike, temperature=1.0, bias=x - 1)  # noqa: E731
    best = -math.log(size - 1)
    same(fn(best), math.log(size) + (size - 1) * math.log(size / (size - 1)))
    assert fn(best) <= min(fn(best - 0.1), fn(best + 0.1))


def test_one_pair_alone_teaches_siglip_and_not_infonce():
    query = drawn(0, 1, 3).requires_grad_()
    slopes = [
        torch.autograd.grad(fn(query, drawn(1, 1, 3)), query)[0]
        for fn in (siglip_loss, infonce_loss)
    ]
    assert slopes[0].abs().max() > 1e-3 and not slopes[1].any()


def test_a_duplicate_that_is_excluded_is_not_pushed_away():
    pair, ids = torch.eye(2)[[0, 0]], torch.tensor([7, 7])
    once = siglip_loss(pair[:1], pair[:1])
    torch.testing.assert_close(siglip_loss(pair, pair, exclude=ids), once)
    assert siglip_loss(pair, pair) > once + 0.5


# BiXSE -------------------------------------------------------------------------------------------


@given(seeds)
def test_grades_of_zero_and_one_are_siglip(seed):
    queries, documents = drawn(seed, 2, 4, 3)
    also = (uniform(seed, 4, 4) < 0.4) | torch.eye(4).bool()
    expected = siglip_loss(queries, documents, positives=also)
    same(bixse_loss(queries, documents, also.double()), expected)
    same(bixse_loss(queries, documents, also.double(), excess=True), expected)
    same(bixse_loss(queries, documents, torch.ones(4)), siglip_loss(queries, documents))


@given(seeds, st.sampled_from([None, 0.5, 4.0]))
def test_the_floor_is_the_entropy_of_the_labels_and_is_reached_at_their_odds(seed, omega):
    labels, eye = uniform(seed, 3, 3) * 0.98 + 0.01, torch.eye(3, dtype=torch.float64)
    best = (labels.logit() + math.log(omega or 1.0)).requires_grad_()
    keywords = RAW | {"pos_weight": omega}
    value = bixse_loss(best, eye, labels, **keywords)
    (gradient,) = torch.autograd.grad(value, best)
    same(gradient, torch.zeros(3, 3))
    same(bixse_loss(best, eye, labels, excess=True, **keywords), 0.0)
    if omega is None:
        entropy = torch.special.entr(labels) + torch.special.entr(1 - labels)
        same(value, entropy.sum(-1).mean())


@given(seeds)
def test_the_excess_is_a_sum_of_divergences_with_the_same_gradient(seed):
    labels, eye = uniform(seed, 3, 3) * 0.98 + 0.01, torch.eye(3, dtype=torch.float64)
    scores = drawn(seed, 3, 3).requires_grad_()
    p = scores.sigmoid()
    kl = labels * (labels / p).log() + (1 - labels) * ((1 - labels) / (1 - p)).log()
    values = [bixse_loss(scores, eye, labels, excess=e, **RAW) for e in (False, True)]
    same(values[1], kl.sum(-1).mean().detach())
    slopes = [torch.autograd.grad(v, scores)[0] for v in values]
    same(slopes[0], slopes[1])
    same(slopes[0], (p - labels).detach() / 3)


@given(seeds, st.floats(0.1, 10))
def test_the_gradient_with_a_weight_of_positives(seed, omega):
    labels, eye = uniform(seed, 3, 3), torch.eye(3, dtype=torch.float64)
    scores = drawn(seed, 3, 3).requires_grad_()
    value = bixse_loss(scores, eye, labels, pos_weight=omega, **RAW)
    (gradient,) = torch.autograd.grad(value, scores)
    p = scores.detach().sigmoid()
    same(gradient, ((1 - labels) * p - omega * labels * (1 - p)) / 3)


@given(seeds)
def test_a_table_of_labels_reaches_the_hard_negatives(seed):
    queries, documents = drawn(seed, 2, 3, 3)
    hard, table = drawn(seed + 1, 3, 2, 3), uniform(seed, 3, 9)
    value = bixse_loss(queries, documents, table, negatives=hard)
    lists = in_batch_candidates(queries, documents, negatives=hard, temperature=0.1)
    scores, _, where = with_bias(lists, -10.0)
    same(value, 9 * bce_loss(scores, table, where=where))
    same(bixse_loss(queries, documents, table, negatives=hard, normalize="items"), value / 9)
    with pytest.raises(ValueError, match=r"labels has shape \(3, 9\)"):
        bixse_loss(queries, documents, table)


@pytest.mark.parametrize("hard", [False, True])
def test_padding_in_a_table_of_labels_changes_nothing(hard):
    queries, documents = drawn(0, 2, 3, 3)
    where = torch.tensor([True, True, False])
    negatives = {"negatives": drawn(1, 3, 2, 3)} if hard else {}
    table = uniform(0, 3, 9 if hard else 3)
    columns = [0, 1, 3, 4, 5, 6] if hard else [0, 1]
    small = {k: v[:2] for k, v in negatives.items()}
    expected = bixse_loss(queries[:2], documents[:2], table[:2, columns], **small)
    for x in (queries, documents, *negatives.values(), table):
        x[2] = torch.nan
    table[:, [c for c in range(table.shape[1]) if c not in columns]] = torch.nan
    leaf = queries.requires_grad_()
    for chunk_size in (None, 1):
        value = bixse_loss(leaf, documents, table, where=where, chunk_size=chunk_size, **negatives)
        same(value, expected)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert gradient.isfinite().all() and not gradient[2].any()


def test_a_weak_pair_is_pushed_away_once_its_probability_is_above_its_grade():
    eye = torch.eye(1, dtype=torch.float64)
    for score in (-1.0, 0.0):
        x = torch.tensor([[score]], dtype=torch.float64, requires_grad=True)
        bixse_loss(x, eye, torch.tensor([0.3]), **RAW).backward()
        above = x.detach().sigmoid().item() > 0.3
        assert (x.grad.item() > 0) == above


def test_a_grade_of_one_half_pulls_against_a_bias():
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(1, dtype=torch.float64)
    keywords = RAW | {"bias": -10.0}
    bixse_loss(x, eye, torch.tensor([0.5]), **keywords).backward()
    same(x.grad, [[1 / (1 + math.exp(10)) - 0.5]])


def test_no_gradient_reaches_the_grades():
    grades = torch.rand(3).requires_grad_()
    pair = torch.randn(2, 3, 4).requires_grad_()
    bixse_loss(*pair, grades).backward()
    assert grades.grad is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"pos_weight": 0.0}, "pos_weight is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"negatives": torch.ones(3, 2)}, "negatives\\[:, None\\]"),
        ({"bias": torch.zeros(3)}, "expected one number for all pairs"),
    ],
)
def test_bad_settings_are_refused_in_words(keywords, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        bixse_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3), **keywords)


def test_an_unknown_normalization_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="did you mean items"):
        bixse_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3), normalize="item")


# Tiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2, 100])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_tiles_of_siglip_have_the_value_and_gradient_of_the_whole(chunk_size, hidden, scale):
    g = torch.Generator().manual_seed(0)
    q, d, n = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    masks = {"exclude": torch.rand(5, 5, generator=g) < 0.3} if hidden else {}
    found = []
    for size in (None, chunk_size):
        leaves = [x.clone().requires_grad_() for x in (scale * q, d, n)]
        value = siglip_loss(leaves[0], leaves[1], negatives=leaves[2][:, None], similarity="dot",
                            chunk_size=size, **masks)  # fmt: skip
        found.append((value.detach(), torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
