"""The page, on a laptop and on a Space: `python app.py`, and open the address it prints; `--help` has the options."""

import sys

from layerdiffusion.threads import share_cores
from layerdiffusion.ui.options import parse_options


def main() -> None:
    share_cores()
    options = parse_options()
    if options.offline:  # before any library looks
        import os

        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    from layerdiffusion.ui.page import launch

    launch(options)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
