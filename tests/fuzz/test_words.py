"""Words on the command line: whatever is typed, it composes or is refused in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from saemd.arguments import key_values
from saemd.cli import one_line
from saemd.composition import compose_all
from saemd.errors import UserError
from saemd.preflight import check_settings
from saemd.runs import flatten
from saemd.stability.__main__ import parse
from tests.fuzz.mutations import few, refused

KEYS = (
    *flatten(dataclasses.asdict(compose_all([])[0])),
    *("init", "sae", "lm", "corpus", "hydra.run.dir", "hydra/launcher", "", "+x", "~seed", "folder.note", "experiment"),
)
TYPED = (
    *("", "null", "nan", "inf", "-1", "0", "1e400", "9" * 400, "[1,2", "{a:1}", "[]", "${seed}", "${oc.env:HOME}"),
    *("'", '"', "true", "1,2", "range(1,3)", "choice(1,2)", "glob(*)", "a=b", "ä", "\\", "???", "1_000", "0x1f"),
    *("x" * 500, "[" * 60, "(" * 300, "~/x", "../x", "a\nb", "\0", "1,,2", "sort(3,1)", "extend_list(1)", "uniform"),
)
VALUES = st.one_of(
    st.sampled_from(TYPED),
    st.text(max_size=12),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_subnormal=False).map(str),
)
WORDS = st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES), st.text(max_size=15), VALUES)
OWN = st.builds("{}={}".format, st.sampled_from(("run_root", "across", "figures", "activations")), VALUES)


def composed(words: list[str]) -> None:
    """As the entries compose and report."""
    try:
        check_settings(compose_all(words))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


@few(30)
@given(words=st.lists(WORDS, max_size=2), sweep=st.booleans())
def test_overrides(words, sweep):
    refused(lambda: composed([*words, "-m"] if sweep else words))


@few(60)
@given(words=st.lists(st.one_of(WORDS, OWN), max_size=3))
def test_arguments_that_hydra_does_not_read(words):
    refused(lambda: reported(parse, words))
    refused(lambda: reported(lambda words: key_values(words, ("run", "out")), words))


def reported(read: Callable[[list[str]], object], words: list[str]) -> None:
    try:
        read(words)
    except UserError as error:
        raise UserError(one_line(error)) from error
