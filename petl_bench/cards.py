"""Cards by name: what a simulation needs to know of the device that it stands for.

Dense peak rates and bandwidth from NVIDIA's data sheets of each card; those of the RTX 3090 and
4090 from their architectures' white papers (GA102, AD102), with fp32 accumulation. fp32 is the
rate of the CUDA cores: torch multiplies fp32 matrices without TF32 unless told otherwise. What a
multiprocessor holds goes with the compute capability: CUDA C++ Programming Guide, section 16.2.

Memory is what PyTorch finds on the card, which is less than its label says: the driver, and ECC
on some, keep a part. How much depends on the driver, so it is the least that PyTorch's messages
of "a total capacity of ... GiB" in public reports have. The context's bytes are an ESTIMATE, from
the same messages: "this process has ... in use", less what they say PyTorch has. It grows with
the card's multiprocessors (ggml-org/llama.cpp#23604). Taken is the most that was found since CUDA
loads kernels lazily (pytorch/pytorch#86509), rounded up to 64 MiB, since a card that is called
too small costs its reader less than one that is called large enough:

    card   found, MiB   reports
    L4     236 to 251   ArcInstitute/evo2#190, logs of training; A10 lies between it and A6000
    L40S   420          stepfun-ai/Step-Video-T2V#8
    4090   450 to 520   huggingface/lora-fast#1, Soul-AILab/SoulX-FlashTalk#5; 3090 as A6000
    T4     95 to 148    Zheng-Chong/CatVTON#133, GSeanCDAT/GIMM-VFI#6, hpcaitech/Open-Sora#697
    A6000  262 to 330   black-forest-labs/flux2#23, logs in notebooks
    A100   409 to 522   TianheWu/CoSeR#10, lianqi1008/Control-GIC#6, hahnyuan/PB-LLM#3 (A800)
    H100   522 to 749   few, on H100 and H200, in logs of training and of loading

A measured record says it exactly (device used less reserved); once there is one, it replaces the
estimate of its card.
"""

from dataclasses import dataclass

from petl_bench.errors import UsageError, hint
from petl_bench.processors import PROCESSORS
from petl_bench.units import KIB, MIB


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU."""

    name: str
    title: str
    memory_bytes: int  # torch's total_memory of the device
    context_bytes: int  # held by a process beside its tensors: CUDA's context, loaded kernels
    compute_capability: tuple[int, int]
    multiprocessors: int
    fp32_flops_per_s: float
    half_flops_per_s: float  # bf16 and fp16 on tensor cores, fp32 accumulation, no sparsity
    bandwidth_bytes_per_s: float
    # Host time to launch one eager operator: PyTorch's dispatcher and CUDA's launch together, by
    # order of magnitude; not calibrated against a card yet.
    launch_s: float = 5e-6
    device_names: tuple[str, ...] = ()  # torch's names of devices that it stands for, less the make

    @property
    def capacity_bytes(self) -> int:
        """What is left for PyTorch's caching allocator in a process that has the card alone."""
        return self.memory_bytes - self.context_bytes

    @property
    def threads_per_multiprocessor(self) -> int:
        """Threads that a multiprocessor runs at once."""
        threads = {(7, 5): 1024, (8, 0): 2048, (8, 6): 1536, (8, 9): 1536, (9, 0): 2048}
        return threads[self.compute_capability]

    @property
    def shared_memory_bytes(self) -> int:
        """Shared memory that a thread block may ask for."""
        sizes = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227}
        return KIB * sizes[self.compute_capability]

    @property
    def cublas_workspace_bytes(self) -> int:
        """Default workspace of one cuBLAS handle, shared with cuBLASLt.

        32 MiB on Hopper; elsewhere the ":4096:2:16:8" of cuBLAS's documentation.
        Source: aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize.
        """
        if self.compute_capability[0] == 9:  # noqa: PLR2004 - Hopper
            return 32 * MIB
        return 2 * 4096 * KIB + 8 * 16 * KIB


CARDS = {
    card.name: card
    for card in (
        Card(
            name="t4",
            title="T4 16GB",
            memory_bytes=14_909 * MIB,  # 14.56 GiB with ECC on, as it ships
            context_bytes=192 * MIB,
            compute_capability=(7, 5),
            multiprocessors=40,
            fp32_flops_per_s=8.1e12,
            half_flops_per_s=65e12,
            bandwidth_bytes_per_s=320e9,
            device_names=("T4",),
        ),
        Card(
            name="a10",
            title="A10 24GB",
            memory_bytes=22_579 * MIB,  # 22.05 GiB
            context_bytes=320 * MIB,
            compute_capability=(8, 6),
            multiprocessors=72,
            fp32_flops_per_s=31.2e12,
            half_flops_per_s=125e12,
            bandwidth_bytes_per_s=600e9,
            device_names=("A10",),
        ),
        Card(
            name="l4",
            title="L4 24GB",
            memory_bytes=22_558 * MIB,  # 22.03 GiB
            context_bytes=256 * MIB,
            compute_capability=(8, 9),
            multiprocessors=58,
            fp32_flops_per_s=30.3e12,
            half_flops_per_s=121e12,
            bandwidth_bytes_per_s=300e9,
            device_names=("L4",),
        ),
        Card(
            name="l40s",
            title="L40S 48GB",
            memory_bytes=45_486 * MIB,  # 44.42 GiB
            context_bytes=448 * MIB,
            compute_capability=(8, 9),
            multiprocessors=142,
            fp32_flops_per_s=91.6e12,
            half_flops_per_s=362e12,
            bandwidth_bytes_per_s=864e9,
            device_names=("L40S",),
        ),
        Card(
            name="rtx3090",
            title="GeForce RTX 3090 24GB",
            memory_bytes=24_248 * MIB,  # 23.68 GiB
            context_bytes=384 * MIB,
            compute_capability=(8, 6),
            multiprocessors=82,
            fp32_flops_per_s=35.6e12,
            half_flops_per_s=71e12,  # half of what it does where it also accumulates in fp16
            bandwidth_bytes_per_s=936e9,
            device_names=("GeForce RTX 3090",),
        ),
        Card(
            name="rtx4090",
            title="GeForce RTX 4090 24GB",
            memory_bytes=24_084 * MIB,  # 23.52 GiB
            context_bytes=576 * MIB,
            compute_capability=(8, 9),
            multiprocessors=128,
            fp32_flops_per_s=82.6e12,
            half_flops_per_s=165.2e12,
            bandwidth_bytes_per_s=1008e9,
            device_names=("GeForce RTX 4090",),
        ),
        Card(
            name="a6000",
            title="RTX A6000 48GB",
            memory_bytes=48_670 * MIB,  # 47.53 GiB with ECC off, as it ships
            context_bytes=384 * MIB,
            compute_capability=(8, 6),
            multiprocessors=84,
            fp32_flops_per_s=38.7e12,
            half_flops_per_s=154.8e12,
            bandwidth_bytes_per_s=768e9,
            device_names=("RTX A6000",),
        ),
        Card(
            name="a100-40gb",
            title="A100 40GB",
            memory_bytes=40_325 * MIB,  # 39.38 GiB
            context_bytes=576 * MIB,
            compute_capability=(8, 0),
            multiprocessors=108,
            fp32_flops_per_s=19.5e12,
            half_flops_per_s=312e12,
            bandwidth_bytes_per_s=1555e9,
            device_names=("A100-SXM4-40GB", "A100-PCIE-40GB"),
        ),
        Card(
            name="a100-80gb",
            title="A100 80GB",
            memory_bytes=80_998 * MIB,  # 79.10 GiB
            context_bytes=576 * MIB,
            compute_capability=(8, 0),
            multiprocessors=108,
            fp32_flops_per_s=19.5e12,
            half_flops_per_s=312e12,
            bandwidth_bytes_per_s=2039e9,
            device_names=("A100-SXM4-80GB", "A100-SXM-80GB", "A100 80GB PCIe"),
        ),
        Card(
            name="h100",
            title="H100 SXM 80GB",
            memory_bytes=81_008 * MIB,  # 79.11 GiB
            context_bytes=768 * MIB,
            compute_capability=(9, 0),
            multiprocessors=132,
            fp32_flops_per_s=66.9e12,
            half_flops_per_s=989e12,
            bandwidth_bytes_per_s=3350e9,
            device_names=("H100 80GB HBM3", "H100 PCIe"),
        ),
        Card(
            name="h200",
            title="H200 SXM 141GB",
            memory_bytes=143_073 * MIB,  # 139.72 GiB
            context_bytes=768 * MIB,
            compute_capability=(9, 0),
            multiprocessors=132,
            fp32_flops_per_s=66.9e12,
            half_flops_per_s=989e12,
            bandwidth_bytes_per_s=4800e9,
            device_names=("H200", "H200 NVL"),
        ),
    )
}
DEFAULT_CARD = "a100-80gb"


def find(name: str) -> Card:
    """The card called `name`.

    Raises:
        UsageError: no such card; a CPU.
    """
    if name in CARDS:
        return CARDS[name]
    if name in {"cpu", *PROCESSORS}:
        raise UsageError(
            f"gpu: {name} is a CPU, whose memory is not simulated: it has no caching allocator;"
            " petl-bench speed estimates its times"
        )
    raise UsageError(f"gpu: no card {name!r}; {hint(name, CARDS)}")


def of_device(device: str) -> Card:
    """The card that stands for what torch calls `device`, such as "NVIDIA H100 80GB HBM3".

    Its memory and architecture are the device's. PCIe versions run at lower clocks, which moves
    the roofline but no byte. A part of a card (MIG) is no card.

    Raises:
        UsageError: no card is known to be that device.
    """
    name = device.removeprefix("NVIDIA ").removeprefix("Tesla ")
    for card in CARDS.values():
        if name in card.device_names:
            return card
    raise UsageError(
        f"device: no card is known for {device!r}; name one with --gpu: {', '.join(CARDS)}"
    )
