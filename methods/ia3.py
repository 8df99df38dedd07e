"""(IA)^3: learned vectors rescale keys, values and the feed-forward's inner activations.

softmax(q (l_k . k)^T) (l_v . v),   (l_ff . f(W_in x)) W_out,   all l start at one;
everything else is frozen. The layers are peft's: l_k and l_v multiply what the projections k and
v return, l_ff what the feed-forward's last projection is given.
Source: Liu, Tam, Muqeeth, Mohta, Huang, Bansal & Raffel 2022, arXiv:2205.05638, section 3.3.
"""

from torch import nn

from petl_bench.backbones.ports import Dims, Ports, SublayerKind
from petl_bench.branches import FEED_FORWARD, count
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model


class Ia3Config(MethodConfig):
    """Nothing to choose: the paper has one recipe."""


def attach(model: nn.Module, ports: Ports, config: Ia3Config) -> nn.Module:
    """Peft's model with a vector on every k, v and last projection of a feed-forward."""
    del config
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    names = {module: name for name, module in model.named_modules()}
    feed_forward, attention = [], []
    for sublayer in ports.sublayers:
        if sublayer.kind is SublayerKind.FEED_FORWARD:
            feed_forward.append(names[sublayer.output])
        else:
            attention += [names[sublayer.projections[role]] for role in ("k", "v")]
    if not attention:
        raise ValueError("ia3: no k and v projections")
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
    in_attention = dims.output_size("k") + dims.output_size("v")
    in_feed_forward = count(dims, FEED_FORWARD) * dims.feed_forward_size
    return dims.attentions * in_attention + in_feed_forward + dims.task_head_parameters


METHOD = Method(
    name="ia3",
    title="(IA)^3",
    source="Liu et al. 2022, arXiv:2205.05638, section 3.3",
    config=Ia3Config,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
