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
    """

    def __init__(self, files):
        self.files, self.asked, self.breaks_after, self.url = dict(files), [], None, ""


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
            start = 0
            if asked and self.headers.get("If-Range") == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
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
