"""`python -m layerdiffusion train-miniature`: see `layerdiffusion.miniature.train`."""

from layerdiffusion.miniature.train import add_arguments, run

__all__ = ["add_arguments", "run"]
