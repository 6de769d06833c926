"""Is this SAEBench's environment, as `make saebench` should have built it? Run by its own python, without arguments."""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

WANTED = {"sae-bench": "0.6.0", "transformers": "4.", "transformer-lens": "2.", "beartype": "0.14.1", "datasets": "3."}


def main() -> int:
    """0 where it is; else one line for each package that is not what it should be."""
    wrong = []
    for name, wanted in WANTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if not found.startswith(wanted):
            wrong.append(f"{name} is {found}, wanted {wanted}")
    if importlib.util.find_spec("torchvision"):
        wrong.append("torchvision is there; its build breaks the CPU torch")
    for line in wrong:
        print(f"error: {line}: remove .venv-saebench and run `make saebench` again", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
