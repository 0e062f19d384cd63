"""Makes calls with githubkit: `python drive_githubkit.py URL < CALLS`, the token in KEY.

CALLS is a list of [name, arguments by name] in JSON. Each answer is parsed by the model that githubkit has of it, which
refuses one that lacks what GitHub promises. Prints a list of what came back.
"""

from __future__ import annotations

import json
import os
import sys

from githubkit import GitHub
from githubkit.exception import RequestFailed

github = GitHub(os.environ["KEY"], base_url=sys.argv[1], auto_retry=False)
answers = []
for name, arguments in json.load(sys.stdin):
    group, _, method = name.partition(".")
    try:
        answer = getattr(getattr(github.rest, group), method)(**arguments)
    except RequestFailed as error:
        answers.append({"error": {"status": error.response.status_code}})
    else:
        parsed = answer.parsed_data
        dumped = (
            [each.model_dump(mode="json") for each in parsed]
            if isinstance(parsed, list)
            else parsed.model_dump(mode="json")
        )
        answers.append({"value": dumped})
json.dump(answers, sys.stdout)
