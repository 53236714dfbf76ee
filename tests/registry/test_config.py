"""broker.toml: strict, with safe defaults, and its reference is up to date."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from stepwrit_broker.config import (
    Config,
    config_reference,
    config_schema,
    load_config,
    parse_config,
)
from stepwrit_broker.config_checks import host_port
from stepwrit_broker.core.errors import Malformed

ROOT = Path(__file__).parents[2]
HERE = Path("/etc/stepwrit")
LEAST = 'trust_domain = "prod.example"\nissuer = "https://stepwrit.prod.example"\n'


def config(text: str = LEAST, **env: str) -> Config:
    return parse_config(text, name="broker.toml", folder=HERE, env=env)


def problem(text: str = LEAST, **env: str) -> str:
    config()
    with pytest.raises(Malformed) as refused:
        config(text, **env)
    return refused.value.reason


def test_two_lines_are_enough_and_the_rest_is_safe() -> None:
    made = config()
    assert made.broker_id == "spiffe://prod.example/stepwrit/broker"
    assert (made.listen.mtls, made.listen.ops) == ("0.0.0.0:8443", "127.0.0.1:9464")
    assert made.files.registry == HERE / "registry.yaml"
    assert made.store.path == Path("/var/lib/stepwrit/stepwrit.db")
    assert made.ledger.origin == "stepwrit.prod.example"
    assert made.oidc == ()
    assert made.listen.admin_uids == ()


def test_every_kind_of_setting_is_read() -> None:
    made = config(
        LEAST
        + '[listen]\nadmin_uids = [1001]\n[store]\npath = "db"\ndisk_reserve_bytes = 2_000_000\n'
        + '[ledger]\ncheckpoint_every_s = 5\norigin = "log.example"\n[log]\nlevel = "debug"\n'
        + '[[oidc]]\nissuer = "https://idp.example"\nalgorithms = ["ES256"]\n'
    )
    assert made.listen.admin_uids == (1001,)
    assert (made.store.path, made.store.disk_reserve_bytes) == (HERE / "db", 2_000_000)
    assert (made.ledger.checkpoint_every_s, made.ledger.origin) == (5, "log.example")
    assert (made.oidc[0].issuer, made.oidc[0].algorithms, made.oidc[0].jwks_url) == (
        "https://idp.example",
        ("ES256",),
        "",
    )


def test_the_environment_wins_over_the_file() -> None:
    made = config(
        LEAST + '[log]\nlevel = "error"\n',
        STEPWRIT_LOG_LEVEL="debug",
        STEPWRIT_TRUST_DOMAIN="test.example",
        STEPWRIT_LISTEN_ADMIN_UIDS="1, 2",
        STEPWRIT_LEDGER_CHECKPOINT_EVERY_S="2.5",
        STEPWRIT_STORE_PATH="/tmp/db",
        SPIFFE_ENDPOINT_SOCKET="unix:///run/agent.sock",
        STEPWRIT_BROKER="https://elsewhere.example",
        PATH="/bin",
    )
    assert (made.log.level, made.trust_domain) == ("debug", "test.example")
    assert made.listen.admin_uids == (1, 2)
    assert made.ledger.checkpoint_every_s == 2.5
    assert made.store.path == Path("/tmp/db")
    assert made.spiffe_socket == "unix:///run/agent.sock"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("isuer = 1\n", "isuer: is not known; did you mean issuer?"),
        ('[listen]\nmlts = "x"\n', "listen.mlts: is not known; did you mean mtls?"),
        ("[storre]\n", "storre: is not known; did you mean store?"),
        ("[listen]\nmtls = 8443\n", "listen.mtls: must be text"),
        ('[listen]\nmtls = "8443"\n', "listen.mtls: must be HOST:PORT"),
        ('[listen]\nmtls = ""\n', "listen.mtls: must be HOST:PORT"),
        ('[listen]\nops = "::1:80"\n', "listen.ops: an IPv6 address needs brackets"),
        ('[listen]\nadmin = "127.0.0.1:1"\n', "listen.admin: must be unix:/PATH"),
        ('[listen]\nadmin_uids = ["root"]\n', "listen.admin_uids[0]: must be a whole number"),
        ("[listen]\nadmin_uids = [-1]\n", "listen.admin_uids[0]: must be at least 0"),
        ("[listen]\nadmin_uids = 1001\n", "listen.admin_uids: must be a list"),
        ("[store]\ndisk_reserve_bytes = 1\n", "store.disk_reserve_bytes: must be at least 1.04858e+06"),
        ("[store]\ndisk_reserve_bytes = true\n", "store.disk_reserve_bytes: must be a whole number"),
        ('[store]\npath = ""\n', "store.path: must be a path"),
        ("[ledger]\ncheckpoint_every_s = 0\n", "ledger.checkpoint_every_s: must be at least 0.1"),
        ("[ledger]\ncheckpoint_every_s = nan\n", "ledger.checkpoint_every_s: must be at least 0.1"),
        ("[ledger]\ncheckpoint_every_s = inf\n", "ledger.checkpoint_every_s: must be finite"),
        ('[log]\nlevel = "loud"\n', "log.level: must be one of debug, info, warning, error"),
        ("log = 1\n", "log: must be a table"),
        ("oidc = {}\n", "oidc: must be a list"),
        ('[[signals]]\nissuer = "https://idp.example"\n', "signals[0].issuer: must be one of the [[oidc]]"),
        ('[[signals]]\nissuer = "x"\nevents = ["logout"]\n', "signals[0].events"),
        ("[[oidc]]\n", "oidc[0].issuer: is needed"),
        ('[[oidc]]\nissuer = "http://idp.example"\n', "oidc[0]: issuer and jwks_url must be https"),
        (
            '[[oidc]]\nissuer = "https://a.example"\nalgorithms = ["HS256"]\n',
            "algorithms[0]: must be one of ES256",
        ),
        ('[[oidc]]\nissuer = "https://a.example"\nalgorithms = []\n', "algorithms: needs at least one"),
        ('broker_id = "spiffe://other.example/b"\n', "broker_id: must be in the broker's own trust domain"),
        ('broker_id = "b"\n', "broker_id: SPIFFE ID: scheme is not spiffe"),
        ('[proxy]\nid = "spiffe://prod.example/lb"\n', "proxy: needs id and source, or neither"),
        ('[proxy]\nsource = "xfcc"\n', "proxy: needs id and source, or neither"),
        ('[proxy]\nsource = "forwarded"\n', "proxy.source: must be one of none, client-cert, xfcc"),
        ('[opa]\nurl = "http://opa.example:8181"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nurl = "https://opa.example/v1"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nurl = "https://me:x@opa.example"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nurl = "http://127.0.0.1:x"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nurl = "unix:///"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nurl = "opa.example"\n', "opa.url: must be unix:///PATH"),
        ('[opa]\nca_file = "ca.pem"\n', "opa.ca_file: is for an https url"),
        ("[opa]\ntimeout_ms = 0\n", "opa.timeout_ms: must be at least 1"),
        ("[opa]\nbreaker_open_s = inf\n", "opa.breaker_open_s: must be finite"),
        ("[listen\n", "(at line 3, column 8)"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(more: str, said: str) -> None:
    assert said in problem(LEAST + more)


@pytest.mark.parametrize(
    "url", ["", "unix:///run/opa.sock", "http://127.0.0.1:8181", "http://[::1]:8181/", "https://opa.example"]
)
def test_opa_is_reached_where_nobody_listens_in(url: str) -> None:
    read = config(f'{LEAST}[opa]\nurl = "{url}"\n')
    assert (read.opa.url, read.opa.timeout_ms) == (url, 200)


def test_what_is_needed_is_needed_and_all_problems_are_named() -> None:
    said = problem("[log]\nlevvel = 1\n").split("\n")
    assert [line.removeprefix("broker.toml: ").split(":")[0] for line in said] == [
        "trust_domain",
        "issuer",
        "log.levvel",
    ]


@pytest.mark.parametrize(
    "issuer",
    [
        "http://a.example",
        "https://a.example/",
        "https://a.example/x",
        "https://a.example#x",
        "https://a.example?",
        "https://a.example?x=1",
        "a.example",
    ],
)
def test_the_issuer_is_an_https_url(issuer: str) -> None:
    assert config(LEAST.replace("https://stepwrit.prod.example", "http://127.0.0.1:8444"))
    assert "issuer: must be an https URL" in problem(LEAST.replace("https://stepwrit.prod.example", issuer))


def test_the_environment_is_as_strict_as_the_file() -> None:
    assert "did you mean STEPWRIT_LOG_LEVEL?" in problem(STEPWRIT_LOG_LEVLE="info")
    assert "log.level: must be one of" in problem(STEPWRIT_LOG_LEVEL="loud")
    assert "store.disk_reserve_bytes: must be a whole number" in problem(
        STEPWRIT_STORE_DISK_RESERVE_BYTES="much"
    )


def test_a_session_at_the_pages_has_an_end() -> None:
    assert config(STEPWRIT_APPROVALS_SESSION_S="43200").approvals.session_s == 43_200
    for bad in ("43201", "inf"):
        assert "approvals.session_s: at most 43200" in problem(STEPWRIT_APPROVALS_SESSION_S=bad)
    for bad in ("59", "nan"):
        assert "approvals.session_s: must be at least 60" in problem(STEPWRIT_APPROVALS_SESSION_S=bad)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text(LEAST)
    assert load_config(tmp_path / "broker.toml", env={}).files.limits == tmp_path / "limits.yaml"
    with pytest.raises(Malformed, match="FileNotFoundError"):
        load_config(tmp_path / "other.toml", env={})


PROXY = '[proxy]\nid = "spiffe://prod.example/lb"\nsource = "client-cert"\n'
AT_PROXY = '[listen]\nmtls_url = "https://lb.prod.example"\n'


def test_a_proxy_is_named_by_its_id_and_one_source() -> None:
    assert config().proxy.source == "none"
    made = config(LEAST + PROXY + AT_PROXY)
    assert (made.proxy.id, made.proxy.source) == ("spiffe://prod.example/lb", "client-cert")


@pytest.mark.parametrize(
    ("spiffe_id", "said"),
    [
        ("spiffe://other.example/lb", "proxy.id: must be in the broker's own trust domain"),
        ("https://prod.example/lb", "proxy.id: SPIFFE ID: scheme is not spiffe"),
        ("spiffe://prod.example", "proxy.id: SPIFFE ID: a workload needs a non-root path"),
        ("spiffe://prod.example/*", "proxy.id: SPIFFE ID: path segments"),
        ("spiffe://prod.example/stepwrit/broker", "proxy.id: is the broker's own"),
    ],
)
def test_the_proxy_is_one_other_workload_of_our_own_domain(spiffe_id: str, said: str) -> None:
    assert config(LEAST + PROXY + AT_PROXY)
    assert said in problem(LEAST + PROXY.replace("spiffe://prod.example/lb", spiffe_id) + AT_PROXY)


def test_behind_a_proxy_the_url_is_never_guessed() -> None:
    assert config(LEAST + PROXY + AT_PROXY)
    assert "listen.mtls_url: is needed with [proxy]" in problem(LEAST + PROXY)


def test_the_tls_listener_may_be_off() -> None:
    assert config(LEAST + '[listen]\ntls = ""\n').listen.tls == ""


def test_addresses_come_apart() -> None:
    assert host_port("[::1]:8443") == ("::1", 8443)
    assert host_port("localhost:0") == ("localhost", 0)
    for bad in ("localhost", ":1", "a:b", "a:70000", "a:-1", "a:٣"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            host_port(bad)


def test_the_reference_and_the_schema_are_up_to_date() -> None:
    assert (ROOT / "docs/reference/configuration.md").read_text() == config_reference()
    assert (ROOT / "docs/reference/schemas/broker.schema.json").read_text() == config_schema()
    validator = Draft202012Validator(json.loads(config_schema()))
    validator.validate(tomllib.loads(LEAST + '[[oidc]]\nissuer = "https://idp.example"\n'))
    assert not validator.is_valid(tomllib.loads(LEAST + "[storre]\n"))


WEB = """[[federation]]
trust_domain = "partner.example"
url = "https://spiffe.partner.example/bundle.json"
profile = "https_web"
"""
SPIFFE = WEB.replace("https_web", "https_spiffe") + (
    'endpoint_spiffe_id = "spiffe://partner.example/spire/server"\nbootstrap = "partner.json"\n'
)


def test_foreign_trust_domains_are_read_with_paths_in_the_files_folder() -> None:
    web = config(LEAST + WEB + 'ca_file = "ca.pem"\n').federation[0]
    assert (web.trust_domain, web.ca_file, web.bootstrap) == ("partner.example", HERE / "ca.pem", Path())
    spiffe = config(LEAST + SPIFFE + 'ca_file = ""\nmax_age_s = 3600\n').federation[0]
    assert (spiffe.bootstrap, spiffe.ca_file, spiffe.max_age_s) == (HERE / "partner.json", Path(), 3600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WEB.replace("partner.example", "prod.example"), "only the Workload API gives"),
        (WEB.replace('"partner.example"', '"dev.stepwrit.internal"'), "for development only"),
        (WEB.replace('"partner.example"', '"Partner"'), "federation[0].trust_domain: trust domain: only"),
        (WEB + WEB, "names a trust domain twice"),
        (WEB.replace("https://", "http://"), "federation[0].url: must be an https URL"),
        (WEB.replace("https://", "https://user:pw@"), "federation[0].url"),
        (WEB.replace(".json", ".json#x"), "federation[0].url"),
        (WEB.replace("https_web", "web"), "one of https_web, https_spiffe"),
        (WEB.replace("profile", "# profile"), "federation[0].profile: is needed"),
        (
            WEB + 'endpoint_spiffe_id = "spiffe://partner.example/x"',
            "https_web knows the endpoint by its host",
        ),
        (WEB + 'bootstrap = "x"', "https_web knows the endpoint by its host"),
        (WEB + "max_age_s = 59", "at least 60"),
        (WEB + "max_age_s = inf", "max_age_s: must be between"),
        (SPIFFE.replace("bootstrap", "# bootstrap"), "bootstrap: is needed"),
        (SPIFFE.replace("endpoint_spiffe_id", "# endpoint_spiffe_id"), "endpoint_spiffe_id: SPIFFE ID"),
        (SPIFFE + 'ca_file = "x"', "ca_file: is for https_web"),
    ],
)
def test_a_foreign_trust_domain_that_is_half_named_is_refused(text: str, said: str) -> None:
    assert config(LEAST + WEB).federation
    assert config(LEAST + SPIFFE).federation
    assert said in problem(LEAST + text)


def test_an_endpoint_of_another_domain_needs_no_bootstrap_file() -> None:
    mirror = SPIFFE.replace("spiffe://partner.example/", "spiffe://prod.example/")
    assert config(LEAST + mirror.replace("bootstrap", "# bootstrap")).federation[0].bootstrap == Path()


IDP = '[[oidc]]\nissuer = "https://login.example"\n'
SIGN_IN = IDP + '[sign_in]\nissuer = "https://login.example"\nclient_id = "pages"\n'


def test_persons_sign_in_where_it_is_set_up() -> None:
    assert config().sign_in.issuer == ""
    made = config(LEAST + SIGN_IN + 'acr = ["phr", "phrh"]\nlabel = "Example ID"\n').sign_in
    assert (made.issuer, made.client_id, made.acr, made.label) == (
        "https://login.example", "pages", ("phr", "phrh"), "Example ID",
    )  # fmt: skip
    assert (made.auth, made.scopes) == ("none", ("openid",))
    given = config(LEAST + SIGN_IN + 'auth = "client_secret_basic"\nsecret_file = "secret"\n').sign_in
    assert given.secret_file == HERE / "secret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[sign_in]\nclient_id = "pages"\n', "sign_in.issuer: is needed with the rest"),
        (
            '[sign_in]\nissuer = "https://login.example"\nclient_id = "p"\n',
            "must be one of the [[oidc]] issuers",
        ),
        (IDP + '[sign_in]\nissuer = "https://login.example"\n', "sign_in.client_id: is needed"),
        (SIGN_IN + 'auth = "client_secret_basic"\n', "sign_in.secret_file: goes with"),
        (SIGN_IN + 'secret_file = "secret"\n', "sign_in.secret_file: goes with"),
        (SIGN_IN + 'auth = "private_key_jwt"\n', "sign_in.key_file: goes with"),
        (SIGN_IN + 'auth = "none"\nkey_file = "key"\n', "sign_in.key_file: goes with"),
        (SIGN_IN + 'auth = "client_secret_post"\n', "sign_in.auth: must be one of"),
        (SIGN_IN + 'scopes = ["email"]\n', "scopes must have openid"),
        (SIGN_IN + 'scopes = ["openid email"]\n', "words without blanks"),
        (SIGN_IN + 'acr = ["a b"]\n', "words without blanks"),
        (SIGN_IN + 'acr = [""]\n', "words without blanks"),
        (SIGN_IN + 'secret = "s3cret"\n', "sign_in.secret"),
        ('[listen]\ntls = ""\n' + SIGN_IN, "needs the listener listen.tls"),
    ],
)
def test_a_sign_in_that_cannot_work_is_refused(text: str, said: str) -> None:
    config(LEAST + SIGN_IN)
    told = problem(LEAST + text)
    assert said in told
    assert "s3cret" not in told
