"""Gathering in three processes, of which one has no rows, and how it goes wrong elsewhere."""

import pytest
import torch
import torch.distributed as dist
from processes import run_once
from torch.nn.parallel import DistributedDataParallel

from rankbench.candidates import directional_candidates, in_batch_candidates, labelled_candidates
from rankbench.losses import infonce_loss
from rankbench.scaling import across_devices
from rankbench.scaling.across_devices import (
    gather,
    gather_sizes,
    gather_together,
    mean_over_processes,
    rank_and_world,
    sum_over_processes,
)
from rankbench.scaling.tiling import row_weights

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without processes")

WORLD, SIZES = 3, [2, 0, 3]
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
          torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fmt: skip


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def own(x: torch.Tensor, sizes=SIZES) -> torch.Tensor:
    """The rows of this process."""
    return x.split(list(sizes))[dist.get_rank()]


def table(dtype: torch.dtype) -> torch.Tensor:
    return (
        (draw(5, 2, 3) > 0).to(dtype)
        if dtype == torch.bool
        else (9 * draw(5, 2, 3).abs()).to(dtype)
    )


# What every process does ------------------------------------------------------------------------


def everything_of_each_dtype():
    return {d: gather(own(table(d))) for d in DTYPES}


def layouts():
    """Transposed, sliced and expanded tensors, and vectors."""
    wide = draw(4, 5)
    return (
        gather(own(wide.T)),
        gather(own(draw(5, 6)[:, ::2])),
        gather(own(draw(5, 1).expand(5, 3))),
        gather(own(draw(5))),
    )


def several_at_once():
    """Vectors with a gradient, labels and a mask of the same rows."""
    x = own(draw(5, 2)).clone().requires_grad_()
    together = gather_together(x, own(torch.arange(5)), own(torch.arange(5) > 2))
    alone = gather(x)
    slopes = [torch.autograd.grad((y**3).sum(), x)[0] for y in (together[0], alone)]
    return [y.detach() for y in together], slopes


def steps_of_each():
    """What each process makes of the rows of all: other weights in each."""
    return draw(WORLD, 5, 2, seed=1)


def first_and_second_gradient():
    x = own(draw(5, 2)).clone().requires_grad_()
    value = (steps_of_each()[dist.get_rank()] * gather(x) ** 3).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    return first.detach(), second


def gradient_of_a_plain_sum():
    x = own(draw(5, 2)).clone().requires_grad_()
    gather(x).sum().backward()  # its gradient has strides of 0
    return x.grad


def gradient_in_half_precision():
    x = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    step = 256.0 if dist.get_rank() == 0 else 1.0
    (step * gather(x)).sum().backward()
    return x.grad


def memory_of_a_gradient():
    x = own(draw(6, 2), [2, 2, 2]).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gather(x).sum(), x)
    return gradient.untyped_storage().nbytes()


def without_a_gradient():
    x = own(draw(5, 2))
    with torch.no_grad():
        frozen = gather(x.clone().requires_grad_())
    return gather(x).requires_grad, frozen.requires_grad


def nothing_anywhere():
    x = torch.zeros(0, 3, requires_grad=True)
    every = gather(x)
    every.sum().backward()
    return every.shape, x.grad.shape


def sizes():
    return gather_sizes(own(draw(5, 2))), rank_and_world()


def wrong_sizes():
    said = []
    for wrong in ([2, 3], [9, 9, 9]):
        try:
            gather(own(draw(5, 2)), wrong)
        except ValueError as error:
            said.append(str(error))
    return said


def means():
    x = torch.tensor(float(dist.get_rank()), requires_grad=True)
    mean = mean_over_processes(x)
    return mean, mean.requires_grad, x.detach()


def sums():
    """A sum of rows and a count; its first and second gradient with other weights in each."""
    x = own(draw(5, 2)).clone().requires_grad_()
    total = sum_over_processes((x**3).sum(0))
    value = (steps_of_each()[dist.get_rank(), 0] * total).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    count = torch.tensor(len(x))
    return total.detach(), sum_over_processes(count), count, first.detach(), second


def exchanges():
    """How often each builder of candidates talks to the others."""
    counts, plain = {}, dist.all_gather

    def counted(*args, **keywords):
        counts["n"] += 1
        return plain(*args, **keywords)

    q, d, n, ids = own(draw(5, 3)), own(draw(5, 3)), own(draw(5, 2, 3)), own(torch.arange(5))
    mask = own(torch.zeros(5, 5, dtype=torch.bool))
    calls = {
        "known sizes": lambda: gather(q, SIZES),
        "three at once": lambda: gather_together(q, d, ids),
        "pairs": lambda: in_batch_candidates(q, d, gather=True),
        "pairs with a mask": lambda: in_batch_candidates(q, d, exclude=mask, gather=True),
        "pairs with negatives": lambda: in_batch_candidates(q, d, negatives=n, gather=True),
        "four directions": lambda: directional_candidates(q, d, gather=True),
        "four directions with a mask": lambda: directional_candidates(
            q, d, exclude=mask, gather=True
        ),
        "labels": lambda: labelled_candidates(q, ids, gather=True),
    }
    found, dist.all_gather = {}, counted
    try:
        for name, call in calls.items():
            counts["n"] = 0
            call()
            found[name] = counts["n"]
    finally:
        dist.all_gather = plain
    return found


def slopes_of_weights():
    losses, weights = own(draw(5)), own(torch.arange(1.0, 6).double()).requires_grad_()
    share = row_weights(None, losses, weights, gather=True)
    return torch.autograd.grad(share @ losses, weights)[0]


def shares():
    """Weights of rows: the second row of the first process does not count."""
    counted = own(torch.tensor([True, False, True, True, True]))
    weights = own(torch.tensor([4.0, 1.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    return {
        (weighed, reduction): row_weights(
            counted, own(draw(5)), weights if weighed else None, reduction, gather=True
        )
        for weighed in (False, True)
        for reduction in ("mean", "sum")
    }


# How it goes wrong ------------------------------------------------------------------------------

UNEVEN = (3, 0, 2)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(draw(4, 3, seed=7))
        self.temperature = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, queries, documents):
        return queries @ self.weight, documents @ self.weight, 1.0 * self.temperature


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    return draw(5, 4, seed=2), draw(5, 4, seed=3)


def gathered_without_a_gradient(x):
    """The rows of all processes, a gradient for the own rows only."""
    pieces = list(gather(x.detach()).split(list(UNEVEN)))
    pieces[dist.get_rank()] = x
    return torch.cat(pieces)


def local_rows(queries, documents, temperature, how):
    """The sum over the own queries of the loss among all documents."""
    start = sum(UNEVEN[: dist.get_rank()])
    q, d = (torch.nn.functional.normalize(x, dim=-1) for x in (queries, how(documents)))
    positives = torch.arange(len(queries)) + start
    return torch.nn.functional.cross_entropy(q @ d.T / temperature, positives, reduction="sum")


def ways() -> dict:
    """Ways of gathering: how the loss of a process is computed."""
    return {
        "ours": lambda q, d, t: infonce_loss(q, d, temperature=t, gather=True),
        "local rows": lambda q, d, t: WORLD / 5 * local_rows(q, d, t, gather),
        "everything": lambda q, d, t: infonce_loss(gather(q), gather(d), temperature=t),
        "everything, times the number of processes": lambda q, d, t: (
            WORLD * infonce_loss(gather(q), gather(d), temperature=t)
        ),
        "everything, no gradient": lambda q, d, t: infonce_loss(
            gathered_without_a_gradient(q), gathered_without_a_gradient(d), temperature=t
        ),
        "local rows, no gradient": lambda q, d, t: (
            WORLD / 5 * local_rows(q, d, t, gathered_without_a_gradient)
        ),
        "local mean": lambda q, d, t: local_rows(q, d, t, gather) / max(1, len(q)),
    }


def gradients_of_all_ways():
    found = {}
    for name, way in ways().items():
        model = DistributedDataParallel(Model())
        way(*model(*(own(x, UNEVEN) for x in pairs()))).backward()
        found[name] = [p.grad for p in model.parameters()]
    return found


JOBS = {f.__name__: f for f in (
    everything_of_each_dtype, layouts, several_at_once, first_and_second_gradient,
    gradient_of_a_plain_sum, gradient_in_half_precision, memory_of_a_gradient, without_a_gradient,
    nothing_anywhere, sizes, wrong_sizes, means, sums, exchanges, shares, slopes_of_weights,
    gradients_of_all_ways,
)}  # fmt: skip


# What has to come out ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_job(tmp_path_factory):
    """Name of a job → what each process returned."""
    processes = run_once("test_across_devices", tmp_path_factory, WORLD)

    def values(job) -> list:
        errors = [value for word, value in (p[job.__name__] for p in processes) if word == "error"]
        assert not errors, "\n".join(errors)
        return [value for _, value in (p[job.__name__] for p in processes)]

    return values


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_all_processes_come_in_their_order(dtype, of_job):
    for found in of_job(everything_of_each_dtype):
        assert found[dtype].dtype == dtype and torch.equal(found[dtype], table(dtype))


def test_any_layout_in_memory_will_do(of_job):
    expected = (draw(4, 5).T, draw(5, 6)[:, ::2], draw(5, 1).expand(5, 3), draw(5))
    for found in of_job(layouts):
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_several_tensors_come_as_each_would_alone(of_job):
    expected = draw(5, 2), torch.arange(5), torch.arange(5) > 2
    for found, (together, alone) in of_job(several_at_once):
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        assert [x.dtype for x in found] == [x.dtype for x in expected]
        assert torch.equal(together, alone)


def test_the_gradient_of_a_row_is_the_sum_of_what_all_processes_find(of_job):
    x = draw(5, 2).requires_grad_()
    (first,) = torch.autograd.grad((steps_of_each().sum(0) * x**3).sum(), x, create_graph=True)
    found = [value[0] for value in of_job(first_and_second_gradient)]
    assert [len(f) for f in found] == SIZES
    close(torch.cat(found), first.detach())


def test_a_second_derivative_is_right_as_well(of_job):
    x = draw(5, 2).requires_grad_()
    (first,) = torch.autograd.grad((steps_of_each().sum(0) * x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    assert second.any()
    close(torch.cat([value[1] for value in of_job(first_and_second_gradient)]), second)


def test_an_expanded_gradient_is_summed(of_job):
    close(torch.cat(of_job(gradient_of_a_plain_sum)), torch.full((5, 2), 3.0).double())


def test_gradients_of_halves_are_summed_in_single_precision(of_job):
    assert torch.tensor(256.0).bfloat16() + 1 == 256  # what a sum in bfloat16 would lose
    assert [g.item() for g in of_job(gradient_in_half_precision)] == [258.0] * 3


def test_a_gradient_does_not_keep_the_rows_of_others_in_memory(of_job):
    assert of_job(memory_of_a_gradient) == [2 * 2 * 8] * 3


def test_what_asks_for_no_gradient_gets_none(of_job):
    assert of_job(without_a_gradient) == [(False, False)] * 3


def test_processes_may_all_be_empty(of_job):
    assert of_job(nothing_anywhere) == [((0, 3), (0, 3))] * 3


def test_sizes_are_those_of_all(of_job):
    assert of_job(sizes) == [(SIZES, (rank, WORLD)) for rank in range(WORLD)]


def test_sizes_that_cannot_be_are_refused_before_anything_is_sent(of_job):
    for rank, said in enumerate(of_job(wrong_sizes)):
        end = f"expected the rows of 3 processes, {SIZES[rank]} of process {rank}."
        assert said == [f"sizes is [2, 3]; {end}", f"sizes is [9, 9, 9]; {end}"]


def test_a_mean_over_processes_is_no_gradient_and_changes_nothing(of_job):
    for rank, (mean, asks, x) in enumerate(of_job(means)):
        assert mean == (0 + 1 + 2) / 3 and not asks and x == rank


def test_a_sum_over_processes_is_that_of_all_and_changes_nothing(of_job):
    for (total, count, own_count, *_), size in zip(of_job(sums), SIZES, strict=True):
        close(total, (draw(5, 2) ** 3).sum(0))
        assert count == 5 and count.dtype == torch.int64 and own_count == size


def test_the_gradients_of_a_sum_are_what_all_processes_find(of_job):
    x = draw(5, 2).requires_grad_()
    value = (steps_of_each()[:, 0].sum(0) * (x**3).sum(0)).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    close(torch.cat([found[3] for found in of_job(sums)]), first.detach())
    close(torch.cat([found[4] for found in of_job(sums)]), second)


def test_sizes_are_exchanged_once(of_job):
    for found in of_job(exchanges):
        assert found == {
            "known sizes": 1,
            "three at once": 1 + 3,
            "pairs": 1 + 1,  # sizes, documents
            "pairs with a mask": 1 + 1,
            "pairs with negatives": 2 + 4,  # two kinds of rows; vectors, which are real, whose
            "four directions": 1 + 2,
            "four directions with a mask": 1 + 3,
            "labels": 1 + 3,
        }


def test_weights_of_rows_may_be_learned(of_job):
    losses, weights = draw(5), torch.arange(1.0, 6).double().requires_grad_()
    whole = row_weights(None, losses, weights) @ losses
    close(torch.cat(of_job(slopes_of_weights)) / WORLD, torch.autograd.grad(whole, weights)[0])


def test_weights_of_rows_average_to_those_of_one_process(of_job):
    counted = torch.tensor([True, False, True, True, True])
    weights = torch.tensor([4.0, 1.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    for weighed, reduction in [(False, "mean"), (True, "mean"), (False, "sum"), (True, "sum")]:
        whole = row_weights(counted, draw(5), weights if weighed else None, reduction)
        parts = [found[weighed, reduction] for found in of_job(shares)]
        close(torch.cat(parts) / WORLD, whole)


# Ways of gathering ------------------------------------------------------------------------------


def truth() -> list[torch.Tensor]:
    model = Model()
    q, d, temperature = model(*pairs())
    infonce_loss(q, d, temperature=temperature).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("way", ["ours", "local rows", "everything"])
def test_gathering_with_a_gradient_needs_no_factor(way, of_job):
    for found in of_job(gradients_of_all_ways):
        close(found[way], truth())


def test_multiplying_by_the_number_of_processes_is_wrong(of_job):
    expected = [WORLD * g for g in truth()]
    for found in of_job(gradients_of_all_ways):
        close(found["everything, times the number of processes"], expected)


def test_a_factor_repairs_the_encoder_at_the_cost_of_the_temperature(of_job):
    weight, temperature = truth()
    for found in of_job(gradients_of_all_ways):
        theirs = found["everything, no gradient"]
        close([WORLD * theirs[0], WORLD * theirs[1]], [weight, WORLD * temperature])


@pytest.mark.parametrize("way", ["local rows, no gradient", "local mean"])
def test_no_factor_repairs_missing_terms(way, of_job):
    weight, _ = truth()
    for found in of_job(gradients_of_all_ways):
        theirs = found[way][0]
        factor = (theirs * weight).sum() / theirs.square().sum()
        assert (factor * theirs - weight).norm() > 0.01 * weight.norm()


# One process ------------------------------------------------------------------------------------


def test_one_process_gathers_nothing():
    x = draw(4, 2).requires_grad_()
    assert gather(x) is x and sum_over_processes(x) is x
    assert gather_sizes(x) == [4] and rank_and_world() == (0, 1)
    labels = torch.arange(4)
    assert [id(y) for y in gather_together(x, labels)] == [id(x), id(labels)]
    assert across_devices.dist is dist and not dist.is_initialized()


def test_a_mean_over_one_process_is_no_gradient_either():
    x = torch.tensor(2.0, requires_grad=True)
    assert mean_over_processes(x) == 2 and not mean_over_processes(x).requires_grad


def test_gathering_alone_changes_no_loss():
    q, d = draw(4, 3), draw(4, 3, seed=1)
    for reduction in ("mean", "sum", "none"):
        alone = infonce_loss(q, d, reduction=reduction)
        assert torch.equal(infonce_loss(q, d, reduction=reduction, gather=True), alone)
