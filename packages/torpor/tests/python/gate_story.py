"""A run that asks before it acts, from the outside: submit, watch, reject, approve, collect.

Start a server that plays the story and tell this script where it is:

    TORPOR_MODEL=scripted:$PWD/gate_story.json TORPOR_WORKSPACE_ROOTS=/path/to/project torpor serve
    python gate_story.py http://127.0.0.1:8080 /path/to/project

It needs `httpx` and `httpx-sse` and nothing else: everything is plain HTTP, JSON and server-sent events.
"""

import json
import sys
from pathlib import Path

import httpx
from httpx_sse import connect_sse


def submit(client: httpx.Client, project: str) -> str:
    """Ask for work in which every command that publishes needs a person's approval."""
    answer = client.post(
        "/runs",
        json={
            "prompt": "Publish the project.",
            "workspaceRef": project,
            "approvals": [{"tool": "bash", "pattern": "publish"}],
            "metadata": {"ticket": "REL-7"},
        },
        # Answer at once; we follow the run ourselves. (`"async": true` in the body means the same.)
        headers={"Prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    run = answer.json()["runId"]
    assert answer.headers["location"] == f"/runs/{run}"
    return run


def follow(client: httpx.Client, run: str, until: str, seen: list) -> dict:
    """Watch the run until an event of this type.

    Every event that carries an id comes from the durable log. Whoever comes back with the last id goes on exactly
    there: no gap and no repeat, however long they were away and whatever was restarted meanwhile.
    """
    headers = {"Last-Event-ID": seen[-1]} if seen else {}
    with connect_sse(client, "GET", f"/runs/{run}/events", headers=headers) as stream:
        for event in stream.iter_sse():
            if event.event == "delta":
                continue  # a piece of an answer while it streams; the whole answer follows with an id
            assert event.id not in seen, "no event comes twice"
            seen.append(event.id)
            if event.event == until:
                return event.json()
    raise AssertionError(f"the stream ended before {until}")


def pending(client: httpx.Client, run: str) -> dict:
    """What waits for a person right now: the exact call, not a description of it."""
    gates = client.get("/gates", params={"status": "pending", "runId": run}).json()["gates"]
    assert len(gates) == 1, gates
    return gates[0]


def main(url: str, project: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        seen: list = []
        run = submit(client, project)

        # The agent wants to publish by force. It is held: the run is parked, and costs nothing while we think.
        asked = follow(client, run, "gate_requested", seen)
        gate = pending(client, run)
        assert gate["gateId"] == asked["gate"] == 0
        assert "--force" in gate["gate"]["call"]["input"]["command"]
        assert client.get(f"/runs/{run}").json()["status"] == "paused"

        # No. The agent reads what we say, and tries something else.
        verdict = {"gateId": 0, "feedback": "Never with --force.", "approver": "ann"}
        assert client.post(f"/runs/{run}/reject", json=verdict).status_code == 200
        follow(client, run, "gate_decided", seen)
        follow(client, run, "gate_requested", seen)
        gate = pending(client, run)
        assert gate["gateId"] == 1 and "--force" not in gate["gate"]["call"]["input"]["command"]

        # Yes. Saying it twice changes nothing; changing one's mind afterwards is refused.
        verdict = {"gateId": 1, "approver": "ann"}
        for _ in range(2):
            assert client.post(f"/runs/{run}/approve", json=verdict).status_code == 200
        late = client.post(f"/runs/{run}/reject", json=verdict)
        assert (late.status_code, late.json()["code"]) == (409, "gate_conflict")

        follow(client, run, "run_ended", seen)
        assert seen == sorted(seen, key=int)
        record = client.get(f"/runs/{run}").json()
        assert record["status"] == "done", record
        assert record["metadata"] == {"ticket": "REL-7"}
        assert Path(project, "published.txt").read_text() == "publish\n", "what was approved ran, once; the rest did not"

        # The log tells who decided what, for ever.
        entries = client.get(f"/sessions/{record['sessionId']}/log").json()["entries"]
        decisions = [(e["gate"], e["action"], e["approver"]) for e in entries if e["type"] == "gate_decided"]
        assert decisions == [(0, "reject", "ann"), (1, "approve", "ann")], decisions
        print(json.dumps({"run": run, "response": record["response"], "events": len(seen)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
