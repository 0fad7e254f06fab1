"""A stand-in for the Hugging Face hub on loopback, so that the real download code runs in tests.

Serves files of a folder `<org>/<name>/...` under the paths that huggingface_hub asks for, with the headers that it
needs (commit, ETag, size). Every request is recorded; faults can be set for single files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """root: folder of repositories. faults: file name -> "404", "500", "cut" or "html"."""

    def __init__(self, root: Path):
        self.root = root
        self.faults: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def downloads(self) -> list[str]:
        """Paths of the files whose content was asked for."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


def _handler(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _fail(self, status: int, code: str):
            content = json.dumps({"error": code}).encode()
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def _answer(self, body: bool):
            path = unquote(urlparse(self.path).path)
            hub.requests.append((self.command, path))
            parts = path.strip("/").split("/")
            if len(parts) >= 5 and parts[2] == "resolve":
                repo, name = "/".join(parts[:2]), "/".join(parts[4:])
            elif parts[:2] == ["api", "models"] and len(parts) >= 4:
                return self._info("/".join(parts[2:4]), tree=parts[4:5] == ["tree"])
            else:
                return self._fail(404, "RepoNotFound")
            file = hub.root / repo / name
            fault = hub.faults.get(name)
            if not (hub.root / repo).is_dir():
                return self._fail(401, "RepoNotFound")
            if fault == "500":
                return self._fail(500, "InternalServerError")
            if fault == "404" or not file.is_file():
                return self._fail(404, "EntryNotFound")
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Accept-Ranges", "none")
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                if fault == "cut":
                    self.wfile.flush()
                    self.close_connection = True

        def _info(self, repo: str, tree: bool):
            """What is known of a repository, or the list of its files, by which snapshot_download goes."""
            if not (hub.root / repo).is_dir():
                return self._fail(401, "RepoNotFound")
            files = [path for path in sorted((hub.root / repo).rglob("*")) if path.is_file()]
            names = [str(path.relative_to(hub.root / repo)) for path in files]
            if tree:
                known = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                    for name, path in zip(names, files, strict=True)
                ]
            else:
                known = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            content = json.dumps(known).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    return Handler


@contextmanager
def serve(root: Path):
    """A running :class:`Hub` over `root`."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
