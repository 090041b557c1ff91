"""Word lists of the demo corpus, all written for it, and invented words so that copying is learnt and not recalled."""

import zlib

NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Kate Leo Maria Noah Olivia Paul Quinn Rosa Sam Tara Uma
Victor Wendy Xavier Yara Zoe Alice Bob Carlos Diana Elena Frank Gina Henry Ivan Julia Karim Lena Marco Nina Omar Priya
Rahul Sofia Tom Ursula Vera Will Yuki Zack Amir Bella Chen Dora Eric Fatima George Hana Igor Jane Kofi Lucy Mike Nadia
Oscar Petra Rita Simon Theo Peter Mary John Sara Adam Eva Louis Mei Ravi Lisa Max Ella""".split()
CITIES = """Paris London Berlin Rome Madrid Lisbon Vienna Prague Oslo Stockholm Helsinki Copenhagen Dublin Brussels
Amsterdam Warsaw Athens Budapest Zurich Geneva Lyon Nice Milan Turin Naples Porto Seville Munich Hamburg Cologne Tokyo
Kyoto Osaka Seoul Beijing Shanghai Hangzhou Delhi Mumbai Bangkok Hanoi Manila Jakarta Sydney Melbourne Perth Auckland
Cairo Nairobi Lagos Accra Tunis Dakar Toronto Montreal Chicago Boston Seattle Denver Austin Dallas Houston Miami
Atlanta Lima Bogota Quito Santiago Havana Moscow Istanbul Dubai Tehran Baghdad Karachi Singapore""".split()
TWO_WORD_CITIES = ["New York", "San Francisco", "Los Angeles", "Mexico City", "Hong Kong", "Cape Town", "São Paulo",
                   "Rio de Janeiro", "Buenos Aires", "New Delhi", "Tel Aviv", "Las Vegas"]
JOBS = """teacher doctor baker farmer pilot nurse painter writer singer lawyer engineer driver cook gardener plumber
dentist student carpenter librarian musician chemist tailor sailor waiter journalist""".split()
ITEMS = """apples pears books pens chairs lamps cups plates shirts hats shoes bags candles pencils keys clocks bottles
towels pillows blankets mugs spoons boxes tickets flowers eggs lemons oranges bananas carrots""".split()
COLORS = "red blue green yellow black white brown pink purple orange grey silver golden".split()
EVENTS = """meeting concert party lecture dinner workshop game wedding exam picnic lesson interview festival rehearsal
breakfast ceremony race market""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
PLACES = """library park school museum theatre office garden station cafe hotel gym town hall harbour stadium church
kitchen market square""".replace("town hall", "town_hall").split()
PETS = "cat dog rabbit parrot hamster turtle goldfish pony mouse canary".split()
ANIMALS = """fox bear rabbit owl mouse cat dog whale dolphin duck frog hedgehog turtle lion elephant penguin squirrel
horse crab snail bee wolf goat sheep deer crow robin otter badger seal tiger monkey""".split()
SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy", "overcast", "light rain", "heavy rain",
         "partly cloudy"]
COMMON = """apple bread chair dance eagle flame grape house island jungle kettle lemon mirror needle ocean pencil queen
river spoon table umbrella violin window yellow zebra animal basket candle dragon engine flower garden hammer insect
jacket kitten ladder market nature orange planet rabbit school ticket valley winter bridge castle doctor forest guitar
hunter letter monkey number picture potato ribbon silver summer thunder velvet whisper wizard butter cheese cherry
circle coffee corner cotton desert dinner dollar family father finger friend future ginger golden ground harbor
heaven honey humble journey jumper kingdom knight lantern leather legend lizard lumber magnet marble meadow memory
mother mountain muffin museum napkin nickel noodle office oyster palace paper parrot pepper pillow pocket puzzle
rocket saddle sailor salmon second shadow shelter shoulder simple sister snow spider spring square stone storm story
street sugar sunset temple tiger tomato tower travel turtle village walnut water whale wheat wind wolf wonder cat dog
sun moon star tree leaf bird fish ship boat road rain fire sand rock hill lake door wall roof book page word song
drum bell lamp ring coin gold iron salt milk cake soup rice corn bean plum pear cloud light night morning evening
hello world banana strawberry computer language machine cachalot blueberry raspberry elephant penguin dolphin
""".split()
SYLLABLES = """ba be bo ca co da de di do fa fe fi ga go ha he ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no pa pe
pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi wa we za zo bri cha clo cra dre fla fro gla gre pla pri
sha sto tha tri ven mar ter lin san don ber kel mon nor fal wick ton der""".split()
ENDINGS = "n r s l t k d m x th nd st ng ck".split() + [""] * 10


def held_out(*key):
    """One key in sixteen belongs to the evaluation and is never trained on."""
    return zlib.crc32("|".join(map(str, key)).encode()) % 16 == 0


def invented(rng, syllables=(2, 3)):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(*syllables))) + rng.choice(ENDINGS)


def letters(rng):
    """A run of random letters: the only way to learn how every token is spelt."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzaeiouaeiou") for _ in range(rng.randint(3, 8)))


def word(rng):
    roll = rng.random()
    return rng.choice(COMMON) if roll < 0.5 else invented(rng) if roll < 0.85 else letters(rng)


def name(rng):
    return rng.choice(NAMES) if rng.random() < 0.65 else invented(rng, (1, 3)).capitalize()


def city(rng):
    roll = rng.random()
    if roll < 0.1:
        return rng.choice(TWO_WORD_CITIES)
    return rng.choice(CITIES) if roll < 0.65 else invented(rng).capitalize()


def number(rng):
    """A number of one to three digits, short ones often enough to be learnt."""
    return rng.randint(*rng.choices([(0, 9), (10, 99), (100, 999)], [2, 5, 5])[0])


def informal(rng, text):
    """What people do to a sentence: other capitals, no full stop, a please."""
    roll = rng.random()
    if roll < 0.25:
        text = text[:1].lower() + text[1:]
    elif roll < 0.45:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.2:
        text = text.rstrip("?.!")
    if rng.random() < 0.06:
        text = rng.choice(["please ", "Please ", "hey, ", "Hi! ", "ok, ", "Now ", "and ", "can you tell me: "]) + text
    if rng.random() < 0.05:
        text = text + rng.choice([" please", " thanks", " Thanks!", " :)"])
    return text
