"""What else changed: accuracy on tasks that have nothing to do with the facts, by the lm-evaluation-harness.

A task is one that the harness knows (``"sst2"``, its items from the hub), or two files in a folder of your own:
``NAME.yaml``, a config of the harness, and ``NAME.jsonl``, one item a line. Needs ``pip install lm-eval``.
"""
from __future__ import annotations

import copy
import difflib
import hashlib
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from os.path import commonprefix
from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache

from ..models import decoder, finite, logits
from ..reader import Batch, Below, collate, last_states
from ..scores import wilson


class TaskError(ValueError):
    """A task that is unknown or whose files cannot be used; the message names it, or file and line."""


def load_tasks(names: Sequence[str], folder: str | Path) -> dict[str, dict]:
    """Tasks by name, for `downstream`: each a dict of the harness's task objects, of which a group (mmlu) has many.

    A name with a ``NAME.yaml`` in `folder` is read from there, with no network and no cache; others are the harness's.
    Raises `TaskError` for an unknown task or a bad item, `OSError` where a task's items cannot be had from the hub,
    `ModuleNotFoundError` without the harness.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('the tasks need the lm-evaluation-harness: in the clone, '
                                  'pip install -e ".[eval]"') from error

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    here, hub, found = sorted(p.stem for p in Path(folder).glob("*.yaml")), None, {}
    for name in names:
        if name in here:
            found[name] = {name: _local(Path(folder, f"{name}.yaml"))}
            continue
        hub = hub or TaskManager()
        if name not in hub.all_tasks:
            close = difflib.get_close_matches(name, [*here, *hub.all_tasks], 1)
            raise TaskError(f"task '{name}' is neither in {folder} nor known to lm-eval: "
                            + (f"did you mean '{close[0]}'?" if close else f"{folder} has {', '.join(here) or 'none'}"))
        try:
            found[name] = hub.load([name])["tasks"]
        except Exception as error:  # offline is a dozen kinds of error, by what is missing
            raise OSError(f"the items of task '{name}' could not be had from the hub: connect to the network once, or "
                          f"name tasks of {folder} ({str(error).strip().partition(chr(10))[0]})") from error
    return found


def _local(path: Path):
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    items, file = [], path.with_suffix(".jsonl")
    if not file.is_file() or not file.stat().st_size:
        raise TaskError(f"{file} has no items: {path.name} needs them there, one JSON object a line")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(items[-1], dict) or _fields(items[-1]) != _fields(items[0]):
            raise TaskError(f"{file}, line {number}: its fields, or their types, are not those of line 1")
    task = ConfigurableTask(config=yaml.safe_load(path.read_text(encoding="utf-8")) | {
        "custom_dataset": lambda **_: {"test": Dataset.from_list(items)}, "test_split": "test"})  # no copy in a cache
    for number, item in enumerate(items, 1):
        answer, choices = task.doc_to_target(item), task.doc_to_choice(item)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise TaskError(f"{file}, line {number}: the answer is {answer!r}, the choices are 0 to {len(choices) - 1}")
    return task


def _fields(item: dict) -> dict[str, type]:
    return {name: type(value) for name, value in item.items()}


def digest(names: Sequence[str], folder: str | Path) -> str:
    """A hash of these tasks' files in `folder`: another one when an item or a wording changes."""
    files = sorted(p for name in names for p in Path(folder).glob(f"{name}.*"))
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()[:16]


def downstream(model: nn.Module, tokenizer, tasks: dict[str, dict], *, limit: int | None = None,
               batch_size: int = 32, below: Below | None = None) -> dict[str, dict]:
    """Accuracy on each of the `tasks` that `load_tasks` gave, in percent; the model is not changed.

    The model's answer is the choice of highest log-likelihood. limit: items of each task, or of each part of a group.
    Per task: ``acc`` with its 95% ``interval`` (Wilson's), ``n``, ``chance`` (the best constant answer), ``said`` (how
    often the right choice is what the model itself would write), ``right`` (item by item, a string of 0 and 1), and
    ``harness``: its own metrics, such as mcc. below: as in `zu.evaluate`.
    Raises `ValueError` for a model whose logits are not finite.
    """
    from lm_eval import evaluator

    out, reader = {}, _reader(model, tokenizer, batch_size, below)
    for name, parts in tasks.items():
        with redirect_stderr(io.StringIO()):  # its progress bars
            found = evaluator.evaluate(reader, {"tasks": parts}, limit=limit, bootstrap_iters=0)
        rows = [(task.doc_to_choice(s["doc"]), s) for part, task in parts.items() for s in found["samples"][part]]
        gold = [s["target"] if isinstance(s["target"], int) else c.index(s["target"]) for c, s in rows]
        answers = [[*zip(*s["filtered_resps"], strict=True)] for _, s in rows]  # log-likelihoods; whether it'd be said
        right = [max(range(len(a)), key=a.__getitem__) == g for (a, _), g in zip(answers, gold, strict=True)]
        own = [found["results"][part] for part in parts] if len(parts) == 1 else [{}]
        out[name] = {
            "acc": 100 * sum(right) / len(right), "interval": wilson(sum(right), len(right)), "n": len(right),
            "chance": 100 * max(Counter(gold).values()) / len(gold),
            "said": 100 * sum(greedy[g] for (_, greedy), g in zip(answers, gold, strict=True)) / len(gold),
            "right": "".join("01"[r] for r in right),
            "harness": {k.partition(",")[0]: float(v)
                        for k, v in own[0].items() if isinstance(v, int | float)},
        }
    return out


def compare(before: dict[str, dict], after: dict[str, dict]) -> dict[str, tuple[int, int, float]]:
    """Did the same items go wrong? Items lost and won, and p, by task; two results of `downstream`, on the same tasks.

    Only tasks on which `before` is above chance (the lower end of its interval) can show a loss; "all" are these
    together. p is McNemar's exact, two-sided; that of a single task is multiplied by their number (Bonferroni).
    Raises `ValueError` where the two are not of the same items.
    """
    able = [task for task, m in before.items() if m["interval"][0] > m["chance"]]
    pairs = {task: Counter(zip(before[task]["right"], after[task]["right"], strict=True)) for task in able}
    out = {}
    for task, pair in ({"all": sum(pairs.values(), Counter())} | pairs).items():
        lost, won = pair["1", "0"], pair["0", "1"]
        tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1)) / 2 ** (lost + won)
        out[task] = lost, won, min(1.0, 2 * tail * (1 if task == "all" else len(able)))
    return out


def _reader(model, tokenizer, batch_size, below=None):
    from lm_eval.models.huggingface import HFLM

    class Reader(HFLM):
        """HFLM, faster: what all prompts of a task begin with is read once, and logits only where answers stand."""

        @torch.no_grad()
        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            contexts = [context for _, context, _ in requests]
            if max(len(c) + len(a) for _, c, a in requests) > self.max_length + 1:  # to be cut: as HFLM does
                found = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
                finite(self.model, torch.tensor([[x for x, _ in found]]).exp())  # −∞ is no fault
                return found
            start = min(len(commonprefix(contexts)), min(map(len, contexts)) - 1)
            past, head = DynamicCache(), contexts[0][:start]
            if start:
                decoder(self.model)(input_ids=torch.tensor([head], device=self.device), past_key_values=past)
            answers: dict[tuple, list] = {}  # one-token answers to one prompt are read at the same place
            for i, (_, context, answer) in enumerate(requests):
                answers.setdefault(tuple((context + answer)[start:-1]), []).append((i, answer))
            rows = sorted(((list(row), max(len(a) for _, a in some)) for row, some in answers.items()),
                          key=lambda row: len(row[0]))
            out = [None] * len(requests)
            for first in range(0, len(rows), self.batch_size):
                some = rows[first:first + self.batch_size]
                batch, cache = collate(some, self.device), copy.deepcopy(past)
                if start:
                    cache.batch_repeat_interleave(len(some))
                mask = torch.cat([batch.mask.new_ones(len(some), start), batch.mask], 1)
                states = last_states(self.model, Batch(batch.ids, mask, None), below, cache, tuple(head))
                reads = torch.cat([state[len(row) - n:len(row)] for (row, n), state in zip(some, states, strict=True)])
                each = logits(self.model, reads).log_softmax(-1).split([n for _, n in some])
                for (row, _), logp in zip(some, each, strict=True):
                    for i, answer in answers[tuple(row)]:
                        mine, gold = logp[-len(answer):], torch.tensor(answer, device=logp.device)
                        out[i] = (mine.gather(1, gold[:, None]).sum().item(), bool((mine.argmax(-1) == gold).all()))
            return out

    return Reader(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
