"""How a stream of the Workload API is: its states, its recoveries, and what it never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.attest.scripted import ScriptedWorkloadApi, eventually, state
from tests.fakes.pki import FakeCa

from stepwrit._supervise import MAX_BACKOFF_S, Supervisor
from stepwrit._workload_api import WatchEnded
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.wiring import health

AGENT = "spiffe://a.test/agent"


class Stream:
    """One attempt at a stream: `given`, then silence until it is cancelled, or an ending."""

    def __init__(self, given: list[str], ending: WatchEnded | None) -> None:
        self._given, self._ending, self._cancelled = given, ending, threading.Event()

    def updates(self) -> Iterator[str]:
        yield from self._given
        if self._ending is None:
            self._cancelled.wait(10)
            raise WatchEnded("hung up", "lost")
        raise self._ending

    def cancel(self) -> None:
        self._cancelled.set()


class Api:
    """A source of streams, by a script; the last one goes on for ever."""

    def __init__(self, *script: Stream) -> None:
        self.now, self.opened, self.withdrawn = 1_000_000.0, 0, 0
        self.published: list[str] = []
        self._script = list(script)
        self.supervisor = Supervisor[str](
            "unix:///api.sock",
            self._open,
            publish=self.published.append,
            withdraw=self._withdraw,
            clock=lambda: self.now,
            name="test",
        )

    def _open(self) -> Stream:
        self.opened += 1
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def _withdraw(self) -> None:
        self.withdrawn += 1

    @property
    def state(self) -> str:
        return self.supervisor.health.state


def lost(why: str = "gone") -> WatchEnded:
    return WatchEnded(why, "lost")


@pytest.fixture
def started() -> Iterator[list[Supervisor[str]]]:
    running: list[Supervisor[str]] = []
    yield running
    for each in running:
        each.close()


def run(api: Api, started: list[Supervisor[str]]) -> Api:
    assert api.state == "not_started"
    started.append(api.supervisor)
    api.supervisor.start()
    return api


def test_it_is_well_with_the_first_update_and_closed_at_the_end(started: list[Supervisor[str]]) -> None:
    api = run(Api(Stream(["one"], None)), started)
    eventually(lambda: api.state == "ok")
    assert (api.published, api.supervisor.lost_at) == (["one"], None)
    api.supervisor.close()
    assert api.state == "closed"


def test_an_outage_before_any_answer_is_starting_and_says_what_failed(
    started: list[Supervisor[str]],
) -> None:
    api = run(Api(Stream([], lost("nobody answers"))), started)
    eventually(lambda: api.supervisor.health.tries >= 2)
    told = api.supervisor.health
    assert (told.state, told.since, told.why) == ("starting", api.now, "unix:///api.sock: nobody answers")
    assert api.withdrawn == 0


def test_a_lost_stream_is_stale_then_well_again(started: list[Supervisor[str]]) -> None:
    api = run(Api(Stream(["one"], lost()), Stream([], lost()), Stream(["two"], None)), started)
    eventually(lambda: api.supervisor.health.tries == 2)
    assert (api.state, api.supervisor.lost_at, api.withdrawn) == ("stale", api.now, 0)
    eventually(lambda: api.state == "ok")
    assert (api.published, api.supervisor.health.tries) == (["one", "two"], 0)


def denied() -> WatchEnded:
    return WatchEnded("denied", "denied")


def test_a_denial_is_a_withdrawal_whatever_follows_until_it_is_given_again(
    started: list[Supervisor[str]],
) -> None:
    streams = Stream(["one"], denied()), Stream([], denied()), Stream([], lost()), Stream(["two"], None)
    api = run(Api(*streams), started)
    eventually(lambda: api.supervisor.health.tries == 3)
    assert (api.state, api.withdrawn) == ("withdrawn", 1)
    eventually(lambda: api.state == "ok")


def test_a_denial_after_an_update_is_asked_again_at_once_and_may_prove_false(
    started: list[Supervisor[str]],
) -> None:
    """SPIRE's agent, while it replaces what a tainted authority signed."""
    api = run(Api(Stream(["one"], denied()), Stream(["two"], None)), started)
    eventually(lambda: api.published == ["one", "two"])
    assert (api.withdrawn, api.opened) == (0, 2)
    eventually(lambda: api.state == "ok")


def test_what_makes_no_sense_is_withdrawn_at_once(started: list[Supervisor[str]]) -> None:
    api = run(Api(Stream(["one"], WatchEnded("junk", "unusable")), Stream([], None)), started)
    eventually(lambda: api.state == "withdrawn")
    assert (api.published, api.withdrawn) == (["one"], 1)


def test_a_nudge_hangs_up_and_asks_again_but_not_at_every_call(started: list[Supervisor[str]]) -> None:
    api = run(Api(Stream(["one"], None), Stream(["two"], None)), started)
    eventually(lambda: api.state == "ok")
    api.supervisor.nudge()  # just after an update: nothing to do
    assert api.opened == 1
    api.now += MAX_BACKOFF_S
    api.supervisor.nudge()
    api.supervisor.nudge()
    eventually(lambda: api.published == ["one", "two"])
    assert (api.opened, api.withdrawn) == (2, 0)


def test_tries_are_spaced_by_a_growing_pause(started: list[Supervisor[str]]) -> None:
    api = run(Api(Stream([], lost())), started)
    eventually(lambda: api.opened >= 2)
    time.sleep(0.5)
    assert api.opened <= 5  # 0.1 + 0.2 + 0.4 s: a loop without a pause would be at thousands


def test_an_agent_that_always_gives_and_then_denies_is_not_asked_without_a_pause(
    started: list[Supervisor[str]],
) -> None:
    api = run(Api(Stream(["one"], denied())), started)
    eventually(lambda: api.opened >= 2)
    time.sleep(0.5)
    assert (api.withdrawn, api.opened <= 6) == (0, True)


def test_an_expired_svid_is_told_and_its_successor_asked_for(tmp_path: Path) -> None:
    """A machine that slept: the stream still stands, but what it gave has ended meanwhile."""
    ca, slept = FakeCa("a.test", now=time.time()), 0.0
    with ScriptedWorkloadApi(tmp_path / "api.sock") as api:
        api.say(state(ca, AGENT))
        identity = WorkloadIdentity(api.address, clock=lambda: time.time() + slept)
        identity.start_sync()
        identity.wait_ready_sync(10)
        assert identity.health().state == "ok"
        slept = 3601.0
        assert identity.health().state == "expired"
        api.hung_up()  # the nudge is the client's own hanging up
        with pytest.raises(IdentityUnavailable, match="has expired"):
            identity.snapshot()
        later = FakeCa("a.test", now=time.time() + slept)
        api.say(state(later, AGENT))
        eventually(lambda: identity.health().state == "ok")
        assert identity.snapshot().generation == 2
        identity.close_sync()


def test_health_tells_the_state_the_reason_and_the_tries(tmp_path: Path) -> None:
    ca = FakeCa("a.test", now=time.time())
    with ScriptedWorkloadApi(tmp_path / "api.sock") as api:
        api.say(state(ca, AGENT))
        identity = WorkloadIdentity(api.address)
        identity.start_sync()
        identity.wait_ready_sync(10)
        assert health.states({"identity": identity})["identity", "ok"] is True
        api.say(grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED)
        eventually(lambda: identity.health().state == "withdrawn")
        said = health.told({"identity": identity})["identity"]
        assert isinstance(said, dict)
        assert (said["state"], said["tries"] >= 1) == ("withdrawn", True)
        assert "no registration entry matches this process" in str(said["why"])
        true = [name for name, is_it in health.states({"identity": identity}).items() if is_it]
        assert true == [("identity", "withdrawn")]
        identity.close_sync()
