"""A variant's name says which settings it stands for, always the same ones."""

import re

import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.variants import METHOD_VARIANTS, ROWS, TABLE_1, variants
from layerdiffusion.settings import PAPER, Settings, setting_table


def resolved(row: str) -> Settings:
    (variant,) = variants([], [row])
    assert variant.method == "ours" and not variant.options
    return Settings(**variant.settings).resolve()


def test_every_row_of_table_1_is_the_paper_but_for_what_its_name_takes_away():
    changed = {
        row: {
            name: value for name, value in resolved(row).to_dict().items() if value != PAPER.resolve().to_dict()[name]
        }
        for row in "abcdefghijk"
    }
    assert changed == {
        "a": {"object_weight": 0},
        "b": {"background_weight": 0},
        "c": {"object_weight": 1},
        "d": {"object_weight": 3},
        "e": {"object_weight": 1, "background_weight": 3},
        "f": {},
        "g": {"embedding_steps": 0},
        "h": {"finetune_steps": 0},
        "i": {"schedule": "edit"},
        "j": {"alpha": 1},
        "k": {"alpha": 0},
    }
    assert list(TABLE_1) == list("abcdefghijk")


def test_every_word_the_settings_allow_has_a_row_of_its_own():
    for setting, entry in setting_table().items():
        for choice in (entry.choices or ()) if not entry.check_text else ():
            assert getattr(resolved(f"{setting}-{choice}"), setting) == choice


def test_names_are_safe_in_file_names_and_every_variant_is_described():
    for name, variant in (METHOD_VARIANTS | ROWS).items():
        assert variant.name == name and re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*", name)
        assert variant.description
    assert len({variant.description for variant in (METHOD_VARIANTS | ROWS).values()}) == len(METHOD_VARIANTS | ROWS)


def test_variants_come_as_asked_for_and_none_twice():
    assert [v.name for v in variants(["pnp", "ours", "pnp"], ["i", "a", "i"])] == ["pnp", "ours", "i", "a"]


@pytest.mark.parametrize(
    ("methods", "rows", "word"), [(["dalle"], [], "dalle"), ([], ["z"], "'z'"), (["a"], [], "'a'")]
)
def test_a_name_that_is_not_there_is_refused_with_those_that_are(methods, rows, word):
    with pytest.raises(EditError, match=f"{word}.*choose from"):
        variants(methods, rows)
