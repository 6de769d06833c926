"""mkdocs hook: the READMEs of the repository become pages of the site, with the files that they link to.

Pages keep their place in the repository (`experiments/demo/README.md`), so one relative link works on the site and in a
view of the repository; `docs/` itself is the site's root.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
READMES = ("experiments/*/README.md", "saemd/quality/README.md", "saemd/quality/*/README.md")
TEXTS = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    pages = [path for pattern in (*READMES, *TEXTS) for path in sorted(ROOT.glob(pattern))]
    texts = {path: path.read_text() for path in [*pages, *(ROOT / "docs").glob("*.md")]}
    linked = {
        (path.parent / link[2]).resolve() for path, text in texts.items() for link in LINK.finditer(text)
    }  # a missing one stays a broken link, which mkdocs reports
    for path in dict.fromkeys([*pages, *sorted(linked)]):
        uri = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        if path.is_file() and uri and not uri.startswith("docs/"):
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the repository as links of the site: without `docs/`, which is the site's root."""
    uri = page.file.src_uri
    folder = posixpath.dirname(uri)
    is_doc = Path(page.file.abs_src_path).is_relative_to(ROOT / "docs")
    place = posixpath.join("docs", folder) if is_doc else folder

    def site_link(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(place, link[2])).removeprefix("docs/")
        return link[1] + posixpath.relpath(target, folder or ".") + link[3]

    return LINK.sub(site_link, markdown)
