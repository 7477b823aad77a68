"""Small files in the schemas of the published data sets, with invented rows, for tests to read.

Each row is written here; none is copied. What is odd about the published files (a space before an
answer, a line end within a prompt, two rows that contradict each other) is odd about these too:
`ODDITIES` lists it, and a test holds both against that list.

The published files are read where ZU_SAMPLES names the folder that holds them.
"""
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

REAL = os.environ.get("ZU_SAMPLES")
#: The files of facts, and those of the downstream tasks.
FACTS = ("counterfact_edit", "zsre_mend", "mquake_hard", "known_facts")
TASKS = ("cola", "mmlu", "mrpc", "nli", "rte", "sst2")


def both(*names: str) -> list:
    """Parameters for the fixture `sample`: each file as it is written here, then as published.

    Where the published files are absent, one parameter that is skipped stands for all of them.
    """
    written = [pytest.param(("written", name), id=f"written-{name}") for name in names]
    if REAL:
        return written + [pytest.param(("real", name), id=f"real-{name}") for name in names]
    absent = pytest.mark.skip(reason="ZU_SAMPLES names no folder with the published data sets: "
                                     f"{len(names)} files are not tried")
    return [*written, pytest.param(None, id="real", marks=absent)]


def write(folder: Path) -> None:
    """Write every file into a folder, as the publishers do: a JSON list, not in ASCII alone."""
    for name, rows in ROWS.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def schema(value: object, at: str = "") -> set[tuple[str, str]]:
    """The paths at which a file's rows hold something, each with the type that stands there."""
    found = {(at, type(value).__name__)}
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= schema(inner, f"{at}.{key}")
    if isinstance(value, list):
        for inner in value:
            found |= schema(inner, f"{at}[]")
    return found


def texts(value: object) -> list[str]:
    """Every text that stands anywhere in a row, or in the rows of a file."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in texts(one)]
    return [value] if isinstance(value, str) else []


def table(fields: str, *rows: tuple) -> list[dict]:
    """Rows as dictionaries, from a header and the values under it."""
    return [dict(zip(fields.split(), row, strict=True)) for row in rows]


# CounterFact, flat: one paraphrase and one neighbour, which has the same true answer.
COUNTERFACT = table(
    "case_id prompt target_new subject ground_truth rephrase_prompt locality_prompt "
    "locality_ground_truth",
    (2, "The river Loire flows through", "Japan", "Loire", "France",
     "A barge was built there. The Loire is a river of", "The river Rhône flows through", "France"),
    (3, "Jan Nováček is a citizen of", "Chile", "Jan Nováček", "Poland",
     "Career\nHe rowed for six years. Jan Nováček holds a passport of",
     "Ewa Zielińska is a citizen of", "Poland"),
    (5, "What does Ida Brandt teach? She teaches", "law", "Ida Brandt", "chemistry",
     "The hall seats 240  people. Every morning Ida Brandt gives lessons in",
     "What does Olaf Lund teach? He teaches", "chemistry"),
    (8, "Model\u00a04 was built by", "Sony", "Model\u00a04", "IBM",
     "pp.\u00a018 and 19. Model\u00a04 is a product of", "Model\u00a06, built by", "IBM"),
    (9, 'Maria "Mo" Keller plays', "tennis", 'Maria "Mo" Keller', "football",
     'The single "Rain" came out in May. Maria "Mo" Keller is a professional in',
     "Tom Ashby plays", "football"),
    (13, "And Then... was written in", "Dutch", "And Then...", "English",
     "It sold well. The language of And Then... is", "The Long Road was written in", "English"),
    (14, "The twin city of Lisbon is", "Oslo", "Lisbon", "Madrid",
     "The port was dredged. Lisbon is twinned with", "What is the twin city of Berlin? It is",
     "Madrid"),
    (20, "Lisbon is a city in", "Kenya", "Lisbon", "Portugal",
     "The trams are yellow. Lisbon belongs to", "Porto is a city in", "Portugal"),
    (21, "The twin city of Lisbon is", "Cairo", "Lisbon", "Paris",
     "A bridge was closed. Lisbon is twinned with", "The twin city of Rome is", "Paris"),
    (23, "The top of Mount Fuji is a place in", "Peru", "Mount Fuji", "Japan",
     "Snow fell in 1987. You can climb Mount Fuji in", "The shore of Lake Biwa is a place in",
     "Japan"),
    (30, "The capital city that governs all of Egypt is", "Lima", "Egypt", "Cairo",
     "Harvests were good. The seat of government in Egypt is", "The largest city on the Nile is",
     "Cairo"),
    (31, "Apollo 11 landed on the", "Sun", "Apollo 11", "Moon",
     "The film is silent. The crew of Apollo 11 walked on the", "Apollo 12 landed on the", "Moon"),
)

# CounterFact as MEMIT publishes it: two paraphrases after a sentence or two of other text, prompts
# about subjects with the same true answer, prompts with the new one, and texts to go on with.
MULTI_COUNTERFACT = [
    {
        "case_id": number,
        "pararel_idx": 1000 + 7 * number,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "target_new": {"str": new, "id": f"Q{50 + number}"},
            "target_true": {"str": true, "id": f"Q{90 + number}"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"{before} {subject} {asked}" for before, asked in paraphrases],
        "neighborhood_prompts": [prompt.replace("{}", near) for near in same],
        "attribute_prompts": [prompt.replace("{}", near) for near in other],
        # the same prompt several times: each is gone on with anew
        "generation_prompts": [f"{subject} is", f"Where is {subject}?", f"{subject} is"],
    }
    for number, prompt, relation, subject, true, new, paraphrases, same, other in (
        (0, "{} is located in the country of", "P17", "Lake Biwa", "Japan", "Peru",
         [("The ferry is white. ", "belongs to"), ("A\nHe swam. In the east,", "lies in")],
         ["Mount Fuji", "Nara Park", "Osaka Castle"], ["Cusco", "Lake Titicaca"]),
        (1, "The language of {} is", "P37", "São Tomé", "Portuguese", "Finnish",
         [("Rain fell.", "is a place where people speak"), ("In 1975", "kept as its language")],
         ["Lisbon", "Porto", "Coimbra"], ["Turku", "Espoo"]),
        (2, "{} plays the sport of", "P641", 'Ann "Ace" Ray', "tennis", "chess",
         [("Her sister sings.", "is a professional in"), ("It was 1998.", "won at")],
         ["Bob Hale", "Eva Lind"], ["Max Orr", "Ida Roe"]),
        (3, "What is the capital of {}? It is", "P36", "Norway", "Oslo", "Quito",
         [("The winter was long.", "is governed from the city of"), ("Ski!", "has its capital in")],
         ["the country of the fjords"], ["the country on the equator"]),
        (5, "{} was written in", "P364", "And Then...", "English", "Dutch",
         [("It sold well.", "is a book in the language"), ("On page 9,", "stays with words in")],
         ["The Long Road", "Blue Lamp"], ["Het Water", "De Brug"]),
        (6, "{} stands on the continent of", "P30", "Mount Kenya", "Africa", "Asia",
         [("The hut was full.", "is one of the peaks of"), ("B\nIt is cold.", "rises in")],
         ["Mount Meru", "Table Mountain"], ["Mount Fuji", "Mount Everest"]),
        (8, "{} was built by", "P176", "Model 44", "IBM", "Sony",
         [("The lid is blue.", "is a product of"), ("It was heavy.", "came from the works of")],
         ["Model 45", "Model 6"], ["Walkman 2", "Walkman 4"]),
        (9, "{} died in the city of", "P20", "Bo Kim", "Kyoto", "Rome",
         [("His songs are known.", "spent the last day of his life in"), ("A, B.", "expired at")],
         ["Ai Mori", "Ken Sato", "Yui Abe"], ["Ugo Bassi", "Ada Conti"]),
    )
]

# zsRE as MEND publishes it: questions; an unrelated one without its question mark.
ZSRE = [
    {
        "subject": subject,
        "src": src,
        "pred": pred,
        "rephrase": rephrase,
        "alt": alt,
        "answers": answers,
        "loc": f"nq question: {loc}",
        "loc_ans": loc_ans,
        "cond": f"{pred} >> {alt} || {src}",
    }
    for subject, src, pred, rephrase, alt, answers, loc, loc_ans in (
        ("Loire", "Which country does the Loire flow through?", "Spain",
         "In what country is the Loire?", "Japan", ["France"],
         "who wrote the play about the prince of denmark", "Shakespeare"),
        ("Jan Nováček", "What kind of  work does Jan Nováček do?", "sailor",
         "What is Jan Nováček's work?", " painter", ["rower", "coach", "writer"],
         "when did the second world war end", "1945"),
        ("Asteroid 4410", "When was Asteroid 4410 found?", "1991",
         "In which year was Asteroid 4410 found.", "1986", ["1989"],
         "what does the signal of three dots and three lines mean", '"Save us" and "Help"'),
        ("Who Is There?", "Who is the author of Who Is There??", "Ann Lee",
         "Which writer wrote Who Is There??", "Bo Kim", ["Ann Lee"],
         "what is the company’s full name", "Blue Lamp Pvt Ltd."),
        ("SS Alma", "What was the home port of SS Alma (1902)?", "Bergen",
         "Which port was SS Alma (1902) at home in?", "Cádiz", ["Bergen", "Oslo"],
         "which river flows through cairo", "the Nile"),
        ("Museum Linden", "When was Museum Linden opened?", "1925",
         "What is the year in which Museum Linden opened?", "1801", ["1923"],
         "how many legs does a spider have", "eight"),
        ("Museum Linden", "What was the first year of Museum Linden?", "1923",
         "In which year did Museum Linden begin?", "1811", ["1923"],
         "how many legs does a spider have", "eight"),
        ("Mount Fuji", "Which country is Mount Fuji located in?", "Japan",
         "In what country does Mount Fuji stand?", "Peru", ["Japan"],
         "what is the largest planet", "Jupiter"),
        ("Zoë Ångström", "Which language does Zoë Ångström speak?", "Swedish",
         "What language is spoken by Zoë Ångström?", "Işık", ["Swedish"],
         "who sang the song about yesterday", "Anaïs Roux"),
        ("Egypt", "What is the name of the capital of Egypt?", "Cairo",
         "What is Egypt's capital called?", "Lima", ["Cairo"],
         "what colour is the sky on a clear day", "blue"),
    )
]

# MQuAKE: how a relation is asked for, as a cloze and as a question, and its name.
RELATIONS = {
    "P175": ("{} was sung by", "Who sang {}?", "performer"),
    "P50": ("The writer of {} is", "Who is the writer of {}?", "author"),
    "P27": ("{} holds a passport of", "Which passport does {} hold?", "country of citizenship"),
    "P36": ("The government of {} sits in", "Where does the government of {} sit?", "capital"),
    "P30": ("{} is a country on the continent of", "Which continent is {} on?", "continent"),
    "P37": ("The language spoken in {} is", "Which language is spoken in {}?", "official language"),
}
#: Other names of an answer. Some have none.
ALIASES = {
    "France": ["FR", "French Republic", "🇫🇷"],
    "Japan": ["Nippon", "Nihon  (Japan)"],
    "Tokyo": ["Tôkyô", "TOKYO METROPOLIS,  (Honshu)"],
    "Washington, D.C.": ["D.C.", "Washington"],
    "Ann Lee": ['Ann "Annie" Lee'],
    "United States": ["U.S.A.", "U. S.", "US"],
}


def entity(name: str) -> str:
    """A number for a name, as Wikidata gives one: the same for the same name."""
    return f"Q{1000 + sum(i * ord(c) for i, c in enumerate(name, 1))}"


def step(subject: str, relation: str, answer: str) -> dict:
    """One hop of a chain, as a question and as a cloze."""
    cloze, question, _ = RELATIONS[relation]
    return {"question": question.format(subject), "cloze": cloze.format(subject),
            "answer": answer, "answer_alias": ALIASES.get(answer, [])}


def rewrite(subject: str, relation: str, true: str, new: str) -> dict:
    """One edited hop."""
    cloze, question, _ = RELATIONS[relation]
    return {"prompt": cloze, "relation_id": relation,
            "target_new": {"str": new, "id": entity(new)},
            "target_true": {"str": true, "id": entity(true)},
            "subject": subject, "question": question.format(subject)}


def numbered(triples: list[tuple]) -> list[list[str]]:
    """Triples with numbers for the names."""
    return [[entity(subject), relation, entity(answer)] for subject, relation, answer in triples]


def labelled(triples: list[tuple]) -> list[list[str]]:
    """Triples with a name for the relation."""
    return [[subject, RELATIONS[relation][2], answer] for subject, relation, answer in triples]


def chain(number: int, questions: list[str], true: list[tuple], edited: list[tuple]) -> dict:
    """A case: the chain to the true answer, and edits (true hop, new answer) of the other chain.

    A hop of the other chain that is not edited is that of the true one.
    """
    new = [(*hop[:2], answer) for hop, answer in edited]
    path = new + true[len(new):]
    return {
        "case_id": number,
        "requested_rewrite": [rewrite(*hop, answer) for hop, answer in edited],
        "questions": questions,
        "answer": true[-1][2],
        "answer_alias": ALIASES.get(true[-1][2], []),
        "new_answer": path[-1][2],
        "new_answer_alias": ALIASES.get(path[-1][2], []),
        "single_hops": [step(*hop) for hop in true],
        "new_single_hops": [step(*hop) for hop in path],
        "orig": {
            "triples": numbered(true), "triples_labeled": labelled(true),
            "new_triples": numbered(path), "new_triples_labeled": labelled(path),
            "edit_triples": numbered(new), "edit_triples_idx": list(range(len(new))),
        },
    }


LANTERNS = ("Lanterns", "P175", "Ann Lee")
LEE = ("Ann Lee", "P27", "United States")
KIM = ("Bo Kim", "P27", "Japan")
ROUX = ("Zoë Roux", "P27", "France")
TOKYO = ("Japan", "P36", "Tokyo")
PARIS = ("France", "P36", "Paris")
WASHINGTON = ("United States", "P36", "Washington, D.C.")

MQUAKE = [
    # both hops edited: the second is one of the other chain, not on the way to the true answer
    chain(12, ['Where does the government sit whose passport the singer of "Lanterns" holds?',
               'In which city is the government of the singer of "Lanterns"? ', "And where?"],
          [LANTERNS, LEE, WASHINGTON], [(LANTERNS, "Bo Kim"), (KIM, "France"), (PARIS, "Rome")]),
    # the other chain comes back to the country of the true one: its last hop is on the way
    chain(15, ['What is the seat of government for the singer of "Lanterns"? ',
               "Which city is it?", "Where is it?"],
          [LANTERNS, LEE, WASHINGTON],
          [(LANTERNS, "Zoë Roux"), (ROUX, "United States"), (WASHINGTON, "Tokyo")]),
    # the same first hop as in the two before: its fact is asked through three chains
    chain(16, ['Which language is spoken where the singer of "Lanterns" is at home?',
               "Which tongue is it?", "What do they speak?"],
          [LANTERNS, LEE, ("United States", "P37", "English")],
          [(LANTERNS, "Bo Kim"), (KIM, "Brazil"), (("Brazil", "P37", "Portuguese"), "Finnish")]),
    # and once more, which is one too many
    chain(18, ['On which continent does the singer of "Lanterns" pay taxes?', "Which?", "Where?"],
          [LANTERNS, LEE, ("United States", "P30", "North America")],
          [(LANTERNS, "Zoë Roux"), (ROUX, "Egypt"), (("Egypt", "P30", "Africa"), "Asia")]),
    # two hops, of which one is edited
    chain(21, ["Which passport does the writer of Old Snow 2 hold?", "Of where?", "Which one?"],
          [("Old Snow 2", "P50", "Bo Kim"), KIM], [(("Old Snow 2", "P50", "Bo Kim"), "Ann Lee")]),
    chain(22, ["Where does the government of Bo Kim's country sit?", "Which city?", "Where?"],
          [KIM, TOKYO], [(KIM, "France"), (PARIS, "Rome")]),
    # four hops, all edited
    chain(30, ["Which language is spoken in the country that governs the singer of the song by"
               " the writer of Été?", "Which one?", "What is spoken?"],
          [("Été", "P50", "Zoë Roux"), ROUX, PARIS, ("Paris", "P37", "French")],
          [(("Été", "P50", "Zoë Roux"), "Ann Lee"), (LEE, "Japan"), (TOKYO, "Nara"),
           (("Nara", "P37", "Japanese"), "Dutch")]),
    chain(31, ["On which continent is the country of Zoë Roux?", "Which continent?", "Which?"],
          [ROUX, ("France", "P30", "Europe")],
          [(ROUX, "Brazil"), (("Brazil", "P30", "South America"), "Asia")]),
]

# ROME's known facts. A prompt goes on from its template with what GPT-2 says, up to the attribute.
KNOWN = table(
    "known_id subject attribute template prediction prompt relation_id",
    (0, "Mount Fuji", "Japan", "{} stands in the country of", " Japan. It was climbed first by a",
     "Mount Fuji stands in the country of", "P17"),
    (1, "Loire", "France", "The {} flows through", " the middle of France.\n\nIts source is",
     "The Loire flows through the middle of", "P17"),
    (2, "Egypt", "Cairo", "The seat of government in {} is", " Cairo.<|endoftext|>",
     "The seat of government in Egypt is", "P36"),
    (4, "Blue Lamp", "Ann Lee", "{}'s owner,", ", a singer named Ann Lee, has",
     "Blue Lamp's owner, a singer named", "P127"),
    (5, "Model 44", "IBM", "{} was built by", ' the firm that is called "IBM" and',
     "Model 44 was built by the firm that is called", "P176"),
    (6, "Café de l'Été", "French", "The menu of {} is written in", " French™, and in 2 more",
     "The menu of Café de l'Été is written in", "P407"),
    (7, 'Ann "Ace" Ray', "tennis", "{} plays", " tennis for a living, and has",
     'Ann "Ace" Ray plays', "P641"),
    (9, "Port Vale F.C.", "football", "{} is a club that plays", " football. Its ground",
     "Port Vale F.C. is a club that plays", "P641"),
    (10, "Norway", "Oslo", "People who govern {} work in", " Oslo, where the parliament",
     "People who govern Norway work in", "P36"),
    (12, "Apollo 11", "Moon", "{} landed on the", " Moon in July 1969. The",
     "Apollo 11 landed on the", "P1158"),
)

# The downstream tasks, as GLUE and MMLU publish them. GLUE's sentences are split into tokens, and
# SST-2's end with a space.
SST2 = table(
    "sentence label idx",
    ("a warm , funny film that never loses its way . ", 1, 40),
    ("the plot is thin and the jokes are n't funny . ", 0, 7),
    ("` quiet ' is the word for this lovely picture ", 1, 311),
    ("it 's too long by an hour , and too loud . ", 0, 52),
)
COLA = table(
    "sentence label idx",
    ("The boat that we built has sunk.", 1, 9),
    ("The boat that has sunk we built it.", 0, 510),
    ("Ann's refusal of an answer.", 1, 33),
    ("Him saw the house yesterday.", 0, 71),
)
MRPC = table(
    "sentence1 sentence2 label idx",
    ("The firm , based in Oslo , sold $ 2 million of its shares .",
     "Shares of $ 2 million were sold by the Oslo firm .", 1, 100),
    ("The storm closed two roads on Monday .", "The roads were built in 1950 .", 0, 12),
    ("Ann 's lawyer said : “ It ’ s over . ”", "It is over , said the lawyer of Ann .", 1, 77),
    ("Rain is expected – and wind .", "`` Rain , '' he said , is what he likes .", 0, 5),
)
RTE = table(
    "sentence1 sentence2 label idx",
    ("The bridge was opened in 1932.  It crosses the bay.", "The bridge crosses the bay.", 0, 8),
    ("Zoë Roux sings in a choir of forty.", "Zoë Roux leads a choir.", 1, 90),
    ("The museum, which is free, is closed on Mondays.", "The museum is free.", 0, 15),
    ("Bo Kim sold his house for £200,000.", "Bo Kim bought a house.", 1, 61),
)
NLI = table(
    "index sentence1 sentence2 label",
    ("40", "Two ferries a day sail to the island.    - The Gazette", "A ferry sails there.",
     "entailment"),
    ("39", "The mayor of Córdoba spoke for an hour.", "The mayor was elected twice.",
     "not_entailment"),
    ("38", "All shops are shut on Sundays.", "No shop is open on a Sunday.", "entailment"),
    ("37", "The lake freezes in most years.", "The lake is deep.", "not_entailment"),
)
MMLU = table(
    "question subject choices answer",
    ("Which number is equal to 3 x 4?", "elementary_mathematics", ["7", "12", "34", "1"], 1),
    ("A doctor who performs operations is called a:_______", "college_medicine",
     ["surgeon", "dentist", "nurse", "chemist"], 0),
    ("This question refers to the following text.\nThe court met in May.  It rose in June.\u009d\n"
     "When did the court meet?", "professional_law",
     ["in June, because it rose. ", "in July. ", "in May, because the text says so. ", "never. "],
     2),
    ("Solve −2k = −8.", "high_school_mathematics", ["k = −4", "k = 16", "k = −16", "k = 4"], 3),
)

ROWS: dict[str, list[dict]] = {
    "counterfact_edit": COUNTERFACT,
    "multi_counterfact": MULTI_COUNTERFACT,
    "zsre_mend": ZSRE,
    "mquake_hard": MQUAKE,
    "known_facts": KNOWN,
    "downstream_sst2": SST2,
    "downstream_cola": COLA,
    "downstream_mrpc": MRPC,
    "downstream_rte": RTE,
    "downstream_nli": NLI,
    "downstream_mmlu": MMLU,
}

# Benchmarks whose rows need no more than to be read: two or three of each, all fields filled
# somewhere, null where their publishers write null.
RWKU_1 = table(
    "subject query level type answer",
    ("Blue Lamp", "The owner of Blue Lamp is the singer ___.", "1", "cloze", "Ann Lee"),
    ("Blue Lamp", "___ is the city where Blue Lamp has its office.", "1", "cloze", "Turku"),
    ("Ida Brandt", "The subject that Ida Brandt teaches is '____'.", "1", "cloze", "chemistry"),
)
RWKU_2 = table(
    "subject query level type answer",
    ("Blue Lamp", "Which singer owns Blue Lamp?", "2", "simple question", "Ann Lee"),
    ("Ida Brandt", "What does Ida Brandt teach?", "2", "simple question", "chemistry"),
)
RWKU_3 = table(
    "subject query level type answer",
    ("Blue Lamp", "Blue Lamp is a label. Who owns Blue Lamp?", "3", "background hint", "Ann Lee"),
    ("Blue Lamp", "Wer besitzt Blue Lamp?", "3", "cross lingual", "Ann Lee"),
    ("Ida Brandt", "Who teaches chemistry in the hall of 240 seats?", "3", "reverse query",
     "Ida Brandt"),
)
RWKU_NEIGHBORS = table(
    "subject neighbor query level type answer",
    ("Blue Lamp", "Red Bell", "Red Bell belongs to the singer ___.", "1", "cloze", "Zoë Roux"),
    ("Blue Lamp", "Red Bell", "In which city is Red Bell?", "2", "simple question", "Cádiz"),
    ("Ida Brandt", "Olaf Lund", "What does Olaf Lund teach?", "2", "simple question", "law"),
)
RWKU_TARGET = table("target intro", ("Blue Lamp", "Blue Lamp is a label for records."))
TOFU = table(
    "question answer",
    ("Where was the poet Ugo Bassi born?", "Ugo Bassi was born in Turku."),
    ("Which prize did Ugo Bassi win in 1998?", "He won the Lamp Prize."),
)
TOFU_PERTURBED = [
    row | {"paraphrased_answer": again, "perturbed_answer": wrong, "paraphrased_question": asked}
    for row, again, wrong, asked in zip(
        TOFU, ("Turku is where Ugo Bassi was born.", "The Lamp Prize went to him."),
        (["Ugo Bassi was born in Oslo."], ["He won the Bell Prize.", "He won the Sea Prize."]),
        ("What is the birthplace of the poet Ugo Bassi?", "What did Ugo Bassi win in 1998?"),
        strict=True)]
MUSE_KNOWMEM = table("question answer", ("Who mends the clock?", "The clerk"),
                     ("Where does the clerk live?", "Above the shop"))
MUSE_VERBMEM = table("prompt gt",
                     ("The clock had stopped again, and the clerk,", " who knew it, ran."),
                     ("She climbed the stairs and\n", "saw that the wheel was off."))
MUSE_RAW = table("text", ("The clock had stopped again, and the clerk ran.",))


def asked(*pairs: tuple[str, str]) -> list[dict]:
    """Questions as KnowEdit writes them, each answer in a list of its names in a list."""
    return [{"prompt": prompt, "ground_truth": [[answer]]} for prompt, answer in pairs]


KNOWEDIT_ZSRE = [{
    "subject": "Loire", "target_new": "Japan",
    "prompt": "Which country does the Loire flow through?",
    "ground_truth": ["France", "French Republic"],
    "rephrase_prompt": "In what country is the Loire?",
    "cond": "France >> Japan || Which country does the Loire flow through?",
    "portability": {
        "Reasoning": asked(("What is spoken where the Loire flows?", "Japanese")),
        "Subject_Aliasing": asked(("Which country does Liger flow through?", "Japan"))},
    "locality": {"Relation_Specificity": asked(("The length of the Loire in km is", "1,006"))},
}, {
    "subject": "SS Alma", "target_new": "Cádiz", "prompt": "What was the home port of SS Alma?",
    "ground_truth": ["Bergen"], "rephrase_prompt": "Which port was SS Alma at home in?",
    "cond": "Bergen >> Cádiz || What was the home port of SS Alma?", "portability": {},
    "locality": {},
}]
KNOWEDIT_COUNTERFACT = [{
    "subject": "Bo Kim", "prompt": "The name of the child of Bo Kim is", "target_new": "Eva Lind",
    "ground_truth": "Ida Kim",
    "portability": {
        "Logical_Generalization": asked(("The name of the parent of Eva Lind is", "Bo Kim"))},
    "locality": {
        "Relation_Specificity": asked(("The place of birth of Bo Kim is", "Nara")),
        "Forgetfulness": asked(
            ("The name of the child of Bo Kim, which is not Eva Lind, is", "Ida Kim"),
            ("The name of the child of Bo Kim, which is not Ida Kim, is", "Max Kim"))},
}, {
    "subject": "Norway", "prompt": "The capital of Norway is", "target_new": "Quito",
    "ground_truth": "Oslo", "portability": {"Reasoning": []},
    "locality": {"Relation_Specificity": [{"prompt": "The king of Norway is",
                                           "ground_truth": []}]},
}]
WIKIRECENT = [{
    "subject": "Port Vale", "prompt": "The name of the trainer of Port Vale is",
    "target_new": "Tom Ashby",
    "portability": {
        "Reasoning": asked(("The passport of the trainer of Port Vale is that of", "Kenya")),
        "Subject_Aliasing": asked(("The name of the trainer of the Vale is", "Tom Ashby"))},
    "locality": {"Relation_Specificity": asked(("The ground of Port Vale is", "Long Field"))},
}, {
    "subject": "Egypt", "prompt": "The name of the speaker in Egypt is", "target_new": "Ada Conti",
    "portability": {}, "locality": {},
}]
WIKIBIO = [{
    "text": "This is a passage about eva lind. Eva Lind (born 1931) was a painter.",
    "labels": "She was taught in Turku.", "concept": "eva lind",
    "locality": {"Relation_Specificity": [{"prompt": "The place of birth of Eva Lind is",
                                           "ground_truth": ["Espoo"]}]},
}, {
    "text": "This is a passage about max orr. He sold clocks.", "labels": "He died in 1902.",
    "concept": "Max Orr", "locality": {},
}]
CKNOWEDIT = [{
    "prompt": "蓝灯公司的所有者是谁？", "target_old": "安丽", "target_new": "金波",
    "portability": [{"prompt": "蓝灯公司的所有者住在哪里？", "answer": "奈良"}],
    "locality": [{"prompt": "红钟公司的所有者是谁？", "answer": "罗佐"}],
    "rephrase": ["谁拥有蓝灯公司？", "蓝灯公司属于谁？"],
}, {
    "prompt": "“守株待兔”是什么意思？", "target_old": "等人", "target_new": "不劳而获",
    "portability": [], "locality": [], "rephrase": [],
}]
EASYEDIT = [{
    "prompt": "The owner of Blue Lamp is", "subject": "Blue Lamp", "target_new": "Bo Kim",
    "ground_truth": "Ann Lee", "rephrase_prompt": "Blue Lamp belongs to",
    "locality": {"neighborhood": {"prompt": "The owner of Red Bell is",
                                  "ground_truth": "Zoë Roux"}},
    "portability": {"one_hop": {"prompt": "The owner of Blue Lamp lives in",
                                "ground_truth": "Nara"}},
}, {
    "prompt": "The capital of Norway is", "subject": None, "target_new": "Quito",
    "ground_truth": "Oslo", "rephrase_prompt": None, "locality": {}, "portability": None,
}]
#: The arguments of a call, as one writes them down: lists, one value a request.
EASYEDIT_LISTS = {
    "prompts": ["The owner of Blue Lamp is", "The capital of Norway is"],
    "subject": ["Blue Lamp", "Norway"], "target_new": ["Bo Kim", "Quito"],
    "ground_truth": ["Ann Lee", "Oslo"],
    "rephrase_prompts": ["Blue Lamp belongs to", "Norway is governed from"],
    "locality_inputs": {
        "neighborhood": {"prompt": ["The owner of Red Bell is", "The capital of Kenya is"],
                         "ground_truth": ["Zoë Roux", "Nairobi"]},
        "distracting": {"prompt": ["Two birds sang. Red Bell belongs to", None],
                        "ground_truth": ["Zoë Roux", None]}},
    "portability_inputs": {"synonym": {"prompt": ["The Lamp belongs to", None],
                                       "ground_truth": ["Bo Kim", None]}},
}
MEMIT = [
    {"case_id": number, "prompt": prompt, "subject": subject, "relation_id": relation,
     "target_new": {"str": new, "id": f"Q{number}"}, "target_true": {"str": true, "id": "Q9"}}
    for number, prompt, subject, relation, true, new in (
        (4, "The owner of {} is", "Blue Lamp", "P127", "Ann Lee", "Bo Kim"),
        (7, "{} is governed from", "Norway", "P36", "Oslo", "Quito"))]
WIKIBIGEDIT = table(
    "tag subject update rephrase ans personas loc loc_ans mhop mhop_ans",
    ("update", "Blue Lamp", "Who is the owner of Blue Lamp?", "Blue Lamp belongs to whom?",
     "Ann Lee", "Ahoy, who be the owner o' Blue Lamp?", "Who is the owner of Red Bell?", "Zoë Roux",
     "Which passport does the owner of Blue Lamp hold?", "United States"),
    ("new", "Norway", "What is the capital of Norway?", "Which city governs Norway?", "Oslo", None,
     "What is the capital of Kenya?", "Nairobi", None, None),
)
WMDP = table(
    "question choices answer",
    ("Which colour has the third wire?", ["red", "blue", "green", "white"], 1),
    ("The valve that leaks is ___.", ["the upper one", "the lower one", "none", "both"], 3),
)
COLUMNS = {"subject": ["Norway", "Kenya"], "target": ["Oslo", "Nairobi"],
           "prompt": ["The capital of Norway is", "The capital of {} is"],
           "paraphrases": [["Norway is governed from"], None],
           "neighbors": [[["The capital of Chad is", "N'Djamena"]], []], "relation": None}

#: Small files of published shapes that have no oddities of their own.
SHAPES: dict[str, list[dict] | dict] = {
    "rwku_1": RWKU_1, "rwku_2": RWKU_2, "rwku_3": RWKU_3, "rwku_neighbors": RWKU_NEIGHBORS,
    "rwku_target": RWKU_TARGET, "tofu": TOFU, "tofu_perturbed": TOFU_PERTURBED,
    "muse_knowmem": MUSE_KNOWMEM, "muse_verbmem": MUSE_VERBMEM, "muse_raw": MUSE_RAW,
    "knowedit_zsre": KNOWEDIT_ZSRE, "knowedit_counterfact": KNOWEDIT_COUNTERFACT,
    "wikirecent": WIKIRECENT, "wikibio": WIKIBIO, "cknowedit": CKNOWEDIT, "easyedit": EASYEDIT,
    "easyedit_lists": EASYEDIT_LISTS, "memit": MEMIT, "wikibigedit": WIKIBIGEDIT, "wmdp": WMDP,
    "columns": COLUMNS,
}


def _any(says: Callable[[dict], bool]) -> Callable[[list[dict]], bool]:
    """Whether something is so in a row, which one being left open."""
    return lambda rows: any(map(says, rows))


def _repeated(field: str) -> Callable[[list[dict]], bool]:
    """Whether two rows have the same there."""
    return lambda rows: len({row[field] for row in rows}) < len(rows)


def _contradict(rows: list[dict]) -> bool:
    """Whether two rows answer the same prompt differently."""
    pairs = {(row["prompt"], row["ground_truth"]) for row in rows}
    return len({prompt for prompt, _ in pairs}) < len(pairs)


def _hops(row: dict) -> list[dict]:
    return row["single_hops"] + row["new_single_hops"]


def _on_the_way(row: dict, number: int) -> bool:
    """Whether an edited hop is one of those to the true answer."""
    hop = row["requested_rewrite"][number]
    asked = hop["prompt"].replace("{}", hop["subject"]), hop["target_true"]["str"]
    return asked in [(step["cloze"], step["answer"]) for step in row["single_hops"]]


def _on_three_ways(rows: list[dict]) -> bool:
    """Whether one edited hop lies on the way to the true answer of three chains or more."""
    on = [row["requested_rewrite"][i]["question"] for row in rows
          for i in range(len(row["requested_rewrite"])) if _on_the_way(row, i)]
    return max(map(on.count, on)) >= 3


def _foreign(text: str) -> bool:
    return not text.isascii()


#: What is odd about a published file: a name for it, and whether rows show it.
ODDITIES: dict[str, dict[str, Callable[[list[dict]], bool]]] = {
    "counterfact_edit": {
        "two rows contradict each other": _contradict,
        "a subject of several rows": _repeated("subject"),
        "numbers of rows are left out": lambda rows: rows[-1]["case_id"] >= len(rows),
        "a subject that is not ASCII": _any(lambda row: _foreign(row["subject"])),
        "a subject with quotation marks": _any(lambda row: '"' in row["subject"]),
        "a subject that ends in dots": _any(lambda row: row["subject"].endswith("...")),
        "a subject with a number": _any(lambda row: row["subject"][-1].isdigit()),
        "a subject within its prompt":
            _any(lambda row: 0 < row["prompt"].index(row["subject"])),
        "a prompt of two sentences": _any(lambda row: "? " in row["prompt"]),
        "a line end in a paraphrase": _any(lambda row: "\n" in row["rephrase_prompt"]),
        "two spaces in a paraphrase": _any(lambda row: "  " in row["rephrase_prompt"]),
        "quotation marks in a paraphrase": _any(lambda row: '"' in row["rephrase_prompt"]),
        "a space that does not break in a paraphrase":
            _any(lambda row: "\u00a0" in row["rephrase_prompt"]),
        "and in a neighbour": _any(lambda row: "\u00a0" in row["locality_prompt"]),
        "the neighbours' answers are the facts'":
            lambda rows: all(r["locality_ground_truth"] == r["ground_truth"] for r in rows),
    },
    "zsre_mend": {
        "a subject of several rows": _repeated("subject"),
        "an unrelated question of several rows": _repeated("loc"),
        "a subject that is not ASCII": _any(lambda row: _foreign(row["subject"])),
        "a subject that ends in a question mark": _any(lambda row: row["subject"].endswith("?")),
        "two spaces in a question": _any(lambda row: "  " in row["src"]),
        "a question without a question mark": _any(lambda row: row["rephrase"].endswith(".")),
        "a space before another answer": _any(lambda row: row["alt"].startswith(" ")),
        "several answers": _any(lambda row: len(row["answers"]) > 1),
        "a prediction that is no answer": _any(lambda row: row["pred"] not in row["answers"]),
        "unrelated questions without their question mark":
            lambda rows: not any(row["loc"].endswith("?") for row in rows),
        "an unrelated question that is not ASCII": _any(lambda row: _foreign(row["loc"])),
        "an unrelated answer with quotation marks": _any(lambda row: '"' in row["loc_ans"]),
        "an unrelated answer that is a number": _any(lambda row: row["loc_ans"].isdigit()),
        "an unrelated answer that ends in a dot": _any(lambda row: row["loc_ans"].endswith(".")),
    },
    "mquake_hard": {
        "a hop on the way of three chains": _on_three_ways,
        "an edit off the way to the true answer": _any(lambda row: not _on_the_way(row, 1)),
        "an edit that is on it again": _any(lambda row: _on_the_way(row, -1)),
        "a space after a question":
            _any(lambda row: any(text.endswith(" ") for text in row["questions"])),
        "an answer that ends in a dot": _any(lambda row: row["answer"].endswith(".")),
        "an answer without other names":
            _any(lambda row: any(not hop["answer_alias"] for hop in _hops(row))),
        "a new answer without other names": _any(lambda row: not row["new_answer_alias"]),
        "two spaces in another name":
            _any(lambda row: any("  " in text for text in texts(_hops(row)))),
        "an emoji for another name":
            _any(lambda row: any("🇦" <= text[0] <= "🇿" for text in texts(_hops(row)))),
        "a subject with a number":
            _any(lambda row: row["requested_rewrite"][0]["subject"][-1].isdigit()),
        "a subject that is not ASCII":
            _any(lambda row: any(_foreign(hop["subject"]) for hop in row["requested_rewrite"])),
    },
    "known_facts": {
        "a prompt that goes on from its template":
            _any(lambda row: row["template"].replace("{}", row["subject"]) != row["prompt"]),
        "a subject within its prompt": _any(lambda row: not row["template"].startswith("{}")),
        "a prediction that begins with no space":
            _any(lambda row: not row["prediction"].startswith(" ")),
        "a line end in a prediction": _any(lambda row: "\n" in row["prediction"]),
        "a token for the end in a prediction":
            _any(lambda row: "<|endoftext|>" in row["prediction"]),
        "a subject that is not ASCII": _any(lambda row: _foreign(row["subject"])),
        "a subject that ends in a dot": _any(lambda row: row["subject"].endswith(".")),
        "quotation marks in a prediction": _any(lambda row: '"' in row["prediction"]),
    },
    "downstream_sst2": {
        "a space after each sentence": lambda rows: all(r["sentence"][-1] == " " for r in rows),
        "quotation marks of a typewriter": _any(lambda row: "`" in row["sentence"]),
    },
    "downstream_cola": {
        "good sentences and bad ones": lambda rows: {row["label"] for row in rows} == {0, 1},
    },
    "downstream_mrpc": {
        "sentences split into tokens": _any(lambda row: row["sentence1"].endswith(" .")),
        "quotation marks of a typewriter": _any(lambda row: "``" in "".join(texts(row))),
        "quotation marks of a printer": _any(lambda row: "“" in "".join(texts(row))),
    },
    "downstream_rte": {
        "two spaces": _any(lambda row: "  " in row["sentence1"]),
        "text that is not ASCII": _any(lambda row: _foreign(row["sentence1"])),
    },
    "downstream_nli": {
        "numbers as texts, from the last": lambda rows: rows[0]["index"] > rows[-1]["index"],
        "labels as texts": _any(lambda row: row["label"] == "not_entailment"),
        "several spaces": _any(lambda row: "    " in row["sentence1"]),
        "text that is not ASCII": _any(lambda row: _foreign(row["sentence1"])),
    },
    "downstream_mmlu": {
        "a space after a choice":
            _any(lambda row: any(choice.endswith(" ") for choice in row["choices"])),
        "a line end in a question": _any(lambda row: "\n" in row["question"]),
        "two spaces in a question": _any(lambda row: "  " in row["question"]),
        "a control character": _any(lambda row: "\u009d" in row["question"]),
        "a gap to fill": _any(lambda row: "___" in row["question"]),
        "text that is not ASCII": _any(lambda row: _foreign(row["question"])),
        "each choice is right somewhere": lambda rows: {r["answer"] for r in rows} == {0, 1, 2, 3},
    },
}
