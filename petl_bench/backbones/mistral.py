"""Mistral: Llama's layers, each token seeing a window of those before it.

The window shapes no tensor of a training step, so a backbone from a folder is built without.
Source: Jiang et al. 2023, arXiv:2310.06825, section 2.
"""

from petl_bench.backbones.llama import Kind

FAMILY = Kind(
    name="mistral", architecture="MistralForCausalLM", fixed={"sliding_window": None}
).family
