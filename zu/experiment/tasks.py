"""What else changed: accuracy on tasks that have nothing to do with the facts.

The lm-evaluation-harness asks the questions. A task is one that it knows (``"sst2"``, with items
from the hub), or two files in a folder of your own: ``NAME.yaml``, a config of the harness, and
``NAME.jsonl``, one item per line. Needs ``pip install lm-eval``.
"""
from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from ..batches import Batch, collate
from ..data.cache import user_path
from ..data.names import closest
from ..models import decoder, finite, logits
from ..modes import settles
from ..passes import takes_cache
from ..reader import Reader
from ..scores import mcnemar, wilson
from ..wording import trailing

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A request of the harness: its texts, which are not read here, and the token ids of context
#: and answer.
_Request = tuple[Any, list[int], list[int]]


class TaskError(ValueError):
    """A task is unknown, or its files cannot be used; the message names it, or file and line."""


def load_tasks(names: Sequence[str], folder: str | Path) -> dict[str, dict[str, Any]]:
    """Load tasks by name, for `downstream`.

    Parameters
    ----------
    names : Sequence[str]
        Names of tasks. A task with a ``NAME.yaml`` in `folder` is read from there, without network
        or cache; all others are the harness's.
    folder : str or Path
        The folder of your own tasks.

    Returns
    -------
    dict[str, dict[str, Any]]
        By task, a dict of the harness's task objects; a group (mmlu) has many.

    Raises
    ------
    TaskError
        If a task is unknown or an item cannot be used.
    OSError
        If a task's items cannot be downloaded from the hub.
    ModuleNotFoundError
        If the harness is not installed.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the tasks need the lm-evaluation-harness: in the clone, pip install -e ".[eval]"'
        ) from error

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    here = sorted(path.stem for path in user_path(folder).glob("*.yaml"))
    hub = None  # reads the configs of all of the harness's tasks, so only if one is needed
    found = {}
    for name in names:
        if name in here:
            found[name] = {name: _local(user_path(folder) / f"{name}.yaml")}
            continue
        if hub is None:
            hub = TaskManager()
        found[name] = _from_hub(hub, name, here, folder)
    return found


def _from_hub(hub: Any, name: str, here: Sequence[str], folder: str | Path) -> dict[str, Any]:
    """The harness's objects for one of its own tasks; `here` names the tasks in the folder."""
    if name not in hub.all_tasks:
        close = closest(name, [*here, *hub.all_tasks])
        if close:
            hint = f"did you mean '{close}'?"
        else:
            hint = f"{folder} has {', '.join(here) or 'none'}"
        raise TaskError(f"task '{name}' is neither in {folder} nor known to lm-eval: {hint}")
    try:
        return hub.load([name])["tasks"]
    except Exception as error:  # offline is a dozen kinds of error, by what is missing
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"the items of task '{name}' could not be read from the hub: connect to the network "
            f"once, or name tasks of {folder} ({reason})"
        ) from error


def _local(path: Path) -> ConfigurableTask:
    """The harness's object for a user's own task: a config, and the items beside it."""
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    file = path.with_suffix(".jsonl")
    if not file.is_file() or not file.stat().st_size:
        raise TaskError(
            f"{file} has no items: {path.name} needs them there, one JSON object per line"
        )
    items = _items(file)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {
        "custom_dataset": lambda **_: {"test": Dataset.from_list(items)},  # no copy in a cache
        "test_split": "test",
    }
    task = ConfigurableTask(config=config | own)
    for number, item in enumerate(items, 1):
        answer, choices = task.doc_to_target(item), task.doc_to_choice(item)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise TaskError(
                f"{file}, line {number}: the answer is {answer!r}, the choices are 0 to "
                f"{len(choices) - 1}"
            )
    return task


def _items(file: Path) -> list[dict]:
    """The items of a file, one per line, all with the first one's fields and types.

    `Dataset.from_list` would silently drop fields that the first item lacks.
    """
    items = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(items[-1], dict) or _fields(items[-1]) != _fields(items[0]):
            raise TaskError(
                f"{file}, line {number}: its fields, or their types, are not those of line 1"
            )
    return items


def _fields(item: dict) -> dict[str, type]:
    """The types of an item's values, by field."""
    return {name: type(value) for name, value in item.items()}


def digest(names: Sequence[str], folder: str | Path) -> str:
    """A hash of tasks' files, which changes with any item or wording.

    Parameters
    ----------
    names : Sequence[str]
        The tasks.
    folder : str or Path
        The folder of their files; a task without files does not count.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    files = sorted(path for name in names for path in user_path(folder).glob(f"{name}.*"))
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:16]


@settles
def downstream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, dict[str, Any]],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    reader: Reader | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure accuracy on each of the tasks, in percent; the model is not changed.

    The model's answer is the choice of highest log-likelihood.

    Parameters
    ----------
    model, tokenizer
        The model to ask, and its tokenizer.
    tasks : dict[str, dict[str, Any]]
        The result of `load_tasks`.
    limit : int or None
        The most items per task, or per part of a group; None for all.
    batch_size : int
        Prompts in a batch.
    reader : Reader or None
        As in `zu.evaluate`.

    Returns
    -------
    dict[str, dict[str, Any]]
        By task: ``acc`` with its 95% ``interval`` (Wilson's), ``n``, ``chance`` (the accuracy of
        the best constant answer), ``said`` (how often the model itself would write the right
        choice), ``right`` (item by item, a string of 0 and 1), and ``harness``, the harness's own
        metrics, such as mcc.

    Raises
    ------
    ValueError
        If the model's logits are not finite.
    """
    from lm_eval import evaluator

    reader = Reader.of(model, tokenizer, reader)
    reader.check()
    asker = _asker(reader, batch_size)
    out = {}
    for name, parts in tasks.items():
        with redirect_stderr(io.StringIO()):  # its progress bars
            found = evaluator.evaluate(asker, {"tasks": parts}, limit=limit, bootstrap_iters=0)
        out[name] = _summary(parts, found)
    return out


def _summary(parts: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The result of `downstream` for a task, from the harness's objects and its results."""
    gold, likelihoods, greedy = [], [], []
    for part, task in parts.items():
        for sample in found["samples"][part]:
            gold.append(_gold(task.doc_to_choice(sample["doc"]), sample["target"]))
            # by choice: (log-likelihood, whether the model itself would write it)
            by_choice, would_write = zip(*sample["filtered_resps"], strict=True)
            likelihoods.append(by_choice)
            greedy.append(would_write)
    right = [_best(each) == g for each, g in zip(likelihoods, gold, strict=True)]
    written = sum(each[g] for each, g in zip(greedy, gold, strict=True))
    n = len(right)
    return {
        "acc": 100 * sum(right) / n,
        "interval": wilson(sum(right), n),
        "n": n,
        "chance": 100 * max(Counter(gold).values()) / n,
        "said": 100 * written / n,
        "right": "".join("01"[r] for r in right),
        "harness": _own_metrics(parts, found),
    }


def _gold(choices: Sequence[str], target: int | str) -> int:
    """The number of the right choice, which a task gives as a number or as the choice's text."""
    return target if isinstance(target, int) else choices.index(target)


def _best(values: Sequence[float]) -> int:
    """The number of the largest value; of equal ones the first."""
    return max(range(len(values)), key=values.__getitem__)


def _own_metrics(parts: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """The harness's metrics of a task with one part; none for a group."""
    if len(parts) != 1:
        return {}
    (part,) = parts
    return {
        key.partition(",")[0]: float(value)
        for key, value in found["results"][part].items()
        if isinstance(value, int | float)
    }


def compare(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]
) -> dict[str, tuple[int, int, float]]:
    """Compare two results item by item.

    Only tasks on which `before` is above chance (by the lower end of its interval) can show a loss;
    "all" is these tasks together.

    Parameters
    ----------
    before, after : dict[str, dict[str, Any]]
        Two results of `downstream`, on the same tasks.

    Returns
    -------
    dict[str, tuple[int, int, float]]
        By task: items lost, items won, and McNemar's exact two-sided p. The p of a single task is
        multiplied by the number of tasks (Bonferroni).

    Raises
    ------
    ValueError
        If the two results have different numbers of items.
    """
    able = [task for task, found in before.items() if found["interval"][0] > found["chance"]]
    pairs = {}
    for task in able:
        items = zip(before[task]["right"], after[task]["right"], strict=True)
        pairs[task] = Counter(items)
    out = {"all": _mcnemar(sum(pairs.values(), Counter()), 1)}
    for task, pair in pairs.items():
        out[task] = _mcnemar(pair, len(able))
    return out


def _mcnemar(pair: Counter, tests: int) -> tuple[int, int, float]:
    """Items lost, items won and p, from the counts of (right before, right after), "0" or "1" each.

    p is multiplied by `tests`.
    """
    lost, won = pair["1", "0"], pair["0", "1"]
    return lost, won, min(1.0, mcnemar(lost, won) * tests)


def _asker(reader: Reader, batch_size: int) -> HFLM:
    """The model in the form in which the harness asks it."""
    from lm_eval.models.huggingface import HFLM

    class Asker(HFLM):
        """A faster HFLM.

        The common beginning of a task's prompts is read only once, and logits are computed only for
        answers. Special tokens that the tokenizer puts behind a text do not belong to an answer.
        """

        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
            ids = super().tok_encode(string, *args, **kwargs)
            behind = trailing(reader.tokenizer)
            if behind and ids[-len(behind):] == behind:
                del ids[-len(behind):]
            return ids

        @torch.no_grad()
        def _loglikelihood_tokens(
            self,
            requests: Sequence[_Request],
            disable_tqdm: bool = False,
            override_bs: int | None = None,
        ) -> list[tuple[float, bool]]:
            longest = max(len(context) + len(answer) for _, context, answer in requests)
            # texts that must be cut, and hooks that must see whole runs: leave these to HFLM
            if longest > self.max_length + 1 or not reader.readable:
                found = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
                # −∞ is allowed
                finite(self.model, torch.tensor([[value for value, _ in found]]).exp())
                return found
            return _likelihoods(reader, requests, self.batch_size)

    return Asker(pretrained=reader.model, tokenizer=reader.tokenizer, batch_size=batch_size)


def _likelihoods(
    reader: Reader, requests: Sequence[_Request], batch_size: int
) -> list[tuple[float, bool]]:
    """Log-likelihood of each request's answer, and whether the model itself would write it."""
    model = reader.model
    head = _common_head([context for _, context, _ in requests])
    ids = torch.tensor([head], device=model.device)  # (1, start)
    if head and not takes_cache(model, ids):
        head = []  # each row is read as a whole
    past = DynamicCache() if head else None
    if head:
        decoder(model)(input_ids=ids, past_key_values=past)
    answers = _by_prompt(requests, len(head))
    rows = [(list(row), max(len(ids) for _, ids in some)) for row, some in answers.items()]
    rows.sort(key=lambda row: len(row[0]))  # rows of like length in a batch
    out: list = [None] * len(requests)
    for first in range(0, len(rows), batch_size):
        some = rows[first:first + batch_size]
        each = _log_probabilities(reader, some, past, head)
        for (row, _), logp in zip(some, each, strict=True):
            for i, answer in answers[tuple(row)]:
                out[i] = _answer_likelihood(logp, answer)
    return out


def _common_head(contexts: Sequence[list[int]]) -> list[int]:
    """The common beginning of all contexts, which leaves at least the last token of each."""
    start = min(len(commonprefix(contexts)), min(map(len, contexts)) - 1)
    return contexts[0][:start]


def _by_prompt(
    requests: Sequence[_Request], start: int
) -> dict[tuple[int, ...], list[tuple[int, list[int]]]]:
    """The requests' numbers and answers, by the tokens to read from `start` on.

    Nothing is predicted from an answer's last token, so all one-token answers to a prompt are read
    at the same place.
    """
    answers: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for i, (_, context, answer) in enumerate(requests):
        row = tuple((context + answer)[start:-1])
        answers.setdefault(row, []).append((i, answer))
    return answers


def _log_probabilities(
    reader: Reader,
    rows: Sequence[tuple[list[int], int]],
    past: DynamicCache | None,
    head: list[int],
) -> tuple[torch.Tensor, ...]:
    """Log-probabilities (n, vocabulary) after the last n tokens of each row, behind the head.

    `rows` holds token ids and n. `past` is the cache of the head, which is not changed; None if
    there is no head.
    """
    batch = collate(rows, reader.model.device)
    cache = copy.deepcopy(past)
    if cache is not None:
        cache.batch_repeat_interleave(len(rows))  # (1, heads, start, width) -> (rows, ...)
    seen = batch.real.new_ones(len(rows), len(head))
    mask = torch.cat([seen, batch.real], 1)  # (rows, start + length)
    part = Batch(batch.ids, mask, batch.position)
    states = reader.last_states(part, cache, tuple(head))
    # (rows, length, d) -> (sum of n, d): padding is on the right
    reads = torch.cat(
        [state[len(row) - n:len(row)] for (row, n), state in zip(rows, states, strict=True)]
    )
    logp = logits(reader.model, reads).log_softmax(-1)
    return logp.split([n for _, n in rows])


def _answer_likelihood(logp: torch.Tensor, answer: list[int]) -> tuple[float, bool]:
    """An answer's log-likelihood, and whether its tokens are the likeliest.

    Of `logp` (n, vocabulary) the last rows are used, one per token of the answer.
    """
    mine = logp[-len(answer):]  # (tokens, vocabulary)
    gold = torch.tensor(answer, device=logp.device)  # (tokens,)
    found = mine.gather(1, gold[:, None])  # (tokens, 1)
    return found.sum().item(), bool((mine.argmax(-1) == gold).all())
