"""A grid resumes from its records, and a chapter's parameters are checked."""
import functools
import json
import linecache
from pathlib import Path

import pytest
import torch

import zu
from flat_grid import run_grid
from zu import experiment, models, records
from zu.experiment import grids


def cell(**injected):
    """The namespace of a kernel after the parameters cell and papermill's own."""
    namespace = {"In": ["", "n: int = 20"], "__annotations__": {}}
    exec("n: int = 20\nseeds: list[int] = [1, 2]\nname: str = 'x'", namespace)
    if injected:
        source = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in injected.items())
        namespace["In"].append(source)
        exec(source, namespace)
    return namespace


def test_parameters_of_the_declared_types_pass():
    assert experiment.check_parameters(cell(n=30)) == {"n": 30, "seeds": [1, 2], "name": "x"}
    assert experiment.check_parameters(cell()) == {"n": 20, "seeds": [1, 2], "name": "x"}


@pytest.mark.parametrize("wrong, message", [
    ({"sedes": [1]}, "'sedes' is unknown: did you mean 'seeds'"),
    ({"n": "30"}, "'n' is '30', of the wrong type"),
    ({"seeds": 3}, "'seeds'.*list"), ({"n": 2.5}, "'n'"),
])
def test_unknown_and_ill_typed_parameters_end_with_a_clear_error(wrong, message):
    with pytest.raises(experiment.ParameterError, match=message):
        experiment.check_parameters(cell(**wrong))


def test_a_label_holds_a_method_and_its_settings():
    assert experiment.parse_method("zerounlearn:V_f=optimised,beta=10") == (
        "zerounlearn", {"V_f": "optimised", "beta": 10}, False)
    assert experiment.parse_method("memit+anchors:anchor=2") == ("memit", {"anchor": 2}, True)
    assert experiment.parse_method("base") == ("base", {}, False)


@pytest.fixture
def grid(tiny, facts, cache, texts, tmp_path, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr("zu.data.world.prose", lambda part: texts, raising=False)
    arguments = dict(methods=["base", "memit", "zerounlearn:steps=3"], seeds=[1, 2], n=2,
                     layers=(1, 2), records=tmp_path / "records", moment_tokens=512,
                     ppl_tokens=400)
    return model, tokenizer, facts, arguments


def test_a_grid_writes_one_record_each_and_does_not_repeat_them(grid, monkeypatch):
    model, tokenizer, facts, arguments = grid
    first = run_grid(model, tokenizer, facts, **arguments)
    files = sorted(arguments["records"].rglob("*.json"))
    assert (len(first) == len(files) == 6
            and experiment.read_records(arguments["records"])[0]["format"])
    assert ({r["method"] for r in first} == set(arguments["methods"])
            and all(r["metrics"]["ppl"] > 1 for r in first))
    monkeypatch.setattr(grids, "unlearn", lambda *a, **k: pytest.fail("computed again"))
    monkeypatch.setattr(grids, "evaluate", lambda *a, **k: pytest.fail("computed again"))
    assert run_grid(model, tokenizer, facts, **arguments) == first


def test_a_lost_or_damaged_record_is_made_again_with_the_same_numbers(grid):
    model, tokenizer, facts, arguments = grid
    first = run_grid(model, tokenizer, facts, **arguments)
    files = sorted(arguments["records"].rglob("*.json"))
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    files[2].write_text(files[2].read_text()[:50])
    again = run_grid(model, tokenizer, facts, **arguments)
    assert [r["metrics"] for r in again] == [r["metrics"] for r in first]
    assert files[0].stat().st_mtime_ns == kept and experiment.read_record(files[2]) is not None


def test_a_record_of_other_settings_or_other_code_is_made_again(grid, monkeypatch):
    model, tokenizer, facts, arguments = grid
    first = run_grid(model, tokenizer, facts, **arguments)
    other = run_grid(model, tokenizer, facts, **arguments | {"ppl_tokens": 550})
    assert all(a["fingerprint"] != b["fingerprint"] for a, b in zip(first, other, strict=True))
    monkeypatch.setattr(grids, "code_hash", lambda: "changed")
    changed = run_grid(model, tokenizer, facts, **arguments)
    assert all(a["fingerprint"] != b["fingerprint"] for a, b in zip(first, changed, strict=True))


def test_records_hold_no_text_of_the_facts(grid):
    model, tokenizer, facts, arguments = grid
    run_grid(model, tokenizer, facts, **arguments)
    paths = list(arguments["records"].rglob("*.json"))
    assert len(paths) == 6
    for path in paths:
        text = path.read_text()
        json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
        for fact in facts:
            for secret in (fact.subject, fact.target, fact.prompt):
                assert secret not in text and json.dumps(secret)[1:-1] not in text


def test_a_wrong_method_is_refused_before_anything_runs(grid):
    model, tokenizer, facts, arguments = grid
    with pytest.raises(ValueError, match="nonsense"):
        run_grid(model, tokenizer, facts, **arguments | {"methods": ["base", "nonsense"]})
    assert not arguments["records"].exists()
    assert zu.METHODS


def spare_some(facts):
    """Anchors of a grid: as many of the other subjects as the draw's seed says."""
    return lambda forget, seed: [
        f for f in facts if f.subject not in {g.subject for g in forget}][:seed]


def test_only_rows_whose_label_says_so_are_given_anchors(grid, monkeypatch):
    model, tokenizer, facts, arguments = grid
    seen, real = [], grids.unlearn

    def watched(*args, **given):
        seen.append((args[3], len(given.get("anchors", ()))))
        return real(*args, **given)

    monkeypatch.setattr(grids, "unlearn", watched)
    labels = ["base", "ga", "memit", "memit+anchors", "zerounlearn", "anchored+anchors:weight=0.5"]
    arguments |= {"methods": labels, "experiment": "spared"}
    rows = run_grid(model, tokenizer, facts, anchors=spare_some(facts), **arguments)
    names = ["ga", "memit", "memit", "zerounlearn", "anchored"]
    assert seen == [*zip(names, [0, 0, 1, 0, 1]), *zip(names, [0, 0, 2, 0, 2])]
    assert {(r["method"], r["seed"], r.get("anchors")) for r in rows} == {
        (label, seed, seed if "+anchors" in label else None) for label in labels for seed in (1, 2)}
    plain = [label for label in labels if "+" not in label]
    alone = run_grid(model, tokenizer, facts,
                     **arguments | {"methods": plain, "experiment": "alone"})
    told = {(r["method"], r["seed"]): r["metrics"]["ppl"] for r in rows}
    assert all(r["metrics"]["ppl"] == told[r["method"], r["seed"]] for r in alone)
    assert all(told["memit", seed] != told["memit+anchors", seed] for seed in (1, 2))


@pytest.mark.parametrize("label, given, message", [
    ("ga+anchors", True, "'ga.anchors': ga takes no anchors"),
    ("memit+anchors", False, "asks for anchors, and none are given"),
    ("memit:anchor=2", True,
     r"weighs anchors that it is not given: write 'memit\+anchors:anchor=2'"),
    ("anchored:anchor=0", True, "weighs anchors"), ("memit+anchor", True, r"'\+anchor' is unknown"),
    ("base+anchors", True, "base is the unedited model"),
    ("base:beta=1", True, "base is the unedited model"),
])
def test_a_label_that_does_not_say_what_would_run_is_refused_before_anything_runs(
        grid, label, given, message):
    model, tokenizer, facts, arguments = grid
    with pytest.raises(ValueError, match=message):
        run_grid(model, tokenizer, facts, anchors=spare_some(facts) if given else None,
                            **arguments | {"methods": ["base", label]})
    assert not arguments["records"].exists()


def test_what_a_method_of_ones_own_gave_its_edits_stands_in_its_record(grid):
    model, tokenizer, facts, arguments = grid

    def told(model, tokenizer, forget):
        return zu.unlearn(model, tokenizer, forget, "memit", layers=[1, 2],
                          anchors=spare_some(facts)(forget, 2), n_prefixes=0, steps=2)

    rows = run_grid(model, tokenizer, facts, own={"told": told},
                    **arguments | {"methods": ["told"]})
    assert {r["anchors"] for r in rows} == {2}


def kept_records():
    """The records that the book shows from elsewhere, each with its file's name."""
    alone = [(str(path), record) for path in sorted(Path("results").rglob("*.json"))
             if (record := experiment.read_record(path)) and "method" in record]
    packed = [(f"results/{name}.json", record) for name in ("few_shot",)
              for record in experiment.Kept.read(f"results/{name}.json").runs.values()]
    return alone + packed


def test_the_label_of_every_kept_record_says_what_it_was_given():
    kept, wrong = kept_records(), []
    assert len(kept) > 400
    for name, record in kept:
        label, _, own = record["method"].partition(", ")
        row = experiment.parse_method(label)
        known = row.method in {*zu.METHODS, "base"}
        if (known and row.anchors != bool(record.get("anchors"))
                or not own and row.settings != record["settings"]):
            wrong.append(name)
        if known and row.method != "base":
            experiment.check_row(label, anchors=True)
    assert not wrong


@pytest.mark.parametrize("layer", [0, 2])  # below the layers of the grid, and among them
def test_a_grid_runs_an_edit_of_the_users_own_beside_the_methods(grid, layer):
    model, tokenizer, facts, arguments = grid
    name = zu.models.weight_name(model, layer)
    before = model.get_parameter(name).clone()

    def zeroed(model, tokenizer, forget):
        edit = zu.Edit(model, method="zeroed", facts=len(forget))
        edit.set(name, 0 * model.get_parameter(name).double())
        return edit

    arguments |= {"methods": ["base", "zeroed"], "own": {"zeroed": zeroed}}
    rows = run_grid(model, tokenizer, facts, **arguments)
    told = run_grid(model, tokenizer, facts, **arguments | {"prefixes": [""]})
    # its own affair
    assert {(r["method"], r.get("n_prefixes")) for r in told} == {("base", 0), ("zeroed", None)}
    ppl = {(r["method"], r["seed"]): r["metrics"]["ppl"] for r in rows}
    assert all(ppl["zeroed", seed] != ppl["base", seed] for seed in (1, 2))
    with zeroed(model, tokenizer, facts):
        assert zu.perplexity(model, tokenizer, tokens=400) == ppl["zeroed", 2]
    assert (model.get_parameter(name) == before).all()
    with pytest.raises(ValueError, match="unseen"):
        run_grid(model, tokenizer, facts, **arguments | {"methods": ["unseen"]})


def test_fewer_neighbours_are_the_same_ones_each_time_and_nothing_else_changes():
    facts = zu.load_facts("world-cloze")[:40]
    facts = zu.Facts(facts, "some", "tokens")
    two = experiment.fewer(facts, 2)
    assert ((two.name, two.rule) == ("some", "tokens")
            and two.hash == experiment.fewer(facts, 2).hash != facts.hash)
    for old, new in zip(facts, two, strict=True):
        assert (len(new.neighbors) == min(2, len(old.neighbors))
                and set(new.neighbors) <= set(old.neighbors))
        assert ((new.text, new.target, new.paraphrases, new.id)
                == (old.text, old.target, old.paraphrases, old.id))
    assert max(len(f.neighbors) for f in facts) > 2
    assert experiment.fewer(facts, 0) is facts and experiment.fewer(facts, 99).hash == facts.hash


def test_a_grid_writes_its_prefixes_once_and_they_are_those_of_unlearn(grid, monkeypatch):
    model, tokenizer, facts, arguments = grid
    seen, write = [], zu.reader.write
    monkeypatch.setattr(zu.reader, "write", lambda *a, **k: seen.append(1) or write(*a, **k))
    given, located = [], zu.methods.Memit.make
    monkeypatch.setattr(zu.methods.Located, "make",
                        lambda s, job, edit: given.append(job.prefixes) or located(s, job, edit))
    run_grid(model, tokenizer, facts, **arguments)
    written = len(seen)
    assert len(given) == 4 and all(texts == given[0] for texts in given) and len(given[0]) == 6
    assert given[0] == zu.reader.prefixes(model, tokenizer, seed=0) and len(seen) == written > 0
    monkeypatch.setenv("ZU_CACHE", str(arguments["records"] / "another"))
    assert zu.reader.prefixes(model, tokenizer, seed=0) == given[0] and len(seen) == 2 * written


def test_a_grid_takes_other_prefixes_and_its_records_say_how_many(grid, monkeypatch):
    model, tokenizer, facts, arguments = grid
    given, located = [], zu.methods.Memit.make
    monkeypatch.setattr(zu.methods.Located, "make",
                        lambda s, job, edit: given.append(job.prefixes) or located(s, job, edit))
    plain = run_grid(model, tokenizer, facts, **arguments)
    fewer = run_grid(model, tokenizer, facts, prefixes=("", "Listen. "), **arguments)
    assert given[len(given) // 2:] == [("", "Listen. ")] * 4
    assert all("n_prefixes" not in r for r in plain) and {r["n_prefixes"] for r in fewer} == {1}
    assert not {r["fingerprint"] for r in plain} & {r["fingerprint"] for r in fewer}
    kept = [path.read_text() for path in arguments["records"].rglob("*.json")]
    assert len(kept) == 6 and not any("Listen" in text for text in kept)


def test_what_a_measure_returns_stands_in_place_of_the_scores_or_beside_them(grid):
    model, tokenizer, facts, arguments = grid
    arguments |= {"methods": ["base"], "seeds": [1], "measure": lambda *_: {"mine": 1}}
    assert run_grid(model, tokenizer, facts, **arguments)[0]["metrics"] == {"mine": 1}
    arguments["measure"] = experiment.Measure(lambda *_: {"mine": 1}, beside=True)
    both = run_grid(model, tokenizer, facts, **arguments)[0]["metrics"]
    assert both["mine"] == 1 and {"eff", "gen", "spe", "ppl"} < set(both)


def test_what_runs_share_is_read_anew_where_the_model_has_changed(grid):
    model, tokenizer, facts, arguments = grid
    texts = experiment.Texts(moment_tokens=512, ppl_tokens=400)
    mine = experiment.Grid(zu.Reader(model, tokenizer), arguments["records"] / "x", (1, 2), texts)
    first = mine.run(facts, ["base"], seeds=[1], n=2)[0]["metrics"]["ppl"]
    with torch.no_grad():
        models.down_proj(model, 0).weight.mul_(2)
    again = mine.run(facts, ["base"], seeds=[1], n=2)[0]["metrics"]["ppl"]
    assert again != first and again == zu.perplexity(model, tokenizer, tokens=400)


def fingerprints(grid, **changed):
    """Of the records of a grid with one row."""
    model, tokenizer, facts, arguments = grid
    facts = changed.pop("facts", facts)
    given = arguments | {"methods": ["base"], "seeds": [1]} | changed
    return [record["fingerprint"] for record in run_grid(model, tokenizer, facts, **given)]


def test_the_rule_and_the_contents_of_a_text_decide(grid, tmp_path):
    facts = grid[2]
    loose = zu.Facts(facts, facts.name, "tokens")
    assert fingerprints(grid) != fingerprints(grid, facts=loose)
    text = tmp_path / "text.txt"
    text.write_text("The people of Peru speak. " * 100)
    first = fingerprints(grid, ppl_corpus=str(text))
    assert first == fingerprints(grid, ppl_corpus=str(text))
    text.write_text("You and I is a city in Chad. " * 100)
    assert first != fingerprints(grid, ppl_corpus=str(text))


def test_the_tokenizer_decides(grid):
    first = fingerprints(grid)
    grid[1].eos_token = "<|begin|>"
    assert first != fingerprints(grid)


def counting(number):
    """A measure that depends on what surrounds it."""
    def measure(model, tokenizer, facts, edit):
        return {"number": number}

    return measure


def listing(entries):
    def measure(model, tokenizer, facts, edit):
        entries.append(1)
        return {"number": 1}

    return measure


def partly(number, model, tokenizer, facts, edit):
    return {"number": number}


def test_what_a_measure_refers_to_decides_and_what_it_fills_does_not(grid):
    assert fingerprints(grid, measure=counting(1)) == fingerprints(grid, measure=counting(1))
    assert fingerprints(grid, measure=counting(1)) != fingerprints(grid, measure=counting(2))
    one, two = (functools.partial(partly, number) for number in (1, 2))
    assert fingerprints(grid, measure=one) != fingerprints(grid, measure=two)
    entries = []
    first = fingerprints(grid, measure=listing(entries))
    assert first == fingerprints(grid, measure=listing(entries)) and entries == [1]


def test_a_chapters_parameters_and_helpers_decide_for_its_functions():
    def chapter(steps, factor):
        source = f"""
steps: list[int] = {steps}
counts = []
def helper():
    return {factor}
def measure():
    return [helper() * step for step in steps], counts
"""
        room = {}
        file = f"chapter-{steps}-{factor}"
        linecache.cache[file] = len(source), None, source.splitlines(True), file
        exec(compile(source, file, "exec"), room)
        return records.decisive(room["measure"])

    assert chapter([1], 2) == chapter([1], 2)
    assert chapter([1], 2) != chapter([2], 2) and chapter([1], 2) != chapter([1], 3)


def test_rows_whose_labels_look_alike_have_records_of_their_own(grid):
    model, tokenizer, facts, arguments = grid
    labels = ["memit:alpha=1e-3", "memit:alpha=1e+3"]
    run_grid(model, tokenizer, facts, **arguments | {"methods": labels, "seeds": [1]})
    assert len(list(arguments["records"].rglob("*.json"))) == 2


def test_a_row_may_have_layers_of_its_own(grid):
    model, tokenizer, facts, arguments = grid
    labels = ["memit", "memit:layers=[3]", "ga:steps=2,layers=[0.8]"]
    records = run_grid(model, tokenizer, facts, **arguments | {"methods": labels, "seeds": [1]})
    assert [record["layers"] for record in records] == [[1, 2], [3], [4]]
    alone = run_grid(model, tokenizer, facts, **arguments | {
        "methods": ["memit"], "seeds": [1], "layers": (3,), "records": arguments["records"] / "3"})
    assert records[1]["metrics"] == alone[0]["metrics"] != records[0]["metrics"]
