import pytest
import torch

from rankbench.core import UnknownName
from rankbench.models.bi_encoder import BiEncoder

TEXTS = ["natural logarithm of x", "exponential of x", "sort the items of an array", "x"] * 4


@pytest.fixture(params=["static", "mean", "first"])
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
    again = load_encoder(tmp_path)
    assert type(again) is type(encoder)
    torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS))


def test_encoding_restores_the_training_mode(encoder):
    encoder.train()
    encoder.encode(TEXTS)
    assert encoder.training


def test_a_plain_transformer_folder_loads(transformer_folder):
    assert isinstance(load_encoder(transformer_folder), BiEncoder)


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
