"""The README is short, and its table is what the kept records say."""
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import readme  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path):
    """A folder with what the tool reads and writes."""
    for name in (readme.KEPT, readme.README):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / readme.PICTURE).parent.mkdir(parents=True)
    return tmp_path


def test_the_table_is_that_of_the_kept_records(copy):
    readme.main(copy)
    written = (copy / readme.README).read_text()
    assert written == (ROOT / readme.README).read_text()
    rows = readme.records(copy / readme.KEPT)
    assert f"Means of {len({r['seed'] for r in rows})} draws" in written
    assert len({r["seed"] for r in rows}) >= 5


def test_the_picture_is_drawn_and_there(copy):
    assert (ROOT / readme.PICTURE).read_text().startswith("<?xml")
    assert f"]({readme.PICTURE})" in (ROOT / readme.README).read_text()
    readme.main(copy)
    assert (copy / readme.PICTURE).stat().st_size > 5000


def test_only_draws_with_all_rows_count(copy):
    rows = readme.records(copy / readme.KEPT)
    assert {r["method"] for r in rows} == set(readme.METHODS)
    assert len(rows) == len(readme.METHODS) * len({r["seed"] for r in rows})


def test_it_is_read_in_one_go():
    lines = (ROOT / readme.README).read_text().splitlines()
    assert len(lines) < 120
    assert lines.index("make book   # environment, embedded model, experiments, rendered pages; "
                       "prints build/html/index.html") < 20
