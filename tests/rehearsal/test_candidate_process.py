"""The candidate's side of the pipe, frame by frame."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tests.flows.rig import Rig
from tests.policy.bad_opa import BadOpa
from tests.policy.world import Scene, opening

from stepwrit_broker.policy.files import stance
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.wiring.candidate_process import opa_of, opa_to_json, serve

LOW = opening(Scene(origin="model", impact="low"))
ASK = {"ask": [(LOW.asking, LOW.principal, LOW.resource, LOW.document)]}


def policy(files: dict[str, str], opa: OpaServer | None = None) -> dict[str, Any]:
    return {"text": json.dumps(files), "opa": opa_to_json(opa)}


async def talk(*frames: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames that come back for these, before the pipe ends."""
    sent = b"".join(len(raw := json.dumps(each).encode()).to_bytes(4, "big") + raw for each in frames)
    out = io.BytesIO()
    await serve(io.BytesIO(sent), out)
    said, raw = [], out.getvalue()
    while raw:
        length = int.from_bytes(raw[:4], "big")
        said.append(json.loads(raw[4 : 4 + length]))
        raw = raw[4 + length :]
    return said


async def test_one_answer_for_each_frame_until_the_pipe_ends() -> None:
    opened, first, second = await talk(policy(stance("approval")), ASK, {"ask": []})
    assert opened["digest"].startswith("sha256-")
    assert [each["verdict"] for each in first["answers"]] == ["permit"]
    assert second == {"answers": []}
    assert await talk() == []


async def test_a_policy_that_does_not_load_is_the_only_answer() -> None:
    (said,) = await talk(policy({"a.cedar": "permit ("}), ASK)
    assert said["bad"] == "Malformed"
    assert "a.cedar:1" in said["reason"]


async def test_an_engine_in_doubt_says_nothing_of_that_question() -> None:
    opa = BadOpa()
    await opa.start()
    try:
        opa.answers = {"permit": ["yes"], "forbid": [], "needs_approval": [], "obligation": []}
        rego = {"a.rego": 'package stepwrit\npermit contains "yes"\n'}
        server = OpaServer(url=opa.url, timeout_s=1)
        opened, good = await talk(policy(rego, server), ASK)
        assert opened["digest"]
        assert good["answers"][0]["verdict"] == "permit"
        opa.reply = lambda method, _path, body: (500, b"{}") if b"asking" in body else None
        _, doubt = await talk(policy(rego, server), ASK)
        assert doubt == {"answers": [None]}
    finally:
        await opa.stop()


async def test_recorded_decisions_are_replayed_within_bounds(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "store.db")
    await rig.credential(await rig.accepted())
    frame = {"db": str(rig.path), "since": 0.0, "entries": 1000, "seconds": 20.0, "most": 5}
    nowhere = {**frame, "db": str(tmp_path / "none.db")}
    _, whole, none, lost = await talk(policy(stance("approval")), frame, {**frame, "seconds": 0.0}, nowhere)
    assert (whole["asked"], whole["entries_not_reached"]) == (3, 0)
    assert (none["asked"], none["entries_not_reached"]) == (0, 4)
    assert lost["bad"] == "Unavailable"
    await rig.close()


def test_where_opa_is_goes_over_the_pipe_and_no_secret_does(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    server = OpaServer(url="https://opa.example", token_file=token, timeout_s=3, failures=9)
    said = opa_to_json(server)
    assert "hunter2" not in json.dumps(said)
    made = opa_of(json.loads(json.dumps(said)))
    assert made is not None
    assert made._timeout_s == 3
    assert (opa_of(None), opa_to_json(None)) == (None, None)
