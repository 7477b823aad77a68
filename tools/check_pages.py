"""axe-core on every page of the rendered book, light and dark, in Chrome or Chromium.

`make check` calls it. `python tools/check_pages.py build/html` prints each serious or critical
violation with its place, and fails if there is one. It needs `pip install -e ".[check]"`, and uses
the browser that tools/pdf.py finds.
"""
import sys
from pathlib import Path

from pdf import browser

BAD = ("serious", "critical")


def violations(html: Path) -> list[str]:
    """One line per serious or critical violation: page, mode, rule, elements."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    found, axe = [], Axe()
    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        for mode in ("light", "dark"):
            page = chrome.new_context(color_scheme=mode).new_page()
            for path in sorted(
                p for p in html.glob("*.html") if p.name not in ("index.html", "genindex.html")
            ):
                page.goto(path.resolve().as_uri())
                for v in axe.run(page).response["violations"]:
                    if v["impact"] in BAD:
                        where = ", ".join(node["target"][0] for node in v["nodes"][:3])
                        rule = f"{v['id']} ({v['impact']}, {len(v['nodes'])} places)"
                        found.append(f"{path.name}, {mode}: {rule}: {where}")
        chrome.close()
    return found


if __name__ == "__main__":
    pages = Path(sys.argv[1])
    if not any(pages.glob("*.html")):
        sys.exit(f"  check FAILED: {pages} holds no pages: make book first")
    lines = violations(pages)
    print("\n".join(lines) or f"  {pages}: no serious accessibility violation, light or dark")
    sys.exit(bool(lines))
