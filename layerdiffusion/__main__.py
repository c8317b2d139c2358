"""`python -m layerdiffusion`: finds the sub-command, hands over to its module, turns errors into one sentence."""

import argparse
import json
import sys
from collections.abc import Sequence

from layerdiffusion.commands.terminal import Parser
from layerdiffusion.errors import EditError
from layerdiffusion.process import replace_what_cannot_be_shown, share_cores

COMMANDS = {
    "edit": "edit a photo, from flags or from a recipe",
    "evaluate": "measure how well edits work",
    "compare": "run SDEdit, Imagic and Plug-and-Play on the same edit",
    "benchmark": "time the stages on this machine",
    "study": "let people rate the results of an evaluation",
    "train-miniature": "train the embedded model from nothing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 2 bad input, 130 an edit interrupted with Ctrl-C."""
    replace_what_cannot_be_shown()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(argv)
        return args.run(args)
    except EditError as error:
        return _refuse(str(error), 2, argv)
    except KeyboardInterrupt:
        return _refuse("Interrupted.", 130, argv)
    except BrokenPipeError:  # whoever read the output has gone
        sys.stdout = None
        return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m layerdiffusion", description="Edit a photo's subject and its background in one go.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        module = f"layerdiffusion.commands.{name.replace('-', '_')}"
        commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.", module=module)
    return parser.parse_args(argv, argparse.Namespace(argv=argv))


def _refuse(sentence: str, status: int, argv: list[str]) -> int:
    if "--json" in argv:
        print(json.dumps({"error": sentence}))
    else:
        print(f"layerdiffusion: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    share_cores()  # before a command imports torch
    sys.exit(main())
