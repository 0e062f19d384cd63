"""Signed tokens (HS256)."""

import base64
import hashlib
import hmac
import json


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signature(signed: str, secret: str) -> str:
    return _encode(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())


def sign(claims: dict[str, object], secret: str) -> str:
    header = _encode(b'{"alg":"HS256","typ":"JWT"}')
    signed = f"{header}.{_encode(json.dumps(claims).encode())}"
    return f"{signed}.{_signature(signed, secret)}"


def verify(token: str, secret: str) -> bool:
    signed, _, signature = token.rpartition(".")
    return hmac.compare_digest(signature, _signature(signed, secret))
