"""Any model of torch's: what one of its training steps takes, without a method or a backbone.

footprint   the answer
batches     a batch as shapes or tensors, made on a device
models      a model, or the function that builds it, on a device; and its optimizer
card        code that is written for CUDA, taken to be there
steps       the training step, and its phases recognised
simulated   the answer without a GPU
measured    the answer on the CUDA device of this process
recording   the answer from a real training by transformers' Trainer
"""
