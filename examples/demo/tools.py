"""Conversations with tools in the Hermes way: a call, its result, and the answer drawn from the result.

Called by examples/demo_corpus.py. Names, descriptions and parameters vary, so that the model reads them from the system
turn instead of knowing them by heart.
"""

import json
from random import Random
from typing import Any

from demo.arithmetic import problem_key
from demo.kinds import Exchange, Message, is_held_out, says
from demo.people import CITIES, FOODS, JOBS, NAMES

Tool = dict[str, Any]
_TEXT = {"type": "string"}


def _tool(
    rng: Random, name: str, description: str, required: dict[str, Any], optional: dict[str, Any] | None = None
) -> Tool:
    properties = {key: dict(value) for key, value in (required | (optional or {})).items()}
    if rng.random() < 0.4:
        properties = {key: {k: v for k, v in value.items() if k != "description"} for key, value in properties.items()}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _weather_tool(rng: Random) -> tuple[Tool, str, bool]:
    """(tool, name of the parameter for the city, whether it takes a unit)."""
    name = rng.choice(
        ("get_weather", "get_weather", "weather", "get_current_weather", "weather_lookup", "fetch_weather")
    )
    place, unit = rng.choice(("city", "city", "location", "place")), rng.random() < 0.6
    description = rng.choice(
        (
            "Get the weather in a city.",
            "Get the current weather",
            "Returns the weather for a city",
            "Look up the weather of a place.",
            "Get the current weather in a given location",
        )
    )
    about = {
        **_TEXT,
        "description": rng.choice(
            ("The city", "Name of the city", "City name, e.g. Paris", "The city, e.g. San Francisco")
        ),
    }
    units = {**_TEXT, "enum": ["celsius", "fahrenheit"], "description": "Unit of the temperature"}
    return _tool(rng, name, description, {place: about}, {"unit": units} if unit else None), place, unit


def _calculator_tool(rng: Random) -> tuple[Tool, str]:
    name = rng.choice(("calculator", "calculator", "calculate", "evaluate", "compute", "math"))
    key = rng.choice(("expression", "expression", "expression", "formula", "input"))
    description = rng.choice(
        (
            "Evaluate an arithmetic expression.",
            "Calculate the result of an expression",
            "A calculator",
            "Computes an arithmetic expression and returns the result.",
        )
    )
    return _tool(
        rng, name, description, {key: {**_TEXT, "description": rng.choice(("The expression", "For example 2 + 3"))}}
    ), key


def _time_tool(rng: Random) -> tuple[Tool, str]:
    name = rng.choice(("get_time", "get_time", "time", "current_time", "get_current_time", "clock"))
    key = rng.choice(("city", "city", "timezone", "location"))
    description = rng.choice(
        ("Get the current time in a city.", "Returns the time of day in a place", "Get the local time")
    )
    return _tool(
        rng, name, description, {key: {**_TEXT, "description": rng.choice(("The city", "City or time zone"))}}
    ), key


def _other_tool(rng: Random) -> Tool:
    """A tool that is there but may not be needed."""
    number = {"type": "integer"}
    return rng.choice(
        (
            lambda: _tool(
                rng,
                "send_email",
                "Send an email",
                {"to": {**_TEXT, "description": "Who gets it"}, "subject": _TEXT, "body": _TEXT},
            ),
            lambda: _tool(
                rng, "search_web", "Search the web", {"query": {**_TEXT, "description": "What to search for"}}
            ),
            lambda: _tool(rng, "translate", "Translate a text", {"text": _TEXT, "language": _TEXT}),
            lambda: _tool(
                rng,
                "get_stock_price",
                "Get the price of a stock",
                {"symbol": {**_TEXT, "description": "Symbol of the stock"}},
            ),
            lambda: _tool(rng, "book_table", "Book a table in a restaurant", {"city": _TEXT, "guests": number}),
            lambda: _tool(rng, "roll_dice", "Roll dice", {"sides": number}),
            lambda: _weather_tool(rng)[0],
            lambda: _calculator_tool(rng)[0],
            lambda: _time_tool(rng)[0],
        )
    )()


def _call(tool: Tool, **arguments: Any) -> Message:
    return {"type": "function", "function": {"name": tool["function"]["name"], "arguments": arguments}}


def _exchange(key: str, tool: Tool, user: str, calls: list[Message], results: list[Any], answer: str) -> Exchange:
    asks = {"role": "assistant", "content": "", "tool_calls": calls}
    found = [says("tool", r if isinstance(r, str) else json.dumps(r)) for r in results]
    return Exchange(key, (says("user", user), asks, *found, says("assistant", answer)), tools=(tool,))


def weather(rng: Random) -> Exchange:
    tool, place, takes_unit = _weather_tool(rng)
    cities = rng.sample(CITIES, 2 if rng.random() < 0.12 else 1)
    unit = rng.choice(("celsius", "fahrenheit")) if takes_unit and rng.random() < 0.5 else None
    ask = rng.choice(
        (
            "What is the weather in {c}{u}?",
            "How is the weather in {c}{u}?",
            "What's the weather like in {c}{u}?",
            "Weather in {c}{u}?",
            "Tell me the weather in {c}{u}.",
            "What's the weather like in {c} today{u}?",
            "How warm is it in {c}{u}?",
            "Please check the weather in {c}{u}.",
            "I am going to {c}. How is the weather there{u}?",
            "Is it cold in {c}{u}?",
            "What is the temperature in {c}{u}?",
        )
    )
    user = ask.format(c=" and ".join(cities), u=f" in {unit.capitalize()}" if unit else "")
    calls = [_call(tool, **{place: city}, **({"unit": unit} if unit else {})) for city in cities]
    results, lines, form = [], [], rng.randrange(4)
    for city in cities:
        degrees = rng.randint(20, 100) if unit == "fahrenheit" else rng.randint(-10, 38)
        sky = rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy"])
        result = (
            {"temperature": degrees, "condition": sky},
            {"city": city, "temperature": degrees, "condition": sky},
            f"{degrees} degrees and {sky}",
            {place: city, "condition": sky, "temperature": degrees, "unit": unit or "celsius"},
        )[form]
        results.append(result)
        lines.append(f"It is {degrees} degrees and {sky} in {city}.")
    return _exchange("weather|" + "|".join(cities) + f"|{unit}", tool, user, calls, results, " ".join(lines))


def calculator(rng: Random) -> Exchange:
    tool, key = _calculator_tool(rng)
    top = rng.choice((10, 100, 1000, 10000))
    operator = rng.choice("+-*")
    a, b = rng.randrange(1, top), rng.randrange(1, top)
    while is_held_out(problem_key(operator, a, b)):  # nor may a held-out sum appear in a tool's answer
        a, b = rng.randrange(1, top), rng.randrange(1, top)
    expression, result = f"{a} {operator} {b}", {"+": a + b, "-": a - b, "*": a * b}[operator]
    if rng.random() < 0.15:
        c = rng.randrange(1, 100)
        expression, result = f"{expression} + {c}", result + c
    ask = rng.choice(
        (
            "What is {e}?",
            "Calculate {e}.",
            "How much is {e}?",
            "Compute {e}",
            "Please calculate {e}.",
            "{e} = ?",
            "What's {e}?",
            "Use the calculator: {e}",
            "Can you work out {e}?",
        )
    )
    shown = result if rng.random() < 0.5 else {"result": result}
    return _exchange(
        f"calculator|{expression}",
        tool,
        ask.format(e=expression),
        [_call(tool, **{key: expression})],
        [str(shown) if isinstance(shown, int) else shown],
        f"{expression} = {result}.",
    )


def time(rng: Random) -> Exchange:
    tool, key = _time_tool(rng)
    city = rng.choice(CITIES)
    ask = rng.choice(
        (
            "What time is it in {c}?",
            "What is the time in {c}?",
            "Tell me the time in {c}.",
            "How late is it in {c}?",
            "What's the local time in {c}?",
            "Do you know what time it is in {c}?",
            "Time in {c}?",
        )
    )
    clock = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    result = rng.choice((clock, {"time": clock}, {key: city, "time": clock}))
    return _exchange(
        f"time|{city}", tool, ask.format(c=city), [_call(tool, **{key: city})], [result], f"It is {clock} in {city}."
    )


def errand(rng: Random) -> Exchange:
    """Tools with numbers and with several arguments."""
    if rng.random() < 0.4:
        key, minutes = rng.choice(("minutes", "duration")), rng.randint(1, 90)
        name = rng.choice(("set_timer", "start_timer", "timer"))
        tool = _tool(
            rng,
            name,
            rng.choice(("Set a timer", "Start a timer")),
            {key: {"type": "integer", "description": "How many minutes"}},
        )
        user = rng.choice(
            ("Set a timer for {m} minutes.", "Wake me in {m} minutes.", "Start a timer of {m} minutes.")
        ).format(m=minutes)
        return _exchange(
            f"timer|{minutes}",
            tool,
            user,
            [_call(tool, **{key: minutes})],
            [{"ok": True}],
            f"The timer is set for {minutes} minutes.",
        )
    if rng.random() < 0.5:
        who, what = (
            rng.choice(NAMES),
            rng.choice(
                (
                    "I am late",
                    "dinner is ready",
                    "happy birthday",
                    "see you soon",
                    "I am at home",
                    "thank you",
                    "call me",
                )
            ),
        )
        key, name = rng.choice(("text", "message")), rng.choice(("send_message", "send_text", "message"))
        tool = _tool(rng, name, "Send a message to a person", {"to": _TEXT, key: _TEXT})
        user = rng.choice(("Tell {w}: {x}", "Send {w} a message: {x}", "Write to {w}: {x}")).format(w=who, x=what)
        return _exchange(
            f"message|{who}|{what}",
            tool,
            user,
            [_call(tool, to=who, **{key: what})],
            [{"ok": True}],
            f"I told {who}: {what}",
        )
    item, cents = rng.choice(FOODS + JOBS), rng.randint(50, 5000)
    key, kind = rng.choice(("product", "item", "name")), rng.choice(("price", "stock"))
    name = rng.choice((f"get_{kind}", f"{kind}_lookup", f"find_{kind}", f"check_{kind}"))
    tool = _tool(rng, name, f"Look up the {kind} of something", {key: {**_TEXT, "description": "What to look up"}})
    value: Any = cents / 100 if kind == "price" else cents
    user = rng.choice(("What is the {k} of {i}?", "Look up the {k} of {i}.", "Check the {k} of {i}, please.")).format(
        k=kind, i=item
    )
    return _exchange(
        f"{kind}|{item}|{cents}",
        tool,
        user,
        [_call(tool, **{key: item})],
        [{kind: value}],
        f"The {kind} of {item} is {value}.",
    )


def needed(rng: Random) -> Exchange:
    return rng.choice((weather, weather, weather, calculator, calculator, time, time, errand))(rng)


def offered(rng: Random, own: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The tools of a conversation: the needed ones and up to three others of other names and purposes, in any order."""
    chosen = {_purpose(tool): tool for tool in own}
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        other = _other_tool(rng)
        chosen.setdefault(_purpose(other), other)
    listed = list(chosen.values())
    rng.shuffle(listed)
    return tuple(listed)


def _purpose(tool: Tool) -> str:
    properties = tool["function"]["parameters"]["properties"]
    for word in ("weather", "time", "stock", "price"):
        if word in tool["function"]["name"] + tool["function"]["description"].lower():
            return word
    return "calculator" if {"expression", "formula", "input"} & set(properties) else str(tool["function"]["name"])


def without_tool(rng: Random) -> Exchange:
    """Asked for what only a tool could know, and there is none."""
    city = rng.choice(CITIES)
    what = rng.choice(("weather", "time"))
    asks = {
        "weather": ("What is the weather in {c}?", "How is the weather in {c}?", "Weather in {c}?"),
        "time": ("What time is it in {c}?", "Tell me the time in {c}."),
    }
    return Exchange.of(
        "",
        rng.choice(asks[what]).format(c=city),
        f"I cannot look up the {what} in {city}, because I have no tool for it.",
    )
