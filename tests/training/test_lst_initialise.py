"""Side blocks cut out of every family's layers, and what the cutting needs."""

import pytest
import torch
from petl_bench.methods.lst import cut_from_backbone, fisher_information

from petl_bench import backbones, cards, method_spec
from petl_bench.case import Case, Workload
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Phase

FAMILIES = ("bert", "roberta", "bart-encoder", "bart", "llama", "qwen2", "qwen3", "clip-t5")


def places(part, whole):
    """Where the entries of `part` stand in `whole`, whose entries are all different."""
    where = {value: index for index, value in enumerate(whole.flatten().tolist())}
    assert len(where) == whole.numel()
    return torch.tensor([where[value] for value in part.flatten().tolist()]).view(part.shape)


def rows_and_columns(thin, linear):
    """The rows and columns of `linear` that `thin` consists of; its bias is of the same rows."""
    found = places(thin.weight, linear.weight)
    rows, columns = found // linear.in_features, found % linear.in_features
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    if thin.bias is not None:
        assert torch.equal(thin.bias, linear.bias[rows[:, 0]])
    return rows[:, 0].tolist(), columns[0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["fisher", "magnitude"])
def test_each_matrix_keeps_the_inputs_that_the_one_before_handed_on(family, by, attach, make_tiny):
    built = attach("lst[reduction=2,keep=all]", make_tiny(family))
    for parameter in built.plain.parameters():  # no two entries alike, in biases and norms neither
        shuffled = torch.randperm(parameter.numel()).view(parameter.shape)
        parameter.data = shuffled / parameter.numel() - 0.5
    importance = None
    if by == "fisher":
        importance = fisher_information(built.model, [built.batch()])
    cut_from_backbone(built.model, importance)
    kept = None
    for stack in built.ports.stacks:
        thin = built.model.ladders["default"].stack(stack.name).design.thin
        for sublayer in (s for s in built.ports.sublayers if s.stack == stack.name):
            (target,) = (
                each for each in thin.sublayers(sublayer.layer) if each.kind is sublayer.kind
            )
            cut = {
                role: rows_and_columns(target.projections[role], linear)
                for role, linear in sublayer.projections.items()
            }
            *inputs, output = cut
            assert all(cut[role][1] == (kept or cut[role][1]) for role in inputs)
            assert cut[output][1] == cut[inputs[0]][0]
            enters, kept = cut[inputs[0]][1], cut[output][0]
            norm = places(target.norm.weight, sublayer.norm.weight).tolist()
            assert norm == (kept if sublayer.norm_after else enters)


def phase_of(name, initialise):
    workload = Workload(batch_size=2, source_length_tokens=16)
    method = method_spec.resolve("lst", {"initialise": initialise})
    case = Case(backbone=backbones.find(name), method=method, workload=workload)
    return simulate(case, cards.find(cards.DEFAULT_CARD))


def test_what_initialisation_needs_is_a_phase_of_its_own():
    """Scores for T5-small's matrices, and what is worked out beside them, a few embeddings."""
    plain, magnitude, fisher = (
        phase_of("t5-small", by) for by in ("random", "magnitude", "fisher")
    )
    assert plain.of(Phase.INITIALISE) is None
    weights, embedding = plain.load.end_allocated_bytes, 4 * 32_128 * 512
    norms_and_tables = 4 * (32 * 512 + 2 * 32 * 8)
    matrices = weights - 4 * plain.trainable_parameters - norms_and_tables
    for seen in (magnitude, fisher):
        assert seen.steps == plain.steps
        assert seen.load == plain.load
        beside = seen.of(Phase.INITIALISE).peak_requested_bytes - weights - matrices
        assert embedding <= beside <= 4 * embedding
