"""Mutation testing: does a test fail if a line of zu is broken?

    make mutants                                     # all files in TESTS, takes hours
    make mutants ONLY=zu/solve.py                    # one of them (several, separated by commas)
    make mutants SAMPLE=50                           # 50 mutants of each file, drawn at random

Each mutant is a function with one small fault: mutmut's operators swap + and −, < and <=, True
and False, add 1 to a number, or drop an argument. Wording is left alone: the arguments of errors
and warnings, texts of several words, progress bars, and annotations; so are decorators and code
outside functions.

A file's tests are collected once and run once with coverage, to find which tests run which lines.
Then each mutant gets a forked process, which puts the faulty code into the live function and runs
the tests of the changed statement, quick ones first, until one fails. Torch is thus imported once,
not thousands of times.

Results are kept in build/mutants, one file per source file. A mutant is not tested again, unless it
survived and a test file has changed. REASONS says why some survivors cannot be killed; all others
are printed. The status is 1 if less than FLOOR percent of a file's killable mutants are killed.
"""
from __future__ import annotations

import argparse
import difflib
import gc
import hashlib
import importlib
import inspect
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: The tests for a file's mutants: those that are about the file and quick.
READING = ["test_readers.py", "test_facts.py", "test_reading_details.py", "test_shapes.py",
           "test_formats.py"]
METHODS = ["test_methods_details.py", "test_objectives.py"]
TESTS = {
    "zu/solve.py": ["test_solve.py", "test_solve_edges.py", "test_later.py"],
    "zu/scores.py": ["test_scores.py", "test_scores_by_hand.py", "test_unreadable.py"],
    "zu/edit.py": ["test_edit_by_hand.py", "test_export.py"],
    "zu/data/readers.py": READING,
    "zu/data/collecting.py": READING,
    "zu/data/memory.py": READING,
    "zu/data/fields.py": READING,
    "zu/data/words.py": READING,
    "zu/data/shapes.py": READING,
    "zu/data/schemas.py": READING,
    "zu/data/editing.py": READING,
    "zu/data/questions.py": READING,
    "zu/data/facts.py": READING,
    "zu/targets.py": ["test_targets_details.py", "test_targets.py", "test_objectives.py",
                      "test_unsearched.py"],
    "zu/suffix_search.py": ["test_plain_search.py", "test_targets_details.py", "test_targets.py"],
    "zu/steps.py": ["test_targets_details.py"],
    "zu/unsearched.py": ["test_unsearched.py"],
    "zu/methods/base.py": METHODS,
    "zu/methods/descended.py": METHODS,
    "zu/methods/located.py": METHODS,
    "zu/methods/registry.py": METHODS,
    "zu/methods/unlearning.py": METHODS,
}
#: Survivors that no test can kill, each with the reason.
REASONS = ROOT / "tests" / "survivors.json"
RESULTS = ROOT / "build" / "mutants"
#: The least share of killable mutants that must be killed, in percent.
FLOOR = 90
#: Tests that take more processor time than this, in seconds, are skipped.
SLOW = 5.0
#: Calls whose arguments are only wording or appearance, by the end of the called name.
WORDING = re.compile(r"(Error|BrokenFile|broken|warn|tqdm)$")
#: Arguments, by name, whose faults cannot be seen: see above.
UNSEEN = {"device", "strict"}
#: A text of several words is for people.
PROSE = re.compile(r"\w\W* \W*\w")
#: Stands for the lines of a default: it is seen without a call too.
EVERYWHERE = (0, 0)
#: What a process that asks about one mutant ends with.
SURVIVED, KILLED = 0, 1


# ---- the mutants of a file


@dataclass(frozen=True)
class Mutant:
    """One fault: in which function and statement, what stood there, and the whole faulty file."""

    function: str
    lines: tuple[int, int]
    was: str
    becomes: str
    key: str  # tells the faulty function from all others
    source: str


@dataclass(frozen=True)
class Fault:
    """A node, what stands in its place, and the lines of the statement around it."""

    node: cst.CSTNode
    instead: cst.CSTNode
    lines: tuple[int, int]


class Faults(cst.CSTVisitor):
    """Collects what mutmut's operators make of a function's body and defaults, but for wording."""

    def __init__(self, positions: dict, function: cst.FunctionDef) -> None:
        self.positions = positions
        self.function = function
        self.found: list[Fault] = []
        self.statements = [function]  # around the node that is visited, the outermost first

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise):
            return False
        if isinstance(node, cst.Call) and WORDING.search(_called(node)):
            return False
        if isinstance(node, cst.Arg) and _name(node) in UNSEEN:
            return False
        if isinstance(node, cst.SimpleString) and PROSE.search(node.value):
            return False
        if isinstance(node, cst.SimpleStatementLine | cst.FunctionDef | cst.Parameters):
            self.statements.append(node)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                for instead in operator(node):
                    if not _is_unseen(node, instead):
                        self.found.append(Fault(node, instead, self._lines(node)))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if original_node is self.statements[-1]:
            self.statements.pop()

    def _lines(self, node: cst.CSTNode) -> tuple[int, int]:
        """The lines whose tests see the fault: of a simple statement all, of a header its own."""
        around = self.statements[-1]
        if isinstance(around, cst.Parameters):
            return EVERYWHERE
        if isinstance(around, cst.FunctionDef):
            around = node
        place = self.positions.get(around) or self.positions[self.function]
        return place.start.line, place.end.line


def _called(node: cst.Call) -> str:
    """The last name of what is called."""
    function = node.func
    if isinstance(function, cst.Attribute):
        function = function.attr
    return function.value if isinstance(function, cst.Name) else ""


def _name(argument: cst.Arg) -> str:
    """The name by which an argument is given; "" for none, and "device" for `x.to(device)`'s."""
    if argument.keyword is not None:
        return argument.keyword.value
    return "device" if "device" in _code(argument.value).split(".") else ""


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)


def _is_unseen(node: cst.CSTNode, instead: cst.CSTNode) -> bool:
    """Whether two calls differ in arguments alone whose faults cannot be seen."""
    if not (isinstance(node, cst.Call) and isinstance(instead, cst.Call)):
        return False
    if len(instead.args) == len(node.args):
        pairs = zip(node.args, instead.args, strict=True)
        changed = [old for old, new in pairs if _code(old.value) != _code(new.value)]
    else:  # one is left out
        left = [_code(argument.value) for argument in instead.args]
        changed = [x for x in node.args if _code(x.value) not in left]
    return bool(changed) and all(_name(argument) in UNSEEN for argument in changed)


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a file's text."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    module, positions = wrapper.module, wrapper.resolve(PositionProvider)
    parts = [module.code_for_node(statement) for statement in module.body]
    head = source[:source.index("".join(parts))]
    for number, statement in enumerate(module.body):
        for name, function in _functions(statement):
            before = module.code_for_node(function).splitlines()
            visitor = Faults(positions, function)
            function.visit(visitor)
            for fault in visitor.found:
                faulty = function.deep_replace(fault.node, fault.instead)
                code = module.code_for_node(faulty)
                was, becomes = _difference(before, code.splitlines())
                whole = faulty
                if statement is not function:
                    whole = statement.deep_replace(function, faulty)
                text = "".join([*parts[:number], module.code_for_node(whole), *parts[number + 1:]])
                key = hashlib.sha256(f"{name}\n{code}".encode()).hexdigest()[:16]
                yield Mutant(name, fault.lines, was, becomes, key, head + text)


def _functions(statement: cst.CSTNode) -> Iterator[tuple[str, cst.FunctionDef]]:
    """The functions of a module's statement by name: itself, or a class's methods."""
    if isinstance(statement, cst.FunctionDef):
        yield statement.name.value, statement
    if isinstance(statement, cst.ClassDef):
        for inner in statement.body.body:
            if isinstance(inner, cst.FunctionDef) and not _is_overload(inner):
                yield f"{statement.name.value}.{inner.name.value}", inner


def _is_overload(function: cst.FunctionDef) -> bool:
    names = [getattr(x.decorator, "value", None) for x in function.decorators]
    return "overload" in names


def _difference(before: list[str], after: list[str]) -> tuple[str, str]:
    """The lines that differ, as one line each."""
    was, becomes = [], []
    for line in difflib.ndiff(before, after):
        if line.startswith("- "):
            was.append(line[2:].strip())
        elif line.startswith("+ "):
            becomes.append(line[2:].strip())
    return " ".join(was), " ".join(becomes)


# ---- asking the tests


class Asking:
    """A plugin of pytest that asks the collected tests about mutants instead of running them."""

    def __init__(self, file: str, sample: int | None, work: Path) -> None:
        self.file = file
        self.sample = sample
        self.work = work
        self.results = Results(file)
        self.killers: dict[str, list[str]] = {}  # by function, the latest first
        self.failed = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("errors while collecting")
        self.items = {item.nodeid: item for item in session.items}
        self._ask_all(session.items)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def _fails(self, item: pytest.Item, following: pytest.Item) -> bool:
        """Whether a test fails; what it shares with the one that follows is left standing."""
        self.failed = False
        item.session._setupstate.teardown_exact(item)  # of what another process left
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return self.failed

    def _first_failing(self, names: list[str]) -> str | None:
        """The first of the tests that fails, in this process."""
        for name, following in zip(names, [*names[1:], names[0]], strict=True):
            if self._fails(self.items[name], self.items[following]):
                return name
        return None

    def _ask_all(self, items: list[pytest.Item]) -> None:
        chosen = drawn(list(mutants((ROOT / self.file).read_text())), self.sample)
        todo = [mutant for mutant in chosen if self.results.is_open(mutant)]
        if not todo:
            return
        # what is made once a session, the tiny models above all, is there before the first fork
        warm = next((x for x in items if "folders" in x.fixturenames), items[0])
        other = next(x for x in items if x is not warm)
        if self._fails(warm, other):
            sys.exit(f"{warm.nodeid} fails without any mutant")
        self._measure(items)
        gc.freeze()
        for number, mutant in enumerate(todo, 1):
            self.results.add(mutant, *self._ask(mutant))
            if number % 20 == 0 or number == len(todo):
                print(f"{self.file}: {number} of {len(todo)}", file=sys.stderr, flush=True)

    def _measure(self, items: list[pytest.Item]) -> None:
        """Runs the tests as they are: their seconds, and the tests of each line, by number."""
        def run(out: int) -> int:
            import coverage

            seconds = {}
            cover = coverage.Coverage(data_file=None, config_file=False, include=[self.file])
            cover.start()
            for item, following in zip(items, [*items[1:], items[0]], strict=True):
                cover.switch_context(item.nodeid)
                start = _processor_time()
                if self._fails(item, following):
                    os.write(out, f"{item.nodeid} fails without any mutant".encode())
                    return KILLED
                seconds[item.nodeid] = _processor_time() - start
            cover.stop()
            lines = cover.get_data().contexts_by_lineno(str(ROOT / self.file))
            found = {"seconds": seconds, "lines": lines}
            (self.work / "measured.json").write_text(json.dumps(found))
            return SURVIVED

        status, said = self._fork(run, 3600, 3600)
        if status != SURVIVED:
            sys.exit(said or f"the tests end with status {status} without any mutant")
        measured = json.loads((self.work / "measured.json").read_text())
        self.seconds = measured["seconds"]
        self.lines = {int(line): names for line, names in measured["lines"].items()}
        slow = sum(x > SLOW for x in self.seconds.values())
        print(f"{self.file}: {len(self.items)} tests, {sum(self.seconds.values()):.0f} s; {slow} "
              f"of more than {SLOW:.0f} s are not asked", file=sys.stderr, flush=True)

    def _ask(self, mutant: Mutant) -> tuple[str, str]:
        """What became of a mutant, and the test that killed it."""
        names = self._asked(mutant)
        if not names:
            return "survived", "no test reaches it"

        def run(out: int) -> int:
            try:
                install(mutant, self.file)
            except Exception as error:  # what cannot even be imported fails everywhere
                os.write(out, repr(error).encode())
                return KILLED
            killer = self._first_failing(names)
            if killer is None:
                return SURVIVED
            os.write(out, killer.encode())
            return KILLED

        seconds = sum(self.seconds[name] for name in names)
        status, said = self._fork(run, 10 + 4 * seconds, 120 + 40 * seconds)
        if status == SURVIVED:
            return "survived", ""
        if status != KILLED:
            return "timeout", f"status {status}"
        killers = self.killers.setdefault(mutant.function, [])
        if said in killers:
            killers.remove(said)
        killers.insert(0, said)
        return "killed", said

    def _asked(self, mutant: Mutant) -> list[str]:
        """The tests that run a mutant's statement: its neighbours' killers and quick ones first."""
        first, last = mutant.lines
        names = set(self.seconds) if mutant.lines == EVERYWHERE else set()
        for line in range(first, last + 1):
            names.update(self.lines.get(line, ()))
        names = {name for name in names if name and self.seconds[name] <= SLOW}
        killers = self.killers.get(mutant.function, [])[:5]
        return sorted(names, key=lambda x: self.seconds[x] / (10 if x in killers else 1))

    def _fork(self, run, processor: float, wall: float) -> tuple[int, str]:
        """The status of a forked process that runs a function, and what it wrote into its pipe.

        It gets so many seconds of the processor and by the clock, and a cache of its own.
        """
        cache = self.work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        if "ZU_CACHE" in os.environ:
            shutil.copytree(os.environ["ZU_CACHE"], cache, symlinks=True)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            status = KILLED
            try:
                os.environ["ZU_CACHE"] = str(cache)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                signal.setitimer(signal.ITIMER_PROF, processor)
                signal.setitimer(signal.ITIMER_REAL, wall)
                status = run(write)
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), said


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def install(mutant: Mutant, file: str) -> None:
    """Puts a mutant's code and defaults into the function that the tests hold already."""
    name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    live = importlib.import_module(name)
    faulty = types.ModuleType(name)
    faulty.__dict__.update(__package__=live.__package__, __file__=live.__file__)
    exec(compile(mutant.source, live.__file__, "exec"), faulty.__dict__)
    old, new = (_function(module, mutant.function) for module in (live, faulty))
    old.__code__ = new.__code__
    old.__defaults__ = new.__defaults__
    old.__kwdefaults__ = new.__kwdefaults__


def _function(module: types.ModuleType, path: str) -> types.FunctionType:
    """The function of this name, out of whatever is wrapped around it."""
    found = module
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    return inspect.unwrap(found)


# ---- results and reasons


class Results:
    """What became of a file's mutants so far."""

    def __init__(self, file: str) -> None:
        self.path = RESULTS / (file.replace("/", ".").removesuffix(".py") + ".jsonl")
        texts = [path.read_bytes() for path in test_paths(file)]
        self.tests = hashlib.sha256(b"".join(texts)).hexdigest()[:16]
        self.found: dict[str, dict] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.found[row["key"]] = row

    def is_open(self, mutant: Mutant) -> bool:
        """Whether a mutant is to be asked about: a survivor is again where tests changed."""
        row = self.found.get(mutant.key)
        return row is None or (row["state"] == "survived" and row["tests"] != self.tests)

    def state(self, mutant: Mutant) -> str:
        row = self.found.get(mutant.key)
        return row["state"] if row else "open"

    def add(self, mutant: Mutant, state: str, by: str) -> None:
        """Keeps a result, at once."""
        row = {"key": mutant.key, "state": state, "by": by, "tests": self.tests,
               "function": mutant.function, "was": mutant.was, "becomes": mutant.becomes}
        self.found[mutant.key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def test_paths(file: str) -> list[Path]:
    """The test files that are asked about a file, as far as they are there."""
    paths = [ROOT / "tests" / name for name in TESTS[file]]
    return [path for path in paths if path.exists()]


def drawn(found: list[Mutant], sample: int | None) -> list[Mutant]:
    """So many mutants or all, in a random order that is always the same.

    So whatever was asked before a run was ended is a fair sample.
    """
    return random.Random(0).sample(found, len(found))[:sample]


def reasons() -> dict[tuple[str, str, str, str], str]:
    """Why survivors cannot be killed, by file, function, what stood and what stands there."""
    rows = json.loads(REASONS.read_text(encoding="utf-8"))
    return {(row["file"], row["function"], row["was"], row["becomes"]): row["why"] for row in rows}


def report(files: list[str], sample: int | None) -> bool:
    """Prints survivors without a reason and the table; whether every file reaches FLOOR."""
    why, rows, used, enough = reasons(), [], set(), True
    for file in files:
        results = Results(file)
        count = dict.fromkeys(("mutants", "killed", "timeout", "survived", "explained", "open"), 0)
        everything = list(mutants((ROOT / file).read_text()))
        for mutant in drawn(everything, sample):
            state = results.state(mutant)
            place = file, mutant.function, mutant.was, mutant.becomes
            if state == "survived" and place in why:
                used.add(place)
                state = "explained"
            elif state == "survived":
                note = results.found[mutant.key]["by"]
                print(f"{file} {mutant.function}{note and f': {note}'}\n"
                      f"  was      {mutant.was}\n  becomes  {mutant.becomes}")
            count["mutants"] += 1
            count[state] += 1
        if sample is None and not count["open"]:
            for place in why.keys() - used:
                if place[0] == file:
                    print(f"a reason without its survivor: {' | '.join(place)}")
        asked = count["killed"] + count["timeout"] + count["survived"]
        share = 100 * (count["killed"] + count["timeout"]) / asked if asked else float("nan")
        enough = enough and share >= FLOOR
        rows.append((file, *count.values(), f"{share:.1f}%"))
    head = ("file", "mutants", "killed", "timeouts", "survived", "explained", "not asked", "share")
    print(f"\n{head[0]:26}" + "".join(f"{name:>11}" for name in head[1:]))
    for row in rows:
        print(f"{row[0]:26}" + "".join(f"{value:>11}" for value in row[1:]))
    return enough


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="files of TESTS, separated by commas")
    parser.add_argument("--sample", type=int, help="how many mutants of each file to test")
    parser.add_argument("--report", action="store_true", help="only report earlier results")
    parser.add_argument("--ask", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.chdir(ROOT)
    if given.ask:
        ask(given.ask, given.sample)
        return
    files = [x.strip() for x in given.only.split(",") if x.strip()] or list(TESTS)
    for file in files:
        if file not in TESTS:
            sys.exit(f"{file} has no tests named for it: give {', '.join(TESTS)}")
    for file in () if given.report else files:
        words = [sys.executable, __file__, "--ask", file]
        if given.sample is not None:
            words += ["--sample", str(given.sample)]
        if subprocess.run(words).returncode:
            sys.exit(f"{file}: the tests could not be asked")
    sys.exit(0 if report(files, given.sample) else 1)


def ask(file: str, sample: int | None) -> None:
    """Asks the tests about the mutants of one file, in this process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from hypothesis import Phase, settings

    # a failure is enough: no smaller example is looked for, none is kept
    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None,
                              report_multiple_bugs=False)
    settings.load_profile("mutants")
    with tempfile.TemporaryDirectory(prefix="zu-mutants-") as work:
        words = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not whole",
                 f"--basetemp={work}/tests", "-o", "tmp_path_retention_policy=none",
                 *map(str, test_paths(file))]
        status = pytest.main(words, plugins=[Asking(file, sample, Path(work))])
    sys.exit(0 if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 1)


if __name__ == "__main__":
    main()
