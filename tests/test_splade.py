import json
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_splade import TEXTS, make_models
from torch.nn.functional import linear

from rankbench.core import UnknownName
from rankbench.models.inference_free import InferenceFreeSplade, query_idf
from rankbench.models.loading import load_model
from rankbench.models.splade import SpladeEncoder, TermScorer
from rankbench.models.splade_pooling import ACTIVATIONS, POOLINGS, head_and_pool, splade_pool

ACTIVATED = {
    "log1p_relu": lambda w: log(1 + max(w, 0)),
    "log1p_log1p_relu": lambda w: log(1 + log(1 + max(w, 0))),
    "relu": lambda w: max(w, 0),
}
LENGTHS = torch.tensor([7, 3, 1, 0])
WHERE = torch.arange(7) < LENGTHS[:, None]
CASES = pytest.mark.parametrize(
    ("pooling", "activation"), [(p, a) for p in POOLINGS for a in ACTIVATIONS]
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("splade"))


@pytest.fixture(params=["mlm", "tied", "sum", "two", "restricted", "free"])
def encoder(request, home):
    return make(request.param, home)


def make(name, home):
    if name == "mlm":
        return SpladeEncoder(home / "mlm", max_length=9)
    if name == "sum":
        return SpladeEncoder(home / "mlm", pooling="sum", activation="log1p_log1p_relu", chunk=2)
    found = SpladeEncoder(home / "plain", head="tied")
    if name == "two":
        settings = {"head": "tied", "query_name": home / "plain"}
        found = SpladeEncoder(home / "plain", prompts={"query": "list of"}, **settings)
        torch.nn.init.normal_(found.query_scorer.model.get_input_embeddings().weight)
    found.calibrate(TEXTS, share=0.1)
    if name == "restricted":
        found = SpladeEncoder(home / "mlm")
        found.restrict_vocabulary(TEXTS[:2])
    return InferenceFreeSplade(found, query_idf(found, TEXTS)) if name == "free" else found


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def reference(logits, lengths, pooling, activation):
    """Pooling of nested lists of numbers."""
    pool = {"max": lambda x: max(x, default=0.0), "sum": sum}[pooling]
    return [
        [pool([ACTIVATED[activation](text[t][v]) for t in range(n)]) for v in range(len(text[0]))]
        for text, n in zip(logits, lengths, strict=True)
    ]


@CASES
def test_values_are_those_of_a_loop(pooling, activation):
    logits = draw(4, 7, 5)
    expected = reference(logits.tolist(), LENGTHS.tolist(), pooling, activation)
    found = splade_pool(logits, WHERE, pooling=pooling, activation=activation, chunk=2)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(st.integers(1, 9), st.sampled_from(POOLINGS), st.integers(0, 100))
def test_chunks_change_nothing(chunk, pooling, seed):
    logits, states, weight = draw(4, 7, 5, seed=seed), draw(4, 7, 3, seed=seed), draw(5, 3)
    whole = splade_pool(logits, WHERE, pooling=pooling, chunk=7)
    torch.testing.assert_close(splade_pool(logits, WHERE, pooling=pooling, chunk=chunk), whole)
    fused = head_and_pool(states, weight, None, WHERE, pooling=pooling, chunk=chunk)
    plain = splade_pool(linear(states, weight), WHERE, pooling=pooling)
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("padding", [1e4, torch.inf, torch.nan])
def test_padding_changes_nothing(pooling, padding):
    logits = draw(4, 7, 5)
    dirty = logits.masked_fill(~WHERE[..., None], padding).requires_grad_()
    found = splade_pool(dirty, WHERE, pooling=pooling, chunk=3)
    torch.testing.assert_close(found, splade_pool(logits, WHERE, pooling=pooling))
    found.sum().backward()
    assert dirty.grad.isfinite().all() and not dirty.grad[~WHERE].any()


@pytest.mark.parametrize("fused", [False, True])
def test_a_logit_that_is_not_a_number_is_not_hidden(fused):
    logits = draw(4, 7, 5)
    logits[0, 2, 1] = torch.nan
    for chunk in (1, 3, 7):
        if fused:
            eye = torch.eye(5, dtype=torch.float64)
            found = head_and_pool(logits, eye, None, WHERE, chunk=chunk)
        else:
            found = splade_pool(logits, WHERE, chunk=chunk)
        assert found[0, 1].isnan()


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_of_equal_places_the_first_gets_the_gradient(chunk):
    logits = torch.ones(1, 7, 2, dtype=torch.float64, requires_grad=True)
    splade_pool(logits, WHERE[:1], chunk=chunk).sum().backward()
    assert logits.grad[0, :, 0].tolist() == [0.5, 0, 0, 0, 0, 0, 0]
    eye = torch.eye(2, dtype=torch.float64)
    states = torch.ones(1, 7, 2, dtype=torch.float64, requires_grad=True)
    head_and_pool(states, eye, None, WHERE[:1], chunk=chunk).sum().backward()
    torch.testing.assert_close(states.grad, logits.grad)


@CASES
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_fused_gradients_are_those_of_autograd(pooling, activation, with_bias):
    states, weight, bias = (draw(*shape) for shape in ((4, 7, 3), (5, 3), (5,)))
    inputs = [
        x.requires_grad_() for x in ([states, weight, bias] if with_bias else [states, weight])
    ]
    bias = bias if with_bias else None
    settings = {"pooling": pooling, "activation": activation}
    fused = head_and_pool(states, weight, bias, WHERE, chunk=3, **settings)
    plain = splade_pool(linear(states, weight, bias), WHERE, **settings)
    upstream = draw(4, 5, seed=1)
    found, expected = (torch.autograd.grad((x * upstream).sum(), inputs) for x in (fused, plain))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_half_precision_is_pooled_in_single():
    logits = draw(4, 7, 5)
    for pooling in POOLINGS:
        found = splade_pool(logits.bfloat16(), WHERE, pooling=pooling)
        exact = splade_pool(logits.bfloat16().double(), WHERE, pooling=pooling)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_gradients_of_half_precision_keep_their_types():
    states, weight = draw(4, 7, 3).bfloat16().requires_grad_(), draw(5, 3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = head_and_pool(states, weight, None, WHERE)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert (states.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_texts_without_a_place_are_zero():
    for pooling in POOLINGS:
        found = head_and_pool(draw(2, 0, 3), draw(5, 3), None, WHERE[:2, :0], pooling=pooling)
        assert found.shape == (2, 5) and not found.any()


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(UnknownName, match="did you mean max"):
        splade_pool(draw(4, 7, 5), WHERE, pooling="maxx")
    with pytest.raises(UnknownName, match="unknown activation 'log'"):
        splade_pool(draw(4, 7, 5), WHERE, activation="log")
    with pytest.raises(ValueError, match="chunk"):
        splade_pool(draw(4, 7, 5), WHERE, chunk=0)


# Encoders


def test_vectors_are_pooled_logits_of_the_language_model(home):
    from transformers import AutoModelForMaskedLM

    encoder = SpladeEncoder(home / "mlm", max_length=9)
    model = AutoModelForMaskedLM.from_pretrained(home / "mlm").eval()
    for text, row in zip(TEXTS, encoder.encode(TEXTS).toarray(), strict=True):
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"][:9]])
        expected = model(ids).logits[0].relu().log1p().max(0).values.detach()
        torch.testing.assert_close(torch.from_numpy(row), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("role", ["query", "document"])
def test_encode_returns_the_non_zeros_of_forward(encoder, role):
    found = encoder.encode(TEXTS, role=role, batch_size=2)
    dense = encoder(**encoder.batch(encoder.tokenize(TEXTS, role)), role=role).detach()
    torch.testing.assert_close(torch.from_numpy(found.toarray()), dense, atol=1e-5, rtol=1e-4)
    assert type(found).__name__ == "csr_array" and found.has_canonical_format
    assert (found.data > 0).all() and 0 < found.nnz < found.shape[0] * found.shape[1]


def test_order_does_not_matter(encoder):
    found = encoder.encode(TEXTS[::-1], batch_size=3)[::-1]
    assert abs(found - encoder.encode(TEXTS)).max() < 1e-5


def test_a_saved_encoder_is_the_same(encoder, tmp_path):
    encoder.save(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "rankbench.json").read_text("utf-8"))
    assert settings.pop("kind") == encoder.kind and settings == encoder.config
    again = load_model(tmp_path / "model")
    for role in ("query", "document"):
        assert (again.encode(TEXTS, role=role) != encoder.encode(TEXTS, role=role)).nnz == 0
    state = encoder.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in again.state_dict().items())


def test_an_interrupted_save_leaves_the_previous_model(home, tmp_path, monkeypatch):
    encoder = make("tied", home)
    encoder.save(tmp_path / "model")
    before = encoder.encode(TEXTS)
    torch.nn.init.zeros_(encoder.scorer.model.get_input_embeddings().weight)
    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert (again.encode(TEXTS) != before).nnz == 0
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_restricted_vocabulary_selects_columns(home):
    whole = make("mlm", home).encode(TEXTS).toarray()
    small = SpladeEncoder(home / "mlm", max_length=9, vocabulary=[5, 3, 40, 3])
    found = small.encode(TEXTS).toarray()
    np.testing.assert_allclose(found[:, [3, 5, 40]], whole[:, [3, 5, 40]], rtol=1e-5, atol=1e-5)
    assert small.config["vocabulary"] == [3, 5, 40] and found.shape == whole.shape
    found[:, [3, 5, 40]] = 0
    assert not found.any()
    small.set_vocabulary(None)
    np.testing.assert_allclose(small.encode(TEXTS).toarray(), whole, rtol=1e-5, atol=1e-5)


def test_restricting_keeps_the_terms_of_the_texts(home):
    encoder = make("mlm", home)
    count = encoder.restrict_vocabulary(TEXTS[:1])
    assert encoder.columns.tolist() == sorted(set(encoder.tokenize(TEXTS[:1])[0]))
    assert count == len(encoder.columns)


def test_a_restricted_model_is_whole_after_saving(home, tmp_path):
    encoder = make("restricted", home)
    bias = encoder.scorer.decoder[1].detach().clone()
    encoder.save(tmp_path / "model")
    assert torch.equal(encoder.scorer.decoder[1], bias)
    again = load_model(tmp_path / "model")
    again.set_vocabulary(None)
    encoder.set_vocabulary(None)
    assert (again.encode(TEXTS) != encoder.encode(TEXTS)).nnz == 0


def test_pruning_keeps_the_heaviest_terms_of_a_role(home):
    encoder = make("mlm", home)
    whole = encoder.encode(TEXTS)
    encoder.top_k = {"query": 3}
    assert (encoder.encode(TEXTS) != whole).nnz == 0
    pruned = encoder.encode(TEXTS, role="query")
    for row, full in zip(pruned.toarray(), whole.toarray(), strict=True):
        assert sorted(row[row > 0].tolist()) == sorted(full.tolist())[-3:]
    encoder.top_k = 2
    assert encoder.encode(TEXTS).nnz == 2 * len(TEXTS)


def test_pruning_is_not_for_training(home):
    encoder = make("mlm", home)
    features = encoder.batch(encoder.tokenize(TEXTS))
    whole = encoder(**features)
    encoder.top_k = 1
    assert torch.equal(encoder(**features), whole)


def test_expand_names_terms(home):
    encoder = make("mlm", home)
    row = encoder.encode(TEXTS[:1]).toarray()[0]
    table = encoder.expand(TEXTS[0], k=4)
    weights = [weight for _, weight in table]
    assert len(table) == 4 and weights == sorted(row.tolist())[:-5:-1]
    ids = encoder.tokenizer.convert_tokens_to_ids([term for term, _ in table])
    assert [row[i] for i in ids] == weights


def test_prompts_are_put_before_texts(home):
    encoder = SpladeEncoder(home / "mlm", prompts={"query": "sort "})
    plain = SpladeEncoder(home / "mlm")
    assert encoder.tokenize(["x"], "query") == plain.tokenize(["sort x"])
    assert encoder.tokenize(["x"]) == plain.tokenize(["x"])


def test_roles_of_two_networks_do_not_mix(home):
    encoder = make("two", home)
    documents = encoder.encode(TEXTS)
    torch.nn.init.normal_(encoder.query_scorer.bias)
    assert (encoder.encode(TEXTS) != documents).nnz == 0


def test_calibration_lets_a_share_of_logits_through(home):
    encoder = SpladeEncoder(home / "plain", head="tied")
    for share in (0.02, 0.3):
        encoder.calibrate(TEXTS, share=share)
        features = encoder.batch(encoder.tokenize(TEXTS))
        logits = linear(encoder.scorer(**features), *encoder.scorer.decoder)
        real = logits[features["attention_mask"].bool()]
        assert (real > 0).double().mean() == pytest.approx(share, abs=1 / real.numel())


def test_all_parameters_that_train_get_a_gradient(encoder):
    for role in ("query", "document"):
        encoder(**encoder.batch(encoder.tokenize(TEXTS, role)), role=role).sum().backward()
    missing = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing


def test_models_that_do_not_fit_are_refused(home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="comes without a language-model head .*head='tied'"):
        SpladeEncoder(home / "plain")
    with pytest.raises(ValueError, match="no model 'no/such/folder' for head='mlm': give a folder"):
        TermScorer("no/such/folder")
    with pytest.raises(UnknownName, match="did you mean tied"):
        SpladeEncoder(home / "mlm", head="tie")
    with pytest.raises(ValueError, match="a language-model head has its bias"):
        SpladeEncoder(home / "mlm").calibrate(TEXTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k is 0; expected a number of terms"),
        ({"top_k": {"document": -1}}, "expected a number of terms"),
        ({"top_k": {"documents": 3}}, "did you mean document"),
        ({"prompts": {"question": ""}}, "unknown role 'question'"),
        ({"vocabulary": []}, "expected one at least"),
        ({"vocabulary": [10**6]}, "expected one at least, from 0 to"),
    ],
)
def test_settings_that_cannot_be_are_refused(home, settings, message):
    with pytest.raises(ValueError, match=message):
        SpladeEncoder(home / "mlm", **settings)


def test_a_head_that_is_more_than_a_linear_layer_is_refused(home, monkeypatch):
    from transformers import BertForMaskedLM

    forward = BertForMaskedLM.forward

    def capped(self, *args, **kwargs):
        found = forward(self, *args, **kwargs)
        found.logits = 3 * (found.logits / 3).tanh()
        return found

    monkeypatch.setattr(BertForMaskedLM, "forward", capped)
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        TermScorer(home / "mlm")


# Queries without a network


def test_query_weights_count_each_term_once(home):
    encoder = make("free", home)
    df = {}
    for text in TEXTS:
        for term in set(encoder.tokenizer(text)["input_ids"]):
            df[term] = df.get(term, 0) + 1
    row = encoder.encode(["a list of a list"], role="query").toarray()[0]
    expected = dict.fromkeys(encoder.tokenizer("a list of")["input_ids"])
    for term in expected:
        n = df.get(term, 0)
        expected[term] = log(1 + (len(TEXTS) - n + 0.5) / (n + 0.5))
    assert {i: row[i] for i in row.nonzero()[0].tolist()} == pytest.approx(expected, rel=1e-5)


def test_queries_do_not_run_the_network(home, monkeypatch):
    encoder = make("free", home)
    monkeypatch.setattr(encoder.documents.scorer, "forward", lambda *_: 1 / 0)
    assert encoder.encode(TEXTS, role="query").nnz > 0
    with pytest.raises(ZeroDivisionError):
        encoder.encode(TEXTS)


def test_without_weights_every_term_counts_one(home):
    encoder = InferenceFreeSplade(SpladeEncoder(home / "mlm"), learn=False)
    assert set(encoder.encode(TEXTS, role="query").data) == {1.0}
    assert not encoder.raw.requires_grad


@pytest.mark.parametrize("positive", ["relu", "softplus"])
def test_query_weights_stay_positive_and_are_saved(home, tmp_path, positive):
    encoder = InferenceFreeSplade(SpladeEncoder(home / "mlm"), positive=positive)
    torch.testing.assert_close(encoder.weights, torch.ones(encoder.documents.dim))
    torch.nn.init.normal_(encoder.raw)
    assert (encoder.weights >= 0).all()
    encoder.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert torch.equal(again.raw, encoder.raw)


def test_tables_that_do_not_fit_are_refused(home):
    documents = SpladeEncoder(home / "mlm")
    with pytest.raises(ValueError, match="a weight of 0 or more for every term"):
        InferenceFreeSplade(documents, torch.full((documents.dim,), -1.0))
    with pytest.raises(UnknownName, match="did you mean relu"):
        InferenceFreeSplade(documents, positive="reluu")
    with pytest.raises(ValueError, match="without query_name"):
        InferenceFreeSplade(make("two", home))


@pytest.mark.parametrize("kind", ["mlm", "tied", "two"])
def test_checkpointing_changes_no_gradient(home, kind):
    encoder = make(kind, home)
    features = encoder.batch(encoder.tokenize(TEXTS))
    wanted = gradients(encoder, features)
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    encoder.gradient_checkpointing_enable()
    assert all(getattr(m, "is_activation_checkpointing", True) for m in encoder.backbones)
    found = gradients(encoder, features)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def gradients(encoder, features):
    encoder.zero_grad()
    sum(encoder(**features, role=role).square().sum() for role in ("query", "document")).backward()
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    assert found
    return {name: gradient.clone() for name, gradient in found.items()}


@pytest.mark.parametrize("head", ["mlm", "tied"])
def test_adapters_train_alone_and_are_merged_when_saved(home, tmp_path, head):
    pytest.importorskip("peft")
    settings = {"r": 2, "target_modules": "all-linear"}
    encoder = SpladeEncoder(home / ("mlm" if head == "mlm" else "plain"), head=head, lora=settings)
    before = encoder.encode(TEXTS)
    encoder.gradient_checkpointing_enable()
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora_" not in n} == (
        {"scorer.bias"} if head == "tied" else set()
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:  # peft draws those from the state of the world
            torch.nn.init.normal_(parameter, generator=generator)
    found = encoder.encode(TEXTS)
    assert abs(found - before).max() > 0.01
    encoder.save(tmp_path / "model")
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    again = load_model(tmp_path / "model")
    np.testing.assert_allclose(again.encode(TEXTS).toarray(), found.toarray(), rtol=1e-4, atol=1e-4)
    assert abs(encoder.encode(TEXTS) - found).max() == 0
