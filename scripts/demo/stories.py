"""Short stories from a small grammar: who, where, what went wrong, who helped, how it ended."""

import words
from words import informal

ASK = """Tell me a story about {a}.|Write a short story about {a}.|Tell me a story about {a}|a story about {a}, please
Can you tell me a story about {a}?|I want a story about {a}.|story about {a}|Write a story with {a} in it.
Tell a short story about {a}|Make up a story about {a}.|Once upon a time there was {a}. Go on!
Tell my daughter a bedtime story about {a}.|Please tell me a little story with {a}.""".replace("\n", "|").split("|")
ASK_ANY = ["Tell me a story.", "Tell me a short story", "Write a story.", "Can you tell a story?", "I want to hear a story.",
           "story please", "Tell me a bedtime story.", "Once upon a time", "Write a short story.", "Make up a story."]
KINDS = ["little", "old", "brave", "shy", "clever", "lazy", "hungry", "kind", "small", "curious", "quiet", "sleepy", "happy"]
HOMES = ["in a forest", "by the sea", "near a river", "on a hill", "under an old tree", "in a small village", "behind a mill",
         "on a green island", "in a quiet valley", "at the edge of a lake"]
LOVES = ["to count the stars", "to sing in the rain", "to collect round stones", "to tell jokes", "to sleep in the sun",
         "to look at the moon", "to bake small cakes", "to swim before breakfast", "to draw maps", "to listen to the wind"]
LOST = ["a red hat", "a silver key", "a small bell", "a blue lantern", "a golden button", "a wooden flute", "an old map", "a warm scarf"]
WHERE = ["under a big stone", "in a hollow tree", "at the bottom of a pond", "on top of a roof", "in a bird's nest",
         "behind a waterfall", "inside an old boot", "between two rocks"]
DREAMS = ["to see the sea", "to fly like a bird", "to find the end of the rainbow", "to touch the moon", "to learn to dance",
          "to cross the great river", "to climb the tallest hill", "to see snow"]
TROUBLES = [("a storm came and the bridge broke", "built a new bridge out of branches"),
            ("the river rose and the path was gone", "found a dry way over the stones"),
            ("thick fog hid the way home", "rang a bell until everyone was home"),
            ("the snow covered all the food", "shared soup with everybody"),
            ("a tree fell across the road", "pushed it away together"),
            ("the lamp in the tower went out", "lit a new lamp")]
LESSONS = ["two friends see more than one", "a small step is still a step", "it is good to ask for help", "kind words open doors",
           "even the smallest can do great things", "the best things are shared", "patience is a kind of strength"]
ENDINGS = ["They stayed friends for ever.", "That night they looked at the stars and laughed.", "From that day on, nobody was lonely.",
           "And they had cake for dinner.", "Then they fell asleep under the moon.", "Everyone in the valley still tells this story."]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def tell(rng, hero):
    """One of three plots: something lost, a dream, a trouble that takes two."""
    pick = rng.choice
    name, kind, friend = pick(words.NAMES), pick(KINDS), pick([a for a in words.ANIMALS if a != hero])
    start = pick([f"Once upon a time, {article(kind)} {hero} called {name} lived {pick(HOMES)}.",
                  f"There was once {article(kind)} {hero} called {name} who lived {pick(HOMES)}.",
                  f"Long ago, {article(kind)} {hero} lived {pick(HOMES)}. Its name was {name}."])
    loves = f"{name} loved {pick(LOVES)}."
    meet = pick([f"On the way {name} met {article(friend)}.", f"Then {article(friend)} came by.", f"Just then {name} heard a voice. It was {article(friend)}."])
    lesson, end = pick(LESSONS), pick(ENDINGS)
    plot = rng.randrange(3)
    if plot == 0:
        thing, place = pick(LOST), pick(WHERE)
        that = thing.split(" ", 1)[1]
        middle = (f"One day {name} lost {thing}. {name} looked everywhere and grew sad. {meet} \"I can help you,\" said the {friend}. "
                  f"They searched all day, and at last they found the {that} {place}.")
        close = f"{name} said thank you and learned that {lesson}."
    elif plot == 1:
        dream = pick(DREAMS)
        middle = (f"But most of all {name} wanted {dream}. One morning the {hero} packed some bread and set out. {meet} "
                  f"\"I always wanted {dream} too,\" said the {friend}. So they went together, day after day, until they had done it.")
        close = f"On the way back {name} thought that {lesson}."
    else:
        trouble, rescue = pick(TROUBLES)
        middle = f"One evening {trouble}. Everyone was afraid, but {name} had an idea. {meet} Side by side the {hero} and the {friend} {rescue}."
        close = f"So they learned that {lesson}."
    return f"{start} {loves} {middle} {close} {end}"


def story(rng, held):
    asked = rng.random() < 0.8 or held
    hero = rng.choice(words.ANIMALS)
    ask = rng.choice(ASK).format(a=article(hero)) if asked else rng.choice(ASK_ANY)
    return {"skill": "story", "expect": {"contains": [hero]}, "messages": [
        {"role": "user", "content": informal(rng, ask)},
        {"role": "assistant", "content": tell(rng, hero), "reasoning": f"I tell a short story about {article(hero)}."},
    ]}
