"""Small Python functions: written on request, and with a hole to fill in."""

from sums import exchange
from words import held_out, informal

# (function, what it does): the body uses the parameters named in the header.
FUNCTIONS = [
    ("def add({a}, {b}):\n    return {a} + {b}\n", "adds two numbers"),
    ("def subtract({a}, {b}):\n    return {a} - {b}\n", "subtracts two numbers"),
    ("def multiply({a}, {b}):\n    return {a} * {b}\n", "multiplies two numbers"),
    ("def divide({a}, {b}):\n    return {a} / {b}\n", "divides two numbers"),
    ("def square({a}):\n    return {a} * {a}\n", "squares a number"),
    ("def cube({a}):\n    return {a} * {a} * {a}\n", "returns the cube of a number"),
    ("def double({a}):\n    return 2 * {a}\n", "doubles a number"),
    ("def half({a}):\n    return {a} / 2\n", "halves a number"),
    ("def negate({a}):\n    return -{a}\n", "negates a number"),
    ("def increment({a}):\n    return {a} + 1\n", "adds one to a number"),
    ("def decrement({a}):\n    return {a} - 1\n", "takes one from a number"),
    ("def is_even({a}):\n    return {a} % 2 == 0\n", "checks if a number is even"),
    ("def is_odd({a}):\n    return {a} % 2 == 1\n", "checks if a number is odd"),
    ("def is_positive({a}):\n    return {a} > 0\n", "checks if a number is positive"),
    ("def is_negative({a}):\n    return {a} < 0\n", "checks if a number is negative"),
    ("def is_zero({a}):\n    return {a} == 0\n", "checks if a number is zero"),
    ("def is_equal({a}, {b}):\n    return {a} == {b}\n", "checks if two values are equal"),
    ("def maximum({a}, {b}):\n    if {a} > {b}:\n        return {a}\n    return {b}\n", "returns the larger of two numbers"),
    ("def minimum({a}, {b}):\n    if {a} < {b}:\n        return {a}\n    return {b}\n", "returns the smaller of two numbers"),
    ("def absolute({a}):\n    if {a} < 0:\n        return -{a}\n    return {a}\n", "returns the absolute value of a number"),
    ("def average({a}, {b}):\n    return ({a} + {b}) / 2\n", "returns the average of two numbers"),
    ("def mean({s}):\n    return sum({s}) / len({s})\n", "returns the mean of a list"),
    ("def total({s}):\n    result = 0\n    for {i} in {s}:\n        result += {i}\n    return result\n", "sums a list"),
    ("def product({s}):\n    result = 1\n    for {i} in {s}:\n        result *= {i}\n    return result\n", "multiplies the numbers of a list"),
    ("def count({s}, {b}):\n    result = 0\n    for {i} in {s}:\n        if {i} == {b}:\n            result += 1\n    return result\n", "counts a value in a list"),
    ("def largest({s}):\n    best = {s}[0]\n    for {i} in {s}:\n        if {i} > best:\n            best = {i}\n    return best\n", "finds the largest number in a list"),
    ("def smallest({s}):\n    best = {s}[0]\n    for {i} in {s}:\n        if {i} < best:\n            best = {i}\n    return best\n", "finds the smallest number in a list"),
    ("def first({s}):\n    return {s}[0]\n", "returns the first element of a list"),
    ("def last({s}):\n    return {s}[-1]\n", "returns the last element of a list"),
    ("def reverse({s}):\n    return {s}[::-1]\n", "reverses a list"),
    ("def length({s}):\n    return len({s})\n", "returns the length of a list"),
    ("def is_empty({s}):\n    return len({s}) == 0\n", "checks if a list is empty"),
    ("def contains({s}, {b}):\n    return {b} in {s}\n", "checks if a list contains a value"),
    ("def evens({s}):\n    return [{i} for {i} in {s} if {i} % 2 == 0]\n", "keeps the even numbers of a list"),
    ("def squares({s}):\n    return [{i} * {i} for {i} in {s}]\n", "squares the numbers of a list"),
    ("def positives({s}):\n    return [{i} for {i} in {s} if {i} > 0]\n", "keeps the positive numbers of a list"),
    ("def greet({n}):\n    return \"Hello, \" + {n}\n", "greets someone by name"),
    ("def is_palindrome({t}):\n    return {t} == {t}[::-1]\n", "checks if a word is a palindrome"),
    ("def shout({t}):\n    return {t}.upper() + \"!\"\n", "makes a text loud"),
    ("def factorial({a}):\n    if {a} == 0:\n        return 1\n    return {a} * factorial({a} - 1)\n", "computes the factorial"),
    ("def fibonacci({a}):\n    if {a} < 2:\n        return {a}\n    return fibonacci({a} - 1) + fibonacci({a} - 2)\n", "computes Fibonacci numbers"),
    ("def power({a}, {b}):\n    result = 1\n    for _ in range({b}):\n        result *= {a}\n    return result\n", "raises a number to a power"),
    ("def area({a}, {b}):\n    return {a} * {b}\n", "computes the area of a rectangle"),
    ("def perimeter({a}, {b}):\n    return 2 * ({a} + {b})\n", "computes the perimeter of a rectangle"),
    ("def celsius({a}):\n    return ({a} - 32) * 5 / 9\n", "converts Fahrenheit to Celsius"),
    ("def sign({a}):\n    if {a} > 0:\n        return 1\n    if {a} < 0:\n        return -1\n    return 0\n", "returns the sign of a number"),
    ("def countdown({a}):\n    while {a} > 0:\n        print({a})\n        {a} -= 1\n", "counts down to one"),
    ("def swap({a}, {b}):\n    return {b}, {a}\n", "swaps two values"),
]
NUMBERS = "a b x y n m k p q u v num number value left right first second width height".split()
LISTS = "items values numbers xs data list_ elements nums array things".split()
ITEMS = "item x i value n element number".split()
TEXTS = "text word s string name line".split()
ASK = ["Write a Python function that {d}.", "Write a function that {d}", "Python function that {d}", "How do I write a function that {d}?",
       "Give me a Python function that {d}.", "Code a function that {d}.", "Can you write a Python function that {d}?", "I need a function that {d}."]


def filled(rng, source):
    a, b = rng.sample(NUMBERS, 2)
    s, t = rng.choice(LISTS), rng.choice(TEXTS)
    i = rng.choice([w for w in ITEMS if w not in (b, s)])
    return source.format(a=a, b=b, s=s, i=i, t=t, n="name")


def writing(rng, held):
    source, does = rng.choice(FUNCTIONS)
    code = source.format(a="a", b="b", s="items", i="item", t="text", n="name")
    return exchange("writing code", informal(rng, rng.choice(ASK).format(d=does)), f"I write a function that {does}.", f"```python\n{code}```")


def hole(rng, source):
    """(prefix, suffix, middle), the hole being a statement, the rest of a line, or the whole body."""
    lines = source.splitlines(keepends=True)
    kind = rng.choice(["line", "rest", "rest", "body", "word"])
    if kind == "body":
        cut = len(lines[0]) + 4
        return source[:cut], "\n", source[cut:-1]
    n = rng.randrange(1, len(lines))
    start, line = sum(map(len, lines[:n])), lines[n].rstrip("\n")
    indent = len(line) - len(line.lstrip())
    places = [i for i in range(indent, len(line)) if i == indent or line[i - 1] == " "]
    begin = indent if kind == "line" else rng.choice(places)
    end = len(line)
    if kind == "word":
        stop = line.find(" ", begin)
        end = stop if stop > 0 else end
    return source[: start + begin], source[start + end :], source[start + begin : start + end]


def fim(rng, held):
    """A hole in a function, sometimes with another function before it as in a file."""
    while True:
        source = filled(rng, rng.choice(FUNCTIONS)[0])
        before = filled(rng, rng.choice(FUNCTIONS)[0]) + "\n\n" if rng.random() < 0.25 else ""
        prefix, suffix, middle = hole(rng, source)
        if held_out("fim", prefix, suffix) == held:
            suffix = rng.choice([suffix, suffix, suffix.rstrip("\n")])
            return {"skill": "fill in the middle", "prefix": before + prefix, "suffix": suffix, "middle": middle, "expect": {"content": middle.strip()}}
