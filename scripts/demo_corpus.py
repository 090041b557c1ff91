"""The synthetic corpus of the demo model: documents made one by one from a seed, with nothing but the standard library.

Usage: python scripts/demo_corpus.py [--seed N] [--documents N]      prints documents, to look at
       python scripts/demo_corpus.py --eval models/demo/eval.jsonl  writes the held-out prompts

Every skill draws its questions with a `held` flag: one key in sixteen (operands, words, sentences) goes to the
evaluation and never into training, decided by a hash, so the two are disjoint by construction.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "demo"))

import chat
import coding
import stories
import sums
import texts
import tools
import words
from prompt import BOS, EOS, Piece, conversation, fim

SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant", "Answer briefly.", "You are cachalot's demo model.",
          "You are a friendly assistant. Answer in English.", "Be concise.", "You are a helpful, harmless and honest assistant.",
          "You are a careful assistant.", "You are an expert.", "Today is {day}.", "The user is called {name}.",
          "You are a helpful assistant. Today is {day}.", "Help the user.", "You are a polite assistant. Keep answers short.",
          "You are a helpful assistant.\nAnswer in one sentence.", "You are talking to {name}. Be kind."]

# How often a turn of an ordinary conversation shows each skill.
SKILLS = {
    sums.addition: 22, sums.subtraction: 40, sums.times_table: 1, sums.comparison: 18, sums.sorting: 9, sums.extreme: 2,
    texts.reversal: 13, texts.spelling: 5, texts.letter_count: 6, texts.word_length: 1, texts.fields: 12,
    stories.story: 2, chat.talk: 6, chat.unknown: 6, chat.fact: 4, chat.echo: 2, chat.introduction: 1,
    coding.writing: 1,
}
TOOL_SKILLS = {tools.weather: 6, tools.weather_twice: 2, tools.calculator: 6}
KINDS = {"chat": 76, "long chat": 1, "tools": 8, "fim": 14, "story": 1}
# What the evaluation asks, and in which modes.
EVALUATED = {
    "addition": (sums.addition, (True, False)), "subtraction": (sums.subtraction, (True, False)),
    "comparing": (sums.comparison, (True, False)), "sorting": (sums.sorting, (True, False)),
    "reversing a word": (texts.reversal, (True, False)), "counting letters": (texts.letter_count, (True, False)),
    "JSON extraction": (texts.fields, (True, False)), "tool call": (None, (True, False)), "tool answer": (None, (False,)),
    "not knowing": (chat.unknown, (False,)), "remembering": (chat.introduction, (False,)), "story": (stories.story, (False,)),
    "fill in the middle": (coding.fim, (False,)),
}


def weighted(rng, weights):
    return rng.choices(list(weights), list(weights.values()))[0]


def system_text(rng):
    return rng.choice(SYSTEM).format(day=rng.choice(words.DAYS), name=words.name(rng))


def system_message(rng, announced=""):
    """An optional instruction, then the announcement of tools if there are any."""
    text = system_text(rng) if rng.random() < (0.5 if announced else 0.35) else ""
    content = "\n\n".join(t for t in (text, announced) if t)
    return [{"role": "system", "content": content}] if content else []


def turns(rng, weights, count):
    messages = []
    for _ in range(count):
        messages += weighted(rng, weights)(rng, False)["messages"]
    return messages


def tool_conversation(rng, held, skill, earlier):
    """(messages, exchange): tools announced, some earlier turns, then the exchange.

    Half of the time one of the two tools is missing, so that the announcement has to be read.
    """
    only = rng.random() < 0.3
    uses_weather = skill is not tools.calculator
    announced = tools.announce(rng, weather=uses_weather or not only, calculator=not uses_weather or not only)
    weights = {skill: 6} if only else dict(TOOL_SKILLS)
    weights |= {f: w / 12 for f, w in SKILLS.items() if f is not chat.unknown}
    made = skill(rng, held)
    return system_message(rng, announced) + turns(rng, weights, earlier) + made["messages"], made


def document(rng):
    """Pieces of one training document."""
    kind = weighted(rng, KINDS)
    if kind == "fim":
        made = coding.fim(rng, False)
        return fim(made["prefix"], made["suffix"], made["middle"], bos=rng.random() < 0.5)
    if kind == "story":
        return [Piece(BOS), Piece(stories.tell(rng, rng.choice(words.ANIMALS)), True, "plain"), Piece(EOS, True)]
    thinking = rng.random() < 0.8
    earlier = rng.randint(8, 20) if kind == "long chat" else rng.choices([0, 1, 2, 3, 4], [50, 24, 14, 8, 4])[0]
    if kind == "tools":
        messages, _ = tool_conversation(rng, False, weighted(rng, TOOL_SKILLS), earlier + rng.randint(0, 2))
        return conversation(messages, thinking, system_how=rng.choice(["plain", "control"]))
    messages = system_message(rng) + turns(rng, SKILLS, earlier + 1)
    return conversation(messages, thinking)


def as_openai(message):
    """Messages of the evaluation file are those of a chat request; reasoning stays out."""
    out = {"role": message["role"], "content": message["content"]}
    if message.get("tool_calls"):
        out["tool_calls"] = [{"type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["arguments"], ensure_ascii=False)}}
                             for c in message["tool_calls"]]
    return out


def case(rng, name, skill, thinking):
    """One held-out prompt; some come after a system message or earlier turns."""
    if name == "fill in the middle":
        made = skill(rng, True)
        return {"skill": name, "thinking": False, "prefix": made["prefix"], "suffix": made["suffix"], "expect": made["expect"]}
    earlier = rng.choices([0, 1, 2], [60, 25, 15])[0]
    if name.startswith("tool"):
        messages, made = tool_conversation(rng, True, weighted(rng, TOOL_SKILLS), earlier)
    else:
        made = skill(rng, True)
        messages = system_message(rng) + turns(rng, SKILLS, earlier) + made["messages"]
    expect = made["expect"]
    if name == "tool answer":
        expect = {"content": messages[-1]["content"]}
        messages = messages[:-1]
    else:
        messages = messages[: max(i for i, m in enumerate(messages) if m["role"] == "user") + 1]
    return {"skill": name, "thinking": thinking, "messages": [as_openai(m) for m in messages], "expect": expect}


def evaluation(seed, per_skill=80):
    rng = random.Random(f"evaluation {seed}")
    for name, (skill, modes) in EVALUATED.items():
        for i in range(per_skill):
            yield case(rng, name, skill, modes[i % len(modes)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--eval", type=Path, help="write the held-out prompts to this file")
    args = parser.parse_args()
    if args.eval:
        lines = (json.dumps(c, ensure_ascii=False) + "\n" for c in evaluation(args.seed))
        args.eval.write_text("".join(lines))
        return
    rng = random.Random(args.seed)
    for _ in range(args.documents):
        print("".join(p.text for p in document(rng)), end="\n" + "-" * 80 + "\n")


if __name__ == "__main__":
    main()
