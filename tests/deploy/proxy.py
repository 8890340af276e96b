"""A running nginx with the shipped configuration, and a server that it falls back to."""

import os
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.deploy.conftest import free_port, replaced, start, stop
from tests.deploy.tools import ROOT, tool

CONFIGURATION = ROOT / "deploy" / "nginx" / "nginx.conf"
FALLBACK_STATUS = 202  # unlike any status of the service


class Asked(NamedTuple):
    """What the fallback received."""

    path: str
    headers: dict[str, str]
    body: bytes


class Fallback:
    """A server that records its requests, and claims certificates that it cannot give."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        fallback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                fallback.asked.append(Asked(self.path, headers, body))
                answer = b'{"label": "ask a person"}'
                self.send_response(FALLBACK_STATUS)
                self.send_header("Certified-Robust", "true")
                self.send_header("Certified-Size", "9")
                self.send_header("Certified-Set", "7; allowed=true")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    crt, pem = folder / "tls.crt", folder / "tls.key"
    crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return crt, pem


class Proxy:
    """A running nginx."""

    def __init__(
        self, folder: Path, service: str, fallback: str, changes: dict[str, str] | None = None
    ) -> None:
        crt, pem = certificate(folder)
        self.plain, self.tls = free_port(), free_port()
        self.access = folder / "access.log"
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        written = folder / "nginx.conf"
        written.write_text(
            replaced(
                CONFIGURATION.read_text(),
                {
                    "worker_processes auto": "daemon off;\nworker_processes 1",
                    "/tmp/nginx.pid": f"{folder}/nginx.pid",
                    "/dev/stdout": str(self.access),
                    "http {\n": f"http {{\n{temporary}",
                    "127.0.0.1:8000": service,
                    "127.0.0.1:8001": fallback,
                    "listen 80;": f"listen 127.0.0.1:{self.plain};",
                    "listen 443 ": f"listen 127.0.0.1:{self.tls} ",
                    "/etc/nginx/tls/tls.crt": str(crt),
                    "/etc/nginx/tls/tls.key": str(pem),
                }
                | (changes or {}),
            )
        )
        # Its workers would run as another user, who may not enter the test's folders.
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        self.process = start(
            [str(tool("nginx")), "-p", str(folder), "-c", str(written), "-e", "stderr", *user],
            folder / "nginx.log",
            self._up,
        )
        context = ssl.create_default_context(cafile=str(crt))
        self.client = httpx.Client(
            base_url=f"https://localhost:{self.tls}", verify=context, timeout=300
        )

    def _up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.tls), 1):
                return True
        except OSError:
            return False

    def logged(self) -> str:
        """Return the first line of the access log, which is written after the answer."""
        end = time.monotonic() + 300
        while not (text := self.access.read_text()).endswith("\n"):
            assert time.monotonic() < end, "nginx logged nothing"
            time.sleep(0.02)
        return text.splitlines()[0]

    def stop(self) -> None:
        self.client.close()
        stop(self.process)
