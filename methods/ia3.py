"""(IA)^3: learned vectors rescale keys, values and the feed-forward's inner activations.

softmax(q (l_k . k)^T) (l_v . v),   (l_ff . f(W_in x)) W_out,   all l start at one;
everything else is frozen. The layers are peft's: l_k and l_v multiply what the projections k and
v return, l_ff what the feed-forward's last projection is given.
Source: Liu, Tam, Muqeeth, Mohta, Huang, Bansal & Raffel 2022, arXiv:2205.05638, section 3.3.
"""

from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model


class Ia3Config(MethodConfig):
    """Nothing to choose: the paper has one recipe."""


def attach(model: nn.Module, ports: Ports, config: Ia3Config) -> nn.Module:
    """Peft's model with a vector on every k, v and last projection of a feed-forward."""
    del config
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    names = {module: name for name, module in model.named_modules()}
    roles = ports.projections
    missing = [role for role in ("k", "v", "wo") if role not in roles]
    if missing:
        raise ValueError(f"ia3: no projection {missing[0]!r}; here are: {', '.join(roles)}")
    attention = [names[linear] for role in ("k", "v") for linear in roles[role]]
    feed_forward = [names[linear] for linear in roles["wo"]]
    return get_peft_model(
        model,
        ports,
        peft.IA3Config(
            task_type=ports.peft_task,
            target_modules=attention + feed_forward,
            feedforward_modules=feed_forward,
        ),
    )


def trainable_parameters(dims: Dims, config: Ia3Config) -> int:
    """The outputs of k and v an attention, F a feed-forward, and the task head.

    T5-base: 36 * 2 * 768 + 24 * 3,072 = 129,024.
    """
    del config
    attention = sum(outputs for role in ("k", "v") for _, outputs in dims.shapes(role))
    feed_forward = sum(inputs for inputs, _ in dims.shapes("wo"))
    return attention + feed_forward + dims.task_head_parameters


def unsupported(dims: Dims, config: Ia3Config) -> str | None:
    """A backbone without keys, values or a feed-forward's last projection of their own."""
    del config
    for role in ("k", "v", "wo"):
        if role not in dims.roles:
            return f"no projection {role!r} to rescale; here are: {', '.join(dims.roles)}"
    return None


METHOD = Method(
    name="ia3",
    title="(IA)^3",
    source="Liu et al. 2022, arXiv:2205.05638, section 3.3",
    config=Ia3Config,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
)
