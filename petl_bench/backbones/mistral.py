"""Mistral: Llama's layers, each token seeing a window of those before it.

The window shapes no tensor of a training step, so a backbone from a folder is built without.
Source: Jiang et al. 2023, arXiv:2310.06825, section 2; dimensions from the published configuration
of version 0.3.
"""

from petl_bench.backbones.llama import Kind

FAMILY = Kind(
    name="mistral",
    architecture="MistralForCausalLM",
    published={
        "mistral-7b": {
            "vocab_size": 32_768,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14_336,
        }
    },
    fixed={"sliding_window": None},
).family
