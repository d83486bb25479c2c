"""Short stories from a grammar: who, where, what was wanted, what went wrong, who helped, how it ended.

Called by examples/demo_corpus.py, as plain text and as answers to "Tell me a story about a fox".
"""

from random import Random

from demo.kinds import Exchange, Plain
from demo.people import ANIMALS, COLORS, FOODS, NAMES, a, words

_TRAITS = words("""
little brave kind clever curious shy quiet funny young happy gentle lazy proud small lonely cheerful
""")
_PLACES = words("""
in a small village|near a big forest|by the sea|on a farm|in a tall house|beside a quiet river|on a high hill|
in a busy town|in a warm valley|under an old bridge|at the edge of a lake|in a garden full of flowers
""")
_TIMES = words("""
One morning|One day|One sunny afternoon|One cold evening|One rainy day|On a bright spring day|One winter morning|
Early one day|One windy night|After a long winter
""")
_THINGS = words("""
ball kite hat boat book drum lamp basket blanket key bell map box flute scarf cup ring letter wheel umbrella
""")
_FEARS = ["the dark", "loud noises", "deep water", "the storm", "high places", "the old house", "strangers"]
_SPOTS = words("""
under a tree|behind a stone|in the tall grass|on the roof|in the river|inside an old box|near the well|
on top of a hill|under the bridge|in the barn
""")
_LESSONS = words("""
a friend is worth more than gold|it is good to share|small steps lead far|asking for help is brave|
it is never too late to say sorry|being kind makes everyone happy|you should never give up|the truth is always best|
patience brings roses|together everything is easier
""")
_WEATHER = words("""
The sun was shining. | The wind was cold. | It was raining softly. | The sky was full of clouds. |
Snow lay on the ground. | The birds were singing.
""")


def _hero(rng: Random, animal: str | None) -> tuple[str, str, str, str]:
    """(introduction, name, he or she, his or her)."""
    name = rng.choice(NAMES)
    he, his = rng.choice((("he", "his"), ("she", "her")))
    if animal is None and rng.random() < 0.5:
        return f"{a(rng.choice(_TRAITS))} {'boy' if he == 'he' else 'girl'} named {name}", name, he, his
    return f"{a(rng.choice(_TRAITS))} {animal or rng.choice(ANIMALS)} named {name}", name, he, his


def _lost_thing(rng: Random, name: str, he: str, his: str, friend: str, kind: str) -> list[str]:
    thing, color, spot = rng.choice(_THINGS), rng.choice(COLORS), rng.choice(_SPOTS)
    when = rng.choice(("soon", "at last", "after a long time"))
    return [
        f"{name} had {a(color)} {thing} and loved it very much.",
        f"{rng.choice(_TIMES)} the {thing} was gone.",
        f"{name} looked everywhere, but {he} could not find it.",
        f'"Do not be sad," said {friend} the {kind}. "I will help you."',
        f"They searched together, and {when} they found the {thing} {spot}.",
        f'"Thank you, {friend}!" said {name}, and {his} eyes were bright with joy.',
    ]


def _great_fear(rng: Random, name: str, he: str, his: str, friend: str, kind: str) -> list[str]:
    fear = rng.choice(_FEARS)
    return [
        f"{name} was afraid of {fear}.",
        f"{rng.choice(_TIMES)} {friend} the {kind} was in trouble and called for help.",
        f'"I am scared," thought {name}, "but my friend needs me."',
        f"{he.capitalize()} took a deep breath and ran as fast as {he} could.",
        f"{name} pulled {friend} to safety, and {he} was not afraid any more.",
        f'"You are very brave," said {friend}.',
    ]


def _sharing(rng: Random, name: str, he: str, his: str, friend: str, kind: str) -> list[str]:
    food = rng.choice(FOODS)
    return [
        f"{name} had a basket full of {food} and wanted to keep it all.",
        f"{rng.choice(_TIMES)} {he} met {friend} the {kind}, who was very hungry.",
        f'"May I have some {food}?" asked {friend}.',
        f"At first {name} said no, but then {he} felt sorry.",
        f"{name} gave {friend} half of the {food}, and they ate together.",
        f"The next day {friend} brought {name} {a(rng.choice(_THINGS))} as a present.",
    ]


def _journey(rng: Random, name: str, he: str, his: str, friend: str, kind: str) -> list[str]:
    wish = rng.choice(
        (
            "see the sea",
            "climb the highest mountain",
            "find the end of the rainbow",
            "touch the moon",
            "visit the big city",
            "learn to sing",
        )
    )
    return [
        f"{name} wanted to {wish}.",
        f"{rng.choice(_TIMES)} {he} packed some {rng.choice(FOODS)} and left home.",
        f"{rng.choice(_WEATHER)} The way was long, and {name} grew tired.",
        f"Then {he} met {friend} the {kind}, who wanted to {wish} too.",
        "They walked on side by side and told each other stories.",
        f"When they arrived, {name} laughed and said that the best part was the friend {he} had found.",
    ]


def _planting(rng: Random, name: str, he: str, his: str, friend: str, kind: str) -> list[str]:
    plant = rng.choice(("an apple tree", "a sunflower", "a rose", "a pumpkin", "a cherry tree"))
    return [
        f"{name} put a seed into the ground, because {he} wanted {plant}.",
        f"Every day {he} gave it water and waited.",
        f'"Nothing will grow there," said {friend} the {kind}.',
        f"But {name} did not give up.",
        f"{rng.choice(_TIMES)} a small green leaf came out of the ground, and it grew and grew.",
        f'"You were right," said {friend}, and they sat down in its shade.',
    ]


_PLOTS = (_lost_thing, _great_fear, _sharing, _journey, _planting)


def story(rng: Random, animal: str | None = None) -> str:
    """Six to ten sentences."""
    introduction, name, he, his = _hero(rng, animal)
    friend = rng.choice([n for n in rng.sample(NAMES, 2) if n != name])
    opening = rng.choice(("Once upon a time there was", "Once there was", "There once was", "Long ago there lived"))
    lines = [f"{opening} {introduction} who lived {rng.choice(_PLACES)}."]
    lines += rng.choice(_PLOTS)(rng, name, he, his, friend, rng.choice(ANIMALS))
    if rng.random() < 0.6:
        lines.append(f"From then on {name} and {friend} were the best of friends.")
    if rng.random() < 0.6:
        lines.append(f"{name} had learned that {rng.choice(_LESSONS)}.")
    if rng.random() < 0.3:
        lines.append("The end.")
    return " ".join(lines)


def story_text(rng: Random) -> Plain:
    text = story(rng)
    return Plain(text[:60], text)


def story_asked(rng: Random) -> Exchange:
    animal = rng.choice(ANIMALS) if rng.random() < 0.6 else None
    if animal is None:
        question = rng.choice(
            (
                "Tell me a story.",
                "Please tell me a story.",
                "Can you tell me a short story?",
                "Write a short story.",
                "I would like to hear a story.",
                "Tell me a bedtime story, please.",
            )
        )
    else:
        question = rng.choice(
            (
                f"Tell me a story about {a(animal)}.",
                f"Write a short story about {a(animal)}.",
                f"Can you tell me a story about {a(animal)}?",
                f"A story about {a(animal)}, please.",
            )
        )
    text = story(rng, animal)
    return Exchange.of(text[:60], question, text)


def about_me(rng: Random) -> Plain:
    """ "Hello, my name is ..." """
    name = rng.choice(NAMES)
    lines = [
        rng.choice(
            (f"Hello, my name is {name}.", f"Hi, I am {name}.", f"My name is {name}.", f"Hello, my name is {name}.")
        ),
        f"I am {rng.randint(6, 80)} years old.",
        rng.choice(
            (
                f"I have {a(rng.choice(ANIMALS))} and {a(rng.choice(ANIMALS))}.",
                f"I like {rng.choice(FOODS)} and {rng.choice(FOODS)}.",
            )
        ),
        f"My favorite color is {rng.choice(COLORS)}.",
        f"Today {rng.choice(('I am happy', 'the sun is shining', 'I am tired', 'it is raining'))}.",
    ]
    return Plain("", " ".join(lines[: rng.randint(2, 5)]))
