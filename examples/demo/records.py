"""JSON records: invented ones, ones extracted from a sentence, and small classifications.

Called by examples/demo_corpus.py. The answer is always one line of valid JSON with the keys in the order asked for.
"""

import json
from random import Random
from typing import Any

from demo.kinds import Exchange, Plain
from demo.people import ANIMALS, CITIES, COLORS, FOODS, HOBBIES, JOBS, LAST_NAMES, NAMES, words

_PRICES = ("0.50", "1.20", "2.50", "3.99", "4.75", "9.99", "12.50", "19.99", "49.00")


def _value(rng: Random, field: str) -> Any:
    match field:
        case "name":
            return rng.choice(NAMES)
        case "last_name":
            return rng.choice(LAST_NAMES)
        case "age":
            return rng.randint(6, 90)
        case "city":
            return rng.choice(CITIES)
        case "job":
            return rng.choice(JOBS)
        case "hobby":
            return rng.choice(HOBBIES)
        case "color":
            return rng.choice(COLORS)
        case "food" | "product":
            return rng.choice(FOODS)
        case "student" | "available" | "married":
            return rng.random() < 0.5
        case "id" | "quantity":
            return rng.randint(1, 999)
        case "price":
            return float(rng.choice(_PRICES))
        case "hobbies":
            return rng.sample(HOBBIES, rng.randint(2, 3))
        case _:
            return {"city": rng.choice(CITIES), "zip": str(rng.randint(10000, 99999))}


_PERSON = words("""
name age city job hobby last_name color food student married id hobbies address
""")
_PRODUCT = ("product", "price", "quantity", "available", "id", "color")


def _fields(rng: Random) -> tuple[str, list[str]]:
    """(what is asked for, its fields)."""
    if rng.random() < 0.35:
        return "person", ["name", "age", "city"]
    if rng.random() < 0.25:
        return "product", rng.sample(_PRODUCT, rng.randint(2, 4))
    return "person", rng.sample(_PERSON, rng.randint(1, 5))


def _listed(fields: list[str]) -> str:
    return ", ".join(fields[:-1]) + " and " + fields[-1] if len(fields) > 1 else fields[0]


def invented(rng: Random) -> Exchange:
    """A record of any valid content; evaluated by its validity and its keys."""
    what, fields = _fields(rng)
    several = rng.random() < 0.15
    records = [{field: _value(rng, field) for field in fields} for _ in range(rng.randint(2, 3) if several else 1)]
    listed = _listed(fields)
    if several:
        count = ("two", "three")[len(records) - 2]
        question = rng.choice(
            (
                f"Give me {count} records with {listed} as a JSON array.",
                f"Write a JSON list of {count} {what}s with {listed}.",
            )
        )
        return Exchange.of("|".join(fields), question, json.dumps(records))
    question = rng.choice(
        (
            f"Give me a {what} as JSON with {listed}.",
            f"Write a JSON object with the keys {listed}.",
            f"Return a JSON record with {listed}.",
            f"Make up a {what} and answer in JSON with {listed}.",
            f"JSON with {listed}, please.",
            f"Generate a JSON object for a {what} with {listed}.",
            f"Describe a {what} as a JSON object with the fields {listed}.",
            f"Reply with a JSON object: {listed}.",
        )
    )
    return Exchange.of("|".join(fields), question, json.dumps(records[0]))


def extracted(rng: Random) -> Exchange:
    """Name, age, city and job out of a sentence."""
    name, age, city, job = rng.choice(NAMES), rng.randint(6, 90), rng.choice(CITIES), rng.choice(JOBS)
    n = "n" if job[0] in "aeiou" else ""
    sentence, fields = rng.choice(
        (
            (f"{name} is {age} years old and lives in {city}.", ["name", "age", "city"]),
            (f"{name} lives in {city} and is {age} years old.", ["name", "age", "city"]),
            (f"{name}, {age}, lives in {city}.", ["name", "age", "city"]),
            (f"In {city} lives {name}, who is {age} years old.", ["name", "age", "city"]),
            (f"My name is {name}, I am {age} years old and I come from {city}.", ["name", "age", "city"]),
            (f"{name} is a{n} {job} from {city}.", ["name", "job", "city"]),
            (f"{name} works as a{n} {job} in {city}.", ["name", "job", "city"]),
            (f"{name} is {age} years old and works as a{n} {job}.", ["name", "age", "job"]),
        )
    )
    if rng.random() < 0.5:
        rng.shuffle(fields)
    if rng.random() < 0.15:
        fields = fields[:2]
    values = {"name": name, "age": age, "city": city, "job": job}
    ask = rng.choice(
        (
            "Extract the {f} as JSON: {s}",
            "Give the {f} of this sentence as JSON: {s}",
            "{s} Write the {f} as JSON.",
            "Turn this into JSON with {f}: {s}",
            "{s}\nReturn a JSON object with {f}.",
            "Extract JSON ({f}) from: {s}",
        )
    )
    answer = json.dumps({field: values[field] for field in fields})
    return Exchange.of(f"{name}|{city}|{age}", ask.format(f=_listed(fields), s=sentence), answer)


_GOOD = words("""
I love this {x} | This {x} is wonderful | What a great {x} | The {x} was perfect | I really like the {x} |
The best {x} ever | The {x} made me so happy | A beautiful {x} | I enjoyed the {x} very much
""")
_BAD = words("""
I hate this {x} | This {x} is terrible | What an awful {x} | The {x} was broken | I do not like the {x} |
The worst {x} ever | The {x} made me so angry | An ugly {x} | The {x} was boring and bad
""")
_REVIEWED = words("""
movie book song game dinner hotel phone car restaurant story concert trip show meal room film play dress shoe
bag
""")


def sentiment(rng: Random) -> Exchange:
    good = rng.random() < 0.5
    thing = rng.choice(_REVIEWED)
    form = rng.randrange(len(_GOOD))
    text = (_GOOD if good else _BAD)[form].format(x=thing) + rng.choice(".!")
    ask = rng.choice(
        (
            "Is this positive or negative? {t}",
            "Positive or negative: {t}",
            "What is the sentiment of this text? {t}",
            "Classify as positive or negative: {t}",
            "{t} Is that positive or negative?",
        )
    )
    return Exchange.of(
        f"{good}|{form}|{thing}",
        ask.format(t=text),
        "positive" if good else "negative",
        short="positive" if good else "negative",
    )


def members(rng: Random) -> Exchange:
    """Lists: three colors, five animals."""
    what, pool = rng.choice(
        (
            ("colors", COLORS),
            ("animals", ANIMALS),
            ("names", NAMES),
            ("cities", CITIES),
            ("foods", FOODS),
            ("hobbies", HOBBIES),
        )
    )
    n = rng.randint(2, 7)
    count = ["two", "three", "four", "five", "six", "seven"][n - 2]
    question = rng.choice(
        (
            f"Name {count} {what}.",
            f"List {count} {what}.",
            f"Give me {count} {what}.",
            f"Tell me {count} {what}.",
            f"Name {n} {what}.",
        )
    )
    items = rng.sample(pool, n)
    if rng.random() < 0.25:
        return Exchange.of(
            "", question[:-1] + rng.choice((" as a JSON list.", " as JSON.", " as a JSON array.")), json.dumps(items)
        )
    return Exchange.of("", question, ", ".join(items) + ".")


def records_text(rng: Random) -> Plain:
    """Lines of JSON, for completion of a plain prompt."""
    _, fields = _fields(rng)
    lines = [json.dumps({field: _value(rng, field) for field in fields}) for _ in range(rng.randint(1, 5))]
    return Plain("", "\n".join(lines))
