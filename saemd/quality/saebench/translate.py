"""A model folder's configuration files of transformers 5, for version 4 in SAEBench's environment.

Version 5 keeps the rotary base as `rope_parameters`, which version 4 skips without a word (it then takes 10,000), and
names a tokenizer class that version 4 does not have.
"""

from __future__ import annotations

from typing import Any

from saemd.errors import bad_value


def translated_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of transformers 5 for version 4. `UserError` for rotary embeddings of a kind that is not known."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if "rope_theta" not in rope or rope.get("rope_type", "default") != "default":
        raise bad_value(
            "rope_parameters", rope, "SAEBench's environment knows one plain rotary base (rope_theta) alone"
        )
    return {**config, "rope_theta": rope["rope_theta"]}


def translated_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json likewise."""
    settings = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings
