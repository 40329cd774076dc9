"""What regularizers share: rows, the refusal of a value per row, and means over the batch."""

import pytest
import torch

from rankbench.activations import check_free_terms, check_whole, mean_of_rows, prepare_rows
from rankbench.core import UnknownName


def test_rows_of_other_shapes_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"queries has shape \(3,\); expected \[B, V\]"):
        prepare_rows(torch.ones(3), name="queries")


def test_a_mask_that_does_not_fit_is_named():
    wrong = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"documents_where has shape \(3,\) but documents has"):
        prepare_rows(torch.ones(2, 4), wrong, "documents", "documents_where")
    with pytest.raises(ValueError, match=r"where has dtype torch.float32; expected torch.bool"):
        prepare_rows(torch.ones(2, 4), torch.ones(2))


def test_padding_reaches_neither_rows_nor_gradient():
    x = torch.tensor([[1.0, -2.0], [torch.nan, torch.inf]], requires_grad=True)
    rows, where = prepare_rows(x, torch.tensor([True, False]))
    assert rows.tolist() == [[1, -2], [0, 0]] and where.tolist() == [True, False]
    rows.square().sum().backward()
    assert x.grad.tolist() == [[2, -4], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_halves_become_single(dtype):
    rows, where = prepare_rows(torch.ones(2, 3, dtype=dtype))
    assert rows.dtype == torch.float32 and where.all()


def test_the_mean_is_over_real_rows():
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]])
    rows, where = prepare_rows(x, torch.tensor([True, True, False]))
    assert mean_of_rows(rows, where).tolist() == [2, 4]
    assert mean_of_rows(rows, where, gather=True).tolist() == [2, 4]


def test_the_mean_of_no_rows_is_zero():
    for x in (torch.ones(2, 3), torch.ones(0, 3)):
        rows, where = prepare_rows(x, torch.zeros(len(x), dtype=torch.bool))
        assert mean_of_rows(rows, where).tolist() == [0, 0, 0]


def test_a_value_per_row_is_refused_by_name():
    check_whole("mean", "FLOPS")
    check_whole("sum", "FLOPS")
    with pytest.raises(ValueError, match="FLOPS has one per batch. Use 'mean'"):
        check_whole("none", "FLOPS")


def test_an_unknown_reduction_is_refused(without_shape_checks):
    with pytest.raises(UnknownName, match="unknown reduction 'men'; did you mean mean"):
        check_whole("men", "FLOPS")


def test_an_empty_vocabulary_is_a_matrix_like_any_other():
    rows, where = prepare_rows(torch.ones(3, 0))
    assert rows.shape == (3, 0) and where.tolist() == [True] * 3


@pytest.mark.parametrize("value", [-1, -0.5, float("nan")])
def test_a_negative_number_of_free_terms_is_refused(value):
    with pytest.raises(ValueError, match="expected a number of terms, 0 or more, or None"):
        check_free_terms("target", value)


@pytest.mark.parametrize("value", [None, 0, 2.5])
def test_a_number_of_free_terms_may_be_absent_or_zero(value):
    check_free_terms("target", value)
