"""Check that every link of a rendered book leads somewhere: `python tools/links.py build/html`.

Links to other hosts are not checked.
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and the targets of its links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found.get("id"), found.get("name")}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def broken(folder: Path) -> list[str]:
    """Links to missing files or anchors of the folder, as "page: link"."""
    pages, lost = {path: Page(path) for path in sorted(folder.glob("*.html"))}, []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            anchors = pages[target].anchors if target in pages else None
            if not target.exists() or (
                parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors
            ):
                lost.append(f"{path.name}: {link}")
    return lost


if __name__ == "__main__":
    lost = broken(Path(sys.argv[1]))
    for line in lost:
        print(line)
    sys.exit(bool(lost))
