"""Qwen2, with biases on queries, keys and values, and Qwen3, with norms on heads instead.

Sources: Yang et al. 2024, arXiv:2407.10671, section 2.2 (Qwen2.5 has the same architecture,
arXiv:2412.15115); Yang et al. 2025, arXiv:2505.09388, section 2; dimensions from the published
configurations.
"""

from typing import Any

from petl_bench.backbones.llama import Kind


def _published(
    hidden: int, layers: int, heads: int, shared: int, feed_forward: int, **others: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "intermediate_size": feed_forward,
        **others,
    }


def _qwen3(
    hidden: int, layers: int, heads: int, feed_forward: int, **others: Any
) -> dict[str, Any]:
    return _published(
        hidden, layers, heads, 8, feed_forward, head_dim=128, vocab_size=151_936, **others
    )


QWEN2 = Kind(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    published={
        "qwen2.5-0.5b": _published(
            896, 24, 14, 2, 4864, vocab_size=151_936, tie_word_embeddings=True
        ),
        "qwen2.5-1.5b": _published(
            1536, 28, 12, 2, 8960, vocab_size=151_936, tie_word_embeddings=True
        ),
        "qwen2.5-3b": _published(
            2048, 36, 16, 2, 11_008, vocab_size=151_936, tie_word_embeddings=True
        ),
        "qwen2.5-7b": _published(3584, 28, 28, 4, 18_944, vocab_size=152_064),
    },
    biased=frozenset({"q", "k", "v"}),
).family

QWEN3 = Kind(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    published={
        "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, tie_word_embeddings=True),
        "qwen3-1.7b": _qwen3(2048, 28, 16, 6144, tie_word_embeddings=True),
        "qwen3-4b": _qwen3(2560, 36, 32, 9728, tie_word_embeddings=True),
        "qwen3-8b": _qwen3(4096, 36, 32, 12_288),
    },
    flags=("attention_bias",),
    normed_heads=True,
).family
