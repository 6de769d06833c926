"""Checks SAEBench's environment. `make saebench` runs it with that environment's Python, without arguments."""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

WANTED = {"sae-bench": "0.6.0", "transformers": "4.", "transformer-lens": "2.", "beartype": "0.14.1", "datasets": "3."}


def main() -> int:
    """0 where every package is as it should be; else 1, with a line for each that is not."""
    wrong = []
    for name, wanted in WANTED.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        if not installed.startswith(wanted):
            wrong.append(f"{name} is {installed}, wanted {wanted}")
    if importlib.util.find_spec("torchvision"):
        wrong.append("torchvision is installed; its build breaks the CPU torch")
    for line in wrong:
        print(f"error: {line}: remove .venv-saebench and run `make saebench` again", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
