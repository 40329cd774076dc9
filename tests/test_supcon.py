"""Properties of the contrastive losses with classes."""

import math

import pytest
import torch
from families.supcon import multi_similarity as multi_similarity_reference
from families.supcon import supcon as supcon_reference
from hypothesis import given
from hypothesis import strategies as st

from rankbench.bench import peak_bytes
from rankbench.candidates import class_sizes, labelled_candidates, normalize
from rankbench.checks import autograd
from rankbench.losses import bidirectional_infonce_loss, multi_similarity_loss, supcon_loss
from rankbench.losses.contrastive import infonce_values


def close(a, b, **tolerance):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), **tolerance)


def random_batch(size, dim=6, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, dim, generator=g, dtype=torch.float64)
    return embeddings, torch.randint(0, classes, (size,), generator=g)


@st.composite
def batches(draw):
    size, dim = draw(st.integers(2, 10)), draw(st.integers(1, 4))
    row = st.lists(st.integers(-8, 8).map(lambda x: x / 4), min_size=dim, max_size=dim)
    rows = draw(st.lists(row, min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)


# SupCon ------------------------------------------------------------------------------------------


@given(batches(), st.sampled_from([0.05, 0.5]))
def test_the_form_inside_is_at_most_the_one_outside_and_both_keep_their_floor(batch, temperature):
    each = {"temperature": temperature, "reduction": "none"}
    out, inside = (supcon_loss(*batch, form=form, **each) for form in ("out", "in"))
    positives, _ = class_sizes(batch[1])
    floor = positives.clamp(min=1).double().log()
    assert (inside <= out + 1e-9).all() and (inside >= floor - 1e-9).all()


@given(batches())
def test_the_forms_are_those_of_infonce_with_several_positives(batch):
    embeddings, labels = batch
    lists = labelled_candidates(embeddings, labels)
    scores, positive, where = lists
    positive, (count, _) = positive.bool(), class_sizes(labels)
    some = count > 0
    for form, kind, extra in (
        ("out", "mean", 0.0),
        ("in", "union", count.clamp(min=1).double().log()),
    ):
        expected = infonce_values(scores, positive, where, kind) + extra
        close(supcon_loss(embeddings, labels, form=form, reduction="none")[some], expected[some])


def test_classes_of_two_are_two_views():
    x, _ = random_batch(12)
    one, two = x[:6], x[6:]
    sides = {"directions": ("query_to_doc", "query_to_query"), "temperature": 0.1}
    both = bidirectional_infonce_loss(one, two, **sides)
    both = (both + bidirectional_infonce_loss(two, one, **sides)) / 2
    close(supcon_loss(x, torch.arange(12) % 6), both)


def test_at_one_positive_the_forms_agree():
    x, _ = random_batch(10)
    labels = torch.arange(10) // 2
    close(supcon_loss(x, labels), supcon_loss(x, labels, form="in"))


@pytest.mark.parametrize("form", ["out", "in"])
def test_collapse_costs_the_logarithm_of_the_others(form):
    x, labels = torch.ones(7, 3, dtype=torch.float64), torch.arange(7) % 2
    close(supcon_loss(x, labels, form=form), math.log(6))
    gradient = autograd(lambda v: supcon_loss(v, labels, form=form), x)
    close(gradient, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["out", "in"])
def test_a_perfect_model_reaches_the_floor(form):
    labels = torch.tensor([0, 0, 0, 1, 1])
    axes = torch.eye(2, dtype=torch.float64)[labels]
    values = supcon_loss(axes, labels, form=form, temperature=0.01, reduction="none")
    close(values, [math.log(2)] * 3 + [0.0] * 2, rtol=0, atol=1e-9)


def test_a_cold_model_compares_the_nearest_with_the_mean_or_the_nearest_positive():
    x, labels = random_batch(20)
    s = (normalize(x) @ normalize(x).T).fill_diagonal_(-torch.inf)
    same = (labels[:, None] == labels) & ~torch.eye(20, dtype=torch.bool)
    nearest = s.amax(1)
    mean = torch.where(same, s, 0.0).sum(1) / same.sum(1)
    best = s.masked_fill(~same, -torch.inf).amax(1)
    cold = {"temperature": 1e-4, "reduction": "none"}
    some = same.any(1)
    close(1e-4 * supcon_loss(x, labels, **cold)[some], (nearest - mean)[some], rtol=0, atol=1e-3)
    inside = 1e-4 * supcon_loss(x, labels, form="in", **cold)
    close(inside[some], (nearest - best)[some], rtol=0, atol=1e-3)


def test_a_text_alone_in_its_class_does_not_count():
    x, _ = random_batch(5)
    labels = torch.tensor([0, 0, 0, 1, 2])
    values = supcon_loss(x, labels, reduction="none")
    assert values[:3].all() and not values[3:].any()
    close(supcon_loss(x, labels), values[:3].mean())
    nothing = supcon_loss(x.requires_grad_(), torch.arange(5))
    (gradient,) = torch.autograd.grad(nothing, x)
    assert nothing == 0 and not gradient.any()


@pytest.mark.parametrize("form", ["out", "in"])
def test_the_gradient_on_scores_is_the_boxed_one(form):
    labels = torch.tensor([0, 0, 0, 1, 1])
    scores = torch.tensor([0.3, 1.2, 0.9, -0.5], dtype=torch.float64)

    def anchor(s):
        line = torch.cat([s.new_ones(1), s])[:, None]
        return supcon_loss(line, labels, similarity="dot", temperature=1.0, form=form,
                           reduction="none")[0]  # fmt: skip

    share = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    if form == "in":
        share = torch.cat([scores[:2].softmax(0), scores.new_zeros(2)])
    close(autograd(anchor, scores), scores.softmax(0) - share)


def test_the_temperature_gets_its_gradient():
    x, labels = random_batch(8)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for chunk_size in (None, 3):
        assert torch.autograd.gradcheck(
            lambda v, c=chunk_size: supcon_loss(x, labels, temperature=v, chunk_size=c), (t,)
        )


@pytest.mark.parametrize("loss", [supcon_loss, multi_similarity_loss])
def test_memory_is_that_of_the_tiles(loss):
    peaks = []
    for size in (256, 512):
        x, labels = random_batch(size, classes=20)
        x = x.float().requires_grad_()
        peaks.append(
            peak_bytes(lambda x=x, y=labels: loss(x, y, chunk_size=4096 // len(x)).backward())
        )
    assert peaks[1] < 2.2 * peaks[0]


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(supcon_loss, supcon_reference), (multi_similarity_loss, multi_similarity_reference)],
)
def test_a_large_batch_equals_the_reference(loss, reference):
    x, labels = random_batch(80, classes=9)
    for chunk_size in (None, 11):
        close(loss(x, labels, chunk_size=chunk_size), reference(x.tolist(), labels.tolist()))


# Multi-similarity --------------------------------------------------------------------------------


@given(batches(), st.sampled_from([None, 0.1, 0.5]))
def test_multi_similarity_is_never_below_zero_and_mining_never_adds(batch, epsilon):
    each = {"reduction": "none"}
    mined = multi_similarity_loss(*batch, epsilon=epsilon, **each)
    assert (mined >= 0).all()
    assert (mined <= multi_similarity_loss(*batch, **each) + 1e-12).all()


def test_steep_terms_are_hinges_on_the_hardest():
    x, labels = random_batch(20)
    s = normalize(x) @ normalize(x).T
    own = torch.eye(20, dtype=torch.bool)
    same = (labels[:, None] == labels) & ~own
    least = s.masked_fill(~same, torch.inf).amin(1)
    most = s.masked_fill(same | own, -torch.inf).amax(1)
    for base in (0.0, 0.5):
        sharp = multi_similarity_loss(x, labels, alpha=1e5, beta=1e5, base=base, reduction="none")
        close(sharp, (base - least).relu() + (most - base).relu(), rtol=0, atol=1e-4)


def around(s, labels, **settings):
    """The loss of an anchor whose similarities to the others are `s`."""
    ring = torch.stack([s, (1 - s**2).sqrt()], -1)
    ring = torch.cat([s.new_tensor([[1.0, 0.0]]), ring])
    return multi_similarity_loss(ring, labels, reduction="none", **settings)[0]


def test_the_gradient_on_similarities_is_the_boxed_one():
    labels = torch.tensor([0, 0, 0, 1, 1])
    s = torch.tensor([0.5, 0.9, 0.2, -0.7], dtype=torch.float64)
    up, down = (-2 * (s[:2] - 0.5)).exp(), (50 * (s[2:] - 0.5)).exp()
    expected = torch.cat([-up / (1 + up.sum()), down / (1 + down.sum())])
    close(autograd(lambda v: around(v, labels), s), expected)
    assert expected[:2].sum() > -1 and expected[2:].sum() < 1


def test_no_gradient_flows_through_the_selection():
    labels = torch.tensor([0, 0, 0, 1, 1])
    s = torch.tensor([0.5, 0.9, 0.2, -0.7], dtype=torch.float64)
    kept = torch.tensor([0, 2])  # 0.9 is settled, and so is -0.7
    mined = autograd(lambda v: around(v, labels, epsilon=0.35), s)
    alone = autograd(lambda v: around(v, labels[[0, 1, 3]]), s[kept])
    close(mined[kept], alone)
    assert not mined[[1, 3]].any()


def test_a_settled_anchor_keeps_nothing_and_counts():
    labels = torch.tensor([0, 0, 1])
    s = torch.tensor([0.9, -0.9], dtype=torch.float64)
    assert around(s, labels, epsilon=0.1) == 0


def test_texts_of_one_side_count_without_mining_and_not_with_it():
    x, _ = random_batch(4)
    labels = torch.tensor([0, 0, 1, 2])
    values = multi_similarity_loss(x, labels, reduction="none")
    close(multi_similarity_loss(x, labels), values.mean())
    mined = multi_similarity_loss(x, labels, epsilon=2.0, reduction="none")
    assert not mined[2:].any()
    close(multi_similarity_loss(x, labels, epsilon=2.0), mined[:2].mean())


def test_an_empty_side_costs_nothing():
    x, _ = random_batch(3)
    s = normalize(x) @ normalize(x).T
    apart = multi_similarity_loss(x, torch.arange(3), reduction="none")
    expected = torch.log1p((50 * (s[0, 1:] - 0.5)).exp().sum()) / 50
    close(apart[0], expected)
    together = multi_similarity_loss(x, torch.zeros(3).long(), reduction="none")
    close(together[0], torch.log1p((-2 * (s[0, 1:] - 0.5)).exp().sum()) / 2)


def test_wrong_settings_are_refused(without_shape_checks):
    x, labels = random_batch(4)
    with pytest.raises(ValueError, match="unknown form"):
        supcon_loss(x, labels, form="inside")
    with pytest.raises(ValueError, match="temperature"):
        supcon_loss(x, labels, temperature=0.0)
    for knob in ("alpha", "beta"):
        with pytest.raises(ValueError, match=knob):
            multi_similarity_loss(x, labels, **{knob: 0.0})
