"""The demo model's tokenizer: byte-level BPE with DeepSeek's splitting rules, but one digit at a time."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from prompt import BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL

DIGITS = r"\p{N}"
IDEOGRAPHS = "[一-龥぀-ゟ゠-ヿ]+"
WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" + "\r\n" + r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
    + "\r\n" + r"""]*|\s*[""" + "\r\n" + r"""]+|\s+(?!\S)|\s+"""
)


def train(texts, size):
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (DIGITS, IDEOGRAPHS, WORDS)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    spec = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        # As in DeepSeek's tokenizers, decoding without special tokens keeps the markers a reader has to see.
        token["special"] = token["content"] in (BOS, EOS, PAD)
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def save_config(path, max_length):
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n")


class Encoder:
    """Turns pieces of a document into token ids and marks those to train on."""

    def __init__(self, path):
        self.control = Tokenizer.from_file(str(path))
        spec = json.loads(path.read_text()) | {"added_tokens": []}
        self.plain = Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
        self.special = {t: self.control.token_to_id(t) for t in SPECIAL}

    def piece(self, piece):
        if piece.text in self.special:
            return [self.special[piece.text]]
        if piece.how == "letters":
            return [i for letter in piece.text for i in self.plain.encode(letter).ids]
        return (self.plain if piece.how == "plain" else self.control).encode(piece.text).ids

    def __call__(self, pieces):
        ids, trained = [], []
        for piece in pieces:
            new = self.piece(piece)
            ids += new
            trained += [piece.trained] * len(new)
        return ids, trained

    def decode(self, ids):
        return self.control.decode(ids, skip_special_tokens=False)
