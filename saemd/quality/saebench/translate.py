"""A model folder's configuration files of transformers 5, for version 4 in SAEBench's environment.

Version 5 keeps the rotary base as `rope_parameters`, which version 4 skips without a word (it then takes 10,000), and
names a tokenizer class that version 4 does not have. And every text begins with BOS, as in training.
"""

from __future__ import annotations

from typing import Any

from saemd.errors import bad_value

PLAIN = "SAEBench's environment knows one plain rotary base (rope_theta) alone"


def translated_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of transformers 5 for version 4. `UserError` for rotary embeddings of a kind that is not known."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    older = config.get("rope_scaling") or {}  # the older form's, beside rope_theta; "type" is its oldest name
    for key, found in (("rope_parameters", rope or {}), ("rope_scaling", older)):
        if found.get("rope_type", found.get("type", "default")) != "default":
            raise bad_value(key, found, PLAIN)
    if rope is None:
        return config
    if "rope_theta" not in rope:
        raise bad_value("rope_parameters", rope, PLAIN)
    return {**config, "rope_theta": rope["rope_theta"]}


def translated_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json likewise."""
    settings = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings


def beginning_with_bos(tokenizer: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json that puts BOS before every text, where there is one and it does not yet (Gemma's does).

    The SAEs were trained on contexts that begin with it. Without it a text's first token takes its part as attention
    sink: in SmolLM2 its activation is 170 times longer than the others', and outweighs them in any mean over a text.
    """
    bos = settings.get("bos_token")
    bos = bos["content"] if isinstance(bos, dict) else bos
    known = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    if bos not in known:
        return tokenizer
    before = tokenizer["post_processor"]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    steps = before["processors"] if before and before["type"] == "Sequence" else [before] if before else []
    if any(step["type"] == "TemplateProcessing" and step["single"][0] == first for step in steps):
        return tokenizer
    others = [step for step in steps if step["type"] != "TemplateProcessing"]
    template = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [known[bos]], "tokens": [bos]}},
    }
    return {**tokenizer, "post_processor": {"type": "Sequence", "processors": [*others, template]}}
