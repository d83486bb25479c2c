"""Arithmetic, comparing, counting and well known sequences.

Called by examples/demo_corpus.py. An answer repeats the question before the result ("17 + 25 = 42."), and the tokenizer
keeps every digit apart: that is what lets a small model add reliably. Held out are pairs of numbers, not phrasings.
"""

from random import Random

from demo.kinds import Exchange, Plain, is_held_out
from demo.people import words

_NAMES = {
    "+": ("plus", "Add {a} and {b}", "What is the sum of {a} and {b}"),
    "-": ("minus", "Subtract {b} from {a}", "What is the difference of {a} and {b}"),
    "*": ("times", "Multiply {a} by {b}", "What is the product of {a} and {b}"),
}
_QUESTIONS = words("""
What is {q} | What's {q} | How much is {q} | Calculate {q} | Compute {q} | {q} | {q} = | Tell me what {q} is |
Can you work out {q} | I need to know {q} | Please calculate {q} | Solve {q} | What does {q} make
""")
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = words("""
January February March April May June July August September October November December
""")
SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SMALL += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]


def problem(rng: Random) -> tuple[str, int, int, int]:
    """(operator, a, b, result), small numbers more often than their share."""
    operator = rng.choice("++++---*")
    if operator == "*":
        a, b = rng.randint(0, 20), rng.randint(0, 12)
        if rng.random() < 0.5:
            a, b = b, a
        return operator, a, b, a * b
    top = rng.choice((10, 20, 100, 100, 1000, 1000, 1000))
    a, b = rng.randrange(top), rng.randrange(rng.choice((10, 100, top)) if top > 10 else top)
    if rng.random() < 0.5:
        a, b = b, a
    if operator == "+":
        return operator, a, b, a + b
    if a < b and (top > 100 or rng.random() < 0.8):
        a, b = b, a
    return operator, a, b, a - b


def problem_key(operator: str, a: int, b: int) -> str:
    """A sum is one question both ways round; a product is two, its mirror image may be in training."""
    return f"+{min(a, b)},{max(a, b)}" if operator == "+" else f"{operator}{a},{b}"


def _written(rng: Random, operator: str, a: int, b: int) -> str:
    shown = rng.choice((operator, operator, "x", "×")) if operator == "*" else operator
    style = rng.random()
    if style < 0.7:
        return f"{a} {shown} {b}"
    return f"{a}{shown}{b}" if style < 0.82 else f"{a} {_NAMES[operator][0]} {b}"


def arithmetic(rng: Random) -> Exchange:
    operator, a, b, result = problem(rng)
    if rng.random() < 0.2:
        question = rng.choice(_NAMES[operator][1:]).format(a=a, b=b)
        question += rng.choice((".", "")) if question[0] in "ASM" else "?"
    else:
        question = rng.choice(_QUESTIONS).format(q=_written(rng, operator, a, b))
        question += "?" if rng.random() < 0.8 and question[-1] != "=" else ""
    return Exchange.of(problem_key(operator, a, b), question, f"{a} {operator} {b} = {result}.", short=str(result))


def arithmetic_text(rng: Random) -> Plain:
    """One to six sums below each other, so that "2 + 3 =" can be completed. Only the last one may be held out."""
    lines: list[str] = []
    kind, key = rng.random(), ""
    count = 1 if kind < 0.4 else rng.randint(2, 6)
    while len(lines) < count:
        operator, a, b, result = problem(rng)
        key = problem_key(operator, a, b)
        if len(lines) < count - 1 and is_held_out(key):
            continue
        if kind < 0.85:
            lines.append(f"{a} {operator} {b} = {result}")
        else:
            lines.append(f"Q: What is {a} {operator} {b}?\nA: {result}")
    return Plain(key, "\n".join(lines))


def compare(rng: Random) -> Exchange:
    top = rng.choice((10, 100, 1000))
    a, b = rng.sample(range(top), 2)
    larger = rng.random() < 0.6
    word = rng.choice(("larger", "bigger", "greater")) if larger else rng.choice(("smaller", "less"))
    question = rng.choice(
        (f"Which is {word}, {a} or {b}?", f"Which number is {word}: {a} or {b}?", f"What is {word}, {a} or {b}?")
    )
    best, other = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    answer = f"{best} is {'larger' if larger else 'smaller'} than {other}."
    return Exchange.of(f"compare{min(a, b)},{max(a, b)}", question, answer, short=str(best))


def parity(rng: Random) -> Exchange:
    a = rng.randrange(1000)
    word = "odd" if a % 2 else "even"
    question = rng.choice((f"Is {a} even or odd?", f"Is {a} an even or an odd number?", f"Is {a} odd or even?"))
    return Exchange.of(f"parity{a}", question, f"{a} is {word}.", short=word.capitalize())


def counting(rng: Random) -> Exchange:
    step = rng.choice((1, 1, 1, 1, 2, 2, 5, 10, 3))
    first = rng.choice((0, 1, 1, rng.randrange(10), rng.randrange(100)))
    count = rng.randint(3, 16)
    last = first + step * (count - 1)
    names = {1: "", 2: " by twos", 3: " by threes", 5: " by fives", 10: " by tens"}
    backwards = rng.random() < 0.3
    if backwards:
        first, last = last, first
        question = rng.choice(
            (f"Count backwards from {first} to {last}{names[step]}", f"Count down from {first} to {last}{names[step]}")
        )
    else:
        question = rng.choice(
            (
                f"Count from {first} to {last}{names[step]}",
                f"Please count from {first} to {last}{names[step]}",
                f"Can you count from {first} to {last}{names[step]}",
                f"Write the numbers from {first} to {last}{names[step]}",
            )
        )
    question += "?" if question.startswith("Can") else rng.choice((".", "", "!"))
    numbers = range(first, last - step, -step) if backwards else range(first, last + step, step)
    return Exchange.of(f"count{first},{last},{step}", question, ", ".join(map(str, numbers)) + ".")


def counting_text(rng: Random) -> Plain:
    first, step, count = rng.randrange(50), rng.choice((1, 1, 1, 2, 5, 10)), rng.randint(5, 25)
    joined = rng.choice((", ", " ", "\n", ", "))
    if rng.random() < 0.15:
        names = rng.choice((DAYS, MONTHS, SMALL[1:11], list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
        return Plain("", joined.join(names))
    return Plain("", joined.join(str(first + step * i) for i in range(count)))


def sequence(rng: Random) -> Exchange:
    """What comes after, what comes before."""
    kind = rng.random()
    after = rng.random() < 0.6
    if kind < 0.5:
        names, what = rng.choice(((DAYS, "day"), (MONTHS, "month"), (list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), "letter")))
        i = rng.randrange(len(names))
        found = names[(i + (1 if after else -1)) % len(names)]
        word = "after" if after else "before"
        form = rng.randrange(3)
        question = (
            f"What comes {word} {names[i]}?",
            f"Which {what} comes {word} {names[i]}?",
            f"What {what} is {word} {names[i]}?",
        )[form]
        key = f"after|{names[i]}|{after}|{form}" if form else ""
        return Exchange.of(key, question, f"{found} comes {word} {names[i]}.", short=found)
    n = rng.randint(1, 998)
    found = str(n + 1 if after else n - 1)
    word = "after" if after else "before"
    question = rng.choice(
        (f"What comes {word} {n}?", f"Which number comes {word} {n}?", f"What is the number {word} {n}?")
    )
    return Exchange.of(f"{word}{n}", question, f"{found} comes {word} {n}.", short=found)


def in_words(rng: Random) -> Exchange:
    """Numbers up to 99 in words and back."""
    n = rng.randrange(100)
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    words = SMALL[n] if n <= 20 else tens[n // 10] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    if rng.random() < 0.6:
        return Exchange.of(
            f"words{n}",
            rng.choice((f"Write {n} in words.", f"How do you write {n} in words?", f"Spell the number {n}.")),
            f"{n} is {words}.",
            short=words.capitalize(),
        )
    return Exchange.of(
        f"digits{n}",
        rng.choice((f"Write {words} in digits.", f"Which number is {words}?")),
        f"{words.capitalize()} is {n}.",
        short=str(n),
    )
