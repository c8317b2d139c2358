"""The page, on a laptop and on a Space: `python app.py`, and open the address it prints; `--help` has the options."""

import os
import sys

from layerdiffusion.errors import EditError
from layerdiffusion.process import replace_what_cannot_be_shown, share_cores
from layerdiffusion.ui.options import check_address, parse_options


def main() -> int:
    """Serve the page until Ctrl-C; 2 is an address that can't be listened on."""
    replace_what_cannot_be_shown()
    share_cores()
    options = parse_options()
    if options.offline:  # before any library looks
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        check_address(options)
    except EditError as error:
        print(f"layerdiffusion: {error}", file=sys.stderr)
        return 2
    from layerdiffusion.ui.launch import launch

    launch(options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
