"""Plain `curl` gets, introspects and revokes a credential by the page, with development SVIDs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.stage import ENTRIES, Stage, spiffe
from tests.oauth.foreign import write_svid
from tests.oauth.how_to import check, follow
from tests.oauth.standard import BEARER_ENTRIES, WORKER, free_port

pytestmark = pytest.mark.live


async def test_the_page_works_both_ways(tmp_path: Path) -> None:
    issuer = f"https://localhost:{free_port()}"
    async with Stage(entries=[*ENTRIES, *BEARER_ENTRIES], issuer=issuer) as stage:
        issued = stage.trust.ca.x509_svid(spiffe(WORKER))
        write_svid(tmp_path, issued.certificate, issued.key, stage.trust.ca.authorities)
        opened = await follow(stage, tmp_path, stage.trust.ca.jwt_svid(spiffe(WORKER), [issuer]))
        await check(stage, tmp_path, opened)
