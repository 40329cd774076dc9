"""What holds for embedding distillation beyond the contract and the reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_values import double

from rankbench.candidates import normalize
from rankbench.losses import embedding_distillation_loss
from rankbench.losses.embedding_distillation import DISTANCES, prepare_targets


@st.composite
def pairs_of_vectors(draw, dim=None):
    """Two batches of vectors of one shape, in coarse numbers."""
    count, dim = draw(st.integers(1, 5)), dim or draw(st.integers(1, 4))
    number = st.integers(-8, 8).map(lambda x: x / 4)
    rows = st.lists(st.lists(number, min_size=dim, max_size=dim), min_size=count, max_size=count)
    return double(draw(rows)), double(draw(rows))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(ours, expected, **tolerance):
    torch.testing.assert_close(ours, expected, **{"rtol": 1e-9, "atol": 1e-10, **tolerance})


def rows(embeddings, targets, **settings):
    return embedding_distillation_loss(embeddings, targets, reduction="none", **settings)


# Identities -------------------------------------------------------------------------------------


@given(pairs_of_vectors())
def test_for_unit_vectors_the_three_distances_are_one(data):
    e, f = (normalize(x + 1e-3) for x in data)  # no zero vectors
    cosine = rows(e, f)
    same(rows(e, f, distance="mse"), 2 * cosine / e.shape[1])
    same(rows(e, f, distance="l2") ** 2, 2 * cosine)


@given(pairs_of_vectors())
def test_mse_is_the_square_of_l2_per_coordinate(data):
    e, f = data
    same(rows(e, f, distance="mse") * e.shape[1], rows(e, f, distance="l2") ** 2)


@given(pairs_of_vectors(), st.floats(0.1, 10))
def test_the_cosine_has_no_length(data, scale):
    e, f = data
    same(rows(scale * e, f), rows(e, f))
    same(rows(e, scale * f), rows(e, f))
    assert (rows(e, f) >= -1e-12).all() and (rows(e, f) <= 2 + 1e-12).all()


@given(pairs_of_vectors(dim=3), pairs_of_vectors(dim=3))
def test_close_vectors_make_close_scores(queries, documents):
    (q, teacher_q), (d, teacher_d) = queries, documents
    gaps = (q @ d.T - teacher_q @ teacher_d.T).abs()
    off_q = rows(q, teacher_q, distance="l2")[:, None] * d.norm(dim=-1)
    off_d = teacher_q.norm(dim=-1)[:, None] * rows(d, teacher_d, distance="l2")
    assert (gaps <= off_q + off_d + 1e-12).all()


def test_equal_scores_do_not_make_close_vectors():
    teacher = normalize(random(5, 4))
    turned = teacher @ torch.linalg.qr(random(4, 4, seed=1)).Q
    same(turned @ turned.T, teacher @ teacher.T)
    assert embedding_distillation_loss(turned, teacher) > 0.5


def test_a_projection_with_orthonormal_rows_keeps_the_scores():
    e, frame = random(5, 3), torch.linalg.qr(random(6, 3, seed=1)).Q.T
    same((e @ frame) @ (e @ frame).T, e @ e.T)
    assert embedding_distillation_loss(e, e @ frame, projection=frame, distance="l2") < 1e-12


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_bias_is_one_more_coordinate(distance):
    e, f = random(5, 3), random(5, 6, seed=1)
    layer = torch.nn.Linear(3, 6).double()
    with_one = torch.cat([e, torch.ones(5, 1)], -1)
    matrix = torch.cat([layer.weight.T, layer.bias[None]])
    same(rows(with_one, f, projection=matrix, distance=distance),
         rows(layer(e), f, distance=distance))  # fmt: skip


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("wide", [2, 3, 6])
def test_a_projection_is_applied_before_the_distance(distance, wide):
    e, f, p = random(5, 3), random(5, wide, seed=1), random(3, wide, seed=2)
    same(rows(e, f, projection=p, distance=distance), rows(e @ p, f, distance=distance))


# Gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_student_and_projection_learn_and_the_teacher_does_not(distance):
    e, p, f = random(5, 3), random(3, 6, seed=1), random(5, 6, seed=2).requires_grad_()

    def fn(e, p):
        return embedding_distillation_loss(e, f, projection=p, distance=distance)

    leaves = e.requires_grad_(), p.requires_grad_()
    assert torch.autograd.gradcheck(fn, leaves)
    assert torch.autograd.grad(fn(*leaves), f, allow_unused=True) == (None,)
    assert all(g.any() for g in torch.autograd.grad(fn(*leaves), leaves))


def test_a_trained_projection_finds_a_linear_teacher():
    e, hidden = random(30, 3), random(3, 5, seed=1)
    p = random(3, 5, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([p], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        embedding_distillation_loss(e, e @ hidden, projection=p, distance="mse").backward()
        optimizer.step()
    same(p.detach(), hidden, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_at_the_target_the_gradient_is_zero(distance):
    f = random(4, 3)
    e = f.clone().requires_grad_()
    embedding_distillation_loss(e, f, distance=distance).backward()
    assert e.grad.abs().max() < 1e-12


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_vectors_have_a_finite_gradient(distance):
    f = random(4, 3)
    for target in (f, torch.zeros_like(f)):
        e = torch.zeros_like(f).requires_grad_()
        value = embedding_distillation_loss(e, target, distance=distance)
        value.backward()
        assert value.isfinite() and e.grad.isfinite().all()
        assert distance != "cosine" or (value == 1 and not e.grad.any())


def test_padding_does_not_reach_the_projection():
    e, f, p = random(4, 3), random(4, 5, seed=1), random(3, 5, seed=2)
    where = torch.tensor([True, True, False, True])
    for fill in (torch.nan, torch.inf, 1e4):
        filled = [torch.where(where[:, None], x, fill) for x in (e, f)]
        (ours,) = torch.autograd.grad(
            embedding_distillation_loss(*filled, where=where, projection=p.requires_grad_()), p
        )
        kept = embedding_distillation_loss(e[where], f[where], projection=p)
        same(ours, torch.autograd.grad(kept, p)[0])


# Numbers and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_projection_in_halves_is_computed_in_full(dtype):
    e, f, p = (x.to(dtype) for x in (random(4, 3), random(4, 5, seed=1), random(3, 5, seed=2)))
    ours = embedding_distillation_loss(e, f, projection=p)
    assert ours.dtype == torch.float32
    same(ours, embedding_distillation_loss(e.float(), f.float(), projection=p.float()))


def test_autocast_does_not_round_the_projection():
    e, f, p = (x.float() for x in (random(4, 3), random(4, 5, seed=1), random(3, 5, seed=2)))
    with torch.autocast("cpu", torch.bfloat16):
        ours = embedding_distillation_loss(e, f, projection=p)
    same(ours, embedding_distillation_loss(e, f, projection=p), rtol=1e-6, atol=1e-6)


def test_different_sizes_without_a_projection_are_refused_with_both_and_a_remedy():
    e, f = torch.zeros(4, 3), torch.zeros(4, 5)
    with pytest.raises(ValueError, match="embeddings have 3 dimensions and targets 5") as error:
        embedding_distillation_loss(e, f)
    assert "projection [3, 5]" in str(error.value) and "targets[:, :3]" in str(error.value)


def test_a_student_with_more_dimensions_is_not_told_to_cut_the_targets():
    with pytest.raises(ValueError, match="embeddings have 5 dimensions and targets 3") as error:
        embedding_distillation_loss(torch.zeros(4, 5), torch.zeros(4, 3))
    assert "projection [5, 3]" in str(error.value) and "targets[:, " not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"embeddings": torch.zeros(3)}, r"expected \[B, D\]"),
        ({"targets": torch.zeros(4)}, "targets has shape"),
        ({"targets": torch.zeros(3, 2)}, "targets has shape"),
        ({"projection": torch.zeros(5, 3)}, "projection has shape"),
        ({"where": torch.ones(3, dtype=torch.bool)}, "where has shape"),
        ({"where": torch.ones(4)}, r"where.bool\(\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(given, message):
    plain = {"embeddings": torch.zeros(4, 3), "targets": torch.zeros(4, 3)}
    with pytest.raises(ValueError, match=message):
        prepare_targets(**plain | given)


def test_a_layer_in_place_of_a_projection_is_refused_with_a_remedy(without_shape_checks):
    layer = torch.nn.Linear(3, 5)
    with pytest.raises(TypeError, match=r"projection is a Linear.*\[3, 5\].*layer.weight.mT"):
        embedding_distillation_loss(torch.zeros(4, 3), torch.ones(4, 5), projection=layer)
    embedding_distillation_loss(torch.zeros(4, 3), torch.ones(4, 5), projection=layer.weight.mT)


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="unknown distance 'cos'; did you mean cosine"):
        embedding_distillation_loss(torch.zeros(2, 3), torch.ones(2, 3), distance="cos")
