"""Our losses against values and gradients that other libraries returned.

Where a card names the library in `elsewhere`, the conversion is the one that the card states:
"Name" means the same number, "Name = formula" gives theirs as a formula of ours, ln2, n (items),
b (lists) and sum_labels; a remark may follow after "; ".
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import references
import torch
from test_values import LISTS, PAIRS, ROWS

from rankbench.cards import cards, find

INPUTS = ("scores", "q", "p", "n", "e", "pos", "neg")  # what a gradient flows to


@dataclass(frozen=True)
class Case:
    """How to get a peer's number from ours."""

    loss: str
    call: Callable  # (loss function, inputs) -> our value
    library: str | None = None  # Key of `elsewhere` on the card that states the conversion.
    because: str = ""  # What `call` converts, where it converts something.
    grad: bool = True  # Compare gradients.
    atol: float = 1e-6  # More where the peer's float32 gradient is mostly rounding.


def on_list(**settings):
    return lambda fn, x: fn(x["scores"], x["labels"], **settings)


def on_pairs(**settings):
    def call(fn, x):
        hard = {"negatives": x["n"][:, None]} if "n" in x else {}
        return fn(x["q"], x["p"], **hard, **settings)

    return call


def dots(x):
    """[B, 2] dot products of each query with its positive and its negative."""
    return torch.stack([(x["q"] * x["p"]).sum(-1), (x["q"] * x["n"]).sum(-1)], -1)


def two(x):
    """[B, 2] scores of positive and negative, given as columns or as vectors."""
    return torch.stack([x["pos"].flatten(), x["neg"].flatten()], -1)


def teacher(x):
    return torch.stack([x["tp"], x["tn"]], -1)


def first_is_relevant(scores):
    return torch.zeros_like(scores).index_fill(-1, torch.tensor(0), 1.0)


def best_is_relevant(x):
    best = x["labels"].argmax(-1, keepdim=True)
    return torch.zeros_like(x["scores"]).scatter(-1, best, 1.0)


def margins(fn, x):
    """Labels are margins already: a teacher that scores the negative 0."""
    return fn(two(x), torch.stack([x["labels"], torch.zeros_like(x["labels"])], -1))


def in_batch_nll(fn, x):
    """naver/splade: row i holds the scores of all positives; its own hard negative is appended."""
    scores = torch.cat([x["pos"], x["neg"]], -1)
    return fn(scores, torch.eye(*scores.shape))


def both_views(**settings):
    """NT-Xent: every text is an anchor once, so it is the mean of the two one-sided calls."""

    def call(fn, x):
        q, p = (x["q"], x["p"]) if "q" in x else (x["e"][:3], x["e"][3:])
        sides = {"directions": ("query_to_doc", "query_to_query"), "partition": "joint"}
        return (fn(q, p, **sides, **settings) + fn(p, q, **sides, **settings)) / 2

    return call


ST, LIR, ALLRANK, RAX = "sentence_transformers", "lightning_ir", "allrank", "rax"
CLIP = {"directions": ("query_to_doc", "doc_to_query"), "partition": "per_direction"}
KL_ST = "Hinton's T², which sentence-transformers always applies"

CASES = {
    # pointwise
    "st.ce.bce": Case("bce", on_list()),
    "st.ce.bce.posw": Case("bce", on_list(pos_weight=3.0)),
    "allrank.bce": Case(
        "bce",
        lambda fn, x: fn(torch.logit(x["scores"]), x["labels"]),
        library=ALLRANK,
        because="takes probabilities",
    ),
    "rax.pointwise_sigmoid_loss.single": Case(
        "bce",
        lambda fn, x: fn(x["scores"], (x["labels"] >= 1).to(x["scores"])),
        library=RAX,
        because="labels from 1 on are relevant",
    ),
    # pairwise
    "st.ce.ranknet.single": Case("ranknet", on_list(), library=ST),
    "st.ce.ranknet.natural.sigma2.single": Case(
        "ranknet", on_list(sigma=2.0), because="reduction_log='natural' takes off the / ln 2"
    ),
    "allrank.ranknet.single": Case("ranknet", on_list(), library=ALLRANK),
    "lir.ranknet.single": Case("ranknet", on_list(), library=LIR),
    "lir.ranknet.T2.single": Case(
        "ranknet", on_list(sigma=2.0), library=LIR, because="its temperature multiplies"
    ),
    "rax.pairwise_logistic_loss.single": Case("ranknet", on_list(), library=RAX),
    "pytorchltr.PairwiseLogisticLoss": Case(
        "ranknet",
        lambda fn, x: torch.stack(
            [
                fn(x["scores"][0], x["labels"][0]) * 6 / math.log(2),  # six pairs
                fn(x["scores"][1, :3], x["labels"][1, :3]) * 2 / math.log(2),  # two pairs
            ]
        ),
        because="sums over pairs, base 2",
    ),
    "splade.pairwise_nll": Case(
        "ranknet",
        lambda fn, x: fn(two(x), first_is_relevant(two(x))),
        because="a softmax over two items is the logistic function of their margin",
    ),
    # listwise
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
    # distillation
    "st.distillkl": Case("kl", lambda fn, x: fn(dots(x), x["labels"])),
    "st.distillkl.T2": Case(
        "kl",
        lambda fn, x: fn(dots(x), x["labels"], student_temperature=2.0, square_temperature=True),
        because=KL_ST,
    ),
    "st.sparse_distillkl": Case(
        "kl",
        lambda fn, x: fn(dots(x), x["labels"], student_temperature=2.0, square_temperature=True),
        because=KL_ST,
    ),
    "lir.kl.single": Case("kl", on_list(), library=LIR),
    "splade.kl": Case("kl", lambda fn, x: fn(two(x), teacher(x))),
    "st.ce.marginmse.margins": Case("margin_mse", margins),
    "st.marginmse": Case(
        "margin_mse", lambda fn, x: margins(fn, {"pos": dots(x)[:, 0], "neg": dots(x)[:, 1], **x})
    ),
    "lir.constant_marginmse.single": Case("margin_mse", on_list(pairs="ordered", margin=1.0)),
    "lir.supervised_marginmse.single": Case("margin_mse", on_list(pairs="ordered"), library=LIR),
    "splade.marginmse": Case("margin_mse", lambda fn, x: fn(two(x), teacher(x))),
    # contrastive
    "st.mnrl": Case("infonce", on_pairs()),
    "st.mnrl.hardneg": Case("infonce", on_pairs()),
    "st.mnrl.dot.scale1": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
    "st.sparse_mnrl": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
    # bidirectional
    "st.mnrl.symmetric": Case("bidirectional_infonce", on_pairs(**CLIP)),
    "st.mnrl.symmetric.hardneg": Case("bidirectional_infonce", on_pairs(**CLIP)),
    "openclip.clip": Case("bidirectional_infonce", on_pairs(similarity="dot", **CLIP)),
    "openclip.hard.clip.s20": Case("bidirectional_infonce", on_pairs(similarity="dot", **CLIP)),
    "st.mnrl.gte": Case("bidirectional_infonce", on_pairs(), atol=2e-6),
    "st.mnrl.gte.hardneg": Case("bidirectional_infonce", on_pairs()),
    "st.mnrl.dot.scale1.gte.hardneg": Case(
        "bidirectional_infonce", on_pairs(similarity="dot", temperature=1.0)
    ),
    "st.mnrl.qd_dq.joint": Case(
        "bidirectional_infonce", on_pairs(directions=("query_to_doc", "doc_to_query")), atol=2e-6
    ),
    "pr3607.gte.s2.hardneg": Case(
        "bidirectional_infonce",
        on_pairs(temperature=0.5, mask_own_negatives=False),
        because="the draft hides only the document itself from doc_to_doc",
    ),
    "pml.selfsup.ntxent": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.hard.selfsup.ntxent": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.ntxent.T0.5": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.supcon.T0.5": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.supcon": Case("bidirectional_infonce", both_views(temperature=0.1)),
    # regularizers
    "splade.flops": Case("flops", lambda fn, x: fn(x["e"])),
    "lir.flops": Case("flops", lambda fn, x: fn(x["q"]) + fn(x["e"])),
    "st.flops": Case(
        "flops",
        lambda fn, x: fn(x["e"]),
        grad=False,
        because="it squares the signed mean, whose slope at 0 is not that of |x|",
    ),
    "st.flops.threshold2": Case(
        "flops",
        lambda fn, x: fn(x["e"], row_threshold=2),
        because="only the row without zeros is left, so signed and absolute agree",
    ),
}

LATER = {
    "allrank.ranknet.gtdiff.single": "weights pairs by label difference",
    "allrank.ranknet.gtdiffpow.single": "weights pairs by squared label difference",
    "rax.logistic.labeldiff_lambdaweight.single": "weights pairs by label difference",
    "st.mnrl.hardness.in_batch_negatives.hardneg": "hardness weighting",
    "st.mnrl.hardness.hard_negatives.hardneg": "hardness weighting",
    "st.mnrl.hardness.all_negatives.hardneg": "hardness weighting",
    "flag.m3_kd": "a sum over heads of a cross entropy with in-batch columns",
    "lir.contrastive_local": "its label is the argmax of its own scores",
}

# The golden families that the losses of today cover.
FAMILIES = {
    "Pointwise BCE", "RankNet", "Pairwise NLL", "ListNet", "Softmax/ListNet", "InfoNCE (list)",
    "In-batch CE", "In-batch pairwise NLL", "DistillKLDiv", "Sparse DistillKL", "MarginMSE",
    "InfoNCE/MNRL", "Sparse MNRL", "Symmetric InfoNCE", "Joint bidirectional InfoNCE",
    "GTE improved contrastive", "Symmetric InfoNCE (NT-Xent)", "NT-Xent", "SupCon", "FLOPS",
    "Hardness-weighted InfoNCE", "M3 KD loss", "ContrastiveLocal",
}  # fmt: skip


CLAIM = re.compile(r"(?P<name>[\w.]+)(?: = (?P<formula>[^;]+))?(?:; (?P<remark>.+))?")


def known(ours, x):
    """What a formula may use."""
    b, n = x["scores"].shape
    return {"ours": ours, "ln2": math.log(2), "b": b, "n": n, "sum_labels": x["labels"].sum()}


def stated(card, library, ours, x):
    """Their value, by the formula of the card."""
    formula = CLAIM.fullmatch(card.elsewhere[library])["formula"]
    return eval(formula, {"__builtins__": {}}, known(ours, x)) if formula else ours


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_elsewhere_is_a_name_a_formula_and_a_remark(card):
    x = {"scores": torch.zeros(1, 4), "labels": torch.zeros(1, 4)}
    for library, claim in card.elsewhere.items():
        assert CLAIM.fullmatch(claim), f"{library}: {claim!r} is not 'Name = formula; remark'"
        assert torch.is_tensor(stated(card, library, torch.tensor(1.0), x))


def inputs(case):
    return {k: torch.tensor(v) for k, v in case["inputs"].items() if v is not None}


def ours(spec, x):
    card = find(spec.loss)
    value = spec.call(card.fn, x)
    return value if spec.library is None else stated(card, spec.library, value, x)


@pytest.mark.parametrize("name", CASES)
def test_the_value_is_that_of_the_peer(name, golden):
    case = golden[name]
    expected = torch.tensor(case["value"], dtype=torch.float32)
    torch.testing.assert_close(ours(CASES[name], inputs(case)), expected, rtol=1e-5, atol=1e-6)


def loops(name):
    """The reference of a loss, called like the loss."""
    reference = {**LISTS, **PAIRS, **ROWS}[name][0]

    def fn(*data, negatives=None, **settings):
        data = [x.double().tolist() for x in data]
        if name in LISTS:
            batched = data if isinstance(data[0][0], list) else [[x] for x in data]
            real = [[True] * len(row) for row in batched[0]]
            return torch.tensor(references.on_lists(reference, *batched, real, **settings))
        if negatives is not None:
            settings["negatives"] = negatives.double().tolist()
        return torch.tensor(reference(*data, **settings))

    return fn


@pytest.mark.parametrize("name", CASES)
def test_the_reference_has_the_value_of_the_peer(name, golden, monkeypatch):
    spec, case = CASES[name], golden[name]
    if spec.library:
        spec = replace(spec, library=None, call=lambda fn, x: stated(
            find(spec.loss), CASES[name].library, CASES[name].call(fn, x), x
        ))  # fmt: skip
    value = spec.call(loops(spec.loss), inputs(case)).float()
    expected = torch.tensor(case["value"], dtype=torch.float32)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.grad])
def test_the_gradient_is_that_of_the_peer(name, golden):
    case = golden[name]
    x = inputs(case)
    leaves = [k for k in INPUTS if k in case["grad"]]
    for k in leaves:
        x[k].requires_grad_()
    value = ours(CASES[name], x).sum()
    for k, g in zip(leaves, torch.autograd.grad(value, [x[k] for k in leaves]), strict=True):
        torch.testing.assert_close(
            g, torch.tensor(case["grad"][k]), rtol=1e-4, atol=CASES[name].atol
        )


def test_every_gradient_of_a_case_is_compared(golden):
    assert {k for name in CASES for k in golden[name]["grad"]} <= set(INPUTS)


def test_every_golden_case_is_reproduced_or_set_aside(golden):
    wanted = {k for k, case in golden.items() if case["family"] in FAMILIES}
    assert wanted - set(CASES) - set(LATER) == set()


def test_no_case_is_both_reproduced_and_set_aside():
    assert set(CASES) & set(LATER) == set()


def test_every_case_exists(golden):
    assert (set(CASES) | set(LATER)) - set(golden) == set()


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.library])
def test_the_card_names_the_library(name):
    assert CASES[name].library in find(CASES[name].loss).elsewhere


def test_every_conversion_on_a_card_is_executed():
    executed = {(c.loss, c.library) for c in CASES.values() if c.library}
    claimed = {
        (card.name, library)
        for card in cards()
        for library, claim in card.elsewhere.items()
        if CLAIM.fullmatch(claim)["formula"]
    }
    assert claimed - executed == set()


def test_a_formula_is_applied():
    card = find("ranknet")
    x = {"scores": torch.zeros(1, 4), "labels": torch.zeros(1, 4)}
    theirs = stated(card, "sentence_transformers", torch.tensor(1.0), x)
    assert theirs.item() == pytest.approx(1 / math.log(2))
