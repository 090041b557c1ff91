"""Runs the page's tests against a server of its own: run.py BINARY SCREENSHOTS [unittest argument]..."""

import os
import re
import signal
import subprocess
import sys
import time
import unittest
import urllib.request
from pathlib import Path

KEY = "page-test-key"
START_S = 60
STOP_S = 60


def start(binary, log):
    """The process of a server on a free port, and its address once it takes requests."""
    command = [binary, "serve", "--port", "0"]
    environment = {**os.environ, "CACHALOT_API_KEY": KEY}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    for line in server.stdout:
        found = re.search(r"http://[0-9.]+:\d+", line)
        if found:
            break
    else:
        sys.exit(f"the server ended at once with {server.wait()}: see {log.name}")
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{found[0]}/ready").close()
            return server, found[0]
        except OSError as error:
            if time.monotonic() > deadline:
                server.kill()
                sys.exit(f"the server is not ready after {START_S} s: {error}")
            time.sleep(0.2)


def main():
    binary, screenshots, *arguments = sys.argv[1:]
    here = Path(__file__).parent
    with open(Path(screenshots) / "server.log", "w+") as log:
        server, url = start(binary, log)
        try:
            os.environ.update(PAGE_TEST_SERVER=url, PAGE_TEST_KEY=KEY, PAGE_TEST_SCREENSHOTS=screenshots)
            names = arguments or ["discover", "-s", str(here)]
            passed = unittest.main(module=None, argv=["run.py", *names], exit=False).result.wasSuccessful()
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                code = server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                code = "nothing: it had to be killed"
        log.seek(0)
        panics = [line for line in log if "panicked" in line]
    if code != 0 or panics:
        sys.exit(f"the server ended with {code} after SIGTERM; panics: {panics}; see {log.name}")
    sys.exit(0 if passed else 1)


main()
