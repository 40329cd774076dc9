"""Listwise losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import ALLRANK, RAX, ST, Case, first_is_relevant, on_list
from references import log_softmax


def softmax(scores, labels, temperature=1.0, normalize=True):
    """Bruch et al. 2019: cross entropy of the labels, as shares, and the softmax of the scores."""
    mass = math.fsum(labels)
    if not scores or mass <= 0:
        return None
    logs = log_softmax(scores, temperature)
    total = 0.0
    for y, log_p in zip(labels, logs, strict=True):
        total -= y * log_p
    return total / mass if normalize else total


def listnet(scores, labels, temperature=1.0, label_temperature=1.0):
    """Cao et al. 2007: cross entropy of the top-one probabilities of labels and of scores."""
    if not scores:
        return None
    total = 0.0
    for log_q, log_p in zip(
        log_softmax(labels, label_temperature), log_softmax(scores, temperature), strict=True
    ):
        total -= math.exp(log_q) * log_p
    return total


def best_is_relevant(x):
    best = x["labels"].argmax(-1, keepdim=True)
    return torch.zeros_like(x["scores"]).scatter(-1, best, 1.0)


def in_batch_nll(fn, x):
    """naver/splade: row i holds the scores of all positives; its own hard negative is appended."""
    scores = torch.cat([x["pos"], x["neg"]], -1)
    return fn(scores, torch.eye(*scores.shape))


LISTS = {
    "softmax": (
        softmax,
        [{}, {"temperature": 0.3}, {"normalize": False}, {"normalize": False, "temperature": 2.0}],
    ),
    "listnet": (
        listnet,
        [{}, {"temperature": 0.5}, {"label_temperature": 2.0}],
    ),
}

MUTANTS = {
    "softmax": {
        "sign flipped": ("values = masked", "values = -masked"),
        "mask ignored": ("temperature, where)", "temperature, torch.ones_like(where))"),
        "temperature multiplies": ("scores / temperature", "scores * temperature"),
        "shares not taken": (" / torch.where(total > 0, total, 1.0)", ""),
        "always shares": ("if normalize:", "if True:"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("(values, total > 0", "(values, total >= 0"),
    },
    "listnet": {
        "sign flipped": ("values = masked", "values = -masked"),
        "mask of scores ignored": ("scores / temperature, where)",
                                   "scores / temperature, torch.ones_like(where))"),
        "mask of labels ignored": ("(labels / label_temperature, where)",
                                   "(labels / label_temperature, torch.ones_like(where))"),
        "temperature dropped": ("scores / temperature", "scores"),
        "label temperature dropped": ("labels / label_temperature", "labels"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("where.any(-1)", "torch.ones_like(where.any(-1))"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.ce.listnet.single": Case("listnet", on_list(), library=ST),
    "allrank.listnet.single": Case("listnet", on_list(), library=ALLRANK),
    "ptranking.listnet": Case("listnet", on_list(), library="ptranking"),
    "rax.approx_ndcg.softmax_norm_labels.single": Case(
        "listnet", on_list(), because="it is rax.softmax_loss with label_fn=softmax"
    ),
    "allrank.binary_listnet.single": Case("softmax", on_list(), library=ALLRANK),
    "rax.softmax_loss.single": Case("softmax", on_list(), library=RAX),
    "lir.infonce.single": Case(
        "softmax",
        lambda fn, x: fn(x["scores"], best_is_relevant(x)),
        because="the item with the best label is the only positive",
    ),
    "lir.inbatch_ce": Case(
        "softmax",
        lambda fn, x: fn(x["scores"], first_is_relevant(x["scores"])),
        because="the positive is in column 0",
    ),
    "splade.inbatch_nll": Case("softmax", in_batch_nll),
}

# The golden families of these losses.
FAMILIES = {"ListNet", "Softmax/ListNet", "InfoNCE (list)", "In-batch CE", "In-batch pairwise NLL"}
