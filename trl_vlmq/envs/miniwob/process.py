# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A Chromium that does not outlive its Python, and that reaches nothing but files."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chromium.remote_connection import ChromiumRemoteConnection
from selenium.webdriver.common.proxy import Proxy
from selenium.webdriver.remote.client_config import ClientConfig


# Farama's variables, honoured here too.
BINARY_VARIABLE, DRIVER_VARIABLE = "MINIWOB_CHROME_BINARY", "MINIWOB_CHROMEDRIVER"
BINARIES, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)

ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-smooth-scrolling",
    # What is drawn must not depend on what was drawn before.
    "--force-color-profile=srgb",
    "--disable-partial-raster",
    "--disable-skia-runtime-opts",
    "--disable-lcd-text",
    "--lang=en-US",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--disable-extensions",
    "--disable-crash-reporter",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-quic",
    "--metrics-recording-only",
    # Page timers must not slow down because nobody looks.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    # No name resolves, and every connection, to this machine too, goes to a proxy that does not exist.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    # To page.js the style sheets beside a page are of the same origin as the page.
    "--allow-file-access-from-files",
    # The driver speaks to Chromium through a pipe, without a port; Chromium ends when the pipe does.
    "--remote-debugging-pipe",
)

# Selenium starts this in place of the driver and holds its standard input. The end of that input, however it came
# about, ends the driver with all that it started, and removes what they wrote: again, while one of them is still dying.
GUARD = """#!/bin/sh
trap : TERM
setsid {driver} "$@" < /dev/null &
read -r _
kill -s KILL -- "-$!" 2> /dev/null
for _ in 0 1 2 3 4 5 6 7 8 9; do for _ in 0 1 2 3 4 5 6 7 8 9; do rm -rf {folder} && exit; sleep 0.1; done; done
"""


# Seconds that a browser may take to start, on a machine with much else to do.
START_TIMEOUT = 120.0


SAME_VERSION = "The two must be of the same version; Debian's packages chromium and chromium-driver are."


class BrowserError(RuntimeError):
    """The browser died, hangs or does not start: this episode is lost, and the next `reset` starts another browser."""


def find_executable(given: str | None, variable: str, names: tuple[str, ...]) -> str:
    """
    The path of an executable: the one given, or else that of the environment variable, or else the first on the PATH.

    Raises:
        FileNotFoundError: there is none; it says what to install.
    """
    wanted = given or os.environ.get(variable)
    found = shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, names)), None)
    if found is None:
        what = f"{wanted!r} is not an executable" if wanted else f"None of {', '.join(names)} is on the PATH"
        option = "chrome_binary" if variable == BINARY_VARIABLE else "chromedriver"
        raise FileNotFoundError(
            f"{what}: MiniWoB++ needs Chromium and its driver. On Debian install them with `apt-get install chromium "
            f"chromium-driver`; elsewhere give {option}= or set {variable}."
        )
    return found


class BrowserProcess:
    """
    Chromium, its driver and their files.

    Args:
        chrome_binary (`str`):
            Path of Chromium.
        chromedriver (`str`):
            Path of its driver.
        timeout (`float`):
            Seconds after which a call counts as hung.

    Attributes:
        pid (`int`):
            Process of which all others are descendants.
        folder (`str`):
            Where all its files are.

    Raises:
        BrowserError: the browser does not start.
    """

    def __init__(self, chrome_binary: str, chromedriver: str, timeout: float):
        self.folder = tempfile.mkdtemp(prefix="trl_vlmq_miniwob_")
        guard = Path(self.folder, "guard.sh")
        guard.write_text(GUARD.format(driver=shlex.quote(chromedriver), folder=shlex.quote(self.folder)))
        guard.chmod(0o700)
        self._log = tempfile.TemporaryFile()
        self._service = Service(
            str(guard),
            log_output=self._log,
            # What is drawn must not depend on who draws it; and all files go where they are removed.
            env=os.environ | dict.fromkeys(("HOME", "TMPDIR"), self.folder) | {"TZ": "UTC", "LC_ALL": "C.UTF-8"},
            # A group of its own: Ctrl-C in a terminal is Python's to handle.
            popen_kw={"start_new_session": True},
        )
        self._service.process = None  # so that close works if start raises
        self.pid = None
        try:
            self._service.start()
            self.pid = self._service.process.pid
            self.driver = self._connect(chrome_binary, timeout)
        except Exception as error:
            reason = " ".join(str(error).splitlines()[:1])
            hint = SAME_VERSION if self.pid else f"The driver said: {self._last_words()}"
            self.close()
            raise BrowserError(f"{chrome_binary} does not start with {chromedriver}: {reason} {hint}") from error

    def close(self) -> None:
        """End everything, at once and whatever state it is in."""
        self._log.close()
        guard = self._service.process
        if guard is not None and guard.poll() is None:
            try:
                guard.communicate(b"\n", timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                guard.kill()
                guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # where there was no guard any more

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing")

    def _connect(self, chrome_binary: str, timeout: float) -> webdriver.Remote:
        options = webdriver.ChromeOptions()
        options.binary_location = chrome_binary
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={self.folder}/profile")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # which root cannot have
        options.timeouts = {"script": round(1000 * timeout), "pageLoad": round(1000 * timeout)}
        url = self._service.service_url
        config = ClientConfig(url, timeout=START_TIMEOUT, proxy=Proxy({"proxyType": "DIRECT"}))
        connection = ChromiumRemoteConnection(url, vendor_prefix="goog", browser_name="chrome", client_config=config)
        driver = webdriver.Remote(command_executor=connection, options=options)
        connection.client_config.timeout = timeout + 5  # the driver's own limits come first: their messages say more
        return driver
