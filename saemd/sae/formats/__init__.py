"""SAEs that other libraries saved, read behind one door: `locate` a path or hub address, `read` its folder.

Nothing that is read may execute: weights are safetensors, arrays without pickled objects, or tensors alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from saemd.files import DamagedFileError
from saemd.sae.formats import dictionary_learning, gemma_scope, saelens, sparsify
from saemd.sae.formats.hub import download, is_on_hub
from saemd.sae.formats.reading import Reading

FORMS: Mapping[str, tuple[str, Callable[[Path], Reading]]] = {  # by the file of the weights
    "sae_weights.safetensors": (saelens.FORM, saelens.read),
    "sae.safetensors": (sparsify.FORM, sparsify.read),
    "ae.pt": (dictionary_learning.FORM, dictionary_learning.read),
    "params.npz": (gemma_scope.FORM, gemma_scope.read),
    "params.safetensors": (f"{gemma_scope.FORM} 2", gemma_scope.read),
}
CONFIGS = ("cfg.json", "config.json")
SHOWN = 5  # names in a message

__all__ = ["FORMS", "Reading", "locate", "read", "weights_file"]


def locate(address: Path | str) -> Path:
    """The folder of an SAE on this disk: of a folder, of a file in it, or of a hub address, which is downloaded.

    Hub addresses are `hf://<org>/<repository>/<folder>`, and SAELens's `<release>/<sae_id>` where no such path exists.
    Raises `UserError` where a hub address cannot be downloaded.
    """
    path = Path(address).expanduser()
    if not path.exists() and is_on_hub(str(address)):
        return download(str(address), (*FORMS, *CONFIGS))
    return path.parent if path.is_file() else path


def weights_file(folder: Path) -> Path:
    """The file of the weights, whose name tells the form. Without one, `DamagedFileError` lists the known forms."""
    if (found := next((folder / name for name in FORMS if (folder / name).is_file()), None)) is not None:
        return found
    known = ", ".join(f"{name} ({form})" for name, (form, _) in FORMS.items())
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    there = f"found {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}" if names else "the folder is empty"
    if not folder.is_dir():
        there = "there is no such folder (hub: hf://<org>/<repository>/<folder>; SAELens's releases: install sae-lens)"
    first, *_ = FORMS
    what = "there is no such file, nor one of another known form"
    raise DamagedFileError(folder / first, what, f"known are {known}; {there}")


def read(folder: Path) -> Reading:
    """The SAE in `folder`, in whichever form. Raises `UserError`."""
    file = weights_file(folder)
    return FORMS[file.name][1](file)
