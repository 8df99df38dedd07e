"""Compacter against its formula with torch.kron, term by term."""

import pytest
import torch

from petl_bench import method_spec, registry

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def backbone(make_tiny_t5):
    return make_tiny_t5()


def kronecker_sum(rule, left, right):
    return sum(
        torch.kron(a, s @ t) for a, s, t in zip(rule, left, right, strict=True)
    )  # [n, n] (x) [out / n, in / n] -> [out, in]


@pytest.mark.parametrize("spec", ["compacter", "compacter[phm_dim=2,rank=3,reduction=4]"])
def test_an_adapter_is_a_residual_bottleneck_of_kronecker_sums(spec, attach, backbone):
    output = attach(spec, backbone).ports.sublayers[0].output
    adapter = output.adapter
    torch.nn.init.normal_(adapter.down.rule)
    torch.nn.init.normal_(adapter.down.bias)
    torch.nn.init.normal_(adapter.up.bias)
    down = kronecker_sum(adapter.down.rule, adapter.down.left, adapter.down.right)
    up = kronecker_sum(adapter.up.rule, adapter.up.left, adapter.up.right)
    x = torch.randn(2, 5, 32)
    branch = x @ output.weight.T
    inner = branch @ down.T + adapter.down.bias
    gelu = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    expected = branch + gelu @ up.T + adapter.up.bias
    assert (expected - branch).abs().max() > 0.1, "the adapter does something"
    torch.testing.assert_close(output(x), expected, **TOLERANCE)


def test_every_layer_multiplies_by_the_same_rule(attach, backbone):
    built = attach("compacter", backbone)
    layers = [m for m in built.model.modules() if hasattr(m, "rule")]
    assert len(layers) == 2 * 2 * (4 + 4)  # down and up, two branches, eight layers
    assert len({id(layer.rule) for layer in layers}) == 1
    rules = [name for name, _ in built.model.named_parameters() if name.endswith("rule")]
    assert len(rules) == 1


@pytest.mark.parametrize(
    ("placement", "kinds"),
    [("compacter", {"self_attention", "feed_forward"}), ("compacter++", {"feed_forward"})],
)
def test_adapters_stand_where_the_paper_puts_them(placement, kinds, attach, backbone):
    built = attach(f"compacter[placement={placement}]", backbone)
    assert {s.kind for s in built.ports.sublayers if hasattr(s.output, "adapter")} == kinds


def test_it_starts_near_the_identity(attach, backbone):
    built, plain = attach("compacter", backbone), attach("full", backbone)
    batch = built.batch()
    with torch.no_grad():
        actual = built.model.eval()(**batch).logits
        expected = plain.model.eval()(**batch).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("compacter[phm_dim=7]", "phm_dim 7 does not divide the hidden size of 32"),
        ("compacter[phm_dim=8,reduction=3]", "phm_dim 8 does not divide the bottleneck of 10"),
    ],
)
def test_widths_that_do_not_fall_into_parts_are_unsupported(spec, reason, attach, backbone):
    dims = attach("full", backbone).dims
    ((_, choice),) = method_spec.parse_specs(spec)
    method = registry.get("compacter")
    config = method_spec.validated_config(method, choice.config)
    assert method.unsupported(dims, config) == reason
