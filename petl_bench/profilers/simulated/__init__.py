"""Simulated: what a training step takes on a CUDA device, without one.

profiler    runs the step on tensors without data, under a ledger
ledger      storages allocated and freed, in order, with FLOPs
cuda_semantics  where CUDA runs other operators; kernels/, what its kernels allocate
era         how PyTorch kept its tensors in a paper's day
windows     the ledger's stream in the order in which it is replayed
allocator/  PyTorch's caching allocator, its options, and the proof: a recorded trace replayed
accounting  the stream through the allocator, per phase and category
capacity    the stream through an allocator that can run full
values      what operators answer that ask for values
roofline    time, estimated; machines: what a GPU and a CPU need for one operator; timing: a
            CPU's step; calibration: its rates
provenance  the module (module_calls) and the line (source_lines) that made each storage
"""
