import pytest
import torch
from transformers import AutoTokenizer

from rankbench.late_interaction import maxsim
from rankbench.models.late_interaction import LateInteractionEncoder
from rankbench.models.loading import load_model

TEXTS = ["abc def , hgfe !", "a", "bcd " * 60, ""]


@pytest.fixture(scope="module")
def folder(transformer_folder, tmp_path_factory):
    """A tiny transformer with [MASK] in its vocabulary."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("masked")
    tokenizer = AutoTokenizer.from_pretrained(transformer_folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder):
    return LateInteractionEncoder(folder, dim=8, max_length=30, query_length=10)


@pytest.mark.parametrize("role", ["query", "document"])
def test_real_tokens_have_length_1_and_padding_is_zero(encoder, role):
    vectors, mask = encoder.encode(TEXTS, role=role)
    assert vectors.shape[:2] == mask.shape and vectors.shape[2] == 8
    torch.testing.assert_close(vectors[mask].norm(dim=-1), torch.ones(int(mask.sum())))
    assert not vectors[~mask].any()


@pytest.mark.parametrize("role", ["query", "document"])
def test_order_and_batch_size_do_not_matter(encoder, role):
    vectors, mask = encoder.encode(TEXTS, role=role)
    for size in (1, 2):
        again, same = encoder.encode(TEXTS, batch_size=size, role=role)
        torch.testing.assert_close(again, vectors)
        assert torch.equal(same, mask)
    turned, same = encoder.encode(TEXTS[::-1], role=role)
    torch.testing.assert_close(turned.flip(0), vectors)
    assert torch.equal(same.flip(0), mask)


def test_queries_are_filled_up_and_documents_are_not(encoder):
    ids = encoder.tokenize(TEXTS, "query")
    assert [len(i) for i in ids] == [10] * 4
    assert ids[3][1:] == [encoder.mask_id] * 9  # the marker, then masks
    assert max(map(len, encoder.tokenize(TEXTS))) == 30
    assert encoder.encode(TEXTS, role="query")[1].all()


def test_masks_at_the_end_are_seen_only_if_asked_for(folder):
    settings = {"dim": 8, "query_length": 10}
    seen = []
    for attend in (False, True):
        encoder = LateInteractionEncoder(folder, **settings, attend=attend)
        encoder.model.register_forward_pre_hook(
            lambda m, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
        encoder.encode(["a"], role="query")
    assert seen[0].sum() == len(encoder.tokenizer("[Q] a")["input_ids"])
    assert seen[1].all()


def test_a_mask_inside_a_query_is_a_token_like_others(encoder):
    ids = torch.tensor(encoder.tokenize(["a [MASK] b"], "query"))
    filled = encoder._filled(ids, torch.ones_like(ids, dtype=torch.bool))
    where = (ids == encoder.mask_id)[0].nonzero().flatten()
    assert not filled[0, where[0]] and filled[0, where[1:]].all()


def test_skipped_tokens_are_read_and_do_not_count(folder):
    encoder = LateInteractionEncoder(folder, dim=8, skip=["a"])
    everything = LateInteractionEncoder(folder, dim=8, skip=())
    (vectors, mask), (full, real) = encoder.encode(["b a b"]), everything.encode(["b a b"])
    kept = torch.tensor(encoder.tokenize(["b a b"])[0]) != encoder.skipped[0]
    assert real.all() and torch.equal(mask[0], kept) and not kept.all()
    torch.testing.assert_close(vectors[mask], full[0, kept])
    assert encoder.encode(["b a b"], role="query")[1].all()


def test_markers_are_single_tokens_and_the_same_whenever_made(folder):
    first, second = (LateInteractionEncoder(folder, dim=8, seed=3) for _ in range(2))
    mark = first.tokenizer.convert_tokens_to_ids("[Q]")
    assert first.tokenize(["a"], "query")[0][0] == mark
    weights = [e.model.get_input_embeddings().weight for e in (first, second)]
    assert torch.equal(*weights) and len(weights[0]) == len(first.tokenizer)
    assert torch.equal(first.projection.weight, second.projection.weight)
    other = LateInteractionEncoder(folder, dim=8, seed=4)
    assert not torch.equal(first.projection.weight, other.projection.weight)


def test_gradients_reach_the_projection_and_the_transformer(encoder):
    queries = encoder(**encoder.batch(encoder.tokenize(["a b"], "query")), role="query")
    documents = encoder(**encoder.batch(encoder.tokenize(TEXTS)))
    scores = maxsim(queries[0], documents[0], query_where=queries[1], document_where=documents[1])
    scores.sum().backward()
    for weight in (encoder.projection.weight, encoder.model.get_input_embeddings().weight):
        assert weight.grad.isfinite().all() and weight.grad.any()


def test_saved_and_loaded_encoders_agree(encoder, tmp_path):
    encoder.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.config == encoder.config and again.similarity == "maxsim"
    for role in ("query", "document"):
        torch.testing.assert_close(again.encode(TEXTS, role=role), encoder.encode(TEXTS, role=role))


def test_vectors_may_be_halves(encoder):
    vectors, mask = encoder.encode(TEXTS, dtype=torch.float16)
    assert vectors.dtype == torch.float16 and mask.dtype == torch.bool


def test_without_a_mask_token_queries_cannot_be_filled_up(transformer_folder):
    with pytest.raises(ValueError, match=r"has no \[MASK\].*expand=False"):
        LateInteractionEncoder(transformer_folder)
    assert not LateInteractionEncoder(transformer_folder, expand=False).expand
