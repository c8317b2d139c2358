"""`python -m layerdiffusion evaluate`: see `layerdiffusion.evaluation.command`."""

from layerdiffusion.evaluation.command import add_arguments, run

__all__ = ["add_arguments", "run"]
