"""Takes the console's pictures in docs/images anew: runs the demo, signs in, opens pages in Chromium at two widths,
light and dark.

Needs playwright and a Chromium, as tests/console/test_browser.py does. The rows are the demo's own, so nothing in them
is anybody's."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright  # type: ignore[import-not-found,unused-ignore]

IMAGES = Path(__file__).parent.parent / "docs" / "images"
# Page, width, height, colours.
SHOTS = (
    ("overview", "/", 1280, 900, "light"),
    ("overview", "/", 1280, 900, "dark"),
    ("overview", "/", 390, 780, "light"),
    ("overview", "/", 390, 780, "dark"),
    ("accesses", "/accesses?operation=read", 1280, 900, "light"),
    ("integrity", "/integrity?span=30d", 1280, 900, "light"),
    ("secret", "/secret?owner=5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f0000&name=stripe_key", 390, 780, "light"),
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> int:
    command = [
        sys.executable,
        "-m",
        "secretproxy",
        "demo",
        "--port",
        str(free_port()),
        "--console-port",
        str(free_port()),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"(http://127\.0\.0\.1:\d+)/  as (\w+), password (\w+)", line)
                if found is not None:
                    take(*found.groups())
                    return 0
        finally:
            process.terminate()
    return 1


def take(url: str, user: str, password: str) -> None:
    """Writes the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page: Any = browser.new_page()
        page.goto(f"{url}/sign-in")
        page.fill("[name=user]", user)
        page.fill("[name=password]", password)
        page.click("button")
        # So that the overview says up to when the log is verified.
        page.goto(f"{url}/integrity")
        page.click("text=Verify now")
        page.wait_for_selector("text=The report as JSON")
        for name, path, width, height, scheme in SHOTS:
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": height})
            page.goto(url + path)
            page.screenshot(path=IMAGES / f"console-{name}-{width}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
