"""What each method computes, against an implementation that shares nothing with it."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.record import Phase

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # fp32, sums in another order


@pytest.fixture
def backbone(make_tiny_t5):
    return make_tiny_t5()


@pytest.fixture
def reference(attach, backbone):
    """The plain backbone with the weights that every other build of the same seed has."""
    model = attach("full", backbone).model
    return model.eval()


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch)["logits"]


@pytest.mark.parametrize(
    "spec", ["lora", "lora[biases=all]", "bitfit", "bitfit[terms=norms]", "ia3"]
)
def test_methods_that_start_as_the_identity_reproduce_the_backbone(
    spec, attach, backbone, reference
):
    built = attach(spec, backbone)
    batch = built.batch()
    torch.testing.assert_close(logits(built.model, batch), logits(reference, batch), **TOLERANCE)


def test_lora_is_the_backbone_with_scaled_ba_added_to_its_weights(attach, backbone, reference):
    built = attach("lora[r=2,alpha=6,dropout=0]", backbone)
    batch = built.batch()
    plain = dict(reference.named_modules())
    for name, module in built.plain.named_modules():
        if hasattr(module, "lora_A"):
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            torch.nn.init.normal_(up)
            plain[name].weight.data += 6 / 2 * (up @ down)
    torch.testing.assert_close(logits(built.model, batch), logits(reference, batch), **TOLERANCE)


def test_lora_trains_the_targets_it_was_given_and_names_unknown_ones(attach, backbone):
    built = attach("lora[r=2,targets=o,wi]", backbone)
    owners = {n.split(".lora_")[0] for n, p in built.model.named_parameters() if p.requires_grad}
    assert {owner.rsplit(".", 1)[1] for owner in owners} == {"o", "wi"}
    with pytest.raises(ValueError, match=r"no projection 'up'; here are: q, k, v, o"):
        attach("lora[targets=up]", backbone)


def trained(built):
    """The modules with an update beside them."""
    names = (name for name, p in built.model.named_parameters() if p.requires_grad)
    return {name.partition(".lora_")[0] for name in names}


@pytest.mark.parametrize("family", ["t5", "llama", "bart"])
def test_all_linear_is_what_peft_takes_it_for(family, attach, make_tiny):
    ours = attach("lora[r=2,targets=all-linear]", make_tiny(family))
    theirs = attach("peft:lora[r=2,target_modules=all-linear]", make_tiny(family))
    assert trained(ours) == trained(theirs)
    assert trained(ours)


def test_targets_may_have_the_names_that_the_model_gives_them(attach, make_tiny):
    by_name = attach("lora[r=2,targets=q_proj,down_proj,gate_proj]", make_tiny("llama"))
    assert by_name.config == attach("lora[r=2,targets=q,wo,wi_0]", make_tiny("llama")).config
    leaves = {name.rpartition(".")[2] for name in trained(by_name)}
    assert leaves == {"q_proj", "down_proj", "gate_proj"}


def gradients(built):
    """Of every parameter that trains, after one backward without dropout."""
    built.model.eval()
    built.model(**built.batch())["loss"].backward()
    return {
        name: parameter.grad
        for name, parameter in built.model.named_parameters()
        if parameter.requires_grad
    }


def test_lora_fa_trains_what_pefts_lora_fa_trains_with_loras_own_gradients(attach, backbone):
    """peft has LoRA-FA as an optimizer, which freezes every A when it is made."""
    from peft.optimizers import create_lorafa_optimizer

    ours = attach("lora_fa[r=2,alpha=4,dropout=0]", backbone)
    plain = attach("lora[r=2,alpha=4,dropout=0]", backbone)
    found, of_lora = gradients(ours), gradients(plain)
    assert {name for name in of_lora if "lora_B" in name} == set(found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, of_lora[name])
    assert any(gradient.abs().sum() > 0 for gradient in found.values())
    create_lorafa_optimizer(model=plain.model, r=2, lora_alpha=4, lr=1e-3)
    theirs = {name for name, p in plain.model.named_parameters() if p.requires_grad}
    assert theirs == set(found)


def alive_after_forward(ledger):
    """Bytes alive when the first forward ends: no optimizer state is there yet."""
    first = next(window for window in ledger.windows if window.phase is Phase.FORWARD)
    return sum(
        ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
        for event in ledger.events[: first.stop]
    )


def test_lora_fa_does_not_keep_what_loras_a_reads(attach, backbone, ledger_of, small_workload):
    """On the feed-forward's wo: dropout's result of [B, T, 64] in float32, in four layers a stack.

    The source paper's table 1 writes bsd + bsr against bsr. The narrow A x both keep, for B.
    """
    lora, lora_fa = (
        alive_after_forward(ledger_of(attach(f"{name}[r=2,targets=wo]", backbone, "meta")))
        for name in ("lora", "lora_fa")
    )
    load = small_workload
    tokens = load.batch_size * (load.source_length_tokens + load.target_length_tokens)
    assert lora - lora_fa == 4 * tokens * 64 * 4


def test_prompt_tuning_is_the_backbone_on_concatenated_embeddings(attach, backbone, reference):
    built = attach("prompt[tokens=4]", backbone)
    batch = built.batch()
    (prompt_PD,) = (p for p in built.model.parameters() if p.requires_grad)
    expected = logits_with_prompt(reference, prompt_PD, batch)
    torch.testing.assert_close(logits(built.model, batch), expected, **TOLERANCE)


def logits_with_prompt(reference, prompt_PD, batch):
    """What the plain backbone says when the prompt stands before every source."""
    B, P = len(batch["input_ids"]), len(prompt_PD)
    embedded = reference.shared(batch["input_ids"])
    together = torch.cat([prompt_PD.expand(B, -1, -1), embedded], dim=1)
    mask = torch.cat([torch.ones(B, P, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        return reference(inputs_embeds=together, attention_mask=mask, labels=batch["labels"]).logits


def test_p_tuning_prompts_with_what_an_lstm_writes(attach, backbone, reference):
    built = attach("ptuning[tokens=4,hidden=6]", backbone)
    batch = built.batch()
    encoder = built.model.prompt_encoder["default"]
    weights = dict(encoder.lstm_head.named_parameters())
    states = encoder.embedding.weight
    with torch.no_grad():
        for layer in (0, 1):
            ahead = lstm(states, weights, f"l{layer}")
            back = lstm(states.flip(0), weights, f"l{layer}_reverse").flip(0)
            states = torch.cat([ahead, back], dim=1)
        first, _, second = encoder.mlp_head
        prompt_PD = affine(affine(states, first).clamp(min=0), second)
    expected = logits_with_prompt(reference, prompt_PD, batch)
    torch.testing.assert_close(logits(built.model, batch), expected, **TOLERANCE)


def test_p_tuning_with_an_mlp_has_three_layers(attach, backbone, reference):
    built = attach("ptuning[tokens=4,encoder=mlp,hidden=6]", backbone)
    batch = built.batch()
    encoder = built.model.prompt_encoder["default"]
    first, _, second, _, third = encoder.mlp_head
    with torch.no_grad():
        inner = affine(encoder.embedding.weight, first).clamp(min=0)
        prompt_PD = affine(affine(inner, second).clamp(min=0), third)
    expected = logits_with_prompt(reference, prompt_PD, batch)
    torch.testing.assert_close(logits(built.model, batch), expected, **TOLERANCE)


def affine(x, linear):
    return x @ linear.weight.T + linear.bias


def lstm(inputs, weights, name):
    """Hochreiter & Schmidhuber's cell with forget gates, over [P, D], from a state of zeros."""
    hidden = weights[f"weight_hh_{name}"].shape[1]
    h = c = torch.zeros(hidden)
    outputs = []
    for x in inputs:
        gates = weights[f"weight_ih_{name}"] @ x + weights[f"bias_ih_{name}"]
        gates = gates + weights[f"weight_hh_{name}"] @ h + weights[f"bias_hh_{name}"]
        enter, forget, candidate, leave = gates.chunk(4)
        c = forget.sigmoid() * c + enter.sigmoid() * candidate.tanh()
        h = leave.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


def test_ia3_is_the_backbone_with_rescaled_weights(attach, backbone, reference):
    """Rows of k and v, and columns of wo, times their vectors; nothing else."""
    built = attach("ia3", backbone)
    batch = built.batch()
    plain = dict(reference.named_modules())
    rescaled = set()
    for name, module in built.plain.named_modules():
        if hasattr(module, "ia3_l"):
            vector = module.ia3_l["default"]
            torch.nn.init.normal_(vector)
            by_column = name.endswith(".wo")
            plain[name].weight.data *= vector.view(1, -1) if by_column else vector.view(-1, 1)
            rescaled.add(name.rsplit(".", 1)[1])
    assert rescaled == {"k", "v", "wo"}
    torch.testing.assert_close(logits(built.model, batch), logits(reference, batch), **TOLERANCE)


def test_an_adapter_is_a_residual_bottleneck_on_the_branch(attach, backbone):
    built = attach("adapter[bottleneck=3]", backbone)
    output = built.ports.sublayers[0].output
    adapter = output.adapter
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(2, 5, 32)
    branch = F.linear(x, output.weight)
    inner = branch @ adapter.down.weight.T + adapter.down.bias
    gelu = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    expected = branch + gelu @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(output(x), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("placement", "kinds"),
    [("houlsby", {"self_attention", "feed_forward"}), ("pfeiffer", {"feed_forward"})],
)
def test_adapters_stand_where_their_paper_puts_them(placement, kinds, attach, backbone):
    built = attach(f"adapter[placement={placement}]", backbone)
    adapted = {s.kind for s in built.ports.sublayers if hasattr(s.output, "adapter")}
    assert adapted == kinds


def test_a_bias_shifts_what_it_was_added_to(attach, backbone, reference):
    built = attach("bitfit", backbone)
    batch = built.batch()
    torch.nn.init.constant_(built.ports.language_head.bias, 0.5)
    expected = logits(reference, batch) + 0.5
    torch.testing.assert_close(logits(built.model, batch), expected, **TOLERANCE)
    norm = built.ports.sublayers[0].norm
    torch.nn.init.constant_(norm.bias, 2.0)
    x = torch.randn(1, 2, 32)
    rms = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(norm(x), rms + 2.0, **TOLERANCE)


def test_lst_is_the_papers_recurrence(attach, backbone, reference):
    """Section 1 of the paper written out: gates, rungs and side blocks, layer by layer."""
    built = attach("lst[reduction=2,keep=1,3,temperature=0.5]", backbone)
    model = built.model.eval()
    side = model.ladders["default"]
    for ladder in side.stacks.values():
        torch.nn.init.normal_(ladder.gates)
        for rung in [ladder.entry, *ladder.rungs.values()]:
            torch.nn.init.normal_(rung.weight, std=0.3)
    batch = built.batch()
    actual = logits(model, batch)

    with torch.no_grad():
        encoder_side = None
        encoder_states = reference.encoder(
            batch["input_ids"], batch["attention_mask"]
        ).last_hidden_state
        runs = {
            "encoder": (reference.encoder, batch["input_ids"], {}),
            "decoder": (
                reference.decoder,
                reference._shift_right(batch["labels"]),
                {"encoder_hidden_states": encoder_states},
            ),
        }
        for name, (stack, tokens, extra) in runs.items():
            ladder = side.stacks[name]
            states = states_after_blocks(stack, tokens, batch["attention_mask"], name, extra)
            s = ladder.entry(stack.embed_tokens(tokens))
            bias = cross_bias = None
            for layer in (1, 3):
                mu = torch.sigmoid(ladder.gates[layer] / 0.5)
                s = mu * s + (1 - mu) * ladder.rungs[str(layer)](states[layer])
                s, bias, cross_bias = ladder.design.thin.block[str(layer)](
                    s,
                    attention_mask=additive_mask(name, batch, tokens.shape[1]),
                    position_bias=bias,
                    encoder_hidden_states=encoder_side,
                    encoder_attention_mask=additive_mask("encoder", batch, tokens.shape[1]),
                    encoder_decoder_position_bias=cross_bias,
                )
            rms = s * torch.rsqrt(s.pow(2).mean(-1, keepdim=True) + 1e-6)
            encoder_side = rms * ladder.design.thin.final_layer_norm.weight
        out = encoder_side @ side.exit.weight.T + side.exit.bias
        expected = out * 32**-0.5 @ reference.shared.weight.T
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def states_after_blocks(stack, tokens, source_mask, name, extra):
    """What each block of a stack returns, by hooks of our own."""
    states = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: states.append(out[0]))
        for block in stack.block
    ]
    if name == "encoder":
        stack(tokens, source_mask)
    else:
        stack(tokens, encoder_attention_mask=source_mask, **extra)
    for handle in handles:
        handle.remove()
    return states


def additive_mask(name, batch, queries):
    """0 where attention may look and the lowest float where it may not, [B, 1, queries, keys]."""
    lowest = torch.finfo(torch.float32).min
    if name == "decoder":
        allowed = torch.tril(torch.ones(queries, queries, dtype=torch.bool))[None, None]
    else:
        allowed = batch["attention_mask"].bool()[:, None, None, :].expand(-1, -1, queries, -1)
    return torch.where(allowed, 0.0, lowest)


def test_the_ladder_sees_every_example_alike(attach, backbone):
    """A permutation of the batch permutes the logits: no state leaks from pass to pass."""
    built = attach("lst[reduction=2]", backbone)
    batch = built.batch()
    once = logits(built.model, batch)
    flipped = logits(built.model, {key: value.flip(0) for key, value in batch.items()})
    torch.testing.assert_close(once.flip(0), flipped, **TOLERANCE)


def test_lst_leaves_no_tensor_behind(attach, backbone):
    built = attach("lst[reduction=2]", backbone)
    built.model(**built.batch())["loss"].backward()
    ladder = built.model.ladders["default"]
    assert all(side.state_BTd is None for side in ladder.stacks.values())
    for parameter in set(built.model.parameters()) - set(ladder.parameters()):
        assert parameter.grad is None


def test_backbone_dropout_can_be_switched_off(attach, backbone):
    off = attach("lst[reduction=2,backbone_dropout=false]", backbone).model.train()
    on = attach("lst[reduction=2]", backbone).model.train()
    batch = attach("full", backbone).batch()
    off(**batch)
    on(**batch)
    assert not off.encoder.training
    assert not off.decoder.block[0].training
    assert off.ladders["default"].stacks["encoder"].entry_dropout.training
    assert on.encoder.training
    assert off.train().encoder.training  # until its next pass


@pytest.mark.parametrize(
    ("keep", "message"),
    [("9", "lst: keep names layer 9; the encoder has 0 to 3")],
)
def test_lst_says_which_layer_is_not_there(keep, message, attach, backbone):
    with pytest.raises(ValueError, match=message):
        attach(f"lst[reduction=2,keep={keep}]", backbone)
