"""The command line's sub-commands, a module each: `add_arguments(parser)` and `run(args) -> int`.

A module is imported only when its command is asked for, and itself imports models only in `run`.
"""
