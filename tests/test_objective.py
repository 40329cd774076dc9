"""The objective: every loss by every model gets what its card asks for."""

import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from batches import NEGATIVES_NEEDED
from small_models import LateEncoder, SparseEncoder, WordEncoder, WordReranker
from tiny import make_collection

from rankbench.candidates import in_batch_candidates, similarities
from rankbench.cards import Loss, cards, find
from rankbench.data.examples import Example
from rankbench.data.training_sets import targets_for
from rankbench.late_interaction import late_candidates, maxsim
from rankbench.losses import flops_regularizer, infonce_loss, kl_loss, ranknet_loss
from rankbench.losses.combining import scheduled, select, weighted_sum
from rankbench.losses.nested import matryoshka
from rankbench.models.asymmetric import Asymmetric
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.static_encoder import StaticEncoder
from rankbench.scaling.schedules import Schedule
from rankbench.training.objective import Collator, Objective, card_inside

TINY = make_collection()
TEXTS = [d.full for d in TINY.documents.values()]
REFUSED = ("slots", "log_probs")
TRAINED = [c.name for c in cards() if c.signature not in REFUSED]
# Their minimum, or a flat place, is where a fresh encoder stands.
STILL = ()


def make_encoder(seed=0, dim=16):
    return StaticEncoder.from_texts(TEXTS, size=200, dim=dim, seed=seed)


ENCODER = make_encoder()
GUIDE = make_encoder(1)


def text(name):
    return TINY.documents[name].full


def example(query, documents, labels=None, **more):
    return Example(TINY.queries[query], tuple(map(text, documents)), labels, query,
                   tuple(documents), **more)  # fmt: skip


PLAIN = [example("q0-2", ["d0-2", "d5-1"]), example("q1-2", ["d1-2", "d6-1", "d7-1"]),
         example("q2-2", ["d2-2", "d8-1", "d9-2"]), example("q3-2", ["d3-2"])]  # fmt: skip
SCORED = [replace(e, labels=tuple(3.5 - 1.25 * i for i in range(len(e.documents)))) for e in PLAIN]
GRADED = [replace(e, labels=tuple(float(i == 0) * 2 + (i == 2) for i in range(len(e.documents))))
          for e in PLAIN]  # fmt: skip
CLASSES = [Example(TINY.queries[f"q{t}-{i}"], (), (float(t),)) for t in range(3) for i in (2, 3)]
DATA = {"none": PLAIN, "binary": [replace(e, labels=tuple(float(x > 0) for x in e.labels))
                                  for e in GRADED],
        "relevance": GRADED, "score": SCORED, "rank": SCORED, "class": CLASSES}  # fmt: skip


def encoded(encoder, batch):
    return encoder(**batch["queries"], role="query"), encoder(**batch["documents"])


# Every card -------------------------------------------------------------------------------------


def by_hand(card, batch, examples):
    """The value of a loss, from the vectors of one batch, spelled out."""
    known = card.settings
    if card.signature == "classes":
        return card.fn(ENCODER(**batch["queries"]), batch["labels"][:, 0].long())
    q, d = encoded(ENCODER, batch)
    rows, at = [], 0
    for e in examples:
        rows.append(range(at, at + len(e.documents)))
        at += len(e.documents)
    width = max(map(len, rows))
    lists = torch.stack(
        [torch.cat([d[list(r)], d.new_zeros(width - len(r), d.shape[1])]) for r in rows]
    )
    where, labels = batch["where"], batch.get("labels")
    if labels is None:
        labels = torch.zeros(where.shape)
        labels[:, 0] = 1
    best = [r[int(torch.tensor(e.labels).argmax()) if e.labels else 0]
            for r, e in zip(rows, examples, strict=True)]  # fmt: skip
    more = {}
    if "negatives" in known:
        real = where & (labels <= 0)
        more = {"negatives": lists, "negatives_where": real}
    if card.signature == "scores":
        if card.labels == "binary":
            labels = (labels > 0).float()
        scores = similarities(q[:, None], lists)[:, 0] / 0.05
        return card.fn(torch.where(where, scores, 0.0), labels, where=where)
    if card.signature == "pairs":
        owner = [i for i, r in enumerate(rows) for _ in r]
        flat = labels[where]
        flat = (flat > 0).float() if card.labels == "binary" else flat
        same = torch.tensor(owner)[:, None] == torch.tensor(owner)
        return card.fn(q[owner], d, flat, **({"exclude": same} if "exclude" in known else {}))
    if card.signature == "lists":
        return card.fn(q, lists, labels, where=where)
    if card.signature == "guided":
        gq, gd = encoded(GUIDE, {n: batch[f"guide_{n}"] for n in ("queries", "documents")})
        guides = torch.stack([torch.cat([gd[list(r)], gd.new_zeros(width - len(r), gd.shape[1])])
                              for r in rows])  # fmt: skip
        return card.fn(q, d[best], gq, gd[best], guide_negatives=guides, **more)
    if card.signature == "targets":
        return card.fn(torch.cat([q, d]), torch.cat(encoded(
            GUIDE, {n: batch[f"guide_{n}"] for n in ("queries", "documents")})))  # fmt: skip
    data = {"embeddings": (q, d[best]), "activations": (d,), "activation_pairs": (q, d)}
    return card.fn(*data[card.signature], **more)


@pytest.mark.parametrize("name", TRAINED)
def test_every_loss_gets_what_it_would_be_given_by_hand(name):
    card = find(name)
    fitting = [t for t in targets_for(card) if t != "none"]
    targets = [t for t in fitting if t != "class" or len(fitting) == 1][-1]
    if card.signature in ("embeddings", "guided"):
        targets = "binary"
    examples = DATA[targets]
    objective = Objective(ENCODER, name, guide=GUIDE, candidates="list")
    batch = Collator(ENCODER, GUIDE)(examples)
    ENCODER.zero_grad()
    value = objective(**batch)["loss"]
    torch.testing.assert_close(value, by_hand(card, batch, examples), rtol=1e-5, atol=1e-5)
    value.backward()
    gradient = ENCODER.vectors.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert all(p.grad is None for p in GUIDE.parameters())


@pytest.mark.parametrize("name", [c.name for c in cards() if c.signature in REFUSED])
def test_losses_on_what_texts_do_not_have_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} takes .*; losses that fit: "):
        Objective(ENCODER, name)


def test_a_query_without_a_relevant_document_teaches_nothing():
    graded = [replace(e, labels=(1.0,) + (0.0,) * (len(e.documents) - 1)) for e in PLAIN]
    lost = [*graded[:-1], replace(graded[-1], labels=(0.0,) * len(graded[-1].documents))]
    batch = Collator(ENCODER)(lost)
    rows = ENCODER(**batch["queries"], role="query").detach()
    value = Objective(ENCODER, "infonce")(**batch)["loss"]
    batch["queries"]["input_ids"][-1] = 0  # another query in its place
    assert not torch.allclose(ENCODER(**batch["queries"], role="query")[-1], rows[-1])
    torch.testing.assert_close(Objective(ENCODER, "infonce")(**batch)["loss"], value)


# Candidates -------------------------------------------------------------------------------------


def test_without_labels_the_batch_is_the_list():
    batch = Collator(ENCODER)(PLAIN)
    q, d = encoded(ENCODER, batch)
    labels = torch.zeros(4, 9)
    labels[[0, 1, 2, 3], [0, 2, 5, 8]] = 1
    expected = ranknet_loss(similarities(q, d) / 0.05, labels)
    torch.testing.assert_close(Objective(ENCODER, "ranknet")(**batch)["loss"], expected)


def test_in_batch_lists_of_judged_examples_keep_their_grades():
    batch = Collator(ENCODER)(GRADED)
    q, d = encoded(ENCODER, batch)
    labels = torch.zeros(4, 9)
    labels[[0, 1, 2, 3], [0, 2, 5, 8]] = 2
    labels[[1, 2], [4, 7]] = 1
    objective = Objective(ENCODER, "ranknet", candidates="in_batch")
    torch.testing.assert_close(objective(**batch)["loss"],
                               ranknet_loss(similarities(q, d) / 0.05, labels))  # fmt: skip
    alone = Objective(ENCODER, "ranknet")(**batch)["loss"]
    assert alone == Objective(ENCODER, "ranknet", candidates="list")(**batch)["loss"]


def seen(examples, **settings):
    """The mask that a loss on scores gets, and its labels."""
    found = {}

    def spy(scores, labels, *, where):
        found.update(where=where, labels=labels)
        return scores.sum()

    objective = Objective(ENCODER, "ranknet", candidates="in_batch", **settings)
    part = objective.parts[0]
    objective.losses = {None: replace(part, loss=spy)}
    objective(**Collator(ENCODER)(examples))
    return found


@pytest.mark.parametrize("how", ["id", "equal id", "equal text", "equal query", "own negative"])
def test_a_relevant_document_of_another_query_is_no_negative(how):
    first, second = example("q0-2", ["d0-2"]), example("q0-3", ["d0-3"])
    assert seen([first, second])["where"].all()
    if how == "id":
        second = replace(second, relevant=frozenset({"d0-2"}))
    elif how == "equal id":
        second = replace(second, documents=("another text",), document_ids=("d0-2",))
    elif how == "equal text":
        second = replace(second, documents=first.documents)
    elif how == "equal query":
        second = replace(second, query=first.query)
    else:  # the positive of the first as a hard negative of the second
        second = replace(second, documents=(*second.documents, *first.documents),
                         document_ids=("d0-3", "d0-2"))  # fmt: skip
    where = seen([first, second])["where"]
    expected = {"id": [[1, 1], [0, 1]], "own negative": [[1, 1, 0], [1, 1, 1]]}
    assert where.int().tolist() == expected.get(how, [[1, 0], [0, 1]])


def test_hard_negatives_that_are_relevant_are_dropped():
    one = example("q0-2", ["d0-2", "d0-3", "d5-1", "d0-2"], relevant=frozenset({"d0-3"}))
    batch = Collator(ENCODER)([one, example("q1-2", ["d1-2", "d7-1"])])
    assert batch["where"].tolist() == [[True, True], [True, True]]
    labelled = Collator(ENCODER)([replace(one, labels=(1.0, 1.0, 0.0, 1.0))])
    assert labelled["where"].sum() == 4  # with labels they say so themselves


def test_infonce_leaves_relevant_documents_out_and_takes_negatives():
    examples = [example("q0-2", ["d0-2", "d5-1"]),
                example("q0-3", ["d0-3"], relevant=frozenset({"d0-2"}))]  # fmt: skip
    batch = Collator(ENCODER)(examples)
    q, d = encoded(ENCODER, batch)
    expected = infonce_loss(q, d[[0, 2]], negatives=d[[1, 1], None],
                            negatives_where=torch.tensor([[True], [False]]),
                            exclude=torch.tensor([[False, False], [True, False]]))  # fmt: skip
    torch.testing.assert_close(Objective(ENCODER, "infonce")(**batch)["loss"], expected)


def test_a_better_judged_document_is_the_own_one():
    one = example("q0-2", ["d5-1", "d0-3", "d0-2"], labels=(0.0, 1.0, 2.0))
    batch = Collator(ENCODER)([one, example("q1-2", ["d1-2"], labels=(1.0,))])
    q, d = encoded(ENCODER, batch)
    expected = infonce_loss(q, d[[2, 3]], negatives=d[[0, 0], None],
                            negatives_where=torch.tensor([[True], [False]]))  # fmt: skip
    torch.testing.assert_close(Objective(ENCODER, "infonce")(**batch)["loss"], expected)


def test_a_batch_of_labels_and_no_labels_is_refused():
    with pytest.raises(ValueError, match="has no labels, but others of its batch have"):
        Collator(ENCODER)([PLAIN[0], GRADED[1]])


# Models -----------------------------------------------------------------------------------------


def test_a_sparse_encoder_is_compared_by_dot_products():
    model = SparseEncoder(TEXTS)
    batch = Collator(model)(PLAIN[:2])
    q, d = encoded(model, batch)
    hard = d[torch.tensor([[1, 1], [3, 4]])]
    expected = infonce_loss(q, d[[0, 2]], negatives=hard, similarity="dot",
                            negatives_where=torch.tensor([[True, False], [True, True]]),
                            temperature=1.0)  # fmt: skip
    torch.testing.assert_close(Objective(model, "infonce")(**batch)["loss"], expected)
    scored = Collator(model)(SCORED[:2])
    lists = torch.stack([q[0] @ d[[0, 1, 1]].T, q[1] @ d[[2, 3, 4]].T])
    lists = torch.where(scored["where"], lists, 0.0)
    expected = kl_loss(lists, scored["labels"], where=scored["where"])
    torch.testing.assert_close(Objective(model, "kl")(**scored)["loss"], expected)


def test_late_interaction_is_scored_by_maxsim():
    model = LateEncoder(TEXTS)
    batch = Collator(model)(PLAIN[:2])
    (q, asked), (d, real) = encoded(model, batch)
    scores, _, _ = late_candidates(q, d[[0, 2]], query_where=asked, document_where=real[[0, 2]],
                                   temperature=1.0)  # fmt: skip
    every = maxsim(q, d, query_where=asked, document_where=real, normalize=True)
    torch.testing.assert_close(every[:, [0, 2]], scores)
    labels = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    value = Objective(model, "softmax")(**batch)["loss"]
    torch.testing.assert_close(value, find("softmax").fn(every / 0.05, labels))
    scored = Collator(model)(SCORED[:2])
    lists = torch.stack([every[0, [0, 1, 1]], every[1, [2, 3, 4]]]) / 0.05
    expected = kl_loss(torch.where(scored["where"], lists, 0.0), scored["labels"],
                       where=scored["where"])  # fmt: skip
    torch.testing.assert_close(Objective(model, "kl")(**scored)["loss"], expected)
    cut = Objective(model, "softmax", grad_cache=1)(**batch)["loss"]
    torch.testing.assert_close(cut, value)
    with pytest.raises(ValueError, match="a vector per token has none; losses that fit: "):
        Objective(model, "infonce")


def test_a_reranker_scores_lists():
    model = WordReranker(TEXTS)
    batch = Collator(model)(SCORED)
    scores = model(batch["where"], **batch["pairs"])
    for name in ("kl", "ranknet", "softmax", "margin_mse", "listmle"):
        expected = find(name).fn(scores, batch["labels"], where=batch["where"])
        torch.testing.assert_close(Objective(model, name)(**batch)["loss"], expected)
    half = Objective(model, "kl", temperature=2.0)(**batch)["loss"]
    expected = kl_loss(scores / 2, batch["labels"], where=batch["where"])
    torch.testing.assert_close(half, expected)


def test_what_a_reranker_cannot_do_is_said():
    model = WordReranker(TEXTS)
    for name in ("infonce", "flops", "supcon", "gist"):
        with pytest.raises(ValueError, match="a reranker has none; losses that fit: "):
            Objective(model, name)
    with pytest.raises(ValueError, match="a reranker scores a query's own list"):
        Objective(model, "kl", grad_cache=2)
    with pytest.raises(ValueError, match="has no card"):
        Objective(model, lambda q, d: q.sum())


def test_guided_losses_need_a_guide():
    with pytest.raises(ValueError, match="gist needs a second encoder"):
        Objective(ENCODER, "gist")
    objective = Objective(ENCODER, "gist", guide=GUIDE)
    assert not any(p is g for p in objective.parameters() for g in GUIDE.parameters())
    assert not any(name.startswith("guide") for name in objective.state_dict())


# Wrappers and settings --------------------------------------------------------------------------


def test_parts_of_a_sum_are_treated_one_by_one():
    loss = weighted_sum({
        "a": (2.0, "infonce"), "b": (0.5, "ranknet"), "c": (1.0, select("flops", 1)),
        "d": (1.0, select("flops", 0)), "e": (1.0, "l1"), "f": (0.1, matryoshka("infonce", (4, 8))),
    })  # fmt: skip
    batch = Collator(ENCODER)(PLAIN)
    values = Objective(ENCODER, loss, temperature=0.3)(**batch, step=0)
    q, d = encoded(ENCODER, batch)
    torch.testing.assert_close(values["c"], flops_regularizer(d).detach())
    torch.testing.assert_close(values["d"], flops_regularizer(q).detach())
    for name, part in (("a", "infonce"), ("b", "ranknet"), ("e", "l1")):
        alone = Objective(ENCODER, part, temperature=0.3)(**batch)["loss"]
        torch.testing.assert_close(values[name], alone.detach())
    own = Objective(ENCODER, matryoshka("infonce", (4, 8)), temperature=0.3)(**batch)["loss"]
    torch.testing.assert_close(values["f"], own.detach())
    total = 2 * values["a"] + 0.5 * values["b"] + sum(values[n] for n in "cde") + 0.1 * values["f"]
    torch.testing.assert_close(values["loss"].detach(), total)
    assert values["loss"].requires_grad and not values["a"].requires_grad


def test_settings_of_a_wrapper_stay():
    batch = Collator(ENCODER)(PLAIN)
    named = Objective(ENCODER, "infonce", temperature=0.7)(**batch)["loss"]
    for own in (partial(infonce_loss, temperature=0.7), Loss("infonce", temperature=0.7),
                scheduled("infonce", temperature=Schedule(0.3, start=0.7, warmup=10)),
                partial(infonce_loss, temperature=0.7, similarity="cosine")):  # fmt: skip
        value = Objective(ENCODER, own, temperature=0.05)(**batch, step=0)["loss"]
        torch.testing.assert_close(value, named)
    wrapped = Objective(ENCODER, scheduled("ranknet", sigma=Schedule(0.0, start=2.0, warmup=10)))
    direct = Objective(ENCODER, partial(ranknet_loss, sigma=2.0))
    torch.testing.assert_close(wrapped(**batch, step=0)["loss"], direct(**batch)["loss"])


def test_functions_without_a_card_get_queries_and_their_documents():
    batch = Collator(ENCODER)(PLAIN)
    q, d = encoded(ENCODER, batch)
    value = Objective(ENCODER, lambda q, d: ((q - d) ** 2).mean())(**batch)["loss"]
    torch.testing.assert_close(value, ((q - d[[0, 2, 5, 8]]) ** 2).mean())


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log_t = torch.nn.Parameter(torch.tensor(-1.0))

    def forward(self, queries, documents, *, exclude=None):
        return infonce_loss(queries, documents, temperature=self.log_t.exp(), exclude=exclude)


def test_weights_of_a_loss_are_trained():
    loss = Learned()
    objective = Objective(ENCODER, weighted_sum({"a": (1.0, loss), "b": (1.0, "flops")}))
    assert any(p is loss.log_t for p in objective.parameters())
    objective(**Collator(ENCODER)(PLAIN))["loss"].backward()
    assert loss.log_t.grad.abs() > 0


def test_a_sum_whose_weights_are_still_zero_can_be_trained():
    loss = weighted_sum({"a": (Schedule(1.0, delay=5), "infonce")})
    value = Objective(ENCODER, loss)(**Collator(ENCODER)(PLAIN), step=0)["loss"]
    value.backward()
    assert value == 0


def test_cards_are_found_inside_of_wrappers():
    assert card_inside(matryoshka(scheduled("infonce"), (4,))).name == "infonce"
    assert card_inside(select("flops", 0)).name == "flops"
    assert card_inside(partial(ranknet_loss, sigma=2.0)).name == "ranknet"
    assert card_inside(lambda q, d: 0) is None


@pytest.mark.parametrize("on", ["queries", "documents", "both"])
def test_regularizers_look_where_they_are_told(on):
    batch = Collator(ENCODER)(PLAIN)
    q, d = encoded(ENCODER, batch)
    x = {"queries": q, "documents": d, "both": torch.cat([q, d])}[on]
    value = Objective(ENCODER, "flops", on=on)(**batch)["loss"]
    torch.testing.assert_close(value, flops_regularizer(x))


def test_a_mapping_picks_the_loss_by_source():
    objective = Objective(ENCODER, {"pairs": "infonce", "lists": "kl"})
    pairs = [replace(e, source="pairs") for e in PLAIN]
    lists = [replace(e, source="lists") for e in SCORED]
    for examples, name in ((pairs, "infonce"), (lists, "kl")):
        batch = Collator(ENCODER)(examples)
        torch.testing.assert_close(
            objective(**batch)["loss"], Objective(ENCODER, name)(**batch)["loss"]
        )
    with pytest.raises(ValueError, match="a batch has source 'other'.*losses for pairs, lists"):
        objective(**Collator(ENCODER)([replace(e, source="other") for e in PLAIN]))
    with pytest.raises(ValueError, match="a batch has source ''"):
        objective(**Collator(ENCODER)([pairs[0], replace(PLAIN[1], source="other")]))


@pytest.mark.parametrize("limits", [{"grad_cache": 2}, {"max_tokens": 64}])
@pytest.mark.parametrize("name", ["infonce", "ranknet", "flops", "bixse", "supcon", "gist"])
def test_a_gradient_cache_changes_nothing(name, limits):
    examples = CLASSES if name == "supcon" else PLAIN
    found = []
    for settings in ({}, limits):
        encoder = make_encoder()
        values = Objective(encoder, name, guide=GUIDE, **settings)(
            **Collator(encoder, GUIDE)(examples)
        )
        values["loss"].backward()
        found.append((values["loss"].detach(), encoder.vectors.weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_norms_of_parts():
    loss = weighted_sum({"a": (1.0, "infonce"), "b": (0.5, "flops")})
    values = Objective(ENCODER, loss, norms=True)(**Collator(ENCODER)(PLAIN), step=0)
    assert values["norm of a"] > 0 and values["norm of b"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"candidates": "batch"}, "kind of candidates"), ({"on": "docs"}, "side"),
     ({"grad_cache": 2, "max_tokens": 9}, "were both given")],
)  # fmt: skip
def test_wrong_choices_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(ENCODER, "infonce", **settings)


# The collator -----------------------------------------------------------------------------------


def test_texts_are_tokenized_once(monkeypatch):
    calls = []
    encoder = make_encoder()
    tokenize = encoder.tokenize
    monkeypatch.setattr(
        encoder, "tokenize", lambda t, r="document": calls.extend(t) or tokenize(t, r)
    )
    collator = Collator(encoder)
    first, again = collator(PLAIN), collator(PLAIN)
    assert len(calls) == len(set(calls)) == 13
    assert all(
        torch.equal(first["documents"][n], again["documents"][n]) for n in first["documents"]
    )
    forgetful = Collator(encoder, remembered=0)
    third = forgetful(PLAIN)
    assert torch.equal(third["documents"]["input_ids"], first["documents"]["input_ids"])
    assert not any(forgetful._ids.values())


def test_a_collator_travels_without_weights():
    model = make_encoder(dim=64)
    collator = Collator(model, GUIDE)
    collator(PLAIN)
    sent = pickle.dumps(collator)
    assert len(sent) < len(pickle.dumps(model))
    there, here = pickle.loads(sent)(PLAIN), collator(PLAIN)
    assert there.pop("source") == here.pop("source")
    torch.testing.assert_close(there, here)
    assert model.vectors.weight.device.type == "cpu"


def test_autocast_ends_before_the_loss():
    batch = Collator(ENCODER)(PLAIN)
    plain = Objective(ENCODER, "infonce")(**batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        value = Objective(ENCODER, "infonce")(**batch)["loss"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain, rtol=0.05, atol=0.05)


def test_lists_of_the_batch_are_those_of_in_batch_candidates():
    batch = Collator(ENCODER)([PLAIN[0], PLAIN[3]])
    q, d = encoded(ENCODER, batch)
    scores, labels, where = in_batch_candidates(
        q, d[[0, 2]], negatives=d[[1, 1], None], negatives_where=torch.tensor([[True], [False]])
    )
    value = Objective(ENCODER, "softmax")(**batch)["loss"]
    torch.testing.assert_close(value, find("softmax").fn(scores, labels, where=where))


assert NEGATIVES_NEEDED <= set(TRAINED)


def test_labels_may_be_whole_numbers(without_shape_checks):
    model = WordEncoder(["a b", "c d", "e f", "g h"])
    whole = [Example("a", ("c", "d"), (1, 0)), Example("e", ("g", "h"), (0, 1))]
    values = []
    for kind in (int, float):
        some = [replace(e, labels=tuple(map(kind, e.labels))) for e in whole]
        values.append(Objective(model, "infonce")(**Collator(model)(some))["loss"])
    assert values[0] == values[1]


def test_states_of_layers_are_not_kept_where_asked(transformer_folder):
    examples = [Example("a", ("b",)), Example("c", ("d",))]
    gradients, sizes = [], []
    for checkpointing in (False, True):
        model = BiEncoder(transformer_folder)
        objective = Objective(Asymmetric(model, model), "infonce").train()
        for module in objective.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            objective.activation_checkpointing_enable()
        kept = []
        pack = lambda x, kept=kept: kept.append(x) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = objective(**Collator(objective.model)(examples))["loss"]
        sizes.append(len(kept))
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert sizes[1] < sizes[0] / 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="WordEncoder has no transformer"):
        Objective(WordEncoder(["a"]), "infonce").activation_checkpointing_enable()


def test_an_example_without_documents_beside_others_is_refused():
    with pytest.raises(ValueError, match="has no documents, but others of its batch have"):
        Collator(ENCODER)([PLAIN[0], replace(PLAIN[1], documents=(), document_ids=())])
