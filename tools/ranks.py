"""The rank of a fact's answer after each layer, before an edit and after it, on the embedded model.

`python tools/ranks.py` edits known facts, one of each relation, all at once, with each of three
methods, and writes results/ranks.json; this takes some minutes on a CPU. After each layer, the
logit lens counts the tokens that are likelier than the answer's first one, for the fact's own
prompt, for other words, and for a neighbour, which is about another subject.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import zu
from zu.audit.erasure import last_states, lens
from zu.layouts import known as layout_of
from zu.models import logits, resolve_layers
from zu.questions import Question, others, paraphrases
from zu.records import provenance, write_record
from zu.scores import score

OUT = Path("results/ranks.json")
FACTS, DRAW, SEED = "world-cloze", 200, 1
METHODS = ("zerounlearn", "memit", "alphaedit")
#: The relation of a prompt to the edited fact.
KINDS = ("as edited", "in other words", "a neighbour")


class Asked(NamedTuple):
    """A prompt that is asked before and after.

    Attributes
    ----------
    subject, relation : str
        Those of the fact to which it belongs.
    kind : str
        One of `KINDS`.
    question : Question
        The prompt and its answer.
    """

    subject: str
    relation: str
    kind: str
    question: Question


def chosen(reader: zu.Reader, facts: Sequence[zu.Fact]) -> list[zu.Fact]:
    """The first fact of each relation whose answer's first token is informative.

    A number's first token is a space, whose rank is not that of the answer.
    """
    first: dict[str, zu.Fact] = {}
    for fact in facts:
        ids, length = reader.wording.answered(Question.of(fact))
        says = reader.tokenizer.decode(ids[-length]).strip()
        if says and fact.paraphrases and fact.neighbors:
            first.setdefault(fact.relation, fact)
    return list(first.values())


def asked(reader: zu.Reader, facts: Sequence[zu.Fact]) -> list[Asked]:
    """Three prompts per fact: its own, a paraphrase and a neighbour, if possible answered ones."""
    found = []
    for fact in facts:
        kinds = ([Question.of(fact)], paraphrases(fact), others(fact, fact.neighbors))
        for kind, questions in zip(KINDS, kinds, strict=True):
            right = score(reader.model, reader.tokenizer, questions)[:, 0]
            best = questions[int(right.argmax())]  # the first of the largest
            found.append(Asked(fact.subject, fact.relation, kind, best))
    return found


def look(reader: zu.Reader, prompts: Sequence[Asked]) -> list[dict]:
    """The answers' ranks after each layer, 1 for the likeliest token, and what the model says."""
    model = reader.model
    plain = [zu.Fact(subject="", prompt=x.question.prompt.rstrip(), target=x.question.answer,
                     join=x.question.join) for x in prompts]
    states, gold = last_states(reader, plain)  # (layers, prompts, d), (prompts,)
    ranks = 1 + lens(model, (states, gold), len(plain))  # (layers, prompts)
    with torch.no_grad():
        best = logits(model, layout_of(model).finish(states[-1])).argmax(-1)
    return [{"ranks": ranks[:, i].tolist(), "says": reader.tokenizer.decode([int(token)])}
            for i, token in enumerate(best)]


def rows_of(model, tokenizer, facts: Sequence[zu.Fact], methods: Sequence[str]) -> list[dict]:
    """One row per prompt and state of the model: "base", and after an edit by each method."""
    prompts = asked(zu.Reader(model, tokenizer), facts)
    about = [{"subject": x.subject, "relation": x.relation, "kind": x.kind,
              "prompt": x.question.prompt, "answer": x.question.answer} for x in prompts]
    rows = []

    def add(method: str) -> None:
        seen = look(zu.Reader(model, tokenizer), prompts)
        rows.extend(one | {"method": method} | what
                    for one, what in zip(about, seen, strict=True))

    add("base")
    for method in methods:
        with zu.unlearn(model, tokenizer, facts, method):
            add(method)
    return rows


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    drawn = zu.load_facts(FACTS).sample(DRAW, SEED)
    facts = chosen(zu.Reader(model, tokenizer), zu.known(model, tokenizer, drawn))
    write_record(options.out, {
        "format": "zu-record-1", "experiment": "ranks", "dataset": FACTS, "n": len(facts),
        "seed": SEED, "layers": list(resolve_layers(model)),
        "vocabulary": model.config.vocab_size,
        "rows": rows_of(model, tokenizer, facts, METHODS)} | provenance(model))


if __name__ == "__main__":
    main()
