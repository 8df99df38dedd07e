"""What lives at the peak: sums, names and places, and what sets two methods apart."""

import json
import linecache
import re
import sys

import pytest
import torch
from torch import nn

from petl_bench import backbones, cards, cli, method_spec, registry
from petl_bench.assembly import Trainee, assemble
from petl_bench.case import Case, Workload
from petl_bench.eras import TORCH_1_10
from petl_bench.explain import explain, explain_step
from petl_bench.explanation import (
    Comparison,
    Explanation,
    collapsed,
    difference,
    kind,
    module_tree,
    totals,
)
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.profiler import META, run_ledger, simulate
from petl_bench.profilers.simulated.provenance import Provenance
from petl_bench.record import Category, Phase

CARD = cards.find("a100-80gb")
T5 = "transformers/models/t5/modeling_t5.py"
TINY = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
# Large enough that activations outweigh weights and workspaces.
LOAD = Workload(batch_size=400, source_length_tokens=24, target_length_tokens=5)
OPTIONS = ["--batch-size", "400", "--source-length", "24", "--target-length", "5"]
VIEWS = ("by_category", "by_module", "by_operator", "by_source")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-t5")
    (path / "config.json").write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="module")
def case_of(folder):
    def make(spec):
        ((_, method),) = method_spec.parse_specs(spec)
        return Case(backbone=backbones.find(str(folder)), method=method, workload=LOAD)

    return make


@pytest.fixture(scope="module")
def explained(case_of):
    known = {}

    def once(spec):
        if spec not in known:
            known[spec] = explain(case_of(spec), CARD, label=spec)
        return known[spec]

    return once


@pytest.fixture
def typed(monkeypatch, capsys):
    """What a command prints, and its exit code."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["petl-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, *capsys.readouterr()

    return run


# --------------------------------------------------------------------------------------------
# The same peak as the simulation's, each byte once


@pytest.mark.parametrize("name", registry.names())
def test_every_view_sums_to_the_peak_that_is_simulated(name, explained, case_of):
    found, measured = explained(name), simulate(case_of(name), CARD)
    peak = measured.peak()
    assert found.peak_allocated_bytes == measured.peak_allocated_bytes
    assert found.by_category == peak.by_category
    assert found.phase in {
        phase for step in measured.steps for phase, memory in step.items() if memory == peak
    }
    assert sum(tensor.allocated_bytes for tensor in found.tensors) == found.peak_allocated_bytes
    for view in VIEWS:
        assert sum(getattr(found, view).values()) == found.peak_allocated_bytes


def test_an_era_is_explained_too(case_of):
    era = ERAS[TORCH_1_10]
    found, measured = explain(case_of("lora"), CARD, era), simulate(case_of("lora"), CARD, era)
    assert found.emulates == TORCH_1_10
    assert found.by_category == measured.peak().by_category


def test_an_explanation_that_does_not_sum_is_refused(explained):
    values = explained("lst").model_dump()
    values["by_module"]["encoder"] = 512
    with pytest.raises(ValueError, match="every view must sum"):
        Explanation.model_validate(values)


def test_the_tree_has_every_byte_at_its_top(explained):
    found = explained("lst")
    branches = list(module_tree(found.by_module, 0))
    tops = [branch for branch in branches if branch.depth == 0]
    assert sum(branch.allocated_bytes for branch in tops) == found.peak_allocated_bytes
    assert {"encoder", "decoder", "ladders.default"} <= {branch.steps for branch in tops}
    sizes = [branch.allocated_bytes for branch in tops]
    assert sizes == sorted(sizes, reverse=True)


# --------------------------------------------------------------------------------------------
# Modules and lines


def select(found, **wanted):
    return [
        tensor
        for tensor in found.tensors
        if all(getattr(tensor, name) == value for name, value in wanted.items())
    ]


def test_attention_weights_belong_to_the_attention_that_made_them(explained):
    weights = select(explained("full"), operator="aten::_softmax", category=Category.ACTIVATION)
    assert {tensor.module for tensor in weights} == {
        f"{stack}.block.{layer}.layer.{position}.{name}"
        for stack, position, name in (
            ("encoder", 0, "SelfAttention"),
            ("decoder", 0, "SelfAttention"),
            ("decoder", 1, "EncDecAttention"),
        )
        for layer in (0, 1)
    }
    assert all(re.fullmatch(rf"{re.escape(T5)}:\d+", tensor.source) for tensor in weights)
    assert len({tensor.source for tensor in weights}) == 1


def test_what_a_linear_layer_makes_is_its_own_and_the_line_is_its_callers(explained):
    made = select(explained("full"), module="encoder.block.1.layer.1.DenseReluDense.act")
    (relu,) = [tensor for tensor in made if tensor.category is Category.ACTIVATION]
    assert relu.operator == "aten::relu"
    assert relu.source.startswith(f"{T5}:")


def test_parameters_gradients_and_optimizer_state_carry_the_parameters_name(explained):
    found = explained("bitfit")
    for category in (Category.PARAMETER, Category.OPTIMIZER_STATE):
        owned = select(found, category=category)
        assert owned
        for tensor in owned:
            assert tensor.name.partition(":")[0].rpartition(".")[0] == tensor.module
    (weight,) = select(found, name="encoder.block.0.layer.0.SelfAttention.q.weight")
    assert (weight.category, weight.operator, weight.source) == (
        Category.PARAMETER,
        "(loaded)",
        "",
    )
    state = {tensor.name for tensor in select(found, category=Category.OPTIMIZER_STATE)}
    bias = "encoder.block.0.layer.0.SelfAttention.q.bias"
    assert {f"{bias}: exp_avg", f"{bias}: exp_avg_sq"} <= state
    assert {tensor.name for tensor in select(found, module="(batch)")} == {
        "input_ids",
        "attention_mask",
        "labels",
    }


def test_a_gradient_carries_its_parameters_name_and_the_place_whose_backward_made_it(case_of):
    case = case_of("full")
    small = case.workload.model_copy(update={"batch_size": 1})
    found = explain(case.model_copy(update={"workload": small}), CARD)
    assert found.phase is Phase.OPTIMIZER_STEP
    (gradient,) = select(
        found,
        category=Category.GRADIENT,
        name="decoder.block.1.layer.2.DenseReluDense.wo.weight",
    )
    assert gradient.module == "decoder.block.1.layer.2.DenseReluDense.wo"
    assert gradient.operator == "aten::mm"
    assert gradient.in_backward
    assert gradient.source.startswith(f"{T5}:")
    stepping = select(found, operator="aten::_foreach_sqrt")
    assert {(tensor.module, tensor.source.partition(":")[0]) for tensor in stepping} == {
        ("(training step)", "petl_bench/training.py")
    }


@pytest.mark.parametrize("name", registry.names())
def test_the_backbones_modules_have_the_same_names_under_every_method(name, explained):
    def weights(found):
        return {
            tensor.name: tensor.allocated_bytes
            for tensor in select(found, category=Category.PARAMETER)
        }

    full = weights(explained("full"))
    found = weights(explained(name))
    assert full.items() <= found.items()
    added = found.keys() - full.keys()
    assert all("base" not in name and not name.startswith("backbone") for name in added)


def test_a_side_network_is_beside_the_backbone(explained):
    found = explained("lst")
    weights = select(found, operator="aten::_softmax", category=Category.ACTIVATION)
    assert all(t.module.startswith("ladders.") for t in weights)


def test_a_method_of_a_module_that_is_never_called_is_the_modules_work(case_of):
    """LST's ladders climb in hooks of the backbone's layers; no ladder is called itself."""
    trainee = assemble(case_of("lst"), META)
    with Provenance(trainee) as provenance:
        ledger = run_ledger(case_of("lst"), trainee, CARD, ERAS[None], provenance)
    sites = [provenance.sites[site] for site in set(ledger.sites)]
    by_lst = [site for site in sites if "methods/lst/" in (site.source or "")]
    assert {re.sub(r"\.\d", "", site.module) for site in by_lst} == {
        f"ladders.default.stacks.{stack}{part}"
        for stack in ("encoder", "decoder")
        for part in ("", ".entry", ".entry_dropout", ".rungs")
    } | {"ladders.default.exit"}


@pytest.mark.parametrize("name", registry.names())
def test_no_source_names_a_place_of_this_machine(name, explained):
    for source in explained(name).by_source:
        assert source == "" or re.fullmatch(
            r"(transformers|peft|methods|petl_bench)/[\w/]+\.py:\d+", source
        )


def test_a_layers_number_is_left_out_and_a_sublayers_is_not():
    assert collapsed("encoder.block.11.layer.0.SelfAttention") == (
        "encoder.block.*.layer.0.SelfAttention"
    )
    assert collapsed(collapsed("a.3.b.4")) == "a.*.b.4"
    assert collapsed("ladders.encoder.rungs.3", depth=1) == "ladders"
    assert collapsed("ladders.encoder.rungs.3", depth=3) == "ladders.encoder.rungs.*"
    assert collapsed("(model)") == "(model)"


def test_layers_of_a_stack_are_one_kind(explained):
    found = explained("full")
    weights = select(found, operator="aten::_softmax", category=Category.ACTIVATION)
    assert len(weights) == 6
    assert len({kind(tensor) for tensor in weights}) == 3
    assert sum(totals(found.tensors, kind).values()) == found.peak_allocated_bytes


# --------------------------------------------------------------------------------------------
# By hand


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Linear(3, 5, bias=False)
        self.act = nn.ReLU()
        self.up = nn.Linear(5, 2, bias=False)

    def forward(self, x):
        hidden = self.act(self.down(x))
        return self.up(hidden).sum()


def traced(model, run):
    """Every storage that `run` makes: bytes, operator, module, backward or not, and its line."""
    names = {module: name for name, module in model.named_modules()}
    trainee = Trainee(model, None, 0, names)
    ledger = Ledger()
    with Provenance(trainee) as provenance:
        provenance.opens(ledger)
        ledger.adopt(model.parameters(), Category.PARAMETER)
        with ledger:
            run()
    assert ledger.locate is None
    told = []
    for size, operator, site in zip(ledger.sizes, ledger.operators, ledger.sites, strict=True):
        if operator == "(loaded)":
            continue
        module, source, in_backward = provenance.sites[site]
        file, _, line = source.partition(":")
        assert file.endswith("test_explain.py")
        told.append(
            (size, operator, module, in_backward, linecache.getline(__file__, int(line)).strip())
        )
    return told


def test_a_small_network_by_hand():
    """3 -> 5 -> 2 on 4 examples, fp32: 80 bytes before and after the relu, 32 out, 4 their sum.

    Backward goes the same way back: 40 bytes of gradient for `up`, 80 for what came in, 80
    before the relu, 60 for `down`. The input needs none. The gradient of a sum has strides of 0,
    which cuBLAS does not take: both products copy its 32 bytes once they have their result.
    """
    model = Mlp().to("meta")
    batch = torch.empty(4, 3, device="meta")

    def step():
        loss = model(batch)
        loss.backward()

    act, up = "hidden = self.act(self.down(x))", "return self.up(hidden).sum()"
    assert traced(model, step) == [
        (80, "aten::mm", "down", False, act),
        (80, "aten::relu", "act", False, act),
        (32, "aten::mm", "up", False, up),
        (4, "aten::sum", "", False, up),
        (4, "aten::ones_like", None, False, "loss.backward()"),
        (40, "aten::mm", "up", True, up),
        (32, "aten::mm", "up", True, up),
        (80, "aten::mm", "up", True, up),
        (32, "aten::mm", "up", True, up),
        (80, "aten::threshold_backward", "act", True, act),
        (60, "aten::mm", "down", True, act),
    ]


def test_a_call_that_fails_leaves_no_trace():
    class Failing(nn.Module):
        def forward(self, _):
            raise ArithmeticError

    model = Mlp().to("meta")
    model.failing = Failing()
    batch = torch.empty(4, 3, device="meta")

    def step():
        with pytest.raises(ArithmeticError):
            model.failing(batch)
        torch.relu(batch)
        model(batch)

    relu, down, *_ = traced(model, step)
    assert relu[1:3] == ("aten::relu", None)
    assert down[1:3] == ("aten::mm", "down")


# --------------------------------------------------------------------------------------------
# Differences


def shifts(found):
    return {
        (change.category, change.module, change.operator): change.allocated_bytes
        for change in found.changes
    }


def test_a_method_does_not_differ_from_itself(explained):
    found = difference(explained("lora"), explained("lora"))
    assert found.changes == ()
    assert found.summary.endswith("both keep the same.")


def test_differences_sum_and_turn_around(explained):
    one, other = explained("lora"), explained("lst")
    there, back = difference(one, other), difference(other, one)
    assert sum(shifts(there).values()) == one.peak_allocated_bytes - other.peak_allocated_bytes
    assert shifts(there) == {key: -size for key, size in shifts(back).items()}
    largest = [abs(change.allocated_bytes) for change in there.changes]
    assert largest == sorted(largest, reverse=True)
    assert "lora keeps" in there.summary
    assert "of encoder activations that lst does not" in there.summary


def test_the_backbones_weights_set_no_two_methods_apart(explained):
    found = difference(explained("lora"), explained("lst"))
    parameters = [c.module for c in found.changes if c.category is Category.PARAMETER]
    assert all("lora_" in name or name.startswith(("ladders", "exit")) for name in parameters)


# --------------------------------------------------------------------------------------------
# On the command line


def test_text_tells_the_peak_the_categories_the_tensors_and_the_modules(typed, folder):
    code, out, _ = typed("explain", "lora", "--backbone", folder, *OPTIONS, "--top", 3)
    assert code == 0
    assert re.match(r"lora on tiny-t5\S* peaks at [\d.]+ MiB in \w+: .* are activations, ", out)
    for title in ("By category", "By tensor", "Module tree"):
        assert title in out
    assert f"at {T5}:" in out
    assert re.search(r"and \d+ more", out)
    assert str(folder.parent) not in out
    assert "site-packages" not in out


@pytest.mark.parametrize("view", ["part", "source", "category"])
def test_rows_can_tell_other_things_apart(view, typed, folder):
    code, out, _ = typed("explain", "lst", "--backbone", folder, *OPTIONS, "--by", view)
    assert code == 0
    assert f"By {view}" in out
    assert "By tensor" not in out


def test_json_is_an_explanation(typed, folder):
    code, out, _ = typed("explain", "lst[reduction=4]", "--backbone", folder, *OPTIONS, "--json")
    assert code == 0
    found = Explanation.model_validate_json(out)
    assert found.label == "lst[reduction=4]"
    assert json.loads(out)["by_module"] == found.by_module


def test_against_another_method_tells_what_sets_them_apart(typed, folder, explained):
    arguments = ("explain", "lora", "--against", "lst", "--backbone", folder, *OPTIONS)
    code, out, _ = typed(*arguments)
    assert code == 0
    assert difference(explained("lora"), explained("lst")).summary in " ".join(out.split())
    for title in ("By category", "By part", "lora beyond lst"):
        assert title in out
    _, out, _ = typed(*arguments, "--by", "module")
    assert "By module" in out
    _, out, _ = typed(*arguments, "--json")
    found = Comparison.model_validate_json(out)
    assert found.difference == difference(found.first, found.second)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope"], "no method 'nope'"),
        (["lora,lst"], "takes one method at a time"),
        (["lora[r=1|2]"], "takes one method at a time"),
        (["lora[rank=8]"], "no field 'rank'"),
        (["lora[targets=zz]"], "no projection 'zz'"),
        (["lst[reduction=1000]"], "leaves nothing of a width"),
        (["lora", "--against", "nope"], "no method 'nope'"),
        (["lora", "--gpu", "voodoo"], "no card 'voodoo'"),
        (["lora", "--emulate", "torch-0.1"], "emulate: 'torch-0.1' is not one of"),
        (["lora", "--batch-size", "0"], "batch_size"),
        (["lora", "--dtype", "int3"], "'int3' is not one of"),
        (["lora", "--backbone", "nowhere"], "no backbone or folder 'nowhere'"),
        (["lora", "--top", "0"], "--top"),
        (["lora", "--by", "colour"], "--by"),
        ([], "method"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(arguments, told, typed, folder):
    backbone = [] if "--backbone" in arguments else ["--backbone", folder]
    code, out, err = typed("explain", *arguments, *backbone)
    assert code == 2
    assert out == ""
    assert told in err


# --- the step, tensor by tensor -----------------------------------------------------------------


def test_bands_and_rest_are_what_the_record_says_is_allocated_at_every_moment(case_of):
    case = case_of("lora")
    seen = simulate(case, CARD)
    found, timeline = explain_step(case, CARD, bands=30)
    assert 10 < len(timeline.bands) <= 30 < timeline.tensors
    alive = [timeline.alive(band) for band in timeline.bands]
    for place, (moment, point) in enumerate(zip(timeline.moments, seen.timeline, strict=True)):
        sizes = dict(moment.rest)
        assert min(sizes.values(), default=0) >= 0
        for band, there in zip(timeline.bands, alive, strict=True):
            if there[place]:
                category = band.tensor.category
                sizes[category] = sizes.get(category, 0) + band.tensor.allocated_bytes
        assert {c: size for c, size in sizes.items() if size} == point.by_category
    assert found == explain(case, CARD, label=found.label)


def test_html_writes_a_page_beside_what_is_printed(typed, folder, tmp_path):
    page = tmp_path / "lora.html"
    words = ("explain", "lora", "--backbone", str(folder), *OPTIONS, "--html", str(page))
    code, out, err = typed(*words)
    assert code == 0, err
    assert "lora on" in out
    assert str(page) in err
    text = page.read_text()
    assert "modeling_t5.py:" in text
    assert "encoder.block.0" in text


def test_a_page_that_cannot_be_written_is_refused_in_one_line(typed, folder, tmp_path):
    (tmp_path / "file").write_text("")
    words = ("explain", "lora", "--backbone", str(folder), *OPTIONS)
    code, _, err = typed(*words, "--html", str(tmp_path / "file" / "page.html"))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: html: cannot write")
