"""Options that several verbs share: what makes a case, and what to simulate it on."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from petl_bench.cards import CARDS, DEFAULT_CARD
from petl_bench.eras import ERAS
from petl_bench.errors import UsageError
from petl_bench.workloads import NAMED


def option(text: str, default: str) -> Any:
    """An option that is None unless given; `default` says what that means."""
    return typer.Option(help=text, show_default=default)


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


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """What makes a case: each field is an option, None unless given."""

    backbone: Annotated[
        str | None,
        option("A name from `petl-bench backbones`, a folder, config.json or hub id.", "t5-base"),
    ] = None
    workload: Annotated[
        str | None,
        option(f"A paper's: {', '.join(NAMED)}; other options override its fields.", "none"),
    ] = None
    batch_size: Annotated[int | None, option("Examples a step.", "100")] = None
    source_length: Annotated[int | None, option("Source tokens an example.", "128")] = None
    target_length: Annotated[int | None, option("Target tokens an example.", "3")] = None
    dtype: Annotated[str | None, option("Weights: fp32, bf16 or fp16.", "fp32")] = None
    optimizer: Annotated[
        str | None,
        option("adamw, adamw_fused, adamw_loop, adamw_8bit, adafactor or sgd.", "adamw"),
    ] = None
    attention: Annotated[str | None, option("eager or sdpa.", "eager")] = None
    quantize: Annotated[
        str | None, option("nf4, nf4_double or int8: frozen linear layers in few bits.", "none")
    ] = None
    mode: Annotated[str | None, option("training, inference or generate.", "training")] = None
    beams: Annotated[int | None, option("Beams of mode generate; 1 is greedy.", "1")] = None
    autocast: Annotated[
        str | None, option("bf16 or fp16: cast in forward, operator by operator.", "none")
    ] = None
    checkpointing: Annotated[
        bool | None, option("Run layers again in backward instead of keeping them.", "off")
    ] = None
    accumulation_steps: Annotated[
        int | None, option("Parts of a batch whose gradients are added up.", "1")
    ] = None
    clip_grad_norm: Annotated[
        float | None, option("Norm that gradients are clipped to; 0 switches it off.", "1.0")
    ] = None
    zero_grad: Annotated[
        str | None,
        option(
            "Gradients after a step: free, or keep, filled with zeros.", "the era's, today free"
        ),
    ] = None
    parallel: Annotated[
        str | None, option("ddp or fsdp2: simulate one rank of --world-size.", "none")
    ] = None
    world_size: Annotated[int | None, option("Ranks; --batch-size is each one's.", "none")] = None

    def axes(self) -> dict[str, dict[str, list[Any]]]:
        """A suite's axes of backbone and workload, of the options that were given."""
        axes: dict[str, dict[str, list[Any]]] = {"backbone": {}, "workload": {}}
        for option_name, value in vars(self).items():
            if value is not None:
                table, field = _FIELDS.get(option_name, ("workload", option_name))
                axes[table][field] = [value]
        return axes


_FIELDS = {
    "backbone": ("backbone", "name"),
    "dtype": ("backbone", "dtype"),
    "attention": ("backbone", "attention"),
    "quantize": ("backbone", "quantize"),
    "workload": ("workload", "name"),
    "source_length": ("workload", "source_length_tokens"),
    "target_length": ("workload", "target_length_tokens"),
}
"""Of a suite, where an option is no field of [workload] by the same name."""


def with_case_options(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb` as typer is to see it: for its parameter `case`, the options of a case."""
    spread = inspect.signature(CaseOptions).parameters
    own = inspect.signature(verb)

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        case = CaseOptions(**{name: given.pop(name) for name in spread})
        verb(case=case, **given)

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += spread.values() if parameter.name == "case" else [parameter]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def check_era(name: str | None) -> None:
    """Refuse an era that there is not.

    Raises:
        UsageError: no such era.
    """
    if name is not None and name not in ERAS:
        raise UsageError(f"emulate: {name!r} is not one of {', '.join(ERAS)}")
