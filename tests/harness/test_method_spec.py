import pytest

from petl_bench import registry
from petl_bench.errors import UsageError
from petl_bench.method_spec import parse_specs, resolve, split_specs


def labels(text):
    return [label for label, _ in parse_specs(text)]


def only_choice(text):
    ((_, choice),) = parse_specs(text)
    return choice


def test_the_label_is_what_was_asked_for_and_nothing_more():
    assert labels("lst,lora[r=8],full") == ["lst", "lora[r=8]", "full"]
    assert labels(" lora[ r = 8 , alpha=16 ] ") == ["lora[r=8,alpha=16]"]
    assert labels("lora[]") == ["lora"]


def test_the_choice_has_every_field_that_the_method_has():
    choice = only_choice("lora[r=8]")
    assert set(choice.config) == set(registry.get("lora").config.model_fields)
    assert choice.config["r"] == 8


def test_a_choice_is_the_same_however_its_defaults_were_written():
    default = only_choice("lora")
    r = default.config["r"]
    assert only_choice(f"lora[r={r}]") == default == resolve("lora", {"r": r})


def test_a_grid_is_unrolled_in_the_order_written_the_last_field_fastest():
    assert labels("lora[r=8|32,alpha=1|2],lst") == [
        "lora[r=8,alpha=1]",
        "lora[r=8,alpha=2]",
        "lora[r=32,alpha=1]",
        "lora[r=32,alpha=2]",
        "lst",
    ]
    assert [choice.config["r"] for _, choice in parse_specs("lora[r=32|8]")] == [32, 8]


def test_a_comma_within_a_value_belongs_to_the_value():
    assert labels("lora[targets=q,k,v,r=4]") == ["lora[targets=q,k,v,r=4]"]
    choice = only_choice("lora[targets=q, k,v,r=4]")
    assert choice.config["targets"] == ["q", "k", "v"]
    assert choice.config["r"] == 4


def test_a_grid_of_lists_has_a_list_in_each_cell():
    choices = parse_specs("lora[targets=q|q,v]")
    assert [choice.config["targets"] for _, choice in choices] == [["q"], ["q", "v"]]


def test_a_value_may_hold_an_equals_sign_and_dashes():
    assert only_choice("lst[keep=1-3,5]").config["keep"] == "1-3,5"


def test_commas_within_brackets_do_not_part_methods():
    assert split_specs("lst, lora[r=8,alpha=2] ,,full") == ["lst", "lora[r=8,alpha=2]", "full"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["none given", *registry.names()]),
        (" , ,", ["none given"]),
        ("lorra", ["'lorra'", "did you mean lora"]),
        ("lsd", ["'lsd'", "lst"]),
        ("zzz", ["'zzz'", *registry.names()]),
        ("LoRA", ["'LoRA'"]),
        ("lora[rank=8]", ["lora", "'rank'", "r, alpha, targets"]),
        ("full[r=8]", ["full", "'r'", "none"]),
        ("lora[r=big]", ["lora", "r:", "'big'"]),
        ("lora[r=0]", ["lora", "r:", "'0'"]),
        ("lora[r=8.5]", ["lora", "r:", "'8.5'"]),
        ("lora[r=8|big]", ["lora", "r:", "'big'"]),
        ("lora[r=8|]", ["lora", "r:", "''"]),
        ("lora[biases=some]", ["lora", "biases", "'some'"]),
        ("lora[dropout=nan]", ["lora", "dropout", "'nan'"]),
        ("lst[temperature=inf]", ["lst", "temperature", "'inf'"]),
        ("lst[keep=first]", ["lst", "keep", "'first'"]),
        ("lora[r]", ["lora", "'r'", "field=value"]),
        ("lora[r=]", ["lora", "'r='", "field=value"]),
        ("lora[r=8,r=16]", ["lora", "'r'", "twice"]),
        ("lora[r=8", ["'lora[r=8'", "NAME[field=value"]),
        ("lora[r=8,alpha=2", ["'lora[r=8,alpha=2'"]),
        ("lora]r=8[", ["'lora]r=8['"]),
        ("lora r=8", ["'lora r=8'"]),
        ("[r=8]", ["'[r=8]'"]),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_it(text, told):
    with pytest.raises(UsageError) as refused:
        parse_specs(text)
    message = str(refused.value)
    assert "\n" not in message
    assert [part for part in told if part not in message] == []
