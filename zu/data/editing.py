"""Readers of the benchmarks of knowledge editing that ask for one edit a row.

What is forgotten is the true answer, which the model gives, never the new one (`target_new`), which
an edit would write. Questions that follow from the new answer (portability) are not read, since the
model does not answer them so. A note says so, once a file.
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

#: Kinds of portability that ask for the same fact, about the subject by another name.
ALIASING = ("subject aliasing", "synonym")
#: The kind of locality that asks for the fact's own subject and relation.
FORGETFULNESS = "forgetfulness"


def read_request(row: Row) -> list[Fact]:
    """EasyEdit's requests, its flat CounterFact, and KnowEdit's ZsRE and counterfact.

    The fact is `ground_truth`, its first answer where there are several. Locality are the
    neighbours, rephrasings the paraphrases, and so is what asks for the subject by another name
    (Subject_Aliasing). The rest of portability follows from `target_new` and is not read.
    """
    return [_request(row, _true(row, "ground_truth"))]


def read_recent(row: Row) -> list[Fact]:
    """KnowEdit's WikiRecent, where no row has a `ground_truth`.

    Its `target_new` is true: Wikidata has held it since a date after older models were trained.
    It is the only answer, and so the fact to forget; and portability, which follows from it, are
    the hops. A note says so.
    """
    row.notes.add("recent")
    return [_request(row, _true(row, "target_new"), follows=True)]


def read_chinese(row: Row) -> list[Fact]:
    """CKnowEdit: no subject.

    The fact is `target_old`, what models say, though it may be wrong: forgetting takes away what
    is said. `target_new`, the correction, is not, so that there is nothing to take away.
    """
    return [_request(row, _true(row, "target_old"))]


def read_memit(row: Row) -> list[Fact]:
    """MEMIT's requests: a subject, a prompt with ``{}``, and `target_true` within an object."""
    true = row.get("target_true")
    path = "target_true.str" if isinstance(true, dict) else "target_true"
    text_at(row, "subject")  # always there
    return [_request(row, text_at(row, path))]


def read_wikibio(row: Row) -> list[Fact]:
    """KnowEdit's WikiBio: the beginning of a passage, and its next sentence as it should be.

    The concept is what the passage is about: where it does not stand there once, as it is written,
    the fact has no subject.
    """
    subject, prompt = loosely(row, prompt_at(row, "text"), text_at(row, "concept", ""))
    target = text_at(row, "labels")
    return [Fact(subject, prompt, target, wordings(row, *REPHRASED), _locality(row, target),
                 id=label(row, "id"))]


def read_wikibigedit(row: Row) -> list[Fact]:
    """WikiBigEdit: a rephrasing, a persona's wording, a neighbour and a hop, any of them null."""
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
    """The answer to forget; where it is missing, what stands beside it is not taken for it."""
    if is_none(row.get(field)) and not is_none(row.get("target_new")):
        raise Missing(f"field '{field}' is missing, the true answer: 'target_new' is what an edit "
                      "would write, not what the model is to forget")
    return text_at(row, field)


def _request(row: Row, target: str, follows: bool = False) -> Fact:
    """The fact of a request; where portability `follows` from it, with hops."""
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
    """The wordings in a row's portability, and the hops where they follow from the fact.

    Those that do not, and what is in another shape, count as not read.
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

    Not among them is what Forgetfulness asks where its answer is the fact to forget.
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
