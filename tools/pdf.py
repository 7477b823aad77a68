"""The whole book as one PDF, printed by Chrome or Chromium from one page. `make pdf` calls it."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
            "msedge")
OPTIONS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
           "--no-pdf-header-footer",
           "--virtual-time-budget=180000")  # the formulas are set by a script


def browser() -> str:
    """The program of Chrome or Chromium, from $CHROME or by its usual names; exits without one."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found or not shutil.which(found):
        sys.exit(f"  pdf FAILED: no Chrome or Chromium ({found or ', '.join(BROWSERS)}): "
                 "install one, or set CHROME to its program")
    return found


def main(site: Path, out: Path) -> None:
    """Build the pages that the book's rule left in `site` into the PDF `out`, whole or not at all.
    """
    chrome = browser()
    with tempfile.TemporaryDirectory() as scratch:
        build = subprocess.run(
            [Path(sys.executable).with_name("jupyter-book"), "build", site,
             "--path-output", scratch, "--builder", "singlehtml"],
            capture_output=True, text=True, check=False)
        page, part = (next(Path(scratch).glob("_build/singlehtml/intro.html"), None),
                      Path(scratch, "book.pdf"))
        if build.returncode or page is None:
            sys.exit("  pdf FAILED: the one page could not be built\n"
                     f"{build.stdout[-2000:]}{build.stderr[-2000:]}")
        # Chrome refuses to start as root with a sandbox
        box = ["--no-sandbox"] if os.geteuid() == 0 else []
        shown = subprocess.run(
            [chrome, *OPTIONS, *box, f"--user-data-dir={scratch}/profile",
             f"--print-to-pdf={part}", page.as_uri()],
            capture_output=True, text=True, check=False, timeout=900)
        if not part.exists() or part.read_bytes()[:5] != b"%PDF-":
            sys.exit(f"  pdf FAILED: {chrome} printed nothing\n{shown.stderr[-2000:]}")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, hidden := out.with_name(f".{out.name}"))
        os.replace(hidden, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
