"""python -m tests.conformance.spiffe          one JSON question a line on stdin, one answer a line on stdout
python -m tests.conformance.spiffe serve    a workload for suites that talk over the network
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.conformance.spiffe.harness import serve
from tests.conformance.spiffe.judge import answer_line


def main(arguments: list[str]) -> None:
    if arguments == ["serve"]:
        return asyncio.run(serve())
    if arguments:
        sys.exit(__doc__)
    for line in sys.stdin:
        print(json.dumps(answer_line(line)), flush=True)
    return None


main(sys.argv[1:])
