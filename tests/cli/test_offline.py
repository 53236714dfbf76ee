"""Without any broker: verify, export, check and adopt."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.ledger.helpers import KEY, ORIGIN, OTHER_KEY, SEED, Ledger

from stepwrit_broker.core.tlog import LogProof
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.cosignature import CosignatureSigner
from stepwrit_broker.ledger.report import FindingKind

VKEY = KEY.verifier.vkey
TAMPER: dict[FindingKind, str] = {
    "body_changed": "UPDATE entries SET body = CAST('forged' AS BLOB) WHERE seq = 3",
    "gap": "DELETE FROM entries WHERE seq = 3",
    "truncated": "DELETE FROM entries WHERE seq >= 5",
    "checkpoint_forged": "UPDATE checkpoints SET note = replace(note, '7', '8')",
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    made.add(7)
    made.sign()
    yield made
    made.close()


def test_a_whole_log_verifies(cli: Cli, ledger: Ledger):
    result = cli(
        "ledger", "verify", "--db", ledger.path, "--key", VKEY, "--anchor", ledger.path.parent / "anchor.json"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"✓ whole  {ledger.path}: 7 entries of {ORIGIN}\n"


def test_without_an_anchor_it_says_what_it_cannot_exclude(cli: Cli, ledger: Ledger):
    result = cli("ledger", "verify", "--db", ledger.path, "--key", VKEY)
    assert result.exit_code == 0
    assert "later truncation is not excluded without an anchor or a witness" in result.stdout


@pytest.mark.parametrize("kind", TAMPER)
def test_a_tampered_log_is_a_finding_and_exit_code_1(cli: Cli, ledger: Ledger, kind: FindingKind):
    given = ("ledger", "verify", "--db", ledger.path, "--key", VKEY)
    assert cli(*given).exit_code == 0
    ledger.tamper(TAMPER[kind])
    result = cli(*given)
    assert result.exit_code == 1
    assert f"✗ {kind}" in result.stdout
    assert "✗ NOT WHOLE" in result.stdout
    report = json.loads(cli(*given, "--json").stdout)[str(ledger.path)]
    assert report["ok"] is False
    assert kind in {each["kind"] for each in report["findings"]}


def test_a_truncated_log_is_seen_through_its_anchor(cli: Cli, ledger: Ledger):
    ledger.tamper("DELETE FROM entries WHERE seq = 6", "DELETE FROM checkpoints", "DELETE FROM nodes")
    anchor = ledger.path.parent / "anchor.json"
    result = cli("ledger", "verify", "--db", ledger.path, "--key", VKEY, "--anchor", anchor)
    assert result.exit_code == 1
    assert "the anchor has 7 entries, here are 6" in result.stdout


def test_another_key_vouches_for_nothing(cli: Cli, ledger: Ledger):
    assert cli("ledger", "verify", "--db", ledger.path, "--key", VKEY).exit_code == 0
    result = cli("ledger", "verify", "--db", ledger.path, "--key", OTHER_KEY.verifier.vkey)
    assert result.exit_code == 1
    assert "checkpoint_forged" in result.stdout


def test_the_key_may_be_a_file_public_or_private(cli: Cli, ledger: Ledger, tmp_path: Path):
    public, private = tmp_path / "log.vkey", tmp_path / "ledger.key"
    public.write_text(VKEY + "\n")
    keys.create(private, origin=ORIGIN, seed=SEED)
    assert cli("ledger", "key", "--file", private).stdout == VKEY + "\n"
    for file in (public, private):
        assert cli("ledger", "verify", "--db", ledger.path, "--key", file).exit_code == 0
    private.chmod(0o644)
    result = cli("ledger", "verify", "--db", ledger.path, "--key", private)
    assert result.exit_code == 3
    assert "the key file is open to others" in result.stderr


def test_an_export_proves_itself_and_a_changed_one_does_not(cli: Cli, ledger: Ledger, tmp_path: Path):
    file = tmp_path / "part.jsonl"
    made = cli("ledger", "export", file, "--db", ledger.path, "--key", VKEY, "--first", 2, "--upto", 6)
    assert (made.exit_code, made.stderr) == (0, "")
    assert "entries 2 to 5" in made.stdout
    good = cli("ledger", "verify", "--export", file, "--key", VKEY)
    assert good.exit_code == 0
    assert "✓ whole, as far as it was checked" in good.stdout
    file.write_text(file.read_text().replace('"body": "4"', '"body": "5"'))
    bad = cli("ledger", "verify", "--export", file, "--key", VKEY)
    assert bad.exit_code == 1
    assert "root_mismatch" in bad.stdout


def test_who_names_no_key_and_no_database_is_told_what_to_say(cli: Cli, ledger: Ledger):
    for args, said in ((("--db", ledger.path), "--key VKEY"), (("--key", VKEY), "--db FILE")):
        result = cli("ledger", "verify", *args)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr


def test_what_is_no_key_is_refused(cli: Cli, ledger: Ledger):
    result = cli("ledger", "verify", "--db", ledger.path, "--key", "not-a-key")
    assert result.exit_code == 1
    assert result.stderr.startswith("refused: invalid_proof")


def test_a_damaged_file_fails_the_store_check(cli: Cli, ledger: Ledger):
    ledger.add(400)
    ledger.tamper()
    assert cli("store", "check", ledger.path).stdout == f"✓ whole  {ledger.path}\n"
    content = bytearray(ledger.path.read_bytes())
    content[9000:15000] = b"\xff" * 6000
    ledger.path.write_bytes(content)
    result = cli("store", "check", ledger.path)
    assert result.exit_code == 1
    assert "✗ damaged" in result.stdout
    assert json.loads(cli("store", "check", ledger.path, "--json").stdout)["ok"] is False


@pytest.fixture
def restored(ledger: Ledger, tmp_path: Path) -> tuple[object, ...]:
    """A database from before its last two entries; what `store adopt` is given."""
    ledger.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = tmp_path / "backup.db"
    shutil.copy(ledger.path, backup)
    ledger.add(2)
    ledger.sign()
    key = tmp_path / "ledger.key"
    keys.create(key, origin=ORIGIN, seed=SEED)
    return (
        "store",
        "adopt",
        "--db",
        backup,
        "--anchor",
        tmp_path / "anchor.json",
        "--key",
        key,
        "--reason",
        "disk lost",
    )


def test_a_restored_store_is_not_adopted_without_the_explicit_word(cli: Cli, restored: tuple[object, ...]):
    before = Path(str(restored[3])).read_bytes()
    result = cli(*restored)
    assert result.exit_code == 1
    assert "the anchor has seen 9 entries, the database has 7: 2 are lost" in result.stdout
    assert "--yes-i-lost-entries" in result.stderr
    assert Path(str(restored[3])).read_bytes() == before


def test_an_adopted_store_goes_on_under_a_new_name_and_verifies(cli: Cli, restored: tuple[object, ...]):
    result = cli(*restored, "--yes-i-lost-entries")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"adopted: the log goes on as {ORIGIN}/" in result.stdout
    db, anchor = restored[3], restored[5]
    verified = cli("ledger", "verify", "--db", db, "--key", VKEY, "--anchor", anchor)
    assert verified.exit_code == 0
    assert "entry 7: went on as" in verified.stdout
    assert "nothing to adopt" in cli(*restored).stdout
    with sqlite3.connect(str(db)) as conn:
        body = conn.execute("SELECT body FROM entries WHERE kind = 'log.adopted'").fetchone()[0]
    conn.close()
    assert json.loads(body)["adopted"]["reason"] == "disk lost"


def test_a_store_that_a_broker_holds_is_not_adopted(cli: Cli, restored: tuple[object, ...]):
    from stepwrit_broker.store.schema import FileLock

    lock = FileLock(Path(str(restored[3])))
    try:
        result = cli(*restored, "--yes-i-lost-entries")
    finally:
        lock.release()
    assert result.exit_code == 3
    assert "another process has this store open" in result.stderr
    assert cli(*restored).exit_code == 1


def written(folder: Path, ledger: Ledger) -> tuple[Path, CosignatureSigner]:
    """An entry with its proof, as `ledger prove` writes them, cosigned by one witness."""
    witness = CosignatureSigner.from_seed("witness.example/w1", b"1" * 32)
    reader = ledger.reader()
    note = reader.newest_checkpoint()
    assert note is not None
    note += witness.line(note.partition("\n\n")[0] + "\n", 1_760_000_000)
    proof = LogProof(index=3, path=reader.inclusion(3, 7).path, checkpoint=note)
    entry = folder / "entry-3.json"
    entry.write_bytes(b"3")
    shown = folder / "entry-3.json.tlog-proof"
    shown.write_text(proof.text())
    return shown, witness


def test_one_entry_is_proved_from_two_files(cli: Cli, ledger: Ledger, tmp_path: Path):
    proof, witness = written(tmp_path, ledger)
    result = cli("ledger", "verify", "--proof", proof, "--key", VKEY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"entry 3 of {ORIGIN}, in the log of 7 entries" in result.stdout
    assert "signed by the log alone" in result.stdout
    given = ("--witness", witness.verifier.vkey)
    result = cli("ledger", "verify", "--proof", proof, "--key", VKEY, *given)
    assert "cosigned by witness.example/w1, 2025-10-09" in result.stdout
    told = json.loads(cli("ledger", "verify", "--proof", proof, "--key", VKEY, *given, "--json").stdout)
    assert (told["ok"], told["seq"], told["cosigned"][0]["name"]) == (True, 3, "witness.example/w1")


def test_a_proof_of_another_entry_or_without_its_witness_is_refused(cli: Cli, ledger: Ledger, tmp_path: Path):
    proof, _ = written(tmp_path, ledger)
    given = ("ledger", "verify", "--proof", proof, "--key", VKEY)
    assert cli(*given).exit_code == 0
    other = CosignatureSigner.from_seed("witness.example/w2", b"2" * 32)
    assert cli(*given, "--witness", other.verifier.vkey).exit_code == 1
    (tmp_path / "other").write_bytes(b"4")
    assert cli(*given, "--entry", tmp_path / "other").exit_code == 1
    (tmp_path / "entry-3.json").unlink()
    result = cli(*given)
    assert (result.exit_code, "--entry FILE" in result.stderr) == (2, True)
