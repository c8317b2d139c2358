"""Which stages an edit is: its settings resolved, its pictures laid out, its method's list of stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.methods import imagic, layerdiffusion, pnp, sdedit
from layerdiffusion.methods.options import OPTIONS, OWN, Options, check_options
from layerdiffusion.methods.stages import Task, background_stage
from layerdiffusion.methods.subject import Subject
from layerdiffusion.models.load import Models
from layerdiffusion.runtime import Runtime, Stage, digest
from layerdiffusion.settings import Settings

STAGES_OF: dict[str, Callable[[Task], list[Stage[object]]]] = {
    OWN: layerdiffusion.stages,
    "sdedit": sdedit.stages,
    "imagic": imagic.stages,
    "pnp": pnp.stages,
}


@dataclass(frozen=True)
class Plan:
    """An edit as stages."""

    method: str
    task: Task
    stages: list[Stage[object]]  # the method's; as far as they are known while the background is yet to be generated
    background: Stage[Image.Image] | None = None  # generates it, where one is generated

    @property
    def whole(self) -> list[Stage[object]]:
        return self.stages if self.background is None else [self.background, *self.stages]

    @property
    def waits(self) -> bool:
        """Whether the background is yet to be generated."""
        return self.background is not None and self.task.layers is None

    @property
    def identity(self) -> str:
        """Twelve hex digits that are the same for the same pictures."""
        return digest(self.task.models.name, self.stages[-1].key)[:12]

    def with_background(self, picture: Image.Image) -> Plan:
        """The same with the generated background, and with that the stages that depend on it."""
        task = replace(self.task, layers=lay_out(self.task.edit, self.task.size, picture))
        return replace(self, task=task, stages=STAGES_OF[self.method](task))


class Planner:
    """Makes plans for one set of models; safe to share between threads."""

    def __init__(self, models: Models, runtime: Runtime) -> None:
        self._models, self._runtime = models, runtime
        self._last_layers: tuple[Edit, tuple[int, int], Layers] | None = None

    def plan(
        self,
        edit: Edit,
        settings: Settings | None = None,
        method: str = OWN,
        options: Options | None = None,
        subject: Subject | None = None,
    ) -> Plan:
        """The plan of the edit; see `Editor.run`. Raises an `EditError` for settings or options that can't be."""
        models = self._models
        check_options(method, options)
        settings = (settings or Settings()).resolve(models.defaults)
        models.check(settings)
        if method in OPTIONS:
            options = (options or OPTIONS[method]()).resolve(models.defaults)
        if subject is not None:
            subject.check(models)
            settings = replace(settings, embedding_steps=0, finetune_steps=subject.train_on, tune=subject.tune)
        task = Task(models, edit, settings, options, None, subject)
        if edit.background != "generate":
            task = replace(task, layers=self._lay_out(edit, task.size))
            return Plan(method, task, STAGES_OF[method](task))
        background = background_stage(models, edit.background_prompt, edit.background_seed, settings, task.size)
        plan = Plan(method, task, STAGES_OF[method](task), background)
        picture = self._runtime.cached(background)
        return plan if picture is None else plan.with_background(picture)

    def _lay_out(self, edit: Edit, size: tuple[int, int]) -> Layers:
        last = self._last_layers  # read once: another thread may put another edit's there meanwhile
        if last is None or last[0] is not edit or last[1] != size:
            last = self._last_layers = edit, size, lay_out(edit, size)
        return last[2]
