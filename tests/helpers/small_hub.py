"""A hub for tests: the endpoints of the Hugging Face hub that a push and a download use, on this machine's loopback."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_smallhub"
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """``files``: by repository and name; ``asked``: each request's method and path; ``large``: uploads by digest."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, dict[str, bytes]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, content: object = b"", *, status: int = 200, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", headers.get("size", str(len(raw))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        owner, _, rest = path.strip("/").partition("/resolve/")
        files = self.server.files.get(owner)
        if path == "/":
            self._send()
        elif files is None:
            self._send(b"", status=401, X_Error_Code="RepoNotFound")
        elif (revision := rest.partition("/")[0]) not in ("main", COMMIT):
            self._send(b"", status=404, X_Error_Code="RevisionNotFound", X_Error_Message=f"no {revision}")
        elif (content := files.get(rest.partition("/")[2])) is None:
            self._send(b"", status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self._send(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        self.server.large[self.path.rpartition("/")[2]] = self._body()
        self._send()

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send({"error": "Invalid credentials"}, status=401)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            there = name in self.server.files
            self.server.files.setdefault(name, {})
            self.server.settings.setdefault(name, wanted)
            self._send({"url": f"{self.server.url}/{name}"}, status=409 if there else 200)
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            kinds = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in files
            ]
            self._send({"files": [kind | {"shouldIgnore": False} for kind in kinds]})
        elif path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            actions = [
                one | {"actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}} for one in wanted
            ]
            self._send({"transfer": "basic", "objects": actions})
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[name][value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    content = self.server.large[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    self.server.files[name][value["path"]] = content
            self._send({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        else:
            self._send({"error": f"no {path}"}, status=404)


@contextmanager
def small_hub() -> Iterator[Hub]:
    """A hub for as long as the block runs."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join(timeout=10)
