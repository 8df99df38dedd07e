import pytest

from petl_bench.cards import CARDS
from petl_bench.errors import hint


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("loar", ("full", "lora", "lst"), "did you mean lora?"),
        ("a100", CARDS, "did you mean a100-40gb or a100-80gb or a10?"),  # the longer ones first
        ("zzz", ("full", "lora"), "there are: full, lora"),
        ("", ("full", "lora"), "there are: full, lora"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_or_else_with_all(name, known, told):
    assert hint(name, known) == told


def test_too_many_names_for_a_line_are_left_to_the_command_that_lists_them():
    known = [f"t5-{size}" for size in range(10, 70)]
    assert hint("zzz", known, listed_by="petl-bench backbones") == (
        "petl-bench backbones lists the 60 there are"
    )
    assert hint("t5-5", known, listed_by="petl-bench backbones") == (
        "did you mean t5-50 or t5-51 or t5-52?"
    )
