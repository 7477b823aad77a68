"""Which faults `make mutants` makes, and that they are in force where a function is used."""
import sys
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="make mutants installs it")
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import mutants  # noqa: E402

SOURCE = '''
from functools import cache

LIMIT = 3


@cache
def half(x: int | None = 1, y: str = "no word of it") -> float:
    """What is 3 + 4?"""
    if x < LIMIT:
        raise ValueError(f"x is {x + 1}")
    return x / 2


class Box:
    @property
    def size(self):
        return 5
'''


def test_code_and_defaults_are_broken_and_wording_and_types_are_left_alone():
    found = {(x.function, x.was, x.becomes) for x in mutants.mutants(SOURCE)}
    head = 'def half(x: int | None = {}, y: str = "no word of it") -> float:'
    assert found == {
        ("half", head.format(1), head.format(2)),
        ("half", "if x < LIMIT:", "if x <= LIMIT:"),
        ("half", "return x / 2", "return x * 2"),
        ("half", "return x / 2", "return x / 3"),
        ("Box.size", "return 5", "return 6"),
    }


def test_devices_and_the_lengths_of_zip_are_left_alone_and_what_stands_beside_them_is_not():
    line = "return torch.ones(2, device=x), y.to(x.device), zip(x, y, strict=True)"
    source = f"def f(x, y):\n    {line}\n"
    found = [x.becomes for x in mutants.mutants(source)]
    assert found and all("device=x" in x and ".to(x.device)" in x and "strict=True" in x
                         for x in found)
    assert any("ones(3, device=x)" in x for x in found) and any("zip(x, None" in x for x in found)


def test_a_fault_is_put_into_the_function_that_others_hold_already(tmp_path, monkeypatch):
    (tmp_path / "faulty_one.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import faulty_one

    half, box = faulty_one.half.__wrapped__, faulty_one.Box()
    for mutant in mutants.mutants(SOURCE):
        mutants.install(mutant, "faulty_one.py")
    assert box.size == 6
    assert half(9) != 4.5  # of the faults in one function the last is in force


def test_every_file_has_tests_and_every_reason_a_file():
    for file in mutants.TESTS:
        assert (mutants.ROOT / file).exists() and mutants.test_paths(file), file
    for file, *_ in mutants.reasons():
        assert file in mutants.TESTS
