"""A server in front of the real one: the page and its headers are the real ones, the answers are the test's."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reply:
    """What a test's script writes its answer to. Writing raises OSError once the reader has gone."""

    def __init__(self, handler):
        self._handler = handler
        self._started = False

    def status(self, code, body, **headers):
        """A whole answer that is no stream; a dict is sent as JSON."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
        self._handler.send_response(code)
        for name, value in {"content-length": len(data), **headers}.items():
            self._handler.send_header(name.replace("_", "-"), str(value))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def raw(self, text):
        if not self._started:
            self._started = True
            self._handler.send_response(200)
            self._handler.send_header("content-type", "text/event-stream")
            self._handler.end_headers()
        self._handler.wfile.write(text.encode())
        self._handler.wfile.flush()

    def chunk(self, finish_reason=None, **delta):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        self.raw(f"data: {json.dumps({'choices': [choice], 'usage': None})}\n\n")

    def call(self, index, name, arguments):
        """A tool call as the API streams it: its name first, then its arguments in two parts."""
        first = {"index": index, "id": f"call_{index}", "type": "function"}
        self.chunk(tool_calls=[{**first, "function": {"name": name, "arguments": ""}}])
        half = len(arguments) // 2
        for part in (arguments[:half], arguments[half:]):
            self.chunk(tool_calls=[{"index": index, "function": {"arguments": part}}])

    def end(self, finish_reason="stop", **usage):
        self.chunk(finish_reason)
        if usage:
            self.raw(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n")
        self.raw("data: [DONE]\n\n")


class FakeApi:
    """Listens on a free port. `script(reply)` answers the chat requests; `requests` holds (headers, body) of each."""

    def __init__(self, upstream):
        self.upstream = upstream.rstrip("/")
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self):
        self.requests = []
        self.script = None
        self.models = None

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(fake):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/v1/models" and fake.models:
                    fake.models(Reply(self), self.headers)
                else:
                    self.forward()

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.requests.append((dict(self.headers), body))
                try:
                    fake.script(Reply(self))
                except OSError:
                    # The page has hung up, as some tests want it to.
                    pass

            def forward(self):
                headers = {"authorization": self.headers["authorization"]} if self.headers["authorization"] else {}
                try:
                    answer = urllib.request.urlopen(urllib.request.Request(fake.upstream + self.path, headers=headers))
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    body = answer.read()
                    kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in ("transfer-encoding", "date")]
                self.send_response(answer.status)
                for name, value in kept:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
