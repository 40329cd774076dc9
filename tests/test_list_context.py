"""Attention over the items of a list, and between the documents of a list."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.models.list_context import (
    ListEncoder,
    ListLayout,
    attend_to_lists,
    list_attention,
    to_lists,
)


def masks(sizes, width):
    return torch.arange(width) < torch.tensor(sizes)[:, None]


SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@given(sizes=SIZES, extra=st.integers(0, 2))
def test_rows_come_back_as_they_were(sizes, extra):
    where = masks(sizes, max(sizes) + extra)
    rows = torch.randn(sum(sizes), 3)
    laid = to_lists(rows, where)
    assert laid[where].equal(rows) and not laid[~where].any()


def test_rows_get_their_gradient_back():
    rows = torch.randn(3, 2, requires_grad=True)
    (to_lists(rows, masks([1, 2], 4)) * 2).sum().backward()
    assert rows.grad.eq(2).all()


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="there are 4 rows but where has 3 real items"):
        to_lists(torch.zeros(4, 2), masks([1, 2], 2))


# Over a list


def encoder(**settings):
    return ListEncoder(8, **{"heads": 2, "seed": 3, **settings}).eval()


@given(sizes=SIZES, extra=st.integers(0, 2), seed=st.integers(0, 100))
def test_order_padding_and_neighbours(sizes, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    where = masks(sizes, max(sizes) + extra)
    x = torch.randn(*where.shape, 8, generator=generator)
    model = encoder()
    found = model(x, where)
    for i, size in enumerate(sizes):
        if size:
            order = torch.randperm(size, generator=generator)
            alone = model(x[i : i + 1, order], torch.ones(1, size, dtype=torch.bool))
            torch.testing.assert_close(alone[0], found[i, order], atol=1e-5, rtol=1e-4)


def test_what_is_in_padding_reaches_nobody():
    where = masks([2, 0, 3], 4)
    x = torch.randn(3, 4, 8)
    model, rubbish = encoder(), torch.where(where[..., None], x, 1e6)
    assert model(x, where)[where].allclose(model(rubbish, where)[where], atol=1e-5)


def test_lists_of_padding_have_finite_gradients():
    x = torch.randn(2, 3, 8, requires_grad=True)
    model, where = encoder(), masks([0, 2], 3)
    model(x, where)[where].sum().backward()
    assert x.grad.isfinite().all() and not x.grad[0].any()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_attention_by_loops():
    model, x = encoder(blocks=1), torch.randn(1, 3, 8)
    block = model.blocks[0]
    q, k, v = block.project(block.before_attention(x[0])).chunk(3, -1)
    rows = []
    for i in range(3):
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weights = torch.stack([q[i, part] @ k[j, part] / math.sqrt(4) for j in range(3)])
            heads.append(weights.softmax(0) @ v[:, part])
        rows.append(x[0, i] + block.output(torch.cat(heads)))
    expected = [row + block.inner(block.before_inner(row)) for row in rows]
    found = model(x, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found[0], model.norm(torch.stack(expected)))


def test_a_stack_can_start_as_nothing():
    x, where = torch.randn(2, 4, 8), masks([4, 2], 4)
    model = encoder(identity=True)
    assert model(x, where).equal(x)
    model(x, where).square().sum().backward()
    assert model.blocks[0].output.weight.grad.any()  # and can learn


def test_the_seed_decides_and_dropout_is_for_training():
    state = torch.random.get_rng_state()
    a, b, c = encoder(), encoder(), encoder(seed=4)
    assert torch.random.get_rng_state().equal(state)
    assert a.blocks[1].project.weight.equal(b.blocks[1].project.weight)
    assert not a.blocks[1].project.weight.equal(c.blocks[1].project.weight)
    x, where = torch.randn(1, 4, 8), masks([4], 4)
    model = encoder(dropout=0.5)
    assert model(x, where).equal(model(x, where))
    assert not model.train()(x, where).equal(model(x, where))


@pytest.mark.parametrize(("dim", "heads", "such"), [(8, 3, 4), (6, 4, 2), (5, 2, 1)])
def test_heads_share_the_dimensions(dim, heads, such):
    with pytest.raises(ValueError, match=f"{heads} heads cannot share {dim} .* such as {such}"):
        ListEncoder(dim, heads=heads)


# Between documents


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_set_attention_by_loops(padded, key_heads):
    generator = torch.Generator().manual_seed(0)
    where, owner = masks([2, 1, 3], 3), [0, 0, 1, 2, 2, 2]
    query = torch.randn(6, 4, 5, 2, generator=generator)
    key, value = torch.randn(2, 6, key_heads, 5, 2, generator=generator)
    lengths = torch.tensor([5, 3, 1, 2, 5, 4]) if padded else torch.full((6,), 5)
    real = torch.arange(5) < lengths[:, None]
    mask = real[:, None, None].expand(6, 1, 5, 5) if padded else None
    found, _ = list_attention(
        torch.nn.Module(), query, key, value, mask, list_layout=ListLayout(where)
    )
    for i in range(6):
        others = [j for j in range(6) if owner[j] == owner[i] and j != i]
        for head in range(4):
            source = head * key_heads // 4
            keys = [key[i, source, t] for t in range(lengths[i])] + [
                key[j, source, 0] for j in others
            ]
            values = [value[i, source, t] for t in range(lengths[i])]
            values += [value[j, source, 0] for j in others]
            for t in range(5):
                weights = torch.stack([query[i, head, t] @ k for k in keys]) / math.sqrt(2)
                expected = weights.softmax(0) @ torch.stack(values)
                torch.testing.assert_close(found[i, t, head], expected, atol=1e-5, rtol=1e-4)


def test_without_a_layout_it_is_ordinary_attention():
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    found, _ = list_attention(torch.nn.Module(), query, key, value, None, scaling=0.3)
    plain = (query @ key.transpose(-1, -2) * 0.3).softmax(-1) @ value
    torch.testing.assert_close(found.transpose(1, 2), plain)


def tiny(name):
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "initializer_range": 0.3, "pad_token_id": 0}  # fmt: skip
    special = {"ModernBert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2,
                              "eos_token_id": 3, "local_attention": 4}}  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**sizes, **special.get(name, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{name}Model")(config).eval()


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra", "ModernBert"])
def test_encoders_of_transformers_see_their_lists(name):
    model, ids = (
        tiny(name),
        torch.randint(5, 40, (5, 7), generator=torch.Generator().manual_seed(0)),
    )
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    states = lambda ids, mask, **layout: model(ids, mask, **layout).last_hidden_state  # noqa: E731
    plain = states(ids, mask).detach()
    attend_to_lists(model)
    seen = lambda ids, mask, sizes: states(  # noqa: E731
        ids, mask, list_layout=ListLayout(masks(sizes, 5))
    )[:, 0].detach()
    both = seen(ids, mask, [2, 3])
    torch.testing.assert_close(seen(ids, mask, [1] * 5), plain[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(states(ids, mask)[:, 0], plain[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen(ids[:2], mask[:2], [2]), both[:2], atol=1e-5, rtol=1e-4)
    order = torch.tensor([1, 0, 4, 2, 3])
    permuted = seen(ids[order], mask[order], [2, 3])
    torch.testing.assert_close(permuted, both[order], atol=1e-5, rtol=1e-4)
    assert (both - plain[:, 0]).norm(dim=-1).min() > 0.01


@pytest.mark.parametrize("name", ["DebertaV2", "MPNet"])
def test_models_with_attention_of_their_own_are_refused(name):
    with pytest.raises(ValueError, match="does not let others choose its attention; give a model"):
        attend_to_lists(tiny(name))


def test_decoders_are_refused():
    with pytest.raises(ValueError, match="first token of a decoder has read nothing"):
        attend_to_lists(tiny("Llama"))
