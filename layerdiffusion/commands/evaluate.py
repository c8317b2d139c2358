"""`python -m layerdiffusion evaluate`: see `layerdiffusion.evaluate.command`."""

from layerdiffusion.evaluate.command import add_arguments, run

__all__ = ["add_arguments", "run"]
