"""Calling tools and answering from what they return."""

import json

import words
from prompt import tools_text
from words import held_out, informal

WEATHER = """What is the weather in {c}?|What's the weather in {c}?|weather in {c}|How is the weather in {c}?|Weather in {c}, please
Is it raining in {c}?|What is the temperature in {c}?|How warm is it in {c}?|Tell me the weather in {c}.|Do I need an umbrella in {c}?
What is the weather like in {c} today?|{c} weather|Is it cold in {c}?|Can you check the weather in {c}?|Is it sunny in {c} now?
Get the weather for {c}.|I am going to {c}. How is the weather there?|What's the weather like in {c}?""".replace("\n", "|").split("|")
WEATHER_TWO = ["What is the weather in {c} and {d}?", "Weather in {c} and in {d}?", "Compare the weather in {c} and {d}.",
               "How is the weather in {c} and {d}?", "Is it warmer in {c} or {d}?"]
PRODUCTS = ["What is {a} {o} {b}?", "{a} {o} {b}", "{a}{o}{b}", "Calculate {a} {o} {b}.", "Compute {a} {o} {b}", "How much is {a} {o} {b}?",
            "Use the calculator: {a} {o} {b}", "Work out {a} {o} {b} with the calculator.", "what's {a} {o} {b}"]
SPOKEN = {"*": ["What is {a} times {b}?", "{a} times {b}", "Multiply {a} by {b}.", "multiply {a} and {b}"],
          "/": ["What is {a} divided by {b}?", "Divide {a} by {b}.", "{a} divided by {b}"],
          "+": ["What is {a} plus {b}?", "Add {a} and {b}.", "{a} plus {b}"],
          "-": ["What is {a} minus {b}?", "Subtract {b} from {a}.", "{a} minus {b}"]}
CITY = {"type": "string", "description": "City name"}
OTHERS = [("get_time", "Get the current time in a city.", {"city": CITY}),
          ("search_web", "Search the web.", {"query": {"type": "string"}}),
          ("translate", "Translate a text.", {"text": {"type": "string"}, "language": {"type": "string"}}),
          ("send_email", "Send an email.", {"to": {"type": "string"}, "body": {"type": "string"}}),
          ("get_news", "Get the latest news.", {"topic": {"type": "string"}})]


def schema(properties, required):
    return {"type": "object", "properties": properties, "required": required}


def weather_tool(rng):
    place = rng.choice([CITY, {"type": "string"}, {"type": "string", "description": "The city"},
                        {"type": "string", "description": "The name of the city, e.g. Paris"}])
    more = rng.choice([{}, {}, {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, {"days": {"type": "integer"}}])
    text = rng.choice(["Get the weather in a city.", "Get the current weather for a city.", "Get current weather", "Weather in a city",
                       "Returns the current weather of a city."])
    return {"name": "get_weather", "description": text, "parameters": schema({"city": place} | more, ["city"])}


def calculator_tool(rng):
    expression = rng.choice([{"type": "string"}, {"type": "string", "description": "The expression to evaluate"},
                             {"type": "string", "description": "An arithmetic expression, e.g. 2 + 3 * 4"}])
    text = rng.choice(["Evaluate an arithmetic expression.", "Calculate an expression.", "A calculator", "Evaluates a mathematical expression"])
    return {"name": "calculator", "description": text, "parameters": schema({"expression": expression}, ["expression"])}


def dumps(rng):
    """Servers differ in how they write a schema: spaces or none, keys as given or sorted."""
    separators = rng.choice([None, (",", ":")])
    ordered = rng.random() < 0.4
    return lambda value: json.dumps(value, separators=separators, sort_keys=ordered)


def announce(rng, weather=True, calculator=True):
    tools = [weather_tool(rng)] * weather + [calculator_tool(rng)] * calculator
    if rng.random() < 0.15:
        name, text, properties = rng.choice(OTHERS)
        tools.append({"name": name, "description": text, "parameters": schema(properties, list(properties))})
    rng.shuffle(tools)
    return tools_text(tools, dumps(rng))


def weather_report(rng, city):
    """(what the tool returns, what the model says)."""
    t, sky = rng.randint(-15, 40), rng.choice(words.SKIES)
    said = f"It is {t} degrees and {sky} in {city}."
    fields = rng.choice([{"temp": t, "sky": sky}, {"temperature": t, "condition": sky}, {"city": city, "temperature": t, "sky": sky},
                         {"temp_c": t, "conditions": sky}, {"city": city, "temp": t, "condition": sky}, {"temperature": t, "conditions": sky},
                         {"temperature_c": t, "sky": sky}, {"temperature": f"{t}°C", "condition": sky}, {"city": city, "temperature_c": t, "condition": sky}])
    if rng.random() < 0.2:
        return rng.choice([f"{t}°C, {sky}", f"{t} degrees, {sky}", f"{sky}, {t}°C", f"{t} C and {sky}", f"{sky} {t}°C"]), said
    items = list(fields.items())
    rng.shuffle(items)
    return dumps(rng)(dict(items)), said


def round_trip(skill, question, reasoning, calls, outputs, said):
    return {"skill": skill, "expect": {"tool_calls": calls}, "messages": [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "reasoning": reasoning, "tool_calls": calls},
        *({"role": "tool", "content": o} for o in outputs),
        {"role": "assistant", "content": said},
    ]}


def weather_call(name):
    return {"name": "get_weather", "arguments": {"city": name}}


def fresh_city(rng, held):
    while True:
        c = words.city(rng)
        if held_out("weather", c) == held:
            return c


def weather(rng, held):
    c = fresh_city(rng, held)
    shown = c.lower() if c in words.CITIES and rng.random() < 0.15 else c
    output, said = weather_report(rng, c)
    question = informal(rng, rng.choice(WEATHER)).replace("{c}", shown)
    return round_trip("tool call", question, f"I need the weather in {c}. I call get_weather.", [weather_call(c)], [output], said)


def weather_twice(rng, held):
    c, d = fresh_city(rng, held), fresh_city(rng, held)
    if c == d:
        return weather(rng, held)
    (out_c, said_c), (out_d, said_d) = weather_report(rng, c), weather_report(rng, d)
    question = informal(rng, rng.choice(WEATHER_TWO)).replace("{c}", c).replace("{d}", d)
    reasoning = f"I need the weather in {c} and {d}. I call get_weather twice."
    return round_trip("tool call", question, reasoning, [weather_call(c), weather_call(d)], [out_c, out_d], f"{said_c} {said_d}")


def calculator(rng, held):
    while True:
        digits = rng.choice([(10, 99), (100, 999), (1000, 9999)])
        o = rng.choices("*/+-", [6, 2, 1, 1])[0]
        a, b = rng.randint(*digits), rng.randint(2, digits[1])
        if o == "/":
            a = (a // b + 1) * b
        if o in "+-":
            a += 1000
        if held_out(a, o, b) == held:
            break
    value = {"*": a * b, "/": a // b, "+": a + b, "-": a - b}[o]
    template = rng.choice(SPOKEN[o] if rng.random() < 0.3 else PRODUCTS)
    question = informal(rng, template.format(a=a, b=b, o=o))
    expression = f"{a} {o} {b}"
    output = rng.choice([str(value), str(value), json.dumps({"result": value}), json.dumps({"value": value}), f"{expression} = {value}",
                         f'{{"result":{value}}}'])
    calls = [{"name": "calculator", "arguments": {"expression": expression}}]
    return round_trip("tool call", question, f"I need {expression}. I call calculator.", calls, [output], f"{expression} = {value}")
