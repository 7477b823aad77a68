"""Tables and figures of the data: facts, the questions about them, and what models know."""
from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.facts import Fact, Facts
from ..scores import Scores, percent_interval
from .figures import LABELS, PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What a fact's fields are asked for: the score that each feeds, and what forgetting should do.
FEEDS = {
    "prompt": ("Eff", "should fall"),
    "paraphrases": ("Gen", "should fall"),
    "neighbors": ("Spe", "should stay"),
    "hops": ("Hop", "should fall"),
}
#: How each field differs from the fact's own prompt.
ABOUT = {
    "prompt": "the fact, in its own words",
    "paraphrases": "the fact, in other words",
    "neighbors": "the same relation, another subject",
    "hops": "a question that needs the fact on its way",
}
COLOURS = {"should fall": SERIES[1], "should stay": SERIES[0]}


def asked_of(fact: Fact) -> pd.DataFrame:
    """The questions about a fact, and the score that each answer feeds.

    Parameters
    ----------
    fact : Fact
        Any fact.

    Returns
    -------
    pd.DataFrame
        One row per question: "field", "asked", "answer", "score" and "wanted", what forgetting
        should do to that score.
    """
    questions = {
        "prompt": [(fact.text, fact.target)],
        "paraphrases": [(text, fact.target) for text in fact.paraphrase_texts],
        "neighbors": list(fact.neighbors),
        "hops": list(fact.hops),
    }
    rows = [(field, *pair, *FEEDS[field]) for field, pairs in questions.items() for pair in pairs]
    return pd.DataFrame(rows, columns=["field", "asked", "answer", "score", "wanted"])


def draw_fact(fact: Fact, relation: str) -> tuple[Figure, pd.DataFrame]:
    """Draw a fact, the questions about it, and the score that each answer feeds.

    Parameters
    ----------
    fact : Fact
        The fact, with the first question of each kind.
    relation : str
        The name of the relation.

    Returns
    -------
    Figure
        Three columns: the fact, the questions, the scores.
    pd.DataFrame
        The result of `asked_of`.
    """
    import matplotlib.pyplot as plt

    table = asked_of(fact)
    shown = table.drop_duplicates("field").reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7.4, 0.95 * len(shown) + 0.3))
    axis.set(xlim=(0, 100), ylim=(len(shown) - 0.45, -0.6))
    axis.axis("off")
    middle = (len(shown) - 1) / 2
    _box(axis, (0, middle), (19, 1.5), PALETTE["base"],
         f"{fact.subject}\n– {relation} –\n{fact.target}", bold=True)
    for at, row in shown.iterrows():
        colour = COLOURS[row["wanted"]]
        _arrow(axis, (19, middle), (28, at), PALETTE["base"])
        said = textwrap.fill(f"{row['asked']} … {row['answer']}", 46)
        _box(axis, (28, at), (50, 0.72), colour, said)
        axis.annotate(f"{row['field']}: {ABOUT[row['field']]}", (31, at - 0.36), fontsize=8,
                      color="#333333", va="center", bbox={"fc": "white", "ec": "none", "pad": 1})
        _arrow(axis, (78, at), (85, at), colour)
        axis.annotate(row["score"], (86, at + 0.02), fontsize=13, fontweight="bold", color=colour)
        axis.annotate(row["wanted"], (86, at + 0.25), fontsize=8, color="#333333")
    return figure, table


def _box(
    axis: Axes, at: tuple[float, float], size: tuple[float, float], colour: str, text: str,
    bold: bool = False,
) -> None:
    """A box with a text; `at` is the middle of its left side."""
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = at, size
    axis.add_patch(FancyBboxPatch((x + 0.6, y - height / 2), width - 1.2, height, ec=colour,
                                  boxstyle="round,pad=0,rounding_size=0.12", fc=colour + "18",
                                  lw=1.4, mutation_aspect=0.05, mutation_scale=8))
    axis.annotate(text, (x + width / 2, y), ha="center", va="center", fontsize=9,
                  fontweight="bold" if bold else "normal", linespacing=1.4)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    """An arrow without a text."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2,
                                              "shrinkA": 2, "shrinkB": 0})


def read_as(made: Mapping[str, Facts]) -> pd.DataFrame:
    """The facts made of rows in several schemas.

    Parameters
    ----------
    made : mapping of str to Facts
        The results of `zu.load_facts`, by schema.

    Returns
    -------
    pd.DataFrame
        One row per fact, under its schema: the rule by which answers count, and all questions.
    """
    def told(pairs: Sequence[tuple[str, str]]) -> str:
        return "; ".join(f"{prompt} … {answer}" for prompt, answer in pairs) or "–"

    rows = []
    for name, facts in made.items():
        for fact in facts:
            rows.append({"from": name, "rule": facts.rule, "asked": fact.text,
                         "target": fact.target,
                         "paraphrases": "; ".join(fact.paraphrase_texts) or "–",
                         "neighbors": told(fact.neighbors), "hops": told(fact.hops)})
    return pd.DataFrame(rows).set_index("from")


def relations(forms: Mapping[str, Facts]) -> pd.DataFrame:
    """The facts by relation and form.

    Parameters
    ----------
    forms : mapping of str to Facts
        The same facts in several forms; examples and answers are of the first.

    Returns
    -------
    pd.DataFrame
        By relation, largest first: "for example", how many facts each form has, "different
        answers", and "commonest answer, %", the share of facts with the answer most often right.
    """
    first = next(iter(forms.values()))
    rows = {}
    for relation in dict.fromkeys(fact.relation for fact in first):
        own = [fact for fact in first if fact.relation == relation]
        answers = Counter(fact.target for fact in own)
        counts = {name: sum(fact.relation == relation for fact in form)
                  for name, form in forms.items()}
        rows[relation] = {"for example": f"{own[0].text} … {own[0].target}", **counts,
                          "different answers": len(answers),
                          "commonest answer, %": commonest(own)}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("relation")
    return table.sort_values(next(iter(forms)), ascending=False, kind="stable")


def commonest(facts: Sequence[Fact]) -> float:
    """How often the commonest answer is right.

    Parameters
    ----------
    facts : sequence of Fact
        At least one fact.

    Returns
    -------
    float
        In percent of the facts.
    """
    return 100 * max(Counter(fact.target for fact in facts).values()) / len(facts)


def known_by_relation(asked: Mapping[str, tuple[Sequence[Fact], np.ndarray]]) -> pd.DataFrame:
    """What a model knows, by data set and relation.

    Parameters
    ----------
    asked : mapping of str to (sequence of Fact, array)
        By data set's name: its facts, and the score of each answer, 0 to 100.

    Returns
    -------
    pd.DataFrame
        By data set and relation: "facts", how many; "right", the mean; "low" and "high", its 95%
        interval; "commonest", the score of always giving the commonest answer. Relations are in
        the order of the first data set's means; those that it lacks are left out.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    order: list[str] = []
    for name, (facts, values) in asked.items():
        groups: dict[str, list[int]] = {}
        for i, fact in enumerate(facts):
            groups.setdefault(fact.relation or "all", []).append(i)
        if not order:
            means = {relation: float(values[at].mean()) for relation, at in groups.items()}
            order = sorted(means, key=means.__getitem__)
        for relation in order:
            if relation not in groups:
                continue
            at = groups[relation]
            low, high = percent_interval(values[at])
            found[name, relation] = {"facts": len(at), "right": float(values[at].mean()),
                                     "low": low, "high": high,
                                     "commonest": commonest([facts[i] for i in at])}
    table = pd.DataFrame.from_dict(found, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["data set", "relation"])
    return table.astype({"facts": int})


def draw_known(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What a model knows by relation, with intervals, against always giving one answer.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `known_by_relation`.

    Returns
    -------
    Figure
        One row per relation; the first data set's dots are filled, others' hollow.
    pd.DataFrame
        The table, with its index as columns.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(table.index.get_level_values("data set")))
    first = table.loc[names[0]]
    at = {relation: y for y, relation in enumerate(first.index)}
    figure, axis = plt.subplots(figsize=(7.0, 0.9 + 0.36 * len(at)))
    for i, name in enumerate(names):
        some = table.loc[name]
        y = np.array([at[relation] for relation in some.index]) + 0.13 - 0.26 * i
        axis.hlines(y, some["low"], some["high"], color=SERIES[0], lw=1.6)
        axis.plot(some["right"], y, "o", color=SERIES[0], mfc="white" if i else SERIES[0], ms=6,
                  label=name)
    axis.plot(first["commonest"], range(len(at)), "|", color=PALETTE["base"], ms=16, mew=1.4,
              zorder=0, label="commonest answer")
    axis.set_yticks(range(len(at)), [f"{relation} ({count})"
                                     for relation, count in first["facts"].items()])
    axis.set(xlabel="right answers of the unedited model, %", xlim=(0, 100))
    axis.legend(loc="lower right")
    return figure, table.reset_index()


def compared(rows: Mapping[tuple[str, str], Scores]) -> pd.DataFrame:
    """Scores of methods on several sets of facts.

    Parameters
    ----------
    rows : mapping of (str, str) to Scores
        By the name of the facts, and the method.

    Returns
    -------
    pd.DataFrame
        One row each, with Eff, Gen and Spe in percent and "p", the mean probability of the true
        answer to a fact's own prompt.
    """
    found = {(facts, LABELS[method]): {"Eff": s.eff, "Gen": s.gen, "Spe": s.spe, "p": s.prob_eff}
             for (facts, method), s in rows.items()}
    table = pd.DataFrame.from_dict(found, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["facts", "method"])
    return table
