"""Properties of the triplet losses and of the contrastive loss of pairs."""

import math

import pytest
import torch
from families.triplet import contrastive as contrastive_reference
from families.triplet import triplet as triplet_reference
from hypothesis import given
from hypothesis import strategies as st

from rankbench.bench import peak_bytes
from rankbench.candidates import normalize
from rankbench.cards import find
from rankbench.checks import autograd
from rankbench.losses import contrastive_loss, given_triplet_loss, triplet_loss
from rankbench.losses.distances import distances

MINING = ("all", "semi_hard", "hard")
DISTANCES = ("euclidean", "squared_euclidean", "cosine")
EVERY = (*DISTANCES, "manhattan")


@st.composite
def batches(draw):
    """Labelled embeddings in float64, some of them equal, with at most 12 rows."""
    size, dim = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    coordinate = st.integers(-8, 8).map(lambda x: x / 4)
    row = st.lists(coordinate, min_size=dim, max_size=dim)
    rows = draw(st.lists(row, min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)


def random_batch(size, dim=6, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, dim, generator=g, dtype=torch.float64)
    return embeddings, torch.randint(0, classes, (size,), generator=g)


def close(a, b, **tolerance):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), **tolerance)


# Distances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", EVERY)
def test_a_vector_is_at_no_distance_from_itself_and_feels_no_force(distance):
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    value = distances(x, x.detach(), distance).sum()
    (gradient,) = torch.autograd.grad(value, x)
    close(value.detach(), 0.0, rtol=0, atol=1e-15)
    close(gradient, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_the_squared_distance_of_unit_vectors_is_twice_their_cosine_distance():
    x, y = (normalize(random_batch(9, seed=s)[0]) for s in (1, 2))
    close(distances(x, y, "squared_euclidean"), 2 * distances(x, y, "cosine"))


def test_an_unknown_distance_is_refused(without_shape_checks):
    x, labels = random_batch(4)
    with pytest.raises(ValueError, match="euclidean"):
        distances(x, x, "euclid")
    for distance in ("euclid", "manhattan"):
        with pytest.raises(ValueError, match="unknown distance"):
            triplet_loss(x, labels, distance=distance)


@pytest.mark.parametrize("mining", MINING)
def test_equal_texts_get_a_finite_gradient(mining):
    x, labels = random_batch(8)
    x[1], labels[1] = x[0], labels[0]
    x[2], labels[2] = x[0], labels[0] + 1
    gradient = autograd(lambda v: triplet_loss(v, labels, mining=mining), x)
    assert gradient.isfinite().all() and gradient.any()


def test_points_near_each_other_and_far_from_the_origin_keep_their_distances():
    x, labels = random_batch(16)
    moved = (1e-3 * x + 30).float()
    near = 1e-3 * triplet_loss(x, labels, margin=0.2)
    close(triplet_loss(moved, labels, margin=2e-4).double(), near.item(), rtol=1e-2, atol=0.0)


@given(batches(), st.sampled_from(MINING), st.booleans())
def test_shifts_and_rotations_change_nothing(batch, mining, soft):
    x, labels = batch
    g = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=g, dtype=x.dtype))
    settings = {"mining": mining, "soft": soft, "average": "valid", "margin": 0.3}
    if mining == "semi_hard":  # which negative is beyond a tie depends on rounding
        x = x + 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype)
    close(triplet_loss(x @ turn + 3, labels, **settings), triplet_loss(x, labels, **settings),
          rtol=1e-6, atol=1e-6)  # fmt: skip


# Triplets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", MINING)
def test_an_anchor_without_a_positive_costs_nothing(mining):
    x = torch.tensor([[0.0], [1.0], [1.1], [9.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])  # the last two have nobody
    each = triplet_loss(x, labels, mining=mining, margin=20.0, reduction="none")
    assert each[:2].all() and not each[2:].any()
    close(triplet_loss(x, labels, mining=mining, margin=20.0), each[:2].mean())
    alone = triplet_loss(x.requires_grad_(), torch.arange(4), mining=mining, margin=20.0)
    (gradient,) = torch.autograd.grad(alone, x)
    assert alone == 0 and not gradient.any()


@pytest.mark.parametrize("mining", MINING)
def test_an_anchor_without_a_negative_costs_nothing(mining):
    x, _ = random_batch(5)
    value = triplet_loss(x.requires_grad_(), torch.zeros(5).long(), mining=mining, margin=9.0)
    (gradient,) = torch.autograd.grad(value, x)
    assert value == 0 and not gradient.any()


@given(batches(), st.sampled_from(MINING))
def test_softplus_exceeds_the_hinge_without_margin_by_at_most_log_2(batch, mining):
    each = {"mining": mining, "average": "valid", "reduction": "none"}
    soft = triplet_loss(*batch, soft=True, **each)
    gap = soft - triplet_loss(*batch, margin=0.0, **each)
    assert (gap >= -1e-12).all() and (gap <= math.log(2) + 1e-12).all()


@pytest.mark.parametrize("average", ["active", "valid"])
@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("distance", DISTANCES)
def test_collapse_costs_the_margin_or_log_2_and_is_a_plateau(distance, mining, average):
    x, labels = torch.ones(6, 3, dtype=torch.float64), torch.arange(6) % 2
    settings = {"distance": distance, "mining": mining, "average": average}
    close(triplet_loss(x, labels, margin=0.7, **settings), 0.7)
    close(triplet_loss(x, labels, soft=True, **settings), math.log(2))
    gradient = autograd(lambda v: triplet_loss(v, labels, **settings), x)
    close(gradient, torch.zeros_like(x), rtol=0, atol=1e-12)


@given(batches(), st.sampled_from([0.0, 0.2, 3.0]), st.booleans())
def test_the_hardest_triplet_costs_at_least_the_average(batch, margin, soft):
    each = {"margin": margin, "soft": soft, "average": "valid", "reduction": "none"}
    hardest = triplet_loss(*batch, mining="hard", **each)
    for mining in ("all", "semi_hard"):
        assert (hardest - triplet_loss(*batch, mining=mining, **each) >= -1e-9).all()


@given(batches())
def test_the_active_average_is_at_least_the_valid_one(batch):
    for mining in ("all", "semi_hard"):
        each = {"mining": mining, "reduction": "none"}
        active = triplet_loss(*batch, average="active", **each)
        assert (active - triplet_loss(*batch, average="valid", **each) >= -1e-12).all()


def test_a_margin_beyond_the_sphere_leaves_every_triplet_active():
    x, labels = random_batch(20)
    x = normalize(x)
    values = [triplet_loss(x, labels, margin=m) for m in (2.0, 5.0)]
    close(values[1] - values[0], 3.0)
    close(values[1], triplet_loss(x, labels, margin=5.0, average="valid"))


def test_the_margin_plays_no_part_in_the_soft_form():
    x, labels = random_batch(10)
    close(triplet_loss(x, labels, soft=True, margin=5.0), triplet_loss(x, labels, soft=True))


def test_a_settled_triplet_leaves_the_active_average_and_may_raise_it():
    def anchor(position, average):
        x = torch.tensor([[0.0], [0.5], [0.3], [position], [1.0]], dtype=torch.float64)
        labels = torch.tensor([0, 0, 0, 1, 1])
        return triplet_loss(x, labels, average=average, reduction="none")[0]

    near, far = 0.49, 0.51  # the triplet of 0.3 is settled in between
    assert anchor(near, "active") < anchor(far, "active")
    assert anchor(near, "valid") > anchor(far, "valid")


def test_the_gradient_on_distances_counts_active_triplets():
    labels = torch.tensor([0, 0, 0, 1, 1])
    d = torch.tensor([0.5, 0.3, 0.6, 1.0], dtype=torch.float64)

    def row(v, **settings):
        line = torch.cat([v.new_zeros(1), v])[:, None]
        return triplet_loss(line, labels, reduction="none", **settings)[0]

    close(autograd(row, d), [1.0, 0.0, -1.0, 0.0])
    close(autograd(lambda v: row(v, average="valid"), d), [0.25, 0.0, -0.25, 0.0])
    close(autograd(lambda v: row(v, margin=0.6), d), [2 / 3, 1 / 3, -2 / 3, -1 / 3])
    close(autograd(lambda v: row(v, mining="hard"), d), [1.0, 0.0, -1.0, 0.0])
    close(autograd(lambda v: row(v, mining="semi_hard", margin=0.6), d), [0.5, 0.5, -1.0, 0.0])


def test_a_tie_for_the_hardest_shares_its_gradient():
    d = torch.tensor([0.5, 0.5, 0.6, 0.6], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1])

    def row(v):
        line = torch.cat([v.new_zeros(1), v])[:, None]
        return triplet_loss(line, labels, mining="hard", reduction="none")[0]

    close(autograd(row, d), [0.5, 0.5, -0.5, -0.5])


@pytest.mark.parametrize("settings", [{}, {"mining": "semi_hard"}, {"soft": True}])
@pytest.mark.parametrize("classes", [2, 20])
def test_large_batches_equal_the_reference(classes, settings):
    """Long enough for every fast way through the sums."""
    x, labels = random_batch(150, dim=2, classes=classes)
    expected = triplet_reference(x.tolist(), labels.tolist(), **settings)
    for chunk_size in (None, 40):
        close(triplet_loss(x, labels, chunk_size=chunk_size, **settings), expected)


def test_tiles_have_the_gradient_of_the_whole():
    x, labels = random_batch(90, classes=3)
    for settings in ({}, {"mining": "semi_hard"}, {"mining": "hard"}, {"soft": True}):
        one, many = (
            autograd(lambda v, c=c, s=settings: triplet_loss(v, labels, chunk_size=c, **s), x)
            for c in (None, 7)
        )
        close(one, many)


def test_no_list_of_triplets_is_held():
    sizes = (128, 256)
    peaks = []
    for size in sizes:
        x, labels = random_batch(size, classes=2)
        x = x.float().requires_grad_()
        peaks.append(peak_bytes(lambda x=x, y=labels: triplet_loss(x, y, chunk_size=16).backward()))
    assert peaks[1] < 3 * peaks[0]  # tiles of 16 anchors; 8 times as many triplets


def test_unknown_names_are_refused(without_shape_checks):
    x, labels = random_batch(4)
    with pytest.raises(ValueError, match="semi_hard"):
        triplet_loss(x, labels, mining="semihard")
    for call in (
        lambda **k: triplet_loss(x, labels, **k),
        lambda **k: given_triplet_loss(x, x, **k),
    ):
        with pytest.raises(ValueError, match="unknown average"):
            call(average="actve")


def test_the_aliases_have_the_defaults_they_promise():
    assert find("batch_all_triplet").fn is triplet_loss
    assert find("batch_all_triplet").settings["mining"] == "all"
    assert find("triplet_margin").fn is given_triplet_loss  # torch's takes given triplets
    assert find("hadsell").fn is contrastive_loss


@pytest.mark.parametrize("name", ["batch_hard_triplet", "batch_semi_hard_triplet", "triplet_hard"])
def test_a_name_that_would_need_a_setting_points_to_the_loss_that_has_it(name):
    with pytest.raises(ValueError, match="did you mean .*triplet"):
        find(name)  # it would not be hard by default


def test_the_contrastive_loss_and_the_contrastive_family_point_at_each_other():
    card = find("contrastive")
    assert card.family == "metric learning" and card.fn is contrastive_loss
    assert "infonce" in card.avoid_when and "marked" in card.use_when
    assert "infonce" in find("given_triplet").avoid_when
    assert find("infonce").family == "contrastive"


# Given triplets ----------------------------------------------------------------------------------


def test_given_triplets_equal_those_of_the_batch():
    """With two classes of two, an anchor's triplets can be written out."""
    x = random_batch(4)[0]
    labels = torch.tensor([0, 0, 1, 1])
    others = x[torch.tensor([[2, 3], [2, 3], [0, 1], [0, 1]])]
    for settings in ({}, {"average": "valid", "margin": 2.0}, {"soft": True}):
        given_ones = given_triplet_loss(x, x[[1, 0, 3, 2]], negatives=others, **settings)
        close(given_ones, triplet_loss(x, labels, **settings))


def test_queries_without_a_negative_do_not_count():
    q, d, n = (random_batch(3, seed=s)[0] for s in range(3))
    real = torch.tensor([[True], [False], [True]])
    value = given_triplet_loss(q, d, negatives=n[:, None], negatives_where=real, margin=9.0)
    two = given_triplet_loss(q[[0, 2]], d[[0, 2]], negatives=n[[0, 2], None], margin=9.0)
    close(value, two)


def test_given_triplets_without_negatives_are_refused(without_shape_checks):
    q, d = (random_batch(3, seed=s)[0] for s in range(2))
    with pytest.raises(ValueError, match="needs negatives"):
        given_triplet_loss(q, d)
    with pytest.raises(ValueError, match="without negatives"):
        given_triplet_loss(q, d, negatives_where=torch.ones(3, 1).bool())
    with pytest.raises(ValueError, match=r"negatives\[:, None\]"):
        given_triplet_loss(q, d, negatives=d)


def test_given_triplets_whose_negatives_are_all_padding_cost_nothing():
    q, d = (random_batch(3, seed=s)[0] for s in range(2))
    padding = {"negatives": torch.full((3, 2, 6), torch.nan).double()}
    padding["negatives_where"] = torch.zeros(3, 2).bool()
    value = given_triplet_loss(q.requires_grad_(), d, **padding)
    (gradient,) = torch.autograd.grad(value, q)
    assert value == 0 and not gradient.any()


def test_one_negative_each_makes_both_averages_those_of_torch():
    q, d, n = (random_batch(9, seed=s)[0] for s in range(3))
    theirs = torch.nn.functional.triplet_margin_loss(q, d, n, margin=1.0, eps=0.0)
    for average in ("active", "valid"):
        close(given_triplet_loss(q, d, negatives=n[:, None], margin=1.0, average=average), theirs)


def test_margins_that_make_no_sense_are_refused():
    x, labels = random_batch(4)
    for margin in (-0.1, math.nan):
        with pytest.raises(ValueError, match="margin is"):
            triplet_loss(x, labels, margin=margin)
        with pytest.raises(ValueError, match="margin is"):
            given_triplet_loss(x, x, negatives=x[:, None], margin=margin)
    for margin in (0.0, -0.1):
        with pytest.raises(ValueError, match="margin is"):
            contrastive_loss(x, x, labels, margin=margin)


def test_a_negative_on_the_query_gets_a_finite_gradient():
    q, d = (random_batch(3, seed=s)[0] for s in range(2))
    for distance in EVERY:
        gradient = autograd(lambda v, k=distance: given_triplet_loss(
            v, d, negatives=q[:, None], distance=k, margin=1.0), q)  # fmt: skip
        assert gradient.isfinite().all()


# Pairs -------------------------------------------------------------------------------------------


def test_settled_pairs_cost_nothing_and_feel_nothing():
    x = torch.zeros(2, 2, dtype=torch.float64)
    y = torch.tensor([[0.0, 0.0], [0.0, 0.6]], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.0])
    fn = lambda v: contrastive_loss(v, y, labels, distance="euclidean")  # noqa: E731
    assert fn(x) == 0 and not autograd(fn, x).any()


@given(st.floats(0.01, 2.0), st.floats(0.0, 1.0), st.sampled_from([0.5, 1.0]))
def test_the_force_is_the_boxed_one(d, y, margin):
    def fn(gap):
        return contrastive_loss(gap.new_zeros(1, 1), gap[:, None], gap.new_tensor([y]),
                                margin=margin, distance="euclidean")  # fmt: skip

    expected = y * d - (1 - y) * max(0.0, margin - d)
    close(autograd(fn, torch.tensor([d], dtype=torch.float64)), [expected])


def test_a_soft_label_mixes_the_costs():
    q, d = (random_batch(6, seed=s)[0] for s in range(2))
    y = torch.linspace(0, 1, 6, dtype=torch.float64)
    one, none = (contrastive_loss(q, d, torch.full((6,), v), reduction="none") for v in (1.0, 0.0))
    close(contrastive_loss(q, d, y, reduction="none"), y * one + (1 - y) * none)


def test_a_soft_label_rests_between_zero_and_the_margin():
    fn = lambda gap: contrastive_loss(  # noqa: E731
        gap.new_zeros(1, 1), gap[:, None], gap.new_tensor([0.3]), distance="euclidean"
    )
    close(autograd(fn, torch.tensor([0.7 * 0.5])), [0.0], rtol=0, atol=1e-7)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=8))
def test_online_keeps_the_pairs_that_are_out_of_order(pairs):
    gaps = torch.tensor([[d / 10] for d, _ in pairs], dtype=torch.float64)
    labels = [float(y) for _, y in pairs]
    settings = {"online": True, "margin": 9.0, "distance": "euclidean", "reduction": "none"}
    value = contrastive_loss(torch.zeros_like(gaps), gaps, torch.tensor(labels), **settings)
    expected = contrastive_reference([[0.0]] * len(pairs), gaps.tolist(), labels, **settings)
    close(value, expected)
    same = [d for d, y in pairs if y]
    different = [d for d, y in pairs if not y]
    separated = not same or not different or max(same) <= min(different)
    assert bool((value == 0).all()) == separated


def test_online_never_keeps_more():
    q, d = (random_batch(30, seed=s)[0] for s in range(2))
    labels = torch.arange(30) % 2
    hard = contrastive_loss(q, d, labels, online=True, margin=1.5, reduction="none")
    full = contrastive_loss(q, d, labels, margin=1.5, reduction="none")
    assert ((hard == full) | (hard == 0)).all() and (hard == full).any()


def test_a_negative_as_far_as_the_positive_is_not_beyond_it():
    x = torch.tensor([[0.0], [0.5], [-0.5], [0.625]], dtype=torch.float64)
    value = triplet_loss(x, torch.tensor([0, 0, 1, 1]), mining="semi_hard", reduction="none")[0]
    close(value, 0.5 - 0.625 + 0.2)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_nan_in_an_embedding_is_not_hidden(mining):
    embeddings = torch.eye(4)
    embeddings[0, 0] = float("nan")
    assert triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), mining=mining).isnan()
