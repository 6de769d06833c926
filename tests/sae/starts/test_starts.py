"""What each start promises: unit rows, what seeds share, the mirrored form, and the property that names it."""

from __future__ import annotations

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import INITS
from saemd.sae.starts.pool import usage
from tests.sae.starts.given import LAYER, MADE, D, M, cosines, mlp, rows, sources, start

SHARED = {"mirror", "pool"}  # drawn by no seed
MIRRORED = {"mirror", "mirror_rotated", "mirror_subset", "gaussian", "random_mirrored"}


@pytest.mark.parametrize("name", MADE)
def test_rows_seeds_and_form(name):
    W = rows(name, seed=1)
    torch.testing.assert_close(W.norm(dim=1), torch.ones(2 * M))
    assert torch.equal(W, rows(name, seed=1))
    assert torch.equal(W, rows(name, seed=2)) == (name in SHARED)
    assert torch.equal(W[:M], -W[M:]) == (name in MIRRORED)


@pytest.mark.parametrize("name", [name for name, start in INITS.items() if hasattr(start.Config(), "shared")])
def test_a_shared_draw_is_the_same_for_all_seeds(name):
    assert torch.equal(rows(name, seed=1, shared=True), rows(name, seed=2, shared=True))
    assert not torch.equal(rows(name, seed=1, shared=True), rows(name, seed=1))


@pytest.mark.parametrize("offset", [-2, -1, 1])
def test_mirror_of_another_layer(offset):
    U = mlp(LAYER + offset)
    torch.testing.assert_close(rows("mirror", offset=offset)[:M], (U / U.norm(dim=0)).T)


def test_a_rotation_keeps_all_angles_and_no_direction():
    W, plain = rows("mirror_rotated"), rows("mirror")
    torch.testing.assert_close(W @ W.T, plain @ plain.T, rtol=0, atol=1e-5)
    assert cosines(W, plain).abs().mean() < 0.6
    rotation = torch.linalg.lstsq(plain, W).solution
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(D), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("sigma", "cosine"), [(0.0, 1.0), (0.5, 0.8), (1.0, 0.5)])
def test_noise_sets_the_cosine_of_two_seeds(sigma, cosine):
    """1/(1 + σ²), and 1/√(1 + σ²) with `mirror` itself; in 12 dimensions 60 rows spread by about .2."""
    drawn = [rows("mirror_noise", seed=seed, sigma=sigma) for seed in range(12)]
    between = torch.stack([cosines(a, b).mean() for i, a in enumerate(drawn) for b in drawn[:i]])
    with_mirror = torch.stack([cosines(W, rows("mirror")).mean() for W in drawn])
    assert between.mean().item() == pytest.approx(cosine, abs=0.02)
    assert with_mirror.mean().item() == pytest.approx(cosine**0.5, abs=0.02)


@pytest.mark.parametrize("mirrored", [True, False])
def test_gaussian_rows_have_the_second_moment_of_the_mlp(mirrored):
    """Of rows of one norm, so up to the rescaling to unit norm: it falls along the axes as that of U does."""
    squeezed = torch.linspace(0.1, 3, D)[:, None] * mlp(None)
    given = sources(40_000)
    object.__setattr__(given, "mlp_decoder", lambda layer: (squeezed, None))
    W = start("gaussian", drawn=given, mirrored=mirrored).W_dec.detach()
    ours, wanted = W.T @ W / len(W), squeezed @ squeezed.T / M
    weighted = torch.linalg.inv(torch.linalg.cholesky(wanted)) @ W.T  # ε of rows U ε, up to each row's length
    white = torch.nn.functional.normalize(weighted, dim=0)
    torch.testing.assert_close(white @ white.T / len(W), torch.eye(D) / D, rtol=0, atol=5e-3)
    assert ours.diagonal().argsort().tolist()[-1] == wanted.diagonal().argsort().tolist()[-1]
    assert torch.equal(W[:20_000], -W[20_000:]) == mirrored


def test_a_subset_has_different_neurons_of_the_layers_it_names():
    pool = torch.cat([mlp(LAYER + offset).T for offset in (-2, -1, 1)])
    pool = pool / pool.norm(dim=1, keepdim=True)
    chosen = [(rows("mirror_subset", seed=seed, offsets=[-2, -1, 1])[:M] @ pool.T).max(1) for seed in (1, 2)]
    for values, indices in chosen:
        torch.testing.assert_close(values, torch.ones(M))
        assert len(indices.unique()) == M
        assert len((indices // M).unique()) == 3
    assert 0 < len({*chosen[0].indices.tolist()} & {*chosen[1].indices.tolist()}) < M


def test_data_points_are_different_activations_without_their_mean():
    x = sources().sample()
    x = x - x.mean(0)
    best = (rows("data_points") @ (x / x.norm(dim=1, keepdim=True)).T).max(1)
    torch.testing.assert_close(best.values, torch.ones(2 * M))
    assert len(best.indices.unique()) == 2 * M


def pool_of(parts: list[str]) -> torch.Tensor:
    found = {
        "mlp": [mlp(layer).T for layer in range(LAYER + 1)],
        "attention": [mlp(layer)[:, : M // 2].T + 1 for layer in range(LAYER + 1)],
        "embeddings": [mlp(9).T],
    }
    pool = torch.cat([direction for part in parts for direction in found[part]])
    return pool / pool.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("part", ["mlp", "attention", "embeddings"])
def test_pool_takes_what_activations_are_made_of(part):
    """Activations are multiples of either sign of five planted directions of one part: these are chosen."""
    planted = pool_of([part])[[0, 3, 5, 8, 11]]
    both = torch.cat([planted, -planted])
    W = start("pool", drawn=sources(10, sample=lambda: 3 * both), picks=1).W_dec.detach()
    torch.testing.assert_close((W @ both.T).max(0).values, torch.ones(10))


def test_usage_is_matching_pursuit():
    """Against a plain loop over single activations."""
    pool, x_ND = pool_of(["mlp"]), sources().sample()[:20]
    energy, moment = usage(x_ND, pool, 3)
    expected, P = torch.zeros(2 * len(pool)), len(pool)
    for x in x_ND:
        r = x
        for _ in range(3):
            along = pool @ r
            i = int(along.abs().argmax())
            expected[i if along[i] > 0 else P + i] += along[i] ** 2
            r = r - along[i] * pool[i]
    torch.testing.assert_close(energy, expected)
    torch.testing.assert_close(moment[:P], (x_ND @ pool.T).clamp(min=0).square().sum(0))
    torch.testing.assert_close(moment[P:], (-x_ND @ pool.T).clamp(min=0).square().sum(0))
    assert energy.sum() <= x_ND.square().sum()


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("mirror", {"offset": 2}, r"init.offset=2: from layer=2 the model has layers at -2 to 1"),
        ("mirror_rotated", {"offset": -3}, r"init.offset=-3: "),
        ("mirror_noise", {"sigma": -1.0}, r"init.sigma=-1.0: use a number from 0"),
        ("mirror_noise", {"sigma": float("nan")}, r"init.sigma=nan: "),
        ("mirror_noise", {"d_sae": 58}, r"d_sae=58: init=mirror_noise has 2m=60"),
        ("random_mirrored", {"d_sae": 59}, r"d_sae=59: .* use an even number"),
        ("gaussian", {"d_sae": 59}, r"d_sae=59: .* use an even number"),
        ("mirror_subset", {"d_sae": 122}, r"init.offsets=\[-1, 0\]: these layers have 60 neurons, d_sae=122 takes 61"),
        ("mirror_subset", {"offsets": [0, 0]}, r"init.offsets=\[0, 0\]: name at least one layer, and each once"),
        ("mirror_subset", {"offsets": []}, r"init.offsets=\[\]: "),
        ("mirror_subset", {"offsets": [2]}, r"init.offsets=2: from layer=2"),
        ("data_points", {"d_sae": 401}, r"activations.tokens=400: init=data_points takes d_sae=401"),
        ("pool", {"parts": ["mpl"]}, r"init.parts=\['mpl'\]: .* known are mlp, attention, embeddings"),
        ("pool", {"picks": 0}, r"init.picks=0: use at least 1"),
        ("pool", {"parts": ["mlp"], "d_sae": 181}, r"d_sae=181: the pool has 180 directions"),
        ("pool", {"parts": ["embeddings"], "d_sae": 61}, r"d_sae=61: the pool has 60 directions"),
    ],
)
def test_what_does_not_fit_is_refused(name, keys, line):
    with pytest.raises(UserError, match=line):
        rows(name, **keys)
