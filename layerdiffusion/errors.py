"""What a user can put right: every error says in one plain sentence what is wrong, why, and what to do."""

from pathlib import Path


class EditError(ValueError):
    """Something about the edit that the person asking for it can put right."""


class ImageError(EditError):
    """A picture that can't be read or is outside the limits."""


class MaskError(EditError):
    """A mask that marks nothing, everything, or doesn't belong to its picture."""


class PlacementError(MaskError):
    """A subject that is placed outside the picture."""


class PromptError(EditError):
    """A prompt that is empty, too long or not text."""


class SettingsError(EditError):
    """A setting outside its allowed range."""


class RecipeError(EditError):
    """A recipe (`edit.json`) that can't be read or written."""


class SavedElsewhere(EditError):
    """Finished pictures that could not be saved where they were wanted, and where they are instead."""

    def __init__(self, sentence: str, folder: Path) -> None:
        super().__init__(sentence)
        self.folder = folder


class SegmentError(EditError):
    """A click, box or checkpoint the segmenter can't use."""


class ModelError(EditError):
    """A model that can't be found or opened."""


def printable(text: object) -> str:
    """A path or a name as a sentence can have it: in one line, and of a very long one the two ends."""
    text = str(text)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:95]} … {text[-95:]}"
