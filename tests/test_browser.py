"""The pages in a real browser: headless Chromium draws them, and its console stays empty."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from written import with_seed

import nacre
from nacre.report import write_comparison, write_report
from nacre.report.figures import AFTER, BEFORE

pytestmark = pytest.mark.browser


def open_page(page: Path, picture: Path, *flags: str, width: int = 1100) -> list[str]:
    """Lets Chromium draw a page, and returns what it wrote on its console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "this test needs Chromium: install the package chromium (Debian: apt-get install chromium)"
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",  # which containers do not allow; the pages are our own
            "--disable-gpu",
            f"--user-data-dir={picture.parent / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--hide-scrollbars",
            f"--window-size={width},2400",
            *flags,
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return re.findall(r"CONSOLE.*", done.stderr)


def shows(picture: Path, colour: str) -> int:
    """How many pixels have a colour, such as #0072B2."""
    pixels = np.round(imread(picture)[:, :, :3] * 255).astype(int)
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(pixels - wanted) <= 2).all(axis=2).sum())


def test_both_pages_are_drawn_without_a_word_on_the_console(tiny_run: Path, tmp_path: Path) -> None:
    report = write_report([tiny_run], tmp_path / "report.html")
    assert open_page(report, tmp_path / "report.png") == []
    assert shows(tmp_path / "report.png", AFTER) > 300
    assert shows(tmp_path / "report.png", BEFORE) > 300
    comparison = write_comparison({"all": [tiny_run]}, tmp_path / "compare.html")
    assert open_page(comparison, tmp_path / "compare.png") == []
    assert shows(tmp_path / "compare.png", AFTER) > 300


def brightness(picture: Path) -> np.ndarray:
    """Of each pixel, from 0 (black) to 1."""
    return imread(picture)[:, :, :3].mean(axis=2)


def test_figures_follow_dark_mode(tiny_run: Path, tmp_path: Path) -> None:
    page = write_comparison({"all": [tiny_run]}, tmp_path / "page.html")
    assert open_page(page, tmp_path / "light.png") == []
    assert open_page(page, tmp_path / "dark.png", "--blink-settings=preferredColorScheme=0") == []
    light, dark = brightness(tmp_path / "light.png"), brightness(tmp_path / "dark.png")
    assert np.median(light) > 0.9
    assert np.median(dark) < 0.2
    assert (dark > 0.8).sum() > 2000  # text and axes are light
    assert not (dark > 0.8)[:, 100:-100].all(axis=1).any()  # no figure has a white ground


def test_a_narrow_window_shows_figures_as_large_as_a_wide_one(tiny_run: Path, tmp_path: Path) -> None:
    """They scroll, so that their text can be read: of the blue line a part is out of sight."""
    page = write_comparison({"all": [tiny_run]}, tmp_path / "page.html")
    assert open_page(page, tmp_path / "wide.png", width=740) == []
    assert open_page(page, tmp_path / "narrow.png", width=500) == []
    wide, narrow = (shows(tmp_path / name, AFTER) for name in ("wide.png", "narrow.png"))
    assert 0.2 * wide < narrow < 0.95 * wide


def test_groups_and_seeds_can_be_switched(tiny_run: Path, tmp_path: Path) -> None:
    """Clicking changes whether boxes are checked, and the page's own rules do the rest."""
    runs = [with_seed(tiny_run, tmp_path / str(seed), seed, (-9.0, -1.0 * seed)) for seed in (1, 2)]
    page = write_comparison({"all": runs}, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    with_seeds = text.replace('class="switch-1" autocomplete="off"', 'class="switch-1" checked')
    pictures = []
    for name, version in (("first", text), ("seeds", with_seeds), ("none", text.replace(" checked", ""))):
        page.write_text(version, encoding="utf-8")
        assert open_page(page, tmp_path / f"{name}.png") == []
        pictures.append(imread(tmp_path / f"{name}.png"))
    first, seeds, nothing = ((picture - pictures[0] != 0).any(axis=2).sum() for picture in pictures)
    assert first == 0
    assert 500 < seeds < nothing + 2000
    assert shows(tmp_path / "none.png", AFTER) < shows(tmp_path / "first.png", AFTER)


def test_a_video_is_shown(run_copy: Path, tmp_path: Path) -> None:
    nacre.evaluate(run_copy, [[0.0, 1.0]], episodes=2, video=True, quiet=True)
    page = write_report([run_copy], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    [video] = re.findall(r'<div class="films">.*?</div>', text, re.DOTALL)
    page.write_text(
        re.sub(r"<body>.*</body>", lambda _: f"<body>{video}</body>", text, flags=re.DOTALL), encoding="utf-8"
    )
    assert open_page(page, tmp_path / "page.png", "--autoplay-policy=no-user-gesture-required") == []
    assert shows(tmp_path / "page.png", "#dcdcdc") > 5000  # the ground of its caption


def test_what_a_page_must_not_do_is_noticed(tmp_path: Path, tiny_run: Path) -> None:
    page = write_comparison({"all": [tiny_run]}, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("</main>", '<img src="other.png" alt=""><script>x()</script></main>'), encoding="utf-8"
    )
    assert len(open_page(page, tmp_path / "page.png")) == 2  # the page forbids itself both
