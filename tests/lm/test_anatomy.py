"""Every architecture claimed, as a tiny random model: equations 5-6 in numbers, files, truncation."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MptConfig, OPTConfig

from saemd.errors import UserError
from saemd.lm.anatomy import FAMILIES, decoder_layers, family, mlp_anatomy
from saemd.lm.config import LMConfig
from saemd.lm.load import fastest_dtype, lm_info, load_lm, residual_stream
from saemd.lm.weights import read_mlp_decoder
from tests.lm.models import CONFIGS, IDS, LAYER, tiny, tokens
from tests.pipeline import save_model


def silence(module: torch.nn.Module, args: Any, output: Any) -> torch.Tensor:
    """A hook that makes a module write nothing."""
    return torch.zeros_like(output)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_sum_of_columns_is_the_mlps_contribution(config):
    """output(with MLP) − output(without) = post_norm(Σ σ_i u_i + c), for the layer as it runs in the model."""
    model = tiny(config)
    anatomy = mlp_anatomy(model, LAYER)
    assert anatomy.decoder.shape == (16, 40)
    seen: list[torch.Tensor] = []
    handle = anatomy.decoder_module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with_mlp = residual_stream(model, LAYER, tokens())
    handle.remove()
    sigma = seen[0].view(2, 9, 40)
    written = sum(sigma[..., i : i + 1] * anatomy.decoder[:, i] for i in range(40))
    if anatomy.bias is not None:
        written = written + anatomy.bias
    if anatomy.post_norm is not None:
        written = anatomy.post_norm(written)
    assert sigma.abs().max() > 1e-3
    silent = anatomy.post_norm if anatomy.post_norm is not None else anatomy.decoder_module
    silent.register_forward_hook(silence)
    torch.testing.assert_close(with_mlp - residual_stream(model, LAYER, tokens()), written, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_activation_is_what_makes_sigma(config):
    """Without it σ is 0, and in the MLPs without a gate σ is its very output."""
    model = tiny(config)
    anatomy = mlp_anatomy(model, LAYER)
    seen, activated = [], []
    anatomy.decoder_module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    handle = anatomy.activation.register_forward_hook(lambda module, args, output: activated.append(output))
    residual_stream(model, LAYER, tokens())
    assert torch.equal(seen[0], activated[0]) == (config.model_type in {"gpt2", "gpt_neox", "opt", "phi"})
    handle.remove()
    anatomy.activation.register_forward_hook(silence)
    residual_stream(model, LAYER, tokens())
    assert seen[1].abs().max() == 0


def test_every_family_claimed_is_proven():
    assert {config.model_type for config in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("config", [c for c in CONFIGS if FAMILIES[c.model_type].post_norm], ids=lambda c: c.model_type)
def test_post_norm_scale_is_the_direction_a_neuron_writes(config):
    model = tiny(config)
    anatomy = mlp_anatomy(model, LAYER)
    assert anatomy.post_norm is not None
    assert anatomy.post_norm_scale is not None
    written = anatomy.post_norm(3.0 * anatomy.decoder[:, 5])
    expected = anatomy.post_norm_scale * anatomy.decoder[:, 5]
    assert torch.cosine_similarity(written, expected, dim=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_files_truncation_and_single_weights(config, tmp_path):
    """From a saved folder: the first layers alone give the same residual stream; one weight is read by itself."""
    folder = save_model(tmp_path / "model", config)
    tiny(config).save_pretrained(folder)
    lm = LMConfig(name=str(folder))
    info = lm_info(lm, tmp_path)
    assert (info.d_model, info.n_layers, info.mlp_width) == (16, 3, 40)
    whole, cut = load_lm(lm, tmp_path), load_lm(lm, tmp_path, n_layers=LAYER + 1)
    assert (len(decoder_layers(cut.model)), cut.n_layers_total, cut.d_model) == (2, 3, 16)
    expected = residual_stream(whole.model, LAYER, tokens())
    assert torch.equal(residual_stream(cut, LAYER, tokens()), expected)
    hidden = whole.model(tokens(), output_hidden_states=True).hidden_states[LAYER + 1]
    torch.testing.assert_close(expected, hidden)
    anatomy, read = mlp_anatomy(whole.model, LAYER), read_mlp_decoder(lm, tmp_path, LAYER)
    assert torch.equal(read.weight, anatomy.decoder)
    assert (read.bias is None) == (anatomy.bias is None)
    if anatomy.bias is not None:
        assert read.bias is not None
        assert torch.equal(read.bias, anatomy.bias)
    if anatomy.post_norm_scale is not None:
        assert read.post_norm_scale is not None
        assert torch.equal(read.post_norm_scale, anatomy.post_norm_scale)


def test_sharded_checkpoint(tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path / "m", max_shard_size="10KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").is_file()
    read = read_mlp_decoder(LMConfig(name=str(tmp_path / "m")), tmp_path, LAYER)
    assert torch.equal(read.weight, mlp_anatomy(model, LAYER).decoder)


def test_fingerprint_follows_the_weights(tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        mlp_anatomy(model, 2).decoder.mul_(2)
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
        mlp_anatomy(AutoModelForCausalLM.from_config(config), 0)


@pytest.mark.parametrize("layer", [-1, 3])
def test_layer_outside_the_model(layer, tmp_path):
    model = tiny(CONFIGS[0])
    model.save_pretrained(tmp_path)
    for call in (
        lambda: mlp_anatomy(model, layer),
        lambda: residual_stream(model, layer, tokens()),
        lambda: read_mlp_decoder(LMConfig(name=str(tmp_path)), tmp_path, layer),
    ):
        with pytest.raises(UserError, match=f"^layer={layer}: this model has layers 0 to 2"):
            call()
    with pytest.raises(UserError, match=f"^n_layers={layer + 1}: .* has 3 layers"):
        load_lm(LMConfig(name=str(tmp_path)), tmp_path, n_layers=layer + 1)


def test_padding_is_masked():
    """Left-padded, a rotary model gives the residual stream of the text alone."""
    model, pad = tiny(CONFIGS[0]), torch.full((2, 3), 2)
    mask = torch.cat([torch.zeros_like(pad), torch.ones(2, 9, dtype=torch.long)], 1)
    alone, padded = residual_stream(model, LAYER, tokens()), torch.cat([pad, tokens()], 1)
    torch.testing.assert_close(residual_stream(model, LAYER, padded, mask)[:, 3:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(residual_stream(model, LAYER, padded)[:, 3:], alone, rtol=1e-3, atol=1e-4)


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
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from saemd.cli import CONF, register

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config").lm)
    assert isinstance(config, LMConfig)
    info = lm_info(config, cache_root)
    assert (info.d_model, info.n_layers, info.mlp_width) == (576, 30, 1536)
    lm = load_lm(config, cache_root)
    ids = lm.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax()) == " Paris"
