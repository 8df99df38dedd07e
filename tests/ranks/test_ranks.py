"""One rank of several: against ranks that really train, and against closed forms."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.distributed.device_mesh import DeviceMesh

from petl_bench import backbones, cards, method_spec
from petl_bench.assembly import assemble, make_batch, unsupported
from petl_bench.case import Backbone, Case, DType, Mode, Optimizer, Parallel, Quantization, Workload
from petl_bench.cli import main
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.fit.streams import Stream
from petl_bench.jobs import Task
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.loading import loaded
from petl_bench.profilers.simulated.profiler import (
    META,
    SimulatedProfiler,
    no_collection,
    run_ledger,
    simulate,
)
from petl_bench.profilers.simulated.ranks.fsdp2 import UNSHARD
from petl_bench.profilers.simulated.ranks.world import pretended_world
from petl_bench.record import Category, Origin, Phase, Status
from petl_bench.steps import Step
from petl_bench.worker import run_task

from . import one_rank

# T5's layers return a view, which nothing changes in place.
pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")

CARD = cards.CARDS[cards.DEFAULT_CARD]
SCALARS_BYTES = 512  # inside of CPU kernels
TINY = {
    "t5": {
        **backbones.find("t5-small").config,
        "vocab_size": 512,
        "d_model": 64,
        "d_kv": 8,
        "d_ff": 256,
        "num_heads": 4,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "dropout_rate": 0.0,
    },
    "llama": {
        **backbones.find("llama-3.2-1b").config,
        "vocab_size": 510,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 258,
    },
}


def case_of(spec, family="t5", dtype=DType.FP32, quantize=None, **fields):
    backbone = Backbone(
        name=f"tiny-{family}", family=family, config=TINY[family], dtype=dtype, quantize=quantize
    )
    lengths = {"source_length_tokens": 32, "target_length_tokens": 8}
    return planned(spec, backbone, **{"batch_size": 8, **lengths, **fields})


def planned(spec, backbone, **fields):
    ((_, choice),) = method_spec.parse_specs(spec)
    workload = backbones.fitted(backbone, Workload(**fields))
    method = method_spec.fitted(choice, backbone)
    return Case(backbone=backbone, method=method, workload=workload)


class Keeping:
    """A witness of what a rank keeps: live bytes of a category when a phase ends."""

    def __init__(self):
        self.kept = {}

    def opens(self, ledger):
        self.ledger = ledger

    def begins(self, batch, optimizer):
        del batch, optimizer

    def ends(self, phase):
        ledger = self.ledger
        self.kept[phase] = dict.fromkeys(Category, 0)
        for ref in ledger._live.values():
            self.kept[phase][ledger.categories[ref.index]] += ledger.sizes[ref.index]


def on_host(case):
    """The ledger of one rank without what CUDA alone does, and what the rank keeps."""
    ledger = Ledger(frozenset({"meta", "cpu"}), cuda=False)
    trainee, witness = assemble(case, META), Keeping()
    witness.opens(ledger)
    with no_collection(), foreach_by_default(), loaded(ledger, trainee, case.workload) as rank:
        batch = make_batch(case, META)
        ledger.adopt(batch.values(), Category.INPUT)
        step = Step(rank.model, case.workload)
        profiler = SimulatedProfiler(ledger, rank, step.optimizer, ERAS[None], witness)
        with CudaKernels(), ledger:
            for profiler.step in range(case.workload.unsteady_steps + 1):
                step.run(batch, profiler)
    return ledger, witness.kept


def peaks_above_start(ledger, step):
    """Each phase's highest requested bytes beyond those alive when `step` begins."""
    peaks, live, done, start = {}, 0, 0, None
    for window in ledger.windows:
        if window.step == step and start is None and window.phase is Phase.FORWARD:
            start = live
        peak = live
        for event in ledger.events[done : window.stop]:
            live += ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
            peak = max(peak, live)
        done = window.stop
        if start is not None:
            peaks[window.phase.value] = peak - start
    return peaks


# --- ranks that really train -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "family", "fields"),
    [
        ("full", "t5", {"world_size": 2}),
        ("lora", "t5", {"world_size": 4}),
        ("lst[reduction=4]", "t5", {"world_size": 2}),
        ("full", "llama", {"world_size": 4, "reshard_after_forward": False}),
        ("full", "llama", {"world_size": 1}),
    ],
)
def test_a_sharded_rank_peaks_where_torch_profiler_sees_a_real_one_peak(spec, family, fields):
    """Real tensors, no dispatch mode, FSDP2 untouched; only the other ranks never answer.

    Every tensor divides evenly: where one does not, the CPU's _chunk_cat pads it in a copy, and
    CUDA's kernel on its way (aten/src/ATen/native/cuda/TensorShape.cu).
    """
    case = case_of(spec, family, parallel="fsdp2", **fields)
    with pretended_world(case.workload.world_size):
        mesh = DeviceMesh("cpu", list(range(case.workload.world_size)))
        real = one_rank.trained(case, mesh)
    ledger, _ = on_host(case)
    simulated = peaks_above_start(ledger, case.workload.unsteady_steps)
    for phase, peak in real["peaks"].items():
        assert simulated[phase] == pytest.approx(peak, abs=SCALARS_BYTES), phase


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_two_processes_keep_to_the_byte_what_is_simulated(tmp_path):
    """Over gloo, which lets go of what it sends when its threads come to it, and copies more."""
    cases = [
        case_of("lora", parallel="fsdp2", world_size=2),
        case_of("full", parallel="ddp", world_size=2),
    ]
    (tmp_path / "cases.json").write_text(json.dumps([c.model_dump(mode="json") for c in cases]))
    ranks = [
        subprocess.Popen([sys.executable, Path(one_rank.__file__), str(rank), tmp_path])
        for rank in range(2)
    ]
    assert [process.wait(timeout=600) for process in ranks] == [0, 0]
    seen = json.loads((tmp_path / "rank-0.json").read_text())
    for case, real in zip(cases, seen, strict=True):
        ledger, kept = on_host(case)
        assert kept[Phase.OPTIMIZER_STEP][Category.PARAMETER] == real["kept"]["parameters"]
        # Buckets stay; gradients beside them were there when the optimizer began.
        assert kept[Phase.BACKWARD][Category.GRADIENT] - buckets(case) == real["kept"]["gradients"]
        scalars = kept[Phase.OPTIMIZER_STEP][Category.OPTIMIZER_STATE] % 512
        assert (
            kept[Phase.OPTIMIZER_STEP][Category.OPTIMIZER_STATE] - scalars
            == real["kept"]["optimizer_state"]
        )
        late = 0 if case.workload.parallel is Parallel.DDP else real["kept"]["parameters"]
        for phase, peak in peaks_above_start(ledger, case.workload.unsteady_steps).items():
            assert -SCALARS_BYTES <= real["peaks"][phase] - peak <= late + SCALARS_BYTES, phase


def buckets(case):
    """Bytes that lie in DDP's buckets beside gradients."""
    if case.workload.parallel is Parallel.FSDP2:
        return 0
    return 4 * assemble(case, META).trainable_parameters


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize(
    ("name", "dtype", "parameter_bytes", "buffer_bytes"),
    [
        # Raffel et al. 2020, and the Llama 3 report's 8.03 billion; every first dimension is a
        # multiple of 8. Inverse frequencies of rotary positions: 64, and the same again unscaled.
        ("t5-base", DType.FP32, 222_903_552 * 4, 0),
        ("llama-3.1-8b", DType.BF16, 8_030_261_248 * 2, 2 * 64 * 4),
    ],
)
def test_a_sharded_rank_loads_its_part_and_no_more(
    name, dtype, parameter_bytes, buffer_bytes, world_size
):
    case = planned(
        "full", backbones.find(name, dtype=dtype), parallel="fsdp2", world_size=world_size
    )
    ledger = Ledger()
    with loaded(ledger, assemble(case, META), case.workload):
        assert ledger.live_bytes() == parameter_bytes // world_size + buffer_bytes


def test_what_does_not_divide_is_padded_tensor_by_tensor():
    case = case_of("lora[r=5]", "llama", parallel="fsdp2", world_size=7)
    shapes = [p.shape for p in assemble(case, META).model.parameters()]
    padded = sum(4 * -(-shape[0] // 7) * shape[1:].numel() for shape in shapes)
    trainee, ledger = assemble(case, META), Ledger()
    buffers = sum(buffer.nbytes for buffer in trainee.model.buffers())
    with loaded(ledger, trainee, case.workload):
        assert ledger.live_bytes() == padded + buffers


def test_what_a_rank_keeps_falls_with_the_number_of_ranks():
    keeping = {}
    for world_size in (1, 4):
        case, witness = case_of("full", parallel="fsdp2", world_size=world_size), Keeping()
        run_ledger(case, assemble(case, META), CARD, ERAS[None], witness)
        keeping[world_size] = witness.kept
    for phase, category in (
        (Phase.OPTIMIZER_STEP, Category.PARAMETER),
        (Phase.OPTIMIZER_STEP, Category.OPTIMIZER_STATE),
        (Phase.BACKWARD, Category.GRADIENT),
    ):
        assert keeping[1][phase][category] == 4 * keeping[4][phase][category] > 0


@pytest.mark.parametrize(("spec", "world_size"), [("full", 1), ("lora", 8)])
def test_under_ddp_a_rank_is_a_process_alone_and_its_buckets(spec, world_size):
    """However many there are: one more copy of what trains, in every phase; T5 has no buffers."""
    alone = simulate(case_of(spec), CARD)
    rank = simulate(case_of(spec, parallel="ddp", world_size=world_size), CARD)
    for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP):
        peaks = (run.peak(phase).peak_requested_bytes for run in (rank, alone))
        assert next(peaks) - next(peaks) == 4 * rank.trainable_parameters


def test_gradients_in_buckets_take_no_memory_of_their_own():
    workload = {"parallel": "ddp", "world_size": 2}
    beside, inside = (
        simulate(case_of("full", **workload, gradient_as_bucket_view=view), CARD)
        for view in (False, True)
    )
    saved = (
        beside.peak(Phase.OPTIMIZER_STEP).peak_requested_bytes
        - inside.peak(Phase.OPTIMIZER_STEP).peak_requested_bytes
    )
    assert saved == 4 * inside.trainable_parameters


@pytest.mark.parametrize(
    ("spec", "reshard", "times"),
    [("full", True, {Phase.FORWARD: 4, Phase.BACKWARD: 4}), ("lst", True, {Phase.FORWARD: 4})],
)
def test_a_layer_is_gathered_when_it_runs_and_when_its_gradient_does(spec, reshard, times):
    """Four layers. Beside a ladder nothing runs backward in the backbone, so none is needed."""
    case = case_of(spec, parallel="fsdp2", world_size=2, reshard_after_forward=reshard)
    ledger = run_ledger(case, assemble(case, META), CARD, ERAS[None])
    gathered = {}
    for window in ledger.windows:
        if window.step == case.workload.unsteady_steps:
            made = [e for e in ledger.events[window.start : window.stop] if e >= 0]
            outputs = [e for e in made if ledger.operators[e] == UNSHARD]
            gathered[window.phase] = sum(ledger.sizes[e] for e in outputs)
    trainee = assemble(case, META)
    layers = [layer for stack in trainee.ports.stacks for layer in stack.layers]
    in_layers = sum(p.nbytes for layer in layers for p in layer.parameters())
    rest = sum(p.nbytes for p in trainee.model.parameters()) - in_layers
    assert len(layers) == times[Phase.FORWARD]
    assert gathered[Phase.FORWARD] == in_layers + rest
    assert gathered.get(Phase.BACKWARD, 0) == (in_layers if Phase.BACKWARD in times else 0)


def test_autocast_gathers_in_its_own_type():
    case = case_of("full", "llama", parallel="fsdp2", world_size=2, autocast="bf16")
    ledger = run_ledger(case, assemble(case, META), CARD, ERAS[None])
    total = sum(p.numel() for p in assemble(case, META).model.parameters())
    forward = next(w for w in ledger.windows if (w.step, w.phase) == (1, Phase.FORWARD))
    events = [e for e in ledger.events[forward.start : forward.stop] if e >= 0]
    assert sum(ledger.sizes[e] for e in events if ledger.operators[e] == UNSHARD) == 2 * total


def test_gathered_layers_and_reduced_gradients_have_streams_of_their_own():
    """So a block of one is no help to the other: FSDP2 reserves more than it allocates."""
    case = case_of("full", parallel="fsdp2", world_size=2)
    ledger = run_ledger(case, assemble(case, META), CARD, ERAS[None])
    gradients = {
        ledger.streams.get(index, 0)
        for index, category in enumerate(ledger.categories)
        if category is Category.GRADIENT
    }
    assert len(set(ledger.streams.values())) == 2
    assert 0 in gradients  # whole ones
    assert len(gradients) == 2  # and shards


def test_two_simulations_of_a_rank_give_the_same_stream():
    case = case_of("lora", parallel="fsdp2", world_size=2)
    first, second = (run_ledger(case, assemble(case, META), CARD, ERAS[None]) for _ in range(2))
    assert Stream.of(first) == Stream.of(second)


# --- what does not go --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parallel": "ddp"}, "world_size: parallel ddp"),
        ({"world_size": 2}, "world_size: not for parallel none"),
        ({"parallel": "zero", "world_size": 2}, "'none', 'ddp' or 'fsdp2'"),
        ({"parallel": ["ddp"], "world_size": 2}, "'none', 'ddp' or 'fsdp2'"),
        ({"parallel": "ddp", "world_size": 0}, "world_size"),
        ({"parallel": "ddp", "world_size": True}, "world_size"),
        ({"parallel": "ddp", "world_size": 10**9}, "world_size"),
        ({"parallel": "ddp", "world_size": 2, "ddp_buckets": True}, "ddp_buckets: of one"),
        ({"parallel": "ddp", "world_size": 2, "reshard_after_forward": False}, "reshard_after"),
        ({"parallel": "fsdp2", "world_size": 2, "gradient_as_bucket_view": True}, "gradient_as"),
        ({"parallel": "fsdp2", "world_size": 2, "mode": Mode.INFERENCE}, "trains nothing"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        Workload(**fields)


def test_without_ranks_their_fields_are_no_part_of_the_question():
    assert not {"parallel", "world_size", "reshard_after_forward"} & set(Workload().model_dump())
    for fields in ({"reshard_after_forward": False}, {}):
        sharded = Workload(parallel="fsdp2", world_size=2, **fields)
        assert Workload.model_validate_json(sharded.model_dump_json()) == sharded


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (case_of("compacter", parallel="fsdp2", world_size=2), "layers share a parameter"),
        (case_of("theseus", parallel="ddp", world_size=2), "waits for the gradients"),
        (
            case_of("full", parallel="fsdp2", world_size=2, optimizer=Optimizer.ADAFACTOR),
            "not simulated with adafactor",
        ),
        (
            case_of("lora", quantize=Quantization.NF4, parallel="fsdp2", world_size=2),
            "not simulated with nf4",
        ),
    ],
)
def test_what_ranks_cannot_train_is_skipped_with_a_reason(case, words):
    reason = unsupported(case)
    if reason is None:
        with pytest.raises(UsageError, match=words):
            simulate(case, CARD)
    else:
        assert words in reason


def test_a_layer_trains_in_one_type():
    case = case_of("lora", parallel="fsdp2", world_size=2)
    trainee = assemble(case, META)
    trained = [p for p in trainee.model.parameters() if p.requires_grad]
    trained[0].data = trained[0].data.to(torch.bfloat16)
    with pytest.raises(UsageError, match=r"torch\.bfloat16 and torch\.float32"):
        run_ledger(case, trainee, CARD, ERAS[None])


def test_ranks_are_not_measured_and_an_era_without_them_has_none():
    case = case_of("full", parallel="fsdp2", world_size=2)
    place = simulated_environment(CARD, None)
    record = run_task(Task(case=case, label="full"), Origin.MEASURED, CARD, place)
    assert record.status is Status.SKIPPED
    assert "simulated only" in record.reason
    with pytest.raises(UsageError, match="had no fsdp2"):
        simulate(case, CARD, ERAS["torch-1.10"])


def test_a_rank_simulates_no_ranks():
    case = case_of("full", parallel="ddp", world_size=2)
    with pretended_world(2), pytest.raises(UsageError, match="one of several"):
        simulate(case, CARD)


def test_the_command_line_wants_to_know_how_many(monkeypatch, capsys):
    words = ["petl-bench", "run", "--profiler", "simulated", "--parallel", "fsdp2"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "world_size: parallel fsdp2 is to be told how many ranks" in capsys.readouterr().err
