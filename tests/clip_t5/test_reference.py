"""CLIP-T5 and its ladder against ones that are written out with nothing but tensors."""

import pytest
import torch

from . import plain_clip_t5 as plain

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # fp32, sums in another order
LST = "lst[reduction=2,keep=all]"
TWO_IMAGES = {"images": 2}


def weights(module):
    """Copies that take gradients of their own, a tied one once."""
    return {
        name: p.detach().clone().requires_grad_(p.requires_grad)
        for name, p in module.named_parameters()
    }


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("changes", [{}, TWO_IMAGES], ids=["one image", "two images"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_and_gradients_of_the_backbone(changes, attention, built, workload, stirred):
    model, batch = built("full", workload.model_copy(update=changes), attention=attention)
    stirred(model)
    output = model(**batch)
    output.loss.backward()
    w = weights(model)
    visual = plain.visual_tokens(w, batch["image_features"], grid=3, pooled=2)
    assert visual.shape[1] == 4 * (2 if changes else 1)
    logits = plain.logits(w, batch, visual)
    cross_entropy(logits, batch["labels"]).backward()
    torch.testing.assert_close(output.logits, logits, **TOLERANCE)
    for name, parameter in model.named_parameters():
        expected = w[name].grad
        if expected is None:  # a box of zeros, and the second of two images
            expected = torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, **TOLERANCE, msg=name)


@pytest.mark.parametrize("changes", [{}, TWO_IMAGES], ids=["one image", "two images"])
@pytest.mark.parametrize("sight", ["side", "both"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_and_gradients_of_a_ladder(  # noqa: PLR0917
    changes, sight, attention, built, workload, stirred
):
    spec = f"{LST[:-1]},extra_input={sight}]"
    model, batch = built(spec, workload.model_copy(update=changes), attention=attention)
    stirred(model)
    output = model(**batch)
    output.loss.backward()
    w, ladder = weights(model), weights(model.ladders["default"])
    visual = plain.visual_tokens(w, batch["image_features"], grid=3, pooled=2)
    logits = plain.ladder_logits(w, ladder, batch, visual, sight == "both")
    cross_entropy(logits, batch["labels"]).backward()
    torch.testing.assert_close(output.logits, logits, **TOLERANCE)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        inside = name.removeprefix("ladders.default.")
        expected = (w[name] if "visual_embedding" in name else ladder[inside]).grad
        if expected is None:
            expected = torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, **TOLERANCE, msg=name)


def test_without_an_image_it_is_a_plain_t5(built):
    from transformers import T5ForConditionalGeneration

    model, batch = built()
    del batch["image_features"]
    t5 = T5ForConditionalGeneration(model.config)
    t5.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model.eval()(**batch).logits, t5.eval()(**batch).logits)


@pytest.mark.parametrize("spec", ["full", LST])
def test_the_bias_is_the_texts_alone(spec, built):
    """Every position bias that a self-attention of either encoder is given."""
    model, batch = built(spec)
    model.eval()
    biases = []
    first = [
        layer
        for module in model.modules()
        if type(module).__name__ == "T5Block" and not module.is_decoder
        for layer in [module.layer[0].SelfAttention]
    ]
    for attention in first:
        attention.register_forward_hook(lambda _m, _a, output: biases.append(output[1]))
    model(**batch)
    T, X = batch["input_ids"].shape[1], 4
    sizes = {bias.shape[-1] for bias in biases}
    assert sizes == ({T + X} if spec == "full" else {T, T + X})
    for bias in biases:
        assert bias[..., :T, :T].abs().min() > 0
        assert bias[..., T:, :].abs().sum() == bias[..., :, T:].abs().sum() == 0


@pytest.mark.parametrize("spec", ["full", LST])
def test_padding_is_hidden_and_the_image_is_not(spec, built, stirred):
    model, batch = built(spec)
    stirred(model)
    before = model(**batch).logits
    hidden = {**batch, "input_ids": batch["input_ids"].clone()}
    hidden["input_ids"][-1, -1] = 5 if batch["input_ids"][-1, -1] != 5 else 6
    torch.testing.assert_close(model(**hidden).logits, before)
    other = {**batch, "image_features": batch["image_features"].clone()}
    other["image_features"][-1, -1] += 10
    after = model(**other).logits
    torch.testing.assert_close(after[:-1], before[:-1])
    assert (after[-1] - before[-1]).abs().max() > 1e-3


def test_features_that_are_no_grid_are_refused(built):
    model, batch = built()
    batch["image_features"] = batch["image_features"][:, :-1]
    with pytest.raises(ValueError, match="8 features are no images of 3 x 3 each"):
        model(**batch)
