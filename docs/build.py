r"""Builds the site: `make docs`, into build/site.

Pages link to files of the repository relative to themselves, as GitHub wants it. The site does not hold these files,
so its copy of the pages, in build/pages, links to them under `repo_url` of zensical.toml, and not at all where that is
unset. Zensical stops at a link to a page or a heading that is not there.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path


ROOT = Path(__file__).parent.parent
DOCS, PAGES = ROOT / "docs", ROOT / "build" / "pages"
LINK = re.compile(r"(?<!!)\[([^][]*(?:\[[^][]*\][^][]*)*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def main() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS, PAGES, ignore=shutil.ignore_patterns("*.py", "upstream"))
    for page in PAGES.rglob("*.md"):
        page.write_text(for_the_site(page.read_text(), DOCS / page.relative_to(PAGES), project.get("repo_url")))
    sys.exit(subprocess.call([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT))


def for_the_site(text: str, page: Path, repository: str | None) -> str:
    """A page of docs/ whose links to other files of the repository lead there."""

    def link(match: re.Match) -> str:
        words, target, heading = match[1], match[2], match[3] or ""
        path = (page.parent / target).resolve()
        if ":" in target or path.is_relative_to(DOCS):
            return match[0]
        kind = "tree" if path.is_dir() else "blob"
        return f"[{words}]({repository}/{kind}/main/{path.relative_to(ROOT)}{heading})" if repository else words

    return LINK.sub(link, text)


if __name__ == "__main__":
    main()
