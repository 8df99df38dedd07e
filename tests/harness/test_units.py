import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petl_bench.units import GIB, KIB, MIB, TIB, format_bytes, format_count, parse_bytes

WHOLE_UNITS = st.builds(int.__mul__, st.integers(0, 1023), st.sampled_from((1, KIB, MIB, GIB, TIB)))


@given(WHOLE_UNITS)
def test_a_whole_number_of_units_survives_formatting_and_parsing(size):
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(0, 2**60))
def test_formatting_any_size_loses_at_most_half_a_percent(size):
    assert abs(parse_bytes(format_bytes(size)) - size) <= size * 0.005


@given(st.integers(0, 1024 * TIB - TIB))
def test_no_size_below_1024_tib_is_written_with_more_than_four_digits_before_the_point(size):
    assert float(format_bytes(size).split()[0]) < 1024


@given(st.integers(-(2**60), -1))
def test_a_difference_is_written_like_its_magnitude_with_a_sign(size):
    assert format_bytes(size) == f"-{format_bytes(-size)}"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (MIB - 1, "1.00 MiB"),
        (GIB - 1, "1.00 GiB"),
        (1018 * KIB, "1018.00 KiB"),
        (5 * TIB // 2, "2.50 TiB"),
        (4096 * TIB, "4096.00 TiB"),
    ],
)
def test_sizes_at_the_borders_of_units(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 * GIB),
        ("16 gib", 16 * GIB),
        ("  2.5 MiB ", 5 * MIB // 2),
        ("0B", 0),
        ("9007199254740993 B", 9007199254740993),  # 2**53 + 1: no float holds it
        ("0.1 KiB", 102),
    ],
)
def test_sizes_are_read_with_or_without_spaces_in_any_case(text, size):
    assert parse_bytes(text) == size


def test_a_size_too_large_for_a_float_is_read_exactly():
    assert parse_bytes("9" * 400 + " TiB") == int("9" * 400) * TIB


@pytest.mark.parametrize(
    "text",
    ["", " ", "16", "GiB", "16GB", "16G", "-1GiB", "1e3GiB", "nan GiB", "16 GiB free", "1.GiB"],
)
def test_text_that_is_not_a_size_is_refused_with_the_units_that_there_are(text):
    with pytest.raises(ValueError, match="B, KiB, MiB, GiB or TiB") as refused:
        parse_bytes(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (99_994, "99.99 k"),
        (99_999, "100.0 k"),
        (999_949, "999.9 k"),
        (999_999, "1.00 M"),
        (3_878_712, "3.88 M"),
        (10**12, "1.00 T"),
        (123_456 * 10**12, "123456 T"),
    ],
)
def test_counts_at_the_borders_of_suffixes(count, text):
    assert format_count(count) == text


@given(st.integers(0, 10**15 - 10**12))
def test_a_count_has_at_most_four_digits(count):
    assert len(re.sub(r"\D", "", format_count(count))) <= 4
