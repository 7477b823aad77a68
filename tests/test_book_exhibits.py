"""The lists of tables and figures say what the executed notebooks and the records say."""
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zu.book import exhibits
from zu.experiment import FORMAT, Kept

NOW = datetime(2026, 1, 11, tzinfo=UTC)


def record(seed=1, day=1, **more):
    return {"format": FORMAT, "seed": seed, "commit": f"c{seed}", "question": f"q{seed}",
            "created": f"2026-01-{day:02}T00:00:00+00:00"} | more


@pytest.fixture
def found(tmp_path):
    """Two executed chapters: one with a table, a figure and a record, one with nothing."""
    def notebook(*names):
        cells = [{"metadata": {"mystnb": {"figure": {"name": name}}}} for name in names]
        mill = {"duration": 90.0, "start_time": "2026-01-10T08:00:00"}
        return json.dumps({"cells": [*cells, {"metadata": {}}], "metadata": {"papermill": mill}})

    folder = tmp_path / "executed"
    (tmp_path / "records/few").mkdir(parents=True)
    folder.mkdir()
    (folder / "few.ipynb").write_text(notebook("tab-a", "fig-b"))
    (folder / "words.ipynb").write_text(notebook())
    (folder / ".half.ipynb").write_text("")  # one that is being written
    (tmp_path / "records/few/a.json").write_text(json.dumps(record(2, day=4)))
    return exhibits.chapters(folder, tmp_path / "records", "smol", NOW)


def test_records_tell_their_seeds_commits_and_the_age_of_the_oldest():
    assert exhibits.made_by([record(2, 9), record(1, 3)], NOW) == {
        "records": 2, "seeds": "1, 2", "commit": "c1, c2", "oldest record, days": 8}
    assert exhibits.made_by([], NOW) == {
        "records": 0, "seeds": "–", "commit": "–", "oldest record, days": "–"}


def test_chapters_tell_what_they_show_and_when_they_ran(found):
    assert found.shown == {"tab-a": "few", "fig-b": "few"}
    assert found.runs["few"] == {
        "profile": "smol", "minutes": 1.5, "run": "2026-01-10", "records": 1, "seeds": "2",
        "commit": "c2", "oldest record, days": 7}
    assert found.runs["words"]["records"] == 0


def test_kept_runs_are_read_from_a_folder_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(exhibits, "RESULTS", str(tmp_path))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a.json").write_text(json.dumps(record(1, day=2)))
    kept = Kept.read(tmp_path / "new.json")
    kept.add([record(3, day=5), record(4, day=6)])
    kept.write()
    runs = exhibits.kept_runs(NOW, {"tab-a": "old", "fig-b": "new", "fig-c": "nowhere"})
    assert [(name, run["records"], run["run"]) for name, run in runs.items()] == [
        ("tab-a", 1, "2026-01-02"), ("fig-b", 2, "2026-01-06")]


def test_each_of_the_papers_has_a_line_with_its_own_run_or_the_kept_one(found):
    kept = {"tab-a": {"profile": "kept", "minutes": "–", "run": "2025-12-01"}}
    paper = {"Fig. 1": ["fig-b"], "Table 1": ["tab-a", "tab-z"]}
    lines = exhibits.of_the_paper(found, kept, paper).to_dict("records")
    assert [(x["the paper"], x["profile"], x["run"]) for x in lines] == [
        ("Fig. 1", "smol", "2026-01-10"), ("Table 1", "kept", "2025-12-01"), ("Table 1", "–", "–")]
    assert lines[0]["here"] == '<a href="few.html#fig-b">fig-b</a>'
    assert lines[2]["here"] == "none yet" and lines[2]["chapter"] == "–"


def test_the_books_list_has_each_chapter_and_only_what_the_book_shows(found):
    book = exhibits.of_the_book(found)
    assert list(book.chapter) == ['<a href="few.html">few</a>', '<a href="words.html">words</a>']
    assert list(book["tables and figures"])[1] == "–" and "seeds" not in book
    kept = {"fig-b": {"profile": "kept", "minutes": "–", "run": "d"}, "fig-z": {"run": "d"}}
    assert exhibits.of_kept_runs(found, kept).to_dict("records") == [
        {"here": '<a href="few.html#fig-b">fig-b</a>', "run": "d"}]
    assert "&lt;" not in exhibits.as_html(book)


def test_without_executed_chapters_the_lists_are_empty(tmp_path):
    none = exhibits.chapters(tmp_path, tmp_path, "smol", NOW)
    assert exhibits.of_the_book(none).empty and exhibits.of_kept_runs(none, {}).empty
    assert set(exhibits.of_the_paper(none, {}).here) == {"none yet"}
    assert "<table" in exhibits.as_html(exhibits.of_the_book(none))


def test_what_is_listed_has_a_cell_in_some_chapter():
    pages = "\n".join(path.read_text() for path in Path("book").glob("*.md"))
    names = {name for ours in exhibits.PAPER.values() for name in ours} | {*exhibits.KEPT}
    assert not [name for name in names if f"name: {name}\n" not in pages]
