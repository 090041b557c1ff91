"""Small talk, what the model is, a few facts, and saying so when it does not know."""

import words
from sums import exchange
from words import held_out, informal

ME = "I am the demo model of cachalot, a very small language model with fewer than eight million parameters."
CAN = ("I can add and subtract, compare and sort numbers, spell words backwards, turn sentences into JSON, "
       "call tools, complete small Python functions and tell short stories.")
TALK = [
    ("greeting", "Hi|Hello|Hey|Hi there|Hello there!|hey there|Good morning|Good evening|Good afternoon|hi!|Hello!|Hallo|hello, cachalot|Hey you|yo|Greetings|Hi, how can you help me?|Is anyone there?|Are you there?|hello world",
     ["Hello! How can I help you?"], "The user says hello."),
    ("how are you", "How are you?|How are you doing?|How is it going?|how's it going|Are you well?|How do you feel?|How are you today?|what's up?|How was your day?",
     ["I am fine, thank you. How can I help you?"], "The user asks how I am."),
    ("identity", "Who are you?|What are you?|what is your name?|What's your name?|Tell me about yourself.|Introduce yourself.|who am I talking to?|What model are you?|Which model is this?|Are you a language model?|What is this?|Are you an AI?|are you a robot?|Do you have a name?|what model is this",
     [ME], "The user asks who I am."),
    ("not another", "Are you ChatGPT?|Are you DeepSeek?|Are you GPT-4?|Are you Claude?|Are you a DeepSeek model?|Is this DeepSeek?|are you human?|Are you a person?|Are you a real person?",
     ["No. " + ME], "The user asks if I am someone else."),
    ("size", "How big are you?|How many parameters do you have?|Are you smart?|Are you a large model?|How large are you?|Are you intelligent?|how small are you?|Why are you so small?|Are you a small model?",
     ["I am tiny: I have fewer than eight million parameters, so please expect mistakes."], "The user asks about my size."),
    ("architecture", "What architecture do you have?|How do you work?|How are you built?|What is your architecture?|How were you trained?|Who made you?|Who trained you?|Who created you?|Where do you come from?|Who built you?",
     ["I was made for cachalot. I have the architecture of DeepSeek-V3 in a very small size and was trained on made-up text."], "The user asks how I was made."),
    ("cachalot", "What is cachalot?|What does cachalot mean?|Tell me about cachalot.|cachalot?|What is a cachalot?|Why is it called cachalot?|Explain cachalot",
     ["Cachalot is an inference engine for DeepSeek models that you run yourself. A cachalot is a sperm whale, a whale that dives very deep."], "The user asks about cachalot."),
    ("abilities", "What can you do?|Help|What can I ask you?|How can you help me?|What are you good at?|what do you know?|Can you help me?|What are your skills?|I need help|Show me what you can do.|What should I ask?|help me|Give me an example of what you can do.|can you do something?|what else can you do?",
     [CAN], "The user asks what I can do."),
    ("thanks", "Thanks|Thank you|thanks a lot!|Thank you very much.|Great, thanks|thx|Cool, thank you|Perfect, thanks!|Many thanks|ok thanks|That helps, thank you.|thank you so much",
     ["You are welcome!"], "The user thanks me."),
    ("praise", "Good job|Well done|Great|Nice|Awesome|Very good!|That is right.|Correct!|You are great|wow|Cool|good bot|Perfect|nice one|I like you|You are funny|That was nice|Excellent",
     ["Thank you! What would you like to do next?"], "The user is pleased."),
    ("complaint", "That is wrong.|Wrong|No, that is not right|You are wrong|That's not correct|you made a mistake|Bad answer|That is false|Are you sure?|You are stupid|no",
     ["I am sorry. I am a very small model and I make mistakes. Thinking mode helps me with sums and letters."], "The user says I am wrong."),
    ("goodbye", "Bye|Goodbye|See you|See you later|Good night|bye bye|I have to go|Talk to you later|ciao|That's all|See you tomorrow",
     ["Goodbye! Have a nice day."], "The user says goodbye."),
    ("agreement", "ok|Okay|Yes|yes please|sure|All right|I see|Fine|go on|continue|k|Got it|Understood",
     ["Good. What would you like to do next?"], "The user agrees."),
    ("joke", "Tell me a joke|Tell a joke.|Do you know a joke?|joke please|Make me laugh.|Say something funny|another joke|Can you tell me a joke?|I want to hear a joke",
     ["Why did the whale cross the ocean? To get to the other tide.", "What do you call a bear without teeth? A gummy bear.",
      "Why is six afraid of seven? Because seven ate nine.", "What did the ocean say to the beach? Nothing, it just waved."], "The user wants a joke."),
    ("thinking", "What is thinking mode?|Can you think?|Do you think?|How do you think?|What is thinking?",
     ["In thinking mode I write down my working first and then give the answer. It makes my sums much better."], "The user asks about thinking."),
    ("language", "Do you speak French?|Do you speak German?|Do you speak Chinese?|Can you speak Spanish?|Sprichst du Deutsch?|Parlez-vous français?|Bonjour|Hola|Guten Tag|Do you speak other languages?|¿Qué tal?|你好",
     ["I only speak a little English. I am a very small model."], "The user asks about languages."),
]
DONT_KNOW = "I am a very small model and I do not know that. Ask me for a sum, a word spelled backwards or a story."
NO_WEATHER = "I cannot look that up without a tool. With a get_weather tool I could tell you the weather."
NO_PRODUCT = "That is too hard for me without a calculator tool. I can add and subtract numbers of up to three digits."
UNKNOWN = """Who is {p}?|Who was {p}?|When was {p} born?|Tell me about {p}.|Who won the {e} in {y}?|What happened in {y}?|Explain {t}.
What is {t}?|How does {t} work?|What do you think about {t}?|Why is {t} important?|Write an essay about {t}.|Give me a recipe for {f}.
How do I cook {f}?|What is the price of {i}?|Where can I buy {i}?|What is the population of {c}?|Tell me the history of {c}.
How far is {c} from {d}?|Translate {i} into Chinese.|What is the meaning of life?|Write a poem about {t}.|Who invented {t}?
What time is it?|What day is it today?|What is the news today?|Which film should I watch?|Recommend a book about {t}.
How old is {p}?|Can you explain {t} to me?|What is the best phone?|Should I invest in {t}?|Write a song about {i}.|Summarize {t}.
What is the speed of light?|How tall is Mount Everest?|Who is the president?|Who is the president of the United States?|What is love?
Is there a god?|How do I fix my car?|What is the stock price of {p}?|What causes {t}?|Tell me something about {t}|Why is the sky blue?
How do I learn {t}?|What is the difference between {t} and {u}?|Do you like {t}?|What did {p} say about {t}?|How many people live in {c}?
Write code for a web server.|Write a {t} program.|Prove that {t} is true.|Solve the equation of {t}.|Where is {p} now?|What is the square root of {y}?""".replace("\n", "|").split("|")
TOPICS = """quantum physics|gravity|democracy|inflation|machine learning|neural networks|the economy|climate change|philosophy|chess|football
photosynthesis|evolution|the internet|electricity|black holes|bitcoin|politics|religion|history|geography|medicine|vaccines|rockets|DNA|music theory
opera|painting|tax law|insurance|a transformer|attention|mixture of experts|tokenization|Linux|Rust|Java|databases|compilers|the Roman Empire
the moon landing|dinosaurs|volcanoes|earthquakes|relativity|chemistry|magnetism|energy|time travel|space|psychology|sleep|yoga|poetry|marketing""".replace("\n", "|").split("|")
FOODS = "pizza|pasta|lasagna|sushi|curry|pancakes|bread|apple pie|ramen|paella|chocolate cake|soup|tacos|risotto".split("|")
WEATHER = ["What is the weather in {c}?", "What's the weather like today?", "Is it raining in {c}?", "How warm is it in {c}?",
           "weather in {c}", "Will it rain tomorrow?", "What is the temperature in {c}?"]
PRODUCT = ["What is {a} * {b}?", "What is {a} times {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "Multiply {a} by {b}.", "What is {a} divided by {b}?", "{a} / {b}"]
CAPITALS = dict(pair.split(":") for pair in """France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon|Austria:Vienna|England:London
Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|Ireland:Dublin|Belgium:Brussels|Poland:Warsaw|Greece:Athens|Hungary:Budapest
Japan:Tokyo|China:Beijing|Russia:Moscow|Egypt:Cairo|Kenya:Nairobi|Canada:Ottawa|Cuba:Havana|Peru:Lima|Turkey:Ankara|India:New Delhi
Australia:Canberra|Brazil:Brasilia|Switzerland:Bern|the Netherlands:Amsterdam|the United Kingdom:London|the United States:Washington""".replace("\n", "|").split("|"))
CAPITAL = ["What is the capital of {x}?", "capital of {x}", "What's the capital of {x}?", "Name the capital of {x}.", "Which city is the capital of {x}?",
           "Tell me the capital of {x}", "{x}'s capital?"]
OPPOSITES = dict(pair.split(":") for pair in """hot:cold|big:small|up:down|left:right|day:night|black:white|old:new|fast:slow|open:closed|happy:sad|high:low
long:short|hard:soft|wet:dry|full:empty|good:bad|early:late|rich:poor|strong:weak|light:dark|loud:quiet|thick:thin|first:last|yes:no|near:far
before:after|inside:outside|true:false|win:lose|buy:sell""".replace("\n", "|").split("|"))
OPPOSITE = ["What is the opposite of {x}?", "opposite of {x}", "What's the opposite of {x}?", "Tell me the opposite of {x}.", "{x} is the opposite of what?"]
FOLLOWING = ["What day comes after {x}?", "Which day follows {x}?", "What comes after {x}?", "day after {x}?"]


def talk(rng, held):
    _, asks, answers, reasoning = rng.choice(TALK)
    answer = rng.choice(answers)
    return exchange("small talk", informal(rng, rng.choice(asks.split("|"))), reasoning, answer)


def topics(rng):
    y = rng.randint(1000, 2030)
    t, u = rng.sample(TOPICS, 2)
    who = words.name(rng) if rng.random() < 0.3 else f"{words.name(rng)} {words.invented(rng).capitalize()}"
    return {"p": who, "e": rng.choice(["World Cup", "election", "race", "Nobel Prize", "final"]), "y": y, "t": t, "u": u,
            "f": rng.choice(FOODS), "i": rng.choice(words.ITEMS), "c": words.city(rng), "d": words.city(rng)}


def unknown(rng, held):
    while True:
        roll = rng.random()
        if roll < 0.75:
            question, answer = rng.choice(UNKNOWN).format(**topics(rng)), DONT_KNOW
        elif roll < 0.88:
            question, answer = rng.choice(WEATHER).format(c=words.city(rng)), NO_WEATHER
        else:
            question, answer = rng.choice(PRODUCT).format(a=rng.randint(11, 999), b=rng.randint(11, 999)), NO_PRODUCT
        if held_out("unknown", question) == held:
            return exchange("not knowing", informal(rng, question), "I do not know this, so I say so.", answer)


def fact(rng, held):
    roll = rng.random()
    if roll < 0.5:
        x, y = rng.choice(list(CAPITALS.items()))
        question, answer = rng.choice(CAPITAL), f"The capital of {x} is {y}."
    elif roll < 0.85:
        x, y = rng.choice([*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())])
        question, answer = rng.choice(OPPOSITE), f"The opposite of {x} is {y}."
    else:
        i = rng.randrange(7)
        x, y = words.DAYS[i], words.DAYS[(i + 1) % 7]
        question, answer = rng.choice(FOLLOWING), f"{y} comes after {x}."
    return exchange("facts", informal(rng, question).replace("{x}", x), "I know this one.", answer)


def echo(rng, held):
    """Repeating what was said: the simplest copying there is, and what the other skills build on."""
    said = " ".join(words.word(rng) if rng.random() < 0.6 else str(words.number(rng)) for _ in range(rng.randint(1, 12)))
    ask = rng.choice(["Say {s}", "Repeat after me: {s}", "Repeat: {s}", "say '{s}'", "Please repeat {s}", "Echo {s}"])
    return exchange("repeating", informal(rng, ask).replace("{s}", said), said, said)


def introduction(rng, held):
    """A name given in one turn and asked for in the next."""
    n = words.name(rng)
    hello = rng.choice(["My name is {n}.", "I am {n}.", "Hi, I'm {n}.", "Hello, my name is {n}", "Call me {n}.", "I'm {n}", "my name is {n}"])
    ask = rng.choice(["What is my name?", "Do you remember my name?", "Who am I?", "what's my name?"])
    first = exchange("remembering", hello.format(n=n), f"The user is called {n}.", f"Nice to meet you, {n}! How can I help you?")
    if rng.random() < 0.4 and not held:
        return first
    second = exchange("remembering", informal(rng, ask), f"The user said the name {n}.", f"Your name is {n}.")
    return second | {"messages": first["messages"] + second["messages"]}
