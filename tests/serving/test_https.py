"""HTTPS with a certificate made here, clients that show one, and files that cannot be used."""

import shutil
import ssl
import subprocess

import httpx
import pytest
from served_model import wait_until

from jaxengine import InvalidRequest
from serving.commands import serve as command
from serving.config import ServerConfig
from serving.http_server import check_certificates

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """name → (key, certificate): each signed by itself."""
    directory = tmp_path_factory.mktemp("pki")

    def make(name, *options):
        key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-keyout", key, "-out", certificate),
                *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", *options),
            ],
            check=True,
            capture_output=True,
        )
        return str(key), str(certificate)

    return {
        "server": make("server", "-noenc"),
        "client": make("client", "-noenc"),
        "locked": make("locked", "-passout", "pass:word"),
    }


def knobs(pki, name="server", **more):
    return {"ssl_keyfile": pki[name][0], "ssl_certfile": pki[name][1], **more}


@pytest.fixture(scope="module")
def secure(serve, pki):
    return serve(**knobs(pki))


def test_a_client_that_trusts_it(secure, pki):
    url = secure.url.replace("http:", "https:")
    with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=pki["server"][1])) as http:
        answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3, "ignore_eos": True})
        assert answer.json()["usage"]["completion_tokens"] == 3
        body = {"prompt": "x", "max_tokens": 3, "stream": True}
        assert http.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")


def test_clients_that_do_not(secure):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secure.url.replace('http:', 'https:')}/health")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{secure.url}/health")  # not over TLS


def test_clients_show_a_certificate_where_they_must(serve, pki):
    served = serve(**knobs(pki, ssl_ca_certs=pki["client"][1], ssl_cert_reqs=int(ssl.CERT_REQUIRED)))
    context = ssl.create_default_context(cafile=pki["server"][1])
    url = f"{served.url.replace('http:', 'https:')}/health"
    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=context)
    context.load_cert_chain(pki["client"][1], pki["client"][0])
    assert httpx.get(url, verify=context).status_code == 200
    wait_until(lambda: served.server.admission.requests == 0)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ssl_certfile": "/nowhere/a.crt"}, "ssl_certfile: /nowhere/a.crt cannot be used: .*No such file"),
        ({"ssl_keyfile": "/nowhere"}, "ssl_keyfile: /nowhere cannot be used"),
        ({"ssl_ca_certs": "/nowhere"}, "ssl_ca_certs: /nowhere cannot be used"),
        ({"ssl_keyfile": "client"}, "ssl_keyfile: .*MISMATCH"),
        ({"ssl_keyfile": "locked"}, "ssl_keyfile: .*cannot be used"),
        ({"ssl_certfile": __file__}, "ssl_keyfile: .*cannot be used"),
        ({"ssl_ca_certs": __file__}, "ssl_ca_certs: .*cannot be used"),
    ],
)
def test_files_that_cannot_be_used(pki, wrong, field, monkeypatch):
    """They are named before an engine is started."""
    monkeypatch.setattr("jaxengine.supervisor.EngineSupervisor.start", lambda self: pytest.fail("it was started"))
    wrong = {name: pki[value][0] if value in pki else value for name, value in wrong.items()}
    with pytest.raises(InvalidRequest, match=field):
        command.run(ServerConfig(host="127.0.0.1", port=0, **knobs(pki) | wrong), None)


def test_what_does_not_go_together(pki):
    check_certificates(ServerConfig(**knobs(pki)))
    for wrong in ({"ssl_cert_reqs": 2, **knobs(pki)}, {"ssl_ca_certs": pki["client"][1]}):
        with pytest.raises(InvalidRequest, match="ssl_c"):
            ServerConfig(**wrong)
