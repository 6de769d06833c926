"""Folders in an object store (`s3://`, `gs://`, `hf://`, any protocol of fsspec) behind folders of this machine.

A `cache_root` or `run_root` that is a URL has a local folder (`urls`), and the program reads and writes there as
usual. A file is uploaded as soon as it is complete (`mirror.push`, called by `saemd.files.replacing`), so that the
order of writing holds in the store too. `mirror.sync` brings a folder up to date, and a claim in the store (`claims`)
keeps two machines from writing one folder. Activations are read in parts: `saemd.activations.disk.remote`.
"""
