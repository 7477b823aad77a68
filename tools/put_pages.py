"""Put rendered pages in place: `python tools/put_pages.py build/pages/new.X build/html.files`.

build/html is a link to a folder in build/pages, and one rename replaces it with a new link, so a
reader finds either the old book or the new one, but always a whole one. The old book stays until
the next one, for anyone who is reading or copying it. The list of the new pages is written last; if
it is missing, the book is rendered again.
"""
import os
import shutil
import sys
from pathlib import Path


def swap(made, link, name):
    """Move `made` to pages/`name`, and let `link` lead there; returns its earlier target, if any.
    """
    pages = link.parent / "pages"
    made.rename(pages / name)
    new = pages / f"{name}.link"
    new.symlink_to(Path("pages", name))
    before = os.readlink(link) if link.is_symlink() else None
    if before is None and link.exists():  # an earlier version's folder, which no link can replace
        before = f"{name}.before"
        link.rename(pages / before)
    os.replace(new, link)
    return before and Path(before).name


def listing(link):
    """The files of the pages, as paths through the link, one per line."""
    return "".join(f"{path}\n" for path in sorted(
        Path(folder, file) for folder, _, files in os.walk(link) for file in files))


def main(new, listed, link=Path("build/html")):
    name = new.name.removeprefix("new.")
    keep = {name, swap(new / "_build/html", link, name)}
    part = new / "files"
    part.write_text(listing(link), encoding="utf-8")
    os.replace(part, listed)
    for old in new.parent.iterdir():
        if old.is_symlink():  # one that a killed run has not put in place
            old.unlink()
        elif old.name not in keep and not old.name.startswith("new."):
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
