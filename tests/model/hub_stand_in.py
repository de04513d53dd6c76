"""A stand-in of the Hugging Face hub's API on the loopback: just what fetching and sending a model asks for."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class StandIn:
    """Repositories in memory, and the files that were asked for.

    Attributes
    ----------
    address
        Goes into the environment variable ``HF_ENDPOINT``.
    models
        ``user/name`` -> path -> content.
    fetched
        Paths of the files that were sent out, in order.
    """

    def __init__(self) -> None:
        self.address = ""
        self.models: dict[str, dict[str, bytes]] = {}
        self.fetched: list[str] = []

    def commit_of(self, name: str) -> str:
        """The hash of what a repository holds."""
        return hashlib.sha1(repr(sorted(self.models[name].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        match unquote(urlsplit(self.path).path).strip("/").split("/"):
            case ["api", "models", user, model, "revision", _] if f"{user}/{model}" in self.hub.models:
                name = f"{user}/{model}"
                files = [{"rfilename": path} for path in self.hub.models[name]]
                self.answer({"id": name, "sha": self.hub.commit_of(name), "siblings": files})
            case ["api", "models", user, model, "tree", _] if f"{user}/{model}" in self.hub.models:
                files = self.hub.models[f"{user}/{model}"].items()
                self.answer(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for path, content in files
                    ]
                )
            case [user, model, "resolve", _, *path] if "/".join(path) in self.hub.models.get(f"{user}/{model}", {}):
                self.send_file(f"{user}/{model}", "/".join(path))
            case [user, model, "resolve", *_] if f"{user}/{model}" in self.hub.models:
                self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            case _:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815  (the name that the server calls)

    def send_file(self, name: str, path: str) -> None:
        content = self.hub.models[name][path]
        if self.command == "GET":
            self.hub.fetched.append(path)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(content, ETag=etag, X_Repo_Commit=self.hub.commit_of(name), Accept_Ranges="none")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_stand_in":
            self.answer({"error": "Invalid user token"}, 401)
            return
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                content = json.loads(body)
                name = f"{content.get('organization') or 'me'}/{content['name']}"
                self.hub.models.setdefault(name, {})
                self.answer({"url": f"{self.hub.address}/{name}", "name": name, "id": name})
            case ["api", "validate-yaml"]:
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
            case ["api", "models", user, model, "commit", _]:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        self.hub.models[f"{user}/{model}"][entry["value"]["path"]] = content
                commit = self.hub.commit_of(f"{user}/{model}")
                url = f"{self.hub.address}/{user}/{model}/commit/{commit}"
                self.answer({"success": True, "commitOid": commit, "commitUrl": url})
            case _:
                self.answer({"error": "no such call"}, 404)


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """Run the stand-in on a free port of the loopback."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
