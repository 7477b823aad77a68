"""From book/*.md to build/html: jupytext, papermill, jupyter-book. Start it with `make book`."""
import os
import sys
import threading
import time
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(0, "tools")
from parameters import defaults

# A chapter that measures times gets all cores to itself; the others run two at a time, which takes
# less time in all. It goes first: at the end it would wait until nothing else runs, and the ledger
# would wait for it.
ALONE = ["cost"]
# Then few_shot, which takes long, computes moments for all, and has records that others read,
# beside a chapter that needs no moments.
FIRST = ["few_shot", "tracing"]
# Then the longest chapters, so that none of them is left over at the end.
LONG = ["anchors", "gone", "many_facts", "ablation", "downstream", "own_samples", "what_to_keep",
        "where_to_aim", "one_by_one"]
LONG += ["representations", "own_method", "early_layers", "levels", "baselines", "data"]

def end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


# This process ends with make; the chapters themselves make sure that they end with Snakemake.
if parent := os.environ.pop("END_WITH_PARENT", None):
    threading.Thread(target=end_with, args=(int(parent),), daemon=True).start()

# Tools and kernel come from Snakemake's own environment, whatever else is installed.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
# glibc should keep large blocks instead of returning them to the system and asking for them again.
os.environ |= {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


PROFILE = config.get("profile", "smol")
toc = yaml.safe_load(Path("_toc.yml").read_text())
PAGES = [toc["root"], *(c["file"] for part in toc.get("parts", []) for c in part["chapters"])]
SOURCE = {page: Path("book", f"{page}.md") for page in PAGES}
for page, path in SOURCE.items():
    if not path.exists():
        raise WorkflowError(f"_toc.yml names {page}, but there is no {path}")
CHAPTERS = [page for page in PAGES if "\nkernelspec:" in SOURCE[page].read_text()[:1000]]
COUNT = len(CHAPTERS)
# A chapter runs after the chapters whose records it reads, or whose targets it finds in the cache.
RECORDED = ["few_shot", "many_facts", "representations", "downstream", "ablation", "tracing",
            "cost"]
AFTER = {"intro": ["few_shot", "gone", "anchors"], "downstream": ["few_shot"], "ledger": RECORDED,
         "exhibits": [page for page in CHAPTERS if page != "exhibits"]}
# A chapter that reads files of its own runs again when one of them changes.
READS = {page: ["build/results"] for page in CHAPTERS if "\"results" in SOURCE[page].read_text()}
READS["downstream"] = sorted(map(str, Path("book/tasks").glob("*.*")))


def lost(made):
    """Whether a file is gone that was there when this list of files was made."""
    return made.exists() and not all(map(os.path.exists, made.read_text().splitlines()))


# The chapters manage their own records: if one is gone, its chapter runs again and makes only that
# record.
for page in CHAPTERS:
    if lost(Path("build/executed", f"{page}.records")):
        Path("build/executed", f"{page}.ipynb").unlink(missing_ok=True)
# Snakemake remakes a missing intermediate file only if the final one is missing too, and does not
# know the pages in the list. The pages themselves stay until there are new ones.
if lost(Path("build/html.files")) or not all(
        Path("build/executed", f"{p}.ipynb").exists() for p in CHAPTERS):
    Path("build/html.files").unlink(missing_ok=True)


def near(name, known):
    """A suggestion for a misspelt name, and the list of known names."""
    # importing zu imports torch, which takes seconds: only for this message
    from zu.data.names import did_you_mean

    return f"{did_you_mean(name, known)}there are: {', '.join(sorted(known)) or 'none'}"


def check_profile():
    """Read the profile and check it against the chapters, since papermill only warns."""
    path = Path("profiles", f"{PROFILE}.yaml")
    if not path.exists():
        there = [p.stem for p in Path("profiles").glob("*.yaml")]
        raise WorkflowError(f"there is no {path}; {near(PROFILE, there)}")
    profile = yaml.safe_load(path.read_text()) or {}
    for page, values in profile.items():
        if page not in CHAPTERS:
            raise WorkflowError(
                f"{path} has parameters for {page}, which is not a chapter; {near(page, CHAPTERS)}")
        known = defaults(page)
        for name in values:
            if name not in known:
                raise WorkflowError(
                    f"{path} sets {name} for {page}, which has no such parameter; "
                    f"{near(name, known)}")
    return profile


# Where the work is done: `WHERE=` names a folder of Snakemake's settings. It sets the GPUs, CPUs and
# memory of a job; a rule asks for a GPU only if the folder offers one.
WHERE = config.get("where", "")
SETTINGS = yaml.safe_load(Path("profiles", WHERE, "config.yaml").read_text()) if WHERE else {}
CLUSTER = SETTINGS.get("executor", "local") != "local"
ASKED = SETTINGS.get("default-resources", {}) if CLUSTER else {}
GPUS = ASKED.get("gpu", int("gpu" in SETTINGS.get("resources", {})))
# Chapters without a model take seconds, but a cluster is asked about its jobs only now and then, so
# several of them share a job and its resources.
SHARING = 4
SHORT = [page for page in CHAPTERS if CLUSTER and page not in AFTER
         and "load_model" not in SOURCE[page].read_text()]


def share(name, page):
    """How much of a resource a chapter asks for: what the profile says, or its share of that."""
    return max(ASKED[name] // SHARING, 1) if page in SHORT else ASKED[name]


def threads(page):
    """A chapter's threads: its job's CPUs, or on one machine all cores for timings, else half."""
    if "cpus_per_task" in ASKED:
        return share("cpus_per_task", page)
    return workflow.cores if page in ALONE else max(workflow.cores // 2, 1)


PARAMETERS = check_profile()
for page in {"exhibits"} & set(CHAPTERS):  # this page says where everything comes from
    PARAMETERS[page] = {"profile": PROFILE, **PARAMETERS.get(page, {})}


def shards():
    """The chapters with grids, cut into pieces of about `shard_hours` hours.

    Each piece is the chapter with a part of its parameters.
    """
    if not config.get("shard_hours"):
        return {}
    import plan

    rate = float(config.get("rate", 40)) * 1e12
    return {page: plan.shards(
                defaults(page) | PARAMETERS.get(page, {}), float(config["shard_hours"]), rate)
            for page in plan.GRIDS if page in CHAPTERS}


SHARDS = shards()


def before(page):
    """What a chapter waits for: chapters whose records it reads, and its own pieces."""
    return [
        f"build/executed/{other}.ipynb" for other in AFTER.get(page, []) if other in CHAPTERS
    ] + [f"build/shards/{page}-{i}.ipynb" for i in range(len(SHARDS.get(page, [])))]


# These rules take seconds, so they stay on the machine where make runs even if there is a cluster.
localrules: book, notebooks, notebook, embedded_model, module, results, html, pdf


rule book:
    input: "build/html.files"


rule notebooks:
    input: expand("build/notebooks/{page}.ipynb", page=CHAPTERS)


rule notebook:
    input: "book/{page}.md"
    output: "build/notebooks/{page}.ipynb"
    priority: 4  # before any chapter, so that all chapters have a notebook when the first is chosen
    shell: "python tools/quick.py jupytext --quiet --to ipynb --output {output} {input} 2>&1"


# Once, before the chapters that use it start in parallel; otherwise each of them would fetch it.
rule embedded_model:
    output: touch("build/embedded-model")
    priority: 5  # chapters that need no model run beside it
    shell:
        """
        echo "  embedded model (downloaded once, some 93 MB) ..."
        python -c 'from zu.data.embedded import embedded_model; embedded_model()' 2>&1 | sed -u 's/.*\\r//'  # of a bar, the end
        """


# One file stands for many, since Snakemake repeatedly looks at every input of every waiting chapter.
rule module:
    input: sorted(str(path) for part in ("*.py", "*.json", "*.safetensors") for path in Path("zu").rglob(part))
    output: touch("build/module")


rule results:
    input: sorted(map(str, Path("results").rglob("*.json")))
    output: touch("build/results")


def leader(page, number):
    """The piece that another one waits for: the first with its model, which sums the moments."""
    models = [piece["models"] for piece in SHARDS[page]]
    first = models.index(models[number])
    return [] if first == number else f"build/shards/{page}-{first}.ipynb"


def inline(values):
    """Parameters as papermill's -y takes them."""
    return yaml.safe_dump(values, default_flow_style=True, width=10**6).strip()


rule execute:
    input:
        model=lambda wc: "build/embedded-model" if "smollm2" in SOURCE[wc.page].read_text() else [],
        notebook="build/notebooks/{page}.ipynb",
        module="build/module",
        paper=sorted(map(str, Path("book/paper").glob("*.csv"))),
        reads=lambda wc: READS.get(wc.page, []),
        after=lambda wc: before(wc.page),
    output: "build/executed/{page}.ipynb"
    log: "build/logs/{page}.log"
    params:
        values=lambda wc: inline(PARAMETERS.get(wc.page, {})),
        often=config.get("often", 300),  # seconds between two messages about a long chapter
        verify=lambda wc: SHARE if wc.page in KEPT else "0"
    threads: lambda wc: threads(wc.page)
    resources:
        gpu=lambda wc: GPUS * ("load_model" in SOURCE[wc.page].read_text()),
        **{name: (lambda wc, name=name: share(name, wc.page))
           for name in ("cpus_per_task", "mem_mb") if isinstance(ASKED.get(name), int)}
    group: lambda wc: "short" if wc.page in SHORT else None
    shell:
        "OMP_NUM_THREADS={threads} ZU_VERIFY={params.verify} exec python tools/run_chapter.py {input.notebook} {output} "
        "--log {log} --page {wildcards.page} --count {COUNT} --often {params.often} "
        "--parameters {params.values:q} 2>&1"


use rule execute as execute_alone with:
    output: f"build/executed/{{page,{'|'.join(ALONE)}}}.ipynb"
    priority: 3


use rule execute as execute_first with:
    output: f"build/executed/{{page,{'|'.join(FIRST)}}}.ipynb"
    priority: 2


use rule execute as execute_long with:
    output: f"build/executed/{{page,{'|'.join(LONG)}}}.ipynb"
    priority: 1


# The chapters whose records are kept in results/CHAPTER.json; a build runs a sample of them again,
# for VERIFY seconds in all (or "all").
KEPT = [page for page in CHAPTERS if f"results/{page}.json" in SOURCE[page].read_text()]
HELD = [page for page in KEPT if Path(f"results/{page}.json").exists()]
VERIFY = str(config.get("verify", 0))
if VERIFY != "all" and not VERIFY.replace(".", "", 1).isdigit():
    raise WorkflowError(f"VERIFY is '{VERIFY}': give seconds, 0 for none, or all")
SHARE = VERIFY if VERIFY == "all" else f"{float(VERIFY) / max(len(HELD), 1):.0f}"


# `make evidence`: a chapter whose records should be kept. Its notebook is not a page.
use rule execute as evidence with:
    input:
        model=lambda wc: "build/embedded-model" if "smollm2" in SOURCE[wc.page].read_text() else [],
        notebook="build/notebooks/{page}.ipynb",
        module="build/module",
    output: "build/evidence/{page}.ipynb"
    log: "build/logs/evidence-{page}.log"
    params:
        values=lambda wc: inline(
            PARAMETERS.get(wc.page, {}) | {"records": "build/evidence/records"}),
        often=config.get("often", 300),
        verify="0"


# A piece of a grid. Its notebook is not a page. Its records belong to the chapter, which finds them
# all and only shows them.
use rule execute as shard with:
    input:
        model=lambda wc: "build/embedded-model" if "smollm2" in SOURCE[wc.page].read_text() else [],
        notebook="build/notebooks/{page}.ipynb",
        module="build/module",
        first=lambda wc: leader(wc.page, int(wc.number)),
    output: "build/shards/{page}-{number}.ipynb"
    log: "build/logs/{page}-{number}.log"
    params:
        values=lambda wc: inline(PARAMETERS.get(wc.page, {}) | SHARDS[wc.page][int(wc.number)]),
        often=config.get("often", 300),
        verify="0"
    threads: lambda wc: threads("")


ruleorder: execute_alone > execute_first > execute_long > execute


# The pages are rendered from scratch each time, since Sphinx repeats no warning for a page from its
# cache, so that -W would pass. They go into a new folder, so that build/html stays as it was until
# all are there. If Snakemake is killed, this stops as chapters do.
rule html:
    input:
        chapters=expand("build/executed/{page}.ipynb", page=CHAPTERS),
        pages=[str(SOURCE[page]) for page in PAGES if page not in CHAPTERS],
        rest=["_config.yml", "_toc.yml", "references.bib"],
        static=sorted(
            str(p) for room in ("_static", "_ext") for p in Path("book", room).glob("*.*")),
    output: "build/html.files"
    log: "build/logs/html.log"
    shell:
        """
        exec 2>&1; start=$SECONDS; echo "  html ..."
        rm -rf build/site build/pages/new.* || true  # where a killed one still writes for a moment
        mkdir -p build/site build/pages
        new=$(mktemp -d build/pages/new.XXXXXX); render=
        trap '[ -z "$render" ] || {{ kill -9 $render; wait $render; }} 2> /dev/null || true; rm -rf $new' EXIT
        cp -R {input.chapters} {input.pages} {input.rest} book/_static book/_ext build/site/
        jupyter-book build build/site --path-output $new -W -n --keep-going > {log} 2>&1 < /dev/null & render=$!
        while kill -0 $render 2> /dev/null; do
            kill -0 $PPID 2> /dev/null || exit 1
            sleep 0.2
        done
        rendered=$render; render=
        wait $rendered || {{
            echo "  html FAILED; from {log}:"
            grep -E 'WARNING|ERROR|Error' {log} || tail -n 30 {log}
            exit 1
        }}
        # No page may load anything from another host: the book should work offline and report to nobody.
        if grep -rnoE --include=*.html '<(script|link|img|iframe|source|object)[^>]*(src|href|data)="(https?:)?//[^"]*' \
            $new/_build/html || grep -rnoE --include=*.css 'url[(].?(https?:)?//[^)]*' $new/_build/html; then
            echo "  html FAILED: these pages load from another host"
            exit 1
        fi
        python tools/links.py $new/_build/html || {{ echo "  html FAILED: these links lead nowhere"; exit 1; }}
        kill -0 $PPID 2> /dev/null || exit 1
        python tools/put_pages.py $new {output}
        python tools/claims.py build/executed || echo "  which sentences this run contradicts could not be counted"
        echo "  html done in $((SECONDS - start)) s"
        """


# Not part of `book`, since it needs a browser.
rule pdf:
    input: "build/html.files"
    output: "build/book.pdf"
    shell: "echo '  pdf ...'; python tools/pdf.py build/site {output} 2>&1"
