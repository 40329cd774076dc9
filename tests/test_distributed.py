"""Two processes find the value and the gradient that one process finds on the whole batch.

Every loss with the setting `gather` is taken, whatever its family. Each process holds some rows;
data parallel training averages gradients over processes, so each has to find twice its share.
"""

import inspect
import itertools
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from families import PAIRS, ROWS, WHOLE, case_id, of_any_width
from processes import run_once
from torch.nn.parallel import DistributedDataParallel

from rankbench.cards import LossCard, cards, find
from rankbench.checks import Example, example

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without processes")

WORLD = 2
GATHERING = [card for card in cards() if "gather" in card.settings]
KEYWORDS = {
    "nothing": (),
    "negatives": ("negatives",),
    "ragged negatives": ("negatives", "negatives_where"),
    "positives": ("positives",),
    "ids to exclude": ("exclude ids",),
    "a mask to exclude": ("exclude",),
    "padding": ("where",),
    "padding of documents": ("documents_where",),
    "weights": ("weights",),
    "everything": (
        "negatives", "negatives_where", "positives", "exclude", "exclude ids", "where",
        "documents_where", "weights",
    ),
}  # fmt: skip

SLOTS = {"negatives", "negatives_where", "guide_negatives"}  # One for each hard negative.


@dataclass(frozen=True)
class Case:
    """One call, and how its rows are spread over processes."""

    card: LossCard
    example: Example
    settings: dict
    sizes: tuple[int, ...]
    learned: dict = field(default_factory=dict)  # Numbers used inside the loss.
    short: bool = False  # The last process has one slot less for hard negatives.

    def part(self, rank: int) -> "Case":
        """What one process holds."""
        start = sum(self.sizes[:rank])
        rows = slice(start, start + self.sizes[rank])
        e, total = self.example, sum(self.sizes)
        keywords = {
            k: v[rows] if torch.is_tensor(v) and v.ndim and len(v) == total else v
            for k, v in e.keywords.items()
        }
        if self.short and rank == len(self.sizes) - 1:
            for name in keywords.keys() & SLOTS:
                keywords[name] = keywords[name][:, :-1]
        data = tuple(x[rows] for x in e.data)
        return replace(self, example=replace(e, data=data, keywords=keywords))

    def run(self, **settings):
        """Value, gradients of embeddings, gradients of what is learned inside the loss."""
        e = self.example.fresh()
        learned = {k: v.clone().requires_grad_() for k, v in self.learned.items()}
        value = e.run(self.card, **{**self.settings, **learned, **settings})
        leaves = [*e.leaves(), *learned.values()]
        found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        zeros = [torch.zeros_like(x) for x in leaves]
        found = [z if g is None else g for g, z in zip(found, zeros, strict=True)]
        count = len(e.leaves())
        return value.detach(), found[:count], found[count:]


def full_example(card: LossCard) -> Example:
    """Five or six rows with every keyword that the loss has."""
    e = example(card, seed=3)
    size, g = len(e.data[0]), torch.Generator().manual_seed(4)
    rare = torch.rand(2, size, size, generator=g) < 0.3
    more = {
        "positives": rare[0],
        "exclude": rare[1],
        "exclude ids": torch.tensor([5, 7, 5, 7, 5, 9])[:size],
        "weights": torch.linspace(0.5, 2, size, dtype=torch.float64),
    }
    more = {k: v for k, v in more.items() if k.split()[0] in card.settings}
    return replace(e, keywords=e.keywords | more)


def with_keywords(e: Example, names: tuple[str, ...]) -> Example:
    chosen = {k: v for k, v in e.keywords.items() if k.removeprefix("guide_") in names}
    ids = chosen.pop("exclude ids", None)
    if ids is not None and "exclude" not in chosen:
        chosen["exclude"] = ids
    return replace(e, keywords=chosen)


def learnable(card: LossCard) -> dict[str, torch.Tensor]:
    """Numbers that may be tensors, such as a temperature."""
    found = {}
    for name, parameter in inspect.signature(card.fn).parameters.items():
        kinds = str(parameter.annotation)
        if "float" in kinds and "Tensor" in kinds and isinstance(parameter.default, (int, float)):
            found[name] = torch.tensor(parameter.default or 0.5, dtype=torch.float64)
    return found


def cases(card: LossCard) -> dict[str, Case]:
    """Name → case: settings, keywords, sizes, and numbers that are learned."""
    e = full_example(card)
    size = len(e.data[0])
    uneven = (size - 2, 2)
    everything = with_keywords(e, KEYWORDS["everything"])
    chunks = [None, 2] if "chunk_size" in card.settings else ["-"]
    tiled = lambda chunk: {} if chunk == "-" else {"chunk_size": chunk}  # noqa: E731
    found = {}

    for settings in {**PAIRS, **ROWS}.get(card.name, (None, [{}]))[1]:
        if not of_any_width(settings):
            continue
        name = f"settings: {case_id('', settings).strip('-') or 'defaults'}"
        found[name] = Case(card, everything, settings, uneven)
    for name, keywords in KEYWORDS.items():
        chosen = with_keywords(e, keywords)
        if len(keywords) == 1 and keywords[0].split()[0] not in chosen.keywords:
            continue
        reductions = ["mean"]
        if name in ("nothing", "everything"):
            whole = card.name in WHOLE or card.signature == "activations"
            reductions += ["sum"] if whole else ["sum", "none"]
        for reduction, chunk in itertools.product(reductions, chunks):
            label = f"keywords: {name}, {reduction}, tiles of {chunk}"
            settings = {"reduction": reduction, **tiled(chunk)}
            found[label] = Case(card, chosen, settings, uneven)
    for sizes in ((1, size - 1), (size - 1, 1), (size, 0), (0, size)):
        for chunk in chunks:
            label = f"sizes: {sizes}, tiles of {chunk}"
            found[label] = Case(card, everything, tiled(chunk), sizes)
    if "negatives_where" in everything.keywords:
        real = everything.keywords["negatives_where"].clone()
        real[uneven[0] :, -1] = False
        fewer = replace(everything, keywords=everything.keywords | {"negatives_where": real})
        found["sizes: one slot less"] = Case(card, fewer, {}, uneven, short=True)
    for name, number in learnable(card).items():
        for chunk in chunks:
            label = f"learned: {name}, tiles of {chunk}"
            found[label] = Case(card, everything, tiled(chunk), uneven, {name: number})
    return found


# What every process does ------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """A linear encoder, and the numbers that the loss learns."""

    def __init__(self, dim: int, learned: dict[str, torch.Tensor]):
        super().__init__()
        g = torch.Generator().manual_seed(5)
        weight = torch.randn(dim, dim, generator=g, dtype=torch.float64)
        self.weight = torch.nn.Parameter(weight)
        self.learned = torch.nn.ParameterDict(learned)

    def forward(self, *leaves):
        return [x @ self.weight for x in leaves], {k: 1.0 * v for k, v in self.learned.items()}


def trained(case: Case, parallel: bool) -> list[torch.Tensor]:
    """Gradients of the encoder, of the temperature and of other numbers."""
    leaves = case.example.leaves()
    encoder = Encoder(leaves[0].shape[-1], learnable(case.card))
    model = DistributedDataParallel(encoder) if parallel else encoder
    encoded, numbers = model(*leaves)
    example = case.example.with_leaves(encoded)
    example.run(case.card, gather=parallel, **case.settings, **numbers).backward()
    return [x.grad for x in encoder.parameters()]


def share(name: str, label: str):
    part = CASES[name][label].part(dist.get_rank())
    return part.run(gather=True)


def trained_share(name: str, sizes: tuple[int, ...]):
    return trained(in_training(name, sizes).part(dist.get_rank()), parallel=True)


def in_training(name: str, sizes: tuple[int, ...]) -> Case:
    return Case(
        find(name), with_keywords(full_example(find(name)), KEYWORDS["everything"]), {}, sizes
    )


def fails_on_the_second():
    if dist.get_rank() == 1:
        raise ArithmeticError("only here")
    dist.all_reduce(torch.zeros(1))


def works():
    total = torch.ones(1)
    dist.all_reduce(total)
    return total.item()


CASES = {card.name: cases(card) for card in GATHERING}
SPLITS = {name: [(3, n - 3), (n, 0)] for name in CASES
          for n in [len(full_example(find(name)).data[0])]}  # fmt: skip
JOBS = {"fails": fails_on_the_second, "works": works}
JOBS |= {f"{n}: {label}": partial(share, n, label) for n in CASES for label in CASES[n]}
JOBS |= {f"{n}: {s}": partial(trained_share, n, s) for n in CASES for s in SPLITS[n]}


# What has to come out ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """What each process returned: job → ("ok" or "error", value)."""
    return run_once("test_distributed", tmp_path_factory, WORLD)


def of_job(processes: list[dict], name: str) -> list:
    errors = [value for word, value in (p[name] for p in processes) if word == "error"]
    assert not errors, "\n".join(errors)
    return [value for _, value in (p[name] for p in processes)]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def compare(parts: list, case: Case) -> None:
    """The outcome of the processes beside one process on the whole batch."""
    value, gradients, slopes = case.run()
    rows = value.ndim > 0  # of this process; no reduction has put in a factor
    if rows:
        close(torch.cat([p[0] for p in parts]), value)
    else:
        close(sum(p[0] for p in parts) / WORLD, value)
    factor = 1 if rows else WORLD  # averaging takes it away
    for k, whole in enumerate(gradients):
        pieces = [p[1][k] / factor for p in parts]
        if case.short and whole.ndim == 3:
            pieces[-1] = torch.nn.functional.pad(pieces[-1], (0, 0, 0, 1))
        close(torch.cat(pieces), whole)
    for k, whole in enumerate(slopes):
        assert whole != 0, "nothing flows to the number"
        close(sum(p[2][k] for p in parts) / WORLD, whole)


@pytest.mark.parametrize("group", ["settings", "keywords", "sizes", "learned"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_finds(name, group, processes):
    problems = []
    for label, case in CASES[name].items():
        if label.startswith(group):
            try:
                compare(of_job(processes, f"{name}: {label}"), case)
            except AssertionError as error:
                problems.append(f"{name}, {label}: {error}")
    assert not problems, "\n\n".join(problems)


@pytest.mark.parametrize("name", CASES)
def test_an_encoder_learns_the_same_in_two_processes(name, processes):
    for sizes in SPLITS[name]:
        expected = trained(in_training(name, sizes), parallel=False)
        assert all(g.any() for g in expected), "nothing to learn"
        for found in of_job(processes, f"{name}: {sizes}"):
            close(found, expected)


def test_every_embedding_loss_of_a_batch_can_gather():
    assert {"infonce", "bidirectional_infonce"} <= CASES.keys()
    assert all(card.signature != "scores" for card in GATHERING)


def test_a_job_that_fails_in_one_process_does_not_stop_the_others(processes):
    assert [p["fails"][0] for p in processes] == ["error", "error"]
    assert "only here" in processes[1]["fails"][1]
    assert of_job(processes, "works") == [2.0, 2.0]
