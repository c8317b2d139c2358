"""The splitter tells the subject from the scene and never loses a word; cut words are named."""

import random

import pytest
from transformers import CLIPTokenizer

from layerdiffusion.prompts import (
    prompt_notes,
    split_prompt,
    subject_noun,
    truncation_warning,
)

CASES = [
    # The paper's own, and scenes that follow the subject.
    ("a dog jumping in the forest", "a dog jumping", "in the forest"),
    ("a dog jumping in the forest, golden hour", "a dog jumping", "in the forest, golden hour"),
    ("a dog jumping on the beach", "a dog jumping", "on the beach"),
    ("a photo of a dog lying down on the grass", "a photo of a dog lying down", "on the grass"),
    ("a cat sitting next to a mirror", "a cat sitting", "next to a mirror"),
    (
        "a teddy bear doing pushups on the beach at sunset",
        "a teddy bear doing pushups",
        "on the beach at sunset",
    ),
    (
        "a red car driving along a mountain road under a starry sky",
        "a red car driving",
        "along a mountain road under a starry sky",
    ),
    ("a dog running through the snow", "a dog running", "through the snow"),
    ("a bird flying over the sea", "a bird flying", "over the sea"),
    (
        "a horse galloping across a meadow towards the sunset",
        "a horse galloping",
        "across a meadow towards the sunset",
    ),
    (
        "a basket of apples on a wooden table in front of a window",
        "a basket of apples",
        "on a wooden table in front of a window",
    ),
    ("a car parked outside", "a car parked", "outside"),
    ("three sheep on a hill; stormy sky", "three sheep", "on a hill; stormy sky"),
    ("a dog surrounded by flowers", "a dog", "surrounded by flowers"),
    ("a dog running on a beach, seen from above", "a dog running", "on a beach, seen from above"),
    ("a tiger walking while it is snowing", "a tiger walking", "while it is snowing"),
    # TEdBench-like: an action and no scene.
    ("A photo of a sitting dog", "A photo of a sitting dog", ""),
    ("A photo of a bird spreading wings", "A photo of a bird spreading wings", ""),
    ("A photo of a cat wearing a hat", "A photo of a cat wearing a hat", ""),
    ("A photo of a goat and a cat hugging", "A photo of a goat and a cat hugging", ""),
    ("A photo of two kissing parrots", "A photo of two kissing parrots", ""),
    ("A photo of a horse raising its head", "A photo of a horse raising its head", ""),
    ("A goat jumping over a cat", "A goat jumping over a cat", ""),
    ("A photo of a vase of red roses", "A photo of a vase of red roses", ""),
    ("A photo of an open pizza box", "A photo of an open pizza box", ""),
    # Prepositions that speak of the subject, with and without a scene after them.
    ("a dog jumping through a hoop at the circus", "a dog jumping through a hoop", "at the circus"),
    ("a cat jumping in the air in a garden", "a cat jumping in the air", "in a garden"),
    ("a dog with a ball in its mouth in the park", "a dog with a ball in its mouth", "in the park"),
    ("a toy dinosaur standing on two legs by the sea", "a toy dinosaur standing on two legs", "by the sea"),
    ("an elephant lying on its back in the snow", "an elephant lying on its back", "in the snow"),
    (
        "a dog looking at the camera in front of a castle",
        "a dog looking at the camera",
        "in front of a castle",
    ),
    ("a dog in a red hat in a hat shop", "a dog in a red hat", "in a hat shop"),
    ("a dog covered in mud near a river", "a dog covered in mud", "near a river"),
    (
        "a man on a horse jumping over a fence in the desert",
        "a man on a horse jumping over a fence",
        "in the desert",
    ),
    # "with": a thing the subject has, or what lies behind it.
    ("a giraffe with a short neck", "a giraffe with a short neck", ""),
    ("a horse with mountains behind", "a horse", "with mountains behind"),
    (
        "a horse standing with mountains in the background",
        "a horse standing",
        "with mountains in the background",
    ),
    ("a dog jumping with snow falling", "a dog jumping", "with snow falling"),
    ("a cow grazing, with a barn behind it", "a cow grazing", "with a barn behind it"),
    # The scene first, or in the middle.
    ("In the forest, a dog is jumping", "a dog is jumping", "In the forest"),
    ("On a snowy mountain a dog jumps", "a dog jumps", "On a snowy mountain"),
    ("golden hour, a dog jumping", "a dog jumping", "golden hour"),
    ("a cat on a sofa sleeping", "a cat sleeping", "on a sofa"),
    (
        "a dog jumping in the forest, wearing a red scarf",
        "a dog jumping, wearing a red scarf",
        "in the forest",
    ),
    ("a dog, a cat and a bird on the beach", "a dog, a cat and a bird", "on the beach"),
    # Nothing but a scene: something has to be the subject.
    ("in the forest", "in the forest", ""),
]


def bare_words(text: str) -> list[str]:
    return [word.strip(",;:.") for word in text.split() if word.strip(",;:.–—-")]


@pytest.mark.parametrize(("prompt", "object_prompt", "background_prompt"), CASES)
def test_a_prompt_is_split_as_a_person_would(prompt, object_prompt, background_prompt):
    assert split_prompt(prompt) == (object_prompt, background_prompt)


def test_there_are_at_least_forty_hand_written_cases():
    assert len({prompt for prompt, _, _ in CASES}) >= 40


def test_no_word_is_lost_or_added_whatever_the_prompt():
    pool = [word for prompt, _, _ in CASES for word in prompt.split()] + [
        "–",
        "while",
        "and",
        "with",
        "on",
        "…",
    ]
    generator = random.Random(0)
    for _ in range(2000):
        prompt = " ".join(generator.choices(pool, k=generator.randint(1, 14)))
        parts = split_prompt(prompt)
        assert sorted(bare_words(" ".join(parts))) == sorted(bare_words(prompt)), prompt
        assert parts[0] or not bare_words(prompt), prompt
        for part in parts:  # each part keeps the prompt's order
            rest = iter(bare_words(prompt))
            assert all(word in rest for word in bare_words(part)), prompt


def test_splitting_is_the_same_every_time_and_empty_for_nothing():
    assert {split_prompt("a dog jumping in the forest") for _ in range(5)} == {("a dog jumping", "in the forest")}
    assert split_prompt("") == ("", "")


@pytest.fixture(scope="module")
def tokenizer():
    """CLIP's tokenizer with single letters for a vocabulary, twelve tokens long: ten letters, two marks."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=12)


def test_a_prompt_that_fits_raises_no_warning(tokenizer):
    assert len(tokenizer("dog jumping")["input_ids"]) == 12
    assert truncation_warning(tokenizer, "dog jumping") is None
    assert truncation_warning(tokenizer, "") is None


def test_a_prompt_that_is_cut_names_the_words_that_are_not_read(tokenizer):
    warning = truncation_warning(tokenizer, "dog jumping high up")
    assert "“high up”" in warning
    assert "first 2 words" in warning


def test_a_word_that_is_cut_in_half_counts_as_not_read(tokenizer):
    assert "“jumpings”" in truncation_warning(tokenizer, "dog jumpings")


def test_a_longer_text_encoder_reads_more(tokenizer):
    assert truncation_warning(tokenizer, "dog jumping high up", max_length=77) is None


def test_a_very_long_prompt_shows_only_the_first_of_its_cut_words(tokenizer):
    warning = truncation_warning(tokenizer, " ".join(["dog"] * 300))
    assert "297 words" in warning
    assert len(warning) < 250


@pytest.mark.parametrize(
    ("object_prompt", "noun"),
    [
        ("a dog jumping", "a dog"),
        ("a small red cat that is lying down", "a small red cat"),
        ("the teddy bear doing pushups", "the teddy bear"),
        ("a king", "a king"),
        ("a running horse", "a running horse"),
        ("an elephant upside down", "an elephant"),
        ("two dogs, wet", "two dogs"),
        ("", ""),
    ],
)
def test_the_subjects_noun_is_what_it_is_called(object_prompt, noun):
    assert subject_noun(object_prompt) == noun


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        ("一只狗在海滩上跳跃", "it makes little of “一只狗在海滩上跳跃”"),
        ("a dog كلب jumping", "it makes little of “كلب”"),
        ("a 🐕 jumping", "it makes little of “🐕”"),
        ("ein Hund springt am Strand", "doesn't look like English"),
        ("un perro saltando en la playa", "doesn't look like English"),
        ("a (dog:1.3) jumping", "“(dog:1.3)” changes no word's weight"),
        ("a ((red)) dog", "“((red))” changes no word's weight"),
        ("a dog <lora:paws:0.8> jumping", "“<lora:paws:0.8>” is read as plain words and loads nothing"),
    ],
)
def test_what_no_model_here_understands_is_noted(prompt, note):
    (found,) = prompt_notes([prompt])
    assert note in found


@pytest.mark.parametrize(
    "prompt",
    [
        *(case[0] for case in CASES),
        "a naïve café dog (wet) in la la land",
        "dog, beach, 35mm f/1.8",
        "a dog at 7:30 (morning)",
        "El Capitan and a dog",
        "",
    ],
)
def test_plain_english_is_not_noted(prompt):
    assert prompt_notes([prompt]) == []
