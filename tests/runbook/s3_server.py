"""A real S3 server for tests, and a proxy in front of it that breaks what it is told to.

A test module gets the fixtures by `pytest_plugins = ["tests.runbook.s3_server"]`, and may have imported other names
from here before, so: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import base64
import functools
import http.client
import io
import ipaddress
import itertools
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from runbook.clients.s3_store import client_config

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "AKIATESTACCESSKEY000"
SECRET_KEY = "test-secret-access-key-never-shown"
REGION = "us-east-1"
FOR_EVER = 1 << 30
_number = itertools.count(1)
_BUCKET_QUERIES = {
    "versioning": "GetBucketVersioning",
    "versions": "ListObjectVersions",
    "uploads": "ListMultipartUploads",
    "object-lock": "GetObjectLockConfiguration",
    "list-type": "ListObjectsV2",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @staticmethod
    def error(status: int, code: str, message: str = "") -> Answer:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return Answer(status, {"Content-Type": "application/xml"}, text.encode())


def operation(method: str, target: str) -> str:
    """Name a request as S3's manual does."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "/" not in parts.path.strip("/"):
        return next((name for key, name in _BUCKET_QUERIES.items() if key in query), f"{method} bucket")
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "retention" in query:
        return f"{method.capitalize()}ObjectRetention"
    return f"{method.capitalize()}Object"


class Exchange(BaseHTTPRequestHandler):
    """One request; a fault decides what becomes of it."""

    protocol_version = "HTTP/1.1"
    proxy: S3Proxy

    def handle_one(self) -> None:
        self.close_connection = True
        name = operation(self.command, self.path)
        self.proxy.requests.append((name, self.path, dict(self.headers.items())))
        self.proxy.take(name)(self)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def forward(self, body: bytes | None = None) -> Answer:
        """Let the server answer. A body that does not fit its checksum is refused, as S3 does and the server not."""
        data = self.body() if body is None else body
        expected = self.headers.get("x-amz-checksum-crc32")
        if expected and base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode() != expected:
            return Answer.error(400, "BadDigest", "The CRC32 you specified did not match what we received.")
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        with self.proxy.one_by_one:  # the server looks and writes in two steps, S3 in one
            connection = http.client.HTTPConnection(*self.proxy.behind, timeout=60)
            try:
                connection.request(self.command, self.path, data, headers)
                response = connection.getresponse()
                return Answer(response.status, dict(response.getheaders()), response.read())
            finally:
                connection.close()

    def reply(self, answer: Answer, *, cut_at: int | None = None, dated: bool = True) -> None:
        dropped = {"connection", "content-length", "date", "server", "transfer-encoding"}
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        if dated:
            self.send_header("Date", format_datetime(self.proxy.clock(), usegmt=True))
        self.send_header("Content-Length", length or str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut_at])

    def reset(self) -> None:
        """Break the connection as a router does that has forgotten it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


Fault = Callable[[Exchange], None]


def works(exchange: Exchange) -> None:
    exchange.reply(exchange.forward())


def says(status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.body()
        answer = Answer.error(status, code, message)
        exchange.reply(Answer(status, {**answer.headers, **(headers or {})}, answer.body))

    return fault


def resets_in_the_middle(exchange: Exchange) -> None:
    exchange.rfile.read(int(exchange.headers["Content-Length"]) // 2)
    exchange.reset()


def loses_the_answer(exchange: Exchange) -> None:
    exchange.forward()
    exchange.reset()


def does_nothing(exchange: Exchange) -> None:
    exchange.body()
    exchange.reply(Answer(200, {}, b""))


def never_answers(exchange: Exchange) -> None:
    exchange.body()
    exchange.proxy.released.wait()


def cuts_the_download(exchange: Exchange) -> None:
    answer = exchange.forward()
    exchange.reply(answer, cut_at=len(answer.body) // 2)


def damages_the_body(exchange: Exchange) -> None:
    data = bytearray(exchange.body())
    data[len(data) // 2] ^= 1
    exchange.reply(exchange.forward(bytes(data)))


def with_header(name: str, value: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.reply(Answer(answer.status, {**answer.headers, name: value}, answer.body))

    return fault


def forgets_header(name: str) -> Fault:
    """Take a header off a request, as a service does that does not know it."""

    def fault(exchange: Exchange) -> None:
        del exchange.headers[name]
        works(exchange)

    return fault


def without_date(exchange: Exchange) -> None:
    exchange.reply(exchange.forward(), dated=False)


def in_pages_of_two(exchange: Exchange) -> None:
    exchange.path += "&max-keys=2"
    works(exchange)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a fault has broken is no error."""


class S3Proxy:
    """Passes everything on, but what a test wants broken."""

    def __init__(self, behind: tuple[str, int], certificate: Path | None = None) -> None:
        self.certificate = certificate
        self.behind = behind
        self.one_by_one = threading.Lock()
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (Exchange,), {"proxy": self}))
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.mend()

    def mend(self) -> None:
        """Break nothing any more, and forget what was."""
        self.released.set()
        self.released = threading.Event()
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._faults: dict[str, list[tuple[Fault, int]]] = {}

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def breaks(self, operation: str, fault: Fault, *, times: int = 1, after: int = 0) -> None:
        """Have the next requests of a kind answered by `fault`; let `after` of them pass before."""
        with self._lock:
            self._faults[operation] = [(works, after), (fault, times)]

    def take(self, name: str) -> Fault:
        with self._lock:
            left = [(fault, times) for fault, times in self._faults.get(name, []) if times > 0]
            if not left:
                return works
            (fault, times), *rest = left
            self._faults[name] = [(fault, times - 1), *rest]
            return fault

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _, _ in self.requests)


def self_signed(path: Path) -> Path:
    """Write a certificate of 127.0.0.1, and its key, that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now, address = datetime.now(UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


class _Stream(io.RawIOBase):
    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if not self._rest:
            self._rest = next(self._chunks, b"")
        given, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(given)] = given
        return len(given)


def stream_of(chunks: Iterable[bytes]) -> BinaryIO:
    """A stream that is made while it is read, as the output of a program is; none of the chunks may be empty."""
    return io.BufferedReader(_Stream(chunks))


@functools.cache
def _session() -> Any:  # noqa: ANN401 - a union of all services that the type checker cannot name
    return boto3.session.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION)


def s3_client(endpoint: str, *, read_timeout_s: float = 20, attempts: int = 3) -> S3Client:
    """A client as the block makes it, less patient; nothing of it comes from the environment."""
    impatient = Config(
        read_timeout=read_timeout_s, retries={"mode": "standard", "total_max_attempts": attempts}, proxies={}
    )
    config = client_config(path_style=True).merge(impatient)
    return _session().client("s3", endpoint_url=endpoint, config=config)


@pytest.fixture(scope="session")
def s3_address() -> Generator[tuple[str, int]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_url(s3_address: tuple[str, int]) -> str:
    """The server itself."""
    return f"http://{s3_address[0]}:{s3_address[1]}"


@pytest.fixture(scope="session")
def s3_direct(s3_url: str) -> Generator[S3Client]:
    """A client for tests to look behind the proxy."""
    with closing(s3_client(s3_url)) as client:
        yield client


@pytest.fixture(scope="session")
def s3_proxy_of_all(s3_address: tuple[str, int]) -> Generator[S3Proxy]:
    proxy = S3Proxy(s3_address)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="session")
def s3_through_of_all(s3_proxy_of_all: S3Proxy) -> Generator[S3Client]:
    with closing(s3_client(s3_proxy_of_all.url, attempts=1)) as client:
        yield client


@pytest.fixture
def s3_proxy(s3_proxy_of_all: S3Proxy) -> Generator[S3Proxy]:
    """The server behind a proxy that can break things."""
    yield s3_proxy_of_all
    s3_proxy_of_all.mend()


@pytest.fixture
def s3_through(s3_proxy: S3Proxy, s3_through_of_all: S3Client) -> S3Client:
    """A client whose requests go through the proxy, each of them once."""
    return s3_through_of_all


@pytest.fixture
def s3_tls_proxy(s3_address: tuple[str, int], tmp_path: Path) -> Generator[S3Proxy]:
    """The same behind TLS; `certificate` is its own authority."""
    proxy = S3Proxy(s3_address, self_signed(tmp_path / "authority.pem"))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def s3_bucket(s3_direct: S3Client) -> str:
    """An empty bucket without versions."""
    return new_bucket(s3_direct)


def new_bucket(client: S3Client, *, versioned: bool = False, lockable: bool = False) -> str:
    bucket = f"backups-{next(_number)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lockable)
    if versioned:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket
