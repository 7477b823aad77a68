"""The schemas in which the field publishes facts: a row of a file becomes one fact, or several."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from .facts import Fact, FactError


def _at(row, path: str, default: str | None = None) -> str:
    """The text at a dotted path of a row, the first where there are several; without a default it must be there."""
    value = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None and default is not None:
        return default
    if value is None or isinstance(value, str) and not value.strip():
        raise FactError(f"field '{path}' is {'missing' if value is None else 'empty'}")
    if not isinstance(value, str):
        raise FactError(f"field '{path}' is or holds a {type(value).__name__}: give a text")
    return value.strip()


def _all(row: dict, field: str) -> list:
    """The list in a field, or the one text; empty where there is none."""
    value = [] if row.get(field) in (None, "") else row[field]
    if not isinstance(value, str | list):
        raise FactError(f"field '{field}' is a {type(value).__name__}: give a list of texts")
    return [value] if isinstance(value, str) else value


def _cloze(row: dict, path: str, subject: str) -> str:
    """A prompt with ``{}`` where the subject stands."""
    prompt = _at(row, path)
    if "{}" in prompt:
        return prompt
    if (found := prompt.count(subject)) != 1:
        raise FactError(f"field '{path}' holds the subject {found} times: write {{}} in its place, once")
    return prompt.replace(subject, "{}")


def _number(row: dict, field: str) -> str:
    return "" if row.get(field) is None else str(row[field])


def _multi_counterfact(row: dict) -> list[Fact]:
    ask = "requested_rewrite"
    subject, true = _at(row, f"{ask}.subject"), _at(row, f"{ask}.target_true.str")
    return [Fact(subject, _cloze(row, f"{ask}.prompt", subject), true, _all(row, "paraphrase_prompts"),
                 [(p, true) for p in _all(row, "neighborhood_prompts")], _at(row, f"{ask}.relation_id", ""),
                 _number(row, "case_id"))]


def _flat_counterfact(row: dict) -> list[Fact]:
    subject = _at(row, "subject")
    near = [(_at(row, "locality_prompt"), _at(row, "locality_ground_truth"))] if "locality_prompt" in row else []
    return [Fact(subject, _cloze(row, "prompt", subject), _at(row, "ground_truth"), _all(row, "rephrase_prompt"), near,
                 id=_number(row, "case_id"))]


def _zsre(row: dict) -> list[Fact]:
    subject = _at(row, "subject")
    near = [(_at(row, "loc").removesuffix("?") + "?", _at(row, "loc_ans"))] if "loc" in row else []
    return [Fact(subject, _cloze(row, "src", subject), _at(row, "answers"), _all(row, "rephrase"), near)]


def _mquake(row: dict) -> list[Fact]:
    """A chain's single hops; those on the way to the true answer also know the chain's question."""
    steps = [(_at(step, "cloze"), _at(step, "answer")) for step in _all(row, "single_hops")]
    whole = (_at(row, "questions"), _at(row, "answer")) if steps else ()
    facts = []
    for i, hop in enumerate(_all(row, "requested_rewrite")):
        subject = _at(hop, "subject")
        fact = Fact(subject, _cloze(hop, "prompt", subject), _at(hop, "target_true.str"),
                    relation=_at(hop, "relation_id", ""), id=f"{row.get('case_id', '?')}-{i}")
        facts.append(replace(fact, hops=(whole,)) if (fact.text, fact.target) in steps else fact)
    if not facts:
        raise FactError("field 'requested_rewrite' is empty: give at least one fact, or leave the row out")
    return facts


def _known(row: dict) -> list[Fact]:
    subject = _at(row, "subject")
    return [Fact(subject, _cloze(row, "prompt", subject), _at(row, "attribute"), relation=_at(row, "relation_id", ""),
                 id=_number(row, "known_id"))]


def _own(row: dict) -> list[Fact]:
    known = Fact.__dataclass_fields__
    for number, field in enumerate(row, 1):
        if field not in known:  # its name is not repeated: in a table without a header it is a fact's text
            hint = next((f"; is it meant to be '{name}'?" for name in get_close_matches(str(field), known, 1)), "")
            raise FactError(f"field number {number} has a name that is none of {', '.join(known)}{hint}")
    subject, target = _at(row, "subject"), _at(row, "target")
    lists = {name: _all(row, name) for name in ("paraphrases", "neighbors", "hops")}
    return [Fact(subject, _cloze(row, "prompt", subject), target, **lists, relation=_number(row, "relation"),
                 id=_number(row, "id"))]


#: Scoring rule and reader of each schema.
SCHEMAS: dict[str, tuple[str, Callable[[dict], list[Fact]]]] = {
    "multi-counterfact": ("exact", _multi_counterfact), "flat-counterfact": ("exact", _flat_counterfact),
    "zsre": ("tokens", _zsre), "mquake": ("tokens", _mquake), "known": ("exact", _known), "own": ("exact", _own),
}


def schema(row: dict) -> str:
    """The name of a row's schema, by the fields it has; "own" where none of the others shows."""
    if "requested_rewrite" in row:
        return "mquake" if isinstance(row["requested_rewrite"], list) else "multi-counterfact"
    tell = {"src": "zsre", "ground_truth": "flat-counterfact", "attribute": "known"}
    return next((kind for field, kind in tell.items() if field in row), "own")
