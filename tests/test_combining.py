"""Sums, schedules, prefixes and layers: any wrapper over any loss, and over each other."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from rankbench.cards import Loss, cards, find
from rankbench.checks import example
from rankbench.core import UnknownName, as_components
from rankbench.losses import flops_regularizer, infonce_loss, kl_loss, ranknet_loss
from rankbench.losses.combining import (
    gradient_norms,
    keywords_of,
    scheduled,
    select,
    weighted_sum,
)
from rankbench.losses.nested import VECTORS, adaptive_layer, matryoshka, vectors_of
from rankbench.scaling.gradient_caching import GradCache
from rankbench.scaling.schedules import Schedule

# One loss of each signature: the first in the order of the pages.
FIRST = {card.signature: card for card in reversed(cards())}
EACH = pytest.mark.parametrize("card", FIRST.values(), ids=FIRST)
NESTED = pytest.mark.parametrize(
    "card", [c for s, c in FIRST.items() if s in VECTORS], ids=[s for s in FIRST if s in VECTORS]
)


def close(a, b, rtol=1e-10, atol=1e-11):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def slopes(loss, e, **more):
    """The total and its gradient with respect to what the loss can move."""
    fresh = e.fresh()
    value = as_components(loss(*fresh.data, **fresh.keywords, **more))["loss"]
    grads = torch.autograd.grad(value, fresh.leaves(), allow_unused=True)
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for g, x in zip(grads, fresh.leaves(), strict=True)
    ]


# Every wrapper over a loss of each signature ----------------------------------------------------


@EACH
def test_a_sum_is_the_weighted_sum_of_values_and_gradients(card):
    e = example(card)
    value, grads = slopes(card.fn, e)
    loss = weighted_sum({"a": (0.5, card.fn), "b": (Schedule(3.0, warmup=10), card.name)})
    total, found = slopes(loss, e, step=5)
    close(total, 2.0 * value)
    close(found, [2.0 * g for g in grads])
    parts = loss(*e.data, **e.keywords, step=5)
    assert set(parts) == {"loss", "a", "b"}
    close(parts["a"], value)


@EACH
def test_a_schedule_on_a_setting_is_that_setting(card):
    name, default = next(
        ((k, v) for k, v in card.settings.items() if type(v) is float), ("reduction", None)
    )
    e = example(card)
    if default is None:
        loss, plain = scheduled(card.name, reduction=lambda step: "sum"), {"reduction": "sum"}
    else:
        loss = scheduled(card.name, **{name: Schedule(1.5 * default, start=default, warmup=10)})
        plain = {name: default + 0.25 * default}
    close(slopes(loss, e, step=5), slopes(partial(card.fn, **plain), e))


@EACH
def test_a_module_can_be_a_part(card):
    e = example(card)
    loss = weighted_sum({"part": (1.0, Loss(card.name))})
    close(slopes(loss, e), slopes(card.fn, e))


@NESTED
def test_prefixes_have_the_sum_of_padded_gradients(card):
    e, positions = example(card), vectors_of(card.name)
    size = e.data[0].shape[-1]
    dims, weights = (2, 4, size), (0.5, 1.0, 2.0)
    total, found = slopes(matryoshka(card.name, dims, weights), e)
    cut_names = ("negatives",)
    expected, grads = 0.0, [torch.zeros_like(x) for x in e.leaves()]
    for d, w in zip(dims, weights, strict=True):
        data = tuple(x[..., :d] if i in positions else x for i, x in enumerate(e.data))
        keywords = {k: v[..., :d] if k in cut_names else v for k, v in e.keywords.items()}
        cut = type(e)(data, keywords, *([e.vectors] if hasattr(e, "vectors") else []))
        value, some = slopes(card.fn, cut)
        expected = expected + w * value
        for whole, part in zip(grads, some, strict=True):
            whole[..., :d] += w * part
    close(total, expected)
    close(found, grads)


@NESTED
def test_the_largest_size_alone_is_the_loss(card):
    e = example(card)
    loss = matryoshka(card.name, (e.data[0].shape[-1],))
    close(slopes(loss, e), slopes(card.fn, e))


def layered(e, count):
    """The same example with a leading axis of layers on every embedding."""
    positions = range(e.vectors) if hasattr(e, "vectors") else (0,)
    scale = torch.linspace(0.5, 1.5, count, dtype=torch.float64)

    def stacked(x):
        return torch.stack([s * x + 0.1 * (s - 1) * x.flip(-1) for s in scale])

    data = tuple(stacked(x) if i in positions else x for i, x in enumerate(e.data))
    named = {k: stacked(v) if k == "negatives" else v for k, v in e.keywords.items()}
    return type(e)(data, named, *([e.vectors] if hasattr(e, "vectors") else []))


@pytest.mark.parametrize("weighting", ["uniform", "linear", "log"])
@NESTED
def test_layers_have_the_sum_of_their_gradients(card, weighting):
    if card.signature == "targets":
        pytest.skip("the targets have one layer")
    e = example(card)
    deep = layered(e, 3)
    loss = adaptive_layer(card.name, layers_per_step=None, last=2.0, prior=0.5, kl_weight=0.0,
                          weighting=weighting)  # fmt: skip
    weights = {"uniform": (1, 1), "linear": (1, 1 / 2), "log": (1, 1 / (1 + 0.6931471805599453))}
    shares = [0.25 * w for w in weights[weighting]] + [2.0]
    total, found = slopes(loss, deep)
    expected, positions = 0.0, vectors_of(card.name)
    for layer, share in enumerate(shares):
        data = tuple(x[layer] if i in positions else x for i, x in enumerate(deep.data))
        named = {k: v[layer] if k == "negatives" else v for k, v in deep.keywords.items()}
        flat = type(e)(data, named, *([e.vectors] if hasattr(e, "vectors") else []))
        value, some = slopes(card.fn, flat)
        expected = expected + share * value
        for whole, part in zip(found, some, strict=True):
            close(whole[layer], share * part)
    close(total, expected)


@pytest.mark.parametrize("signature", [s for s in FIRST if s not in VECTORS])
def test_what_has_no_embeddings_has_no_prefixes(signature):
    for wrap in (partial(matryoshka, dims=(2,)), adaptive_layer):
        with pytest.raises(ValueError, match=f"takes {signature}, which are no embeddings"):
            wrap(FIRST[signature].name)


# Every wrapper over every wrapper ---------------------------------------------------------------

STEP, STEPS = 5, Schedule(0.1, start=0.5, warmup=10)


def plain_sum(loss):
    return lambda q, d, **k: 0.5 * loss(q, d, **k) + 0.3 * loss(q, d, **k)


def plain_scheduled(loss):
    return lambda q, d, **k: loss(q, d, **{"temperature": STEPS(STEP), **k})


def plain_prefixes(loss):
    return lambda q, d, **k: loss(q[..., :2], d[..., :2], **k) + 2.0 * loss(q, d, **k)


def plain_layers(loss):
    def value(q, d, **k):
        lower = [loss(q[i], d[i], **k) for i in range(len(q) - 1)]
        return loss(q[-1], d[-1], **k) + 0.7 * sum(lower) / len(lower)

    return value


WRAPPERS = {
    "sum": (lambda f: weighted_sum({"a": (0.5, f), "b": (Schedule(0.6, warmup=10), f)}), plain_sum),
    "scheduled": (lambda f: scheduled(f, temperature=STEPS), plain_scheduled),
    "prefixes": (lambda f: matryoshka(f, (2, 4), (1.0, 2.0)), plain_prefixes),
    "layers": (
        lambda f: adaptive_layer(f, layers_per_step=None, prior=0.7, kl_weight=0.0),
        plain_layers,
    ),
}


CHAINS = [*itertools.product(WRAPPERS, repeat=2), tuple(WRAPPERS)]
CHAINS.remove(("prefixes", "prefixes"))  # a prefix is shorter than the sizes inside; see below


@pytest.mark.parametrize("chain", CHAINS, ids="-over-".join)
def test_wrappers_stand_in_each_other(chain):
    ours, plain = infonce_loss, infonce_loss
    for name in reversed(chain):
        wrap, same = WRAPPERS[name]
        ours, plain = wrap(ours), same(plain)
    g = torch.Generator().manual_seed(0)
    axes = [2] * chain.count("layers")
    q, d = torch.randn(2, *axes, 3, 4, generator=g, dtype=torch.float64)
    a, b = (x.clone().requires_grad_() for x in (q, d))
    value = as_components(ours(a, b, step=STEP))["loss"]
    expected = plain(q.requires_grad_(), d.requires_grad_())
    close(value, expected)
    close(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (q, d)))


def test_prefixes_of_prefixes_need_sizes_that_fit():
    inner = matryoshka("infonce", (1, 2))
    values = matryoshka(inner, (2, 3))(*pair())
    assert {"loss@1@2", "loss@1@3", "loss@2@2", "loss@2@3"} < set(values)
    with pytest.raises(ValueError, match="size 2 of dims is more than the 1 coordinates"):
        matryoshka(inner, (1, 3))(*pair())


@pytest.mark.parametrize("name", [n for n in WRAPPERS if n != "layers"])
def test_a_wrapper_is_a_loss_of_a_gradient_cache(name):
    loss = partial(WRAPPERS[name][0](infonce_loss), step=STEP)
    torch.manual_seed(0)
    encoder = torch.nn.Linear(3, 4, dtype=torch.float64)
    inputs = torch.randn(2, 5, 3, dtype=torch.float64)
    cached = as_components(GradCache(loss, encoder, max_items=2)(*inputs))["loss"]
    cached.backward()
    direct = as_components(loss(*map(encoder, inputs)))["loss"]
    close(cached, direct)
    close(encoder.weight.grad, torch.autograd.grad(direct, encoder.weight)[0])


def test_a_cache_over_a_sum_over_prefixes_keeps_the_names():
    loss = weighted_sum(
        {"rank": (1.0, matryoshka("infonce", (2, 4))), "flops": (0.1, select("flops", 1))}
    )
    values = GradCache(loss, torch.nn.Linear(3, 4), max_items=2)(*torch.randn(2, 5, 3))
    assert set(values) == {"loss", "rank", "rank/loss@2", "rank/loss@4", "flops"}
    assert values["loss"].requires_grad and not values["rank"].requires_grad


# Sums -------------------------------------------------------------------------------------------


def pair(size=4, dim=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, size, dim, generator=g, dtype=torch.float64)


def test_a_part_of_weight_zero_is_not_computed():
    def never(q, d):
        raise AssertionError("computed")

    loss = weighted_sum({"infonce": (1, "infonce"), "later": (Schedule(delay=5), never),
                         "off": (0, never)})  # fmt: skip
    assert set(loss(*pair(), step=4)) == {"loss", "infonce"}
    with pytest.raises(AssertionError, match="computed"):
        loss(*pair(), step=5)


def test_a_sum_without_a_part_is_zero_and_has_a_gradient():
    q, d = pair().requires_grad_()
    value = weighted_sum({"infonce": (Schedule(delay=5), "infonce")})(q, d, step=0)
    assert set(value) == {"loss"} and value["loss"] == 0
    assert not torch.autograd.grad(value["loss"], q)[0].any()


def test_a_sum_without_a_part_survives_padding_that_is_nan():
    q, d = pair()
    d[0, 0] = torch.nan
    loss = weighted_sum({"flops": (Schedule(delay=5), select("flops", 1))})
    assert loss(q.requires_grad_(), d, step=0)["loss"] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_part_that_is_not_finite_is_named(bad):
    loss = weighted_sum({"good": (1.0, "infonce"), "bad": (0.1, lambda q, d: q.sum() * 0 + bad)})
    with pytest.raises(FloatingPointError, match=rf"^'bad' is {bad} at step 3; good = \d"):
        loss(*pair(), step=3)


def test_a_weight_that_is_not_finite_is_named():
    loss = weighted_sum({"infonce": (torch.tensor(torch.nan), "infonce")})
    with pytest.raises(FloatingPointError, match="a weight is not finite"):
        loss(*pair())


def test_the_look_at_the_parts_can_be_left_out():
    loss = weighted_sum({"bad": (1.0, lambda q, d: q.sum() * torch.nan)}, check_finite=False)
    assert loss(*pair())["loss"].isnan()


def test_an_opposite_pair_of_infinities_is_named():
    loss = weighted_sum({"up": (1.0, lambda q, d: q.sum() + torch.inf),
                         "down": (1.0, lambda q, d: q.sum() - torch.inf)})  # fmt: skip
    with pytest.raises(FloatingPointError, match="'up' is inf, 'down' is -inf"):
        loss(*pair())


def test_keywords_go_where_they_are_understood():
    q, d = pair()
    loss = weighted_sum({"infonce": (1.0, "infonce"), "flops": (1.0, select("flops", 1)),
                         "any": (1.0, lambda q, d, **k: q.sum() * len(k))})  # fmt: skip
    values = loss(q, d, temperature=0.3, row_threshold=2)
    close(values["infonce"], infonce_loss(q, d, temperature=0.3))
    close(values["flops"], flops_regularizer(d, row_threshold=2))
    close(values["any"], 2 * q.sum())  # the step is for those that name it


def test_a_keyword_that_nobody_understands_is_refused():
    loss = weighted_sum({"infonce": (1.0, "infonce"), "flops": (1.0, select("flops", 1))})
    with pytest.raises(UnknownName, match="unknown keyword of this sum 'temprature'; did you mean"):
        loss(*pair(), temprature=0.3)


def test_weights_of_lists_reach_every_part():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 5, generator=g), torch.randint(0, 3, (2, 5), generator=g)
    weights = torch.tensor([1.0, 3.0])
    loss = weighted_sum({"ranknet": (1.0, ranknet_loss), "kl": (0.5, kl_loss)})
    expected = ranknet_loss(scores, labels, weights=weights) + 0.5 * kl_loss(
        scores, labels, weights=weights
    )
    close(loss(scores, labels, weights=weights)["loss"], expected, rtol=1e-6)


def test_a_learned_weight_gets_the_value_as_its_gradient():
    q, d = pair()
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    weighted_sum({"infonce": (weight, "infonce")})(q, d)["loss"].backward()
    close(weight.grad, infonce_loss(q, d))


def test_sums_in_sums_keep_all_names():
    inner = weighted_sum({"x": (2.0, "infonce"), "y": (1.0, select("flops", 0))})
    values = weighted_sum({"a": (0.5, inner), "b": (1.0, "infonce")})(*pair())
    assert set(values) == {"loss", "a", "a/x", "a/y", "b"}
    close(values["a"], 2 * values["a/x"] + values["a/y"])
    close(values["loss"], 0.5 * values["a"] + values["b"])


def test_a_sum_compiles(without_shape_checks):
    loss = weighted_sum({"infonce": (1.0, "infonce"), "flops": (0.1, select("flops", 1))})
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, d: loss(q, d)["loss"], backend="aot_eager")
    close(compiled(*pair()), loss(*pair())["loss"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "got no parts"),
        ({"loss": (1.0, "infonce")}, "part 'loss' is .*; expected"),
        ({"a": "infonce"}, r"part 'a' is 'infonce'; expected \(weight, loss\)"),
        ({"a": ("1", "infonce")}, "the weight of 'a' is '1'; expected a number"),
        ({"a": (1.0, "infonc")}, "unknown loss 'infonc'; did you mean infonce"),
        ({"a": (infonce_loss, 1.0)}, "1.0 is no loss; expected a name"),
        ([(1.0, "infonce")], "got no parts but"),
    ],
)
def test_a_wrong_part_is_named(parts, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        weighted_sum(parts)


def test_a_scheduled_weight_asks_for_the_step():
    with pytest.raises(
        ValueError, match="the weight of 'flops' follows a schedule; call with step"
    ):
        weighted_sum({"flops": (Schedule(), "flops")})(pair()[0])


def test_a_scheduled_setting_must_exist():
    with pytest.raises(UnknownName, match="unknown setting 'temprature'; did you mean temperature"):
        scheduled("infonce", temprature=Schedule())


def test_a_setting_of_the_call_beats_the_schedule():
    loss = scheduled("infonce", temperature=Schedule(0.1))
    close(loss(*pair(), temperature=0.7), infonce_loss(*pair(), temperature=0.7))


@pytest.mark.parametrize("positions", [(), (-1,), ("1",)])
def test_select_takes_positions(positions, without_shape_checks):
    with pytest.raises(ValueError, match="expected numbers from 0 on"):
        select("flops", *positions)


def test_select_beyond_the_data_is_an_error():
    with pytest.raises(ValueError, match="takes position 2 but there are 2 tensors"):
        select("flops", 2)(*pair())


def test_the_norm_of_a_gradient_is_its_length_times_its_weight():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    values = {"a": (3 * x).sum(), "b": x[1] ** 2, "none": torch.tensor(1.0)}
    norms = gradient_norms(values, x, {"b": 0.5})
    assert norms == pytest.approx({"a": 3 * 2**0.5, "b": 2.0, "none": 0.0})


def test_the_norm_of_several_inputs_is_that_of_all():
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert gradient_norms({"a": x.sum() + 2 * y.sum()}, [x, y]) == {"a": 14**0.5}


def test_a_loss_with_open_keywords_understands_all():
    assert keywords_of(lambda x, **more: x) is None
    assert keywords_of(partial(infonce_loss, temperature=1.0)) == keywords_of("infonce")


def test_the_step_reaches_a_schedule_beside_open_keywords():
    def open_ended(q, d, **more):
        assert "step" not in more
        return (q - d).square().mean()

    q, d = pair()
    cooling = scheduled("infonce", temperature=Schedule(0.05, start=0.5, warmup=10))
    inner = weighted_sum({"open": (Schedule(warmup=10), open_ended), "cooling": (1.0, cooling)})
    expected = inner(q, d, step=3)["loss"]
    assert weighted_sum({"inner": (1.0, inner)})(q, d, step=3)["loss"] == expected
    assert matryoshka(inner, (q.shape[-1],), vectors=(0, 1))(q, d, step=3)["loss"] == expected


def test_the_step_reaches_a_schedule_inside_of_a_partial():
    q, d = pair()
    cooling = scheduled("infonce", temperature=Schedule(0.05, start=0.5, warmup=10))
    frozen = partial(cooling, reduction="mean")
    expected = cooling(q, d, step=3)
    assert weighted_sum({"a": (1.0, frozen)})(q, d, step=3)["loss"] == expected
    assert matryoshka(frozen, (q.shape[-1],))(q, d, step=3)["loss"] == expected


def test_modules_and_defaults_of_any_kind_are_understood():
    assert keywords_of(torch.nn.MSELoss()) == frozenset()
    assert keywords_of(torch.dist) == frozenset()
    ones = np.ones(3)
    assert keywords_of(lambda x, w=ones: x) == {"w"}
    assert keywords_of(lambda x, /, w=1.0: x) == {"w"}


def test_a_sum_that_waits_takes_data_that_are_no_floats():
    waiting = weighted_sum({"a": (0.0, lambda names, ids: ids.float().mean())})
    assert waiting(["a"], torch.arange(3))["loss"] == 0


def test_a_negative_weight_has_a_gradient_of_positive_length():
    x = torch.ones(4, requires_grad=True)
    assert gradient_norms({"a": x.sum()}, x, {"a": -3.0}) == {"a": 6.0}


def test_layers_need_their_embeddings_by_position():
    with pytest.raises(ValueError, match="there are 1 tensors; position 1 is none of them"):
        adaptive_layer("infonce", layers_per_step=None)(torch.ones(3, 2, 4))


def test_the_divergence_of_layers_is_in_single_precision(without_shape_checks):
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).half()
    loss = adaptive_layer("infonce", layers_per_step=None)
    found, wide = loss(*x)["layer_kl"], loss(*x.float())["layer_kl"]
    assert found.dtype == torch.float32 and torch.isclose(found, wide)


# Prefixes and layers ----------------------------------------------------------------------------


def test_a_wrapper_takes_losses_that_return_several_parts():
    def parts(q, d):
        return {"near": (q * d).sum(), "long": q.square().sum()}  # without a total

    q, d = pair()
    values = matryoshka(parts, (1, 3), vectors=(0, 1))(q, d)
    close(values["near"], (q * d).sum() + (q * d)[:, :1].sum())
    close(values["loss"], values["near"] + values["long"])
    close(values["long@1"], q[:, :1].square().sum())
    deep = adaptive_layer(parts, layers_per_step=None, kl_weight=0.0, vectors=(0, 1))
    values = deep(torch.stack([q, d]), torch.stack([d, d]))
    close(values["near"], (d * d).sum() + (q * d).sum())


def test_drawn_sizes_keep_the_largest_and_the_expectation():
    q, d = pair(dim=8)
    every = matryoshka("infonce", (1, 2, 4, 8))
    some = matryoshka("infonce", (1, 2, 4, 8), dims_per_step=2)
    values = [some(q, d, step=t) for t in range(600)]
    assert all(len([k for k in v if "@" in k]) == 3 and "loss@8" in v for v in values)
    totals = torch.stack([v["loss"] for v in values])
    # five standard errors: a false alarm in two million runs
    assert abs(totals.mean() - every(q, d)["loss"]) < 5 * totals.std() / 600**0.5
    close(some(q, d, step=7), some(q, d, step=7))


def test_another_seed_draws_other_sizes():
    q, d = pair(dim=8)
    kept = [
        [tuple(matryoshka("infonce", (1, 2, 4, 8), dims_per_step=1, seed=s)(q, d, step=t))
         for t in range(20)]
        for s in (0, 1)
    ]  # fmt: skip
    assert kept[0] != kept[1]


def test_a_draw_asks_for_the_step():
    with pytest.raises(ValueError, match="depends on the step; call with step"):
        matryoshka("infonce", (1, 2, 3), dims_per_step=1)(*pair(dim=3))
    with pytest.raises(ValueError, match="depends on the step; call with step"):
        adaptive_layer("infonce")(*torch.rand(2, 3, 4, 5))


def test_unit_prefixes_are_those_of_cosines():
    q, d = (torch.nn.functional.normalize(x, dim=-1) for x in pair())
    dot = partial(infonce_loss, similarity="dot")
    normal = matryoshka(dot, (2, 3), normalize=True)(q, d)["loss"]
    close(normal, matryoshka("infonce", (2, 3))(q, d)["loss"])
    assert not torch.isclose(normal, matryoshka(dot, (2, 3))(q, d)["loss"])


@pytest.mark.parametrize(
    ("dims", "more", "message"),
    [
        ((), {}, r"dims are \(\); expected different sizes"),
        ((4, 4), {}, "expected different sizes"),
        (8, {}, "dims are 8; expected different sizes"),
        ((0, 4), {}, "a size of dims is 0; expected a whole number above 0"),
        ((4.0,), {}, "a size of dims is 4.0; expected a whole number above 0"),
        ((2, 4), {"weights": [1.0]}, r"weights are \[1.0\]; expected 2, one for each size"),
        ((2, 4), {"weights": {2: 1.0, 4: 1.0}}, "weights are {2: 1.0, 4: 1.0}; expected 2"),
        ((2, 4), {"vectors": (-1,)}, r"vectors are \(-1,\); expected positions"),
        ((2, 4), {"vectors": ()}, r"vectors are \(\); expected positions"),
        ((2, 4), {"dims_per_step": 0}, "dims_per_step is 0; expected a whole number above 0"),
    ],
)
def test_a_wrong_size_is_named(dims, more, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        matryoshka("infonce", dims, **more)


def test_a_size_beyond_the_embedding_is_named():
    with pytest.raises(ValueError, match="size 5 of dims is more than the 3 coordinates"):
        matryoshka("infonce", (5, 2))(*pair())


def test_a_function_without_a_card_must_say_what_is_cut():
    with pytest.raises(ValueError, match=r"has no card .*give vectors=\(0, 1\)"):
        matryoshka(lambda q, d: q.sum(), (2,))


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((1, 3, 4), (1, 3, 4)), ((2, 3, 4), (3, 3, 4))]
)
def test_layers_need_an_axis(shapes):
    with pytest.raises(ValueError, match=r"expected \[layers, B, D\]"):
        adaptive_layer("infonce", layers_per_step=None)(*(torch.rand(s) for s in shapes))


def test_unknown_weighting_of_layers_is_refused():
    with pytest.raises(UnknownName, match="unknown weighting of layers 'lin'"):
        adaptive_layer("infonce", weighting="lin")


def test_the_divergence_of_layers_is_that_of_softmaxes_and_moves_the_lower_ones():
    g = torch.Generator().manual_seed(0)
    q, d = torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64)
    low, last = q[:2].clone().requires_grad_(), q[2:].clone().requires_grad_()
    loss = adaptive_layer("infonce", layers_per_step=None, last=0.0, prior=0.0, kl_weight=2.0,
                          kl_temperature=0.5)  # fmt: skip
    value = loss(torch.cat([low, last]), d)
    gaps = []
    for side in (q, d):
        for layer in (0, 1):
            target, found = ((x / 0.5).log_softmax(-1) for x in (side[2], side[layer]))
            gaps.append(torch.nn.functional.kl_div(found, target, log_target=True,
                                                   reduction="sum"))  # fmt: skip
    close(value["layer_kl"], 0.5 * sum(gaps) / 8 / 2)
    close(value["loss"], 2.0 * value["layer_kl"])
    value["loss"].backward()
    assert low.grad.any() and not last.grad.any()


def test_padding_does_not_enter_the_divergence_of_layers():
    card = find("supcon")
    e = example(card)
    x = torch.stack([e.data[0], 2 * e.data[0]])
    loss = adaptive_layer("supcon", layers_per_step=None)
    value = loss(x, e.data[1], **e.keywords)
    x[:, ~e.keywords["where"]] = torch.nan
    x.requires_grad_()
    again = loss(x, e.data[1], **e.keywords)
    close(again, value)
    (gradient,) = torch.autograd.grad(again["loss"], x)
    assert gradient.isfinite().all() and not gradient[:, ~e.keywords["where"]].any()
