"""A subject kept: what stages 1 and 2 came to, in files that diffusers opens, and taken up again without training.

A LoRA edit is one `.safetensors` in diffusers' format with its embeddings beside it, a full one a folder with a `unet`.
Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from layerdiffusion.cache import digest
from layerdiffusion.errors import EditError, ModelError, RecipeError
from layerdiffusion.files import check_writable, save_or_rescue, saving, write_files
from layerdiffusion.models.family import Condition
from layerdiffusion.models.tuning import Weights, with_weights
from layerdiffusion.recipe import CARRIED, Recipe, carried_recipe, recipe_from_dict

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models

EMBEDDINGS_FILE = "embeddings.safetensors"
ROWS = ("object", "background")  # ê_a and ê_b
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
OF_A_SUBJECT = (
    "These pictures are of a kept subject: their recipe alone trains another; open the subject to make them again."
)


@dataclass(frozen=True, eq=False)
class Subject:
    """What training came to, and what it was trained on."""

    recipe: Recipe
    embeddings: dict[str, torch.Tensor]  # by part and field, as "object.prompt_embeds" (L, D); also of "edit", e_opt
    weights: Weights  # as of a `TunedNetwork`
    train_on: int = 0  # further steps of stage 2 before the pictures are made

    @property
    def tune(self) -> str:
        return "lora" if any(".lora_A." in name for name in self.weights) else "full"

    @cached_property
    def key(self) -> str:
        """A hash of what was trained."""
        trained = sorted({**self.embeddings, **self.weights}.items())
        return digest(*(part for name, each in trained for part in (name, each.detach().cpu().float().numpy())))

    def __repr__(self) -> str:
        """What a stage that takes it depends on."""
        return f"Subject({self.key}, {self.train_on})"

    def embedded(self, fresh: Condition, prompts: tuple[str, str]) -> Condition:
        """[ê_a, ê_b]: of words it was trained on as they were fitted, of others `fresh`, as the encoder has them."""
        trained = self.recipe.edit.object_prompt, self.recipe.edit.background_prompt
        rows = []
        for index, part in enumerate(ROWS):
            row = fresh[index : index + 1]
            fitted = {name: self.embeddings.get(f"{part}.{name}") for name in row.tensors}
            if prompts[index] == trained[index] and None not in fitted.values():
                row = replace(row, **{name: tensor[None] for name, tensor in fitted.items() if tensor is not None})
            rows.append(row)
        return rows[0].join(rows[1])

    def check(self, models: Models) -> None:
        """Raise a `ModelError` where the weights or embeddings are of a model of another shape."""
        own = dict(models.unet.named_parameters())
        for name, weight in self.weights.items():
            base, _, kind = name.partition(".lora_")
            there = own.get(f"{base}.weight" if kind else name)
            # An adapter shares a side with the weight beside it.
            side = {"A": slice(-1, None), "B": slice(1), "": slice(None)}[kind[:1]]
            if there is None or there.shape[side] != weight.shape[side]:
                whose = (
                    f"{self.recipe.model}; open it with that" if self.recipe.model else "another; open it with its own"
                )
                raise ModelError(f"The subject doesn't fit {models.name}: it was trained on {whose}.")

    def save(self, path: str | Path, models: Models, overwrite: bool = False) -> Path:
        """Write it, and return the file, of a full edit the folder, which has the name as given.

        Raises what `check_place` does; a `SavedElsewhere` where it went to a temporary folder, since it could not be
        written; an `EditError` where there was no place for it either.

        A LoRA's `NAME.safetensors` opens with `StableDiffusionPipeline.load_lora_weights`, and has the recipe in its
        metadata; `NAME.embeddings.safetensors` beside it has ê_a, ê_b and e_opt, a name and its vectors each, as
        textual inversion has them. A full edit's folder has a `unet` for `UNet2DConditionModel.from_pretrained`.
        """
        path = check_place(path, self.tune, overwrite)
        return save_or_rescue(
            partial(self._write, models=models), "The subject", path, "layerdiffusion-subject-", path.name
        )

    def _write(self, path: Path, models: Models) -> Path:
        recipe = carried_recipe(self.recipe.edit, self.recipe.settings, self.recipe.model)
        metadata = {"format": "pt", CARRIED: json.dumps(recipe, ensure_ascii=False)}
        embeddings = {name: tensor.contiguous() for name, tensor in self.embeddings.items()}
        with saving("The subject", path):
            if self.tune == "lora":
                before = f"{models.family.network}."
                weights = {before + name.replace(".default.", "."): w.contiguous() for name, w in self.weights.items()}
                write_files({path: save(weights, metadata), _embeddings_beside(path): save(embeddings, metadata)})
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as staging:  # large as the network, so on the same disk
                with_weights(models.master, self.weights).save_pretrained(staging)  # type: ignore[operator]
                files = {path / "unet" / file.name: file for file in Path(staging).iterdir()}
                write_files({**files, path / EMBEDDINGS_FILE: save(embeddings, metadata)})
        return path


def check_place(path: str | Path, tune: str, overwrite: bool = False) -> Path:
    """Where a subject goes by that name: of LoRA a file, `.safetensors` appended unless it is there; else a folder.

    Raises an `EditError` where it can't be written, where a folder holds anything but an earlier subject, and, without
    `overwrite`, where a file is in the way that is no earlier subject.
    """
    path = Path(path)
    if tune == "lora" and path.suffix != ".safetensors":
        path = path.with_name(f"{path.name}.safetensors")
    with saving("The subject", path):
        check_writable(path.parent)
    if tune == "lora":
        there = [file for file in (path, _embeddings_beside(path)) if os.path.lexists(file)]
        foreign = path.is_dir() or (not overwrite and any(_carried(file) is None for file in there))
    else:
        own = {"unet", EMBEDDINGS_FILE} if _carried(path / EMBEDDINGS_FILE) is not None else set()
        foreign = os.path.lexists(path) and not (path.is_dir() and {file.name for file in path.iterdir()} <= own)
    if foreign:
        raise EditError(f"{path} is there already, and is no subject that was kept; choose another name to keep it by.")
    return path


def trained_subject(recipe: Recipe, embeddings: Condition, edit_embedding: Condition, weights: Weights) -> Subject:
    """The subject of an edit whose training came to [ê_a, ê_b], e_opt and these weights.

    Raises an `EditError` where nothing was trained.
    """
    if not weights:
        raise EditError("There is no trained subject to keep: stage 2 has no steps; give finetune_steps.")
    rows = {"object": embeddings[:1], "background": embeddings[1:], "edit": edit_embedding}
    named = {f"{part}.{name}": tensor[0] for part, row in rows.items() for name, tensor in row.tensors.items()}
    return Subject(
        recipe,
        {name: tensor.float().cpu() for name, tensor in named.items()},
        {name: weight.cpu() for name, weight in weights.items()},
    )


def subject_path(path: str | Path) -> Path:
    """The file or folder of the subject that was kept by that name."""
    path = Path(path)
    return path if path.exists() or path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def load_subject(path: str | Path) -> Subject:
    """The subject in a `.safetensors` file, or the folder of a full one, as `Subject.save` wrote it.

    A LoRA without its embeddings beside it has its words as the text encoder has them. Raises `RecipeError`.
    """
    path = subject_path(path)
    file = path / UNET if path.is_dir() else path
    beside = path / EMBEDDINGS_FILE if path.is_dir() else _embeddings_beside(path)
    try:
        with safe_open(beside if beside.is_file() else file, "pt") as opened:
            carried = (opened.metadata() or {}).get(CARRIED)
        weights = load_file(file)
        embeddings = load_file(beside) if beside.is_file() else {}
    except FileNotFoundError as error:
        raise RecipeError(
            f"There is no subject at {path}; give the .safetensors that was saved, or its folder."
        ) from error
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{path} is no complete .safetensors; save the subject again.") from error
    if carried is None:
        raise RecipeError(f"{path} carries no recipe, so it is no subject that was kept here; give one that is.")
    try:
        recipe = recipe_from_dict(json.loads(carried))
    except json.JSONDecodeError as error:
        raise RecipeError(f"The recipe in {path} is not valid JSON; save the subject again.") from error
    return Subject(recipe, embeddings, {_ours(name): weight for name, weight in weights.items()})


def _embeddings_beside(path: Path) -> Path:
    return path.with_suffix(f".{EMBEDDINGS_FILE}")


def _carried(path: Path) -> str | None:
    """The recipe in a safetensors file's metadata; None where there is none."""
    try:
        with safe_open(path, "pt") as opened:
            return (opened.metadata() or {}).get(CARRIED)
    except (OSError, SafetensorError):
        return None


def _ours(name: str) -> str:
    """A weight's name in a file as `finetune` has it."""
    name = name.removeprefix("unet.").removeprefix("transformer.")
    for kind in ("lora_A", "lora_B"):
        name = name.replace(f".{kind}.weight", f".{kind}.default.weight")
    return name
