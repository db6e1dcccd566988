"""HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE: pulls as processes, over TLS with a certificate authority of our own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.store.fault_registry import FaultRegistry

WEIGHTS = bytes(range(256)) * 4000
PULL = """
import asyncio, sys
from pathlib import Path
from ollamapy.store.names import ModelName
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.http import Patience
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.registry.pull import Transfers, pull
from ollamapy.store.store import Store

async def main(folder, name):
    store = Store(folder / "models")
    shared = Transfers(store, Downloads(store.blobs), lambda: RegistryKey.load(folder), Patience(tries=1, silence=5))
    async for event in pull(shared, ModelName.parse(name), insecure=False):
        print(event["status"])

try:
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
except Exception as error:
    print("error:", error)
"""


def certificates(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """An authority's certificate, and a chain with its key for a server of these hosts."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def made(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    root = made("authority", root_key).issuer_name(issuer)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    leaf = made(hosts[0], key).issuer_name(issuer).add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    authority, chain = folder / "authority.pem", folder / "chain.pem"
    authority.write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(private + leaf.sign(root_key, hashes.SHA256()).public_bytes(pem))
    return authority, chain


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    with contextlib.suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))


@dataclass
class Network:
    """A registry behind TLS, and a proxy that tunnels to it whatever is asked for."""

    registry: FaultRegistry
    authority: Path
    tls: int = 0  # ports
    proxy: int = 0
    asked: list[str] = field(default_factory=list)  # of the proxy: the first lines

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.partition(b"\r\n")[0].decode())
        assert b"authorization: bearer" not in head.lower()
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join(reader, writer, self.tls)

    async def terminate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, self.registry.port)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    authority, chain = certificates(tmp_path, "registry.test", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    async with FaultRegistry(WEIGHTS) as registry:
        found = Network(registry, authority)
        tls = await asyncio.start_server(found.terminate, "127.0.0.1", 0, ssl=context)
        proxy = await asyncio.start_server(found.tunnel, "127.0.0.1", 0)
        found.tls, found.proxy = (server.sockets[0].getsockname()[1] for server in (tls, proxy))
        yield found
        tls.close()
        proxy.close()


async def pulled(folder: Path, name: str, **environment: str) -> str:
    """The last line of a pull in a process."""
    names = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert_file", "ssl_cert_dir")
    kept = {key: value for key, value in os.environ.items() if key.lower() not in names}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PULL, str(folder), name,
        stdout=asyncio.subprocess.PIPE,
        env={**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode().splitlines()[-1]


async def test_a_proxy_is_asked_for_what_only_it_reaches(tmp_path: Path, network: Network) -> None:
    environment = {
        "SSL_CERT_FILE": str(network.authority),
        "HTTPS_PROXY": f"http://127.0.0.1:{network.proxy}",
    }
    assert await pulled(tmp_path, "registry.test/t/m", **environment) == "success"
    assert network.asked and set(network.asked) == {"CONNECT registry.test:443 HTTP/1.1"}


async def test_no_proxy_is_obeyed(tmp_path: Path, network: Network) -> None:
    environment = {
        "SSL_CERT_FILE": str(network.authority),
        "HTTPS_PROXY": f"http://127.0.0.1:{network.proxy}",
        "NO_PROXY": "localhost",
    }
    assert await pulled(tmp_path, f"localhost:{network.tls}/t/m", **environment) == "success"
    assert network.asked == []


async def test_an_unknown_authority_is_not_trusted(tmp_path: Path, network: Network) -> None:
    last = await pulled(tmp_path, f"localhost:{network.tls}/t/m")
    assert last.startswith("error: pull model manifest:") and "certificate" in last
    assert not network.registry.requests
