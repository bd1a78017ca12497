"""A real nginx with the files of deploy/nginx, before backends of this machine."""

import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from demo.studio import free_port
from tests.deploy.manifests import DEPLOY

SERVER = "server backend:9090 resolve max_fails=0;"
"""The line of nginx.conf that only Docker's name server can make sense of."""


class Nginx:
    """Starts it; skips the test where there is none.

    Args:
        folder: For its files, and its `log`.
        ports: Of the backends.
    """

    def __init__(self, folder, ports):
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if not program:
            pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
        self.port, self.log = free_port(0), folder / "log"
        text = (DEPLOY / "nginx/nginx.conf").read_text()
        assert text.count(SERVER) == 1
        text = text.replace(SERVER, " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports))
        text = text.replace("listen 9090;", f"listen 127.0.0.1:{self.port};").replace("/tmp/", f"{folder}/")
        (folder / "nginx.conf").write_text(re.sub("/dev/std(out|err)", str(self.log), text))
        shutil.copy(DEPLOY / "nginx/proxy.conf", folder)
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off; user root;"]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "syntax is ok" in checked.stderr
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=30).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def stop(self):
        self._process.terminate()
        self._process.wait(10)
