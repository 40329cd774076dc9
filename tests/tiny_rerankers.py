"""Tiny transformers with random weights, in the layouts that the hub uses."""

from pathlib import Path

import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EOS]"]
WORDS = 'query document relevant : yes no " drink tool tea coffee milk saw hammer park lake'.split()
VOCABULARY = {word: i for i, word in enumerate(SPECIAL + WORDS)}
SIZES = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}  # fmt: skip
QUERIES = ["drink", "tool saw"]
TEXTS = ["tea", "coffee milk tea", "saw hammer park lake saw saw tea", "Park : no", "hammer"]


def make_tokenizer(encoder: bool):
    """Whole words; [CLS] and [SEP] around the texts of encoders."""
    import tokenizers as tk
    from transformers import PreTrainedTokenizerFast

    core = tk.Tokenizer(tk.models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    core.normalizer = tk.normalizers.Lowercase()
    core.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "attention_mask"]
    if encoder:
        marks = [("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
        core.post_processor = tk.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names)


def make_model(kind: str):
    """A model of transformers by a short name."""
    import transformers as tf

    bert = tf.BertConfig(**SIZES, max_position_embeddings=64)
    llama = tf.LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0)
    t5 = tf.T5Config(vocab_size=len(VOCABULARY), d_model=16, d_ff=32, d_kv=8, num_layers=2,
                     num_heads=2, decoder_start_token_id=0, tie_word_embeddings=False)  # fmt: skip
    gpt = tf.GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, n_positions=64,
                        initializer_range=0.3, bos_token_id=2, eos_token_id=5)  # fmt: skip
    makers = {
        "bare": lambda: tf.BertModel(bert),
        "bert": lambda: tf.BertForSequenceClassification(labelled(bert, 1)),
        "three": lambda: tf.BertForSequenceClassification(labelled(bert, 3)),
        "masked": lambda: tf.BertForMaskedLM(bert),
        "llama": lambda: tf.LlamaForCausalLM(llama),
        "llama_classifier": lambda: tf.LlamaForSequenceClassification(labelled(llama, 1)),
        "gpt": lambda: tf.GPT2LMHeadModel(gpt),
        "t5": lambda: tf.T5ForConditionalGeneration(t5),
    }
    return makers[kind]()


def labelled(config, labels: int):
    config.num_labels = labels
    return config


def build(kind: str, folder: Path) -> Path:
    """Write a model and its tokenizer."""
    from rankbench.models.list_context import quiet_transformers

    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        make_model(kind).save_pretrained(folder)
    make_tokenizer(kind not in ("llama", "llama_classifier", "gpt")).save_pretrained(folder)
    return folder
