"""Train sparse autoencoders, and measure whether their features return under another seed.

`saemd <command> --help` shows a command's own examples; `python -m saemd.<command>` is the same command.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path

from saemd import __version__

MODULES = {
    "train": "saemd.jobs",
    "plan": "saemd.plan",
    "cache": "saemd.cache",
    "stability": "saemd.stability.__main__",
    "evaluate": "saemd.evaluate",
    "export": "saemd.export",
    "consensus": "saemd.consensus",
}
HELP = {"-h", "--help"}
LISTS_MORE = {"evaluate"}  # its help needs imports that take seconds: it lists the scores


def help_text(command: str) -> str:
    """The docstring of a command's module, read without the imports of the module."""
    path = Path(__file__).parent.parent / (MODULES[command].replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or "").rstrip()


def overview() -> str:
    lines = [f"    saemd {command:<10} {help_text(command).splitlines()[0]}" for command in MODULES]
    return "\n".join([str(__doc__), *lines])


def main() -> None:
    """The console command `saemd`, and `python -m saemd`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in HELP:
        print(overview())
    elif command == "--version":
        print(f"saemd {__version__}")
    elif command not in MODULES:
        print(f"error: {command}: no such command; known are {', '.join(MODULES)}", file=sys.stderr)
        sys.exit(2)
    elif HELP & {*arguments} and command not in LISTS_MORE:
        print(help_text(command))
    else:
        from saemd.cli import entry

        entry(lambda words: import_module(MODULES[command]).main(words[1:]))


if __name__ == "__main__":
    main()
