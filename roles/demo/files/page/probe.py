# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the demo on this node: probe.py answers, a row of the audit.

Where systemd does not run, the page and the first instance of each service that it asks are started as their units say, and stopped again.
"""

import contextlib
import json
import urllib.parse

from unit_probe import Failed, ask, has_systemd, local_url, main, running, units

QUERY = "play chess against the computer"


def answers():
    """A query is embedded, recalled and ranked."""
    page, models, vectors = (units(service)[0] for service in ("demo", "model-service", "vector-search"))
    bases = {
        page: local_url(*page.options["listen"].rsplit(":", 1)),
        models: local_url(models.options["address"], models.options["port"]),
        vectors: local_url(*vectors.options["listen"].rsplit(":", 1)),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(models, bases[models] + "/v2/health/ready"))
        stack.enter_context(running(vectors, bases[vectors] + "/v2/health/ready"))
        # The balancer, which it asks otherwise, is started for no one.
        stack.enter_context(running(page, bases[page] + "/health/live", [*page.command, f"--models={bases[models]}", f"--vectors={bases[vectors]}"]))
        found = json.loads(ask(bases[page] + "/api/search?q=" + urllib.parse.quote(QUERY)))
    if not found["ranked"]:
        raise Failed(f"'{QUERY}' has no results")
    times = ", ".join(f"{stage['name']} {stage['ms']:.1f} ms" for stage in found["stages"])
    reason = "" if has_systemd() else "systemd does not run here: the page and the services were started for it"
    return "pass", f"'{QUERY}': {found['ranked'][0]['name']} first; {times}", reason


if __name__ == "__main__":
    main({"answers": answers})
