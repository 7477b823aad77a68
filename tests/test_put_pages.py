"""A new book takes the place of the one before by one rename; a kill on the way loses neither."""
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import put_pages


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put a book in place whose one page has this text."""
    monkeypatch.chdir(tmp_path)

    def put(name, text):
        new = Path("build/pages", f"new.{name}")
        (new / "_build/html/deep").mkdir(parents=True)
        (new / "_build/html/index.html").write_text(text)
        (new / "_build/html/deep/figure.png").touch()
        put_pages.main(new, Path("build/html.files"))
        shutil.rmtree(new)  # as its rule does
    return put


def page():
    return Path("build/html/index.html").read_text()


def there():
    return sorted(path.name for path in Path("build/pages").iterdir())


def test_a_book_is_a_link_to_its_pages_and_a_list_of_them(put):
    put("a", "first")
    assert Path("build/html").is_symlink() and page() == "first"
    files = Path("build/html.files").read_text().splitlines()
    assert files == ["build/html/deep/figure.png", "build/html/index.html"]


def test_the_book_of_before_stays_until_the_next_one_for_who_is_reading_it(put):
    put("a", "first")
    reader = Path("build/html").resolve()
    put("b", "second")
    assert page() == "second" and (reader / "index.html").read_text() == "first"
    put("c", "third")
    assert page() == "third" and there() == ["b", "c"]


def test_the_folder_of_an_earlier_version_gives_way_and_is_kept_until_the_next_book(put):
    Path("build/html").mkdir(parents=True)
    Path("build/html/index.html").write_text("of before")
    put("a", "first")
    assert page() == "first" and Path("build/pages/a.before/index.html").read_text() == "of before"
    put("b", "second")
    assert page() == "second" and there() == ["a", "b"]


@pytest.mark.parametrize("where, step, left", [
    (Path, "rename", "second"), (Path, "symlink_to", "second"), (os, "replace", "second"),
    (put_pages, "listing", "third"), (shutil, "rmtree", "third"),
])
def test_a_kill_at_any_step_leaves_a_whole_book_and_the_next_one_tidies_up(
        put, monkeypatch, where, step, left):
    put("a", "first")
    put("b", "second")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, step, killed)
        with pytest.raises(KeyboardInterrupt):
            put("c", "third")
    assert page() == left
    shutil.rmtree("build/pages/new.c")  # as the next rule does before it begins
    put("d", "fourth")
    assert page() == "fourth" and there() == [{"second": "b", "third": "c"}[left], "d"]
