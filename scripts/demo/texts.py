"""Working on the user's text: spelling, counting letters, and picking fields into JSON."""

import json

import words
from sums import exchange
from words import held_out, informal

BACKWARDS = """Spell {w} backwards|Spell "{w}" backwards.|Reverse the word {w}|Reverse "{w}"|Write {w} backwards.
What is {w} spelled backwards?|What is {w} backwards?|{w} backwards|reverse {w}|Can you spell {w} backwards?
Say the word {w} in reverse.|Spell the word {w} backwards|Turn the word {w} around.|reverse this word: {w}
How do you spell {w} backwards?|Write the word "{w}" in reverse.|Please reverse the letters of {w}.""".replace("\n", "|").split("|")
SPELL = ["Spell {w}", "Spell the word {w}.", "How do you spell {w}?", 'Spell "{w}".', "Can you spell {w}?",
         "What are the letters of {w}?", "Spell out {w}"]
COUNT = ['How many times does {c} appear in {w}?', "How many {c} in {w}?", "How many {c}'s are in {w}?", "Count the letter {c} in {w}.",
         'How many letters {c} are in the word {w}?', 'How many "{c}" are there in "{w}"?', "how many {c}s in {w}?", "how many {c}'s are in the word {w}"]
LENGTH = ["How many letters does {w} have?", "How many letters are in {w}?", "How long is the word {w}?", 'Count the letters in "{w}".',
          "How many letters in {w}?"]


def fresh_word(rng, held):
    while True:
        w = words.word(rng)
        if held_out("spell", w) == held:
            return w


def quoted(rng, template, w, **more):
    """Fills in the word after the sentence was made informal, so that the word itself keeps its letters."""
    shown = rng.choices([w, w.capitalize(), f'"{w}"', f"'{w}'"], [8, 1, 1, 1])[0]
    template = informal(rng, template)
    return template.format(w=w if '"{w}"' in template else shown, **more)


def reversal(rng, held):
    w = fresh_word(rng, held)
    reasoning = f"{' '.join(w)}\n{' '.join(w[::-1])}"
    return exchange("reversing a word", quoted(rng, rng.choice(BACKWARDS), w), reasoning, w[::-1], spelled=True)


def spelling(rng, held):
    w = fresh_word(rng, held)
    return exchange("spelling", quoted(rng, rng.choice(SPELL), w), "I write the letters one by one.", " ".join(w))


def letter_count(rng, held):
    w = fresh_word(rng, held)
    c = rng.choice(w) if rng.random() < 0.9 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    marks, n = [], 0
    for letter in w:
        n += letter == c
        marks.append(f"{letter} {n}" if letter == c else letter)
    return exchange("counting letters", quoted(rng, rng.choice(COUNT), w, c=c), ", ".join(marks) + f"\ntotal {n}", str(n))


def word_length(rng, held):
    w = fresh_word(rng, held)
    reasoning = ", ".join(f"{letter} {i + 1}" for i, letter in enumerate(w))
    return exchange("counting letters", quoted(rng, rng.choice(LENGTH), w), reasoning, str(len(w)))


def person(rng):
    v = {"name": words.name(rng), "age": rng.randint(18, 90), "city": words.city(rng), "job": rng.choice(words.JOBS)}
    n, a, c, j = v.values()
    text, keys = rng.choice([
        (f"{n} is {a} years old and lives in {c}.", "name age city"),
        (f"{n}, {a}, lives in {c}.", "name age city"),
        (f"My name is {n}, I am {a} and I live in {c}.", "name age city"),
        (f"{n} lives in {c} and is {a} years old.", "name age city"),
        (f"I am {n}, a {j} from {c}.", "name city job"),
        (f"{n} works as a {j} in {c}.", "name city job"),
        (f"{n} is a {a} year old {j} from {c}.", "name age city job"),
        (f"{n} is a {j} and is {a} years old.", "name age job"),
        (f"The {j} {n} moved to {c} at the age of {a}.", "name age city job"),
        (f"{n} ({a}) is from {c}.", "name age city"),
        (f"Meet {n}, a {j} who is {a} and lives in {c}.", "name age city job"),
    ])
    return text, {k: v[k] for k in keys.split()}


def order(rng):
    v = {"customer": words.name(rng), "item": rng.choice(words.ITEMS), "quantity": rng.randint(2, 99),
         "price": rng.randint(2, 99), "color": rng.choice(words.COLORS)}
    n, i, q, p, c = v.values()
    text, keys = rng.choice([
        (f"{n} ordered {q} {i}.", "customer item quantity"),
        (f"{n} bought {q} {i} for {p} dollars.", "customer item quantity price"),
        (f"I would like {q} {c} {i}, please.", "item quantity color"),
        (f"{n} wants {q} {c} {i}.", "customer item quantity color"),
        (f"Order: {q} {i} at {p} dollars for {n}.", "customer item quantity price"),
        (f"{n} paid {p} dollars for {q} {c} {i}.", "customer item quantity price color"),
        (f"We sold {q} {i} to {n}.", "customer item quantity"),
    ])
    return text, {k: v[k] for k in keys.split()}


def event(rng):
    v = {"event": rng.choice(words.EVENTS), "day": rng.choice(words.DAYS), "time": f"{rng.randint(1, 12)}:{rng.choice(['00', '15', '30', '45'])}",
         "place": rng.choice(words.PLACES)}
    e, d, t, p = v.values()
    text, keys = rng.choice([
        (f"The {e} is on {d} at {t} in the {p}.", "event day time place"),
        (f"On {d} there is a {e} at the {p}.", "event day place"),
        (f"Our {e} starts at {t} on {d}.", "event day time"),
        (f"Come to the {p} on {d} at {t} for the {e}.", "event day time place"),
        (f"The {e} at the {p} was moved to {d}.", "event day place"),
        (f"Reminder: {e}, {d}, {t}, {p}.", "event day time place"),
    ])
    return text, {k: v[k] for k in keys.split()}


def pet(rng):
    v = {"owner": words.name(rng), "animal": rng.choice(words.PETS), "name": words.name(rng), "age": rng.randint(1, 20)}
    o, s, n, a = v.values()
    text, keys = rng.choice([
        (f"{o} has a {s} called {n}.", "owner animal name"),
        (f"{n} is the {s} of {o} and is {a} years old.", "owner animal name age"),
        (f"My {s} {n} is {a} years old.", "animal name age"),
        (f"{o} and the {s} {n} go for a walk.", "owner animal name"),
        (f"The {a} year old {s} {n} belongs to {o}.", "owner animal name age"),
    ])
    return text, {k: v[k] for k in keys.split()}


ALL_FIELDS = ["Turn this into JSON: {s}", "Convert to JSON: {s}", "Make JSON from this sentence: {s}", "{s} Write this as JSON.",
              "Extract all fields as JSON: {s}", 'Give me JSON for "{s}"', "JSON please: {s}", "Extract the data as JSON. {s}"]
SOME_FIELDS = ["Extract {f} as JSON: {s}", "Extract the {f} from this sentence as JSON: {s}", "{s} Give me the {f} as JSON.",
               "Return JSON with {f}: {s}", "Find {f} in the text and answer in JSON: {s}", 'Pick {f} from "{s}" as JSON',
               "{s}\nReturn the {f} as JSON.", "I need the {f} as JSON.\n{s}", "Give me {f} as JSON: {s}",
               "Extract JSON with the keys {f} from: {s}", "Extract {f}: {s}"]


def fields(rng, held):
    while True:
        text, values = rng.choices([person, order, event, pet], [4, 2, 2, 2])[0](rng)
        if held_out("json", text) == held:
            break
    keys = list(values)
    if rng.random() < 0.7:
        keys = rng.sample(keys, rng.randint(1, len(keys)))
        spoken = " and ".join([", ".join(keys[:-1])] * (len(keys) > 1) + keys[-1:]) if rng.random() < 0.7 else ", ".join(keys)
        question = rng.choice(SOME_FIELDS).replace("{f}", spoken)
    else:
        question = rng.choice(ALL_FIELDS)
    question = informal(rng, question).replace("{s}", text)
    picked = {k: values[k] for k in keys}
    reasoning = ", ".join(f"{k} is {v}" for k, v in picked.items())
    made = exchange("JSON extraction", question, reasoning, json.dumps(picked, ensure_ascii=False))
    return made | {"expect": {"json": picked}}
