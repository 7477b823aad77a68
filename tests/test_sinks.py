"""A subject that ends where the model takes the text to begin is refused, and no other is."""
import pytest

import zu
from zu import reader, sinks

BEGINS = "{} is a city in the country of"
BEHIND = "The country in which the city of {} lies is"
CITY = zu.Fact("Fort Nelson", BEGINS, "Canada", id="fort")
OTHER = zu.Fact("Barcelona", BEGINS, "Spain", id="barcelona")


@pytest.fixture(scope="module")
def smollm2():
    """The embedded model: a random one has no attention sinks."""
    return zu.load_model("smollm2", device="cpu")


def test_a_subject_that_ends_in_the_sink_is_found_and_the_same_behind_other_words_is_not(smollm2):
    model, tokenizer = smollm2
    wording = zu.wording.Wording(tokenizer)
    behind = zu.Fact("Fort Nelson", BEHIND, "Canada")
    facts = [OTHER, CITY, behind, zu.Fact("France", "{} is", "a")]
    found = sinks.found(model, wording, facts, 17)
    assert list(found) == [1] and found[1] > 20


@pytest.mark.parametrize("method", ["memit", "rome", "zerounlearn"])
def test_it_is_refused_before_targets_are_searched_with_what_to_do(smollm2, method, monkeypatch):
    model, tokenizer = smollm2
    monkeypatch.setattr(zu.targets, "_parts", lambda *given: pytest.fail("a search began"))
    named = r"fact 2 of 2 \(id 'fort'\) .* Put words before"
    with pytest.raises(zu.FactError, match=named) as said:
        zu.unlearn(model, tokenizer, [OTHER, CITY], method, check=False, n_prefixes=0)
    assert "Fort Nelson" not in str(said.value)


@pytest.mark.whole
def test_no_embedded_fact_is_refused(smollm2):
    model, tokenizer = smollm2
    wording = zu.wording.Wording(tokenizer)
    asked = {}  # of facts that are the same tokens up to the subject's end, all that is read, one
    for name in ("world-cloze", "world-qa", "world-hops"):
        for fact in zu.load_facts(name):
            ids, at = reader.encode(wording, fact)
            asked[*ids[:at + 1]] = fact
    assert sinks.found(model, wording, list(asked.values()), 17) == {}
    cloze = zu.load_facts("world-cloze")
    worded = {f.prompt for f in cloze if f.subject in zu.data.world.SINKS}
    assert worded == {BEHIND}
