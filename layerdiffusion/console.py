"""What the program prints reaches every console, whatever characters that can show."""

import io
import sys


def replace_what_cannot_be_shown() -> None:
    """From now on a character outside stdout's encoding is printed as "?", where Python would raise an error.

    stderr escapes such characters by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
