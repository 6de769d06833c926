"""sparsify's folders: `sae.safetensors` and `cfg.json`; TopK SAEs whose encoder is stored as [F, D]."""

from pathlib import Path

from saemd.files import DamagedFileError, read_json
from saemd.sae.formats.reading import REMEDY, Reading, read_safetensors, reading, refused

FORM, CONFIG = "sparsify", "cfg.json"
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def read(file: Path) -> Reading:
    """As `sparsify.SparseCoder.load_from_disk` reads it. Raises `UserError`."""
    path = file.parent / CONFIG
    config = read_json(path, REMEDY)
    if not isinstance(config, dict) or not isinstance(config.get("k"), int):
        raise DamagedFileError(path, "does not hold a sparse coder's keys and values", REMEDY)
    for key, what in (("transcode", "a transcoder"), ("skip_connection", "a skip connection")):
        if config.get(key):
            raise refused(path, FORM, f"{what} ({key}=true)")
    weights = {NAMES[name]: value for name, value in read_safetensors(file).items() if name in NAMES}
    if "W_enc" in weights:
        weights["W_enc"] = weights["W_enc"].mT
    is_signed = bool(config.get("signed"))  # of early versions: the k largest by absolute value
    activation = "signed topk" if is_signed else config.get("activation", "topk")
    return reading(FORM, file, activation, weights, True, k=config["k"])
