"""Which layers of a model should be edited: try windows of them on a few facts that it knows.

A rule of depth does not carry over from one family of models to the next, so a new model is asked.
"""
from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from .data.cache import user_path
from .data.facts import Fact, Facts, as_facts
from .data.names import did_you_mean
from .edit import Edit, EditError
from .experiment import Grid, Measure, Texts, fewer, parse_method
from .layouts import known as layout_of
from .methods import METHODS, SHARED, find, register, settings_for
from .methods.base import Method
from .models import NonFiniteError, layer_numbers, resolve_layers
from .questions import Question, others, paraphrases
from .reader import Reader
from .records import provenance
from .scans import KINDS, Scan, ScanError, ScanWarning, Window
from .scores import known, perplexity, score
from .second_moments import enough
from .wording import Wording

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: With fewer facts than this a scan is refused: a bootstrap over them decides nothing.
FEWEST = 5
#: By default so many windows are tried first, evenly spaced.
COARSE = 8
#: By default moments are read from this share of the tokens that an edit reads
#: (`zu.second_moments.enough`).
SHARE = 0.25
#: The moments that are held at once take at most so many bytes, if windows can be told apart so.
MEMORY = 4 * 2**30
#: Settings of a method that are the scan's own.
_OWN = ("layers", "chat", "moments", "targets", "check", *SHARED)


@dataclass(frozen=True)
class Plan:
    """What a scan tries, and on how much.

    Parameters
    ----------
    layers : "all" or sequence, optional
        The windows. A number stands for the window that starts there (an index, or a share of the
        depth below 1), a tuple of numbers for a window of its own; "all" for every start. By
        default eight starts spread over the depth, then those around the best, half as far apart
        each time.
    width : int
        How many consecutive layers are in a window.
    n : int
        The most facts to use; they are drawn with `seed` from those that the model knows.
    seed : int
        Draws the facts.
    neighbors : int
        The most neighbours that are asked per fact; 0 for all.
    tokens : int, optional
        From how many tokens of `corpus` the moments are read; by default a quarter of what
        `zu.unlearn` reads. On one draw of twenty facts of the embedded model that moved Gen by at
        most 5 points and Spe by at most 2, and led to the same layers.
    ppl_tokens : int
        How many tokens perplexity is measured on.
    corpus, ppl_corpus : str
        The texts for moments and for perplexity, as `zu.experiment.Texts` takes them; by default
        the embedded prose.
    chat : bool or str, optional
        Whether facts are asked as a turn of a chat, see `zu.wording.Wording`.

    Raises
    ------
    ValueError
        For a number that cannot be meant.
    """

    layers: str | Sequence[Any] | None = None
    width: int = 3
    n: int = 20
    seed: int = 0
    neighbors: int = 5
    tokens: int | None = None
    ppl_tokens: int = 1024
    corpus: str = ""
    ppl_corpus: str = ""
    chat: bool | str | None = None

    def __post_init__(self) -> None:
        least = {"width": 1, "n": FEWEST, "neighbors": 0, "ppl_tokens": 2, "tokens": 1}
        for name, few in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < few):
                raise ValueError(f"{name} is {value!r}: give a whole number, {few} or more")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Plan:
        """A plan of these settings.

        Parameters
        ----------
        given : mapping
            Fields by name.

        Returns
        -------
        Plan
            With the defaults of what is not given.

        Raises
        ------
        ValueError
            For an unknown name; the message suggests one.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name in names:
                continue
            methods = {x for method in METHODS.values() for x in method.model_fields}
            hint = (f"it is a setting of a method: give settings={{'{name}': ...}}"
                    if name in methods else f"{did_you_mean(name, names)}there are "
                    f"{', '.join(names)}")
            raise ValueError(f"scan_layers has no setting '{name}': {hint}")
        return cls(**given)


def scan_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Sequence[Fact],
    method: str | Method = "zerounlearn",
    *,
    anchors: Sequence[Fact] = (),
    settings: Mapping[str, Any] | None = None,
    records: str | Path | None = None,
    **plan: Any,
) -> Scan:
    """Find out in which layers of a model an edit forgets the most and costs the least.

    Every window of layers is edited to forget the same facts, measured and taken off again. Eff and
    perplexity must stay within their bounds (at most 2%; at most 5% more than Base); of the windows
    where they do, the one with the largest smaller reserve of Gen and Spe is recommended
    (`zu.scans.judge`). Give 10 to 50 facts that the model knows, with paraphrases and neighbours,
    and other ones than those whose forgetting you report: layers chosen on a set of facts look
    better on it than they are.

    With twenty facts, a window of three layers of the embedded model takes 30 to 40 seconds of a
    core, and the twelve that are tried by default about eight minutes. Moments of general text are
    read before, those of many layers in one pass, and kept in the cache (8 m² bytes a layer).
    Windows with the same last layer share their search for targets.

    Parameters
    ----------
    model, tokenizer
        The model, which is afterwards what it was, bit for bit; and its tokenizer.
    facts : sequence of Fact
        Facts of which those that the model knows are used (`zu.known`).
    method : str or Method
        The method whose layers are wanted, see `zu.METHODS`. One that changes a single layer of
        several (ROME) wants ``width=1``.
    anchors : sequence of Fact
        Prompts with other subjects whose values should stay, see `zu.anchors`, for a method that
        takes them; each window gets the same.
    settings : mapping, optional
        Settings of the method other than its own: numbers, truth values and words. With
        ``{"n_prefixes": 1, "steps": 10}``, which searches for targets less thoroughly, a window
        takes little more than half as long; on one draw of twenty facts of the embedded model it
        led to the same layers.
    records : str or Path, optional
        A folder for a record of each window, with which a scan that was interrupted continues where
        it stopped. Without one, nothing is kept.
    **plan
        As in `Plan`: `layers`, `width`, `n`, `seed`, `neighbors`, `tokens`, `ppl_tokens`, `corpus`,
        `ppl_corpus`, `chat`.

    Returns
    -------
    Scan
        A row per window; ``scan.layers`` are the recommended ones, ``scan.frame()`` is the table,
        ``scan.picture()`` the figure.

    Raises
    ------
    ScanError
        If the model knows fewer than five of the facts, they have neither paraphrases nor
        neighbours, the method cannot be given so, or no window can be edited.
    ValueError
        For a setting or plan that cannot be meant, before anything is computed.
    LayoutError
        If the model's layers cannot be edited.

    Warns
    -----
    ScanWarning
        If no window keeps Eff and perplexity within their bounds, if the facts tell none from the
        recommended one, or if a kind of question is missing, so that it is not judged.

    Examples
    --------
    >>> scan = zu.scan_layers(model, tokenizer, facts)
    >>> print(scan)
    >>> zu.unlearn(model, tokenizer, more_facts, layers=scan.layers)
    """
    how = Plan.of(plan)
    name, label = _labelled(method, dict(settings or {}), bool(anchors))
    windows = _windows(model, how)
    given = as_facts(facts)
    reader = Reader(model, tokenizer, chat=how.chat)
    chosen, count = _chosen(reader, given, how)
    with _folder(records) as folder:
        trial = _Trial(reader, chosen, label, how, folder, as_facts(anchors))
        base = trial.base(windows[0])
        _check_base(base)
        found = trial.rows(windows, base, refine=how.layers is None)
    about = _about(trial, name, dict(settings or {}), how) | {"given": len(given), "known": count}
    return _said(Scan(about, base, tuple(sorted(found, key=lambda w: w.layers))))


def _about(trial: _Trial, name: str, settings: dict, how: Plan) -> dict[str, Any]:
    """How a scan was made, without texts: those among the settings are left out."""
    model, layers = trial.reader.model, how.layers
    planned = asdict(how) | {"layers": None if layers is None else "all" if layers == "all"
                             else "given"}
    planned = {key: "own" if isinstance(value, str) and key != "layers" and value else value
               for key, value in planned.items()}
    told = {key: "own" if isinstance(value, str) and " " in value else value
            for key, value in settings.items()}
    return {"model": str(getattr(model, "name", "")), "depth": len(layout_of(model).layers),
            "method": name, "settings": told, "plan": planned | {"tokens": trial.tokens},
            "anchors": len(trial.spare), "used": len(trial.facts),
            "forget_hash": trial.facts.hash, "rule": trial.facts.rule, **provenance(model)}


def _said(scan: Scan) -> Scan:
    """The scan, after warnings of what it does not decide."""
    if all(window.failed for window in scan.windows):
        raise ScanError("no window can be edited: " + "; ".join(
            f"{window.name}: {window.failed}" for window in scan.windows[:3]))
    said = [] if scan.qualifies else [scan.in_words()]
    if len(scan.windows) > 1 and not scan.decided:
        said.append(scan.undecided_in_words())
    for text in said:
        warnings.warn(f"scan_layers: {text}", ScanWarning, stacklevel=3)
    return scan


def _labelled(
    method: str | Method, settings: dict[str, Any], anchors: bool
) -> tuple[str, str]:
    """The method's name, and the label of its row in a grid up to its layers."""
    if isinstance(method, Method):
        if settings:
            raise ScanError(f"an instance of {type(method).__name__} has its settings already: "
                            "give them there, or name the method")
        register(type(method))
        name = method.name
        settings = {key: getattr(method, key) for key in method.model_fields_set}
    else:
        name = find(method).name
    if own := [key for key in settings if key in _OWN]:
        raise ScanError(f"settings hold {', '.join(own)}, which the scan sets itself: leave them "
                        "out; chat and layers are its own arguments")
    settings_for(name, **settings)
    if anchors and not find(name).spares:
        raise ScanError(f"{name} takes no anchors: leave them out")
    try:
        parts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        label = ",".join([f"{name}{'+anchors' * anchors}:layers={{}}", *parts])
        there = parse_method(label).settings
    except (TypeError, ValueError):
        there = {}
    if {key: there.get(key) for key in settings} != settings:
        raise ScanError(f"the settings of {name} must be numbers, truth values and words without "
                        "commas and brackets: for others register a method with its own defaults "
                        "(zu.register)")
    return name, label


def _chosen(reader: Reader, given: Facts, how: Plan) -> tuple[Facts, int]:
    """The facts that a scan uses, and how many of those given the model knows."""
    there = given.of(dict.fromkeys(given))
    asked = known(reader.model, reader.tokenizer, there, chat=reader.wording.chat)
    if len(asked) < FEWEST:
        raise ScanError(
            f"the model knows {len(asked)} of the {len(given)} facts, and a scan needs "
            f"{FEWEST} or more, better 20: give other facts (zu.known says which it knows), or ask "
            "them as the model was trained to be asked (chat=True, or prompts as it would read "
            "them)")
    if not any(fact.paraphrases or fact.neighbors for fact in asked):
        raise ScanError("the facts have neither paraphrases nor neighbours, so nothing tells what "
                        "an edit costs: give some (zu.Fact(..., paraphrases=, neighbors=))")
    some = given.of(asked).sample(min(how.n, len(asked)), how.seed)
    return fewer(some, how.neighbors), len(asked)


def _check_base(base: Window) -> None:
    """Say what is not judged: what the unedited model has none of."""
    lacking = [KINDS[kind] for kind in ("gen", "spe") if not base.mean(kind) > 0]
    if lacking:
        what = {"Gen": "paraphrase", "Spe": "neighbour"}
        words = " and no ".join(what[label] for label in lacking)
        warnings.warn(f"scan_layers: the unedited model answers no {words} of these facts, so "
                      f"{' and '.join(lacking)} cannot be judged", ScanWarning, stacklevel=3)


def _windows(model: PreTrainedModel, how: Plan) -> list[tuple[int, ...]]:
    """The windows to try first, ascending."""
    there = sorted(layout_of(model).editable)
    starts = [tuple(there[i:i + how.width]) for i in range(len(there) - how.width + 1)]
    if not starts:
        raise ScanError(f"width is {how.width}, but the model has {len(there)} layers that can be "
                        "edited: give a smaller one")
    if how.layers is None:
        places = np.linspace(0, len(starts) - 1, min(COARSE, len(starts)))
        return [starts[i] for i in dict.fromkeys(int(round(x)) for x in places)]
    if isinstance(how.layers, str):
        if how.layers != "all":
            raise ScanError(f"layers is '{how.layers}': give \"all\", a list of numbers, or a list "
                            "of tuples")
        return starts
    found = [_window(model, given, starts) for given in how.layers]
    if not found:
        raise ScanError("layers is empty: name at least one window")
    return sorted(dict.fromkeys(found))


def _window(
    model: PreTrainedModel, given: Any, starts: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """One window as a user names it: its start, or its layers."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return resolve_layers(model, given)
    (number,) = layer_numbers([given])
    (first,) = resolve_layers(model, [number])
    for window in starts:
        if window[0] == first:
            return window
    last = starts[-1][0]
    raise ScanError(f"no window of {len(starts[0])} layers starts at layer {first}: give a start "
                    f"up to {last}, or a tuple of layers")


@contextmanager
def _folder(records: str | Path | None) -> Iterator[Path]:
    """The folder for records: the user's, or one that is gone afterwards."""
    if records is not None:
        yield user_path(records) / "scan"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "scan"


class _Look:
    """What a scan measures of the model as it is: accuracies by fact, and perplexity."""

    def __init__(self, reader: Reader, how: Plan) -> None:
        self.reader, self.how = reader, how

    def __call__(
        self, model: PreTrainedModel, asker: Any, facts: Facts, edit: Edit | None
    ) -> dict[str, Any]:
        """By "eff", "gen" and "spe" a list over facts, in percent; and "ppl"."""
        asked = {"eff": [[Question.of(fact)] for fact in facts],
                 "gen": [paraphrases(fact) for fact in facts],
                 "spe": [others(fact, fact.neighbors) for fact in facts]}
        unique = list(dict.fromkeys(q for groups in asked.values() for g in groups for q in g))
        reader, column = self.reader, 0 if facts.rule == "exact" else 1
        right = score(model, reader.tokenizer, unique, reader=reader)[:, column]
        of = dict(zip(unique, (100 * right).tolist(), strict=True))
        found: dict[str, Any] = {
            kind: [float(np.mean([of[q] for q in group])) if group else None for group in groups]
            for kind, groups in asked.items()}
        found["ppl"] = perplexity(model, reader.tokenizer, self.how.ppl_corpus or None,
                                  tokens=self.how.ppl_tokens, reader=reader)
        return found


class _Trial:
    """The windows of a scan, edited one after the other through a `Grid`."""

    def __init__(
        self, reader: Reader, facts: Facts, label: str, how: Plan, folder: Path, spare: Facts
    ) -> None:
        self.reader, self.facts, self.label, self.how = reader, facts, label, how
        self.folder, self.spare = folder, spare
        self.said: set[str] = set()  # warnings
        layout = layout_of(reader.model)
        self.size = {x: layout.matrix(x).shape[1] ** 2 * 8 for x in layout.editable}  # of C_0
        full = enough(reader.model, layout.editable)
        self.tokens = how.tokens or max(int(SHARE * full) // 512 * 512, 512)

    def base(self, layers: tuple[int, ...]) -> Window:
        """The unedited model; `layers` are some that can be edited."""
        grid = replace(self._grid(), layers=layers)
        return _row((), grid.run(self.facts, ["base"], **self._draw())[0])

    def rows(
        self, windows: Sequence[tuple[int, ...]], base: Window, refine: bool
    ) -> list[Window]:
        """Each window, then, to refine, those around the best one."""
        found: list[Window] = []
        starts = [tuple(w) for w in _windows(self.reader.model, _all(self.how))]
        step = max(round((len(starts) - 1) / max(len(windows) - 1, 1)), 1)
        with tqdm(total=len(windows), desc="layers", unit="window", leave=False) as bar:
            self._add(found, windows, bar)
            while refine and step > 1:
                step = -(-step // 2)
                best = _best(found, base)
                if best is None:
                    break
                at = starts.index(best)
                more = [starts[i] for i in (at - step, at + step) if 0 <= i < len(starts)]
                more = [w for w in more if w not in {row.layers for row in found}]
                bar.total += len(more)
                self._add(found, more, bar)
        return found

    def _add(self, found: list[Window], windows: Sequence[tuple[int, ...]], bar: tqdm) -> None:
        """Try some windows, whose moments are read in one pass if they fit."""
        for part in self._parts(windows):
            grid = self._grid()
            grid.kept["layers"] = {layer for window in part for layer in window}
            for window in part:
                bar.set_postfix_str(Window(window).name)
                found.append(self._try(grid, window))
                bar.update()

    def _parts(self, windows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """The windows in groups whose moments fit into `MEMORY` bytes."""
        part: list[tuple[int, ...]] = []
        for window in windows:
            layers = {layer for one in (*part, window) for layer in one}
            if part and sum(self.size[layer] for layer in layers) > MEMORY:
                yield part
                part = []
            part.append(window)
        if part:
            yield part

    def _try(self, grid: Grid, window: tuple[int, ...]) -> Window:
        """One window; an edit that cannot be made is a result too."""
        label = self.label.replace("{}", json.dumps(list(window)), 1)
        try:
            with self._said_once():
                (record,) = grid.run(self.facts, [label], **self._draw())
        except (EditError, NonFiniteError) as error:
            return Window(window, failed=str(error))
        return _row(window, record)

    @contextmanager
    def _said_once(self) -> Iterator[None]:
        """Inside the block a warning is given only if no earlier window gave it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if (text := str(one.message)) not in self.said:
                self.said.add(text)
                warnings.warn(one.message, stacklevel=7)  # at the call of `scan_layers`

    def _grid(self) -> Grid:
        """A grid that measures by fact."""
        how = self.how
        texts = Texts(how.corpus, self.tokens, how.ppl_corpus, how.ppl_tokens)
        return Grid(self.reader, self.folder, texts=texts,
                    measure=Measure(_Look(self.reader, how)),
                    anchors=(lambda facts, seed: self.spare) if self.spare else None)

    def _draw(self) -> dict[str, Any]:
        """All facts, always in the same order."""
        return {"seeds": [self.how.seed], "n": len(self.facts)}


def _all(how: Plan) -> Plan:
    """The same plan for every window."""
    return Plan(layers="all", width=how.width)


def _best(found: Sequence[Window], base: Window) -> tuple[int, ...] | None:
    """The best window so far; None if there is none."""
    if all(window.failed for window in found):
        return None
    return Scan({}, base, tuple(found)).layers


def _row(layers: tuple[int, ...], record: Mapping[str, Any]) -> Window:
    """A window from its record."""
    metrics = record["metrics"]
    eff, gen, spe = (tuple(np.nan if x is None else float(x) for x in metrics[kind])
                     for kind in KINDS)
    damage = max((record["damage"] or {}).values(), default=np.nan)
    ppl = metrics["ppl"]
    return Window(layers, eff, gen, spe, np.nan if ppl is None else float(ppl), float(damage),
                  round(sum(record["seconds"].values()), 3))
