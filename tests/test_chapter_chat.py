"""Chapters that unlearn a user's facts take `chat`, and ask in that way all that they ask."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import papermill
import pytest

import zu
from zu.experiment import read_records

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from parameters import defaults  # noqa: E402

CHAPTERS = ["few_shot", "many_facts", "ablation", "gone", "anchors", "one_by_one", "own_samples",
            "downstream", "representations", "own_facts", "cost", "tracing"]
#: What the parameter's line says, the same on each page.
LINE = ("chat: object = False          # True: ask as a turn of the tokenizer's chat; or a text "
        "with {} for the question")
#: What asks about facts, by the argument, counted from 0, that may be a wording or a reader.
ASKING = {"known": 1, "evaluate": 1, "unlearn": 1, "find_targets": 1, "optimise": 1, "encode": 0,
          "score": 1, "prompt": 0, "indirect_effects": 1, "Reader": 1, "answer_rows": 0,
          "outputs": 1}


def source(page):
    """The code that a chapter runs."""
    cells = jupytext.read(ROOT / "book" / f"{page}.md").cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def plainly(call):
    """Whether a call asks without saying how: neither by `chat` nor by what carries it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ASKING or len(call.args) <= ASKING[name]:
        return False
    given = {word.arg for word in call.keywords}
    if given & {"chat", "reader"}:
        return False
    shared = [ast.unparse(w.value) for w in call.keywords if w.arg is None]
    if {"shared", "plain", "more"} & set(shared):  # settings in which it stands, see below
        return False
    return ast.unparse(call.args[ASKING[name]]) == "tokenizer"


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_of_ones_own_facts_takes_chat_and_asks_everything_so(page):
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    assert text.count(LINE) == 1 and defaults(page)["chat"] is False
    code = source(page)
    assert re.search(r"check_parameters\(globals\(\)\)\ncheck_chat\(chat\)\n", code)
    tree = ast.parse(code)
    # what a measure or a method of one's own is handed as tokenizer says how it asks already
    theirs = {id(call) for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)
              if "tokenizer" in [x.arg for x in part.args.args] for call in ast.walk(part)}
    calls = [x for x in ast.walk(tree) if isinstance(x, ast.Call) and id(x) not in theirs]
    assert [ast.unparse(call) for call in calls if plainly(call)] == []
    for shared in ("shared", "plain"):
        for found in re.findall(rf"^{shared} = dict\((.*)\)", code, re.M):
            assert "chat=chat" in found


@pytest.fixture
def chatting(folders, tmp_path):
    """A folder of a tiny model whose tokenizer has a chat template, one of facts, and of text."""
    model, tokenizer = zu.load_model(folders["qwen3"], device="cpu")
    tokenizer.chat_template = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
                               "{% if add_generation_prompt %}<assistant>{% endif %}")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = "The people of Peru speak a language and the city is in the country. " * 40
    (tmp_path / "text.txt").write_text(text)
    return tmp_path


SMALL = {"ablation": {"n": 2, "neighbors": 1, "texts": 0, "alpha": [150.0], "beta": [5.0],
                      "lam": [], "eps": [], "n_prefixes": [0], "other_layers": [],
                      "seeds": [1], "table4_seeds": [1], "optimised": False},
         "one_by_one": {"methods": ["memit"], "counts": [1, 2], "n_prefixes": 0}}


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", SMALL)
@pytest.mark.parametrize("chat", [True, "Q: {}\nA:"])
def test_a_chapter_run_with_chat_says_so_in_its_records(chatting, page, chat, monkeypatch):
    values = SMALL[page] | {"model": str(chatting / "model"), "chat": chat, "layers": [1, 2],
                            "corpus": str(chatting / "text.txt"), "moment_tokens": 1024,
                            "ppl_corpus": str(chatting / "text.txt"), "ppl_tokens": 256,
                            "records": str(chatting / "records")}
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--output",
                    chatting / f"{page}.ipynb", ROOT / "book" / f"{page}.md"], check=True)
    papermill.execute_notebook(chatting / f"{page}.ipynb", chatting / "out.ipynb", values,
                               kernel_name="python3", progress_bar=False, cwd=str(ROOT))
    records = read_records(chatting / "records")
    assert records and all(record["chat"] == chat for record in records)
