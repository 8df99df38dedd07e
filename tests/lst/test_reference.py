"""The ladder against one that is written out with nothing but tensors, forward and backward."""

import pytest
import torch

from petl_bench.methods.lst import attach_lst

from . import plain_lst

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize(
    ("reduction", "keep", "kept", "temperature"),
    [
        (2, "all", (0, 1, 2, 3), 0.1),
        (4, "paper", (1, 2, 3), 0.1),
        (8, "3", (3,), 1.0),
        (1, "0,2", (0, 2), 0.5),
    ],
)
def test_logits_loss_and_gradients(reduction, keep, kept, temperature, t5, batch, stirred):
    attach_lst(t5, reduction=reduction, keep=keep, temperature=temperature)
    stirred(t5)
    output = t5(**batch)
    output.loss.backward()
    ladder = {name: p.detach().clone() for name, p in t5.ladders["default"].named_parameters()}
    for weight in ladder.values():
        weight.requires_grad = True
    backbone = {name: p for name, p in t5.named_parameters() if not name.startswith("ladders")}
    shape = plain_lst.Shape(heads=4, kept=kept, temperature=temperature)
    loss, logits = plain_lst.loss_and_logits(
        backbone, ladder, shape, batch["input_ids"], batch["attention_mask"], batch["labels"]
    )
    loss.backward()
    torch.testing.assert_close(output.logits, logits, **TOLERANCE)
    torch.testing.assert_close(output.loss, loss, **TOLERANCE)
    for name, parameter in t5.ladders["default"].named_parameters():
        expected = ladder[name].grad
        assert expected is not None, name
        torch.testing.assert_close(parameter.grad, expected, **TOLERANCE, msg=name)
