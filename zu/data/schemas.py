"""The schemas in which the field publishes facts: a row of a file becomes one fact, or several."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .facts import Fact, FactError
from .names import closest


def _at(row: dict, path: str, default: str | None = None) -> str:
    """The text at a dotted path of a row, the first where there are several.

    Without a default it must be there.
    """
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None and default is not None:
        return default
    if value is None:
        raise FactError(f"field '{path}' is missing")
    if not isinstance(value, str):
        raise FactError(f"field '{path}' is or holds a {type(value).__name__}: give a text")
    if not value.strip():
        raise FactError(f"field '{path}' is empty")
    return value.strip()


def _all(row: dict, field: str) -> tuple:
    """What the list in a field holds, or the one text; empty where there is none."""
    value = row.get(field)
    if value in (None, ""):
        return ()
    if not isinstance(value, str | list):
        raise FactError(f"field '{field}' is a {type(value).__name__}: give a list of texts")
    return (value,) if isinstance(value, str) else tuple(value)


def _cloze(row: dict, path: str, subject: str) -> str:
    """A prompt with ``{}`` where the subject stands."""
    prompt = _at(row, path)
    if "{}" in prompt:
        return prompt
    found = prompt.count(subject)
    if found != 1:
        raise FactError(f"field '{path}' holds the subject {found} times: write {{}} in its place, "
                        "once")
    return prompt.replace(subject, "{}")


def _number(row: dict, field: str) -> str:
    """A label, which may be a number; "" where there is none."""
    return "" if row.get(field) is None else str(row[field])


def _multi_counterfact(row: dict) -> list[Fact]:
    """Multi-counterfact: neighbours share the true answer."""
    ask = "requested_rewrite"
    subject = _at(row, f"{ask}.subject")
    true = _at(row, f"{ask}.target_true.str")
    fact = Fact(
        subject=subject,
        prompt=_cloze(row, f"{ask}.prompt", subject),
        target=true,
        paraphrases=_all(row, "paraphrase_prompts"),
        neighbors=tuple((prompt, true) for prompt in _all(row, "neighborhood_prompts")),
        relation=_at(row, f"{ask}.relation_id", ""),
        id=_number(row, "case_id"),
    )
    return [fact]


def _flat_counterfact(row: dict) -> list[Fact]:
    """CounterFact with flat rows: one paraphrase and one neighbour."""
    subject = _at(row, "subject")
    near = []
    if "locality_prompt" in row:
        near.append((_at(row, "locality_prompt"), _at(row, "locality_ground_truth")))
    fact = Fact(
        subject=subject,
        prompt=_cloze(row, "prompt", subject),
        target=_at(row, "ground_truth"),
        paraphrases=_all(row, "rephrase_prompt"),
        neighbors=tuple(near),
        id=_number(row, "case_id"),
    )
    return [fact]


def _zsre(row: dict) -> list[Fact]:
    """MEND's zsRE: questions; the neighbour is an unrelated one."""
    subject = _at(row, "subject")
    near = []
    if "loc" in row:
        question = _at(row, "loc").removesuffix("?") + "?"  # some have it, some not
        near.append((question, _at(row, "loc_ans")))
    fact = Fact(
        subject=subject,
        prompt=_cloze(row, "src", subject),
        target=_at(row, "answers"),
        paraphrases=_all(row, "rephrase"),
        neighbors=tuple(near),
    )
    return [fact]


def _mquake(row: dict) -> list[Fact]:
    """A chain's single hops; those on the way to the true answer also know the chain's question."""
    steps = []
    for step in _all(row, "single_hops"):
        steps.append((_at(step, "cloze"), _at(step, "answer")))
    whole = [(_at(row, "questions"), _at(row, "answer"))] if steps else []
    facts = []
    for i, hop in enumerate(_all(row, "requested_rewrite")):
        subject = _at(hop, "subject")
        fact = Fact(
            subject=subject,
            prompt=_cloze(hop, "prompt", subject),
            target=_at(hop, "target_true.str"),
            relation=_at(hop, "relation_id", ""),
            id=f"{row.get('case_id', '?')}-{i}",
        )
        if (fact.text, fact.target) in steps:
            fact = replace(fact, hops=tuple(whole))
        facts.append(fact)
    if not facts:
        raise FactError("field 'requested_rewrite' is empty: give at least one fact, or leave the "
                        "row out")
    return facts


def _known(row: dict) -> list[Fact]:
    """ROME's known facts: a prompt and its attribute, nothing else."""
    subject = _at(row, "subject")
    fact = Fact(
        subject=subject,
        prompt=_cloze(row, "prompt", subject),
        target=_at(row, "attribute"),
        relation=_at(row, "relation_id", ""),
        id=_number(row, "known_id"),
    )
    return [fact]


def _own(row: dict) -> list[Fact]:
    """Rows with the fields of `Fact` itself."""
    known = Fact.__dataclass_fields__
    for number, field in enumerate(row, 1):
        if field in known:
            continue
        # its name is not repeated: in a table without a header it is a fact's text
        meant = closest(str(field), known)
        hint = "" if meant is None else f"; is it meant to be '{meant}'?"
        raise FactError(f"field number {number} has a name that is none of "
                        f"{', '.join(known)}{hint}")
    subject = _at(row, "subject")
    target = _at(row, "target")
    lists: dict[str, Any] = {}
    for name in ("paraphrases", "neighbors", "hops"):
        lists[name] = _all(row, name)
    fact = Fact(
        subject=subject,
        prompt=_cloze(row, "prompt", subject),
        target=target,
        relation=_number(row, "relation"),
        id=_number(row, "id"),
        **lists,
    )
    return [fact]


#: Scoring rule and reader of each schema.
SCHEMAS: dict[str, tuple[str, Callable[[dict], list[Fact]]]] = {
    "multi-counterfact": ("exact", _multi_counterfact),
    "flat-counterfact": ("exact", _flat_counterfact),
    "zsre": ("tokens", _zsre),
    "mquake": ("tokens", _mquake),
    "known": ("exact", _known),
    "own": ("exact", _own),
}
#: Fields that only one schema has.
_TELLING = {"src": "zsre", "ground_truth": "flat-counterfact", "attribute": "known"}


def schema(row: dict) -> str:
    """The name of a row's schema, by the fields it has.

    Parameters
    ----------
    row : dict
        Of a file of facts.

    Returns
    -------
    str
        A key of `SCHEMAS`; "own" where none of the others shows.
    """
    if "requested_rewrite" in row:
        is_chain = isinstance(row["requested_rewrite"], list)
        return "mquake" if is_chain else "multi-counterfact"
    for field, kind in _TELLING.items():
        if field in row:
            return kind
    return "own"
