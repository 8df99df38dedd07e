"""Simulated: what a training step takes on a CUDA device, without one.

profiler    runs the step on tensors without data, under a ledger
ledger      storages allocated and freed, in order, with FLOPs
cuda_semantics  where CUDA's kernels allocate otherwise; attention_kernels likewise
era         how PyTorch kept its tensors in a paper's day
allocator   PyTorch's caching allocator, and allocator_settings its options
accounting  the ledger's stream through the allocator, per phase and category
roofline    time, estimated
trace       proof: a recorded trace replayed
"""
