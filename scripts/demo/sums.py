"""Arithmetic, comparing and sorting, with the working that thinking mode writes out."""

from words import held_out, informal, number

ADD = """{a} + {b}|{a}+{b}|What is {a} + {b}?|what is {a}+{b}?|What's {a} + {b}?|What is {a} plus {b}?|Add {a} and {b}.
Calculate {a} + {b}|Compute {a}+{b}|How much is {a} + {b}?|How much is {a} plus {b}?|{a} plus {b}|Sum of {a} and {b}
What is the sum of {a} and {b}?|Can you add {a} and {b}?|{a} + {b} = ?|{a}+{b}=|{a} + {b} =|Please work out {a} + {b}.
Solve {a} + {b}|I need {a} + {b}|Tell me {a} + {b}|Add {a} to {b}|What do you get if you add {a} and {b}?
I have {a} apples and get {b} more. How many do I have?|What does {a} + {b} make?|Add up {a} and {b}.
There are {a} cats and {b} dogs. How many animals are there?|{a} and {b} together make?|what's {a}+{b}""".replace("\n", "|").split("|")
SUBTRACT = """{a} - {b}|{a}-{b}|What is {a} - {b}?|what is {a}-{b}?|What's {a} - {b}?|What is {a} minus {b}?|{a} minus {b}
Calculate {a} - {b}|Compute {a}-{b}|How much is {a} - {b}?|How much is {a} minus {b}?|Subtract {b} from {a}.
Take {b} away from {a}.|Can you subtract {b} from {a}?|{a} - {b} = ?|{a}-{b}=|{a} - {b} =|Please work out {a} - {b}.
Solve {a} - {b}|I need {a} - {b}|Tell me {a} - {b}|What is {a} take away {b}?|what's {a}-{b}
I had {a} coins and lost {b}. How many are left?|What is left if I take {b} from {a}?""".replace("\n", "|").split("|")
TIMES = ["{a} * {b}", "{a}*{b}", "What is {a} * {b}?", "What is {a} times {b}?", "{a} times {b}", "{a} x {b}",
         "Multiply {a} by {b}.", "How much is {a} times {b}?", "Calculate {a} * {b}"]
COLUMNS = ["ones", "tens", "hundreds", "thousands"]


def column_sum(a, b):
    """Written addition: one line per column from the right, each naming digits, result and carry."""
    width = max(len(str(a)), len(str(b)))
    lines, carry = [f"{a:0{width}} + {b:0{width}}"], 0
    for i in range(width):
        x, y = a // 10**i % 10, b // 10**i % 10
        total = x + y + carry
        lines.append(f"{COLUMNS[i]}: {x} + {y} + {carry} = {total}, write {total % 10}, carry {total // 10}")
        carry = total // 10
    return "\n".join(lines + [f"sum {a + b:0{width}}"])


def column_difference(a, b):
    """Written subtraction with borrowing; a smaller first number is taken from the larger and negated."""
    if a < b:
        return f"{a} is less than {b}, so the answer is negative\n" + column_difference(b, a)
    width = max(len(str(a)), len(str(b)))
    lines, borrow = [f"{a:0{width}} - {b:0{width}}"], 0
    for i in range(width):
        x, y = a // 10**i % 10, b // 10**i % 10
        rest = x - y - borrow
        lines.append(f"{COLUMNS[i]}: {x} - {y} - {borrow} = {rest}, write {rest % 10}, borrow {int(rest < 0)}")
        borrow = int(rest < 0)
    return "\n".join(lines + [f"rest {a - b:0{width}}"])


def exchange(skill, question, reasoning, answer, **extra):
    return {"skill": skill, "expect": {"content": answer}, "messages": [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "reasoning": reasoning} | extra,
    ]}


def operands(rng, held, op):
    """Sums of small numbers are a table to know by heart, so they are always trained on and never tested."""
    while True:
        small = rng.random() < 0.15
        a, b = (rng.randint(0, 19), rng.randint(0, 19)) if small else (number(rng), number(rng))
        if max(a, b) < 20:
            if not held:
                return a, b
        elif held_out(op, a, b) == held:
            return a, b


def addition(rng, held):
    a, b = operands(rng, held, "+")
    question = informal(rng, rng.choice(ADD).format(a=a, b=b))
    return exchange("addition", question, column_sum(a, b), f"{a} + {b} = {a + b}")


def subtraction(rng, held):
    a, b = operands(rng, held, "-")
    if a < b and rng.random() < 0.65 and (max(a, b) < 20 or held_out("-", b, a) == held):
        a, b = b, a
    question = informal(rng, rng.choice(SUBTRACT).format(a=a, b=b))
    return exchange("subtraction", question, column_difference(a, b), f"{a} - {b} = {a - b}")


def times_table(rng, held):
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = informal(rng, rng.choice(TIMES).format(a=a, b=b))
    return exchange("times table", question, "This is in the times table.", f"{a} * {b} = {a * b}")


def by_column(a, b):
    """Says which of two numbers is smaller, and by which column."""
    width = max(len(str(a)), len(str(b)))
    for i in reversed(range(width)):
        x, y = a // 10**i % 10, b // 10**i % 10
        if x != y:
            return f"{a:0{width}} and {b:0{width}}: {COLUMNS[i]} {x} {'<' if x < y else '>'} {y}, so {a} {'<' if x < y else '>'} {b}"
    return f"{a:0{width}} and {b:0{width}}: all digits are the same"


BIGGER = ["Which is bigger, {a} or {b}?", "Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?",
          "What is greater, {a} or {b}?", "Compare {a} and {b}.", "{a} or {b}, which is bigger?", "Which is more, {a} or {b}?"]
SMALLER = ["Which is smaller, {a} or {b}?", "Which number is smaller: {a} or {b}?", "Which is less, {a} or {b}?",
           "{a} or {b}, which is smaller?", "What is the smaller one, {a} or {b}?"]
IS_BIGGER = ["Is {a} bigger than {b}?", "Is {a} larger than {b}?", "Is {a} greater than {b}?", "is {a} more than {b}?", "Is {a} > {b}?"]
IS_SMALLER = ["Is {a} smaller than {b}?", "Is {a} less than {b}?", "Is {a} < {b}?"]


def comparison(rng, held):
    while True:
        a, b = number(rng), number(rng)
        if rng.random() < 0.3:
            b = max(0, a + rng.randint(-9, 9))
        if a != b and held_out("compare", a, b) == held:
            break
    kind = rng.choice([BIGGER, BIGGER, SMALLER, IS_BIGGER, IS_SMALLER])
    low, high = min(a, b), max(a, b)
    if kind is BIGGER:
        answer = f"{high} is bigger than {low}."
    elif kind is SMALLER:
        answer = f"{low} is smaller than {high}."
    else:
        yes = (a > b) == (kind is IS_BIGGER)
        answer = f"{'Yes' if yes else 'No'}, {a} is {'bigger' if a > b else 'smaller'} than {b}."
    question = informal(rng, rng.choice(kind).format(a=a, b=b))
    return exchange("comparing", question, by_column(a, b), answer)


UPWARDS = ["Sort {n}", "Sort these numbers: {n}", "Put in order: {n}", "Order {n}", "sort the numbers {n}", "Sort {n} from small to large.",
           "Arrange {n} in ascending order.", "Can you sort {n}?", "Put {n} in order.", "Please sort this list: {n}",
           "Sort from smallest to largest: {n}"]
DOWNWARDS = ["Sort {n} from large to small.", "Sort {n} in descending order.", "Sort from largest to smallest: {n}",
             "Put in descending order: {n}", "Arrange {n} from biggest to smallest."]


def listed(rng, numbers):
    style = rng.random()
    if style < 0.7:
        return ", ".join(map(str, numbers))
    if style < 0.85:
        return " ".join(map(str, numbers))
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


def sorting(rng, held):
    """Thinking mode selects: it repeats what is left and names the next number."""
    while True:
        numbers = rng.sample(range(rng.choice([10, 50, 100])), rng.randint(3, 6))
        if held_out("sort", *numbers) == held:
            break
    down = rng.random() < 0.3
    question = informal(rng, rng.choice(DOWNWARDS if down else UPWARDS).format(n=listed(rng, numbers)))
    left, lines = list(numbers), []
    for pick in sorted(numbers, reverse=down):
        lines.append(f"{' '.join(map(str, left))}: {pick}")
        left.remove(pick)
    return exchange("sorting", question, "\n".join(lines), ", ".join(map(str, sorted(numbers, reverse=down))))


EXTREME = {max: ["What is the largest of {n}?", "Which is the biggest: {n}?", "What is the maximum of {n}?", "max of {n}"],
           min: ["What is the smallest of {n}?", "Which is the smallest: {n}?", "What is the minimum of {n}?", "min of {n}"]}


def extreme(rng, held):
    while True:
        numbers = rng.sample(range(rng.choice([10, 100])), rng.randint(3, 5))
        if held_out("extreme", *numbers) == held:
            break
    pick = rng.choice([max, min])
    question = informal(rng, rng.choice(EXTREME[pick]).format(n=listed(rng, numbers)))
    lines, best = [str(numbers[0])], numbers[0]
    for n in numbers[1:]:
        best = pick(best, n)
        lines.append(f"{n}, so far {best}")
    return exchange("comparing", question, "\n".join(lines), str(best))
