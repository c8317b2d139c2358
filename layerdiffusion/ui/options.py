"""The page's options: flags for a laptop, environment variables for a Space."""

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from layerdiffusion.errors import EditError

PREFIX = "LAYERDIFFUSION_"


@dataclass(frozen=True)
class PageOptions:
    model: str = "auto"
    sam: str | None = None
    detector: str | None = None
    device: str | None = None
    host: str | None = None
    port: int | None = None
    share: bool = False
    auth: tuple[str, str] | None = None
    max_users: int = 20
    cache_gb: float | None = None
    offline: bool = False
    lora: tuple[str, ...] = ()
    root_path: str | None = None
    keep_minutes: int = 60
    compile: bool = False
    no_example: bool = False
    allow_download: bool = False


def parse_options(argv: Sequence[str] | None = None) -> PageOptions:
    """Flags win over environment variables, and those over the defaults; bad ones end the program with a sentence."""
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="LayerDiffusion as a page in the browser.",
        epilog=f"Every option is also an environment variable, as in {PREFIX}MAX_USERS=5.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="miniature, laptop, a diffusers folder, a hub id, or auto (the default)")
    parser.add_argument("--lora", action="append", metavar="FILE[:SCALE]", help="a LoRA on top of it; may be repeated")
    parser.add_argument("--sam", help="miniature, vit_b, vit_l, vit_h, a file, a folder, or a hub id")
    detectors = "a SAM 3, Grounding DINO or OWLv2"
    parser.add_argument("--detector", help=f"{detectors} that finds subjects by words: a folder or hub id")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for everybody on the network")
    parser.add_argument("--port", type=_port, help="port to listen on; else the first free one from 7860")
    parser.add_argument("--share", action="store_true", default=None, help="a public link for 72 hours")
    parser.add_argument("--auth", type=_auth, metavar="USER:PASS", help="ask for this name and password")
    parser.add_argument("--max-users", type=_count, help="how many may wait for their turn (20)")
    parser.add_argument("--keep-minutes", type=_count, help="how long a visitor's files outlast their tab (60)")
    parser.add_argument("--root-path", help="the path that a proxy serves the page under, as in /layerdiffusion")
    parser.add_argument("--cache-gb", type=_size, help="memory for finished stages, in GiB")
    parser.add_argument("--compile", action="store_true", default=None, help="compile the networks while edits run")
    parser.add_argument("--no-example", action="store_true", default=None, help="open the page empty")
    parser.add_argument("--offline", action="store_true", default=None, help="never ask the network for anything")
    parser.add_argument(
        "--allow-download",
        action="store_true",
        default=None,
        help="let visitors switch from the miniature to a model for photographs, 1 GB from the hub; never on a Space",
    )
    loras: list[str] = []
    for action in parser._actions:
        text = os.environ.get(PREFIX + action.dest.upper())
        if action.dest == "help" or not text:
            continue
        if action.const is True:
            if text.lower() not in ("0", "1", "false", "true", "no", "yes"):
                parser.error(f"{PREFIX}{action.dest.upper()} is {text!r}: it must be 0 or 1")
            action.default = text.lower() in ("1", "true", "yes")
        elif action.dest == "lora":
            loras = text.split(",")
        else:
            action.default = text  # argparse puts a text default through the option's own check
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    return PageOptions(**{**given, "lora": tuple(given.get("lora", loras))})


def check_address(options: PageOptions) -> None:
    """Raise an `EditError` for a port that is in use, or an address that is not this machine's."""
    host = (options.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1").strip("[]")
    try:
        text = os.environ.get("GRADIO_SERVER_PORT")
        port = options.port or (_port(text) if text else 0)
    except argparse.ArgumentTypeError as wrong:
        raise EditError(f"GRADIO_SERVER_PORT is wrong: {wrong}.") from wrong
    if _refused(host, 0):
        raise EditError(f"{host} is no address of this machine; give another with --host.")
    if port and (error := _refused(host, port)):
        why = "needs rights that you don't have" if isinstance(error, PermissionError) else "is in use already"
        raise EditError(f"Port {port} {why}; give another with --port.")


def _refused(host: str, port: int) -> OSError | None:
    """Why nobody can listen there; port 0 is any that is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed just now is free
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no such number; give 1 or more")
    return int(text)


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in GiB; give a number above 0")
    return size


def _auth(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise argparse.ArgumentTypeError("give a name and a password with a colon between them")
    return name, password
