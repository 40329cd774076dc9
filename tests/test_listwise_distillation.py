"""A teacher that is trained along: its gradient, where it rests, and what keeps it upright."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import kl_loss, listwise_distillation_loss, softmax_loss
from rankbench.metrics import ndcg

WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 4.0])


@st.composite
def rows(draw):
    """Scores of student and teacher, and at least one mark per list."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    student, teacher = draw(st.sampled_from([0.3, 1.0, 4.0])) * torch.randn(2, 3, 5, generator=g)
    marks = (torch.rand(3, 5, generator=g) < 0.3).double()
    marks[:, 0] = 1.0
    return student.double(), teacher.double(), marks


def gradients(student, teacher, **settings):
    """The gradients of both, of the sum over lists."""
    leaves = [x.clone().requires_grad_() for x in (student, teacher)]
    value = listwise_distillation_loss(*leaves, reduction="sum", **settings)
    return torch.autograd.grad(value, leaves, allow_unused=True)


@given(rows(), WEIGHTS)
def test_both_gradients_are_the_boxed_formulas(data, w):
    student, teacher, marks = data
    to_student, to_teacher = gradients(student, teacher, relevance=marks, supervised_weight=w)
    q, p = student.softmax(-1), teacher.softmax(-1)
    surprise = q.log() - p.log()
    target = marks / marks.sum(-1, keepdim=True)
    divergence = (q * surprise).sum(-1, keepdim=True)
    torch.testing.assert_close(to_student, q * (surprise - divergence))
    torch.testing.assert_close(to_teacher, p - q + w * (p - target))


@given(rows(), WEIGHTS)
def test_the_teacher_rests_between_the_student_and_the_marks(data, w):
    student, _, marks = data
    target = marks / marks.sum(-1, keepdim=True)
    rest = ((student.softmax(-1) + w * target) / (1 + w)).log()
    _, to_teacher = gradients(student, rest, relevance=marks, supervised_weight=w)
    torch.testing.assert_close(to_teacher, torch.zeros_like(rest), rtol=0, atol=1e-12)


@given(rows())
def test_a_frozen_teacher_gives_the_reverse_divergence(data):
    student, teacher, marks = data
    expected = kl_loss(student, teacher, direction="reverse", reduction="none")
    for settings in ({}, {"relevance": marks, "detach_teacher": True, "supervised_weight": 0.0}):
        ours = listwise_distillation_loss(student, teacher, reduction="none", **settings)
        torch.testing.assert_close(ours, expected)
        assert gradients(student, teacher, **settings)[1] is None


@given(rows(), WEIGHTS)
def test_it_is_a_divergence_and_the_softmax_loss_of_the_teacher(data, w):
    student, teacher, marks = data
    ours = listwise_distillation_loss(student, teacher, relevance=marks, supervised_weight=w)
    parts = kl_loss(student, teacher, direction="reverse") + w * softmax_loss(teacher, marks)
    torch.testing.assert_close(ours, parts)


@given(rows(), WEIGHTS)
def test_several_marks_leave_a_floor(data, w):
    student, teacher, marks = data
    ours = listwise_distillation_loss(student, teacher, relevance=marks, supervised_weight=w,
                                      reduction="none")  # fmt: skip
    assert (ours >= w * marks.sum(-1).log() - 1e-12).all()


@given(rows())
def test_only_the_sign_of_relevance_matters(data):
    student, teacher, marks = data
    ours = listwise_distillation_loss(student, teacher, relevance=marks)
    assert ours == listwise_distillation_loss(student, teacher, relevance=3 * marks)
    assert ours == listwise_distillation_loss(student, teacher, relevance=marks.long())
    assert ours == listwise_distillation_loss(student, teacher, relevance=marks - (1 - marks))


@given(rows())
def test_a_list_without_a_mark_keeps_its_divergence(data):
    student, teacher, marks = data
    marks[0] = 0.0
    ours = listwise_distillation_loss(student, teacher, relevance=marks, reduction="none")
    assert ours[0] == listwise_distillation_loss(student[0], teacher[0])
    _, to_teacher = gradients(student, teacher, relevance=marks)
    expected = teacher[0].softmax(-1) - student[0].softmax(-1)
    torch.testing.assert_close(to_teacher[0], expected)


def test_the_teachers_gradient_agrees_with_finite_differences():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=g).double()
    marks = torch.eye(3, 5).double()
    where = torch.arange(5) < torch.tensor([5, 4, 3])[:, None]

    def fn(s, t):
        return listwise_distillation_loss(s, t, where=where, relevance=marks)

    assert torch.autograd.gradcheck(fn, (student.requires_grad_(), teacher.requires_grad_()))


@pytest.mark.parametrize("fill", [0.0, 1e4, math.inf, math.nan])
def test_padding_reaches_neither_the_teacher_nor_its_gradient(fill):
    student = torch.tensor([[0.5, 1.5, -1.0]]).double()
    teacher = torch.tensor([[2.0, 1.0, 0.0]]).double()
    marks = torch.tensor([[1.0, 0.0, 0.0]]).double()
    value = listwise_distillation_loss(student, teacher, relevance=marks)
    _, expected = gradients(student, teacher, relevance=marks)
    longer = [torch.nn.functional.pad(x, (0, 2), value=fill) for x in (student, teacher, marks)]
    where = torch.arange(5)[None] < 3
    padded = {"where": where, "relevance": longer[2]}
    assert listwise_distillation_loss(*longer[:2], **padded) == value
    _, slope = gradients(*longer[:2], **padded)
    assert torch.equal(slope[:, 3:], torch.zeros(1, 2).double())
    torch.testing.assert_close(slope[:, :3], expected)


def test_halves_reach_the_teacher_as_well():
    student, teacher = torch.tensor([[0.5, 1.5]]), torch.tensor([[2.0, 1.0]])
    marks = torch.tensor([[1.0, 0.0]])
    _, exact = gradients(student, teacher, relevance=marks)
    _, half = gradients(student.bfloat16(), teacher.bfloat16(), relevance=marks.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=1e-2, atol=1e-2)


def descended(w, steps=60):
    student = torch.tensor([0.0, 2.0, 1.0, -1.0]).double().requires_grad_()
    teacher = torch.tensor([2.5, 1.0, 0.0, -3.0]).double().requires_grad_()
    marks = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    optimizer = torch.optim.SGD([student, teacher], lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        value = listwise_distillation_loss(student, teacher, relevance=marks, supervised_weight=w)
        value.backward()
        optimizer.step()
    return student.detach(), teacher.detach(), marks


def test_without_supervision_the_teacher_collapses_onto_the_student():
    student, teacher, marks = descended(0.0)
    assert (student.softmax(-1) - teacher.softmax(-1)).abs().max() < 1e-2
    assert ndcg(teacher, marks) < 1  # it was 1


def test_with_supervision_both_find_the_marked_item():
    student, teacher, marks = descended(1.0)
    assert ndcg(student, marks) == ndcg(teacher, marks) == 1
    assert student.softmax(-1)[0] > 0.9 < teacher.softmax(-1)[0]


def test_a_teacher_is_not_trained_without_relevance():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="trivial optimum t = s.*relevance"):
        listwise_distillation_loss(x, x, detach_teacher=False)
    assert listwise_distillation_loss(x, x, detach_teacher=True) == 0


@pytest.mark.parametrize("w", [-1.0, math.nan])
def test_a_supervised_weight_below_zero_is_refused(w):
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="supervised_weight is"):
        listwise_distillation_loss(x, x, relevance=x, supervised_weight=w)


def test_relevance_of_another_shape_is_refused(without_shape_checks):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="relevance has shape .2, 2. but scores has"):
        listwise_distillation_loss(x, x, relevance=torch.zeros(2, 2))


def test_a_compiled_loss_trains_the_teacher(without_shape_checks):
    torch._dynamo.reset()
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, generator=g).double()
    data = {"relevance": torch.eye(2, 4).double(), "where": torch.ones(2, 4, dtype=torch.bool)}
    compiled = torch.compile(listwise_distillation_loss, backend="aot_eager", fullgraph=True)
    leaf = teacher.clone().requires_grad_()
    (slope,) = torch.autograd.grad(compiled(student, leaf, **data), leaf)
    _, expected = gradients(student, teacher, **data)
    torch.testing.assert_close(slope, expected / 2)
