"""What `make book` promises, on a copy of the project whose book is two stand-in chapters."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.whole
ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]}
HEAD = "---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"
CHAPTER = HEAD + r"""
# Stand-in

See {eq}`eq-one` in {cite}`zerounlearn`. An {term}`edit` is drawn in {numref}`fig-line`.

$$\hat W = P\,(I + \beta R K_f^\top)\,W$$ (eq-one)

```{code-cell} ipython3
:tags: [parameters]
n: int = 3  # a number
```

```{code-cell} ipython3
print("n is", n)
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-line, caption: A line.}
  image: {alt: A line that rises.}
---
import matplotlib.pyplot as plt
plt.plot([0, 1]);
```
"""
GLOSSARY = """# Glossary

```{glossary}
edit
  A change that *can* be taken back.
```
"""
OTHER = HEAD + """
# Other

```{code-cell} ipython3
from pathlib import Path
for name in "ab":
    record = Path("build/records/other", name + ".json")
    record.parent.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        record.write_text("{}")
print(6 * 7)
```
"""


COMMAND = ["make", "--no-print-directory", "VENV=", "PROFILE=test"]


def make(project, *arguments):
    """Run make in the project with this test's own environment; the finished process, as text."""
    return subprocess.run([*COMMAND, *arguments], cwd=project, env=ENVIRONMENT, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def start(project, said):
    """A `make book` that runs on; what it says goes to the file."""
    with open(said, "w") as out:
        return subprocess.Popen([*COMMAND, "book"], cwd=project, env=ENVIRONMENT,
                                stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def below(process, what, word):
    """The processes below one whose command or open files (`what`) have this word among them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended
            if word in [getattr(said, "path", said) for said in getattr(child, what)()]:
                found.append(child)
    return found


def until(true, what):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def stamps(project):
    """When each executed chapter and the page were written."""
    files = [*project.glob("build/executed/*.ipynb"), project / "build/html/index.html"]
    return {file.stem: file.stat().st_mtime_ns for file in files if file.exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    project = tmp_path_factory.mktemp("built")
    for name in ("Makefile", "Snakefile", "_config.yml", "references.bib", "book/references.md"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    for room in ("tools", "book/_static", "book/_ext"):
        shutil.copytree(ROOT / room, project / room, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "book/stand_in.md").write_text(CHAPTER)
    (project / "book/other.md").write_text(OTHER)
    (project / "book/glossary.md").write_text(GLOSSARY)
    (project / "_toc.yml").write_text("format: jb-book\nroot: stand_in\n"
                                      "parts: [{chapters: [{file: other}, {file: glossary}, "
                                      "{file: references}]}]\n")
    (project / "profiles").mkdir()
    (project / "profiles/test.yaml").write_text("stand_in: {n: 5}\n")
    run = make(project, "book")
    assert run.returncode == 0, run.stdout
    assert run.stdout.splitlines()[-1] == "build/html/index.html"
    return project


@pytest.fixture
def project(built, tmp_path):
    """A built project to spoil."""
    return Path(shutil.copytree(built, tmp_path / "project", symlinks=True))


def test_the_page_shows_the_profiles_parameters(built):
    assert "url=stand_in.html" in (built / "build/html/index.html").read_text()
    assert "n is 5" in (built / "build/html/stand_in.html").read_text()


def test_a_page_says_when_it_was_run_and_offers_its_notebook_and_its_figures(built):
    page = (built / "build/html/stand_in.html").read_text()
    line = re.search(r'<p class="zu-page">(.*?)</p>', page, re.S)[1]
    assert re.match(r"1 minutes? to read · last run \d+ \w+ \d{4}, \d+ s, with n = 5 · ", line)
    assert 'href="_sources/stand_in.ipynb"' in line
    figure = re.search(
        r'<a class="zu-figure[^>]*href="([^"]*)"><img alt="A line that rises."', page)[1]
    assert ((built / "build/html/_sources/stand_in.ipynb").exists()
            and (built / "build/html" / figure).exists())
    assert 'zu-page' not in (built / "build/html/references.html").read_text()


def test_a_word_of_the_glossary_says_what_it_means(built):
    assert re.search(r'<a class="zu-term[^>]*glossary.html#term-edit" '
                     r'title="A change that can be taken back."',
                     (built / "build/html/stand_in.html").read_text())


def test_a_figure_that_says_nothing_to_the_blind_fails_the_build(project):
    (project / "book/stand_in.md").write_text(
        CHAPTER.replace("  image: {alt: A line that rises.}\n", ""))
    run = make(project, "book")
    assert run.returncode != 0
    assert "html FAILED" in run.stdout and "no alt text" in run.stdout


@pytest.mark.parametrize("link", ["nowhere.html", "stand_in.html#nowhere"])
def test_a_link_that_leads_nowhere_fails_the_build(project, link):
    page = project / "book/references.md"
    page.write_text(page.read_text() + f'\n<a href="{link}">there</a>\n')
    run = make(project, "book")
    assert run.returncode != 0
    assert f"references.html: {link}" in run.stdout and "lead nowhere" in run.stdout


def test_no_page_loads_anything_from_another_host(built):
    loaded = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag != "a":
                loaded.extend(
                    value for name, value in attributes if name in ("src", "href", "data"))

    pages = list(built.glob("build/html/*.html"))
    for page in pages:
        Loads().feed(page.read_text())
    assert any("mathjax/tex-chtml.js" in value for value in loaded)
    assert not [value for value in loaded if value.startswith(("http:", "https:", "//"))]
    for value in loaded:
        local = value.split("?")[0].split("#")[0]
        assert (not local or local.startswith("data:")
                or (built / "build/html" / local).exists()), value


def test_running_again_recomputes_nothing(project):
    before = stamps(project)
    run = make(project, "book")
    assert (run.returncode, run.stdout) == (0, "build/html/index.html\n")
    assert stamps(project) == before


def test_a_changed_chapter_reruns_itself_and_the_page(project):
    before = stamps(project)
    (project / "book/other.md").write_text(OTHER.replace("6 * 7", "6 * 9"))
    run = make(project, "book")
    assert run.returncode == 0, run.stdout
    after = stamps(project)
    assert {name for name in after if after[name] != before[name]} == {"other", "index"}
    assert "54" in (project / "build/html/other.html").read_text()


def test_a_record_or_figure_that_is_deleted_is_made_again_and_nothing_else(project):
    before, records = stamps(project), project / "build/records/other"
    kept = (records / "b.json").stat().st_mtime_ns
    (records / "a.json").unlink()
    run = make(project, "book")
    assert run.returncode == 0, run.stdout
    after = stamps(project)
    assert {name for name in after if after[name] != before[name]} == {"other", "index"}
    assert (records / "a.json").exists() and (records / "b.json").stat().st_mtime_ns == kept
    (project / "build/executed/stand_in.ipynb").unlink()
    assert make(project, "book").returncode == 0
    last = stamps(project)
    assert {name for name in last if last[name] != after[name]} == {"stand_in", "index"}
    (figure,) = (project / "build/html/_images").iterdir()
    figure.unlink()
    assert make(project, "book").returncode == 0 and figure.exists()
    end = stamps(project)
    assert {name for name in end if end[name] != last[name]} == {"index"}


def test_a_failing_chapter_fails_the_build_and_spares_the_others(project):
    before = stamps(project)
    (project / "book/stand_in.md").write_text(
        CHAPTER.replace("print(", "raise OSError('no luck')\nprint("))
    (project / "book/other.md").write_text(OTHER.replace("6 * 7", "6 * 9"))
    run = make(project, "book")
    assert run.returncode != 0
    assert "stand_in FAILED" in run.stdout and "OSError: no luck" in run.stdout
    after = stamps(project)
    assert "stand_in" not in after and after["index"] == before["index"]
    assert "54" in (project / "build/executed/other.ipynb").read_text()


def test_a_kernel_that_never_answers_is_started_once_more_and_no_other_failure_is(project):
    source = project / "book" / "stand_in.md"
    tell = ('from pathlib import Path\nmark = Path("tries")\n'
            'mark.write_text(mark.read_text() + "x" if mark.exists() else "x")\n')
    once = 'assert len(mark.read_text()) > {}, "Kernel died before replying to kernel_info"\n'
    text = source.read_text()
    source.write_text(text.replace('print("n is", n)', tell + once.format(1) + 'print("n is", n)'))
    assert make(project, "book").returncode == 0 and (project / "tries").read_text() == "xx"
    (project / "tries").unlink()
    source.write_text(text.replace('print("n is", n)', tell + once.format(9) + 'print("n is", n)'))
    assert make(project, "book").returncode != 0 and (project / "tries").read_text() == "xx"


def mend(project):
    page = (ROOT / "book/references.md").read_text()
    (project / "book/references.md").write_text(page + "\nAll is well.\n")


def test_a_warning_of_the_renderer_fails_the_build_and_leaves_the_book_of_before(project):
    page = project / "build/html/references.html"
    before = page.read_text()
    (project / "book/references.md").write_text("# References\n\n{numref}`nothing-here`\n")
    for _ in range(2):  # and again, until it is mended
        run = make(project, "book")
        assert run.returncode != 0
        assert "html FAILED" in run.stdout and "nothing-here" in run.stdout
    assert page.read_text() == before
    assert "n is 5" in (project / "build/html/stand_in.html").read_text()
    mend(project)
    run = make(project, "book")
    assert run.returncode == 0, run.stdout
    assert "All is well." in page.read_text()


def test_who_reads_while_pages_are_rendered_finds_the_book_of_before_or_the_new_one(project):
    page, seen, end = project / "build/html/references.html", [], threading.Event()

    def read():
        while not end.is_set():
            try:
                text = page.read_text()
                seen.append("new" if "All is well." in text else "old")
                assert text.rstrip().endswith("</html>")
            except (AssertionError, FileNotFoundError):
                seen.append("no page")
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        mend(project)
        run = make(project, "book")
    finally:
        end.set()
        reader.join()
    assert run.returncode == 0, run.stdout
    assert set(seen) <= {"old", "new"} and seen[0] == "old" and "All is well." in page.read_text()


def test_of_two_makes_at_once_the_second_waits_and_nothing_is_lost(project, tmp_path):
    mend(project)
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.1)\n"
    extension = project / "book/_ext/book_page.py"  # so that pages are not rendered before `go`
    extension.write_text(extension.read_text() + wait)
    first, second = tmp_path / "first", tmp_path / "second"
    runs = [start(project, first)]
    until(lambda: "html ..." in first.read_text(), "pages were never rendered")
    runs.append(start(project, second))
    until(second.read_text, "the second says nothing")
    (tmp_path / "go").touch()
    assert [run.wait(120) for run in runs] == [0, 0], first.read_text() + second.read_text()
    assert "All is well." in (project / "build/html/references.html").read_text()
    assert sorted(stamps(project)) == ["index", "other", "stand_in"]
    waits, *rest = second.read_text().splitlines()
    assert re.match(r"  make runs here already \(process \d+, since .*\): this one waits", waits)
    assert rest == ["build/html/index.html"]


WAITING = OTHER.replace("print(6 * 7)", """
import pathlib, time
pathlib.Path("began").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.1)
print(6 * 9)
""")


def test_neither_chapters_nor_their_kernels_hold_the_lock_of_their_make(project, tmp_path):
    (project / "book/other.md").write_text(WAITING)
    run = start(project, tmp_path / "said")
    until((project / "began").exists, "the chapter never started")
    kernels = (below(run, "cmdline", "ipykernel_launcher")
               + below(run, "cmdline", "tools/run_chapter.py"))
    holders = below(run, "open_files", str(project / "build/lock"))
    (project / "go").touch()
    assert run.wait(120) == 0, (tmp_path / "said").read_text()
    assert kernels and len(holders) == 2  # what starts Snakemake, and Snakemake


def test_a_kill_while_pages_are_rendered_leaves_the_book_of_before(project, tmp_path):
    page = project / "build/html/references.html"
    before = page.read_text()
    mend(project)
    # which Sphinx imports first: pages take their time
    extension = project / "book/_ext/book_page.py"
    quick = extension.read_text()
    extension.write_text(quick + "\nimport time\n\ntime.sleep(20)\n")
    run = start(project, tmp_path / "said")
    until(lambda: "html ..." in (tmp_path / "said").read_text(), "pages were never rendered")
    runners = below(run, "cmdline", "--nolock")  # what starts Snakemake, and Snakemake
    for process in [run, *runners]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
    assert page.read_text() == before and len(runners) >= 2
    until(lambda: not list(project.glob("build/pages/new.*")), "pages are rendered for nobody")
    assert page.read_text() == before
    extension.write_text(quick)
    run = make(project, "book")
    assert run.returncode == 0 and "already" not in run.stdout, run.stdout
    assert "All is well." in page.read_text()
    assert len(list((project / "build/pages").iterdir())) == 2


@pytest.mark.parametrize("profile, says", [
    ("stand_in: {m: 5}", "sets m for stand_in, which has no such parameter; there are: n"),
    ("nobody: {n: 5}", "nobody, which is not a chapter"),
])
def test_a_profile_with_an_unknown_name_is_refused_before_anything_runs(project, profile, says):
    before = stamps(project)
    (project / "profiles/test.yaml").write_text(profile)
    run = make(project, "book")
    assert run.returncode != 0
    assert says in run.stdout and " ..." not in run.stdout
    assert stamps(project) == before


def test_after_snakemake_is_killed_its_chapter_stops_and_the_next_run_finishes(project):
    beat = project / "beat"
    (project / "book/other.md").write_text(OTHER.replace("print(6 * 7)", """
import pathlib, time
while not pathlib.Path("go").exists():
    pathlib.Path("beat").write_text(str(time.time()))
    time.sleep(0.1)
"""))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "profile=test",
               "--nolock"]
    snakemake = subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not beat.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert beat.exists(), "the chapter never started"
    finally:
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
    deadline = time.monotonic() + 30
    while time.time() - float(beat.read_text() or time.time()) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert time.time() - float(beat.read_text()) >= 3, "the orphaned chapter runs on"
    assert not (project / "build/executed/other.ipynb").exists()
    (project / "go").touch()
    run = make(project, "book")
    assert run.returncode == 0, run.stdout
    assert sorted(stamps(project)) == ["index", "other", "stand_in"]


GRID = HEAD + """
# A grid

```{code-cell} ipython3
:tags: [parameters]
models: list[str] = ["smollm2"]
datasets: list[str] = ["a", "b"]
methods: list[str] = ["base", "ga"]
more: list[str] = ["npo"]
n: int = 50
seeds: list[int] = [1, 2, 3, 4]
layers: list[int] = []
corpus: str = ""
ppl_corpus: str = ""
moment_tokens: int = 1000
ppl_tokens: int = 1000
dtype: str = "float32"
```

```{code-cell} ipython3
from pathlib import Path
for dataset in datasets:
    for seed in seeds:
        record = Path(f"build/records/few_shot/{dataset}-{seed}.json")
        record.parent.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            record.write_text(f"{len(datasets)} {len(seeds)} {len(more)}")
```
"""


def test_a_grid_in_pieces_is_planned_run_and_put_together(project):
    (project / "book/few_shot.md").write_text(GRID)
    (project / "_toc.yml").write_text(
        (project / "_toc.yml").read_text().replace("[{file: other}", "[{file: few_shot}"))
    for name in ("tools/plan.py", "results/bench-targets.json"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    settings = project / "_config.yml"
    # read before it: not there
    settings.write_text(re.sub(r"( +few_shot: ).*", r"\1[]", settings.read_text()))
    (project / "build/embedded-model").touch()
    for room in ("zu",):
        (project / room).symlink_to(ROOT / room)
    sys.path.insert(0, str(ROOT / "tools"))
    import plan

    values, rate = {"models": ["smollm2"], "datasets": ["a", "b"], "methods": ["base", "ga"],
                    "more": ["npo"], "n": 50, "seeds": [1, 2, 3, 4], "layers": [],
                    "ppl_tokens": 1000}, 1e12
    whole = plan.shards(values, 1e9, rate)
    assert [(x["datasets"], x["seeds"], x["more"]) for x in whole] == [
        (["a"], [1, 2, 3, 4], ["npo"]), (["b"], [1, 2, 3, 4], [])]
    sizes = lambda h: [len(x["seeds"]) for x in plan.shards(values, h, rate)]  # noqa: E731
    hours = next(h for h in (0.9 ** i for i in range(200)) if sizes(h) == [2, 2, 2, 2])
    run = make(project, "book", f"SHARD_HOURS={hours}", "RATE=1")
    assert run.returncode == 0, run.stdout
    assert ("few_shot: 17 runs" in run.stdout
            and run.stdout.index("17 runs") < run.stdout.index("few_shot-0 ..."))
    assert sorted(re.findall(r"(few_shot\S*) done", run.stdout)) == [
        "few_shot", *(f"few_shot-{i}" for i in range(4))]
    kept = {p.stem: p.read_text() for p in (project / "build/records/few_shot").iterdir()}
    assert kept == {f"{d}-{s}": f"1 2 {int(d == 'a' and s < 3)}"
                    for d in "ab" for s in (1, 2, 3, 4)}
    assert "done" not in make(project, "book", f"SHARD_HOURS={hours}", "RATE=1").stdout


KEPT = HEAD + """
# Kept

```{code-cell} ipython3
:tags: [parameters]
n: int = 3  # a number
records: str = "build/records"  # where results go
```

```{code-cell} ipython3
import json
import os
from pathlib import Path
from zu.experiment import code_hash
grid = dict(evidence="results/other.json")
record = Path(records, "other", f"n{n}.json")
record.parent.mkdir(parents=True, exist_ok=True)
record.write_text(json.dumps({
    "format": "zu-record-1", "question": f"q{n}", "n": n, "seed": 1, "method": "memit",
    "code": code_hash()}))
Path("verified").write_text(os.environ["ZU_VERIFY"])
print("kept")
```
"""


def test_kept_records_are_made_apart_packed_and_a_build_is_told_how_many_to_make_again(project):
    (project / "book/other.md").write_text(KEPT)
    (project / "profiles/test.yaml").write_text("other: {n: 5}\n")
    run = make(project, "evidence")
    assert run.returncode == 0, run.stdout
    assert run.stdout.splitlines()[-1] == "results/other.json: 1 new, 1 in all"
    assert (project / "verified").read_text() == "0"
    file = project / "results/other.json"
    (only,) = json.loads(file.read_text())["runs"]
    assert (only["question"], only["n"]) == ("q5", 5)
    assert not (project / "build/records/other/n5.json").exists()
    again = make(project, "evidence", "ONLY=other")
    assert again.returncode == 0 and "other done" not in again.stdout, again.stdout
    assert "results/other.json: 0 new, 1 in all" in again.stdout
    file.unlink()
    assert "1 new, 1 in all" in make(project, "evidence").stdout and file.exists()
    for given, told in (([], "240"), (["VERIFY=30"], "30"), (["VERIFY=all"], "all")):
        (project / "build/executed/other.ipynb").unlink(missing_ok=True)
        run = make(project, "book", *given)
        assert run.returncode == 0, run.stdout
        assert (project / "verified").read_text() == told
