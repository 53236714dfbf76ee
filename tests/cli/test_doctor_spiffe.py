"""`stepwrit doctor` on SPIFFE, against Workload APIs that are broken in one way each."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
from tests.attest.scripted import ScriptedWorkloadApi, response, svid
from tests.cli.conftest import Cli
from tests.cli.test_spire_entries import FETCHED
from tests.fakes.pki import FakeCa

from stepwrit._look import Offered
from stepwrit._reach import trouble
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_spiffe import registry_of, spiffe_checks
from stepwrit_broker.config import Config, load_config
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.workload_api import DevTrustDomain
from stepwrit_broker.wiring.identify import identified, others

HOME, BROKER = "prod.example", "spiffe://prod.example/stepwrit/broker"
OTHER = "spiffe://prod.example/other"
REGISTRY = """\
version: 1
tenant: default
trust_domains: [partner.example]
entries:
  - {id: spiffe://prod.example/stepwrit/broker, role: broker, name: stepwrit}
  - id: spiffe://prod.example/agent/chat
    role: agent
    name: chat
    attest: [jwt]
    may_start: {tools: [], impact: low}
count: 2
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder that everybody may look into, with room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="stepwrit-doc-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def etc(cli: Cli, tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    issuer = ("--issuer", "https://stepwrit.prod.example:8444")
    assert cli("init", folder, "--trust-domain", HOME, *issuer).exit_code == 0
    return folder / "broker.toml"


@pytest.fixture
def domain(short: Path) -> Iterator[DevTrustDomain]:
    made = DevTrustDomain(short / "wl", trust_domain=HOME)
    with pytest.warns(DevelopmentModeWarning):
        made.start_sync()
    yield made
    made.stop_sync()


def at(etc: Path, address: str, more: str = "") -> Config:
    etc.write_text(f'spiffe_socket = "{address}"\n{more}{etc.read_text()}')
    return load_config(etc, {})


def looked(config: Config, now: float | None = None) -> dict[str, Check]:
    found = spiffe_checks(config, registry_of(config), time.time() if now is None else now, wait_s=1.0)
    return {each.name: each for each in found}


def verdicts(found: dict[str, Check]) -> dict[str, bool | None]:
    return {name: each.ok for name, each in found.items()}


def test_a_good_place_is_all_green(etc: Path, domain: DevTrustDomain):
    config = at(etc, domain.socket_for("stepwrit/broker"))
    (etc.parent / "registry.yaml").write_text(REGISTRY)
    domain.trust("partner.example", (FakeCa("partner.example").der,))
    found = looked(config)
    assert set(verdicts(found).values()) == {True}
    assert found["spiffe"].said == BROKER
    assert "left of 60 min" in found["svid life"].said
    assert found["bundles"].said == "partner.example, prod.example"
    assert "lives 5 min" in found["jwt-svid"].said


def test_each_way_not_to_reach_the_socket_is_told_apart(etc: Path, short: Path, domain: DevTrustDomain):
    assert verdicts(looked(at(etc, domain.socket_for("stepwrit/broker"))))["spiffe socket"] is True
    plain = etc.read_text().partition("\n")[2]

    def said(address: str) -> str:
        etc.write_text(plain)
        found = looked(at(etc, address))
        assert verdicts(found) == {"spiffe socket": False}
        assert "socket_path" in found["spiffe socket"].todo
        return found["spiffe socket"].said

    assert f"there is no socket {short}/none.sock" in said(f"unix://{short}/none.sock")
    (short / "file").write_text("")
    assert said(f"unix://{short}/file") == f"{short}/file is a regular file, not a socket"
    assert said(f"unix://{short}") == f"{short} is a folder, not a socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short / "left.sock"))
    assert "nobody listens on" in said(f"unix://{short}/left.sock")
    assert "use unix:///absolute/path" in said("tcp://127.0.0.1:8081")
    assert "SPIFFE_ENDPOINT_SOCKET not set" in said("")


def test_a_socket_that_this_user_may_not_open_names_the_user_and_the_folder_or_mode(short: Path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short / "api.sock"))
        server.listen()
        (short / "api.sock").chmod(0o777)
        assert as_nobody(lambda: trouble(short / "api.sock")) is None
        (short / "api.sock").chmod(0)
        uid = os.geteuid() or 65534
        mode = f"mode 0000, of uid {os.geteuid()}, gid"
        assert f"uid {uid} may not open {short}/api.sock ({mode}" in str(
            as_nobody(lambda: trouble(short / "api.sock"))
        )
        (short / "in").mkdir()
        (short / "api.sock").rename(short / "in" / "api.sock")
        (short / "in").chmod(0)
        said = as_nobody(lambda: trouble(short / "in" / "api.sock"))
        (short / "in").chmod(0o700)
        assert said == f"uid {uid} may not look into {short}/in"


def as_nobody(ask: Callable[[], str | None]) -> str | None:
    """The answer of a child that is not root, for whom modes count."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.write(writing, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer: str | None = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def test_who_listens_and_says_nothing_is_no_workload_api(etc: Path, short: Path):
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(short / "mute.sock"))
        mute.listen()
        found = looked(at(etc, f"unix://{short}/mute.sock"))
    assert verdicts(found) == {"spiffe socket": True, "spiffe": False}
    assert "is it the Workload API?" in found["spiffe"].said


def test_a_process_that_no_entry_fits_is_told_to_register(etc: Path, domain: DevTrustDomain):
    config = at(etc, domain.socket_for("stepwrit/broker"))
    assert looked(config)["spiffe"].ok is True
    domain.delete_entry("stepwrit/broker")
    found = looked(config)
    assert verdicts(found) == {"spiffe socket": True, "spiffe": False}
    assert f"uid {os.geteuid()}" in found["spiffe"].said
    assert f"register {BROKER}" in found["spiffe"].todo
    assert "stepwrit spire entries" in found["spiffe"].todo


def test_another_id_lists_what_is_offered(etc: Path, domain: DevTrustDomain):
    found = looked(at(etc, domain.socket_for("other")))
    assert found["spiffe"].said == f"here we are {OTHER}"
    assert f"expected {BROKER}" in found["spiffe"].todo
    assert f"offered: {OTHER}; register it" in found["spiffe"].todo


def test_several_ids_are_listed_with_their_hints(etc: Path, short: Path):
    ca = FakeCa(HOME, now=time.time())
    mine, other = svid(BROKER, ca.issue(BROKER), ca.der, hint="sw"), svid(OTHER, ca.issue(OTHER), ca.der)
    both = f"{BROKER} (hint 'sw')"
    with ScriptedWorkloadApi(short / "api.sock") as api:
        config = at(etc, api.address)
        api.say_badly(response([mine, other], {}))
        found = looked(config)
        assert (found["spiffe"].ok, found["spiffe ids"].ok) == (True, None)
        assert f"offered 2: {both}, {OTHER}" in found["spiffe ids"].said
        api.say_badly(response([other, mine], {}))
        found = looked(config)
        assert (found["spiffe"].ok, found["spiffe"].said) == (False, f"here we are {OTHER}")
        assert f"offered: {OTHER}, {both}; narrow the selectors" in found["spiffe"].todo
        hinted = at(etc, api.address.replace("unix://", "unix:"), 'spiffe_hint = "sw"\n#')
        api.say_badly(response([other, mine], {}))
        assert verdicts(looked(hinted)) == dict.fromkeys(
            ("spiffe socket", "spiffe", "svid life", "svid clock", "bundles"), True
        )


def test_life_and_clock_are_judged_at_the_hosts_time(etc: Path, domain: DevTrustDomain):
    config, now = at(etc, domain.socket_for("stepwrit/broker")), time.time()
    good = looked(config)
    assert (good["svid life"].ok, good["svid clock"].ok) == (True, True)
    late = looked(config, now + 3_000)["svid life"]
    assert late.ok is None
    assert "renews at half of the life" in late.todo
    ended = looked(config, now + 4_000)["svid life"]
    assert ended.ok is False
    assert "did not renew" in ended.todo
    behind = looked(config, now - 4_000)["svid clock"]
    assert behind.ok is False
    assert "behind the SPIRE server's" in behind.said


def test_an_svid_of_many_days_is_a_warning(etc: Path, short: Path):
    made = DevTrustDomain(short / "wl", trust_domain=HOME, x509_life=3 * 86_400.0)
    with pytest.warns(DevelopmentModeWarning):
        made.start_sync()
    try:
        found = looked(at(etc, made.socket_for("stepwrit/broker")))["svid life"]
    finally:
        made.stop_sync()
    assert found.ok is None
    assert "a withdrawn workload goes on that long" in found.todo


def test_bundles_that_the_registry_counts_on_are_named(etc: Path, domain: DevTrustDomain):
    config = at(etc, domain.socket_for("stepwrit/broker"))
    assert looked(config)["bundles"].ok is True
    (etc.parent / "registry.yaml").write_text(REGISTRY)
    missing = looked(config)["bundles"]
    assert missing.ok is False
    assert "registry.yaml trusts partner.example" in missing.said
    assert "-federatesWith" in missing.todo
    fetched = etc.parent / "fetched.toml"
    fetched.write_text(f"{etc.read_text()}{FETCHED}")
    assert looked(load_config(fetched, {}))["bundles"].ok is True  # the broker fetches that one itself
    domain.trust("partner.example", ())
    void = looked(config)["bundles"]
    assert void.ok is None
    assert "the bundle of partner.example is empty" in void.said


def test_a_home_bundle_that_is_empty_or_does_not_fit_is_a_failure(etc: Path, short: Path):
    ca = FakeCa(HOME, now=time.time())
    with ScriptedWorkloadApi(short / "api.sock") as api:
        config = at(etc, api.address)
        bundles = {"good": ca.der, "stranger": FakeCa(HOME, now=time.time()).der, "void": b""}
        found: dict[str, Check] = {}
        for name, bundle in bundles.items():
            api.say_badly(response([svid(BROKER, ca.issue(BROKER), bundle)], {}))
            found[name] = looked(config)["bundles"]
    assert {name: each.ok for name, each in found.items()} == {"good": True, "stranger": False, "void": False}
    assert "does not hold against the bundle" in found["stranger"].said
    assert "is distrusted" in found["void"].said


def test_callers_by_jwt_svid_need_authorities_and_the_tls_listener(etc: Path, domain: DevTrustDomain):
    config = at(etc, domain.socket_for("stepwrit/broker"))
    assert not {"jwt", "jwt bundles", "jwt-svid"} & looked(config).keys()
    (etc.parent / "registry.yaml").write_text(REGISTRY)
    found = looked(config)
    assert (found["jwt bundles"].ok, found["jwt-svid"].ok) == (True, True)
    away = REGISTRY.replace("prod.example/agent", "partner.example/agent")
    (etc.parent / "registry.yaml").write_text(away)
    found = looked(config)
    assert found["jwt bundles"].ok is False
    assert "no JWT authorities of partner.example" in found["jwt bundles"].said
    etc.write_text(etc.read_text().replace("[listen]", '[listen]\ntls = ""'))
    assert looked(load_config(etc, {}))["jwt"].ok is False


def test_an_api_without_jwt_is_told(etc: Path, short: Path):
    ca = FakeCa(HOME, now=time.time())
    (etc.parent / "registry.yaml").write_text(REGISTRY)
    with ScriptedWorkloadApi(short / "api.sock") as api:
        config = at(etc, api.address)
        api.say_badly(response([svid(BROKER, ca.issue(BROKER), ca.der)], {"partner_example": ca.der}))
        found = looked(config)
    assert found["bundles"].ok is True
    assert found["jwt bundles"].ok is False


def test_doctor_prints_them(cli: Cli, etc: Path, domain: DevTrustDomain):
    at(etc, domain.socket_for("other"))
    result = cli("doctor", "--config", etc)
    assert result.exit_code == 1
    assert "✓ spiffe socket" in result.stdout
    assert f"✗ spiffe        here we are {OTHER}" in result.stdout


async def test_a_broker_that_is_somebody_else_or_nobody_does_not_start_and_says_what_to_do(
    domain: DevTrustDomain,
):
    async with watching(domain.socket_for("stepwrit/broker")) as identity:
        assert (await identified(identity, BROKER, 5.0)).spiffe_id == BROKER
    async with watching(domain.socket_for("other")) as identity:
        with pytest.raises(Unavailable) as wrong:
            await identified(identity, BROKER, 5.0)
    socket_said = domain.socket_for("other")
    for word in (socket_said, f"we are {OTHER}", f"expected {BROKER}", f"offered: {OTHER}", "spire entries"):
        assert word in wrong.value.reason
    domain.delete_entry("other")
    async with watching(socket_said) as identity:
        with pytest.raises(IdentityUnavailable) as nobody:
            await identified(identity, BROKER, 0.5)
    for word in (socket_said, "no registration entry matches", f"expected {BROKER}", "spire entries"):
        assert word in str(nobody.value)


@contextlib.asynccontextmanager
async def watching(address: str) -> AsyncGenerator[WorkloadIdentity]:
    identity = WorkloadIdentity(address)
    await identity.start()
    yield identity
    await identity.close()


def test_what_is_offered_decides_what_to_do():
    mine, other = Offered(spiffe_id=BROKER, hint=""), Offered(spiffe_id=OTHER, hint="o")
    assert "register it" in others((other,), BROKER, None)
    assert "give its entry a hint" in others((other, mine), BROKER, None)
    assert "change spiffe_hint" in others((other, mine), BROKER, "o")
    assert "nothing now" in others((), BROKER, None)
