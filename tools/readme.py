"""The README's table and picture, from the kept records of few facts.

`python tools/readme.py` writes book/_static/results.svg and the table between the README's marks.
"""
from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from zu.book import figures
from zu.book.verdicts import over_draws
from zu.experiment import Kept
from zu.scores import wilson

ROOT = Path(__file__).parents[1]
KEPT, PICTURE, README = "results/few_shot.json", "book/_static/results.svg", "README.md"
DATASET, N = "world-cloze", 50
#: The rows, in the README's order.
METHODS = ("base", "ga", "ft", "rome", "memit", "alphaedit", "exact:lam=0.1", "zerounlearn")
NAMES = {"exact:lam=0.1": "exact Lemma 5.1", "rome": "ROME, bound 0.75"}
#: Methods whose names go below their dots in the picture, because others would cover them.
BELOW = ("ft", "zerounlearn")
MARKS = re.compile(r"(<!-- results -->\n).*?(\n<!-- /results -->)", re.S)


def records(path: Path) -> list[dict]:
    """The kept records of these methods, of the draws that have all of them."""
    found = [record for record in Kept.read(path).runs.values()
             if (record["dataset"], record["n"]) == (DATASET, N) and record["method"] in METHODS]
    seeds = {seed: {r["method"] for r in found if r["seed"] == seed}
             for seed in {r["seed"] for r in found}}
    return [r for r in found if seeds[r["seed"]] == set(METHODS)]


def cell(found: list[dict], metric: str) -> str:
    """The mean over draws and half of its 95% interval; Wilson's bound if all draws are 0."""
    values = [metrics[metric] for metrics in found]
    if not any(values):
        return f"0 (to {wilson(0, sum(metrics[f'n_{metric}'] for metrics in found))[1]:.1f})"
    mean, low, high = over_draws(values)
    return f"{mean:.1f} ± {(high - low) / 2:.1f}"


def table(rows: list[dict]) -> str:
    """The means over draws with half of their 95% intervals, as Markdown."""
    lines = ["| | Eff ↓ | Gen ↓ | Spe ↑ | PPL |", "|---|---|---|---|---|"]
    for method in METHODS:
        own = [row["metrics"] for row in rows if row["method"] == method]
        cells = [cell(own, metric) for metric in ("eff", "gen", "spe", "ppl")]
        name = NAMES.get(method, figures.LABELS[method.partition(":")[0]])
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> None:
    """How much each method forgets against how much its neighbours keep, one dot per draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures.use_style()
    wide = pd.DataFrame([{"method": r["method"], "Gen": r["metrics"]["gen"],
                          "Spe": r["metrics"]["spe"]} for r in rows])
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for method in METHODS:
        some = wide[wide.method == method]
        colour = figures.colour_of(method)
        axis.plot(some.Gen, some.Spe, "o", ms=4, alpha=0.35, color=colour)
        axis.plot(some.Gen.mean(), some.Spe.mean(), "o", ms=9, color=colour)
        name = NAMES.get(method, figures.LABELS[method.partition(":")[0]])
        axis.annotate(name, (some.Gen.mean(), some.Spe.mean()),
                      xytext=(8, -12 if method in BELOW else 4), textcoords="offset points",
                      fontsize=9)
    axis.set(xlabel="Gen: still answered in other words, % (less is better)",
             ylabel="Spe: neighbours still right, %")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(root: Path = ROOT) -> None:
    """Write both."""
    rows = records(root / KEPT)
    picture(rows, root / PICTURE)
    readme = root / README
    text = MARKS.sub(lambda m: m[1] + table(rows) + m[2], readme.read_text(encoding="utf-8"))
    draws = len({r["seed"] for r in rows})
    text = re.sub(r"(Means of )\d+( draws)", rf"\g<1>{draws}\g<2>", text)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
