"""A batch that is encoded in pieces teaches what the whole batch teaches, nothing else."""

import gc
import os
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cached_processes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import (
    bidirectional_infonce_loss,
    flops_regularizer,
    infonce_loss,
    kl_loss,
    lambda_loss,
    ranknet_loss,
    softmax_loss,
)
from rankbench.scaling import GradCache, gradient_caching
from rankbench.scaling.gradient_caching import count_items, cut_items, cut_tokens, take

ROWS, WIDTH, DIM = 11, 6, 4


def make_encoder(seed: int = 0, dropout: float = 0.3, dim: int = DIM) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 16), torch.nn.Dropout(dropout), torch.nn.Tanh(),
        torch.nn.Linear(16, dim),
    ).double()  # fmt: skip


def make_batch(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (ROWS, WIDTH)), generator=generator, dtype=torch.float64)


def total(value):
    return value["loss"] if isinstance(value, dict) else value


def step(modules, run, seed: int = 5):
    """Value, gradient of all parameters, and random state after a step."""
    for module in modules:
        module.zero_grad()
    torch.manual_seed(seed)
    value = total(run())
    value.backward()
    flat = [p.grad.flatten() for m in modules for p in m.parameters() if p.grad is not None]
    return value.detach(), torch.cat(flat), torch.get_rng_state()


def in_pieces(encode, batch, size):
    """Each piece encoded in turn, with one graph for all."""
    return torch.cat([encode(part) for part in batch.split(size)])


# Losses of two sides --------------------------------------------------------------------------


def matryoshka(queries, documents):
    return sum(infonce_loss(queries[:, :d], documents[:, :d]) for d in (2, DIM))


def in_parts(queries, documents):
    rank, sparse = infonce_loss(queries, documents), flops_regularizer(documents)
    return {"rank": rank, "sparse": 0.1 * sparse}


def hard(queries, documents):
    return infonce_loss(queries[:-1], documents[:-1], negatives=documents[1:, None])


LOSSES = {
    "infonce": infonce_loss,
    "sum": partial(infonce_loss, reduction="sum"),
    "tiles": partial(infonce_loss, chunk_size=3),
    "bidirectional": bidirectional_infonce_loss,
    "bidirectional tiles": partial(bidirectional_infonce_loss, chunk_size=4),
    "matryoshka": matryoshka,
    "parts": in_parts,
    "hard negatives": hard,
    "regularizer": lambda queries, documents: flops_regularizer(queries),
}


def value_of(loss, *sides):
    value = loss(*sides)
    return sum(value.values()) if isinstance(value, dict) else value


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_with_dropout_the_step_equals_a_plain_step_on_the_same_pieces(loss, separate):
    encoders = [make_encoder(1), make_encoder(2)] if separate else [make_encoder(1)]
    left, right = encoders[0], encoders[-1]
    q, d = make_batch(seed=1), make_batch(seed=2)
    plain = step(encoders, lambda: value_of(loss, in_pieces(left, q, 4), in_pieces(right, d, 4)))
    given = encoders if separate else left
    cached = step(encoders, lambda: GradCache(loss, given, max_items=4)(q, d))
    torch.testing.assert_close(cached[0], plain[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(cached[1], plain[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_piece_for_all_is_bit_for_bit_the_plain_step(loss):
    encoders = [make_encoder(1), make_encoder(2)]
    q, d = make_batch(seed=1), make_batch(seed=2)
    plain = step(encoders, lambda: value_of(loss, encoders[0](q), encoders[1](d)))
    for limit in (ROWS, 100):
        cache = GradCache(loss, encoders, max_items=limit)
        cached = step(encoders, partial(cache, q, d))
        assert all(torch.equal(a, b) for a, b in zip(cached, plain, strict=True))


@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), limit=st.integers(1, 10),
    dropout=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_any_cut_gives_the_gradient_of_the_pieces(rows, columns, limit, dropout):
    encoder = make_encoder(dropout=dropout)
    q, d = make_batch(rows, WIDTH, seed=1), make_batch(columns, WIDTH, seed=2)
    loss = lambda left, right: (left @ right.T).logsumexp((0, 1))  # noqa: E731
    plain = step(
        [encoder], lambda: loss(in_pieces(encoder, q, limit), in_pieces(encoder, d, limit))
    )
    cached = step([encoder], lambda: GradCache(loss, encoder, max_items=limit)(q, d))
    torch.testing.assert_close(cached[:2], plain[:2], rtol=1e-12, atol=1e-12)
    assert torch.equal(cached[2], plain[2])


# Randomness -----------------------------------------------------------------------------------


def test_random_numbers_go_on_as_after_one_forward():
    encoder, q = make_encoder(), make_batch()
    torch.manual_seed(3)
    in_pieces(encoder, q, 4)
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    value = GradCache(flops_regularizer, encoder, max_items=4)(q)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.rand(7)
    between = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), between)


def test_without_the_replayed_randomness_the_gradient_is_another(monkeypatch):
    encoder, q, d = make_encoder(), make_batch(seed=1), make_batch(seed=2)
    plain = step([encoder], lambda: infonce_loss(*(in_pieces(encoder, x, 4) for x in (q, d))))
    monkeypatch.setattr(gradient_caching, "set_random_state", lambda state: None)
    cached = step([encoder], lambda: GradCache(infonce_loss, encoder, max_items=4)(q, d))
    assert torch.equal(cached[0], plain[0])
    assert (cached[1] - plain[1]).norm() > 0.1 * plain[1].norm()


def test_an_encoder_that_fails_in_the_replay_leaves_the_random_numbers_alone():
    encoder, calls = make_encoder(), []

    def encode(x):
        calls.append(x)
        if len(calls) > 4:
            raise RuntimeError("out of memory")
        return encoder(x)

    value = GradCache(flops_regularizer, encode, max_items=4)(make_batch())
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        value.backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_generators_of_accelerators_are_noted_and_replayed(monkeypatch, device):
    counter = SimpleNamespace(state=0)

    def put(state):
        counter.state = state

    if device == "cuda":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: counter.state)
        monkeypatch.setattr(torch.cuda, "set_rng_state_all", put)
    else:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.mps, "get_rng_state", lambda: counter.state)
        monkeypatch.setattr(torch.mps, "set_rng_state", put)
    encoder, seen = make_encoder(), []

    def encode(x):
        counter.state += 1
        seen.append(counter.state)
        return encoder(x)

    value = GradCache(flops_regularizer, encode, max_items=4)(make_batch())
    counter.state = 40
    value.backward()
    assert seen == [1, 2, 3, 1, 2, 3] and counter.state == 40


# Precision and scale --------------------------------------------------------------------------


def test_autocast_is_replayed_outside_of_its_context():
    encoder, q, d = make_encoder(dropout=0.0).float(), make_batch().float(), make_batch().float()
    seen = []

    def encode(x):
        out = encoder(x)
        seen.append(out.dtype)
        return out

    def run(make):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = make()
        value.backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters()])

    plain = run(lambda: infonce_loss(in_pieces(encode, q, 4), in_pieces(encode, d, 4)))
    cached = run(lambda: GradCache(infonce_loss, encode, max_items=4)(q, d))
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(cached, plain, rtol=0.02, atol=1e-3)  # pieces add up in bfloat16


def test_autocast_around_the_backward_pass_alone_changes_nothing():
    encoder, q = make_encoder(dropout=0.0), make_batch().float()
    encoder.float()
    plain = step([encoder], lambda: flops_regularizer(in_pieces(encoder, q, 4)))
    value = GradCache(flops_regularizer, encoder, max_items=4)(q)
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        value.backward()
    cached = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    torch.testing.assert_close(cached, plain[1], rtol=0.02, atol=1e-3)


def test_autocast_finds_no_weight_that_was_converted_without_a_gradient():
    encoder, q = make_encoder(dropout=0.0).float(), make_batch().float()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            GradCache(flops_regularizer, encoder, max_items=4)(q)
        other = encoder(q).square().sum()
    other.backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_gradient_scaler_scales_once():
    encoder, q, d = make_encoder().float(), make_batch().float(), make_batch().float()
    cache = GradCache(infonce_loss, encoder, max_items=4)
    plain = step([encoder], lambda: cache(q, d))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.0)
    optimizer.zero_grad()
    torch.manual_seed(5)
    scaler.scale(cache(q, d)).backward()
    scaler.unscale_(optimizer)
    found = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    torch.testing.assert_close(found, plain[1])


def test_the_value_may_be_scaled_and_added_to_others_before_backward():
    encoder, q, d = make_encoder(), make_batch(seed=1), make_batch(seed=2)
    cache = GradCache(infonce_loss, encoder, max_items=4)
    plain = step(
        [encoder], lambda: infonce_loss(in_pieces(encoder, q, 4), in_pieces(encoder, d, 4))
    )
    penalty = step([encoder], lambda: encoder[0].weight.square().sum())
    both = step([encoder], lambda: cache(q, d) / 4 + encoder[0].weight.square().sum())
    size = penalty[1].numel()
    expected = plain[1] / 4
    expected[:size] += penalty[1]
    torch.testing.assert_close(both[1], expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_several_steps_add_up():
    encoder, q, d = make_encoder(), make_batch(seed=1), make_batch(seed=2)
    cache = GradCache(infonce_loss, encoder, max_items=4)
    once = step([encoder], lambda: cache(q, d))[1]
    torch.manual_seed(5)
    cache(q, d).backward()
    twice = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_is_that_of_the_value(reduction):
    """Elsewhere the value is a mean and the gradient that of a sum, four times as large here."""
    encoder, q, d = make_encoder(dropout=0.0), make_batch(4, WIDTH), make_batch(4, WIDTH, seed=2)
    cache = GradCache(partial(infonce_loss, reduction=reduction), encoder, max_items=2)
    gradient = step([encoder], lambda: cache(q, d))[1]
    weights = torch.nn.utils.parameters_to_vector(encoder.parameters()).detach()
    way = torch.nn.functional.normalize(gradient, dim=0) * 1e-6
    values = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(weights + sign * way, encoder.parameters())
        with torch.no_grad():
            values.append(cache(q, d))
    slope = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-6, atol=0)


# What may be represented ----------------------------------------------------------------------


def test_lists_of_a_cross_encoder_are_items():
    encoder, generator = make_encoder(dim=1), torch.Generator().manual_seed(0)
    features = make_batch(7, 5, WIDTH)
    labels = torch.randint(0, 3, (7, 5), generator=generator)
    where = torch.rand(7, 5, generator=generator) < 0.7
    score = lambda x: encoder(x).squeeze(-1)  # noqa: E731
    for loss in (ranknet_loss, softmax_loss, lambda_loss):
        plain = step([encoder], lambda: loss(in_pieces(score, features, 3), labels, where=where))  # noqa: B023
        cache = GradCache(loss, score, max_items=3)
        cached = step([encoder], lambda: cache(features, labels=labels, where=where))  # noqa: B023
        torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_lists_of_different_width_come_back_padded():
    """Each piece pads its lists to its own longest one; scores and mask come back together."""
    encoder = make_encoder(dim=1, dropout=0.0)
    lengths = [1, 2, 2, 5, 3]
    lists = [make_batch(n, WIDTH, seed=n) for n in lengths]

    def score(lists):
        rows = [encoder(x).squeeze(-1) for x in lists]
        where = [torch.ones(len(x), dtype=torch.bool) for x in lists]
        join = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
        return {"scores": join(rows), "where": join(where)}

    def loss(out, labels):
        assert out["where"].sum(1).tolist() == lengths and out["scores"].shape == (5, 5)
        return softmax_loss(out["scores"], labels, where=out["where"])

    labels = torch.eye(5)[torch.zeros(5, dtype=torch.long)]
    plain = step([encoder], lambda: loss(score(lists), labels))
    cached = step([encoder], lambda: GradCache(loss, score, max_items=2)(lists, labels=labels))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_small_batches_bound_everything_that_autograd_keeps():
    """Elsewhere they bound the forward pass and nothing else."""
    encoder, features = make_encoder(dim=1), make_batch(64, 5, WIDTH)
    labels = torch.arange(5.0).expand(64, 5)
    kept = SimpleNamespace(now=0, most=0)

    class Held:
        def __init__(self, x):
            self.x, self.size = x.detach(), x.numel()
            kept.now += self.size
            kept.most = max(kept.most, kept.now)

        def __del__(self):
            kept.now -= self.size

    def score(x):
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
            return encoder(x).squeeze(-1)

    def most(run):
        kept.now = kept.most = 0
        step([encoder], run)
        assert kept.now == 0
        return kept.most

    plain = most(lambda: ranknet_loss(in_pieces(score, features, 4), labels))
    cache = GradCache(ranknet_loss, score, max_items=4)
    assert most(lambda: cache(features, labels=labels)) * 16 == plain


def test_token_matrices_and_masks_nest_in_any_way():
    encoder = make_encoder(dropout=0.3)
    q, d = make_batch(ROWS, 3, WIDTH), make_batch(ROWS, 5, WIDTH, seed=2)
    real = torch.arange(5) < torch.arange(ROWS)[:, None] % 5 + 1

    def encode(x, real=None):
        tokens = encoder(x)
        return (tokens.mean(1), [{"tokens": tokens, "real": real, "name": "late"}])

    def maxsim(left, right):
        (_, [q]), (pooled, [d]) = left, right
        assert d["name"] == "late" and q["real"] is None and d["real"].dtype == torch.bool
        table = torch.einsum("atk,buk->abtu", q["tokens"], d["tokens"])
        table = table.masked_fill(~d["real"][None, :, None], -1e4)
        scores = table.amax(-1).sum(-1)
        return softmax_loss(scores, torch.eye(ROWS)) + 0.1 * pooled.square().sum()

    def plain():
        left, right = [], []
        for part in q.split(4):
            left.append(encoder(part))
        for part in d.split(4):
            right.append(encoder(part))
        left, right = torch.cat(left), torch.cat(right)
        rest = [{"tokens": right, "real": real, "name": "late"}]
        return maxsim((None, [{"tokens": left, "real": None}]), (right.mean(1), rest))

    cached = step([encoder], lambda: GradCache(maxsim, encode, max_items=4)(q, (d, real)))
    torch.testing.assert_close(cached, step([encoder], plain), rtol=1e-12, atol=1e-12)


def test_a_learned_scalar_travels_with_the_representation():
    encoder, log_t = make_encoder(), torch.nn.Parameter(torch.tensor(-1.0).double())
    scale = torch.nn.ParameterList([log_t])
    q, d = make_batch(seed=1), make_batch(seed=2)
    encode = lambda x: (encoder(x), log_t.exp())  # noqa: E731
    loss = lambda q, d: infonce_loss(q[0], d[0], temperature=q[1])  # noqa: E731
    left = lambda: (in_pieces(encoder, q, 4), log_t.exp())  # noqa: E731
    plain = step([encoder, scale], lambda: loss(left(), (in_pieces(encoder, d, 4),)))
    cached = step([encoder, scale], lambda: GradCache(loss, encode, max_items=4)(q, d))
    assert torch.equal(cached[0], plain[0])  # the mean of equal numbers is that number
    torch.testing.assert_close(cached[1], plain[1], rtol=1e-12, atol=1e-12)


def test_a_scalar_of_each_piece_counts_by_its_items():
    encoder, q = make_encoder(dropout=0.0), make_batch()
    encode = lambda x: {"size": encoder(x).square().mean()}  # noqa: E731
    plain = step([encoder], lambda: encode(q)["size"])
    cached = step([encoder], lambda: GradCache(lambda out: out["size"], encode, max_items=4)(q))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_outputs_of_transformers_are_nested_outputs():
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    encoder, q = make_encoder(), make_batch()
    encode = lambda x: BaseModelOutputWithPooling(pooler_output=encoder(x))  # noqa: E731
    loss = lambda out: flops_regularizer(out.pooler_output)  # noqa: E731
    plain = step([encoder], lambda: flops_regularizer(in_pieces(encoder, q, 4)))
    cached = step([encoder], lambda: GradCache(loss, encode, max_items=4)(q))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_parts_of_a_loss_come_back_without_a_gradient():
    encoder, q, d = make_encoder(), make_batch(seed=1), make_batch(seed=2)
    value = GradCache(in_parts, encoder, max_items=4)(q, d)
    assert set(value) == {"loss", "rank", "sparse"} and value["loss"].requires_grad
    assert not value["rank"].requires_grad and not value["sparse"].requires_grad
    torch.testing.assert_close(value["loss"], value["rank"] + value["sparse"])


def test_a_frozen_side_is_encoded_once():
    encoder, guide, calls = make_encoder(), make_encoder(9).requires_grad_(False), []

    def teach(x):
        calls.append(len(x))
        return guide(x)

    def loss(student, teacher):
        assert student.requires_grad and not teacher.requires_grad
        return kl_loss(student @ student.T, teacher @ teacher.T)

    q = make_batch()
    plain = step([encoder], lambda: loss(in_pieces(encoder, q, 4), in_pieces(guide, q, 4)))
    cached = step([encoder], lambda: GradCache(loss, [encoder, teach], max_items=4)(q, q))
    assert calls == [4, 4, 3]
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_a_side_that_the_loss_ignores_is_encoded_once():
    encoder, calls = make_encoder(), []

    def encode(x):
        calls.append(len(x))
        return encoder(x)

    GradCache(lambda q, d: flops_regularizer(q), encode, max_items=6)(
        make_batch(), make_batch()
    ).backward()
    assert calls == [6, 5, 6, 5, 6, 5]  # both sides, then the first


def test_one_piece_is_alive_at_a_time():
    """No graph is kept by the first pass, and each is gone before the next in the second."""
    encoder, alive, most = make_encoder(), [0], [0]

    class Count(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.token = Token()
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    class Token:
        def __init__(self):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    encode = lambda x: Count.apply(encoder(x))  # noqa: E731
    gc.disable()
    try:
        value = GradCache(infonce_loss, encode, max_items=2)(make_batch(), make_batch())
        assert alive[0] == 0
        value.backward()
    finally:
        gc.enable()
    assert most[0] == 1 and alive[0] == 0


def test_nothing_is_left_when_the_value_is_gone():
    encoder, q = make_encoder(), make_batch()
    found = []

    def encode(x):
        found.append(weakref.ref(x))
        return encoder(x)

    gc.disable()
    try:
        value = GradCache(flops_regularizer, encode, max_items=4)(q)
        assert any(ref() is not None for ref in found)
        del value
        assert all(ref() is None for ref in found)
    finally:
        gc.enable()


def test_evaluation_needs_no_gradient_and_no_replay():
    encoder, q, d = make_encoder().eval(), make_batch(seed=1), make_batch(seed=2)
    with torch.no_grad():
        value = GradCache(infonce_loss, encoder, max_items=4)(q, d)
        torch.testing.assert_close(value, infonce_loss(encoder(q), encoder(d)))
    assert not value.requires_grad


def test_inputs_that_are_learned_get_their_gradient():
    encoder, prompt = make_encoder(dropout=0.0), torch.nn.Parameter(make_batch())
    flops_regularizer(encoder(prompt)).backward()
    expected, prompt.grad = prompt.grad, None
    GradCache(flops_regularizer, encoder, max_items=4)(prompt).backward()
    torch.testing.assert_close(prompt.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_later_piece_may_need_no_gradient():
    """As where an encoder leaves out its layers at random."""
    encoder, q = make_encoder(dropout=0.0), make_batch(8, WIDTH)

    def encode(x):
        return encoder(x) if torch.equal(x[0], q[0]) else encoder(x).detach()

    plain = step([encoder], lambda: flops_regularizer(in_pieces(encode, q, 4)))
    cached = step([encoder], lambda: GradCache(flops_regularizer, encode, max_items=4)(q))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


def test_gradients_arrive_by_backward_only():
    """`autograd.grad` says so, and does not return zeros."""
    encoder = make_encoder()
    value = GradCache(flops_regularizer, encoder, max_items=4)(make_batch())
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(value, list(encoder.parameters()))


# Tokens ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_pieces_keep_to_the_token_limit_and_lose_nobody(lengths, limit):
    order, pieces = cut_tokens(lengths, limit)
    assert sorted(order) == list(range(len(lengths)))
    members = [order[piece] for piece in pieces]
    assert [i for piece in members for i in piece] == order
    for piece in members:
        assert len(piece) == 1 or max(lengths[i] for i in piece) * len(piece) <= limit
    for piece, following in zip(members, members[1:], strict=False):  # no piece could take more
        assert max(lengths[i] for i in piece) * (len(piece) + 1) > limit or not following


@given(st.integers(1, 30), st.integers(1, 40))
def test_pieces_keep_to_the_item_limit_and_lose_nobody(count, limit):
    pieces = cut_items(count, limit)
    assert [i for p in pieces for i in range(count)[p]] == list(range(count))
    assert all(p.stop - p.start == limit for p in pieces[:-1])
    assert 0 < pieces[-1].stop - pieces[-1].start <= limit


class Texts(torch.nn.Module):
    """Mean of token vectors; notes the shapes that it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(20, DIM).double()
        self.shapes = []

    def forward(self, input_ids, attention_mask, flag=None):
        self.shapes.append(tuple(input_ids.shape))
        mask = attention_mask.unsqueeze(-1)
        return (self.table(input_ids) * mask).sum(-2) / mask.sum(-2).clamp(min=1)


def texts(lengths, width=None, seed=0):
    lengths, generator = torch.tensor(lengths), torch.Generator().manual_seed(seed)
    mask = torch.arange(width or int(lengths.max())) < lengths[..., None]
    ids = torch.randint(1, 20, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask.long()}


def test_a_token_limit_trims_padding_and_restores_the_order():
    encoder = Texts()
    q, d = texts([3, 9, 2, 4, 30, 4]), texts([1, 2, 3, 4, 5, 6], seed=2)
    plain = step([encoder], lambda: infonce_loss(encoder(**q), encoder(**d)))
    encoder.shapes.clear()
    cached = step([encoder], lambda: GradCache(infonce_loss, encoder, max_tokens=16)(q, d))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)
    first = [(1, 30), (1, 9), (4, 4), (2, 6), (4, 4)]
    assert encoder.shapes == first * 2


def test_an_item_limit_leaves_the_input_as_it_is():
    encoder = Texts()
    GradCache(flops_regularizer, encoder, max_items=2)({**texts([3, 9, 2, 4]), "flag": True})
    assert encoder.shapes == [(2, 9), (2, 9)]


def test_an_item_of_several_texts_counts_all_of_them():
    encoder = Texts()
    lists = texts([[3, 1, 2], [5, 0, 0], [1, 1, 2], [2, 2, 2]])
    labels = torch.eye(3)[[0, 0, 0, 0]]
    loss = lambda out: softmax_loss(out[..., 0], labels)  # noqa: E731
    plain = step([encoder], lambda: loss(encoder(**lists)))
    encoder.shapes.clear()
    cached = step([encoder], lambda: GradCache(loss, encoder, max_tokens=15)(lists))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)
    assert encoder.shapes[:3] == [(1, 3, 5), (1, 3, 3), (2, 3, 2)]


def test_lists_of_tokens_and_lengths_of_ones_own():
    encoder, seen = Texts(), []

    def encode(items):
        seen.append(len(items))
        ids = [[len(word) for word in x.split()] if isinstance(x, str) else x for x in items]
        rows = [torch.tensor(i) for i in ids]
        return torch.stack([encoder(row, torch.ones_like(row)) for row in rows])

    tokens = [[1, 2], [3], [4, 5, 6], [7, 8]]
    GradCache(flops_regularizer, encode, max_tokens=4)(tokens)
    assert seen == [1, 2, 1]
    words, lengths = ["a bb", "c", "d e f", "g h"], lambda batch: [len(x.split()) for x in batch]
    GradCache(flops_regularizer, encode, max_tokens=4, lengths=lengths)(words)
    assert seen[3:] == [1, 2, 1]
    with pytest.raises(ValueError, match="max_tokens needs the length of every item.*lengths="):
        GradCache(flops_regularizer, encode, max_tokens=4)(words)
    with pytest.raises(ValueError, match="lengths returned 1 numbers for 4 items"):
        GradCache(flops_regularizer, encode, max_tokens=4, lengths=lambda x: [3])(words)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 30))
def test_any_token_limit_gives_the_plain_gradient(lengths, limit):
    encoder, batch = Texts(), texts(lengths, width=10)
    loss = lambda out: (out * torch.arange(len(lengths))[:, None]).square().sum()  # noqa: E731
    plain = step([encoder], lambda: loss(encoder(**batch)))
    cached = step([encoder], lambda: GradCache(loss, encoder, max_tokens=limit)(batch))
    torch.testing.assert_close(cached, plain, rtol=1e-12, atol=1e-12)


# Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_items": 0}, "max_items is 0; expected a number above 0, such as 32"),
        ({"max_items": -3}, "max_items is -3; expected a number above 0"),
        ({"max_tokens": 0}, "max_tokens is 0; expected a number above 0, such as 8192"),
        ({"max_items": 3, "max_tokens": 9}, "expected max_items or max_tokens"),
        ({}, "no limit was given; expected max_items or max_tokens"),
    ],
)
def test_limits_are_checked(limits, message):
    with pytest.raises(ValueError, match=message):
        GradCache(infonce_loss, make_encoder(), **limits)


def cached(loss=flops_regularizer, encode=None, size=4):
    return GradCache(loss, encode or make_encoder(), max_items=size)


def drop_first(x):
    return make_encoder()(x).mean(0)


MISTAKES = {
    "lengths": (lambda: cached()({"x": make_batch(3, 2), "y": make_batch(4, 2)}),
                r"lengths \{\"input\['x'\]\": 3, \"input\['y'\]\": 4\}; expected one length"),
    "empty": (lambda: cached()(make_batch(0, WIDTH)), "expected one length above 0"),
    "no items": (lambda: cached()({"flag": True}), "none at all"),
    "sides": (lambda: GradCache(infonce_loss, [make_encoder()], max_items=2)(1, 2),
              "1 encode_fns but 2 inputs"),
    "first axis": (lambda: cached(encode=drop_first)(make_batch()),
                   r"returned shape \(4,\) for 4 items|returned shape"),
    "lost axis": (lambda: cached(encode=lambda x: make_encoder()(x).sum(0))(make_batch(3, WIDTH)),
                  r"shape \(4,\) for 3 items; expected \(3, ...\)"),
    "squeeze": (lambda: cached(encode=lambda x: make_encoder(dim=1)(x).squeeze(), size=2)(
                    make_batch(3, WIDTH)), r"shapes \[\(\), \(2,\)\].*squeeze"),
    "object": (lambda: cached(encode=lambda x: object())(make_batch()), "returned a object"),
    "disagree": (lambda: cached(encode=lambda x: (make_encoder()(x), len(x)))(make_batch()),
                 r"returned \(4, 4, 3\) for pieces"),
    "rows": (lambda: cached(loss=lambda x: x.sum(-1))(make_batch()),
             r"shape \(11,\) as 'loss'; expected a scalar.*Is the reduction 'none'"),
    "number": (lambda: cached(loss=lambda x: 1.0)(make_batch()), "returned 1.0 as 'loss'"),
    "part": (lambda: cached(loss=lambda x: {"a": x})(make_batch()), r"shape \(11, 4\) as 'a'"),
    "nothing": (lambda: cached(loss=lambda x: {})(make_batch()), "a dict without parts"),
    "frozen": (lambda: cached(encode=make_encoder().requires_grad_(False))(make_batch()),
               "no representation needs a gradient; is every encoder frozen"),
    "detached": (lambda: cached(encode=lambda x: make_encoder()(x).detach())(make_batch()),
                 "no representation needs a gradient"),
    "upstream": (lambda: cached()(make_encoder(dim=WIDTH)(make_batch())),
                 "input was computed from something that needs a gradient.*inside of the encode"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(mistake, without_shape_checks):
    run, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        run()


def test_parts_of_a_batch_are_cut_alike():
    batch = ({"x": torch.arange(4), "n": 3, "none": None}, ["a", "b", "c", "d"], torch.tensor(7))
    assert count_items(batch) == 4
    head, names, scalar = take(batch, [3, 0])
    assert head["x"].tolist() == [3, 0] and names == ["d", "a"] and head["n"] == 3
    assert scalar == 7 and take(batch, slice(1, 2))[1] == ["b"]


# With trainers --------------------------------------------------------------------------------


def test_a_trainer_takes_the_same_steps_with_and_without(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"query": make_batch(WIDTH, seed=i).float()} for i in range(16)]

    def train(cached: bool):
        encoder = make_encoder(dropout=0.0).float()

        class Cached(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                q = inputs["query"]
                if cached:
                    return GradCache(infonce_loss, model, max_items=3)(q, q.flip(1))
                return infonce_loss(model(q), model(q.flip(1)))

        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=0.1,
            gradient_accumulation_steps=2, remove_unused_columns=False, save_strategy="no",
            report_to="none", disable_tqdm=True, logging_strategy="no", use_cpu=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        Cached(encoder, arguments, train_dataset=rows).train()
        return torch.nn.utils.parameters_to_vector(encoder.parameters())

    before = torch.nn.utils.parameters_to_vector(make_encoder().float().parameters())
    plain, found = train(False), train(True)
    assert (plain - before).norm() > 0.1
    torch.testing.assert_close(found, plain)


# Several processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes found, each on its share of the batch."""
    folder = tmp_path_factory.mktemp("processes")
    root = Path(__file__).resolve().parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, cached_processes.__file__]
    run = partial(subprocess.Popen, env=env, stderr=subprocess.PIPE, text=True)
    both = [run([*command, str(rank), str(folder)]) for rank in (0, 1)]
    try:
        errors = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert all(process.returncode == 0 for process in both), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", cached_processes.STEPS)
def test_two_processes_find_the_gradient_of_one(processes, name):
    whole = cached_processes.whole(name)
    for found in processes:
        torch.testing.assert_close(found[name][0], whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", cached_processes.STEPS)
def test_gradients_are_averaged_once_per_module_and_step(processes, name):
    modules = len(cached_processes.STEPS[name][1])
    for found in processes:
        assert found[name][1] == list(range(modules))
        assert found["twice"][1] == [0, 0]


def test_a_second_step_adds_up_across_processes(processes):
    whole = cached_processes.whole("shared")
    for found in processes:
        torch.testing.assert_close(found["twice"][0], 2 * whole, rtol=1e-10, atol=1e-12)


def test_a_data_parallel_module_is_found_inside_of_a_function(processes):
    whole = cached_processes.whole("shared")
    for found in processes:
        torch.testing.assert_close(found["closure"][0], whole, rtol=1e-10, atol=1e-12)
        assert found["closure"][1] == [0]


def test_a_caller_who_accumulates_gradients_is_obeyed(processes):
    whole = cached_processes.whole("shared")
    for found in processes:
        torch.testing.assert_close(found["accumulated"][0], 2 * whole, rtol=1e-10, atol=1e-12)
        assert found["accumulated"][1] == [[], [0]]


def test_a_cache_inside_of_a_data_parallel_module_is_refused(processes):
    for found in processes:
        assert "wrap the encoder instead" in found["inside"]


@pytest.mark.filterwarnings("ignore:Using backward")  # of a reference cycle
def test_second_derivatives_are_refused_with_the_remedy():
    line, x = torch.nn.Linear(3, 3), torch.ones(4, 3)
    value = GradCache(lambda r: r.logsumexp(0).sum(), line, max_items=2)(x)
    with pytest.raises(RuntimeError, match="second derivatives need a plain step"):
        value.backward(create_graph=True)
