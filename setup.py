"""Carries into the package what it reads and the tree keeps at its top; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = {"conf": "conf", "requirements-saebench.lock": "quality/saebench/requirements.lock"}  # place below saemd/


class BuildWithCarried(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the package is the source tree's own
            return
        for source, place in CARRIED.items():
            target = Path(self.build_lib, "saemd", place)
            if Path(source).is_dir():
                shutil.rmtree(target, ignore_errors=True)  # of an earlier build
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithCarried})
