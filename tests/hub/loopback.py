# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A Hub on this machine: the routes that `huggingface_hub` calls to make, fill and read repositories, over real HTTP.

It keeps repositories in memory, checks tokens, insists on the checksums and sizes of large files, and can break a
connection after so many bytes.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


LARGE = (".safetensors", ".parquet", ".bin", ".pt")


@dataclass
class Repository:
    """Files of each commit, the newest last; those in `large` are kept apart, by their SHA-256."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    large: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()

    def oid(self, path: str) -> str:
        """Name of a file's content: as git makes it, or the SHA-256 of a large file."""
        content = self.files[path]
        if path in self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub(ThreadingHTTPServer):
    """
    Args:
        tokens (`dict[str, str]`):
            Token -> user. A user writes only what is his own, and reads what is public or his own.
    """

    daemon_threads = True

    def __init__(self, tokens: dict[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens
        self.repositories: dict[tuple[str, str], Repository] = {}  # ("model" or "dataset", "user/name")
        self.objects: dict[str, bytes] = {}
        self.broken: list[list] = []  # connections to break, see `break_connections`
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo_id: str, kind: str = "model") -> dict[str, bytes]:
        """What lies in a repository."""
        return self.repositories[kind, repo_id].files

    def break_connections(self, method: str, name: str, *, after: int, times: float = float("inf")) -> None:
        """The next `times` requests with that method for a file whose path or checksum has `name` in it (`""`: any) lose
        their connection after so many bytes of content. (Large files that the Hub has already are not sent again.)"""
        self.broken.append([method, name, after, times])

    def broken_after(self, method: str, name: str) -> int | None:
        """After how many bytes a connection is to break, if it is."""
        for fault in self.broken:
            if fault[0] == method and fault[1] in name and fault[3] > 0:
                fault[3] -= 1
                return fault[2]
        return None

    def handle_error(self, request, client_address) -> None:
        """A client that leaves early is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *args) -> None:
        pass

    # ---- Answers ----

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, answer, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), Content_Type="application/json")

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), Content_Type="application/json", **headers)

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    # ---- Requests ----

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self._query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self._body = None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self._user = self.server.tokens.get(token)
        if token and self._user is None:
            self._read()
            self._refuse(401, "Invalid credentials in Authorization header")
            return
        for (method, pattern), answer in _ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                answer(self, **match.groupdict())
                return
        self._read()
        self._refuse(404, f"no route {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _read(self) -> bytes:
        if self._body is None:
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self._body

    def _repository(self, kind: str, repo: str, write: bool = False) -> Repository | None:
        """The repository of a request; `None` once the request has been refused."""
        self._read()
        found = self.server.repositories.get((kind.removesuffix("s"), repo))
        owner = repo.split("/")[0]
        if found is None or (found.private and self._user != owner):
            if self._user is None:
                self._refuse(401, "Invalid username or password.")
            else:
                self._refuse(404, "Repository not found", "RepoNotFound")
            return None
        if write and self._user != owner:
            self._refuse(403, "Forbidden: you must use a write token to upload to a repository.")
            return None
        return found

    def whoami(self) -> None:
        if self._user is None:
            self._refuse(401, "Invalid username or password.")
        else:
            self._json({"type": "user", "name": self._user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        wanted = json.loads(self._read())
        owner, kind = wanted.get("organization") or self._user, wanted.get("type") or "model"
        if self._user is None:
            self._refuse(401, "Invalid username or password.")
        elif owner != self._user:
            self._refuse(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        elif (kind, f"{owner}/{wanted['name']}") in self.server.repositories:
            self._json({"url": self._page(kind, f"{owner}/{wanted['name']}"), "error": "exists already"}, 409)
        else:
            repo = f"{owner}/{wanted['name']}"
            self.server.repositories[kind, repo] = Repository(private=wanted.get("visibility") == "private")
            self._json({"url": self._page(kind, repo), "name": repo})

    def _page(self, kind: str, repo: str) -> str:
        return f"{self.server.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"

    def validate_yaml(self) -> None:
        content = json.loads(self._read())["content"]
        good = re.match(r"---\n.*?\n---\n", content, re.DOTALL) is not None
        self._json({"errors": [], "warnings": [] if good else [{"message": "empty or missing yaml metadata"}]})

    def info(self, kind: str, repo: str) -> None:
        found = self._repository(kind, repo)
        if found is not None:
            siblings = [{"rfilename": path} for path in sorted(found.files)]
            self._json(
                {"id": repo, "modelId": repo, "sha": found.sha, "private": found.private, "siblings": siblings,
                 "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False,
                 "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
            )  # fmt: skip

    def refs(self, kind: str, repo: str) -> None:
        found = self._repository(kind, repo)
        if found is not None:
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.sha}
            self._json({"branches": [branch], "tags": [], "converts": []})

    def _entry(self, found: Repository, path: str) -> dict:
        content = found.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": found.oid(path)}
        if path in found.large:
            entry["lfs"] = {"oid": found.oid(path), "size": len(content), "pointerSize": 134}
        return entry

    def tree(self, kind: str, repo: str, folder: str | None = None) -> None:
        found = self._repository(kind, repo)
        if found is None:
            return
        prefix = f"{folder.strip('/')}/" if folder else ""
        inside = [path for path in sorted(found.files) if path.startswith(prefix)]
        if prefix and not inside:
            self._refuse(404, f"{folder} does not exist", "EntryNotFound")
            return
        recursive = self._query.get("recursive", "").lower() == "true"
        folders = {path[: path.index("/", len(prefix))] for path in inside if "/" in path[len(prefix) :]}
        entries = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        entries += [self._entry(found, path) for path in inside if recursive or "/" not in path[len(prefix) :]]
        self._json(entries)

    def paths_info(self, kind: str, repo: str) -> None:
        found = self._repository(kind, repo)
        if found is None:
            return
        body = self._read()
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        asked = parse_qs(body.decode())["paths"] if form else json.loads(body)["paths"]
        entries = [self._entry(found, path) for path in asked if path in found.files]
        entries += [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
            for path in asked
            if path not in found.files and any(name.startswith(f"{path}/") for name in found.files)
        ]
        self._json(entries)

    def preupload(self, kind: str, repo: str) -> None:
        found = self._repository(kind, repo, write=True)
        if found is None:
            return
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
             "shouldIgnore": False, "oid": found.oid(file["path"]) if file["path"] in found.files else None}
            for file in json.loads(self._read())["files"]
        ]  # fmt: skip
        self._json({"files": files})

    def lfs_batch(self, repo: str, datasets: str | None = None) -> None:
        if self._repository("dataset" if datasets else "model", repo, write=True) is None:
            return
        objects = []
        for wanted in json.loads(self._read())["objects"]:
            if wanted["oid"] not in self.server.objects:
                actions = {
                    "upload": {"href": f"{self.server.endpoint}/storage/{wanted['oid']}"},
                    "verify": {"href": f"{self.server.endpoint}/storage/verify"},
                }
                wanted = wanted | {"actions": actions}
            objects.append(wanted)
        self._json({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        cut = self.server.broken_after("PUT", oid)
        if cut is not None:
            self.rfile.read(cut)
            self._cut()
            return
        content = self._content()
        if hashlib.sha256(content).hexdigest() != oid:
            self._refuse(400, "the content is not what its checksum says")
            return
        self.server.objects[oid] = content
        self._send(200)

    def _content(self) -> bytes:
        """The body of a request, which may come in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read()
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def verify(self) -> None:
        wanted = json.loads(self._read())
        if len(self.server.objects.get(wanted["oid"], b"")) == wanted["size"]:
            self._json({"message": "ok"})
        else:
            self._refuse(404, "there is no such object")

    def commit(self, kind: str, repo: str) -> None:
        found = self._repository(kind, repo, write=True)
        if found is None:
            return
        files = dict(found.files)
        for line in self._read().splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                found.large.discard(value["path"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.objects:
                    self._refuse(400, f"{value['path']}: its content was never uploaded")
                    return
                files[value["path"]] = self.server.objects[value["oid"]]
                found.large.add(value["path"])
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        found.commits.append(files)
        page = self._page(kind.removesuffix("s"), repo)
        self._json({"commitUrl": f"{page}/commit/{found.sha}", "commitOid": found.sha, "pullRequestUrl": None})

    def resolve(self, repo: str, path: str, datasets: str | None = None) -> None:
        found = self._repository("dataset" if datasets else "model", repo)
        if found is None:
            return
        if path not in found.files:
            self._send(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=found.sha)
            return
        content = found.files[path]
        if path in found.large:
            oid = found.oid(path)
            self._send(
                302, Location=f"http://localhost:{self.server.server_port}/storage/{oid}", X_Repo_Commit=found.sha,
                X_Linked_ETag=f'"{oid}"', X_Linked_Size=str(len(content)),
            )  # fmt: skip
        else:
            self._give(content, path, ETag=f'"{found.oid(path)}"', X_Repo_Commit=found.sha)

    def fetch(self, oid: str) -> None:
        if oid in self.server.objects:
            self._give(self.server.objects[oid], oid, ETag=f'"{oid}"')
        else:
            self._refuse(404, "there is no such object")

    def _give(self, content: bytes, name: str, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status, total = 200, len(content)
        if wanted:
            start, end = int(wanted[1]), int(wanted[2] or total - 1)
            content, status = content[start : end + 1], 206
            headers["Content_Range"] = f"bytes {start}-{end}/{total}"
        cut = self.server.broken_after("GET", name) if self.command == "GET" else None
        if cut is None:
            self._send(status, content, Accept_Ranges="bytes", **headers)
        else:
            self._send(status, content[:cut], Content_Length=str(len(content)), **headers)
            self._cut()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPO}"
_FILES = rf"/(?P<datasets>datasets/)?{_REPO}"
_ROUTES = {
    ("GET", "/api/whoami-v2"): _Handler.whoami,
    ("POST", "/api/repos/create"): _Handler.create,
    ("POST", "/api/validate-yaml"): _Handler.validate_yaml,
    ("GET", rf"{_API}(/revision/[^/]+)?"): _Handler.info,
    ("GET", rf"{_API}/refs"): _Handler.refs,
    ("GET", rf"{_API}/tree/[^/]+(?P<folder>/.+)?"): _Handler.tree,
    ("POST", rf"{_API}/paths-info/[^/]+"): _Handler.paths_info,
    ("POST", rf"{_API}/preupload/[^/]+"): _Handler.preupload,
    ("POST", rf"{_API}/commit/[^/]+"): _Handler.commit,
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch"): _Handler.lfs_batch,
    ("POST", "/storage/verify"): _Handler.verify,
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})"): _Handler.store,
    ("GET HEAD", "/storage/(?P<oid>[0-9a-f]{64})"): _Handler.fetch,
    ("GET HEAD", rf"{_FILES}/resolve/[^/]+/(?P<path>.+)"): _Handler.resolve,
}
