"""Every architecture claimed, as a tiny random model: equations 5-6 in numbers, files, truncation."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MptConfig, OPTConfig

import saemd
from saemd.errors import UserError
from saemd.lm.anatomy import FAMILIES, Output, columns, decoder_layers, family, norm_scale, output
from saemd.lm.config import LMConfig
from saemd.lm.load import fastest_dtype, lm_info, load_lm, mlp_output, residual_stream
from saemd.lm.weights import read_attention_output, read_mlp_decoder, read_token_embeddings
from tests.lm.models import CONFIGS, IDS, LAYER, tiny, tokens
from tests.pipeline import save_model

PARTS = "mlp", "attention"


def silence(end: Output) -> None:
    """Have a part write nothing."""

    def nothing(module: torch.nn.Module, args: Any, written: Any) -> torch.Tensor:
        return torch.zeros_like(written)

    (end.post_norm or end.projection).register_forward_hook(nothing)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_a_part_adds_the_sum_of_its_columns(config, part):
    """output(with it) − output(without) = post_norm(Σ σ_i w_i + c), for the layer as it runs in the model."""
    model = tiny(config)
    if part == "attention":
        silence(output(model, LAYER, "mlp"))  # the MLP's input changes with attention's output
    end: Any = output(model, LAYER, part)
    W = columns(model, end.projection.weight)
    assert W.shape == (16, {"mlp": 40, "attention": 16}[part])
    seen: list[torch.Tensor] = []
    handle = end.projection.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    whole = residual_stream(model, LAYER, tokens())
    handle.remove()
    sigma = seen[0].view(2, 9, -1)
    written = sum(sigma[..., i : i + 1] * W[:, i] for i in range(W.shape[1]))
    if end.projection.bias is not None:
        written = written + end.projection.bias
    if end.post_norm is not None:
        written = end.post_norm(written)
    assert sigma.abs().max() > 1e-3
    if part == "mlp":
        torch.testing.assert_close(mlp_output(model, LAYER, tokens()), written, rtol=1e-3, atol=1e-5)
    silence(end)
    torch.testing.assert_close(whole - residual_stream(model, LAYER, tokens()), written, rtol=1e-3, atol=1e-4)


def test_every_family_claimed_is_proven():
    assert {config.model_type for config in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if FAMILIES[c.model_type].mlp.post_norm], ids=lambda c: c.model_type
)
def test_a_post_norms_scale_gives_the_direction_that_is_written(config, part):
    model = tiny(config)
    end: Any = output(model, LAYER, part)
    column = columns(model, end.projection.weight)[:, 5]
    expected = norm_scale(model, end.post_norm.weight) * column
    assert torch.cosine_similarity(end.post_norm(3.0 * column), expected, dim=0) == pytest.approx(1, abs=1e-5)


def scale_of(model: Any, end: Any) -> torch.Tensor | None:
    return None if end.post_norm is None else norm_scale(model, end.post_norm.weight)


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b is None or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_files_truncation_and_single_weights(config, tmp_path):
    """From a saved folder: the first layers alone give the same residual stream; single weights are read."""
    folder = save_model(tmp_path / "model", config)
    tiny(config).save_pretrained(folder)
    lm = LMConfig(name=str(folder))
    info = lm_info(lm, tmp_path)
    assert (info.d_model, info.n_layers, info.mlp_width) == (16, 3, 40)
    assert info.has_post_norm == (FAMILIES[config.model_type].mlp.post_norm is not None)
    whole, cut = load_lm(lm, tmp_path), load_lm(lm, tmp_path, n_layers=LAYER + 1)
    assert len(decoder_layers(cut.model)) == 2
    expected = residual_stream(whole.model, LAYER, tokens())
    assert torch.equal(residual_stream(cut, LAYER, tokens()), expected)
    hidden = whole.model(tokens(), output_hidden_states=True).hidden_states[LAYER + 1]
    torch.testing.assert_close(expected, hidden)

    for layer in range(3):
        end: Any = output(whole.model, layer, "mlp")
        read = read_mlp_decoder(lm, tmp_path, layer)
        assert torch.equal(read.weight, columns(whole.model, end.projection.weight))
        assert same(read.bias, end.projection.bias)
        assert same(read.post_norm_scale, scale_of(whole.model, end))
    end = output(whole.model, LAYER, "attention")
    written, scale = columns(whole.model, end.projection.weight), scale_of(whole.model, end)
    assert torch.equal(
        read_attention_output(lm, tmp_path, LAYER), written if scale is None else written * scale[:, None]
    )
    embeddings: Any = whole.model.get_input_embeddings()  # type: ignore[operator]
    assert torch.equal(read_token_embeddings(lm, tmp_path), embeddings.weight)


def test_sharded_checkpoint(tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path / "m", max_shard_size="10KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").is_file()
    read = read_mlp_decoder(LMConfig(name=str(tmp_path / "m")), tmp_path, LAYER)
    assert torch.equal(read.weight, model.model.layers[LAYER].mlp.down_proj.weight)


def test_fingerprint_follows_the_weights(tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(2)
    model.save_pretrained(tmp_path / "b")
    prints = [lm_info(LMConfig(name=str(tmp_path / name)), tmp_path).fingerprint for name in "aab"]
    assert prints[0] == prints[1] != prints[2]


def test_unknown_architecture_is_refused_by_name():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=8))
    with pytest.raises(UserError, match=r"architecture mpt is not known.*gemma2.*gpt_neox.*llama"):
        family(model)


def test_post_norm_opt_is_refused():
    """There LayerNorm follows the residual sum, and equations 4-6 do not hold."""
    config = OPTConfig(vocab_size=64, hidden_size=16, ffn_dim=40, num_hidden_layers=3, num_attention_heads=2,
                       max_position_embeddings=64, word_embed_proj_dim=16, do_layer_norm_before=False)  # fmt: skip
    with pytest.raises(UserError, match="opt model has its LayerNorm behind"):
        output(AutoModelForCausalLM.from_config(config), 0, "mlp")


@pytest.mark.parametrize("layer", [-1, 3])
def test_layer_outside_the_model(layer, tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path)
    for call in (
        lambda: output(model, layer, "attention"),
        lambda: residual_stream(model, layer, tokens()),
        lambda: read_mlp_decoder(LMConfig(name=str(tmp_path)), tmp_path, layer),
        lambda: read_attention_output(LMConfig(name=str(tmp_path)), tmp_path, layer),
    ):
        with pytest.raises(UserError, match=f"^layer={layer}: this model has layers 0 to 2"):
            call()
    with pytest.raises(UserError, match=f"^n_layers={layer + 1}: .* has 3 layers"):
        load_lm(LMConfig(name=str(tmp_path)), tmp_path, n_layers=layer + 1)


@pytest.mark.parametrize("name", ["google/gemma-2-2b", "no such name", "./nowhere"])
def test_a_model_that_cannot_be_had(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^lm.name=.*: ") as error:
        lm_info(LMConfig(name=name), tmp_path)
    assert "\n" not in str(error.value)


def test_fastest_dtype_is_one_of_two():
    assert fastest_dtype() in (torch.float32, torch.bfloat16)


@pytest.mark.slow
def test_packaged_model_knows_a_capital(cache_root):
    """The converted SmolLM2 is the real one: it completes a fact."""
    config = saemd.compose().lm
    info = lm_info(config, cache_root)
    assert (info.d_model, info.n_layers, info.mlp_width) == (576, 30, 1536)
    lm = load_lm(config, cache_root)
    ids = lm.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax()) == " Paris"
