"""Causal tracing of many facts, with a record for each: it can resume, and use kept records."""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..data.cache import user_path
from ..data.facts import Facts
from ..models import fingerprint, tokenizer_hash
from ..records import FORMAT, code_hash, provenance, read_record, version_of, write_record
from ..wording import Wording
from .grids import hash_of_plain
from .kept import Kept, check_again
from .tracing import How, Prompt, as_frame, check_asked, effects_of, prompt, spread

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tracing:
    """The results of `zu.experiment.tracing.indirect_effects`, recorded fact by fact.

    Attributes
    ----------
    model : PreTrainedModel
        The model to trace; it is not changed.
    wording : Wording
        Its tokenizer, with how facts are asked.
    facts : Facts
        The facts to trace; the embeddings of all their subjects set the size of the noise.
    how : How
        What is restored, the noise, the window.
    folder : Path
        The folder for the records; its last part names the experiment.
    evidence : str or Path, optional
        A file of kept records, as a `Grid` takes it.
    """

    model: PreTrainedModel
    wording: Wording
    facts: Facts
    how: How
    folder: str | Path
    evidence: str | Path | None = None
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The facts' prompts as tokens."""
        return [prompt(self.wording, fact) for fact in self.facts]

    @cached_property
    def sigma(self) -> torch.Tensor:
        """The unit of the noise."""
        return spread(self.model, self.prompts)

    @property
    def taken(self) -> int:
        """How many kept records are used in place of runs."""
        return len(self.kept.get("taken", {}))

    def run(self) -> pd.DataFrame:
        """Trace every fact, or take its record.

        Returns
        -------
        pd.DataFrame
            The table of `zu.experiment.tracing.indirect_effects`.

        Raises
        ------
        FactError
            If a fact has no subject.
        ValueError
            If there are no such kinds or no draws, or the model's logits are not finite.
        """
        check_asked(self.how.kinds, self.how.corruption)
        common = self._common()
        rows = []
        for n, p in enumerate(tqdm(self.prompts, desc="causal tracing", leave=False)):
            found = self._record(n, common)["metrics"]
            rows += [(n, *row) for row in _rows(p, found)]
        return as_frame(rows)

    def of(self, n: int) -> pd.DataFrame:
        """Trace one fact now, without a record.

        Parameters
        ----------
        n : int
            The fact's number.

        Returns
        -------
        pd.DataFrame
            Its rows of the table, with the number 0.
        """
        rows = effects_of(self.model, self.prompts[n], n, self.sigma, self.how)
        return as_frame([(0, *row) for row in rows])

    def earn_again(self, question: str) -> dict:
        """Trace a fact again whose kept record was used, and compare.

        Parameters
        ----------
        question : str
            The record's question.

        Returns
        -------
        dict
            The kept record.

        Raises
        ------
        EvidenceError
            If the run finds other numbers.
        """
        record = self.kept["evidence"].runs[question]
        check_again(self.evidence or "", record, self._run(self.kept["taken"][question]))
        return record

    def _common(self) -> dict[str, Any]:
        """What every fact's record depends on: what it shows, and what it does not."""
        corruption, tokens = self.how.corruption, self.how.tokens
        about = {
            "experiment": Path(self.folder).name,
            "model": getattr(self.model, "name", "model"),
            "dataset": self.facts.name,
            "method": "tracing",
            "n": len(self.facts),
            "seed": corruption.seed,
            "noise": corruption.noise,
            "draws": corruption.draws,
            "window": self.how.window,
            "kinds": list(self.how.kinds),
            "dtype": str(self.model.dtype),
        }
        if self.wording.chat is not False:
            about["chat"] = self.wording.chat
        hidden = {"weights": fingerprint(self.model), "facts": self.facts.hash,
                  "tokenizer": tokenizer_hash(self.wording.tokenizer),
                  "turn": self.wording.template, "tokens": tokens}
        return {"about": about, "hidden": hidden}

    def _record(self, n: int, common: dict[str, Any]) -> dict:
        """A fact's record: an existing one, a kept one, or a new one."""
        asked = common["about"] | common["hidden"] | {"fact": n}
        question = hash_of_plain(asked)
        made_by = {"code": code_hash(), "versions": {x: version_of(x) for x in ("torch",
                                                                               "transformers")}}
        print_ = hash_of_plain(asked | made_by)
        if self.evidence is not None and "evidence" not in self.kept:
            self.kept["evidence"] = Kept.read(self.evidence)
        kept = self.kept["evidence"].runs.get(question) if self.evidence is not None else None
        if kept is not None:
            self.kept.setdefault("taken", {})[question] = n
        path = self._path(n)
        record = read_record(path)
        if record is not None and record.get("fingerprint") == print_:
            return record
        if kept is not None:
            return kept
        about = common["about"] | {"fact": n, "format": FORMAT, "question": question,
                                   "fingerprint": print_, "code": made_by["code"]}
        return write_record(path, about | self._run(n) | provenance(self.model))

    def _path(self, n: int) -> Path:
        """The path of a fact's record."""
        name = getattr(self.model, "name", "model")
        window = f"window{self.how.window:g}"
        file = f"{window}-n{len(self.facts)}-seed{self.how.corruption.seed}-{n}.json"
        return user_path(self.folder) / name / self.facts.name / file

    def _run(self, n: int) -> dict[str, Any]:
        """Trace a fact; returns the effects by kind, as one list over layers per token.

        The tokens are those from the subject on. Effects are probabilities with four decimals.
        """
        start = time.perf_counter()
        p = self.prompts[n]
        rows = effects_of(self.model, p, n, self.sigma, self.how)
        effects: dict[str, list[list[float]]] = {}
        clean, corrupted = rows[0][-2:]
        for kind, _, position, _, effect, *_ in sorted(rows, key=lambda x: x[1:3]):
            places = effects.setdefault(kind, [[] for _ in range(len(p.ids) - p.first)])
            places[position - p.first].append(round(effect, 4))
        metrics = {"clean": clean, "corrupted": corrupted, "effects": effects}
        return {"metrics": metrics, "seconds": {"trace": time.perf_counter() - start}}


def _rows(p: Prompt, found: dict[str, Any]) -> list[tuple]:
    """A record's metrics as rows of the table, without the fact's number."""
    return [(kind, layer, p.first + i, p.role(p.first + i), effect, found["clean"],
             found["corrupted"])
            for kind, places in found["effects"].items()
            for i, layers in enumerate(places) for layer, effect in enumerate(layers)]
