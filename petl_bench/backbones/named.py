"""Published dimensions of backbones that have no file of their own, by the names people type.

Each from the `config.json` of its repository on the Hugging Face hub, less what shapes no tensor of
a training step; what is not said is transformers' default for that architecture. Papers:
GPT-2, Radford et al. 2019, table 2; DistilBERT, Sanh et al. 2019, arXiv:1910.01108; OPT, Zhang et
al. 2022, arXiv:2205.01068, table 1; Pythia, Biderman et al. 2023, arXiv:2304.01373, table 1; Phi-3,
Abdin et al. 2024, arXiv:2404.14219, section 2; Gemma 2, arXiv:2408.00118, table 1; Gemma 3,
arXiv:2503.19786; DeBERTa V3, He et al. 2021, arXiv:2111.09543, appendix.
"""

from collections.abc import Mapping

from petl_bench.case import ConfigValue

Config = dict[str, ConfigValue]


def _gpt2(hidden: int, layers: int, heads: int) -> Config:
    return {
        "model_type": "gpt2",
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
    }


def _layers(kind: str, hidden: int, layers: int, heads: int, vocabulary: int) -> Config:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _opt(hidden: int, layers: int, heads: int) -> Config:
    return {
        **_layers("opt", hidden, layers, heads, 50_272),
        "ffn_dim": 4 * hidden,
        "word_embed_proj_dim": hidden,
        "max_position_embeddings": 2048,
    }


def _pythia(hidden: int, layers: int, heads: int, vocabulary: int = 50_304) -> Config:
    return {
        **_layers("gpt_neox", hidden, layers, heads, vocabulary),
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 2048,
    }


def _gemma2(  # noqa: PLR0917 - a row of the paper's table
    hidden: int, layers: int, heads: int, shared: int, head: int, feed_forward: int, scale: int
) -> Config:
    return {
        **_layers("gemma2", hidden, layers, heads, 256_000),
        "num_key_value_heads": shared,
        "head_dim": head,
        "intermediate_size": feed_forward,
        "query_pre_attn_scalar": scale,
    }


def _gemma3(hidden: int, layers: int, feed_forward: int) -> Config:
    return {
        **_layers("gemma3_text", hidden, layers, 4, 262_144),
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": feed_forward,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "max_position_embeddings": 32_768,
    }


def _deberta_v3(hidden: int, layers: int, heads: int) -> Config:
    return {
        **_layers("deberta-v2", hidden, layers, heads, 128_100),
        "intermediate_size": 4 * hidden,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "num_labels": 2,
    }


LANGUAGE_MODELS: Mapping[str, Config] = {
    "distilgpt2": _gpt2(768, 6, 12),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "pythia-70m": _pythia(512, 6, 8),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-410m": _pythia(1024, 24, 16),
    "pythia-1b": _pythia(2048, 16, 8),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "pythia-2.8b": _pythia(2560, 32, 32),
    "pythia-6.9b": _pythia(4096, 32, 32, 50_432),
    "phi-3-mini": {
        **_layers("phi3", 3072, 32, 32, 32_064),
        "num_key_value_heads": 32,
        "intermediate_size": 8192,
    },
    "gemma-2-2b": _gemma2(2304, 26, 8, 4, 256, 9216, 256),
    "gemma-2-9b": _gemma2(3584, 42, 16, 8, 256, 14_336, 256),
    "gemma-2-27b": _gemma2(4608, 46, 32, 16, 128, 36_864, 144),
    "gemma-3-270m": _gemma3(640, 18, 2048),
    "gemma-3-1b": _gemma3(1152, 26, 6912),
}

CLASSIFIERS: Mapping[str, Config] = {
    "distilbert-base": {
        "model_type": "distilbert",
        "vocab_size": 30_522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "num_labels": 2,
    },
    "deberta-v3-xsmall": _deberta_v3(384, 12, 6),
    "deberta-v3-small": _deberta_v3(768, 6, 12),
    "deberta-v3-base": _deberta_v3(768, 12, 12),
    "deberta-v3-large": _deberta_v3(1024, 24, 16),
}
