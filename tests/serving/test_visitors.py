"""Who may ask the service: by the names of hosts, and by the sites whose pages ask."""

from __future__ import annotations

import pytest
from at_port import error_of, serving
from hypothesis import given
from hypothesis import strategies as st

from earsight.serving.visitors import LOOPBACK, Known, listening_at


@pytest.mark.parametrize(
    ("host", "known", "answered"),
    [
        *[
            (host, LOOPBACK, True)
            for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.9", "[::1]:80")
        ],
        *[(host, LOOPBACK, True) for host in ("app.localhost", "localhost.", "127.0.0.9")],
        *[
            (host, LOOPBACK, False)
            for host in ("evil.example", "localhost.evil.example", "notlocalhost", "192.168.0.7")
        ],
        *[(host, LOOPBACK, False) for host in ("", "[", "127.0.0.1.evil.example", "::1:80", "0.0.0.0", "10.0.0.7")],
        ("192.168.0.7:8000", listening_at("0.0.0.0", hosts=[], origins=[]), True),  # monitors ask by address
        ("[fe80::1]", listening_at("::", hosts=[], origins=[]), True),
        ("evil.example", listening_at("0.0.0.0", hosts=[], origins=[]), False),
        ("ears.example:80", listening_at("ears.example", hosts=[], origins=[]), True),
        ("Ears.Example.", listening_at("127.0.0.1", hosts=["ears.example:8000"], origins=[]), True),
        ("192.168.0.7", listening_at("127.0.0.1", hosts=["192.168.0.7"], origins=[]), True),
        ("evil.example", listening_at("127.0.0.1", hosts=["*"], origins=[]), True),
    ],
)
def test_hosts(host, known, answered):
    assert known.has_host(host) is answered


@pytest.mark.parametrize(
    ("origin", "known", "answered"),
    [
        ("http://127.0.0.1:8000", LOOPBACK, True),
        ("https://127.0.0.1:8000", LOOPBACK, True),  # behind a proxy that ends TLS
        ("http://127.0.0.1:8001", LOOPBACK, False),
        ("http://localhost:8000", LOOPBACK, False),
        ("https://evil.example", LOOPBACK, False),
        ("null", LOOPBACK, False),
        ("", LOOPBACK, False),
        ("https://app.example", Known(origins=("https://app.example",)), True),
        ("http://app.example", Known(origins=("https://app.example",)), False),
        ("null", Known(origins=("*",)), True),
    ],
)
def test_origins(origin, known, answered):
    assert known.has_origin(origin, host="127.0.0.1:8000") is answered


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_none(text):
    assert LOOPBACK.has_host(text) in (True, False)
    assert not LOOPBACK.has_origin(text, host="") or text == "*"


def test_a_page_of_another_site_gets_no_answer(client, sound):
    body = sound("a.wav").read_bytes()
    own = str(client.base_url).rstrip("/")
    assert client.post("/predict", content=body, headers={"Origin": own}).status_code == 200
    assert client.post("/predict", content=body).status_code == 200  # no browser
    found = client.post("/predict", content=body, headers={"Origin": "https://evil.example"})
    assert (found.status_code, error_of(found)["code"]) == (403, "unknown_origin")
    assert "access-control-allow-origin" not in found.headers
    for method, path in (("POST", "/predict"), ("GET", "/model"), ("GET", "/"), ("GET", "/metrics"), ("HEAD", "/")):
        found = client.request(method, path, headers={"Host": "evil.example"})
        assert found.status_code == 421
        assert method == "HEAD" or error_of(found)["code"] == "unknown_host"
    assert client.get("/healthz").status_code == 200


def test_named_hosts_and_sites_are_answered(classifier, sound):
    body, site = sound("a.wav").read_bytes(), "https://app.example"
    with serving(classifier, known=Known(("ears.example",), (site,))) as (client, _):
        found = client.post("/predict", content=body, headers={"Origin": site, "Host": "ears.example"})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, site)
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        found = client.options("/predict", headers={"Origin": site, **asked})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, site)
        assert "POST" in found.headers["access-control-allow-methods"]
        found = client.options("/predict", headers={"Origin": "https://evil.example", **asked})
        assert (found.status_code, found.headers.get("access-control-allow-origin")) == (400, None)
        found = client.post("/predict", content=b"no sound", headers={"Origin": site})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (422, site)


@pytest.mark.parametrize("path", ["/", "/model", "/healthz", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(client, path):
    whole, head = client.get(path), client.head(path)
    assert head.status_code == whole.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]
    if path != "/metrics":  # whose counters go on
        assert head.headers["content-length"] == whole.headers["content-length"]
