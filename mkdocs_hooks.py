"""What the documentation site is made of beside docs/: the README as its home page, the notebook, docstrings' roles.

MkDocs calls the functions named `on_...`; Griffe, which reads the docstrings, the class.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
NOTEBOOK = ROOT / "examples" / "sparse-point-robot.ipynb"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)#]*)(#[^)]*)?\)")
"""A link or a picture: its mark, its words (which may be a picture), its address and its anchor."""
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([^`]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    home = site_links((ROOT / "README.md").read_text(encoding="utf-8"), "")
    files.append(File.generated(config, "index.md", content=home))
    page, pictures = notebook_page(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    files.append(File.generated(config, "notebook.md", content=page))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of docs/ in the repository stay in the site, or become names of files."""
    return site_links(markdown, "../")


def site_links(markdown: str, to_root: str) -> str:
    """Markdown for the site, from a file whose links reach the root of the repository by `to_root`."""

    def replaced(match: re.Match[str]) -> str:
        mark, words, address, anchor = match.groups(default="")
        if not address or re.match(r"\w+:", address) or not address.startswith(to_root):
            return match[0]
        path = address.removeprefix(to_root)
        if not to_root and not (ROOT / path).exists():
            return match[0]
        if path.startswith("docs/"):
            return f"{mark}[{words}]({path.removeprefix('docs/')}{anchor})"
        if path == NOTEBOOK.relative_to(ROOT).as_posix():
            return f"{mark}[{words}](notebook.md)"
        if path == "README.md":
            return f"{mark}[{words}](index.md{anchor})"
        return words if words.strip("`") == path else f"{words} (`{path}`)"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)


def notebook_page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures below its cells by their names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(site_links(source, "../"))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            elif "image/png" in output["data"]:
                name = f"images/notebook-{cell['id']}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![The figure that this cell draws]({name})")
    return "\n\n".join(parts) + "\n", pictures


class Docstrings(griffe.Extension):
    """Docstrings as Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = docstring_markdown(obj.docstring.value)


def docstring_markdown(text: str) -> str:
    """Roles, such as :func:`nacre.load`, become links if the page has what they name, else code; <seed> is no tag."""
    parts = re.split(r"((?::\w+:)?`[^`]*`)", text)
    return "".join(ROLE.sub(_link, part) if part.endswith("`") else part.replace("<", "&lt;") for part in parts)


def _link(match: re.Match[str]) -> str:
    return f'<autoref optional identifier="{match[1]}"><code>{match[1]}</code></autoref>'
