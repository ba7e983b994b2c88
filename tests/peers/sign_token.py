"""Signs a JSON Web Token with the standard library and `openssl` only, and prints it.

usage: sign_token.py ALG KEYFILE CLAIMS [HEADER]

HS256, HS384 and HS512 sign with the file's bytes. RS256, ES256 and EdDSA sign with a private key in
PEM. `none` does not sign. HEADER is JSON that replaces the header {"alg": ALG}, so that the header
can name another algorithm than ALG.
"""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*args: str, data: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *args], input=data, check=True, capture_output=True).stdout


def numbers_of(der: bytes) -> bytes:
    """Returns the two numbers of an ECDSA signature, 32 bytes each (RFC 7518, 3.4)."""
    at, numbers = 2, b""
    for _ in range(2):
        length = der[at + 1]
        number = der[at + 2 : at + 2 + length].lstrip(b"\0")
        numbers += number.rjust(32, b"\0")
        at += 2 + length
    return numbers


def sign(alg: str, key: str, message: bytes) -> bytes:
    if alg == "none":
        return b""
    if alg.startswith("HS"):
        with open(key, "rb") as file:
            return hmac.digest(file.read(), message, getattr(hashlib, "sha" + alg[2:]))
    if alg == "RS256":
        return openssl("dgst", "-sha256", "-sign", key, data=message)
    if alg == "ES256":
        return numbers_of(openssl("dgst", "-sha256", "-sign", key, data=message))
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        return openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", file.name)


alg, key, claims = sys.argv[1:4]
header = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {"alg": alg, "typ": "JWT"}
message = ".".join(encode(json.dumps(part).encode()) for part in (header, json.loads(claims)))
print(message + "." + encode(sign(alg, key, message.encode())))
