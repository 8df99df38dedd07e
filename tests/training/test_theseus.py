"""BERT-of-Theseus: the chain of layers that a draw makes, and which draw needs most."""

import itertools

import pytest
import torch

from petl_bench import method_spec, registry
from petl_bench.case import Workload

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def backbone(make_tiny_t5):
    return make_tiny_t5(dropout_rate=0.0)  # four layers a stack: modules 0, 1 and 2, 3


def additive(allowed):
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)


def logits_of_chains(t5, batch, chains):
    """T5 with the layers of `chains` instead of its own, called one after the other."""
    source_mask = additive(batch["attention_mask"].bool())[:, None, None, :]
    start = torch.zeros_like(batch["labels"][:, :1])
    shifted = torch.cat([start, batch["labels"][:, :-1]], dim=1)
    T = shifted.shape[1]
    causal = additive(torch.ones(1, 1, T, T, dtype=torch.bool).tril())
    memory = None
    for name, ids, mask in (
        ("encoder", batch["input_ids"], source_mask),
        ("decoder", shifted, causal),
    ):
        x, bias, cross_bias = t5.shared(ids), None, None
        for block in chains[name]:
            x, bias, cross_bias = block(x, mask, bias, memory, source_mask, cross_bias)
        stack = getattr(t5, name)
        memory = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        memory = memory * stack.final_layer_norm.weight
    return memory * 32**-0.5 @ t5.shared.weight.T


def unlike(successors):
    """Successors start as copies; only other values tell them from predecessors."""
    with torch.no_grad():
        for parameter in successors.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("replaced", list(itertools.product([True, False], repeat=4)))
def test_a_pass_runs_the_layers_that_were_drawn(replaced, attach, backbone, monkeypatch):
    built = attach("theseus", backbone)
    model, plain = built.model.train(), built.plain
    unlike(model.successors)
    monkeypatch.setattr(model, "draw", lambda: list(replaced))
    draws = iter(replaced)
    chains = {
        name: [
            block
            for i, successor in enumerate(successors)
            for block in (
                [successor] if next(draws) else [stack.block[2 * i], stack.block[2 * i + 1]]
            )
        ]
        for (name, stack), successors in zip(
            (("encoder", plain.encoder), ("decoder", plain.decoder)), model.successors, strict=True
        )
    }
    batch = built.batch()
    with torch.no_grad():
        actual, expected = model(**batch).logits, logits_of_chains(plain, batch, chains)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_in_eval_mode_the_compressed_model_answers(attach, backbone):
    built = attach("theseus", backbone)
    unlike(built.model.successors)
    encoder, decoder = built.model.successors
    batch = built.batch()
    with torch.no_grad():
        actual = built.model.eval()(**batch).logits
        expected = logits_of_chains(built.plain, batch, {"encoder": encoder, "decoder": decoder})
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_successors_start_as_the_first_layers(attach, backbone):
    built = attach("theseus", backbone)
    for stack, successors in zip(built.ports.stacks, built.model.successors, strict=True):
        for layer, successor in zip(stack.layers[:2], successors, strict=True):
            copies = dict(successor.named_parameters())
            for name, parameter in layer.named_parameters():
                assert torch.equal(copies[name], parameter)
                assert copies[name].data_ptr() != parameter.data_ptr()


def test_gradients_pass_frozen_layers_and_leave_nothing_there(attach, backbone):
    built = attach("theseus", backbone)
    built.model.draw()  # the first step replaces everything
    built.model.train()(**built.batch())["loss"].backward()
    encoder, decoder = built.model.successors
    assert all(parameter.grad is not None for parameter in encoder[0].parameters())
    for idle in (encoder[1], *decoder):
        assert all(parameter.grad is None for parameter in idle.parameters())
    assert all(parameter.grad is None for parameter in built.plain.parameters())


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_pass_the_backbone_has_its_own_layers(fails, attach, backbone):
    built = attach("theseus", backbone)
    batch = built.batch()
    if fails:
        with pytest.raises(IndexError):
            built.model(**{**batch, "input_ids": batch["input_ids"] + 1000})
    else:
        built.model(**batch)
    for stack in built.ports.stacks:
        assert list(getattr(built.plain, stack.name).block) == list(stack.layers)


def test_the_first_step_replaces_all_modules_and_later_ones_as_asked(attach, backbone):
    first = attach("theseus", backbone).model
    assert [first.draw() for _ in range(3)] == [[True] * 4, *[[True, False, False, False]] * 2]
    everything = attach("theseus[draw=all]", backbone).model
    assert [everything.draw() for _ in range(3)] == [[True] * 4] * 3


def test_random_draws_follow_rate_and_seed_and_always_replace_something(attach, backbone):
    def draws(spec):
        model = attach(spec, backbone).model
        return [model.draw() for _ in range(401)][1:]

    drawn = draws("theseus[draw=random,rate=0.25]")
    assert drawn == draws("theseus[draw=random,rate=0.25]")
    assert drawn != draws("theseus[draw=random,rate=0.25,seed=1]")
    assert all(any(replaced) for replaced in drawn)
    # Given that one of four is replaced: 0.25 / (1 - 0.75**4).
    share = sum(sum(replaced) for replaced in drawn) / (4 * len(drawn))
    assert share == pytest.approx(0.25 / (1 - 0.75**4), abs=0.04)


def test_where_activations_outweigh_weights_the_first_module_alone_needs_most(
    attach, make_tiny_t5, ledger_of, peaks_of, monkeypatch
):
    workload = Workload(batch_size=16, source_length_tokens=48, target_length_tokens=24)
    peaks = {}
    for replaced in itertools.product([True, False], repeat=4):
        if any(replaced):
            built = attach("theseus", make_tiny_t5(), device="meta")
            steps = iter([[True] * 4, list(replaced)])
            monkeypatch.setattr(built.model, "draw", steps.__next__)
            peaks[replaced] = max(peaks_of(ledger_of(built, workload), step=1).values())
    assert max(peaks, key=peaks.__getitem__) == (True, False, False, False)
    assert peaks[True, True, True, True] < peaks[True, False, False, False]


def test_layers_that_do_not_fall_into_groups_are_unsupported(attach, make_tiny_t5):
    dims = attach("full", make_tiny_t5(num_decoder_layers=3)).dims
    method = registry.get("theseus")
    config = method_spec.validated_config(method, {})
    assert method.unsupported(dims, config) == "group 2 does not divide the 3 layers of the decoder"


def test_it_generates_with_its_successors(attach, backbone):
    """Cached or not, the compressed model's tokens and not the backbone's."""
    torch.manual_seed(0)
    built = attach("theseus", backbone)
    for parameter in built.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    built.model.eval()
    inputs = {key: value for key, value in built.batch().items() if key != "labels"}
    asked = {"max_new_tokens": 8, "min_new_tokens": 8}
    cached, plain = (built.model.generate(**inputs, **asked, use_cache=c) for c in (True, False))
    assert torch.equal(cached, plain)
    assert not torch.equal(cached, built.plain.generate(**inputs, **asked))


@pytest.mark.parametrize("draw", ["first", "all"])
def test_layers_of_both_kinds_are_recomputed(draw, attach, backbone):
    found, calls = [], []
    for recomputed in (False, True):
        built = attach(f"theseus[draw={draw}]", backbone)
        if recomputed:
            built.method.checkpoint(built.model)
        built.model.train()(**built.batch())["loss"].backward()  # all are replaced
        for layer in (*built.plain.encoder.block, *built.model.successors[0]):
            layer.layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
        calls.clear()
        built.model.zero_grad()
        built.model(**built.batch())["loss"].backward()
        found.append(([p.grad for p in built.model.successors[0].parameters()], len(calls)))
    (gradients, once), (again, twice) = found
    torch.testing.assert_close(again, gradients)
    assert twice == 2 * once == 2 * {"first": 3, "all": 2}[draw]
