"""What a process takes of the device beside its tensors: probe.py FILE.

By NVML, which tells processes apart where it can, and by cudaMemGetInfo, which does not: there
the device must be this process's alone. Read when the context is there, and again after products
and a training step, which load kernels and make handles.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl_bench.environment import measured_environment
from petl_bench.profilers.cuda import device_used_bytes


def main(path: Path) -> None:
    """Probe, and write what was seen to `path`."""
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    torch.cuda.synchronize()
    seen = {"context": read(device)}
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(1024, 1024, dtype=dtype, device=device)
        torch.mm(square, square)
        seen[f"product of {dtype}"] = read(device)
    layer = nn.TransformerEncoderLayer(256, 4, batch_first=True, device=device)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 8, 256, device=device)).sum().backward()
    optimizer.step()
    seen["training step"] = read(device)
    told = {
        "environment": measured_environment().model_dump(),
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": [properties.major, properties.minor],
        "nvidia_smi": smi(),
        "seen": seen,
    }
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(device: torch.device) -> dict[str, Any]:
    """Bytes in use: this process's by NVML, the device's, and PyTorch's own."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(device)
    return {
        "process_bytes": device_used_bytes(device),
        "device_bytes": total - free,
        "reserved_bytes": torch.cuda.memory_reserved(device),
    }


def smi() -> str | None:
    """What nvidia-smi prints, if it is there."""
    try:
        return subprocess.run(
            ["nvidia-smi"],  # noqa: S607 - where the driver put it
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
