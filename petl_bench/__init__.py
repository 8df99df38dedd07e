"""petl-bench: what a fine-tuning method costs, before you rent the GPU."""

__version__ = "0.1.0"
