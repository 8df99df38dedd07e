"""Papers as data: the shipped ones hold together; broken ones are refused in one line."""

import math
from statistics import mean

import pytest

from petl_bench import method_spec, registry
from petl_bench.backbones import FAMILIES
from petl_bench.errors import UsageError
from petl_bench.papers import library
from petl_bench.papers.reproduction import Place, Reproduction, cells, plan
from petl_bench.papers.schema import Paper, Provenance
from petl_bench.papers.tables import (
    claims,
    column_tables,
    headline,
    not_runnable,
    score_tables,
    to_frame,
)
from petl_bench.record import Origin, Status
from petl_bench.units import GIB

PAPER = """
title = "A made-up paper"
source = "Nobody 2022"
url = "https://example.org"
setting = "a desk"
memory_unit = "GiB"
emulate = "torch-1.10"

[[claims]]
text = "lora saves a quarter"
relation = "saving_percent"
table = "table-1"
column = "memory"
row = "lora"
baseline = "full"
published = 25
provenance = "confirmed"

[[tables]]
name = "table-1"
title = "Table 1"
provenance = "recalled"
backbone = { name = "t5-small" }
workload = { batch_size = 2, source_length_tokens = 8 }
columns = [
  { name = "memory", header = "memory", quantity = "peak_memory" },
  { name = "percent", header = "updated", quantity = "updated_percent", provenance = "confirmed" },
]

[[tables.rows]]
name = "full"
label = "Full"
method = "full"
published = { memory = 8.0, percent = 100 }

[[tables.rows]]
name = "lora"
label = "LoRA"
method = "lora[r=8]"
published = { memory = { value = 5.0, provenance = "quoted" } }
"""


@pytest.fixture
def write(tmp_path):
    """Factory: the made-up paper with texts replaced, as a file."""

    def write(*changes):
        text = PAPER
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "made-up.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def reproduced(write, made_up_record):
    """Factory: the made-up paper with peaks in GiB for (method, origin and era)."""

    def make(peaks, *changes):
        paper = library.find(str(write(*changes)))
        found = cells(paper)
        records = []
        for (method, place), peak in peaks.items():
            case = next(c.planned.case for c in found if c.row.name == method and c.planned)
            measured = place is Place.MEASURED
            record = made_up_record(
                method,
                peak_bytes=int(peak * GIB),
                trainable=20_000_000,
                origin=Origin.MEASURED if measured else Origin.SIMULATED,
            )
            era = "torch-1.10" if place is Place.EMULATED else None
            environment = record.environment.model_copy(update={"emulates": era})
            records.append(record.model_copy(update={"case": case, "environment": environment}))
        return Reproduction(paper, found, records)

    return make


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


# --- the shipped papers -------------------------------------------------------------------------


@pytest.fixture(params=library.names())
def shipped(request):
    return library.find(request.param)


def test_averages_are_those_of_their_scores(shipped):
    """To 0.1: the paper averaged what it then rounded."""
    rows = [row for table in shipped.tables for row in table.rows if row.average and row.scores]
    for row in rows:
        assert mean(row.scores.values()) == pytest.approx(row.average, abs=0.1), row.name


def test_every_provenance_that_occurs_is_explained(shipped):
    found = {
        table.provenance_of(row, column)
        for table in shipped.tables
        for row in table.rows
        for column in table.columns
    }
    found |= {claim.provenance for claim in shipped.claims}
    assert found - {None} <= set(shipped.provenance)


def test_savings_claimed_are_those_of_the_printed_memory():
    """(17.6 - 5.5) / 17.6 = 68.75 %, (17.6 - 13.0) / 17.6 = 26.1 %, 2.7 times; VL alike."""
    paper = library.find("lst-2022")
    tables = {table.name: {row.name: row for row in table.rows} for table in paper.tables}

    def saved(table, row):
        rows = tables[table]
        whole = rows["full"].published["train-memory"].value
        return 100 * (1 - rows[row].published["train-memory"].value / whole)

    for claim in paper.claims:
        ours = saved(claim.table, claim.row)
        if claim.other:
            ours /= saved(claim.table, claim.other)
        assert ours == pytest.approx(claim.published, rel=0.03)


def test_published_counts_of_t5_are_the_closed_forms():
    """Adapters, prompt and LST alone: biases and all parameters depend on the vocabulary."""
    checked = 0
    for cell in cells(library.find("lst-2022")):
        if cell.column.name != "trainable" or cell.published is None or cell.planned is None:
            continue
        case = cell.planned.case
        if case.backbone.family != "t5":
            continue
        method = registry.get(case.method.name)
        config = method_spec.validated_config(method, case.method.config)
        dims = FAMILIES[case.backbone.family].dims(case.backbone.config)
        assert method.trainable_parameters(dims, config) == cell.published, cell.key
        checked += 1
    assert checked >= 9


def test_published_percents_of_t5_are_the_closed_forms_to_their_digits():
    """0.0875 was printed as 0.08: cut, where the others are rounded."""
    checked = 0
    for cell in cells(library.find("lst-2022")):
        if cell.column.name != "updated" or cell.published is None or cell.planned is None:
            continue
        if cell.table.name == "supplement-designs" or cell.planned.case.backbone.family != "t5":
            continue  # two of the supplement's designs are ours
        case = cell.planned.case
        method = registry.get(case.method.name)
        dims = FAMILIES[case.backbone.family].dims(case.backbone.config)
        config = method_spec.validated_config(method, case.method.config)
        share = 100 * method.trainable_parameters(dims, config) / dims.total_parameters
        step = 0.1 if cell.published == 25.8 else 0.01
        digits = {math.floor(share / step), round(share / step)}
        assert round(cell.published / step) in digits, (cell.key, share)
        checked += 1
    assert checked >= 20


def test_rows_that_this_version_cannot_run_are_told_and_never_dropped(shipped):
    found = cells(shipped)
    asked = sum(len(table.rows) * len(table.columns) for table in shipped.tables)
    assert len(found) == asked
    assert all((cell.planned is None) is (cell.refusal is not None) for cell in found)
    told = " ".join(what for what, _ in not_runnable(Reproduction(shipped, found, [])))
    for cell in found:
        assert cell.planned is not None or cell.row.label in told


# --- what a file may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "A made-up paper"', "title = ", "is not TOML"),
        ('source = "Nobody 2022"', "", "source: Field required"),
        ('memory_unit = "GiB"', 'memory_unit = "MB"', "memory_unit: Input should be '1000 MiB'"),
        ('emulate = "torch-1.10"', 'emulate = "torch-0.4"', "is not one of torch-1.10"),
        ('provenance = "recalled"', 'provenance = "dreamt"', "tables.0.provenance"),
        ('name = "lora"', 'name = "full"', "rows: 'full' is there twice"),
        ("{ memory = 8.0,", "{ mem = 8.0,", "no column 'mem'; there are: memory, percent"),
        ('row = "lora"', 'row = "lst"', "claim: no row 'lst'; there are: full, lora"),
        ('table = "table-1"', 'table = "table-2"', "claim: no table 'table-2'"),
        ('baseline = "full"', "", "saving_percent needs baseline"),
        ('quantity = "peak_memory"', 'quantity = "peak"', "quantity: Input should be"),
        ("published = 25", "published = nan", "published: Input should be a finite number"),
    ],
)
def test_a_broken_file_is_refused_by_one_line_that_names_the_place(old, new, said, write, command):
    ended = command("reproduce", write((old, new)), "--profiler", "simulated")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: paper")
    assert ended.err.count("\n") == 1
    assert said in ended.err


def test_papers_and_rows_that_there_are_not_name_the_nearest(command, write, tmp_path):
    ended = command("reproduce", "lst-2023")
    assert (ended.code, ended.out) == (2, "")
    assert "no paper or TOML file 'lst-2023'; did you mean lst-2022" in ended.err
    ended = command("reproduce", tmp_path / "none.toml")
    assert ended.code == 2
    assert "No such file" in ended.err
    ended = command("reproduce", write(), "--row", "lorra", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "no table or row 'lorra'; did you mean lora?" in ended.err
    assert not (tmp_path / "out").exists()


def test_without_a_name_the_papers_are_listed(command):
    ended = command("reproduce")
    assert ended.code == 0
    for name in library.names():
        assert name in ended.out


def test_a_number_alone_has_its_columns_provenance_or_its_tables():
    paper = Paper.model_validate(library.tomllib.loads(PAPER))
    (table,) = paper.tables
    full, lora = table.rows
    memory, percent = table.columns
    assert table.provenance_of(full, memory) is Provenance.RECALLED
    assert table.provenance_of(full, percent) is Provenance.CONFIRMED
    assert table.provenance_of(lora, memory) is Provenance.QUOTED
    assert table.provenance_of(lora, percent) is None


# --- records to values --------------------------------------------------------------------------


def test_values_differences_and_verdicts_by_hand(reproduced):
    """Full 8 GiB and LoRA 6 save 25 %; today's 10 and 6 save 40 %."""
    found = reproduced(
        {
            ("full", Place.EMULATED): 8,
            ("lora", Place.EMULATED): 6,
            ("full", Place.TODAY): 10,
            ("lora", Place.TODAY): 6,
        }
    )
    memory, percent = column_tables(found)
    assert texts(memory) == [
        ["Full", "full", "8.0", "recalled", "8.00", "+0.0 %", "10.00", "+25.0 %"],
        ["LoRA", "lora[r=8]", "5.0", "quoted", "6.00", "+20.0 %", "6.00", "+20.0 %"],
    ]
    assert texts(percent)[1] == ["LoRA", "lora[r=8]", "-", "-", "10.00", "-"]
    assert [column.header for column in memory.columns][4:7] == [
        "simulated as torch-1.10",
        "difference",
        "simulated today",
    ]
    (row,) = texts(claims(found))
    assert row[1:5] == ["25 %", "confirmed", "25.0 %", "40.0 %"]
    assert row[5] == "stands simulated as torch-1.10; falls simulated today, by +60.0 %"
    assert headline(found) == (
        "Claims that stand on our own numbers: 1 of 1 simulated as torch-1.10, 0 of 1 simulated"
        " today."
    )


def test_a_claim_on_rows_that_were_not_asked_for_is_passed_over(reproduced):
    found = reproduced({("full", Place.TODAY): 8})
    (full, *_) = found.cells
    assert claims(found) is not None
    alone = Reproduction(found.paper, [full], found.records)
    assert (alone.verdicts(), claims(alone)) == ([], None)


def test_more_than_was_claimed_is_no_failure_of_a_claim_of_at_least_so_much(reproduced):
    found = reproduced(
        {("full", Place.TODAY): 10, ("lora", Place.TODAY): 6},
        ('provenance = "confirmed"\n\n', 'provenance = "confirmed"\nat_least = true\n\n'),
    )
    assert texts(claims(found))[0][-1] == "stands"
    assert headline(found) == "Claims that stand on our own numbers: 1 of 1 simulated today."


def test_a_measured_record_has_a_column_of_its_own(reproduced):
    found = reproduced({("full", Place.TODAY): 8, ("full", Place.MEASURED): 7})
    (full, _) = texts(column_tables(found)[0])
    assert full[4:] == ["8.00", "+0.0 %", "7.00", "-12.5 %"]
    assert found.places == [Place.TODAY, Place.MEASURED]


def test_how_often_a_step_is_repeated_does_not_part_a_measured_record_from_its_row(reproduced):
    found = reproduced({("full", Place.MEASURED): 7})
    (record,) = found.records
    often = record.case.workload.model_copy(update={"timed_steps": 5, "measured_steps": 1})
    older = record.case.model_copy(update={"workload": often})
    other = record.model_copy(update={"case": older, "case_id": older.case_id})
    again = Reproduction(found.paper, found.cells, [other])
    assert again.value(again.cells[0], Place.MEASURED) == 7


def test_scores_are_shown_as_the_papers_own(reproduced):
    found = reproduced(
        {("full", Place.TODAY): 8},
        ('method = "full"', 'method = "full"\nscores = { a = 1, b = 2.5 }\naverage = 1.75'),
    )
    (table,) = score_tables(found)
    assert texts(table) == [["Full", "1", "2.5", "1.75"]]
    assert table.caption.startswith("The paper's own (recalled)")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('{ name = "t5-small" }', '{ name = "t9" }', "backbone: no backbone or folder 't9'"),
        ("batch_size = 2", "batches = 2", "this version's workload has no field 'batches'"),
        ("batch_size = 2", "batch_size = -2", "batch_size: Input should be greater than 0"),
        ("lora[r=8]", "lorax", "method: no method 'lorax'"),
        ("lora[r=8]", "lora[r=8|16]", "'lora[r=8|16]' is 2 cases here, not one"),
    ],
)
def test_what_cannot_run_keeps_its_row_and_says_why(old, new, reason, reproduced):
    found = reproduced({}, (old, new))
    told = [why for _, why in not_runnable(found)]
    assert any(why.startswith(reason) for why in told)
    frame = to_frame(found)
    assert len(frame) == 4
    assert frame["refusal"].dropna().str.startswith(reason).any()
    assert list(frame["published"].dropna()) == [8.0, 100.0, 5.0]


def test_a_case_that_failed_says_so_in_its_row(reproduced):
    found = reproduced({("full", Place.TODAY): 8})
    broken = found.records[0].model_copy(
        update={"status": Status.ERROR, "reason": "the card caught fire", "measurement": None}
    )
    again = Reproduction(found.paper, found.cells, [broken])
    assert ("Table 1: memory (Full)", "the card caught fire") in not_runnable(again)
    assert headline(again) == "No claim could be checked here."


def test_a_case_that_two_columns_share_is_run_once(write):
    found = cells(library.find(str(write())))
    assert len(found) == 4
    assert len(plan(found)) == 2


def test_a_row_is_chosen_by_its_name_its_tables_or_both(write):
    paper = library.find(str(write()))
    assert {cell.row.name for cell in cells(paper, ["lora"])} == {"lora"}
    assert len(cells(paper, ["table-1"])) == 4
    assert {cell.key for cell in cells(paper, ["table-1/full"])} == {
        ("table-1", "full", "memory"),
        ("table-1", "full", "percent"),
    }
    with pytest.raises(UsageError, match="no table or row"):
        cells(paper, ["table-1/none"])
