"""A misspelt name is answered with the likest one, or with nothing."""
import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zu.data.names import CUTOFF, closest, did_you_mean

METHODS = {"rome": 1, "memit": 2, "alphaedit": 3, "zerounlearn": 4, "zerounlearn-gd": 5}


@pytest.mark.parametrize("name, meant", [
    ("zerounlern", "zerounlearn"),
    ("alhpaedit", "alphaedit"),
    ("memmit", "memit"),
    ("rome", "rome"),
    ("xyz", None),
    ("", None),
])
def test_the_likest_name_is_found_or_none(name, meant):
    assert closest(name, METHODS) == meant
    assert did_you_mean(name, METHODS) == (f"did you mean '{meant}'? " if meant else "")


def test_a_name_is_less_easily_found_at_a_higher_cutoff():
    assert closest("smollm3", ["smollm2"], 0.7) == "smollm2"
    assert closest("smo", ["smollm2"], CUTOFF) == "smollm2" != closest("smo", ["smollm2"], 0.7)
    assert did_you_mean("smo", ["smollm2"], 0.7) == ""


def test_case_counts():
    assert closest("ROME", METHODS) is None and closest("ROME".lower(), METHODS) == "rome"


def test_names_are_taken_from_anything_that_can_be_gone_through():
    assert closest("memmit", iter(METHODS)) == closest("memmit", tuple(METHODS)) == "memit"
    assert closest("memmit", []) is None


@given(st.text(max_size=12), st.lists(st.text(max_size=12), max_size=8), st.floats(0, 1))
def test_it_is_the_first_that_difflib_finds(name, known, cutoff):
    found = difflib.get_close_matches(name, known, 1, cutoff)
    assert closest(name, known, cutoff) == (found[0] if found else None)
    assert closest(name, [*known, name], cutoff) == name
