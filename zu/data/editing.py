"""Readers for knowledge-editing benchmarks that ask for one edit per row.

The answer to forget is the true one, which the model gives, never the new one (`target_new`), which
an edit would write. Questions that follow from the new answer (portability) are not read, since the
model does not answer them that way; a note says so once per file.
"""
from __future__ import annotations

from .facts import Fact, FactError
from .fields import (
    Asked,
    Missing,
    Row,
    answered,
    asked_in,
    cloze,
    first,
    is_none,
    label,
    loosely,
    pairs,
    prompt_at,
    text_at,
    wordings,
)

#: Kinds of portability that ask for the same fact with another name of the subject.
ALIASING = ("subject aliasing", "synonym")
#: The kind of locality that asks about the fact's own subject and relation.
FORGETFULNESS = "forgetfulness"


def read_request(row: Row) -> list[Fact]:
    """EasyEdit's requests, its flat CounterFact, and KnowEdit's ZsRE and counterfact.

    The target is `ground_truth`, or the first of several answers in it. Locality becomes the
    neighbours. Rephrasings become the paraphrases, and so do questions that use another name of the
    subject (Subject_Aliasing). The rest of portability follows from `target_new` and is not read.
    """
    return [_request(row, _true(row, "ground_truth"))]


def read_recent(row: Row) -> list[Fact]:
    """KnowEdit's WikiRecent, in which no row has a `ground_truth`.

    Its `target_new` is true: Wikidata recorded it after older models were trained. It is the only
    answer and therefore the one to forget. Portability follows from it and becomes the hops. A note
    says so.
    """
    row.notes.add("recent")
    return [_request(row, _true(row, "target_new"), follows=True)]


def read_chinese(row: Row) -> list[Fact]:
    """CKnowEdit, whose rows have no subject.

    The target is `target_old`, the answer that models give, even if it is wrong: forgetting removes
    what a model says. Models do not say the correction, `target_new`, so there is nothing to
    remove.
    """
    return [_request(row, _true(row, "target_old"))]


def read_memit(row: Row) -> list[Fact]:
    """MEMIT's requests: a subject, a prompt with ``{}``, and `target_true` within an object."""
    true = row.get("target_true")
    path = "target_true.str" if isinstance(true, dict) else "target_true"
    text_at(row, "subject")  # always there
    return [_request(row, text_at(row, path))]


def read_wikibio(row: Row) -> list[Fact]:
    """KnowEdit's WikiBio: the beginning of a passage, and its correct next sentence.

    The subject is the passage's `concept`; if the beginning does not hold it exactly once as it is
    written, the fact has no subject.
    """
    subject, prompt = loosely(row, prompt_at(row, "text"), text_at(row, "concept", ""))
    target = text_at(row, "labels")
    return [Fact(subject, prompt, target, wordings(row, *REPHRASED), _locality(row, target),
                 id=label(row, "id"))]


def read_wikibigedit(row: Row) -> list[Fact]:
    """WikiBigEdit: a rephrasing, a persona's wording, a neighbour and a hop, each of which may be
    null.
    """
    subject = text_at(row, "subject")
    near = {"prompt": row.get("loc"), "ground_truth": row.get("loc_ans")}
    hop = {"prompt": row.get("mhop"), "ground_truth": row.get("mhop_ans")}
    fact = Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, "update"), "update", subject),
        target=text_at(row, "ans"),
        paraphrases=wordings(row, "rephrase", "personas"),
        neighbors=pairs(row, near, "loc"),
        hops=pairs(row, hop, "mhop"),
        id=label(row, "id"),
    )
    return [fact]


#: The fields of other wordings.
REPHRASED = ("rephrase", "rephrase_prompt", "rephrase_prompts", "paraphrase_prompts", "paraphrases")


def _true(row: Row, field: str) -> str:
    """The answer to forget; `Missing` if it is not there, even if there is a `target_new`."""
    if is_none(row.get(field)) and not is_none(row.get("target_new")):
        raise Missing(f"field '{field}' is missing, the true answer: 'target_new' is what an edit "
                      "would write, not what the model is to forget")
    return text_at(row, field)


def _request(row: Row, target: str, follows: bool = False) -> Fact:
    """The fact of a request, with hops if portability `follows` from the fact."""
    subject = text_at(row, "subject", "")
    field = "prompts" if is_none(row.get("prompt")) and "prompts" in row else "prompt"
    aliased, hops = _portability(row, follows)
    return Fact(
        subject=subject,
        prompt=cloze(prompt_at(row, field), field, subject),
        target=target,
        paraphrases=(*wordings(row, *REPHRASED), *aliased),
        neighbors=_locality(row, target),
        relation=label(row, "relation_id") or label(row, "relation"),
        id=label(row, "case_id") or label(row, "id"),
        hops=(*pairs(row, row.get("hops"), "hops"), *hops),
    )


def _portability(row: Row, follows: bool) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """The wordings in a row's portability, and the hops if they follow from the fact.

    Anything else in those fields counts as not read.
    """
    aliased: list[str] = []
    hops: list[Asked] = []
    for field in ("portability", "portability_inputs"):
        try:
            found = list(asked_in(row.get(field), field))
        except FactError:
            row.left.add(field)
            continue
        for asked in found:
            if asked[0].casefold().replace("_", " ") in ALIASING:
                aliased.append(asked[1])
            elif follows:
                hops.append(asked)
            else:
                row.left.add(field)
    return aliased, answered(row, hops)


def _locality(row: Row, target: str) -> tuple[tuple[str, str], ...]:
    """The questions that an edit must leave alone.

    A Forgetfulness question whose answer is the one to forget is left out.
    """
    asked: list[Asked] = []
    for field in ("locality", "locality_inputs", "neighbors"):
        asked += asked_in(row.get(field), field)
    for field in ("locality_prompt", "locality_prompts"):
        if not is_none(row.get(field)):
            answers = field.replace("prompt", "ground_truth")
            if is_none(first(row.get(answers))):
                raise Missing(f"field '{answers}' is missing")
            asked += asked_in({"prompt": row[field], "ground_truth": row[answers]}, field)
    asked += [("", prompt, target) for prompt in wordings(row, "neighborhood_prompts")]
    kept = []
    for kind, prompt, answer in asked:
        own = answer is not None and answer.casefold() == target.casefold()
        if own and kind.casefold() == FORGETFULNESS:
            row.notes.add("own")
        else:
            kept.append((kind, prompt, answer))
    return answered(row, kept)
