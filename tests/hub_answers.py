"""What a hub for tests answers to each request of the `huggingface_hub` client: from request to reply, no sockets."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import yaml  # type: ignore[import-untyped]

from tests.hub_faults import Reply
from tests.hub_repositories import RefusalError, Repository, Shelf, StoredFile, is_large

TOKEN = "hf_only_for_tests"
ACCOUNT = "tester"
LICENCES = ("mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "other", "unknown")

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Request:
    """A request as it came in, with the status it was answered with (0: not at all)."""

    method: str
    path: str
    """With the query, as it was asked for."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names in small letters."""
    body: bytes = b""
    port: int = 0
    status: int = 0

    @property
    def first_byte(self) -> int:
        """Where in the file the client wanted to begin; 0 without a range."""
        asked = _RANGE.fullmatch(self.headers.get("range", ""))
        return int(asked[1]) if asked and asked[1] else 0

    @property
    def token(self) -> str | None:
        """The token that was shown."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    @property
    def query(self) -> dict[str, str]:
        """The last value of each name in the query."""
        return {name: values[-1] for name, values in parse_qs(self.path.partition("?")[2]).items()}

    def json(self) -> Any:
        """Read the body as JSON."""
        return json.loads(self.body)


class Answers:
    """The hub's side of the talk."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.plain: dict[str, Reply] = {}
        """Paths outside any repository, as on a mirror."""
        self.url = self.cdn_url = self.cdn = ""
        repository = r"(?P<repository>[^/]+/[^/]+)"
        revision = r"(?P<revision>[^/]+)"
        api = f"/api/models/{repository}"
        routes: dict[str, Callable[..., Reply]] = {
            "GET /api/whoami-v2": self._whoami,
            # The client asks for it once a day, in order to say who runs it, unless it is told not to be telling.
            "GET /api/agent-harnesses": lambda _: _json({"standardEnvVars": [], "harnesses": {}}),
            f"GET {api}": self._information,
            f"GET {api}/revision/{revision}": self._information,
            f"GET {api}/tree/{revision}(?:/(?P<folder>.+))?": self._tree,
            f"POST {api}/paths-info/{revision}": self._paths,
            "POST /api/repos/create": self._create,
            "POST /api/validate-yaml": self._validate_card,
            f"POST {api}/preupload/{revision}": self._choose_modes,
            f"POST {api}/commit/{revision}": self._commit,
            rf"POST /{repository}\.git/info/lfs/objects/batch": self._batch,
            rf"POST /{repository}\.git/info/lfs/objects/verify": self._verify,
            "PUT /lfs/(?P<sha256>[0-9a-f]{64})": self._upload,
            "GET /cdn/(?P<sha256>[0-9a-f]{64})": self._object,
            f"GET /{repository}/resolve/{revision}/(?P<path>.+)": self._file,
        }
        self._routes = {re.compile(pattern): answer for pattern, answer in routes.items()}

    def answer(self, request: Request) -> Reply:
        """Answer a request as the Hub would; a HEAD as the GET, whose body is then not sent."""
        path = request.path.partition("?")[0]
        if path in self.plain and request.method in ("GET", "HEAD"):
            plain = self.plain[path]
            return ranged(request, plain.body, plain.headers) if plain.status == 200 else plain
        method = "GET" if request.method == "HEAD" else request.method
        for pattern, answer in self._routes.items():
            if match := pattern.fullmatch(f"{method} {path}"):
                words = {name: unquote(word) for name, word in match.groupdict().items() if word is not None}
                try:
                    return answer(request, **words)
                except RefusalError as refusal:
                    return _refused(refusal)
        return _refused(RefusalError(404, None, "Not found"))

    # Reading

    def _whoami(self, request: Request) -> Reply:
        _account(request, needed=True)
        return _json({"type": "user", "name": ACCOUNT, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _information(self, request: Request, repository: str, revision: str = "main") -> Reply:
        found = self._readable(request, repository)
        commit = found.resolve(revision)
        with_sizes = request.query.get("blobs", "").lower() in ("true", "1")
        files = [
            {"rfilename": path} | (_described(path, file, "blobId", "sha256") if with_sizes else {})
            for path, file in sorted(found.commits[commit].items())
        ]
        dates = dict.fromkeys(("createdAt", "lastModified"), "2026-01-01T00:00:00.000Z")
        flags = {"private": found.private, "gated": "manual" if found.gated else False, "disabled": False}
        counts = {"downloads": 0, "likes": 0, "tags": []}
        names = {"id": found.name, "modelId": found.name, "sha": commit}
        return _json(names | dates | flags | counts | {"siblings": files})

    def _tree(self, request: Request, repository: str, revision: str, folder: str = "") -> Reply:
        found = self._readable(request, repository)
        commit = found.resolve(revision)
        prefix = f"{folder}/" if folder else ""
        files = {path: file for path, file in sorted(found.commits[commit].items()) if path.startswith(prefix)}
        if folder and not files:
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        if request.query.get("recursive", "").lower() in ("true", "1"):
            return _json([_described(path, file) for path, file in files.items()])
        folders = sorted({prefix + path.removeprefix(prefix).split("/")[0] for path in files} - files.keys())
        here = [_described(path, file) for path, file in files.items() if "/" not in path.removeprefix(prefix)]
        return _json([{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders] + here)

    def _paths(self, request: Request, repository: str, revision: str) -> Reply:
        found = self._readable(request, repository)
        files = found.commits[found.resolve(revision)]
        asked = parse_qs(request.body.decode()).get("paths", [])
        return _json([_described(path, files[path]) for path in asked if path in files])

    def _file(self, request: Request, repository: str, revision: str, path: str) -> Reply:
        found = self._readable(request, repository)
        account = _account(request)
        if found.gated:
            raise RefusalError(403 if account else 401, "GatedRepo", f"Access to model {repository} is restricted.")
        commit = found.resolve(revision)
        headers = {"X-Repo-Commit": commit}
        if path not in found.commits[commit]:
            missing = RefusalError(404, "EntryNotFound", f"{path} does not exist on {revision}")
            return _refused(missing, headers)
        file = found.commits[commit][path]
        if not file.large:
            return ranged(request, file.data, headers | {"ETag": f'"{file.etag}"'})
        headers |= {"ETag": f'"{file.etag}"', "X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        return Reply(302, headers | {"Location": f"{self.cdn}/cdn/{file.sha256}"})

    def _object(self, request: Request, sha256: str) -> Reply:
        if sha256 not in self.shelf.objects:
            raise RefusalError(404, None, "no such object")
        return ranged(request, self.shelf.objects[sha256], {"ETag": f'"{sha256}"'})

    def _readable(self, request: Request, name: str) -> Repository:
        account = _account(request)
        repository = self.shelf.find(name)
        if repository.private and account is None:
            raise RefusalError(401, "RepoNotFound", "Invalid username or password.")
        return repository

    # Publishing

    def _create(self, request: Request) -> Reply:
        account = _account(request, needed=True)
        asked = request.json()
        name = f"{asked.get('organization') or account}/{asked['name']}"
        about = {"name": name, "url": f"{self.url}/{name}"}
        if name in self.shelf.repositories:
            return _json(about | {"error": "You already created this model repo"}, 409)
        self.shelf.create(name, private=asked.get("visibility") == "private")
        return _json(about)

    def _validate_card(self, request: Request) -> Reply:
        head = re.match(r"---\r?\n(.*?)\r?\n---", request.json()["content"], re.DOTALL)
        if head is None:
            return _json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        errors = []
        try:
            told = yaml.safe_load(head[1])
        except yaml.YAMLError as error:
            errors.append(f"bad yaml: {error}")
        else:
            if not isinstance(told, dict):
                errors.append("the metadata must be an object")
            elif told.get("license", LICENCES[0]) not in LICENCES:
                errors.append(f'"license" must be one of {LICENCES}')
        return _json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def _choose_modes(self, request: Request, repository: str, revision: str) -> Reply:
        found = self._writable(request, repository)
        files = found.commits[found.resolve(revision)]
        modes = []
        for asked in request.json()["files"]:
            path = asked["path"]
            mode = "lfs" if is_large(path, asked["size"]) else "regular"
            etag = files[path].etag if path in files else None
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": etag})
        return _json({"files": modes})

    def _batch(self, request: Request, repository: str) -> Reply:
        self._writable(request, repository)
        answers = []
        for asked in request.json()["objects"]:
            wanted: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.shelf.objects:
                upload = {"href": f"{self.cdn_url}/lfs/{asked['oid']}?size={asked['size']}"}
                wanted["actions"] = {
                    "upload": upload,
                    "verify": {"href": f"{self.url}/{repository}.git/info/lfs/objects/verify"},
                }
            answers.append(wanted)
        return _json({"transfer": "basic", "objects": answers})

    def _upload(self, request: Request, sha256: str) -> Reply:
        file = StoredFile(request.body, large=True)
        if (file.sha256, str(len(file.data))) != (sha256, request.query.get("size")):
            raise RefusalError(400, None, f"got {len(file.data)} bytes of {file.sha256}")
        self.shelf.objects[sha256] = file.data
        return Reply()

    def _verify(self, request: Request, repository: str) -> Reply:
        self._writable(request, repository)
        told = request.json()
        if len(self.shelf.objects.get(told["oid"], b"")) != told["size"]:
            raise RefusalError(404, None, "no such object, or of another size")
        return _json({})

    def _commit(self, request: Request, repository: str, revision: str) -> Reply:
        found = self._writable(request, repository)
        changed: dict[str, StoredFile] = {}
        gone: set[str] = set()
        head = found.resolve(revision)
        for line in request.body.splitlines():
            key, value = (step := json.loads(line))["key"], step["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                raise RefusalError(412, None, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                changed[value["path"]] = StoredFile(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile":
                if value["oid"] not in self.shelf.objects:
                    raise RefusalError(400, None, f"{value['path']}: its object was never uploaded")
                changed[value["path"]] = StoredFile(self.shelf.objects[value["oid"]], large=True)
            elif key == "deletedFile":
                gone.add(value["path"])
            elif key == "deletedFolder":
                gone |= {path for path in found.commits[head] if path.startswith(value["path"].rstrip("/") + "/")}
        commit = found.commit(changed, frozenset(gone), revision)
        return _json({"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{repository}/commit/{commit}"})

    def _writable(self, request: Request, name: str) -> Repository:
        _account(request, needed=True)
        return self.shelf.find(name)


def ranged(request: Request, whole: bytes, headers: Mapping[str, str]) -> Reply:
    """Answer with a file or the part of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | dict(headers)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    unchanged = request.headers.get("if-range", headers.get("ETag")) == headers.get("ETag")
    if asked is None or asked[0] == "bytes=-" or not unchanged:
        return Reply(200, headers, whole, whole)
    if asked[1]:
        first, end = int(asked[1]), min(len(whole), int(asked[2]) + 1 if asked[2] else len(whole))
    else:
        first, end = max(0, len(whole) - int(asked[2])), len(whole)
    if first >= end:
        return Reply(416, headers | {"Content-Range": f"bytes */{len(whole)}"}, whole=whole)
    headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(whole)}"
    return Reply(206, headers, whole[first:end], whole, first)


def _account(request: Request, *, needed: bool = False) -> str | None:
    if request.token is None and not needed:
        return None
    if request.token != TOKEN:
        known = (
            "Invalid username or password." if request.token is None else "Invalid credentials in Authorization header"
        )
        raise RefusalError(401, None, known)
    return ACCOUNT


def _described(path: str, file: StoredFile, git_hash: str = "oid", sha256: str = "oid") -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": path, "size": len(file.data), git_hash: file.git_hash}
    if file.large:
        told["lfs"] = {sha256: file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return told


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(value).encode())


def _refused(refusal: RefusalError, headers: Mapping[str, str] | None = None) -> Reply:
    told = {"X-Error-Message": quote(refusal.message, safe=" ./:'()-")}
    if refusal.code is not None:
        told["X-Error-Code"] = refusal.code
    reply = _json({"error": refusal.message}, refusal.status)
    return Reply(refusal.status, {**reply.headers, **told, **(headers or {})}, reply.body)
