"""The schemas in which the field publishes facts: a row of a file becomes one fact, or several."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from . import editing, questions
from .facts import Fact, FactError, bare
from .fields import (
    ANSWERED,
    Placed,
    Row,
    asked_in,
    cloze,
    is_none,
    is_pair,
    label,
    list_at,
    prompt_at,
    text_at,
    trimmed,
    wordings,
)
from .names import CUTOFF, closest
from .shapes import KNOWN, SHAPES, nearest

#: Warnings, given once per file with the number of rows, about rows read in an unexpected way.
NOTES = {
    "blank": "in {} a gap has words behind it: the model is asked to fill it in, since it cannot "
             "go on from there",
    "subject": "in {} the question does not hold the subject exactly once as a word: the fact has "
               "no subject, and its key is at the prompt's last token",
    "recent": "in {}, as in all, there is no ground_truth: target_new is read as the answer to "
              "forget, as in WikiRecent, where it is true",
    "unanswered": "in {} a question has no answer, and is left out of neighbours or hops",
    "own": "in {} the answer to a Forgetfulness question is the fact to forget: the question is "
           "left out of the neighbours",
}
#: The same about rows that hold none of a file's facts.
LEFT = "{} about neighbours of subjects that no row asks for: left out"


def _multi_counterfact(row: Row) -> list[Fact]:
    """Multi-counterfact: neighbours share the true answer.

    Two fields are not read: `attribute_prompts`, which are about subjects for which the new answer
    is true, and `generation_prompts`, which have no answer.
    """
    ask = "requested_rewrite"
    subject = text_at(row, f"{ask}.subject")
    true = text_at(row, f"{ask}.target_true.str")
    _leave_question(row, row[ask])
    fact = Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, f"{ask}.prompt"), f"{ask}.prompt", subject),
        target=true,
        paraphrases=wordings(row, "paraphrase_prompts"),
        neighbors=tuple((prompt, true) for prompt in wordings(row, "neighborhood_prompts")),
        relation=text_at(row, f"{ask}.relation_id", ""),
        id=label(row, "case_id"),
    )
    return [fact]


def _zsre(row: Row) -> list[Fact]:
    """MEND's zsRE: questions; the neighbour is an unrelated one."""
    subject = text_at(row, "subject")
    near = []
    if not is_none(row.get("loc")):
        question = prompt_at(row, "loc").removesuffix("?") + "?"  # some have it, some not
        near.append((question, text_at(row, "loc_ans")))
    fact = Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, "src"), "src", subject),
        target=text_at(row, "answers"),
        paraphrases=wordings(row, "rephrase"),
        neighbors=tuple(near),
    )
    return [fact]


def _mquake(row: Row) -> list[Fact]:
    """MQuAKE: a chain's single hops; those leading to the true answer get the chain's question.

    Of a chain's questions only the first is used. A hop is asked as a cloze, not as a question.
    """
    steps = []
    for step in list_at(row, "single_hops"):
        steps.append((text_at(step, "cloze"), text_at(step, "answer")))
    whole = [(prompt_at(row, "questions"), text_at(row, "answer"))] if steps else []
    if len(list_at(row, "questions")) > 1:
        row.left.add("questions")
    facts = []
    for i, hop in enumerate(list_at(row, "requested_rewrite")):
        subject = text_at(hop, "subject")
        _leave_question(row, hop)
        fact = Fact(
            subject=subject,
            prompt=cloze(prompt_at(hop, "prompt"), "prompt", subject),
            target=text_at(hop, "target_true.str"),
            relation=text_at(hop, "relation_id", ""),
            id=f"{row.get('case_id', '?')}-{i}",
        )
        if (fact.text, fact.target) in steps:
            fact = replace(fact, hops=tuple(whole))
        facts.append(fact)
    if not facts:
        raise FactError("field 'requested_rewrite' is empty: give at least one fact, or leave the "
                        "row out")
    return facts


def _leave_question(row: Row, request: dict) -> None:
    """Note that a request's question, another wording of its prompt, is not read."""
    if not is_none(request.get("question")):
        row.left.add("question")


def _known(row: Row) -> list[Fact]:
    """ROME's known facts: a prompt and its attribute, nothing else.

    The template is not another wording: it is the beginning of the prompt, which continues up to
    the attribute.
    """
    subject = text_at(row, "subject")
    fact = Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, "prompt"), "prompt", subject),
        target=text_at(row, "attribute"),
        relation=text_at(row, "relation_id", ""),
        id=label(row, "known_id"),
    )
    return [fact]


def _own(row: Row) -> list[Fact]:
    """Rows with the fields of `Fact` itself."""
    _refuse_others(row)
    subject = text_at(row, "subject", "")
    target = text_at(row, "target")
    fact = Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, "prompt"), "prompt", subject),
        target=target,
        paraphrases=wordings(row, "paraphrases"),
        neighbors=_own_pairs(row, "neighbors"),
        relation=label(row, "relation"),
        id=label(row, "id"),
        hops=_own_pairs(row, "hops"),
    )
    return [fact]


def _own_pairs(row: Row, field: str) -> tuple[tuple[str, str], ...]:
    """Pairs of prompt and answer, given as lists or objects; `Fact` refuses anything else."""
    found: list = []
    for item in list_at(row, field):
        if is_pair(item):
            found.append((trimmed(item[0]), bare(item[1])))
        elif isinstance(item, dict):
            found += [asked[1:] for asked in asked_in(item, field)]
        else:
            found.append(item)
    return tuple(found)


def _refuse_others(row: dict) -> None:
    """Refuse a row with fields that `Fact` lacks, and name the shape that is most like it."""
    known = Fact.__dataclass_fields__
    others = [(i, name) for i, name in enumerate(row, 1)
              if name not in known and not _is_index(name, row[name])]
    number, field = others[0] if others else (0, "")
    if not number:
        return
    for i, held in enumerate(row.values(), 1):
        row_in = held[0] if isinstance(held, list) and held else None
        if isinstance(row_in, dict) and KNOWN & set(row_in) - set(ANSWERED):
            raise FactError(f"field number {i} holds a list of rows: give that list, not the "
                            "object around it")
    kind, lacking = nearest(row) or ("own", [])
    missing = " and ".join(f"'{name}'" for name in lacking)
    if kind != "own":
        have = f"whose rows have {', '.join(SHAPES[kind].needs)}"
        raise FactError(f"the fields are nearest to those of {SHAPES[kind].name}, {have}; missing: "
                        f"{missing or 'nothing, but it has fields of no such row'}")
    # the message does not repeat the field's name, which is a fact's text if a table has no
    # header; and a name that another shape has is hardly a misspelling
    meant = closest(str(field), known, 0.8 if field in KNOWN else CUTOFF)
    hint = "" if meant is None else f"; is it meant to be '{meant}'?"
    if meant is None and missing and len(lacking) < len(SHAPES["own"].needs):
        hint = f"; missing: {missing}"
    raise FactError(f"field number {number} has a name that is none of {', '.join(known)}{hint}")


def _is_index(name: str, value: object) -> bool:
    """Whether a field is a table's index: it has a name for that and holds a number."""
    number = value if isinstance(value, str) else str(value)
    return name in _INDEX and number.isdecimal()


#: What pandas, CSV and Arrow call a table's index that was written as a column.
_INDEX = ("", "Unnamed: 0", "index", "level_0", "__index_level_0__")
#: The scoring rule and the reader of each schema.
SCHEMAS: dict[str, tuple[str, Callable[[Row], list[Fact]]]] = {
    "multi-counterfact": ("exact", _multi_counterfact),
    "flat-counterfact": ("exact", editing.read_request),
    "zsre": ("tokens", _zsre),
    "mquake": ("tokens", _mquake),
    "known": ("exact", _known),
    "easyedit": ("exact", editing.read_request),
    "memit": ("exact", editing.read_memit),
    "knowedit": ("tokens", editing.read_request),
    "wikirecent": ("tokens", editing.read_recent),
    "wikibio": ("tokens", editing.read_wikibio),
    "cknowedit": ("tokens", editing.read_chinese),
    "wikibigedit": ("tokens", editing.read_wikibigedit),
    "rwku": ("tokens", questions.read_rwku),
    "rwku-target": ("tokens", questions.refuse_target),
    "tofu": ("tokens", questions.read_question),
    "muse-verbmem": ("tokens", questions.read_verbatim),
    "wmdp": ("tokens", questions.read_choices),
    "text": ("tokens", questions.refuse_text),
    "own": ("exact", _own),
}
#: Fields that only one schema has. The first one found in a row decides.
_TELLING = {"src": "zsre", "attribute": "known", "update": "wikibigedit", "gt": "muse-verbmem",
            "query": "rwku", "choices": "wmdp", "question": "tofu", "labels": "wikibio",
            "concept": "wikibio", "intro": "rwku-target"}
#: Fields that tell requests for edits apart, whose rows are alike otherwise, and their schemas.
_REQUESTS = {"locality": "knowedit", "portability": "knowedit", "prompts": "easyedit",
             "locality_inputs": "easyedit", "portability_inputs": "easyedit",
             "rephrase_prompts": "easyedit"}


def schema(row: dict) -> str:
    """The name of a row's schema, by the row's fields.

    Parameters
    ----------
    row : dict
        A row of a file of facts.

    Returns
    -------
    str
        A key of `SCHEMAS`; "own" if the fields show none of the others.
    """
    if "requested_rewrite" in row:
        is_chain = isinstance(row["requested_rewrite"], list)
        return "mquake" if is_chain else "multi-counterfact"
    if "src" in row:
        return "zsre"
    if "ground_truth" in row or "target_new" in row:
        return _request_of(row)
    if "target_old" in row:
        return "cknowedit"
    if "target_true" in row:
        return "memit"
    if "prompt" in row and "target" in row:
        return "own"
    kind = next((kind for field, kind in _TELLING.items() if field in row), "own")
    if kind == "own" and isinstance(row.get("text"), str | list) and "prompt" not in row:
        return "text"
    return kind


def _request_of(row: dict) -> str:
    """The schema of a row that asks for an edit."""
    if is_none(row.get("ground_truth")):
        for field, kind in (("target_old", "cknowedit"), ("target_true", "memit")):
            if field in row:
                return kind
    found = (kind for field, kind in _REQUESTS.items() if field in row)
    return next(found, "flat-counterfact")


def schema_of_all(rows: list[Placed]) -> str:
    """The schema of a file, which is that of the first row that shows one.

    Parameters
    ----------
    rows : list of (str, dict or Fact or FactError)
        Each place, and what was read there.

    Returns
    -------
    str
        A key of `SCHEMAS`; "own" if no row shows another.
    """
    dicts = [row for _, row in rows if isinstance(row, dict)]
    kind = next((kind for kind in map(schema, dicts) if kind != "own"), "own")
    if kind != "knowedit" or any(not is_none(row.get("ground_truth")) for row in dicts):
        return kind
    nested = any(isinstance(row.get(field), list | dict) for row in dicts
                 for field in ("locality", "portability"))
    return "wikirecent" if nested else kind


def together(kind: str, rows: list[Placed]) -> tuple[list[Placed], Counter[str]]:
    """Join the rows of one file that belong together.

    Parameters
    ----------
    kind : str
        The rows' schema.
    rows : list of (str, dict or Fact or FactError)
        Each place, and what was read there.

    Returns
    -------
    rows : list of (str, dict or Fact or FactError)
        RWKU's neighbours, moved into the rows about the same subject; all other rows unchanged.
    notes : Counter of str
        Warnings to give, with the number of rows.
    """
    notes: Counter[str] = Counter()
    if kind == "rwku":
        rows, left = questions.with_neighbors(rows)
        if left:
            notes[LEFT] = left
    return rows, notes
