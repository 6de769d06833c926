"""`python -m saemd.train`, the same as `saemd train`: the code of this command is in `saemd.jobs`.

`saemd.train` is also a function (`saemd.api.train`). This file is run and never imported, because the import would put
the module in the place of the function.
"""

if __name__ == "__main__":
    from saemd.cli import entry
    from saemd.jobs import main

    entry(main)
elif __name__ == "saemd.train":
    raise ImportError("saemd.train is a function and a command, not a module; the command's code is saemd.jobs")
