"""A grid of methods and draws, which can be resumed and writes a record for each run."""
from __future__ import annotations

import hashlib
import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tqdm.auto import tqdm

from ..data.cache import user_path
from ..data.facts import Fact, Facts
from ..edit import Edit
from ..methods import DamageWarning, Settings, find, settings_for, source_of, unlearn
from ..models import fingerprint, resolve_layers, tokenizer_hash
from ..reader import Reader
from ..records import (
    FORMAT,
    code_hash,
    decisive,
    provenance,
    read_record,
    version_of,
    without_nan,
    write_record,
)
from ..scores import evaluate, perplexity
from ..second_moments import Moments, corpus, moments
from ..wording import Wording
from .kept import EvidenceError, Kept, Tolerance, check_again, sampled, verification
from .rows import Row, check_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A user's own method, (model, tokenizer, facts) -> the `Edit` that it has put on; and a source of
#: anchors, (facts, seed) -> facts.
Own = Callable[..., Edit]
Anchors = Callable[[Facts, int], Sequence[Fact]]


@dataclass(frozen=True)
class Texts:
    """The ordinary text of a grid, as `zu.second_moments.corpus` takes it.

    Attributes
    ----------
    corpus : str
        The text from which the moments are read; if empty, the embedded prose.
    moment_tokens : int or None
        How many tokens of it to read; None for as many as `zu.second_moments.enough` says.
    ppl_corpus : str
        The text on which perplexity is measured; if empty, the embedded held-out prose.
    ppl_tokens : int
        How many tokens of it to read.
    """

    corpus: str = ""
    moment_tokens: int | None = None
    ppl_corpus: str = ""
    ppl_tokens: int = 8192


@dataclass(frozen=True)
class Measure:
    """What a grid records in place of Eff, Gen, Spe and perplexity, or beside them.

    Attributes
    ----------
    find : callable
        Called with (model, tokenizer, facts, edit) while the edit is on (None for "base"); returns
        a dict of plain values. A record holds only as long as the function's source, and what it
        refers to, stay the same (`zu.records.decisive`).
    about : dict
        Anything else that the function depends on, as plain values, which must stay the same too.
    beside : bool
        Whether to record the scores as well.
    tolerance : Tolerance
        How far its numbers may be from those of a kept record when a build runs it again.
    """

    find: Callable[..., dict]
    about: dict = field(default_factory=dict)
    beside: bool = False
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True)
class RunSpec:
    """One run, described by everything that its result depends on.

    Attributes
    ----------
    about : dict
        The plain values that the record shows.
    hidden : dict
        What else the result depends on, which no record shows: hashes, sources, texts.
    """

    about: dict
    hidden: dict

    @property
    def fingerprint(self) -> str:
        """A hash of both; runs with the same fingerprint have the same result."""
        return hash_of_plain(self.about | self.hidden)

    @property
    def question(self) -> str:
        """A hash of what is asked: like the fingerprint, but without code and versions."""
        asked = {name: x for name, x in self.hidden.items() if name not in ("code", "versions")}
        return hash_of_plain(self.about | asked)

    @property
    def file(self) -> str:
        """The name of its record's file."""
        method = self.about["method"]
        label = re.sub("[^a-zA-Z0-9.]+", "-", method)
        if label != method:  # another method may have the same label
            label += "-" + hashlib.sha256(method.encode()).hexdigest()[:6]
        return f"{label}-n{self.about['n']}-seed{self.about['seed']}.json"


def hash_of_plain(about: dict) -> str:
    """A hash of plain values by name, which does not depend on their order.

    Parameters
    ----------
    about : dict
        Values that JSON can hold.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def run_grid(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Facts,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    n: int,
    records: str | Path = "records",
) -> list[dict]:
    """Unlearn `n` facts with every method and seed, and write a record for each.

    A record is not made again if the same code and versions made it from the same model, facts and
    settings, so an interrupted grid continues where it stopped. This is `Grid.run` of a grid with
    default settings.

    Parameters
    ----------
    model, tokenizer
        The model that should forget, and its tokenizer; give a `zu.wording.Wording` instead of the
        tokenizer to ask as a turn of a chat.
    facts : Facts
        The facts to draw from.
    methods : sequence of str
        Labels of rows, see `zu.experiment.parse_method`; ``"base"`` is the unedited model.
    seeds : sequence of int
        The seeds; each draws `n` of the facts.
    n : int
        How many facts to forget.
    records : str or Path
        The folder for the records; they go into its subfolder ``few_shot``.

    Returns
    -------
    list of dict
        All records, in the order of seeds and methods.

    Raises
    ------
    ValueError
        If a row would not run as its label says, before anything is computed.
    """
    grid = Grid(Reader(model, tokenizer), user_path(records) / "few_shot")
    return grid.run(facts, methods, seeds=seeds, n=n)


@dataclass(frozen=True)
class Grid:
    """Rows of a table times draws of facts, with a record of each run.

    A record gives the damage of its edit, measured with the moments of the grid's text. Damage is
    measured for every method if a corpus is named, or if one of the rows that run together needs
    moments anyway. Otherwise, as in a grid of GA alone, no text is read and the damage is None;
    such a record is made again once damage is measured. The edit of a method in `own` reports its
    own damage.

    Attributes
    ----------
    reader : Reader
        A reader of the model that should forget. It has the texts to put before a prompt, by
        default all of `zu.reader.prefixes`, and says whether facts are asked as a turn of a chat.
        Several grids may share it.
    folder : Path
        The folder for the records; its last part names the experiment.
    layers : sequence of int or float
        The layers to edit; if empty, the model's own. A row may name others
        (``"memit:layers=[6,7,8]"``).
    texts : Texts
        The texts from which moments and perplexity are read.
    measure : Measure, optional
        What to record in place of the scores, or beside them.
    anchors : callable, optional
        Called with the facts to forget and the seed; returns the facts that rows labelled
        ``METHOD+anchors`` should spare. No other row gets any.
    own : dict
        Methods given as functions, by label. Called with (model, tokenizer, facts), such a method
        returns the `Edit` that it has put on. In a chat, it and a measure get a
        `zu.wording.Wording` in place of the tokenizer. A record holds only as long as the
        function's source, and what it refers to, stay the same (`zu.records.decisive`).
    evidence : str or Path, optional
        A file of kept records, see `zu.experiment.kept`. A record that answers the question of a
        run replaces the run, whatever code made it. `earn` compares such records with the present
        code.
    """

    reader: Reader
    folder: str | Path
    layers: Sequence[int | float] = ()
    texts: Texts = Texts()
    measure: Measure | None = None
    anchors: Anchors | None = None
    own: dict[str, Own] = field(default_factory=dict)
    evidence: str | Path | None = None
    #: Results that several runs share, by kind and by the model's fingerprint.
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The layers to edit, by number."""
        return resolve_layers(self.reader.model, self.layers or None)

    @property
    def name(self) -> str:
        """The model's name."""
        return getattr(self.reader.model, "name", "model")

    @property
    def _asker(self) -> PreTrainedTokenizerBase | Wording:
        """The argument of a user's methods and measures: the tokenizer or, in a chat, its wording.
        """
        wording = self.reader.wording
        return wording if wording.chat is not False else wording.tokenizer

    def run(
        self, facts: Facts, methods: Sequence[str], *, seeds: Sequence[int], n: int
    ) -> list[dict]:
        """Unlearn `n` facts with every method and seed, and write a record for each.

        Parameters
        ----------
        facts : Facts
            The facts to draw from.
        methods : sequence of str
            Labels of rows, see `zu.experiment.parse_method`, or names in `own`; ``"base"`` is the
            unedited model.
        seeds : sequence of int
            The seeds; each draws `n` of the facts.
        n : int
            How many facts to forget.

        Returns
        -------
        list of dict
            All records, in the order of seeds and methods.

        Raises
        ------
        ValueError
            If a row would not run as its label says, before anything is computed.
        EvidenceError
            If the file of kept records is damaged.
        """
        rows = {label: self._row(label) for label in methods}
        layers = {layer for row in rows.values() for layer in self._layers(row)}
        self.reader.bind(min(layers))
        # all layers that the rows edit, so that their moments are read in one pass
        self.kept["layers"] = layers | self.kept.get("layers", set())
        measured = bool(self.texts.corpus) or any(map(self._locates, rows.values()))
        common = self._common(facts.rule)
        folder = user_path(self.folder) / self.name / facts.name
        found = []
        for seed in seeds:
            forget = facts.sample(n, seed)
            spare: list[Fact] = []
            if self.anchors and any(row.anchors for row in rows.values()):
                spare = list(self.anchors(forget, seed))
            for label, row in tqdm(rows.items(), desc=f"{facts.name}, seed {seed}", leave=False):
                about = {"dataset": facts.name, "method": label, "n": n, "seed": seed}
                draw = _Draw(row, about, forget, spare if row.anchors else [], measured)
                spec = self._spec(draw, common)
                found.append(self._record(draw, spec, folder / spec.file))
        return found

    def _row(self, label: str) -> Row:
        """The checked row of a label."""
        if label in self.own:
            return Row(label, {}, False)
        return check_row(label, anchors=bool(self.anchors))

    def _layers(self, row: Row) -> tuple[int, ...]:
        """The layers that a row edits: its own or, if it names none, the grid's."""
        own = row.settings.get("layers")
        return resolve_layers(self.reader.model, own) if own else self.chosen

    def _locates(self, row: Row) -> bool:
        """Whether a row needs moments for its edit."""
        return row.method not in ("base", *self.own) and issubclass(find(row.method), Settings)

    def _record(self, draw: _Draw, spec: RunSpec, path: Path) -> dict:
        """The record of a run: an existing one that still holds, a kept one, or a new one."""
        kept, record = self._of_evidence(draw, spec), read_record(path)
        if record is not None and record.get("fingerprint") == spec.fingerprint:
            if record.get("damage") is not None or not draw.measured:
                return record
        if kept is not None:
            return write_record(path, kept)
        _warn_of_versions(record, path)
        return write_record(path, self._run(draw, spec))

    def _of_evidence(self, draw: _Draw, spec: RunSpec) -> dict | None:
        """The kept record that answers a run's question; None if there is none."""
        if self.evidence is None:
            return None
        if "evidence" not in self.kept:
            self.kept["evidence"] = Kept.read(self.evidence)
        found = self.kept["evidence"].runs.get(spec.question)
        if found is None:
            return None
        said = spec.about | {"forget_hash": draw.forget.hash}
        wrong = [name for name in ("dataset", "method", "n", "seed", "settings", "layers",
                                   "forget_hash") if found.get(name) != said[name]]
        if wrong:
            raise EvidenceError(f"{self.evidence}: a record of {found.get('method')} stands under "
                                f"the question of {said['method']}, and differs in {wrong[0]}: "
                                "take the file from the repository again (git checkout)")
        self.kept.setdefault("taken", {})[spec.question] = draw, spec
        return found

    @property
    def taken(self) -> int:
        """How many kept records this grid has used in place of runs."""
        return len(self.kept.get("taken", {}))

    def earn(self, seconds: float, commit: str = "") -> list[dict]:
        """Run a sample of the kept records that this grid has used again, and compare.

        Parameters
        ----------
        seconds, commit
            As in the function `earn`.

        Returns
        -------
        list of dict
            The records that were found again.

        Raises
        ------
        EvidenceError
            If a record is not found again; the message gives the numbers that differ.
        """
        return earn([self], seconds, commit)

    def earn_again(self, question: str) -> dict:
        """Run one of the kept records that this grid has used again, and compare.

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
        again = without_nan(self._run(*self.kept["taken"][question]))
        tolerance = self.measure.tolerance if self.measure else Tolerance()
        check_again(self.evidence or "", record, again, tolerance)
        return record

    def _common(self, rule: str) -> dict:
        """What every run depends on and no record shows."""
        reader, texts = self.reader, self.texts
        own = {label: decisive(function) for label, function in self.own.items()}
        common = {
            "weights": fingerprint(reader.model),
            "tokenizer": tokenizer_hash(reader.tokenizer),
            "rule": rule,
            "texts": [_text_hash(texts.corpus), _text_hash(texts.ppl_corpus)],
            "code": code_hash(),
            "versions": _versions(),
            "own": own,
        }
        if self.measure is not None:
            common["measure"] = decisive(self.measure.find)
        return common

    def _spec(self, draw: _Draw, common: dict) -> RunSpec:
        """Everything that the result of a run depends on."""
        row, given = draw.row, self.reader.given_prefixes
        about = {"experiment": Path(self.folder).name} | draw.about | asdict(self.texts)
        about |= {"model": self.name, "settings": row.settings, "layers": list(self._layers(row)),
                  "dtype": str(self.reader.model.dtype)}
        theirs = row.method in self.own
        hidden = common | {"forget_hash": draw.forget.hash, "own": common["own"].get(row.method)}
        if theirs:
            pass  # the method itself chooses what it puts before a prompt
        elif given is not None:
            about["n_prefixes"], hidden["before"] = len(given) - 1, list(given)
        if not theirs and row.method != "base":
            # with the defaults: if these change, the question changes
            hidden["resolved"] = settings_for(row.method, **row.settings).model_dump(mode="json")
            if source := source_of(find(row.method)):
                hidden["own"] = source
        if (wording := self.reader.wording).chat is not False:
            about["chat"], hidden["turn"] = wording.chat, wording.template
        if draw.spare:
            about["anchors"], hidden["anchors_hash"] = len(draw.spare), Facts(draw.spare).hash
        if self.measure is not None:
            about |= {"about_measure": self.measure.about, "extend": self.measure.beside}
        return RunSpec(about, hidden)

    def _run(self, draw: _Draw, spec: RunSpec) -> dict:
        """Make the edit, measure while it is on, take it off; returns the record."""
        seconds: dict[str, float] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)  # the record says it
            edit = self._edit(draw, seconds)
        with edit or nullcontext(), _stage(seconds, "evaluate"):
            metrics = self._metrics(draw.forget, edit)
        found = {"format": FORMAT, "metrics": metrics, "seconds": seconds,
                 "damage": self._damage(draw, edit), "forget_hash": draw.forget.hash,
                 "fingerprint": spec.fingerprint, "question": spec.question,
                 "code": spec.hidden["code"]}
        if edit and draw.row.method in self.own and (spared := edit.settings.get("anchors")):
            found["anchors"] = spared  # the number that a user's own method gave its edit
        return spec.about | found | provenance(self.reader.model)

    def _damage(self, draw: _Draw, edit: Edit | None) -> dict[str, float] | None:
        """The damage of a row's edit, by layer; None if it is not measured."""
        if edit is None:
            return {}
        found = {str(layer): share for layer, share in edit.damage.items()}
        return found if found or draw.measured or draw.row.method in self.own else None

    def _edit(self, draw: _Draw, seconds: dict[str, float]) -> Edit | None:
        """The edit of a row, put on; None for "base"."""
        reader, method = self.reader, draw.row.method
        layers = self._layers(draw.row)
        # a ruined model is a result too, and its record shows the damage
        settings: dict[str, Any] = {"check": False} | draw.row.settings | {"layers": layers}
        if method == "base":
            return None
        if method in self.own:
            with _stage(seconds, "edit"):
                return self.own[method](reader.model, self._asker, draw.forget)
        if not draw.row.anchors and "anchor" in find(method).model_fields:
            settings["anchor"] = 0.0  # the row has no anchors on purpose: no warning
        # {} for none at all, not those of another text that the reader may remember
        settings["moments"] = self._moments(layers, seconds) if draw.measured else {}
        with _stage(seconds, "edit"):
            return unlearn(reader.model, reader.tokenizer, draw.forget, method,
                           anchors=draw.spare, reader=reader, **settings)

    def _moments(
        self, layers: tuple[int, ...], seconds: dict[str, float]
    ) -> dict[int, torch.Tensor]:
        """The moments of the grid's text, for some layers; all rows' layers are read at once."""
        reader, texts = self.reader, self.texts
        key = ("moments", fingerprint(reader.model))
        found = self.kept.get(key, {})
        wanted = {*layers} | self.kept.get("layers", set())
        lacking = sorted(wanted - {*found})
        if lacking:
            with _stage(seconds, "moments"):
                more = moments(reader.model, reader.tokenizer, lacking, texts.corpus or None,
                               tokens=texts.moment_tokens)
            self.kept[key] = Moments({**found, **more}, more.tokens, kept=more.kept)
        return self.kept[key]

    def _metrics(self, forget: Facts, edit: Edit | None) -> dict:
        """What is recorded of the present model: the scores, the measure, or both."""
        metrics, measure, reader = {}, self.measure, self.reader
        if measure is None or measure.beside:
            metrics = self._scores(forget)
        if measure is not None:
            metrics |= measure.find(reader.model, self._asker, forget, edit)
        return metrics

    def _scores(self, forget: Facts) -> dict:
        """Eff, Gen, Spe and perplexity of the present model; each perplexity is read once."""
        reader, texts = self.reader, self.texts
        key = ("ppl", fingerprint(reader.model))
        if key not in self.kept:
            self.kept[key] = perplexity(reader.model, reader.tokenizer, texts.ppl_corpus or None,
                                        tokens=texts.ppl_tokens, reader=reader)
        ppl = self.kept[key]
        scores = evaluate(reader.model, reader.tokenizer, forget, reader=reader)
        return scores.as_dict() | {"ppl": ppl}


class Taker(Protocol):
    """An experiment that uses kept records in place of runs, and can run one of them again."""

    @property
    def kept(self) -> dict[Any, Any]:
        """A dict with "evidence", a `Kept`, and "taken", by question, once a record was used."""

    @property
    def taken(self) -> int:
        """How many records it has used."""

    def earn_again(self, question: str) -> dict:
        """Run a record again and compare."""


def earn(grids: Sequence[Taker], seconds: float, commit: str = "") -> list[dict]:
    """Run a sample of the kept records that some grids have used again, and compare.

    Parameters
    ----------
    grids : sequence of Grid or Tracing
        The grids of one chapter; the grid that used a record runs it again.
    seconds : float
        How long this may take, judged by the time that the records took when they were made. 0 runs
        none, any larger number at least one, and `math.inf` all.
    commit : str
        Determines which records, see `zu.experiment.kept.sampled`.

    Returns
    -------
    list of dict
        The records that were found again.

    Raises
    ------
    EvidenceError
        If a record is not found again; the message gives the numbers that differ.
    """
    taken = {question: grid for grid in grids for question in grid.kept.get("taken", {})}
    records = [grid.kept["evidence"].runs[question] for question, grid in taken.items()]
    found: list[dict] = []
    start = time.monotonic()
    for record in sampled(records, commit, seconds):
        if found and time.monotonic() - start > seconds:
            break
        found.append(taken[record["question"]].earn_again(record["question"]))
    return found


def re_earned(*grids: Taker) -> str:
    """Call `earn` as the build says (`zu.experiment.verification`), and report it in a sentence.

    Parameters
    ----------
    *grids : Grid or Tracing
        The grids of a chapter.

    Returns
    -------
    str
        How many of the records are kept ones, and which of them this build has run again.

    Raises
    ------
    EvidenceError
        As `earn` does.
    """
    again = earn(grids, *verification())
    count = sum(grid.taken for grid in grids)
    said = f"{count} of this chapter's records are kept ones"
    if not again:
        return said
    which = [f"{r['method']} on {r['n']} of {r['dataset']}, seed {r['seed']}" for r in again]
    return f"{said}; made again in this build, and found: {'; '.join(which)}"


def _text_hash(source: str) -> str:
    """A hash of a corpus that is a file; the name of any other."""
    return corpus(source)[0] if source not in ("", "self") else source


@dataclass(frozen=True)
class _Draw:
    """A row, its description in the record, the facts to forget, and the facts to spare.

    `measured` says whether damage is measured, for which moments are read.
    """

    row: Row
    about: dict
    forget: Facts
    spare: list[Fact]
    measured: bool


def _versions() -> dict[str, str]:
    return {package: version_of(package) for package in ("torch", "transformers")}


def _warn_of_versions(record: dict | None, path: Path) -> None:
    now = _versions()
    if record and now.items() - record.get("versions", {}).items():
        warnings.warn(f"{path} was made with other versions than {now}: it is made again",
                      stacklevel=3)


def fewer(facts: Facts, neighbors: int) -> Facts:
    """The facts with fewer neighbours.

    Parameters
    ----------
    facts : Facts
        Any facts.
    neighbors : int
        The most neighbours per fact, drawn with the fact's text as the seed; 0 for all.

    Returns
    -------
    Facts
        The same facts.
    """
    if not neighbors:
        return facts

    def cut(fact: Fact) -> Fact:
        some = random.Random(fact.text).sample(fact.neighbors, neighbors)
        return replace(fact, neighbors=tuple(some))

    return facts.of(cut(f) if neighbors < len(f.neighbors) else f for f in facts)


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)
