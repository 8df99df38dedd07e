"""Options that several verbs share: what makes a case, and what to simulate it on."""

from typing import Annotated, Any

import typer

from petl_bench.cards import CARDS, DEFAULT_CARD
from petl_bench.eras import ERAS
from petl_bench.errors import UsageError
from petl_bench.workloads import NAMED


def option(text: str, default: str) -> Any:
    """An option that is None unless given; `default` says what that means."""
    return typer.Option(help=text, show_default=default)


BackboneName = Annotated[
    str | None, option("A name from `petl-bench backbones`, or a config folder.", "t5-base")
]
BatchSize = Annotated[int | None, option("Examples a step.", "100")]
SourceLength = Annotated[int | None, option("Source tokens an example.", "128")]
TargetLength = Annotated[int | None, option("Target tokens an example.", "3")]
WorkloadName = Annotated[
    str | None,
    option(f"A paper's: {', '.join(NAMED)}; other options override its fields.", "none"),
]
WeightDType = Annotated[str | None, option("Weights: fp32, bf16 or fp16.", "fp32")]
ModeName = Annotated[str | None, option("training, inference or generate.", "training")]
Beams = Annotated[int | None, option("Beams of mode generate; 1 is greedy.", "1")]
Autocast = Annotated[
    str | None, option("bf16 or fp16: cast in forward, operator by operator.", "none")
]
Checkpointing = Annotated[
    bool | None, option("Run layers again in backward instead of keeping them.", "off")
]
AccumulationSteps = Annotated[
    int | None, option("Parts of a batch whose gradients are added up.", "1")
]
ParallelName = Annotated[
    str | None, option("ddp or fsdp2: simulate one rank of --world-size.", "none")
]
WorldSize = Annotated[int | None, option("Ranks; --batch-size is each one's.", "none")]
ClipGradNorm = Annotated[
    float | None, option("Norm that gradients are clipped to; 0 switches it off.", "1.0")
]
ZeroGradHabit = Annotated[
    str | None,
    option("Gradients after a step: free, or keep, filled with zeros.", "the era's, today free"),
]
OptimizerName = Annotated[
    str | None,
    option("adamw, adamw_fused, adamw_loop, adamw_8bit, adafactor or sgd.", "adamw"),
]
AttentionName = Annotated[str | None, option("eager or sdpa.", "eager")]
Quantize = Annotated[
    str | None, option("nf4, nf4_double or int8: frozen linear layers in few bits.", "none")
]
Gpu = Annotated[str | None, option(f"The card to simulate: {', '.join(CARDS)}.", DEFAULT_CARD)]
Emulate = Annotated[
    str | None,
    option(f"An era of PyTorch to simulate, as papers ran it: {', '.join(ERAS)}.", "none"),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Where cases run: local, ray or slurm.")
]
Lanes = Annotated[
    int | None,
    option(
        "How many cases run at once.",
        "local: 1, or the GPUs to measure on; ray: its room; slurm: 8",
    ),
]


def case_axes(
    *,
    name: str | None,
    dtype: str | None,
    attention: str | None,
    quantize: str | None,
    batch_size: int | None,
    source_length: int | None,
    target_length: int | None,
    optimizer: str | None,
    mode: str | None,
    beams: int | None,
    autocast: str | None,
    checkpointing: bool | None,
    accumulation_steps: int | None,
    clip_grad_norm: float | None,
    zero_grad: str | None,
    parallel: str | None = None,
    world_size: int | None = None,
    workload: str | None = None,
) -> dict[str, dict[str, list[Any]]]:
    """A suite's axes of backbone and workload, of the options that were given."""
    return {
        "backbone": _given(name=name, dtype=dtype, attention=attention, quantize=quantize),
        "workload": _given(
            name=workload,
            batch_size=batch_size,
            source_length_tokens=source_length,
            target_length_tokens=target_length,
            optimizer=optimizer,
            mode=mode,
            beams=beams,
            autocast=autocast,
            checkpointing=checkpointing,
            accumulation_steps=accumulation_steps,
            clip_grad_norm=clip_grad_norm,
            zero_grad=zero_grad,
            parallel=parallel,
            world_size=world_size,
        ),
    }


def _given(**values: Any) -> dict[str, list[Any]]:
    return {key: [value] for key, value in values.items() if value is not None}


def check_era(name: str | None) -> None:
    """Refuse an era that there is not.

    Raises:
        UsageError: no such era.
    """
    if name is not None and name not in ERAS:
        raise UsageError(f"emulate: {name!r} is not one of {', '.join(ERAS)}")
