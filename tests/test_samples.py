"""The small files that stand for the published data sets are like them."""
import json

import pytest

import samples

FILES = [*samples.FACTS, *(f"downstream_{name}" for name in samples.TASKS)]


@pytest.mark.parametrize("sample", samples.both(*FILES), indirect=True)
def test_a_file_has_the_fields_and_the_oddities_that_its_readers_are_tried_on(sample):
    rows = json.loads(sample.path.read_text(encoding="utf-8"))
    assert samples.schema(rows) == samples.schema(samples.ROWS[sample.name])
    oddities = samples.ODDITIES[sample.name]
    assert [name for name, shows in oddities.items() if not shows(rows)] == []


def test_every_file_that_is_written_has_rows_and_all_but_one_has_a_published_twin(written):
    assert {path.stem for path in written.iterdir()} == {*FILES, "multi_counterfact"}
    assert set(samples.ODDITIES) == set(FILES)
    assert all(len(rows) >= 4 for rows in samples.ROWS.values())
