"""Energy that a CUDA device takes, by NVML's counter."""

from contextlib import suppress

import torch


def consumed_j() -> float | None:
    """Joules of the whole current CUDA device since its driver was loaded.

    None where there is no such device, no NVML, or no counter: cards before Volta have none, nor
    has a slice of a card (MIG).
    """
    if not torch.cuda.is_available():
        return None
    import pynvml  # noqa: PLC0415 - only where there is a driver

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000  # millijoules
        finally:
            pynvml.nvmlShutdown()
    return None


def spent_j(before: float | None) -> float | None:
    """Joules since `before`, as `consumed_j` gave it; None where it gave none."""
    now = consumed_j()
    return None if before is None or now is None else now - before
