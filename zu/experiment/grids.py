"""A grid of methods and draws that resumes, and writes a record for each."""
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

#: A method of one's own, (model, tokenizer, facts) -> the `Edit` that it has put on; anchors,
#: (facts, seed) -> facts.
Own = Callable[..., Edit]
Anchors = Callable[[Facts, int], Sequence[Fact]]


@dataclass(frozen=True)
class Texts:
    """The ordinary text of a grid, as `zu.second_moments.corpus` takes it; empty: embedded prose.

    Attributes
    ----------
    corpus : str
        What the moments are read from.
    moment_tokens : int or None
        How many tokens of it; None: as many as `zu.second_moments.enough` says.
    ppl_corpus : str
        What perplexity is measured on.
    ppl_tokens : int
        How many tokens of it.
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
        Called with (model, tokenizer, facts, edit) while the edit is on (None for "base"), it
        returns a dict of plain values. What it says and refers to decides whether a record still
        holds (`zu.records.decisive`).
    about : dict
        Whatever else it depends on, as plain values, which decide too.
    beside : bool
        Whether the scores are recorded as well.
    tolerance : Tolerance
        How far its numbers may be from a kept record's when they are found again.
    """

    find: Callable[..., dict]
    about: dict = field(default_factory=dict)
    beside: bool = False
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True)
class RunSpec:
    """One run, by all that decides what it finds: the same fingerprint, the same result.

    Attributes
    ----------
    about : plain values that stand in the record.
    hidden : what decides as well, and stands in no record: hashes, sources, texts.
    """

    about: dict
    hidden: dict

    @property
    def fingerprint(self) -> str:
        """A hash of both."""
        return hash_of_plain(self.about | self.hidden)

    @property
    def question(self) -> str:
        """A hash of what is asked: the same, without the code and the versions that answer it."""
        asked = {name: x for name, x in self.hidden.items() if name not in ("code", "versions")}
        return hash_of_plain(self.about | asked)

    @property
    def file(self) -> str:
        """The name of its record's file."""
        method = self.about["method"]
        label = re.sub("[^a-zA-Z0-9.]+", "-", method)
        if label != method:  # others may look the same
            label += "-" + hashlib.sha256(method.encode()).hexdigest()[:6]
        return f"{label}-n{self.about['n']}-seed{self.about['seed']}.json"


def hash_of_plain(about: dict) -> str:
    """A hash of plain values by name, whatever their order.

    Parameters
    ----------
    about : dict
        What JSON can say.

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

    A record that exists and was made by the same code and versions from the same model, facts and
    settings is not made again, so that an interrupted grid goes on where it stopped. This is
    `Grid.run` of a grid with nothing set.

    Parameters
    ----------
    model, tokenizer
        What is to forget; a `zu.wording.Wording` of the tokenizer's asks as a turn of a chat.
    facts : Facts
        What is drawn from.
    methods : sequence of str
        Labels of rows, see `zu.experiment.parse_method`; ``"base"`` is the unedited model.
    seeds : sequence of int
        Each draws `n` of the facts.
    n : int
        How many.
    records : str or Path
        The folder below which the records go.

    Returns
    -------
    list of dict
        All records, in the order of seeds and methods.

    Raises
    ------
    ValueError
        For a label that would not run as it says, before anything is computed.
    """
    grid = Grid(Reader(model, tokenizer), user_path(records) / "few_shot")
    return grid.run(facts, methods, seeds=seeds, n=n)


@dataclass(frozen=True)
class Grid:
    """Rows of a table times draws of facts, and a record of each.

    A record says the damage of its edit, by the moments of the grid's text: of every method where
    a corpus is named or one of the rows that run together needs moments anyway; where none does,
    as in a grid of GA alone, no text is read and the damage is None. Such a record is made again
    where damage is said. What a method in `own` does, its edit says itself.

    Attributes
    ----------
    reader : Reader
        Of the model that is to forget; it has the texts to put before a prompt, by default all of
        `zu.reader.prefixes`, and says whether facts are asked as a turn of a chat. Several grids
        may share it.
    folder : Path
        Where the records go; its last part names the experiment.
    layers : sequence of int or float
        To edit; none: the model's own. A row may name others (``"memit:layers=[6,7,8]"``).
    texts : Texts
        What moments and perplexity are read from.
    measure : Measure, optional
        What to record in place of the scores, or beside them.
    anchors : callable, optional
        Called with the facts to forget and the seed: what rows labelled ``METHOD+anchors`` are told
        to spare. No other row is given any.
    own : dict
        Methods that are no class, by label: called with (model, tokenizer, facts), such a method
        returns the `Edit` that it has put on (in a chat a `zu.wording.Wording` is its tokenizer, as
        it is a measure's, to be handed on); what it says and refers to decides with the rest
        whether a record still holds (`zu.records.decisive`).
    evidence : str or Path, optional
        A file of kept records, `zu.experiment.kept`: one that answers the question of a run is
        taken in its place, whatever code made it. `earn` holds them against the present code.
    """

    reader: Reader
    folder: str | Path
    layers: Sequence[int | float] = ()
    texts: Texts = Texts()
    measure: Measure | None = None
    anchors: Anchors | None = None
    own: dict[str, Own] = field(default_factory=dict)
    evidence: str | Path | None = None
    #: What several runs share, by what it is and the model's fingerprint.
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The layers to edit, by number."""
        return resolve_layers(self.reader.model, self.layers or None)

    @property
    def name(self) -> str:
        """The model's."""
        return getattr(self.reader.model, "name", "model")

    @property
    def _asker(self) -> PreTrainedTokenizerBase | Wording:
        """What methods and measures of one's own get: the tokenizer, in a chat with its wording."""
        wording = self.reader.wording
        return wording if wording.chat is not False else wording.tokenizer

    def run(
        self, facts: Facts, methods: Sequence[str], *, seeds: Sequence[int], n: int
    ) -> list[dict]:
        """Unlearn `n` facts with every method and seed, and write a record for each.

        Parameters
        ----------
        facts : Facts
            What is drawn from.
        methods : sequence of str
            Labels of rows, see `zu.experiment.parse_method`, or names in `own`; ``"base"`` is the
            unedited model.
        seeds : sequence of int
            Each draws `n` of the facts.
        n : int
            How many.

        Returns
        -------
        list of dict
            All records, in the order of seeds and methods.

        Raises
        ------
        ValueError
            For a label that would not run as it says, before anything is computed.
        """
        rows = {label: self._row(label) for label in methods}
        layers = {layer for row in rows.values() for layer in self._layers(row)}
        self.reader.bind(min(layers))
        # all that the rows edit, for moments of one reading
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
        """A label's row, checked."""
        if label in self.own:
            return Row(label, {}, False)
        return check_row(label, anchors=bool(self.anchors))

    def _layers(self, row: Row) -> tuple[int, ...]:
        """The layers that a row edits: its own or, where it names none, the grid's."""
        own = row.settings.get("layers")
        return resolve_layers(self.reader.model, own) if own else self.chosen

    def _locates(self, row: Row) -> bool:
        """Whether a row needs moments for its edit."""
        return row.method not in ("base", *self.own) and issubclass(find(row.method), Settings)

    def _record(self, draw: _Draw, spec: RunSpec, path: Path) -> dict:
        """The record of a run: the one that is there, where it still holds, or a new one."""
        kept, record = self._of_evidence(draw, spec), read_record(path)
        if record is not None and record.get("fingerprint") == spec.fingerprint:
            if record.get("damage") is not None or not draw.measured:
                return record
        if kept is not None:
            return write_record(path, kept)
        _warn_of_versions(record, path)
        return write_record(path, self._run(draw, spec))

    def _of_evidence(self, draw: _Draw, spec: RunSpec) -> dict | None:
        """The kept record that answers a run's question, where there is one."""
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
        """How many kept records this grid has taken in place of runs."""
        return len(self.kept.get("taken", {}))

    def earn(self, seconds: float, commit: str = "") -> list[dict]:
        """Run a sample of the kept records again that this grid has taken, and compare.

        Parameters
        ----------
        seconds : float
            How long it may take, by what the records took when they were made; none are run for 0,
            one at least for more, all for `math.inf`.
        commit : str
            Decides which, see `zu.experiment.kept.sampled`.

        Returns
        -------
        list of dict
            The records that were found again.

        Raises
        ------
        EvidenceError
            For the first one that was not, with the numbers that differ.
        """
        return earn([self], seconds, commit)

    def earn_again(self, question: str) -> dict:
        """Make one of the kept records again that this grid has taken.

        Parameters
        ----------
        question : str
            The record's.

        Returns
        -------
        dict
            The kept record.

        Raises
        ------
        EvidenceError
            Where other numbers are found.
        """
        record = self.kept["evidence"].runs[question]
        again = without_nan(self._run(*self.kept["taken"][question]))
        tolerance = self.measure.tolerance if self.measure else Tolerance()
        check_again(self.evidence or "", record, again, tolerance)
        return record

    def _common(self, rule: str) -> dict:
        """What decides on every run and stands in no record."""
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
        """What decides the result of a run."""
        row, given = draw.row, self.reader.given_prefixes
        about = {"experiment": Path(self.folder).name} | draw.about | asdict(self.texts)
        about |= {"model": self.name, "settings": row.settings, "layers": list(self._layers(row)),
                  "dtype": str(self.reader.model.dtype)}
        theirs = row.method in self.own
        hidden = common | {"forget_hash": draw.forget.hash, "own": common["own"].get(row.method)}
        if theirs:
            pass  # what it puts before a prompt is its own affair
        elif given is not None:
            about["n_prefixes"], hidden["before"] = len(given) - 1, list(given)
        if not theirs and row.method != "base":
            # with the defaults: where these change, something else is asked
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
            found["anchors"] = spared  # what a method of one's own gave its edits
        return spec.about | found | provenance(self.reader.model)

    def _damage(self, draw: _Draw, edit: Edit | None) -> dict[str, float] | None:
        """The damage of a row's edit, by layer; None where it is not measured."""
        if edit is None:
            return {}
        found = {str(layer): share for layer, share in edit.damage.items()}
        return found if found or draw.measured or draw.row.method in self.own else None

    def _edit(self, draw: _Draw, seconds: dict[str, float]) -> Edit | None:
        """The edit of a row, put on; None for "base"."""
        reader, method = self.reader, draw.row.method
        layers = self._layers(draw.row)
        # a ruined model is a result too: its record says the damage
        settings: dict[str, Any] = {"check": False} | draw.row.settings | {"layers": layers}
        if method == "base":
            return None
        if method in self.own:
            with _stage(seconds, "edit"):
                return self.own[method](reader.model, self._asker, draw.forget)
        if not draw.row.anchors and "anchor" in find(method).model_fields:
            settings["anchor"] = 0.0  # it is asked for without anchors: nothing to warn of
        # none at all: not those that its reader may remember, of another text
        settings["moments"] = self._moments(layers, seconds) if draw.measured else {}
        with _stage(seconds, "edit"):
            return unlearn(reader.model, reader.tokenizer, draw.forget, method,
                           anchors=draw.spare, reader=reader, **settings)

    def _moments(
        self, layers: tuple[int, ...], seconds: dict[str, float]
    ) -> dict[int, torch.Tensor]:
        """The moments of the grid's text, for some layers; those of all rows are read at once."""
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
        """What is recorded of the model as it is: the scores, a measure of one's own, or both."""
        metrics, measure, reader = {}, self.measure, self.reader
        if measure is None or measure.beside:
            metrics = self._scores(forget)
        if measure is not None:
            metrics |= measure.find(reader.model, self._asker, forget, edit)
        return metrics

    def _scores(self, forget: Facts) -> dict:
        """Eff, Gen, Spe and perplexity of the model as it is; each perplexity is read once."""
        reader, texts = self.reader, self.texts
        key = ("ppl", fingerprint(reader.model))
        if key not in self.kept:
            self.kept[key] = perplexity(reader.model, reader.tokenizer, texts.ppl_corpus or None,
                                        tokens=texts.ppl_tokens, reader=reader)
        ppl = self.kept[key]
        scores = evaluate(reader.model, reader.tokenizer, forget, reader=reader)
        return scores.as_dict() | {"ppl": ppl}


class Taker(Protocol):
    """What takes kept records in place of runs, and can make one of them again."""

    @property
    def kept(self) -> dict[Any, Any]:
        """With "evidence", a `Kept`, and "taken", by question, once something was taken."""

    @property
    def taken(self) -> int:
        """How many records it has taken."""

    def earn_again(self, question: str) -> dict:
        """Make a record again and compare."""


def earn(grids: Sequence[Taker], seconds: float, commit: str = "") -> list[dict]:
    """Run a sample of the kept records again that some grids have taken, and compare.

    Parameters
    ----------
    grids : sequence of Grid or Tracing
        Of one chapter: each record is made again by the grid that took it.
    seconds : float
        How long it may take, by what the records took when they were made; none are run for 0,
        one at least for more, all for `math.inf`.
    commit : str
        Decides which, see `zu.experiment.kept.sampled`.

    Returns
    -------
    list of dict
        The records that were found again.

    Raises
    ------
    EvidenceError
        For the first one that was not, with the numbers that differ.
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
    """`earn` with what the build says (`zu.experiment.verification`), in a sentence for a page.

    Parameters
    ----------
    *grids : Grid or Tracing
        Of a chapter.

    Returns
    -------
    str
        How many of the records are kept ones, and which of them were made again.

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
    """A corpus by its contents, where it is a file; else its name."""
    return corpus(source)[0] if source not in ("", "self") else source


@dataclass(frozen=True)
class _Draw:
    """A row, what its record says of it, the facts that it should forget, what it should spare.

    measured: whether the damage is, so that the moments are read.
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
    """The facts, each with at most so many of its neighbours, drawn by its text; 0: with all."""
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
