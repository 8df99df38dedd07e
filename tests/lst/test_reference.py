"""The ladder against one that is written out with nothing but tensors, forward and backward."""

import pytest
import torch
from petl_bench.methods.lst import attach_lst

from . import plain_lst

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"reduction": 2, "keep": "all"}, (0, 1, 2, 3)),
        ({"reduction": 4, "keep": "paper"}, (1, 2, 3)),
        ({"reduction": 8, "keep": "3", "temperature": 1.0}, (3,)),
        ({"reduction": 1, "keep": "0,2", "temperature": 0.5}, (0, 2)),
    ],
)
def test_logits_loss_and_gradients(options, kept, t5, batch, stirred):
    stirred(attach_lst(t5, **options))
    output = t5(**batch)
    output.loss.backward()
    ladder = {name: p.detach().clone() for name, p in t5.ladders["default"].named_parameters()}
    for weight in ladder.values():
        weight.requires_grad = True
    backbone = {name: p for name, p in t5.named_parameters() if not name.startswith("ladders")}
    shape = plain_lst.Shape(heads=4, kept=kept, temperature=options.get("temperature", 0.1))
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
