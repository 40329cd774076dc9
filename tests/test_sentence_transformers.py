"""sentence-transformers opens what models save, and returns the same vectors."""

import json
import shutil

import pytest
import torch

from rankbench.models.asymmetric import Asymmetric
from rankbench.models.base import ROLES
from rankbench.models.bi_encoder import POOLINGS, BiEncoder
from rankbench.models.late_interaction import LateInteractionEncoder
from rankbench.models.loading import load_model
from rankbench.models.static_encoder import StaticEncoder

TEXTS = ["abc def , hgfe !", "a", "bcd " * 90, "gfe [MASK] cab"]
PROMPTS = {"query": "abcd ", "document": "hg "}
LORA = {"r": 2, "target_modules": ["query", "value"], "init_lora_weights": False}
SHORT = {"dim": 8, "query_length": 12, "max_length": 40}

# (class of sentence-transformers, how to make a model of a folder with a transformer)
MODELS = {
    **{
        f"bi-encoder-{pooling}": ("SentenceTransformer", lambda f, p=pooling: BiEncoder(f, p))
        for pooling in POOLINGS
    },
    "bi-encoder-prompts": ("SentenceTransformer", lambda f: BiEncoder(f, prompts=PROMPTS)),
    "bi-encoder-without-prompt": (
        "SentenceTransformer",
        lambda f: BiEncoder(f, prompts=PROMPTS, include_prompt=False),
    ),
    "bi-encoder-cut": ("SentenceTransformer", lambda f: BiEncoder(f, truncate_dim=5)),
    "bi-encoder-short": (
        "SentenceTransformer",
        lambda f: BiEncoder(f, max_length=4, normalize=False),
    ),
    "bi-encoder-projected": (
        "SentenceTransformer",
        lambda f: BiEncoder(
            f, projections=[{"dim": 12, "activation": "tanh"}, {"dim": 6, "bias": False}]
        ),
    ),
    "bi-encoder-lora": ("SentenceTransformer", lambda f: BiEncoder(f, lora=LORA)),
    "static": (
        "SentenceTransformer",
        lambda f: StaticEncoder.from_texts(TEXTS * 3, size=40, dim=6),
    ),
    "late": ("MultiVectorEncoder", lambda f: LateInteractionEncoder(f, **SHORT)),
    "late-attending": (
        "MultiVectorEncoder",
        lambda f: LateInteractionEncoder(f, **SHORT, attend=True, skip=["a"]),
    ),
    "late-not-expanded": (
        "MultiVectorEncoder",
        lambda f: LateInteractionEncoder(f, **SHORT, expand=False, skip=(), prompts={}),
    ),
    "asymmetric": (
        "SentenceTransformer",
        lambda f: Asymmetric(
            StaticEncoder.from_texts(TEXTS * 3, size=40, dim=16),
            BiEncoder(f, prompts={"document": "hg "}),
        ),
    ),
    "asymmetric-shared": (
        "SentenceTransformer",
        lambda f: Asymmetric(*[BiEncoder(f, prompts=PROMPTS)] * 2),
    ),
}


@pytest.fixture(scope="module")
def folder(transformer_folder, tmp_path_factory):
    """A tiny transformer whose vocabulary has a mask and the special tokens of BERT."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("masked")
    tokenizer = AutoTokenizer.from_pretrained(transformer_folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def theirs(kind, folder):
    """A model of sentence-transformers."""
    package = pytest.importorskip("sentence_transformers")
    return getattr(package, kind)(str(folder), device="cpu")


def assert_same(ours, found):
    """Compare vectors, or lists of token vectors, with ours."""
    if isinstance(ours, tuple):
        ours = [x[mask] for x, mask in zip(*ours, strict=True)]
        assert [len(x) for x in ours] == [len(x) for x in found]
        ours, found = torch.cat(ours), torch.cat([torch.as_tensor(x) for x in found])
    torch.testing.assert_close(ours, torch.as_tensor(found), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_the_same_there_and_back(name, folder, tmp_path):
    """Saved by us and opened there; then saved there, without our settings, and opened by us."""
    kind, make = MODELS[name]
    model = make(folder)
    model.save(tmp_path / "ours")
    other = theirs(kind, tmp_path / "ours")
    other.save(str(tmp_path / "theirs"), create_model_card=False)
    assert not (tmp_path / "theirs" / "rankbench.json").exists()
    again = load_model(tmp_path / "theirs")
    for role in ROLES:
        vectors = model.encode(TEXTS, role=role)
        assert_same(vectors, getattr(other, f"encode_{role}")(TEXTS))
        torch.testing.assert_close(again.encode(TEXTS, role=role), vectors, atol=1e-5, rtol=1e-4)


def test_a_folder_of_pylate_opens_as_it_does_there(folder, tmp_path):
    encoder = LateInteractionEncoder(folder, **SHORT)
    encoder.save(tmp_path / "saved")
    saved = tmp_path / "saved"
    for name in ("rankbench.json", "2_Normalize", "3_MultiVectorMask", "sentence_bert_config.json"):
        path = saved / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kinds = ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(["", "1_Dense"], kinds, strict=True))
    ]
    (saved / "modules.json").write_text(json.dumps(listed))
    dense = saved / "1_Dense" / "config.json"
    config = json.loads(dense.read_text())
    dense.write_text(json.dumps({k: v for k, v in config.items() if not k.startswith("module_")}))
    said = {
        "model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ",
        "query_length": 12, "document_length": 40, "attend_to_expansion_tokens": False,
        "skiplist_words": [",", "!"], "similarity_fn_name": "MaxSim",
    }  # fmt: skip
    (saved / "config_sentence_transformers.json").write_text(json.dumps(said))
    again, other = load_model(saved), theirs("MultiVectorEncoder", saved)
    for role in ROLES:
        found = getattr(other, f"encode_{role}")(TEXTS)
        assert_same(again.encode(TEXTS, role=role), found)
