"""Kept records: one file per experiment, found by the question asked, and checked by samples.

A kept record answers a question (`RunSpec.question`): which model, facts, method and settings. Code
and versions are not part of the question, so the record outlives them. Each build shows that
records still hold: it runs a sample again with the present code, and compares within a stated
tolerance.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.cache import user_path, write_whole
from ..records import code_hash, current_commit

#: The format of the file.
FORMAT = "zu-evidence-1"
#: The fields of a record's provenance, which many runs of a file share.
SHARED = ("versions", "commit", "code", "device", "threads")


class EvidenceError(ValueError):
    """A kept record is damaged, or the present code does not find it again; the message names it.
    """


@dataclass(frozen=True)
class Tolerance:
    """How far a run may be from the kept record of the same question.

    Rounding depends on the machine, the number of threads and the order of a batch's rows. It
    shifts the search for targets, and may change answers that were almost tied. With one thread and
    with two on the same CPU, and with targets found anew, no prompt of 650 was answered differently
    after edits of fifty facts by each of three methods, and no other number differed in its fourth
    digit. The tolerance leaves some room for other machines. Of some thirty kept records that were
    made again on a second machine one lay outside: ZeroUnlearn on two hundred facts at once, an
    edit that ruins much (Eff 0.5 there and 2.0 here, perplexity 30.81 and 30.56). Older code found
    the second numbers on the second machine too, so it is the machine and not the code; AlphaEdit
    on the same facts was found again. No tolerance was widened for it.

    Attributes
    ----------
    prompts : int
        For a share of prompts: how many may always be answered differently.
    share : float
        The same as a share of the prompts asked; the larger of the two counts.
    relative : float
        For any other number, such as perplexity: the allowed difference relative to the kept one.
    absolute : float
        For any other number: the difference that is always allowed.
    """

    prompts: int = 1
    share: float = 0.01
    relative: float = 0.01
    absolute: float = 0.002


#: The numbers that are shares in percent, with the names of the numbers of prompts.
_SHARES = {"eff": "n_eff", "gen": "n_gen", "spe": "n_spe", "hop": "n_hop", "acc": "n", "said": "n"}
#: Numbers that follow from answers beside them: intervals, and the harness's own metrics.
_FOLLOWS = ("interval", "harness")


def differences(kept: dict, again: dict, tolerance: Tolerance = Tolerance()) -> list[str]:
    """The numbers of a run that are further from a kept record's than allowed.

    Parameters
    ----------
    kept, again : dict
        The metrics of the record and of the run.
    tolerance : Tolerance
        How far they may be apart.

    Returns
    -------
    list of str
        One sentence per number; empty if the record holds. Intervals and the harness's own metrics
        follow from other numbers and are not compared.
    """
    return _dicts("", kept, again, tolerance)


def _dicts(place: str, kept: dict, again: dict, tolerance: Tolerance) -> list[str]:
    """`differences` at a place, which is "" for the whole, or a name with its point, "grammar."."""
    said = []
    for name in sorted(kept.keys() | again.keys()):
        if name.startswith(_FOLLOWS):
            continue
        if name not in kept or name not in again:
            said.append(f"{place}{name} is only {'kept' if name in kept else 'found'}")
        elif _SHARES.get(name) in kept and isinstance(kept[name], int | float):
            said += _share(place + name, kept, again, tolerance)
        else:
            said += _leaves(place + name, kept[name], again[name], tolerance)
    return said


def _share(place: str, kept: dict, again: dict, tolerance: Tolerance) -> list[str]:
    """`differences` of a share of prompts, whose name ends the place."""
    name = place.rpartition(".")[2]
    asked, now = kept[_SHARES[name]], again[name]
    if now is None or again[_SHARES[name]] != asked:
        return [f"{place} was of {asked} prompts and is of {again[_SHARES[name]]}"]
    turned = abs(kept[name] - now) / 100 * asked
    most = max(tolerance.prompts, tolerance.share * asked)
    if turned <= most + 1e-6:
        return []
    return [f"{place} was {kept[name]:.1f} and is {now:.1f}: {turned:.0f} of {asked} prompts, at "
            f"most {most:.0f} may differ"]


def _answers(value: Any) -> list | None:
    """Answers one by one, 1 for a right one, from a list or a text of digits; None for others."""
    if isinstance(value, str) and len(value) > 1 and not set(value) - {"0", "1"}:
        return [int(digit) for digit in value]
    if isinstance(value, list) and len(value) > 1 and all(x in (0, 1, None) for x in value):
        return value
    return None


def _one_by_one(place: str, kept: list, again: list, tolerance: Tolerance) -> list[str]:
    """`differences` of two equally long lists of answers."""
    turned = sum(x != y for x, y in zip(kept, again, strict=True))
    most = max(tolerance.prompts, tolerance.share * len(kept))
    if turned <= most + 1e-6:
        return []
    return [f"{place}: {turned} of {len(kept)} answers, at most {most:.0f} may differ"]


def _leaves(name: str, kept: Any, again: Any, tolerance: Tolerance) -> list[str]:
    """`differences` of a number, or of the numbers in lists and dictionaries, by their places."""
    if isinstance(kept, dict) and isinstance(again, dict):
        return _dicts(f"{name}.", kept, again, tolerance)
    was, now = _answers(kept), _answers(again)
    if was is not None and now is not None and len(was) == len(now):
        return _one_by_one(name, was, now, tolerance)
    if isinstance(kept, list) and isinstance(again, list) and len(kept) == len(again):
        return [said for i, (x, y) in enumerate(zip(kept, again, strict=True))
                for said in _leaves(f"{name}[{i}]", x, y, tolerance)]
    numbers = [x for x in (kept, again) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) < 2:
        return [] if kept == again else [f"{name} was {kept!r} and is {again!r}"]
    most = max(tolerance.absolute, tolerance.relative * abs(kept))
    if math.isclose(kept, again, rel_tol=0, abs_tol=most):
        return []
    return [f"{name} was {kept:.4g} and is {again:.4g}, which may differ by {most:.2g}"]


def check_again(
    path: str | Path, record: dict, again: dict, tolerance: Tolerance = Tolerance()
) -> None:
    """Compare a run with the kept record of the same question.

    Parameters
    ----------
    path : str or Path
        The file of the record, for the message.
    record, again : dict
        The kept record, and the new one.
    tolerance : Tolerance
        How far their numbers may be apart.

    Raises
    ------
    EvidenceError
        If they are further apart; the message gives the differences and the remedy.
    """
    was, now = (x["metrics"] | {"damage": x.get("damage")} for x in (record, again))
    if said := differences(was, now, tolerance):
        raise EvidenceError(
            f"{path}: the record of {record['method']} on {record['n']} facts of "
            f"{record['dataset']}, seed {record['seed']}, is not found again: {'; '.join(said)}. "
            "If the code should find something else now: python tools/evidence.py --drop "
            f"{record['question'][:12]} {Path(path).stem}, then make evidence with the profile "
            "that it was made with")


@dataclass
class Kept:
    """The records of a file, by their questions.

    Attributes
    ----------
    path : Path
        The file's path; it may not exist yet.
    runs : dict
        The records by question.
    """

    path: Path
    runs: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Kept:
        """Read a file of kept records.

        Parameters
        ----------
        path : str or Path
            A file that `write` wrote, or a path without a file.

        Returns
        -------
        Kept
            Its records; none if there is no file.

        Raises
        ------
        EvidenceError
            If the file is damaged or holds something else.
        """
        path = user_path(path)
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise EvidenceError(f"{path} holds no kept records: take it from the repository again "
                                "(git checkout), or delete it and run make evidence")
        makers = about["makers"]
        records = [record | makers[record.pop("maker")] for record in about["runs"]]
        return cls(path, {record["question"]: record for record in records})

    def add(self, records: Iterable[dict]) -> int:
        """Add records that answer questions not yet answered here.

        Parameters
        ----------
        records : iterable of dict
            Records of a grid; those without a question are left out.

        Returns
        -------
        int
            How many records are new.
        """
        before = len(self.runs)
        for record in records:
            if "question" in record:
                self.runs.setdefault(record["question"], record)
        return len(self.runs) - before

    def write(self) -> None:
        """Write the file, whole or not at all: one record per line, in a fixed order."""
        records = sorted(self.runs.values(), key=_order)
        makers: list[dict] = []
        lines = []
        for record in records:
            maker = {name: record[name] for name in SHARED if name in record}
            if maker not in makers:
                makers.append(maker)
            own = {name: x for name, x in record.items() if name not in SHARED}
            lines.append(_line(own | {"maker": makers.index(maker)}))
        text = "\n".join([
            "{", f' "format": "{FORMAT}",', ' "makers": [',
            ",\n".join(map(_line, makers)), " ],", ' "runs": [', ",\n".join(lines), " ]", "}", ""])
        write_whole(self.path, lambda part: part.write_text(text, encoding="utf-8"))


def _line(record: dict) -> str:
    """A record on one line, with six digits per number; further digits are rounding noise."""
    return json.dumps(_short(record), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> Any:
    """A value with each floating-point number in it rounded to six digits."""
    if isinstance(value, dict):
        return {key: _short(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_short(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _order(record: dict) -> tuple:
    """The sort key of a record in its file."""
    return (*(str(record.get(name)) for name in ("model", "experiment", "dataset")),
            record.get("n", 0), record.get("seed", 0), str(record.get("method")),
            record["question"])


def verification() -> tuple[float, str]:
    """How much a build runs again, and the commit that determines which records.

    Returns
    -------
    seconds : float
        ``$ZU_VERIFY``, a number or "all"; 0 if it is not set, as in a user's own notebook.
    commit : str
        The commit of the source tree; outside of git, a hash of the code.

    Raises
    ------
    ValueError
        If the variable holds anything else.
    """
    value = os.environ.get("ZU_VERIFY", "0")
    try:
        seconds = math.inf if value == "all" else float(value)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"VERIFY is '{value}': give seconds, 0 for none, or all")
    commit = current_commit()
    return seconds, code_hash() if commit == "unknown" else commit


#: A record that takes this many times a chapter's share of a build's seconds is run again only
#: where all are.
TOO_LONG = 15


def sampled(records: Sequence[dict], commit: str, seconds: float) -> Iterator[dict]:
    """The kept records that a build runs again: at least one, and different ones at each commit.

    Records of one draw go together, since they share targets. A hash of the commit determines the
    draw and the order within it. The first record that takes longer than what is left of the time
    is the last: it is run with the probability left / time, so that on average over commits the
    time is kept. One that takes `TOO_LONG` times as long is run only where all records are.

    Parameters
    ----------
    records : sequence of dict
        The records that the build shows.
    commit : str
        The commit.
    seconds : float
        How long they may take together, judged by the time that they took when they were made. If
        this is positive, there is at least one record; if no other has its turn, one that takes at
        most twice as long as the quickest. `math.inf` gives all. The caller should watch the clock
        too, since the records may have been made on a faster machine.

    Yields
    ------
    dict
        A record.
    """
    if not records or seconds <= 0:
        return

    def turn(*about: object) -> str:
        return hashlib.sha256(" ".join(map(str, [commit, *about])).encode()).hexdigest()

    def draw(record: dict) -> str:
        return turn(*(record.get(name) for name in ("model", "dataset", "n", "seed")))

    left, some = seconds, False
    ordered = sorted(records, key=lambda record: (draw(record), turn(record["question"])))
    for record in ordered:
        took = _seconds(record)
        if took > TOO_LONG * seconds:
            continue
        share = int(turn(record["question"], "long")[:8], 16) / 16**8  # even in [0, 1)
        if took > left and share * took >= left:
            break
        left -= took
        some = True
        yield record
        if left <= 0:
            return
    if not some:
        quickest = min(map(_seconds, records))
        yield next(record for record in ordered if _seconds(record) <= 2 * quickest)


def _seconds(record: dict) -> float:
    """How long a record took when it was made."""
    return sum(record.get("seconds", {}).values())
