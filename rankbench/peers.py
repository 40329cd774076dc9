"""The same losses in other libraries: how each of them is fed padded lists and called once.

Hand-written, because it teaches nothing: `rankbench.bench` measures what is listed here. A library
that is not installed is reported as absent. Values are compared before anything is timed.
"""

import math
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import torch
from torch import Tensor

LN2 = math.log(2)


@dataclass(frozen=True)
class Peer:
    """One loss of one library, on given lists."""

    step: Callable[[], tuple]  # One forward and backward pass; value and gradient.
    expected: Callable[[Tensor], Tensor]  # Their value from ours, one per list.
    spread: Callable = torch.as_tensor  # Their gradient as [lists, items].
    torch: bool = True  # Whether torch allocates its memory.


def torch_step(call: Callable[[Tensor], Tensor], scores: Tensor) -> Callable[[], tuple]:
    """One forward and backward pass from fresh scores."""

    def step():
        leaf = scores.detach().requires_grad_()
        value = call(leaf)
        value.backward()
        return value.detach(), leaf.grad

    return step


def mean(values: Tensor) -> Tensor:
    return values.mean()


def minus_one(values: Tensor) -> Tensor:
    return values.mean() - 1


def count_pairs(lists, k: int | None = None) -> Tensor:
    """Pairs of each list with different labels and, with k, a member in the top k by score."""
    items = lists.scores.shape[-1]
    order = lists.scores.masked_fill(~lists.where, -torch.inf).argsort(-1, descending=True)
    counts = []
    for y, real, by_score in zip(lists.labels, lists.where, order, strict=True):
        y, real = y[by_score], real[by_score]
        top = torch.arange(items) < (k or items)
        below = (y[:, None] > y[None, :]) & real[:, None] & real[None, :]
        counts.append((below & (top[:, None] | top[None, :])).sum())
    return torch.stack(counts).float()


def over_pairs(lists, k: int | None = None, sums: bool = False, base: float = 1.0):
    """Their mean over the pairs of a batch, from our mean (or sum) over the pairs of a list."""
    pairs = count_pairs(lists, k)
    mass = torch.ones_like(pairs) if sums else pairs
    return lambda values: (values * mass).sum() / pairs.sum() / base


# sentence-transformers --------------------------------------------------------------------------


class Scores:
    """Stands where sentence-transformers expects a cross-encoder: its logits are given."""

    num_labels, device = 1, torch.device("cpu")

    def preprocess(self, pairs, **_):
        return {}

    def __call__(self, tokens):
        return {"scores": self.scores}


def sentence_transformers(name: str, **settings):
    def make(lists):
        losses = import_module("sentence_transformers.cross_encoder.losses")
        scheme = settings.get("weighting_scheme")
        given = {**settings, "weighting_scheme": getattr(losses, scheme)()} if scheme else settings
        model = Scores()
        fn = getattr(losses, name)(model, mini_batch_size=-1, **given)
        lengths = lists.where.sum(-1).tolist()
        texts = [["d"] * n for n in lengths]
        labels = [y[real] for y, real in zip(lists.labels, lists.where, strict=True)]

        def call(scores):
            model.scores = scores
            return fn([["q"] * len(texts), texts], labels)

        def spread(gradient):
            return torch.zeros_like(lists.scores).masked_scatter(lists.where, gradient)

        expected = mean
        if name in ("RankNetLoss", "LambdaLoss"):
            expected = over_pairs(lists, settings.get("k"), sums=name == "LambdaLoss", base=LN2)
        return Peer(torch_step(call, lists.scores[lists.where]), expected, spread)

    return make


# Lightning IR -----------------------------------------------------------------------------------


def lightning_ir(name: str, expected: Callable | None = None):
    """It has no padding: a NaN label is in no pair, a score of -10 000 outranks nothing."""

    def make(lists):
        fn = getattr(import_module("lightning_ir.loss"), name)()
        pad = {"RankNet": math.nan, "KLDivergence": -1e4}.get(name, 0.0)
        labels = lists.labels.masked_fill(~lists.where, pad)
        if name == "RankNet":  # NaN > y is False; y > NaN is False
            scores, back = lists.scores, over_pairs(lists)
        else:
            scores, back = lists.scores.masked_fill(~lists.where, -1e4), expected or mean
        if name == "KLDivergence":
            log_q = labels.log_softmax(-1)
            entropy = -(log_q.exp() * log_q).sum(-1)
            back = lambda values: (values - entropy).mean()  # noqa: E731
        batch = types.SimpleNamespace(targets=labels)
        return Peer(
            torch_step(lambda s: fn.compute_loss(types.SimpleNamespace(scores=s), batch), scores),
            back,
        )

    return make


# allRank ----------------------------------------------------------------------------------------


def import_allrank():
    """Its losses, beside which it imports things for loading data that are not used here."""
    stubs = {
        "torchvision": {"transforms": None}, "torchvision.transforms": {"Compose": None},
        "gcsfs": {}, "pkg_resources": {"Requirement": None, "resource_filename": None},
    }  # fmt: skip
    added = []
    for name, content in stubs.items():
        try:
            import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(content)
            added.append(name)
    try:
        return import_module("allrank.models.losses")
    finally:
        for name in added:
            del sys.modules[name]


def allrank(name: str, expected: Callable | None = None, **settings):
    def make(lists):
        fn = getattr(import_allrank(), name)
        labels = lists.labels.masked_fill(~lists.where, -1.0)
        back = expected or mean
        if name in ("rankNet", "lambdaLoss"):
            back = over_pairs(lists, sums=name == "lambdaLoss")
        return Peer(torch_step(lambda s: fn(s, labels, **settings), lists.scores), back)

    return make


# rax --------------------------------------------------------------------------------------------


def sum_labels(lists) -> Callable[[Tensor], Tensor]:
    """rax multiplies a list by the sum of its labels."""
    total = torch.where(lists.where, lists.labels, 0.0).sum(-1)
    return lambda values: (values * total).mean()


def rax(name: str, expected: Callable = lambda lists: mean, metric: str = "", softmax: bool = False):
    """Compiled by jax; `expected` makes the conversion for given lists."""

    def make(lists):
        one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one_thread)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        jax, library, numpy = (import_module(m) for m in ("jax", "rax", "numpy"))
        fn = library.approx_t12n(getattr(library, metric)) if metric else getattr(library, name)
        data = (lists.scores, lists.labels, lists.where)
        scores, labels, where = (jax.numpy.asarray(x.numpy()) for x in data)

        def call(s):
            return fn(s, jax.nn.softmax(labels, where=where) if softmax else labels, where=where)

        both = jax.jit(jax.value_and_grad(call))

        def step():
            value, gradient = both(scores)
            return value, gradient.block_until_ready()

        spread = lambda g: torch.from_numpy(numpy.array(g))  # noqa: E731
        return Peer(step, expected(lists), spread, torch=False)

    return make


# What is compared -------------------------------------------------------------------------------

# Library → (its distribution on the package index, what it has: case of rankbench.bench → Peer).
PEERS: dict[str, tuple[str, dict[str, Callable]]] = {
    "sentence_transformers": ("sentence-transformers", {
        "ranknet": sentence_transformers("RankNetLoss"),
        "lambda": sentence_transformers("LambdaLoss", weighting_scheme="NDCGLoss2PPScheme"),
        "lambda@10": sentence_transformers(
            "LambdaLoss", weighting_scheme="NDCGLoss2PPScheme", k=10),
        "listmle": sentence_transformers("ListMLELoss", respect_input_order=False),
        "plistmle": sentence_transformers("PListMLELoss", respect_input_order=False),
        "listnet": sentence_transformers("ListNetLoss"),
    }),
    "lightning_ir": ("lightning-ir", {
        "ranknet": lightning_ir("RankNet"),
        "approx_ndcg": lightning_ir("ApproxNDCG"),
        "approx_mrr": lightning_ir("ApproxMRR"),
        "listnet": lightning_ir("KLDivergence"),
    }),
    "allrank": ("allRank", {
        "ranknet": allrank("rankNet"),
        "lambda": allrank("lambdaLoss", weighing_scheme="ndcgLoss2PP_scheme", reduction="mean",
                          reduction_log="natural"),
        "approx_ndcg": allrank("approxNDCGLoss", minus_one),
        "listmle": allrank("listMLE"),
        "listnet": allrank("listNet"),
        "softmax": allrank("binary_listNet"),
        "neural_ndcg": allrank("neuralNDCG", minus_one),
    }),
    "rax": ("rax", {
        "ranknet": rax("pairwise_logistic_loss", over_pairs),
        "hinge": rax("pairwise_hinge_loss", over_pairs),
        "soft_zero_one": rax("pairwise_soft_zero_one_loss", over_pairs),
        "approx_ndcg": rax("", lambda lists: minus_one, metric="ndcg_metric"),
        "approx_mrr": rax("", lambda lists: minus_one, metric="mrr_metric"),
        "listmle": rax("listmle_loss"),
        "listnet": rax("softmax_loss", softmax=True),
        "softmax": rax("softmax_loss", sum_labels),
        "unique_softmax": rax("unique_softmax_loss"),
    }),
}  # fmt: skip

# Longest lists that a library is given: allRank's RankNet makes a Python list of all pairs.
LONGEST = {("allrank", "ranknet"): 1000}


# Losses of a batch: `rankbench.bench_batches` ------------------------------------------------------


def pairs_of_st(**settings):
    """MultipleNegativesRankingLoss on given embeddings."""

    def make(batch):
        losses = import_module("sentence_transformers.sentence_transformer.losses")
        fn = losses.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0, **settings)
        return lambda *columns: fn.compute_loss_from_embeddings(list(columns), None)

    return make


def open_clip(name: str, *settings):
    """A loss of open_clip, whose file is loaded by itself: the package imports torchvision."""

    def make(batch):
        folder = find_spec("open_clip").submodule_search_locations[0]
        spec = spec_from_file_location("open_clip_loss", os.path.join(folder, "loss.py"))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        fn, unit = getattr(module, name)(), torch.nn.functional.normalize
        return lambda q, d: fn(unit(q, dim=-1), unit(d, dim=-1), *settings)

    return make


def metric_learning(name: str, **settings):
    """A loss of pytorch-metric-learning on embeddings and classes."""

    def make(batch):
        fn = getattr(import_module("pytorch_metric_learning.losses"), name)(**settings)
        return lambda embeddings: fn(embeddings, batch.labels)

    return make


EVERY_WAY = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
BOTH_WAYS = ("query_to_doc", "doc_to_query")
BATCH_PEERS: dict[str, tuple[str, dict[str, Callable]]] = {
    "sentence_transformers": ("sentence-transformers", {
        "infonce": pairs_of_st(),
        "infonce_hard": pairs_of_st(),
        "symmetric": pairs_of_st(directions=BOTH_WAYS, partition_mode="per_direction"),
        "bidirectional": pairs_of_st(directions=EVERY_WAY),
    }),
    "open_clip": ("open_clip_torch", {
        "symmetric": open_clip("ClipLoss", 20.0),
        "siglip": open_clip("SigLipLoss", 10.0, torch.tensor(-10.0)),
    }),
    "pytorch_metric_learning": ("pytorch-metric-learning", {
        "supcon": metric_learning("SupConLoss", temperature=0.1),
    }),
}  # fmt: skip


def installed(library: str) -> str | None:
    """The version of a peer, or None."""
    try:
        return version({**BATCH_PEERS, **PEERS}[library][0])
    except PackageNotFoundError:
        return None


def make_peer(library: str, case: str, lists) -> Peer | None:
    """A loss of a library on these lists; None where the library has no such loss."""
    make = PEERS[library][1].get(case)
    return make and make(lists)
