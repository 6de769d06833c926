"""A model folder's configuration files of transformers 5, for version 4 in SAEBench's environment.

Version 5 keeps the rotary base as `rope_parameters`, which version 4 silently skips (it then takes 10,000), and names a
tokenizer class that version 4 does not have. The tokenizer is also made to begin every text with BOS, as in training.
"""

from typing import Any

from saemd.errors import bad_value

PLAIN = "SAEBench's environment supports only one plain rotary base (rope_theta)"


def translated_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of transformers 5 for version 4. Raises `UserError` for rotary embeddings that version 4 lacks."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    scaling = config.get("rope_scaling") or {}  # of the older form, beside rope_theta; its oldest key is "type"
    for key, value in (("rope_parameters", rope or {}), ("rope_scaling", scaling)):
        if value.get("rope_type", value.get("type", "default")) != "default":
            raise bad_value(key, value, PLAIN)
    if rope is None:
        return config
    if "rope_theta" not in rope:
        raise bad_value("rope_parameters", rope, PLAIN)
    return {**config, "rope_theta": rope["rope_theta"]}


def translated_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json of transformers 5 for version 4."""
    settings = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings


def beginning_with_bos(tokenizer: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json that puts BOS before every text. It is unchanged where it does so already, or has no BOS.

    The SAEs were trained on contexts that begin with BOS. Without it a text's first token becomes the attention sink:
    in SmolLM2 its activation is 170 times longer than the others', and outweighs them in any mean over a text.
    """
    bos = settings.get("bos_token")
    bos = bos["content"] if isinstance(bos, dict) else bos
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    if bos not in ids:
        return tokenizer
    processor = tokenizer["post_processor"]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    steps = [processor] if processor else []
    if processor and processor["type"] == "Sequence":
        steps = processor["processors"]
    if any(step["type"] == "TemplateProcessing" and step["single"][0] == first for step in steps):
        return tokenizer
    others = [step for step in steps if step["type"] != "TemplateProcessing"]
    template = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}},
    }
    return {**tokenizer, "post_processor": {"type": "Sequence", "processors": [*others, template]}}
