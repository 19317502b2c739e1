"""Kills random processes of a run at random moments, then proves that its rows are those of an undisturbed one.

    python -m tests.flows.production.fuzz --kills 50 --seed 0

A server, two workers that sample and one that waits, real engines: whatever is killed is started again, as a machine's
service manager would. 50 kills take a quarter of an hour on two cores.
"""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flows.produce import run_produce
from tasks.run.heartbeat import read_heartbeats
from tasks.store.durable import read_json
from tests.flows.prefect_services import prefect_services
from tests.flows.production.conftest import start_everything, start_worker
from tests.flows.production.long_run import LongRun, engines_of, in_a_hurry, is_alive, kill, long_config, tokens_of
from tests.tiny import make_pair

MAX_PAUSE_S = 20.0  # between two kills; a fresh engine samples after 15 s
START_S = 60.0  # from asking for a run to its lock
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def main() -> None:
    """Raises AssertionError where a row is lost, there twice, or another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for name in ("models", "undisturbed", "services", "run"):
        (folder / name).mkdir()
    models = make_pair(folder / "models", noise=0.5)
    undisturbed = tokens_of(run_produce(in_a_hurry(long_config(folder / "undisturbed", models))).path)
    killed: Counter[str] = Counter()
    with prefect_services(folder / "services") as services:
        start_everything(services)
        version = 0
        while killed.total() < args.kills:
            config = long_config(folder / "run", models, run_on="deployment")
            publish = config.publish.model_copy(update={"version": f"v{version}"})
            run = LongRun.of(services, config.model_copy(update={"publish": publish}))
            run.flow_run = run.start()
            fuzz(run, chance, killed, args.kills)
            run = LongRun(services, in_a_hurry(run.config), run.folder)
            while not run.folder.published.exists():
                run.wait_for_end(run.start())
            assert tokens_of(run.folder.published) == undisturbed
            print(f"v{version}: {len(undisturbed)} completions, each once, all of them those of an undisturbed run")
            version += 1
    assert services.alive() == []
    print(f"killed: {dict(killed)}")


def fuzz(run: LongRun, chance: random.Random, killed: Counter[str], num_kills: int) -> None:
    """Until the run has published, or there have been kills enough."""
    started = time.monotonic()
    while killed.total() < num_kills and not run.folder.published.exists():
        # One whose worker was killed with it stays Running in Prefect for good.
        is_lost = time.monotonic() - started > START_S and parent_of(run) is None
        if is_lost or run.state(run.flow_run)["type"] in OVER:
            run.flow_run, started = run.start(), time.monotonic()
        time.sleep(chance.uniform(0.0, MAX_PAUSE_S))
        kind = kill_something(run, chance)
        killed[kind] += 1
        print(
            f"{killed.total():3}. {kind}; {run.num_parts()} commits, {len(run.engines())} engines at work", flush=True
        )


def parent_of(run: LongRun) -> int | None:
    """The pid of the run that waits for the others, None while it does not live."""
    holder = read_json(run.folder.work / "holder.json")
    return int(holder["pid"]) if holder is not None and is_alive(holder["pid"]) else None


def kill_something(run: LongRun, chance: random.Random) -> str:
    """One living process; its kind is drawn first, so that the one server and the one parent get their share."""
    services = run.services
    beats = [beat for beat in read_heartbeats(run.folder).values() if is_alive(beat.pid)]
    parent = parent_of(run)
    living: dict[str, list[Any]] = {
        "engine": [engine for beat in beats for engine in engines_of(beat.pid)],
        "run": [beat.pid for beat in beats],
        "parent": [parent] if parent is not None else [],
        "worker": list(services.workers),
        "server": [0],
    }
    kind = chance.choice([kind for kind, some in living.items() if some])
    one = chance.choice(living[kind])
    if kind == "worker":
        services.kill(services.workers[one])
        start_worker(services, one)
    elif kind == "server":
        services.kill(services.server)
        services.start_server()
    else:
        kill(one)
    return kind


if __name__ == "__main__":
    main()
