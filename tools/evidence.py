"""Pack what `make evidence` found into results/, one file a chapter.

`python tools/evidence.py few_shot` adds the records below build/evidence/records/few_shot to
results/few_shot.json that answer a question which none there answers. What is there stays: delete a
file to have it made anew.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from zu.experiment import Kept, read_records

FOUND, RESULTS = Path("build/evidence/records"), Path("results")


def pack(name: str, found: Path = FOUND, results: Path = RESULTS) -> int:
    """Add a chapter's new records to its file; returns how many there were."""
    kept = Kept.read(results / f"{name}.json")
    new = kept.add(record for folder in sorted(found.glob(f"{name}*"))
                   for record in read_records(folder))
    if new:
        kept.write()
    return new


def main() -> None:
    """Pack each chapter that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as few_shot")
    for name in parser.parse_args().chapters:
        path = RESULTS / f"{name}.json"
        new = pack(name)
        print(f"{path}: {new} new, {len(Kept.read(path).runs)} in all")


if __name__ == "__main__":
    main()
