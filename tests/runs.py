"""What tests of whole edits share: quick settings, pictures compared, and the steps that were reported."""

import dataclasses

import numpy as np
from tiny import QUICK

from layerdiffusion.settings import Settings

EVERYTHING = {"embeddings": "run", "finetune": "run", "sampling": "run"}


def quick(**changes) -> Settings:
    return dataclasses.replace(QUICK, **changes)


def pixels(result) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.images]


def same_pictures(first, second) -> bool:
    return len(first.images) == len(second.images) and all(map(np.array_equal, pixels(first), pixels(second)))


class Steps:
    """Writes down each event, and calls `then` on it."""

    def __init__(self, then=lambda event: None):
        self.events, self.then = [], then

    def __call__(self, event):
        self.events.append(event)
        self.then(event)

    @property
    def taken(self) -> dict[str, int]:
        stages = [event.stage for event in self.events if not event.reused]
        return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}
