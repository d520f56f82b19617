"""Access to a real process: TLS, slow clients, large bodies, keys made while it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.server import RunningServer

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=15)


def rest_of(connection: socket.socket) -> bytes:
    """Until the server ends the connection."""
    found = b""
    while piece := connection.recv(65_536):
        found += piece
    return found


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_https(tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # whom this process trusts
    server = RunningServer(tmp_path / "home", ["--tls-cert", str(cert), "--tls-key", str(key)])
    server.url = server.url.replace("http:", "https:")
    with server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "nano"
        assert json.loads((server.home / "server.json").read_text())["url"] == server.url
        with pytest.raises(httpx.TransportError):  # plain HTTP gets nothing out of it
            httpx.get(f"http://127.0.0.1:{server.port}/health")
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{server.url}/health")


def test_a_certificate_that_is_none_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    command = [sys.executable, "-m", "llamaleon_server", "--home", str(tmp_path / "home"), "--port", "0"]
    for files, code in ((["--tls-cert", str(broken), "--tls-key", str(broken)], 1), (["--tls-cert", "x"], 2)):
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == code
        assert "tls" in done.stderr
        assert "Traceback" not in done.stderr


def test_slow_senders_do_not_hold_connections(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home", ["--read-timeout", "0.5"]) as server:
        began = time.monotonic()
        with connect(server) as silent, connect(server) as half_a_head, connect(server) as half_a_body:
            half_a_head.sendall(HEAD)
            half_a_body.sendall(HEAD + b'content-length: 100\r\n\r\n{"model"')
            assert rest_of(silent) == b""
            assert rest_of(half_a_head).startswith(b"HTTP/1.1 408 ")
            answer = rest_of(half_a_body)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"code":"request_timeout"' in answer
        assert time.monotonic() - began < 5
        # One that trickles is no better off.
        with connect(server) as trickling:
            began = time.monotonic()
            trickling.settimeout(0.2)
            answer = b""
            for byte in HEAD * 20:
                try:
                    trickling.sendall(bytes([byte]))
                    answer = trickling.recv(1000)
                    break
                except TimeoutError:
                    continue
            assert time.monotonic() - began < 5
            assert answer.startswith(b"HTTP/1.1 408 ") or answer == b""


def answer_of(connection: socket.socket) -> bytes:
    """One whole answer: head and body may arrive in packets of their own."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line]
    while len(body) < length:
        body += connection.recv(65_536)
    return head


def test_who_has_asked_before_may_wait_with_the_next_request(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home", ["--read-timeout", "0.3"]) as server, connect(server) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.0)


def test_a_large_body_is_refused_while_it_arrives_and_the_connection_lives(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home", ["--max-body", "1MB"]) as server, connect(server) as connection:
        # Announced: refused unread, and what comes all the same is thrown away.
        connection.sendall(HEAD + b"content-length: 3000000\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b" " * 3_000_000)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        # Not announced: refused as soon as it is too much, of an end that would never come.
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            connection.sendall(piece)
        assert answer_of(connection).startswith(b"HTTP/1.1 413 ")


def test_an_answer_is_not_lost_with_a_body_that_nobody_wanted(tmp_path: Path) -> None:
    """Whoever closes a connection with unread bytes in it resets it: the client would see no answer."""
    head = b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 500000\r\n\r\n"
    with RunningServer(tmp_path / "home") as server:
        for _ in range(20):
            with connect(server) as connection:
                connection.sendall(head)
                for _ in range(50):
                    connection.sendall(b" " * 10_000)
                assert rest_of(connection).startswith(b"HTTP/1.1 404 ")


def test_what_is_no_http_is_answered_however_much_of_it_comes(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home") as server:
        for _ in range(20):
            with connect(server) as connection:
                connection.sendall(b"GET /no such path HTTP/1.1\r\nhost: localhost\r\n\r\n")
                for _ in range(20):
                    connection.sendall(b" " * 10_000)
                assert rest_of(connection).startswith(b"HTTP/1.1 400 ")


def test_keys_made_and_revoked_beside_a_running_server(tmp_path: Path) -> None:
    run = "import sys; from llamaleon_clients.cli import main; main()"
    command = [sys.executable, "-c", run]
    with RunningServer(tmp_path / "home") as server:
        environment = {**os.environ, "LLAMALEON_HOME": str(server.home)}

        def llamaleon(*arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
            own = environment if key is None else {**environment, "LLAMALEON_API_KEY": key}
            return subprocess.run(
                [*command, *arguments], capture_output=True, text=True, env=own, check=False, timeout=60
            )

        assert llamaleon("ls").returncode == 0
        key = llamaleon("keys", "create", "laptop").stdout.strip()
        refused = llamaleon("ls")
        assert refused.returncode == 1
        assert "API key" in refused.stderr
        assert "nano" in llamaleon("ls", key=key).stdout
        assert "nano" in llamaleon("--api-key", key, "ls").stdout
        assert server.openai().with_options(api_key=key).models.list().data[0].id == "nano"
        assert "laptop" in llamaleon("keys", "list").stdout
        assert key not in llamaleon("keys", "list").stdout
        assert llamaleon("keys", "revoke", "laptop").returncode == 0
        assert llamaleon("ls").returncode == 0  # none is left
