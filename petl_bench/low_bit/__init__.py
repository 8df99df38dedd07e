"""Few bits a number: bitsandbytes where there is CUDA, elsewhere what takes as much memory.

adamw       AdamW with states of 8 bits
linear      frozen linear layers of 4 and 8 bits
"""

from petl_bench.low_bit.adamw import adamw_8bit
from petl_bench.low_bit.linear import packed_away, quantise

__all__ = ["adamw_8bit", "packed_away", "quantise"]
