"""The miniature's CLIPTokenizer: byte-level pairs learnt from the toybox's captions, so that any text encodes."""

from __future__ import annotations

from collections import Counter

import numpy as np

import layerdiffusion.models  # noqa: F401 - before transformers
from layerdiffusion.miniature.captions import training_caption
from layerdiffusion.miniature.world import PLACES, draw_attributes

MAX_LENGTH = 32
MERGES = 700
# Words a user may well type that no caption has; learnt as whole words so that a sentence of them is not cut.
MORE_WORDS = (
    "the", "a", "an", "is", "that", "with", "and", "of", "to", "at", "in", "on", "by", "it", "its",
    "toy", "photo", "picture", "very", "bright", "dark", "light",
)  # fmt: skip


def captions(count: int, seed: int = 0) -> list[str]:
    """Captions as training sees them, of scenes that need not be drawn."""
    rng = np.random.default_rng([seed, 5])
    return [training_caption(draw_attributes(rng, rng, str(rng.choice(PLACES)), {}), rng) for _ in range(count)]


def learn_merges(words: Counter[str], merges: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) with CLIP's end-of-word mark."""
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    learnt: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, split in pieces.items():
            for pair in zip(split, split[1:], strict=False):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learnt.append(best)
        pieces = {word: _merge(split, best) for word, split in pieces.items()}
    return learnt


def _merge(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, i = [], 0
    while i < len(split):
        joined = split[i : i + 2] == pair
        merged.append("".join(pair) if joined else split[i])
        i += 2 if joined else 1
    return tuple(merged)


def build():
    """The tokenizer, a `transformers.CLIPTokenizer` with CLIP's special tokens and `MAX_LENGTH` tokens a text."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    words = Counter(word.strip(",") for caption in captions(4000) for word in caption.replace("-", " - ").split())
    words.update(MORE_WORDS)
    merges = learn_merges(words, MERGES)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def special_tokens(tokenizer) -> dict[str, int]:
    """The tokenizer's special tokens, as the config of a text encoder names them."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def encode(tokenizer, texts: list[str]):
    """Token ids, int64 (N, MAX_LENGTH), padded and cut as diffusers' pipelines do."""
    return tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt").input_ids
