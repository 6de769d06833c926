"""A model folder's files for the older transformers in SAEBench's environment."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from saemd.errors import UserError
from saemd.quality.saebench.worker.translate import beginning_with_bos, translated_config, translated_tokenizer


def test_the_rotary_base_and_the_tokenizer_survive_the_older_transformers():
    rope = {"rope_theta": 100_000.0, "rope_type": "default"}
    assert translated_config({"a": 1, "rope_parameters": rope}) == {"a": 1, "rope_theta": 100_000.0}
    assert translated_config({"rope_theta": 1e4}) == {"rope_theta": 1e4}  # already the older form
    with pytest.raises(UserError, match="rope_parameters"):
        translated_config({"rope_parameters": {"rope_theta": 1.0, "rope_type": "llama3", "factor": 8.0}})
    for scaling in ({"rope_type": "llama3", "factor": 8.0}, {"type": "linear", "factor": 2.0}):
        with pytest.raises(UserError, match=r"^rope_scaling="):
            translated_config({"rope_theta": 5e5, "rope_scaling": scaling})
    for scaling in (None, {"rope_type": "default"}, {"type": "default"}):
        assert translated_config({"rope_theta": 5e5, "rope_scaling": scaling})["rope_theta"] == 5e5
    assert (
        translated_tokenizer({"tokenizer_class": "TokenizersBackend"})["tokenizer_class"] == "PreTrainedTokenizerFast"
    )


def test_every_text_begins_with_bos_as_in_training():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<bos>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<bos>"])
    before = json.loads(tokenizer.to_str())
    after = beginning_with_bos(before, {"bos_token": {"content": "<bos>"}})
    assert Tokenizer.from_str(json.dumps(after)).encode("a b").ids == [1, 2, 3]
    assert Tokenizer.from_str(json.dumps(after)).encode("a b", add_special_tokens=False).ids == [2, 3]
    assert beginning_with_bos(after, {"bos_token": "<bos>"}) == after  # not twice
    assert beginning_with_bos(before, {"bos_token": None}) == before
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    kept = beginning_with_bos(json.loads(tokenizer.to_str()), {"bos_token": "<bos>"})
    assert [step["type"] for step in kept["post_processor"]["processors"]] == ["ByteLevel", "TemplateProcessing"]
