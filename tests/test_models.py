import itertools
import json

import pytest
import torch

from rankbench.core import UnknownName
from rankbench.losses.nested import adaptive_layer
from rankbench.models import base
from rankbench.models.bi_encoder import POOLINGS, BiEncoder, pool
from rankbench.models.loading import load_model
from rankbench.models.static_encoder import StaticEncoder

TEXTS = ["natural logarithm of x", "exponential of x", "sort the items of an array", "x"] * 4


@pytest.fixture(params=["static", "mean", "last"])
def encoder(request, transformer_folder):
    if request.param == "static":
        return StaticEncoder.from_texts(TEXTS, size=60, dim=16)
    return BiEncoder(transformer_folder, pooling=request.param)


def test_vectors_have_unit_length(encoder):
    torch.testing.assert_close(encoder.encode(TEXTS).norm(dim=-1), torch.ones(len(TEXTS)))


def test_order_and_batch_size_do_not_matter(encoder):
    reference = encoder.encode(TEXTS)
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=3), reference)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1]), reference.flip(0))


def test_saved_and_loaded_encoders_agree(encoder, tmp_path):
    encoder.save(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(encoder)
    torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS))


def test_encoding_restores_the_training_mode(encoder):
    encoder.train()
    encoder.encode(TEXTS)
    assert encoder.training


def test_the_same_seed_gives_the_same_static_encoder():
    a, b = (StaticEncoder.from_texts(TEXTS, size=60, dim=16, seed=3) for _ in range(2))
    assert torch.equal(a.vectors.weight, b.vectors.weight)
    other = StaticEncoder.from_texts(TEXTS, size=60, dim=16, seed=4)
    assert not torch.equal(a.vectors.weight, other.vectors.weight)


def test_rare_pieces_weigh_more():
    encoder = StaticEncoder.from_texts(TEXTS, size=60, dim=16)
    rare, common = encoder.tokenize(["array"])[0][0], encoder.tokenize(["x"])[0][0]
    assert encoder.weights[rare] > encoder.weights[common]


def test_unknown_poolings_and_models_are_refused(transformer_folder, monkeypatch):
    with pytest.raises(UnknownName, match="did you mean mean"):
        BiEncoder(transformer_folder, pooling="means")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no model 'no/such/folder': give a folder with"):
        BiEncoder("no/such/folder")


def test_texts_without_tokens_have_vectors_without_numbers_that_are_none(encoder):
    found = encoder.encode(["", "x"])
    assert found.isfinite().all() and not found[0].any()
    torch.testing.assert_close(found[1:], encoder.encode(["x"]))
    encoder(**encoder.batch(encoder.tokenize(["", "x"]))).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("ready", [False, True])
def test_texts_are_tokenized_a_block_at_a_time(encoder, monkeypatch, ready):
    texts = [" ".join(["x"] * (i * 7 % 11)) + " sort" * (i % 3) for i in range(40)]
    reference, given = encoder.encode(texts), encoder.tokenize(texts) if ready else texts
    calls, plain = [], encoder.tokenize
    monkeypatch.setattr(base, "BLOCK", 16)
    monkeypatch.setattr(encoder, "tokenize", lambda t, role: calls.append(len(t)) or plain(t, role))
    torch.testing.assert_close(encoder.encode(given, batch_size=5), reference)
    assert calls == ([] if ready else [16, 16, 8])


def test_vectors_may_be_halves(encoder):
    found = encoder.encode(TEXTS, dtype=torch.float16)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), encoder.encode(TEXTS), atol=2e-3, rtol=0)


def test_an_error_while_encoding_restores_the_training_mode(encoder, monkeypatch):
    encoder.train()
    monkeypatch.setattr(encoder, "rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder.encode(TEXTS)
    assert encoder.training


def test_nothing_to_encode_is_an_error(encoder):
    with pytest.raises(ValueError, match="there is nothing to encode"):
        encoder.encode([])


def reference_pool(states, mask, pooling, skipped):
    """One text and one coordinate at a time, in plain floats."""
    found = torch.zeros(len(states), states.shape[-1])
    for row, column in itertools.product(range(len(states)), range(states.shape[-1])):
        real = [x for x, m in zip(states[row, :, column].tolist(), mask[row], strict=True) if m]
        kept = dict(list(enumerate(real, 1))[skipped:])  # place → number
        if kept:
            numbers = list(kept.values())
            found[row, column] = {
                "mean": sum(numbers) / len(numbers),
                "first": numbers[0],
                "last": numbers[-1],
                "max": max(numbers),
                "weighted": sum(place * x for place, x in kept.items()) / sum(kept),
            }[pooling]
    return found


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_are_what_they_say(pooling, side, skipped):
    states = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(6) < torch.tensor([6, 1, 3, 0, 5])[:, None]).long()
    if side == "left":
        states, mask = states.flip(1), mask.flip(1)
    expected = reference_pool(states, mask, pooling, skipped)
    found = pool(torch.where(mask[..., None] == 1, states, 1e4), mask, pooling, skipped)
    torch.testing.assert_close(found, expected)


def test_prompts_make_other_texts_and_may_stay_out_of_pooling(transformer_folder):
    plain = BiEncoder(transformer_folder)
    prompted = BiEncoder(transformer_folder, prompts={"query": "ab cd "})
    torch.testing.assert_close(prompted.encode(["fg"], role="query"), plain.encode(["ab cd fg"]))
    torch.testing.assert_close(prompted.encode(["fg"]), plain.encode(["fg"]))
    without = BiEncoder(transformer_folder, prompts={"query": "ab cd "}, include_prompt=False)
    batch = plain.batch(plain.tokenize(["ab cd fg"]))
    count = len(plain.tokenize(["ab cd "])[0])
    states = plain.states(**batch)[:, count:].mean(1)
    expected = states / states.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(without.encode(["fg"], role="query"), expected)
    with pytest.raises(UnknownName, match="did you mean query"):
        BiEncoder(transformer_folder, prompts={"queri": "a"})


def test_cut_vectors_are_prefixes_of_length_1(transformer_folder):
    full = BiEncoder(transformer_folder, normalize=False).encode(TEXTS)
    cut = BiEncoder(transformer_folder, truncate_dim=5)
    expected = full[:, :5] / full[:, :5].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(cut.encode(TEXTS), expected)
    with pytest.raises(ValueError, match="truncate_dim is 17; the vectors have 16"):
        BiEncoder(transformer_folder, truncate_dim=17)


def test_the_last_layer_is_what_forward_returns(transformer_folder):
    encoder = BiEncoder(transformer_folder, truncate_dim=8)
    batch = encoder.batch(encoder.tokenize(TEXTS[:3]))
    layers = encoder.layers(**batch)
    assert layers.shape == (2, 3, 8)
    torch.testing.assert_close(layers[-1], encoder(**batch))
    adaptive_layer("infonce")(layers, layers, step=0)["loss"].backward()
    assert encoder.model.get_input_embeddings().weight.grad.any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_loaded_saved_and_give_float32(transformer_folder, tmp_path, dtype):
    encoder = BiEncoder(transformer_folder, dtype=dtype)
    assert next(encoder.model.parameters()).dtype == getattr(torch, dtype)
    found = encoder.encode(TEXTS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, BiEncoder(transformer_folder).encode(TEXTS), atol=0.02, rtol=0
    )
    encoder.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert next(again.model.parameters()).dtype == getattr(torch, dtype)
    assert torch.equal(again.encode(TEXTS), found)
    plain = load_model(tmp_path / "saved", dtype="float32")
    assert next(plain.model.parameters()).dtype == torch.float32
    with pytest.raises(UnknownName, match="did you mean float16"):
        BiEncoder(transformer_folder, dtype="float61")


def test_only_adapters_train_and_merging_them_changes_no_vector(transformer_folder, tmp_path):
    pytest.importorskip("peft")
    lora = {"r": 2, "target_modules": ["query"], "init_lora_weights": False}
    encoder = BiEncoder(transformer_folder, lora=lora)
    encoder(**encoder.batch(encoder.tokenize(TEXTS))).sum().backward()
    trained = {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    before = encoder.encode(TEXTS)
    encoder.merge_lora()
    torch.testing.assert_close(encoder.encode(TEXTS), before)
    assert not any("lora_" in name for name, _ in encoder.named_parameters())
    encoder.save(tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    torch.testing.assert_close(load_model(tmp_path / "merged").encode(TEXTS), before)


def test_adapters_that_do_not_fit_and_a_missing_peft_are_reported(transformer_folder, monkeypatch):
    with pytest.raises(ValueError, match="does not fit BertModel.*expected settings of peft"):
        BiEncoder(transformer_folder, lora={"rank": 8})
    with pytest.raises(ValueError, match="does not fit BertModel"):
        BiEncoder(transformer_folder, lora={"r": 8, "target_modules": ["nothing"]})
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'rankbench\[lora\]'"):
        BiEncoder(transformer_folder, lora={"r": 8})


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["query"]}])
def test_checkpointed_gradients_are_the_same(transformer_folder, lora):
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        encoder = BiEncoder(transformer_folder, lora=lora)
        if checkpointed:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        encoder.train()
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        encoder(**encoder.batch(encoder.tokenize(TEXTS)))[:, 0].sum().backward()
        found = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        gradients.append(found)
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_a_pooler_does_not_wait_for_gradients(transformer_folder):
    encoder = BiEncoder(transformer_folder)
    encoder(**encoder.batch(encoder.tokenize(TEXTS)))[:, 0].sum().backward()
    waiting = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert not waiting


def test_an_interrupted_save_leaves_the_previous_encoder(encoder, tmp_path, monkeypatch):
    encoder.save(tmp_path / "saved")
    before = encoder.encode(TEXTS)
    plain = type(encoder).write

    def broken(self, folder):
        plain(self, folder)
        raise OSError("no space left on device")

    monkeypatch.setattr(type(encoder), "write", broken)
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    with pytest.raises(OSError, match="no space left"):
        encoder.save(tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved").encode(TEXTS), before)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_the_trainer_of_transformers_takes_an_encoder_as_it_is(tmp_path):
    from transformers import Trainer, TrainingArguments

    encoder = StaticEncoder.from_texts(["one two three", "two three four"] * 4, size=40, dim=4)
    before = encoder.config
    trainer = Trainer(encoder, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    assert trainer.model is encoder and encoder.config == before == encoder.config.to_dict()
    assert json.loads(encoder.config.to_json_string()) == before
