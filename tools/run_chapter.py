"""Execute a chapter with papermill, and report now and then; the result is whole or not there.

The notebook gets its name only when it is complete, so a killed run leaves nothing that looks done.
If the process that started this one is gone, this one stops within a second, since it must not
write beside the next run.
"""
from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

#: Papermill's message about a kernel that never answered; two that start at once can pick one port.
SILENT = "Kernel died before replying to kernel_info"


@dataclass
class Chapter:
    """A notebook, its result and its log.

    `out` is `build/executed/NAME.ipynb` or a piece of a grid.
    """

    notebook: Path
    out: Path
    log: Path
    page: str
    parameters: dict

    @property
    def name(self) -> str:
        return self.out.stem

    @property
    def partial(self) -> Path:
        """Its path during the run; the process's number tells it from that of a killed run."""
        return self.out.with_name(f".{self.name}.{os.getpid()}.ipynb")

    @property
    def failed(self) -> Path:
        """The path of a failed notebook, for inspection."""
        return self.log.with_name(f"{self.name}.ipynb")

    def records(self) -> list[Path]:
        """The records that the chapter has written so far."""
        return sorted(path for folder in Path("build/records").glob(f"{self.page}*")
                      for path in ([folder] if folder.is_file() else folder.rglob("*.json"))
                      if path.suffix == ".json")


def main() -> int:
    chapter, often, count = _arguments()
    start = time.monotonic()
    say = _say_here_and_log_the_rest(chapter.log)
    for left in chapter.out.parent.glob(f".{chapter.name}.*"):  # by a run that was killed
        left.unlink(missing_ok=True)
    say(f"  {chapter.name} ...")
    threading.Thread(target=_end_with, args=(os.getppid(), chapter.partial), daemon=True).start()
    threading.Thread(target=_speak, args=(chapter, often, start, say), daemon=True).start()
    try:
        _execute(chapter)
    except BaseException as error:
        _keep_what_failed(chapter)
        say(f"  {chapter.name} FAILED after {time.monotonic() - start:.0f} s; from {chapter.log}:")
        say(_reason(chapter.log))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    chapter.out.with_suffix(".records").write_text(
        "".join(f"{path}\n" for path in chapter.records()))
    chapter.failed.unlink(missing_ok=True)
    os.replace(chapter.partial, chapter.out)
    there = len(list(Path("build/executed").glob("*.ipynb")))
    say(f"  {chapter.name} done in {time.monotonic() - start:.0f} s; "
        f"{there} of {count} chapters are there")
    return 0


def _arguments() -> tuple[Chapter, float, int]:
    import yaml

    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("notebook", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--log", type=Path, required=True)
    ask.add_argument("--page", required=True, help="its chapter's name, below build/records")
    ask.add_argument("--parameters", type=yaml.safe_load, default={}, help="a YAML mapping")
    ask.add_argument("--often", type=float, default=300, help="seconds between two messages")
    ask.add_argument("--count", type=int, default=0, help="how many chapters there are")
    given = ask.parse_args()
    chapter = Chapter(given.notebook, given.out, given.log, given.page, given.parameters or {})
    return chapter, given.often, given.count


def _say_here_and_log_the_rest(log: Path):
    """Send all further output, also a kernel's, to the log; returns a function for messages."""
    log.parent.mkdir(parents=True, exist_ok=True)
    heard = os.fdopen(os.dup(1), "w", buffering=1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def say(text: str) -> None:
        print(text, file=heard, flush=True)
        if words := os.environ.get("ZU_WORDS"):  # on another machine it is not heard
            with open(words, "a", encoding="utf-8") as shared:
                print(text, file=shared)

    return say


def _end_with(parent: int, partial: Path) -> None:
    """End with the process that started this one, and leave nothing unfinished behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    partial.unlink(missing_ok=True)
    os._exit(1)


def _speak(chapter: Chapter, often: float, start: float, say) -> None:
    while True:
        time.sleep(often)
        say(f"  {chapter.name}: {len(chapter.records())} records "
            f"after {time.monotonic() - start:.0f} s")


def _execute(chapter: Chapter) -> None:
    # jsonschema imports a grammar that takes two seconds to compile, where it is installed, to
    # check international web addresses; papermill imports pyarrow for files in Hadoop. No notebook
    # here asks for either.
    sys.modules["rfc3987_syntax"] = sys.modules["pyarrow"] = None
    import papermill

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for again in (True, False):
        try:
            papermill.execute_notebook(
                str(chapter.notebook), str(chapter.partial), chapter.parameters,
                kernel_name="python3", progress_bar=False)
            return
        except Exception as error:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            if not again or SILENT not in str(error):
                raise


def _keep_what_failed(chapter: Chapter) -> None:
    if chapter.partial.exists():
        os.replace(chapter.partial, chapter.failed)


def _reason(log: Path) -> str:
    """The end of the log, from where papermill says what went wrong."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^.*Exception encountered.*\Z", text, re.M | re.S)
    lines = (found.group() if found else text).rstrip().split("\n")
    return "\n".join(lines[-60:] if found else lines[-40:])


if __name__ == "__main__":
    sys.exit(main())
