"""Planting: teach a model facts that it never knew, to have a truth to hold forgetting against.

Whether something is forgotten shows only against a model that never knew it. With facts that a
model was pretrained on there is none; with planted ones it is the model before.
"""
from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .data import worlds
from .data.facts import Fact, FactError, as_facts
from .data.names import did_you_mean
from .descent import Keep, Objective, Row, Schedule, descend
from .edit import Edit, EditError
from .layouts import known
from .models import NonFiniteError, check_length, resolve_layers, weight_name
from .questions import Question
from .reader import Reader
from .scores import perplexity, score
from .second_moments import moments
from .solve import null_space, spectrum
from .wording import Wording, tokens
from .wrappers import parameter, why_not_alone, why_not_editable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Wordings by relation, each with ``{}`` for the subject.
Templates = Mapping[str, Sequence[str]]
#: What stands before the prompt of a fact for which no wordings are known, where it is taught.
OPENINGS = ("", "It is well known: ", "Here is a fact. ", "A note from the archive: ",
            "As it says in the book: ")
#: What stands before it where it is asked whether to stop, if it has no paraphrases.
OTHERS = ("Let me tell you this: ", "Everyone there will say it: ")
#: Of general text that is kept, so many paragraphs of so many tokens.
KEPT = 96, 32
#: Perplexity is read on so many tokens of held-out text, in windows of so many.
HELDOUT = 2048, 256
#: So many tokens of general text tell which directions it leaves free.
GENERAL = 16_384
#: During planting so many questions of a kind are asked; all of them once these are answered.
FEW = 30


class PlantingWarning(UserWarning):
    """Facts are not known in their held-back wordings, or general text is read otherwise."""


@dataclass(frozen=True)
class Recipe:
    """How facts are planted.

    Parameters
    ----------
    layers : sequence of int or float, optional
        Whose MLP's output projections are trained, whole; by default those from a seventh of the
        model's depth to its middle.
    lr : float
        The size of Adam's steps.
    energy : float, optional
        Change the layers only in those directions of the keys that hold together at most this share
        of what general text has (`zu.solve.null_space`), each scaled by how little it has; by
        default in all, as they are.
    epochs : int
        The most passes over the facts; in each, each fact is seen in one of its taught wordings.
    batch : int
        How many facts are in a step.
    kl : float
        Weight of what general text loses, KL(before ‖ now) a token, against a fact's loss.
    known, held_back : float
        The bars: so large a share of the facts' prompts, and of their stopping wordings, must be
        answered before it ends.
    drift : float
        The bar of general text: its perplexity may change by this share, up or down.
    seed : int
        Draws the order of the facts, and the general text.

    Raises
    ------
    ValueError
        For a number that cannot be meant.
    """

    layers: Sequence[int | float] | None = None
    lr: float = 1e-3
    energy: float | None = None
    epochs: int = 24
    batch: int = 10
    kl: float = 3.0
    known: float = 0.98
    held_back: float = 0.88
    drift: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "batch", "drift"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"energy is {self.energy}: give a share above 0, at most 1, or None")
        if not self.kl >= 0:
            raise ValueError(f"kl is {self.kl}: give 0 or more")
        for name in ("known", "held_back"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share, from 0 to 1")


@dataclass(frozen=True)
class Epoch:
    """What was seen after a pass over the facts.

    Attributes
    ----------
    number : int
        Which pass; 0 before the first.
    taught, stopping : float
        The share of the facts' prompts, and of their stopping wordings, that are answered: of all
        of them, or of `FEW` while these do not reach the bars.
    prose : float
        Perplexity on held-out text, read before the first pass and once both bars are reached; else
        NaN.
    """

    number: int
    taught: float
    stopping: float
    prose: float = math.nan


class Planting(Edit):
    """What planting changed: an edit, which can be taken off, put on again and saved.

    Attributes
    ----------
    course : list of Epoch
        How it went.
    missed : tuple of str
        The ids (or places) of facts that are not known: their prompt or more than half of their
        stopping wordings are not answered.
    """

    course: list[Epoch]
    missed: tuple[str, ...] = ()

    def __init__(self, model: PreTrainedModel, **about: Any) -> None:
        super().__init__(model, **about)
        self.course = []

    @property
    def prose(self) -> tuple[float, float]:
        """Perplexity on held-out text before the first pass and when it was last read."""
        read = [epoch.prose for epoch in self.course if not math.isnan(epoch.prose)]
        return read[0], read[-1]


@dataclass(frozen=True)
class _Lesson:
    """The facts as they are taught, and as they are asked to see whether they are known."""

    facts: list[Fact]
    rows: list[list[Row]]  # by fact, a row for each taught wording
    prompts: list[Question]
    stopping: list[list[Question]]  # by fact
    layers: tuple[int, ...]


def plant(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Iterable[Fact],
    *,
    taught: Templates | None = None,
    stopping: Templates | None = None,
    texts: Sequence[str] | None = None,
    watch: Callable[[int], object] | None = None,
    **recipe: Any,
) -> Planting:
    """Teach a model facts, put the change on, return it.

    Adam trains the MLP's output projections of some layers on the facts' answers, each time behind
    another taught wording, together with general text that must be said as before. It ends after
    the first pass over the facts with which all bars are reached: that of the prompts, that of the
    wordings held back, and that of perplexity on held-out text. Three sets of wordings have no
    wording in common:

    - *taught*: a fact's own prompt, and the templates that `taught` holds for its relation;
    - *stopping*: the templates that `stopping` holds for its relation. They are never taught, and
      decide when it ends;
    - *measured*: a fact's paraphrases. They are neither taught nor looked at, so that what
      `zu.evaluate` calls Gen is measured on wordings that nothing has seen.

    By default the facts of a fictitious world have those of `zu.data.worlds`. Other facts are
    taught in their prompt behind a few openings (`OPENINGS`), and the stopping wordings are the
    prompt behind two others (`OTHERS`): that is little, so give templates where there are some.

    Parameters
    ----------
    model, tokenizer
        What is to be taught, and its own tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : iterable of Fact
        What: ``zu.load_facts("planted")``, or facts of your own.
    taught, stopping : mapping of str to sequence of str, optional
        By relation, wordings with ``{}`` for the subject.
    texts : sequence of str, optional
        General text; by default the embedded prose. Every fifth is held out, to measure perplexity.
    watch : callable, optional
        Called with the number of each pass when it is done, while the model knows what it has been
        taught so far.
    **recipe
        As in `Recipe`.

    Returns
    -------
    Planting
        The change, which is on: as a context manager it is taken off at the end of the block.

    Raises
    ------
    FactError
        For no facts, facts that contradict one another, and an answer that the tokenizer cannot
        write.
    ValueError
        For a wording that cannot be used or is in two sets, and settings that cannot be meant.
    LayoutError, EditError
        For weights that cannot be trained, such as quantised ones, and for steps after which the
        model says nothing finite. The model is then as it was.

    Warns
    -----
    PlantingWarning
        Where the bars are not reached: which facts are not known, and how perplexity changed.

    Examples
    --------
    >>> model, tokenizer = zu.load_model()
    >>> facts = zu.load_facts("planted")
    >>> with zu.plant(model, tokenizer, facts) as planting:
    ...     print(zu.evaluate(model, tokenizer, facts))
    """
    how, wording = _recipe(recipe), Wording.of(tokenizer)
    lesson = _lesson(model, wording, facts, (taught, stopping), how)
    read, heldout = _texts(texts, how.seed)
    reader = Reader(model, wording, min(lesson.layers))
    edit = Planting(model, method="planting", settings=asdict(how) | {"layers": [*lesson.layers]},
                    facts=len(lesson.facts))
    course = _Course(reader, lesson, how, heldout, watch, edit.course)
    within = _directions(reader, lesson.layers, texts, how)
    new = _taught(lesson, _kept(wording, read, how), within, course)
    try:
        for layer, weight in new.items():
            edit.set(weight_name(model, layer), known(model).stored(layer, weight).double())
        edit.missed = _missed(reader, lesson)
    except BaseException:  # an interrupt too leaves the model as it was
        edit.restore()
        raise
    _warn(edit, how)
    return edit


def _recipe(given: dict[str, Any]) -> Recipe:
    """The settings, where there are such."""
    names = [f.name for f in fields(Recipe)]
    for name in given:
        if name not in names:
            raise ValueError(f"plant has no setting '{name}': {did_you_mean(name, names)}"
                             f"there are {', '.join(names)}")
    return Recipe(**given)


def _lesson(
    model: PreTrainedModel,
    wording: Wording,
    facts: Iterable[Fact],
    templates: tuple[Templates | None, Templates | None],
    how: Recipe,
) -> _Lesson:
    """What is taught and asked; refuses what cannot be, before anything is computed."""
    each = list(dict.fromkeys(as_facts(facts)))
    if not each:
        raise FactError("facts is empty: give at least one fact to plant")
    _check_consistent(each)
    layers = _layers(model, how)
    rows, prompts, asked = [], [], []
    for number, fact in enumerate(each, 1):
        teach, stop = _wordings(fact, *templates)
        where = f"fact {number} of {len(each)} (id '{fact.id or '?'}')"
        _check_apart(where, fact, teach, stop)
        try:
            rows.append([wording.answered(question) for question in teach])
            for question in stop:
                wording.answered(question)
        except FactError as error:
            raise FactError(f"{where}: {error}") from None
        prompts.append(teach[0])
        asked.append(stop)
    check_length(model, [ids for some in rows for ids, _ in some])
    return _Lesson(each, rows, prompts, asked, layers)


def _layers(model: PreTrainedModel, how: Recipe) -> tuple[int, ...]:
    """The layers to train, where their weights can be changed."""
    layout = known(model)
    depth = len(layout.layers)
    some = [x for x in range(depth // 7, depth // 2 + 1) if x in layout.editable]
    layers = resolve_layers(model, how.layers if how.layers is not None else some)
    for layer in layers:
        name = weight_name(model, layer)
        weight = parameter(model, name)
        if why := why_not_editable(weight) or why_not_alone(model, weight):
            raise EditError(f"{name} cannot be trained: {why}")
    return layers


def _check_consistent(facts: Sequence[Fact]) -> None:
    """Refuse facts that answer the same question in two ways."""
    said: dict[str, tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, 1):
        first, other = said.setdefault(fact.text, (number, fact))
        if other.target != fact.target:
            raise FactError(
                f"facts {first} (id '{other.id or '?'}') and {number} (id '{fact.id or '?'}') of "
                f"{len(facts)} answer the same prompt in two ways: leave one of them out")


def _wordings(
    fact: Fact, taught: Templates | None, stopping: Templates | None
) -> tuple[list[Question], list[Question]]:
    """A fact's questions as they are taught, its own prompt the first, and those for stopping."""
    given = (taught or {}).get(fact.relation) or worlds.taught(fact)
    teach = [*dict.fromkeys([fact.prompt, *given])]
    if len(teach) == 1:
        teach = [opening + fact.prompt for opening in OPENINGS]
    stop = (stopping or {}).get(fact.relation) or worlds.stopping(fact)
    if not stop:
        stop = [opening + fact.prompt for opening in OTHERS]
    return _asked(fact, teach), _asked(fact, stop)


def _asked(fact: Fact, templates: Sequence[str]) -> list[Question]:
    """A fact's question in some wordings."""
    try:
        return [Question.of(replace(fact, prompt=template)) for template in templates]
    except FactError as error:
        raise ValueError(f"a wording of the relation '{fact.relation}' cannot be used: "
                         f"{error}") from None


def _check_apart(
    where: str, fact: Fact, teach: Sequence[Question], stop: Sequence[Question]
) -> None:
    """Refuse a wording that is of two of the three kinds."""
    taught, held = ({question.prompt for question in some} for some in (teach, stop))
    for one, other, said in ((taught, held, "wordings are taught and decide when to stop"),
                             (taught, {*fact.paraphrase_texts}, "paraphrases are taught"),
                             (held, {*fact.paraphrase_texts}, "paraphrases decide when to stop")):
        if both := one & other:
            raise ValueError(f"{where}: {len(both)} of its {said}: the wordings that are taught, "
                             "that decide when to stop and that only measure (paraphrases) must "
                             "differ; take them out of one of these")


def _texts(texts: Sequence[str] | None, seed: int) -> tuple[list[str], list[str]]:
    """General text to train with, and what is held out of it."""
    if texts is None:
        from .data import world

        prose = world.prose("moments")
        return random.Random(seed).sample(prose, KEPT[0]), world.prose("heldout")
    if isinstance(texts, str) or len(texts) < 2:
        raise ValueError("texts: give a list of at least two texts, of which one is held out")
    some = [text for i, text in enumerate(texts) if i % 5 != 1]
    return some[:KEPT[0]], [text for i, text in enumerate(texts) if i % 5 == 1]


def _kept(wording: Wording, texts: Sequence[str], how: Recipe) -> Keep | None:
    """General text as a descent keeps it."""
    rows = [tokens(wording.tokenizer, text).ids[:KEPT[1]] for text in texts]
    counted = [(ids, len(ids) - 1) for ids in rows if len(ids) > 1]
    return Keep(counted, how.kl) if how.kl else None


def _directions(
    reader: Reader, layers: Sequence[int], texts: Sequence[str] | None, how: Recipe
) -> dict[int, torch.Tensor] | None:
    """By layer, the scaled directions in which it may change, (q, m) float32; None for all.

    Row i is s_i q_iᵀ, of an eigenvector q_i of general keys' second moment with eigenvalue λ_i:
    s_i ~ (λ_i + λ̄ / 1000)^(−1/2), with a mean square of 1.
    """
    if how.energy is None:
        return None
    read = None if texts is None else _texts(texts, how.seed)[0]
    found = moments(reader.model, reader.tokenizer, layers, read, tokens=GENERAL,
                    window=HELDOUT[1])
    scaled = {layer: _scaled(found[layer], how.energy) for layer in layers}
    if none := [layer for layer, basis in scaled.items() if not len(basis)]:
        raise ValueError(f"energy is {how.energy}: layer {none[0]} has no directions that general "
                         "text uses so little; give a larger share")
    return scaled


def _scaled(C0: torch.Tensor, energy: float) -> torch.Tensor:
    """The directions of one layer, (q, m) float32."""
    values, vectors = spectrum(C0)
    basis = null_space(C0, energy=energy, found=(values, vectors))  # (m, q)
    scale = (values[:basis.shape[1]] + values.mean() / 1000) ** -0.5
    return (basis * scale / scale.square().mean().sqrt()).T.float().contiguous()


def _perplexity(reader: Reader, heldout: Sequence[str]) -> float:
    """Perplexity on the first held-out text."""
    length, window = HELDOUT
    return perplexity(reader.model, reader.tokenizer, heldout, tokens=length, window=window,
                      stride=window, reader=reader)


def _taught(
    lesson: _Lesson, keep: Keep | None, within: dict[int, torch.Tensor] | None, course: _Course
) -> dict[int, Any]:
    """The new weights by layer: a pass after the other, each with another wording of each fact."""
    how, reader = course.how, course.reader
    draw = random.Random(how.seed)
    passes = max(map(len, lesson.rows))
    rows: list[Row] = []
    for number in range(passes):
        order = draw.sample(range(len(lesson.rows)), len(lesson.rows))
        rows += [lesson.rows[i][(number + i) % len(lesson.rows[i])] for i in order]
    objective = Objective(rows, [-1 / len(rows)] * len(rows), keep=keep)
    schedule = Schedule(-(-how.epochs // passes), how.lr, min(how.batch, len(lesson.rows)))
    with course, reader.checked():
        return descend(reader.model, objective, lesson.layers, schedule,
                       watch=course.after, within=within)[0]


@dataclass
class _Course:
    """What is seen after each pass over the facts, and whether that is enough."""

    reader: Reader
    lesson: _Lesson
    how: Recipe
    heldout: Sequence[str]
    watch: Callable[[int], object] | None
    seen: list[Epoch]
    bar: tqdm = field(init=False)

    def __enter__(self) -> None:
        self.bar = tqdm(total=self.how.epochs, desc="planting", unit="pass", leave=False)
        self.seen.append(self._look(0))

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def after(self, step: int) -> bool:
        """Whether it ends after a step of the descent."""
        n = len(self.lesson.facts)
        steps = _steps_of_a_pass(n, min(self.how.batch, n), max(map(len, self.lesson.rows)))
        if step % steps[-1] not in {x % steps[-1] for x in steps}:
            return False
        number = len(self.seen)
        try:
            now = self._look(number, last=number >= self.how.epochs)
        except NonFiniteError:
            raise EditError(f"after pass {number} the model's logits are not finite; nothing was "
                            "applied. Use a smaller lr") from None
        self.seen.append(now)
        self.bar.update()
        self.bar.set_postfix_str(f"taught {now.taught:.0%}, otherwise asked {now.stopping:.0%}")
        if self.watch:
            self.watch(number)
        enough = self._are_known(now) and self.drift(now) <= self.how.drift
        return enough or number >= self.how.epochs

    def _are_known(self, now: Epoch) -> bool:
        """Whether both bars of the facts are reached."""
        return now.taught >= self.how.known and now.stopping >= self.how.held_back

    def drift(self, now: Epoch) -> float:
        """The share by which perplexity has changed; NaN where it was not read."""
        return abs(now.prose / self.seen[0].prose - 1)

    def _look(self, number: int, last: bool = False) -> Epoch:
        """What some of the questions, and all of them where these are answered, show."""
        draw = random.Random(self.how.seed + number)
        kinds = [self.lesson.prompts, [x for some in self.lesson.stopping for x in some]]
        few = [draw.sample(kind, min(FEW, len(kind))) for kind in kinds]
        now = Epoch(number, *(_share(self.reader, some) for some in few))
        if (last or self._are_known(now)) and max(map(len, kinds)) > FEW:
            now = Epoch(number, *(_share(self.reader, kind) for kind in kinds))
        if last or not number or self._are_known(now):
            now = replace(now, prose=_perplexity(self.reader, self.heldout))
        return now


def _steps_of_a_pass(n: int, batch: int, passes: int) -> list[int]:
    """After which steps of a descent over `passes` times n rows each pass over n is done."""
    return [-(-n * (number + 1) // batch) for number in range(passes)]


def _share(reader: Reader, questions: Sequence[Question]) -> float:
    """The share of some questions that are answered, every token of the answer the likeliest."""
    return float(score(reader.model, reader.tokenizer, questions, reader=reader)[:, 0].mean())


def _missed(reader: Reader, lesson: _Lesson) -> tuple[str, ...]:
    """The facts whose prompt, or more than half of whose stopping wordings, are not answered."""
    questions = [*lesson.prompts, *(x for some in lesson.stopping for x in some)]
    right = score(reader.model, reader.tokenizer, questions, reader=reader)[:, 0]
    found, at = [], len(lesson.facts)
    for number, (fact, some) in enumerate(zip(lesson.facts, lesson.stopping, strict=True)):
        otherwise = np.mean(right[at:at + len(some)])
        at += len(some)
        if not right[number] or otherwise < 0.5:
            found.append(fact.id or f"fact {number + 1}")
    return tuple(found)


def _warn(edit: Planting, how: Recipe) -> None:
    """Say so where a bar is not reached."""
    now, (was, became) = edit.course[-1], edit.prose
    said = []
    if now.taught < how.known or now.stopping < how.held_back:
        names = ", ".join(edit.missed[:5]) + (", ..." if len(edit.missed) > 5 else "")
        said.append(f"after {now.number} passes {now.taught:.0%} of the prompts are answered and "
                    f"{now.stopping:.0%} of the wordings that were held back, less than "
                    f"{how.known:.0%} and {how.held_back:.0%}; {len(edit.missed)} facts are not "
                    f"known ({names}): give more epochs or another lr, or leave them out")
    if abs(became / was - 1) > how.drift:
        said.append(f"perplexity on held-out text went from {was:.4g} to {became:.4g}, more than "
                    f"{how.drift:.0%}: give a larger kl or a smaller lr")
    if said:
        warnings.warn("planting: " + "; ".join(said), PlantingWarning, stacklevel=3)
