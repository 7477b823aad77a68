"""Pack the records of `make evidence` into results/, one file per chapter.

`python tools/evidence.py few_shot` adds records below build/evidence/records/few_shot to
results/few_shot.json, if the present code made them and no record there answers the same question.
`--drop 1a2b3c` removes records whose question begins like this, so that `make evidence` makes them
again.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from zu.experiment import Kept, code_hash, read_records

#: Folders of a chapter's records that do not begin with its name.
ALSO = {"anchors": ("front", "held-out")}
FOUND, RESULTS, RUN = Path("build/evidence/records"), Path("results"), Path("build/evidence")


def pack(name: str, found: Path = FOUND, results: Path = RESULTS) -> int:
    """Add a chapter's new records to its file; returns their number."""
    kept, code = Kept.read(results / f"{name}.json"), code_hash()
    folders = [*sorted(found.glob(f"{name}*")), *(found / also for also in ALSO.get(name, ()))]
    new = kept.add(record for folder in folders
                   for record in read_records(folder) if record.get("code") == code)
    if new:
        kept.write()
    return new


def drop(name: str, question: str, results: Path = RESULTS, run: Path = RUN) -> int:
    """Remove the records whose question begins like this; returns their number."""
    kept = Kept.read(results / f"{name}.json")
    out = [found for found in kept.runs if found.startswith(question)]
    for found in out:
        del kept.runs[found]
    if out:
        kept.write()
        (run / f"{name}.ipynb").unlink(missing_ok=True)  # so that it runs again
    return len(out)


def main() -> None:
    """Pack each named chapter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="chapters, such as few_shot")
    parser.add_argument("--drop", metavar="QUESTION", help="remove records instead")
    options = parser.parse_args()
    for name in options.chapters:
        path = RESULTS / f"{name}.json"
        changed = drop(name, options.drop) if options.drop else pack(name)
        what = "out" if options.drop else "new"
        print(f"{path}: {changed} {what}, {len(Kept.read(path).runs)} in all")


if __name__ == "__main__":
    main()
