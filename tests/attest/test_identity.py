"""The supervised Workload API client: what it gives, what it takes back, what it survives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.attest.scripted import END, ScriptedWorkloadApi, eventually, response, state, svid
from tests.fakes.pki import FakeCa

from stepwrit.errors import ConfigurationError, IdentityUnavailable
from stepwrit.identity import WorkloadIdentity

AGENT = "spiffe://a.test/agent"


@pytest.fixture
def ca() -> FakeCa:
    return FakeCa("a.test", now=time.time())


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ScriptedWorkloadApi]:
    with ScriptedWorkloadApi(tmp_path / "api.sock") as running:
        yield running


@pytest.fixture
def me(api: ScriptedWorkloadApi, ca: FakeCa) -> Iterator[WorkloadIdentity]:
    """An identity that is ready: the positive control of every test that takes it."""
    api.say(state(ca, AGENT))
    identity = WorkloadIdentity(api.address)
    identity.start_sync()
    assert identity.wait_ready_sync(10).spiffe_id == AGENT
    yield identity
    identity.close_sync()


def gone(identity: WorkloadIdentity) -> bool:
    try:
        identity.snapshot()
    except IdentityUnavailable:
        return True
    return False


async def test_it_starts_and_closes_from_an_event_loop_too(api: ScriptedWorkloadApi, ca: FakeCa) -> None:
    api.say(state(ca, AGENT))
    identity = WorkloadIdentity(api.address)
    await identity.start()
    assert (await identity.wait_ready(10)).spiffe_id == AGENT
    await identity.close()
    with pytest.raises(IdentityUnavailable, match="closed"):
        identity.snapshot()


def test_a_snapshot_is_whole_and_never_shows_the_key(me: WorkloadIdentity, ca: FakeCa) -> None:
    snapshot = me.snapshot()
    assert snapshot.bundles == {"a.test": (ca.der,)}
    assert snapshot.generation == 1
    assert snapshot.expires_at > me.now()
    assert me.lost_at() is None
    assert "private_key" not in repr(snapshot)


def test_a_rotation_is_a_new_generation_and_subscribers_hear_of_it(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    heard = threading.Event()
    undo = me.subscribe(heard.set)
    before = me.snapshot()
    api.say(state(ca, AGENT))
    assert heard.wait(10)
    after = me.snapshot()
    assert after.generation == before.generation + 1
    assert after.chain != before.chain
    undo()
    heard.clear()
    api.say(state(ca, AGENT))
    eventually(lambda: me.snapshot().generation == after.generation + 1)
    assert not heard.is_set()


def test_a_subscriber_that_fails_does_not_end_the_watch(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    def fail() -> None:
        raise RuntimeError("not my day")

    me.subscribe(fail)
    api.say(state(ca, AGENT), state(ca, AGENT))
    eventually(lambda: me.snapshot().generation == 3)


def test_a_partners_bundle_that_is_absent_is_gone_and_an_empty_one_distrusted(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    partner = FakeCa("b.test").der
    api.say(state(ca, AGENT, b_test=partner))
    eventually(lambda: me.snapshot().bundles.get("b.test") == (partner,))
    api.say(state(ca, AGENT, b_test=b""))
    eventually(lambda: me.snapshot().bundles.get("b.test") == ())
    api.say(state(ca, AGENT))
    eventually(lambda: "b.test" not in me.snapshot().bundles)


def test_a_partners_broken_bundle_distrusts_the_partner_alone(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    api.say(state(ca, AGENT, b_test=b"junk", c_test=FakeCa("c.test").der))
    eventually(lambda: me.snapshot().generation == 2)
    bundles = me.snapshot().bundles
    assert (bundles["a.test"], bundles["b.test"], len(bundles["c.test"])) == ((ca.der,), (), 1)


def test_an_empty_own_bundle_distrusts_the_own_domain(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    api.say(response([svid(AGENT, ca.issue(AGENT), b"")], {}))
    eventually(lambda: me.snapshot().bundles == {"a.test": ()})


@pytest.mark.parametrize("fault", ["no svid", "junk", "other key", "other name", "no key usage"])
def test_a_malformed_update_withdraws_the_identity_until_a_good_one_comes(
    fault: str, me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    good, other = ca.issue(AGENT), ca.issue(AGENT)
    bad = svid(AGENT, good, ca.der)
    if fault == "junk":
        bad.x509_svid = b"junk"
    elif fault == "other key":
        bad.x509_svid_key = svid(AGENT, other, ca.der).x509_svid_key
    elif fault == "other name":
        bad.spiffe_id = "spiffe://a.test/admin"
    elif fault == "no key usage":
        bad = svid(AGENT, ca.issue(AGENT, usage=None), ca.der)
    heard = threading.Event()
    me.subscribe(heard.set)
    for _ in range(2 if fault == "no svid" else 1):  # that nothing is ours is asked again
        api.say_badly(response([] if fault == "no svid" else [bad], {}))
    eventually(lambda: gone(me))
    assert heard.wait(10)
    api.say(state(ca, AGENT))
    eventually(lambda: not gone(me))
    assert me.lost_at() is None


def test_permission_denied_withdraws_the_identity_until_it_is_given_again(
    me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    api.say(grpc.StatusCode.PERMISSION_DENIED)
    eventually(lambda: me.health().state == "stale")
    assert not gone(me)  # asked again, on a stream of its own
    api.say(grpc.StatusCode.PERMISSION_DENIED)
    eventually(lambda: gone(me))
    with pytest.raises(IdentityUnavailable, match=r"unix:.*PERMISSION_DENIED"):
        me.snapshot()
    api.say(state(ca, AGENT))
    eventually(lambda: not gone(me))


@pytest.mark.parametrize("ending", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, END])
def test_a_lost_stream_keeps_the_identity_and_is_renewed(
    ending: object, me: WorkloadIdentity, api: ScriptedWorkloadApi, ca: FakeCa
) -> None:
    api.say(ending)
    eventually(lambda: me.lost_at() is not None)
    assert me.snapshot().generation == 1
    api.say(state(ca, AGENT))
    eventually(lambda: me.snapshot().generation == 2)
    assert me.lost_at() is None


def test_a_workload_api_that_restarts_is_found_again(tmp_path: Path, ca: FakeCa) -> None:
    identity = WorkloadIdentity(f"unix://{tmp_path}/api.sock")
    with ScriptedWorkloadApi(tmp_path / "api.sock") as first:
        first.say(state(ca, AGENT))
        identity.start_sync()
        identity.wait_ready_sync(10)
    eventually(lambda: identity.lost_at() is not None)
    assert identity.snapshot().generation == 1
    with ScriptedWorkloadApi(tmp_path / "api.sock") as second:
        second.say(state(ca, AGENT))
        eventually(lambda: identity.snapshot().generation == 2)
        identity.close_sync()


def test_a_socket_that_is_not_there_yet_is_waited_for(tmp_path: Path, ca: FakeCa) -> None:
    identity = WorkloadIdentity(f"unix://{tmp_path}/late.sock")
    identity.start_sync()
    with pytest.raises(IdentityUnavailable, match=r"late\.sock"):
        identity.wait_ready_sync(0.05)
    with ScriptedWorkloadApi(tmp_path / "late.sock") as api:
        api.say(state(ca, AGENT))
        assert identity.wait_ready_sync(10).spiffe_id == AGENT
        identity.close_sync()


def test_an_svid_that_ended_is_not_shown(api: ScriptedWorkloadApi, ca: FakeCa) -> None:
    offset = 0.0
    api.say(state(ca, AGENT))
    identity = WorkloadIdentity(api.address, clock=lambda: time.time() + offset)
    identity.start_sync()
    assert identity.wait_ready_sync(10)
    offset = 3601.0
    with pytest.raises(IdentityUnavailable, match="has expired"):
        identity.snapshot()
    identity.close_sync()


def test_the_hint_chooses_and_a_missing_one_is_no_identity(api: ScriptedWorkloadApi, ca: FakeCa) -> None:
    other = "spiffe://a.test/other"
    both = [svid(AGENT, ca.issue(AGENT), ca.der), svid(other, ca.issue(other), ca.der, hint="internal")]
    identity = WorkloadIdentity(api.address, hint="internal")
    api.say(response(both, {}))
    identity.start_sync()
    assert identity.wait_ready_sync(10).spiffe_id == other
    for _ in range(2):  # the second is the first answer of a new stream
        api.say_badly(response(both[:1], {}))
    eventually(lambda: gone(identity))
    with pytest.raises(IdentityUnavailable, match="'internal'; it offers one without a hint"):
        identity.snapshot()
    api.say_badly(response([svid(other, ca.issue(other), ca.der, hint="outside"), both[0]], {}))
    eventually(lambda: "'outside', one without a hint" in identity.health().why)
    identity.close_sync()


def test_without_a_hint_the_first_counts(api: ScriptedWorkloadApi, ca: FakeCa) -> None:
    other = "spiffe://a.test/other"
    both = [svid(other, ca.issue(other), ca.der, hint="internal"), svid(AGENT, ca.issue(AGENT), ca.der)]
    identity = WorkloadIdentity(api.address)
    api.say(response(both, {}))
    identity.start_sync()
    assert identity.wait_ready_sync(10).spiffe_id == other
    identity.close_sync()


def test_a_closed_identity_leaves_no_thread_and_can_start_again(api: ScriptedWorkloadApi, ca: FakeCa) -> None:
    identity = WorkloadIdentity(api.address)
    for _ in range(2):
        api.say(state(ca, AGENT))
        identity.start_sync()
        identity.start_sync()
        assert identity.wait_ready_sync(10)
        identity.close_sync()
        api.hung_up()
        assert "stepwrit-identity" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    "socket", ["", "/run/api.sock", "unix:relative.sock", "tcp://127.0.0.1:1", "http://x"]
)
def test_a_socket_of_another_shape_is_a_configuration_error(socket: str) -> None:
    with pytest.raises(ConfigurationError, match="unix:///"):
        WorkloadIdentity(socket)
