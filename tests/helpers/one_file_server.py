"""A local HTTP server that stands for the sources of downloads: it can resume, break off, refuse, or lie."""

import contextlib
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Serves one body, with Range or without; ``breaks`` cuts answers off after so many bytes, one for each."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def do_GET(self):
        state, body = self.state, self.state["body"]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        state["ranges"].append(self.headers.get("Range"))
        if state.get("status"):
            self.send_error(state["status"])
            return
        start = int(asked[1]) if asked and state["resumes"] else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if asked and state["resumes"] else 200)
        if asked and state["resumes"]:
            self.send_header("Content-Range", f"bytes {start + state.get('shift', 0)}-{len(body) - 1}/{len(body)}")
        if state["sized"]:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + state["breaks"].pop(0) if state["breaks"] else len(body)
        self.wfile.write(body[start:stop])

    def log_message(self, *args):
        """Say nothing."""


@contextlib.contextmanager
def serving(body, *, name="master.zip", **changes):
    """Address and state of a server that gives one body under every path."""
    state = {"body": body, "resumes": True, "sized": True, "breaks": [], "ranges": [], **changes}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{name}", state
        finally:
            server.shutdown()
            thread.join()
