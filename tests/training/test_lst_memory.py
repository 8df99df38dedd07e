"""What a ladder lets the frozen backbone keep, by the ledger."""

from petl_bench import backbones, cards, method_spec
from petl_bench.case import Case, Workload
from petl_bench.explain import explain
from petl_bench.record import Category

BATCH, SOURCE, WIDTH = 8, 128, 512  # T5-small's
KEPT = ("1", "2", "3", "5")


def test_of_the_backbone_only_what_rungs_read_outlives_its_layer():
    case = Case(
        backbone=backbones.find("t5-small"),
        method=method_spec.resolve("lst", {}),
        workload=Workload(batch_size=BATCH, source_length_tokens=SOURCE),
    )
    alive = explain(case, cards.find(cards.DEFAULT_CARD)).tensors
    kept = [tensor for tensor in alive if tensor.category is Category.ACTIVATION]
    of_the_backbone = [tensor for tensor in kept if not tensor.module.startswith("ladders")]
    assert 0 < len(of_the_backbone) < len(kept)
    for tensor in of_the_backbone:
        stack, block, index, *_ = tensor.module.split(".")
        assert (stack, block) == ("encoder", "block")
        assert index in KEPT
        assert tensor.operator == "aten::add.Tensor"  # a layer's last sum
        assert tensor.allocated_bytes == 4 * BATCH * SOURCE * WIDTH
