"""Tables of how scores depend on the way in which targets are found."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from .figures import row_name
from .verdicts import over_draws

#: The names of the ways on pages, by their names in tools/searches.py.
WAYS = {
    "adam": "Adam",
    "normalised": "along the gradient",
    "gradient": "one gradient",
    "unknown": "as unknown ones",
}
SCORES = {"eff": "Eff", "gen": "Gen", "spe": "Spe"}


def beside(rows: Sequence[dict[str, Any]], reference: str = "adam") -> pd.DataFrame:
    """Scores by method and way, and their differences from one way, draw by draw.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the record that tools/searches.py writes.
    reference : str
        The way that the others are compared with.

    Returns
    -------
    pd.DataFrame
        By method and way, means over draws in percent; for the other ways also the mean of the
        paired differences with its 95% interval, in percentage points; and the number of draws.
    """
    frame = pd.DataFrame([row for row in rows if row["way"] in WAYS])
    found = []
    for method in dict.fromkeys(frame["method"]):
        of_method = frame[frame["method"] == method]
        ours = of_method[of_method["way"] == reference].set_index("seed")
        for way in [way for way in WAYS if way in set(of_method["way"])]:
            these = of_method[of_method["way"] == way].set_index("seed")
            row = {"method": row_name(method), "targets": WAYS[way], "draws": len(these)}
            for key, name in SCORES.items():
                row[name] = _said(these[key], ours[key], way == reference)
            found.append(row)
    return pd.DataFrame(found).set_index(["method", "targets"])


def _said(values: pd.Series, reference: pd.Series, own: bool) -> str:
    """A mean and, for another way, the paired difference with its interval."""
    mean = f"{values.mean():.1f}"
    both = values.index.intersection(reference.index)
    if own or len(both) < 2:
        return mean
    apart = over_draws((values[both] - reference[both]).to_numpy())
    return f"{mean} ({apart.value:+.1f}: {apart.low:+.1f} to {apart.high:+.1f})"
