"""A server on the loopback that knows ranges, and can break off, forget a file, or change it."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Shelf:
    """What the server hands out.

    Attributes
    ----------
    files
        Path -> bytes; what is not in it is not there (404).
    asked
        Path and range of every request.
    breaks_after
        With it an answer ends after so many bytes, though it has promised more.
    headers
        Header -> what is sent in its place; None for nothing.
    goes_on_anyway, goes_on_at
        Whether a range of another version is sent, too; where the rest begins in place of where it should.
    """

    def __init__(self, files):
        self.files, self.asked, self.breaks_after, self.url = dict(files), [], None, ""
        self.headers, self.goes_on_anyway, self.goes_on_at = {}, False, None


@contextmanager
def serving(files):
    shelf = Shelf(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            shelf.asked.append((self.path, asked))
            content = shelf.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:12]}"'
            start, is_part = 0, asked and (shelf.goes_on_anyway or self.headers.get("If-Range") == tag)
            if is_part:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                start = start if shelf.goes_on_at is None else shelf.goes_on_at
            self.send_response(206 if is_part else 200)
            headers = {"ETag": tag, "Content-Length": str(len(content) - start)}
            if is_part:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            for name, value in (headers | shelf.headers).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            stop = len(content) if shelf.breaks_after is None else start + shelf.breaks_after
            self.wfile.write(content[start:stop])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shelf.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
