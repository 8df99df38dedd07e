"""One of two processes that train a ladder together: python distributed_rank.py RANK FOLDER."""

import sys
from pathlib import Path

import torch
from petl_bench.methods.lst import attach_lst
from torch.nn.parallel import DistributedDataParallel
from transformers import T5Config, T5ForConditionalGeneration

RANKS = 2


def model_and_batch(rank):
    """The same model for all, and each rank's own examples."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=99,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = attach_lst(T5ForConditionalGeneration(config), reduction=2)
    tokens = torch.randint(2, 99, (2, 6), generator=torch.Generator().manual_seed(rank))
    return model, {"input_ids": tokens, "labels": tokens[:, :3].contiguous()}


def gradients(model):
    return {name: p.grad for name, p in model.ladders.named_parameters()}


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group(
        "gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=RANKS
    )
    model, batch = model_and_batch(rank)
    # Nothing is told of unused parameters: all that trains takes part in every step.
    wrapped = DistributedDataParallel(model)
    wrapped(**batch).loss.backward()
    torch.save(gradients(model), folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
