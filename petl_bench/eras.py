"""Names of the eras of PyTorch that a simulation can stand for.

What they mean is in profilers/simulated/era.py, which needs torch.
"""

TORCH_1_10 = "torch-1.10"
ERAS = (TORCH_1_10,)
