"""A model hub on the loopback that speaks what the unmodified client of Hugging Face calls.

Written after the client's source: repositories, revisions, trees, refs, preupload, LFS (in one part or several),
commits, and downloads with their redirect. It has no Xet storage, so that ``HF_HUB_DISABLE_XET`` is set for uploads:
without it the client would upload large files by another protocol.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from tests.support.hub_repository import LFS_SUFFIX, Repository, entry, git_blob, mode, sibling

TOKEN, STRANGER = "hf_ownersSECRET", "hf_strangersSECRET"
"""Tokens of who owns all repositories, and of somebody else."""


class _Refusal(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class HubServer:
    """A running hub.

    Attributes:
        asked: method and path of every request.
        part_bytes: size of the parts of a large upload; None for uploads in one part.
        answer_with: gives a status to answer a request with, None to answer it; called with method and path.
        cut: bytes by which the content of large files is shorter than it should be.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str]] = []
        self.part_bytes: int | None = None
        self.answer_with: Callable[[str, str], int | None] = lambda method, path: None
        self.cut = 0
        self.port = 0
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """The address of what is large: as with the public hub, that of another host."""
        return f"http://localhost:{self.port}"

    def add(self, name: str, folder: Path, **options: Any) -> str:
        """Make a repository with one commit of a folder's files; returns the commit."""
        repository = self.repositories[name] = Repository(**{"private": False, **options})
        return repository.commit("main", {file.name: file.read_bytes() for file in folder.iterdir()})

    def count(self, method: str, part: str) -> int:
        """Number of requests with this method and this part of the path."""
        return sum(each == method and part in path for each, path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        return

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self._read_body()
        self.hub.asked.append((self.command, path))
        if status := self.hub.answer_with(self.command, path):
            self._answer(status, b"<html>no</html>", {"Content-Type": "text/html"})
            return
        try:
            for method, pattern, function in ROUTES:
                if self.command == method and (match := re.fullmatch(pattern, path)):
                    with self.hub.lock:
                        answer = function(self, *match.groups())
                    break
            else:
                raise _Refusal(404, "EntryNotFound", f"no route for {self.command} {path}")
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            content = json.dumps({"error": refusal.message}).encode()
            self._answer(refusal.status, content, {k: v for k, v in headers.items() if v})
            return
        if isinstance(answer, tuple):
            self._answer(*answer)
        else:
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815 - named by the base class

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    # --- who asks, and for what ---------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, STRANGER):
            raise _Refusal(401, "", "Invalid credentials in Authorization header")
        return token or None

    def _repository(self, name: str, writes: bool = False) -> Repository:
        user, found = self._user(), self.hub.repositories.get(name)
        if found is None or (found.private and user != TOKEN):
            raise _Refusal(404, "RepoNotFound", "Repository not found") if user else _Refusal(401)
        if writes and user != TOKEN:
            raise _Refusal(403 if user else 401, "", "You have no right to write here")
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str:
        found = repository.found(revision)
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _json(self) -> Any:
        return json.loads(self.body)

    # --- endpoints ----------------------------------------------------------------------------------------------------

    def create(self) -> Any:
        asked, user = self._json(), self._user()
        name = f"{asked['organization']}/{asked['name']}"
        if user != TOKEN:
            raise _Refusal(403 if user else 401, "", "You have no right to create this")
        if name in self.hub.repositories:
            answer = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
            return 409, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        repository = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[name] = repository
        return {"url": f"{self.hub.url}/{name}"}

    def validate(self) -> Any:
        card = re.match(r"---\n(.*?)\n---\n", self._json()["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(card[1]) if card else {}
        except yaml.YAMLError:
            metadata = None
        if isinstance(metadata, dict):
            return {"errors": [], "warnings": []}
        answer = {"errors": [{"message": "the metadata is no YAML"}], "warnings": []}
        return 400, json.dumps(answer).encode(), {"Content-Type": "application/json"}

    def info(self, name: str, revision: str | None = None) -> Any:
        repository = self._repository(name)
        commit = self._commit_of(repository, revision or "main")
        with_sizes = "blobs" in self.query
        siblings = [sibling(path, content, with_sizes) for path, content in repository.commits[commit].items()]
        return {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings}

    def tree(self, name: str, revision: str) -> Any:
        repository = self._repository(name)
        files = repository.commits[self._commit_of(repository, revision)]
        return [entry(path, content) for path, content in files.items()]

    def refs(self, name: str) -> Any:
        repository = self._repository(name)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repository.branches.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repository.tags.items()]
        return {"branches": branches, "tags": tags, "converts": []}

    def branch(self, name: str, branch: str) -> Any:
        repository = self._repository(name, writes=True)
        if branch in repository.branches:
            raise _Refusal(409, "", "Reference already exists")
        repository.branches[branch] = self._commit_of(repository, self._json().get("startingPoint") or "main")
        return {}

    def tag(self, name: str, revision: str) -> Any:
        repository, tag = self._repository(name, writes=True), self._json()["tag"]
        if tag in repository.tags:
            raise _Refusal(409, "", "Tag already exists")
        repository.tags[tag] = self._commit_of(repository, revision)
        return {}

    def preupload(self, name: str, revision: str) -> Any:
        repository = self._repository(name, writes=True)
        files = repository.commits[self._commit_of(repository, revision)]
        return {"files": [mode(each["path"], files.get(each["path"])) for each in self._json()["files"]]}

    def lfs_batch(self, name: str) -> Any:
        repository, objects = self._repository(name, writes=True), []
        for each in self._json()["objects"]:
            oid, size = each["oid"], each["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in repository.large:
                href, header = f"{self.hub.storage}/storage/{name}/{oid}?signature=SECRET", {}
                if part := self.hub.part_bytes:
                    header = {str(n + 1): f"{href}&part={n + 1}" for n in range(-(-size // part))}
                    header["chunk_size"] = str(part)
                    href = f"{self.hub.url}/complete/{name}/{oid}"
                verify = {"href": f"{self.hub.url}/verify/{name}/{oid}"}
                answer["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
            objects.append(answer)
        return {"transfer": "multipart" if self.hub.part_bytes else "basic", "objects": objects}

    def _require_no_token(self) -> None:
        """The storage is another host, which must not get the token."""
        if "Authorization" in self.headers:
            raise _Refusal(400, "", "the token was sent to the storage")

    def store(self, name: str, oid: str) -> Any:
        self._require_no_token()
        repository = self.hub.repositories[name]
        if "part" in self.query:
            repository.parts.setdefault(oid, {})[int(self.query["part"][0])] = self.body
            return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}
        self._keep(repository, oid, self.body)
        return 200, b"", {}

    def complete(self, name: str, oid: str) -> Any:
        repository = self.hub.repositories[name]
        parts = repository.parts.get(oid, {})
        numbers = [each["partNumber"] for each in self._json()["parts"]]
        self._keep(repository, oid, b"".join(parts.get(number, b"") for number in numbers))
        return {}

    @staticmethod
    def _keep(repository: Repository, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refusal(400, "", "the content is not what was announced")
        repository.large[oid] = content

    def verify(self, name: str, oid: str) -> Any:
        if len(self.hub.repositories[name].large.get(oid, b"")) != self._json()["size"]:
            raise _Refusal(404, "EntryNotFound", "nothing was uploaded")
        return {}

    def commit(self, name: str, branch: str) -> Any:
        repository = self._repository(name, writes=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repository.branches[branch]:
            raise _Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = repository.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(branch, files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True}

    def resolve(self, name: str, revision: str, path: str) -> Any:
        repository = self._repository(name)
        commit = self._commit_of(repository, revision)
        if repository.is_gated and self._user() != TOKEN:
            raise _Refusal(403 if self._user() else 401, "GatedRepo", "Access to this model is restricted")
        content = repository.commits[commit].get(path)
        if content is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(content)}"'}
        if not path.endswith(LFS_SUFFIX):
            return 200, content, headers
        oid = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return 302, b"", {**headers, "Location": f"{self.hub.storage}/cdn/{name}/{commit}/{path}?signature=SECRET"}

    def cdn(self, name: str, commit: str, path: str) -> Any:
        self._require_no_token()
        content = self.hub.repositories[name].commits[commit][path]
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            rest = content[int(found[1]) :]
            return 206, rest, {"Content-Range": f"bytes {found[1]}-{len(content) - 1}/{len(content)}"}
        return 200, content[: len(content) - self.hub.cut], {}


NAME = r"([^/]+/[^/]+)"
MODEL = rf"/api/models/{NAME}"
ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", MODEL, _Handler.info),
    ("GET", rf"{MODEL}/revision/(.+)", _Handler.info),
    ("GET", rf"{MODEL}/tree/([^/]+)", _Handler.tree),
    ("GET", rf"{MODEL}/refs", _Handler.refs),
    ("POST", rf"{MODEL}/branch/(.+)", _Handler.branch),
    ("POST", rf"{MODEL}/tag/(.+)", _Handler.tag),
    ("POST", rf"{MODEL}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"{MODEL}/commit/(.+)", _Handler.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", rf"/storage/{NAME}/(\w+)", _Handler.store),
    ("POST", rf"/complete/{NAME}/(\w+)", _Handler.complete),
    ("POST", rf"/verify/{NAME}/(\w+)", _Handler.verify),
    ("HEAD", rf"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"/cdn/{NAME}/(\w+)/(.+)", _Handler.cdn),
]


@contextmanager
def hub_serving(home: Path) -> Iterator[HubServer]:
    """Serve on a free port, and point the client to it: in child processes by the environment, and here too.

    Args:
        home: the client's folder, HF_HOME, for cache and token.
    """
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            point_client_to(hub.url, home, patch)
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_client_to(url: str, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the client use an endpoint and a home: by its environment, and by what it has read of that already."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_ENDPOINT", url)
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HOME", str(home))
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
