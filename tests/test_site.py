"""README and documentation: links, files that the site ships, words, and the built site in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from probes import load_script

gallery = load_script("examples/gallery.py")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md", *(ROOT / "docs").glob("*.md")]
WORDS = re.compile(
    r"to the bit|how it came about|so many seeds|nobody's|less that of|who comes from|bring what there is"
    r"|searches a|nacre\[|pip install nacre(?!` does not)",
    re.IGNORECASE,
)
"""What was hard to read, or wrong to advise."""


def without_code(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for address, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", without_code(page)):
        if re.match(r"\w+:", address):
            continue
        target = page.parent / address if address else page
        assert target.exists(), address
        if anchor:
            text = target.read_text(encoding="utf-8")
            headings = [re.sub(r"[^\w\s-]", "", it).strip() for it in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
            anchors = {re.sub(r"[\s]+", "-", heading).lower() for heading in headings}
            anchors |= set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
            assert anchor[1:] in anchors, (address, anchor)


def test_words_that_are_hard_to_read_do_not_come_back() -> None:
    found = []
    for file in [*PAGES, *(ROOT / "src").rglob("*.py"), ROOT / "examples" / "sparse-point-robot.ipynb"]:
        text = " ".join(re.sub(r'"image/png": "[^"]*"', "", file.read_text(encoding="utf-8")).split())
        found += [(file.name, text[max(0, it.start() - 30) : it.end() + 30]) for it in WORDS.finditer(text)]
    assert found == []


def test_the_site_ships_what_its_equations_need_and_nothing_from_elsewhere() -> None:
    assets = ROOT / "docs" / "assets"
    css = (assets / "katex" / "katex.min.css").read_text(encoding="utf-8")
    fonts = re.findall(r"url\(([^)]*)\)", css)
    assert sorted(fonts) == sorted(f"fonts/{it.name}" for it in (assets / "katex" / "fonts").glob("*.woff2"))
    for library in ("katex", "katex/fonts", "iframe-worker"):
        assert "Permission" in (assets / library / "LICENSE").read_text(encoding="utf-8").title()
    named = re.findall(r"assets/[\w./-]+", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert len(named) == 5
    assert all((ROOT / "docs" / it).is_file() for it in named)


def test_pictures_are_small() -> None:
    sizes = {
        it: it.stat().st_size for it in (ROOT / "docs").rglob("*") if it.suffix in {".png", ".webp", ".gif", ".svg"}
    }
    assert max(sizes.values()) < 700_000
    assert sum(sizes.values()) < 5_000_000


def test_the_gallery_draws_agents_and_families(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "agent.webp"
    arguments = ["agent", str(tiny_run), "--tasks=0.5,0.5; -1,0", "--out", str(out), "--width", "100", "--seconds", "2"]
    assert gallery.main(arguments) == 0
    with Image.open(out) as picture:
        assert picture.width == 200
        assert 10 < picture.n_frames <= 20
    monkeypatch.setattr(gallery, "FAMILIES", ("sparse-point-robot",))
    assert gallery.main(["families", "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "sparse-point-robot.webp") as picture:
        assert picture.n_frames > 10


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return folder


def opened(address: str, folder: Path) -> str:
    """The page as Chromium has it when its scripts have run; its console stays empty."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "this test needs Chromium: install the package chromium (Debian: apt-get install chromium)"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([chromium, *options, address], capture_output=True, text=True, timeout=300, check=True)
    assert re.findall(r"CONSOLE.*", done.stderr) == []
    return done.stdout


@pytest.mark.browser
def test_the_site_works_from_disk(site: Path, tmp_path: Path) -> None:
    home = opened((site / "index.html").as_uri() + "?q=posterior", tmp_path)
    assert re.search(r"\d+ matching documents", home)  # the search
    assert re.search(r'<img [^>]*src="images/gallery/pearl-cheetah-vel\.webp"', home)
    pages = [page for page in site.rglob("*.html") if 'class="arithmatex"' in page.read_text(encoding="utf-8")]
    assert {"pearl.html", "cemrl.html", "references.html"} <= {page.name for page in pages}
    for page in pages:
        dom = opened(page.as_uri(), tmp_path)
        assert dom.count('class="arithmatex"') == dom.count('class="katex-html"')  # all equations are set
        assert "katex-error" not in dom
        assert not re.search(
            r'class="mord (text(tt|sf)|math(tt|sf|frak|scr|bb|bfit)|boldsymbol)', dom
        )  # no font for them


@pytest.mark.browser
def test_no_page_loads_anything_from_elsewhere_and_every_picture_is_there(site: Path) -> None:
    loads = re.compile(r'<(?:script|img)[^>]*\ssrc="([^"]*)"|<link[^>]*rel="(?:stylesheet|icon)"[^>]*href="([^"]*)"')
    for page in {*site.rglob("*.html")} - {site / "404.html"}:  # that one is for a server, whatever its folder
        for one, other in loads.findall(page.read_text(encoding="utf-8")):
            address = one or other
            assert not re.match(r"(\w+:)?//", address), (page.name, address)
            assert (page.parent / address.partition("?")[0]).exists(), (page.name, address)


@pytest.mark.browser
def test_the_api_page_has_public_names_as_headings_and_no_raw_roles(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]*>", "", page)
    assert not re.search(r":(func|class|meth|mod|attr|data|exc):", text)
    for name in ("nacre.train", "nacre.evaluate", "nacre.load", "nacre.Experiment"):
        assert re.search(rf'<h3 id="{re.escape(name)}"', page)
    assert "seed-&lt;seed&gt;" in page  # what is in angle brackets is no tag
