"""A server that speaks TLS and nothing else, before one that has no TLS: what a hosted database looks like."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


@dataclass
class TlsProxy:
    """A running proxy: where it listens, the certificate to trust, and what came to it."""

    port: int
    certificate: Path
    encrypted: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_certificate(folder: Path, *names: str, days: int = 1) -> tuple[Path, Path]:
    """Make a self-signed certificate for host names or addresses, and its key; return their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "server.crt", folder / "server.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@contextmanager
def tls_proxy(server_port: int, folder: Path, *names: str) -> Generator[TlsProxy]:
    """Listen on a free port of 127.0.0.1, with a certificate for `names`; sessions without TLS are refused."""
    certificate, key = make_certificate(folder, *(names or ("localhost", "127.0.0.1")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    sessions: list[threading.Thread] = []
    open_sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = TlsProxy(listener.getsockname()[1], certificate)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    open_sockets.append(client)
                    session = threading.Thread(target=_serve, args=(proxy, context, client, server_port))
                    sessions.append(session)
                    session.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for client in open_sockets:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            for session in sessions:
                session.join()


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _serve(proxy: TlsProxy, context: ssl.SSLContext, client: socket.socket, server_port: int) -> None:
    with client, suppress(OSError):
        while (code := _request(client)) == _GSS_REQUEST:
            client.sendall(b"N")
        if code != _SSL_REQUEST:
            with proxy.lock:
                proxy.refused += 1
            return
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as encrypted,
            socket.create_connection(("127.0.0.1", server_port)) as server,
        ):
            with proxy.lock:
                proxy.encrypted += 1
            back = threading.Thread(target=_pump, args=(server, encrypted))
            back.start()
            _pump(encrypted, server)
            back.join()


def _request(client: socket.socket) -> int:
    return struct.unpack("!ii", client.recv(8, socket.MSG_WAITALL))[1]


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
