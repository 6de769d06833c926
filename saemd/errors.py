"""Errors that a user can correct: one line with the key, its value and what would be right.

Entries print them as `error: …` and exit with code 2 (see `saemd.cli`). Broken invariants are `assert`s instead.
"""


class UserError(ValueError):
    """Bad input from outside: configuration, files, models, disks. The message is one line."""


def bad_value(key: str, value: object, remedy: str) -> UserError:
    """`UserError` in the project's form: the key, its value, and what to do instead.

    >>> str(bad_value("l0", 0, "choose a target between 1 and d_sae"))
    'l0=0: choose a target between 1 and d_sae'
    """
    return UserError(f"{key}={value}: {remedy}")
