"""Flags, environment variables, and the sentence that a bad one ends in."""

import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.ui.options import PageOptions, check_address, parse_options


def test_nothing_given_is_the_defaults():
    assert parse_options([]) == PageOptions()


@pytest.mark.parametrize("port", ["http", "0x50", "²", "99999", "9" * 5000])
def test_a_port_that_is_none_is_refused_in_gradios_own_variable_too(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(EditError, match="GRADIO_SERVER_PORT"):
        check_address(PageOptions())


def test_every_option_is_a_flag_and_an_environment_variable(monkeypatch):
    flags = "--model m --sam s --device cpu --host h --port 81 --auth u:p --max-users 3 --cache-gb 0.5"
    flags += " --share --offline --compile"
    wanted = PageOptions(
        model="m",
        sam="s",
        device="cpu",
        host="h",
        port=81,
        share=True,
        auth=("u", "p"),
        max_users=3,
        cache_gb=0.5,
        offline=True,
        compile=True,
    )
    assert parse_options(flags.split()) == wanted
    for name, value in zip(
        ("MODEL", "SAM", "DEVICE", "HOST", "PORT", "AUTH", "MAX_USERS", "CACHE_GB", "SHARE", "OFFLINE", "COMPILE"),
        ("m", "s", "cpu", "h", "81", "u:p", "3", "0.5", "1", "true", "1"),
        strict=True,
    ):
        monkeypatch.setenv(f"LAYERDIFFUSION_{name}", value)
    assert parse_options([]) == wanted
    assert parse_options(["--port", "82"]).port == 82


def test_lora_files_are_listed_and_flags_win(monkeypatch):
    monkeypatch.setenv("LAYERDIFFUSION_LORA", "a.safetensors:0.5,b.safetensors")
    assert parse_options([]).lora == ("a.safetensors:0.5", "b.safetensors")
    assert parse_options(["--lora", "c.safetensors", "--lora", "d.safetensors"]).lora == (
        "c.safetensors",
        "d.safetensors",
    )


@pytest.mark.parametrize(
    "flags",
    [
        "--port 0",
        "--port x",
        "--port 99999",
        "--auth me",
        "--auth :x",
        "--max-users 0",
        "--cache-gb -1",
        "--cache-gb x",
    ],
)
def test_a_bad_flag_ends_with_status_two(flags, capsys):
    with pytest.raises(SystemExit) as end:
        parse_options(flags.split())
    assert end.value.code == 2 and flags.split()[0] in capsys.readouterr().err


def test_a_bad_environment_variable_is_named(monkeypatch, capsys):
    monkeypatch.setenv("LAYERDIFFUSION_SHARE", "perhaps")
    with pytest.raises(SystemExit):
        parse_options([])
    assert "LAYERDIFFUSION_SHARE" in capsys.readouterr().err


def test_an_address_of_another_machine_is_refused_in_a_sentence():
    with pytest.raises(EditError, match="no address of this machine; give another with --host"):
        check_address(PageOptions(host="203.0.113.7", port=7860))
