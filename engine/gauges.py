"""What a running job shows of itself: counts, rates and time left in its view and record, and metrics.jsonl."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec

from engine.flights import Flights
from engine.folder import METRICS, append_jsonl
from engine.job import JobState
from engine.jobs import Job
from engine.office import Office
from engine.protocol import Counts, DeviceReading, Eta, JobView
from engine.rates import Rates, time_left
from engine.record import RunRecord
from engine.saving import Saving
from engine.tally import Tally

SAVE_S = 5.0
"""How old counts in run.json get. A resume counts the lines: this is only for people who look while no runner lives."""

METRIC_S = 1.0


class Gauges:
    """Reads the parts of a job (it is `jobs.Live`). Before a batch is matched there is only `progress` to show."""

    def __init__(self, job: Job, office: Office, folder: Path) -> None:
        self._job = job
        self._office = office
        self._folder = folder
        self._fraction: float | None = None
        self._tally: Tally | None = None
        self._saving: Saving | None = None
        self._flights: Flights | None = None
        self._rates = Rates()
        self._generated_before = 0  # tokens of a warm engine before this job
        self._running_since: float | None = None
        self._saved_at = 0.0
        self._metric_at = 0.0

    # --- what to look at ----------------------------------------------------------------------------------------------

    def watch(self, tally: Tally, saving: Saving, flights: Flights) -> None:
        """From now on these are shown."""
        self._tally, self._saving, self._flights = tally, saving, flights

    def progress(self, fraction: float | None) -> None:
        """Of reading the batch or loading the model. From any thread."""
        self._fraction = fraction
        self._job.changed = True

    def on_new_engine(self) -> None:
        self._generated_before = self._office.host.stats.generated_tokens
        self._rates.clear()

    def on_state(self, state: JobState) -> None:
        """The job has just changed its state, and is about to be saved."""
        now = asyncio.get_running_loop().time()
        self._running_since = now if state == JobState.RUNNING else None
        self._saved_at = now

    # --- shown --------------------------------------------------------------------------------------------------------

    def refreshed(self, record: RunRecord) -> RunRecord:
        if self._tally is None or self._saving is None:
            return record
        active_s = record.active_s
        if self._running_since is not None:
            now = asyncio.get_running_loop().time()
            active_s += now - self._running_since
            self._running_since = now
        tokens = self._saving.tokens
        return msgspec.structs.replace(
            record,
            counts=self._tally.counts(),
            active_s=active_s,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            reasoning_tokens=tokens.reasoning,
            cached_tokens=tokens.cached,
        )

    def lively(self, view: JobView) -> JobView:
        running = view.state == JobState.RUNNING
        return msgspec.structs.replace(
            view,
            decode_rate=self._rates.decode if running else 0.0,
            prefill_rate=self._rates.prefill if running else 0.0,
            eta=self._eta() if running else Eta(),
            load_fraction=self._fraction if view.state in (JobState.VALIDATING, JobState.LOADING) else None,
        )

    def _eta(self) -> Eta:
        if self._tally is None or self._saving is None or self._flights is None:
            return Eta()
        generated = self._office.host.stats.generated_tokens - self._generated_before
        return time_left(
            self._saving.lengths,
            open_requests=self._tally.open,
            generated_in_flight=max(0, generated - self._flights.completed_tokens),
            rate=self._rates.decode,
        )

    # --- kept ---------------------------------------------------------------------------------------------------------

    async def tick(self, now: float) -> None:
        """A few times a second while the job runs. Never raises for a full disk."""
        self._rates.add(now, self._office.host.stats)
        self._job.changed = True
        if now - self._metric_at >= METRIC_S:
            self._metric_at = now
            append_jsonl(self._folder / METRICS, self._metric())
        if self._job.urgent or now - self._saved_at >= SAVE_S:
            self._saved_at = now
            await self._office.save(self._job)

    def _metric(self) -> dict[str, Any]:
        stats = self._office.host.stats
        reading = self._office.last_reading()
        return {
            "t": round(time.time(), 3),
            "decode_rate": round(self._rates.decode, 2),
            "prefill_rate": round(self._rates.prefill, 2),
            "running": stats.running,
            "waiting": stats.waiting,
            "slots": stats.slots,
            "kv_used": stats.kv_used,
            "kv_total": stats.kv_total,
            "preemptions": stats.preemptions,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "memory": stats.memory,
            "unsaved": self._saving.pending if self._saving is not None else 0,
            "counts": self._tally.counts() if self._tally is not None else Counts(),
            "devices": [bare(device) for device in reading.devices] if reading else [],
            "runner_rss": reading.runner_rss if reading else 0,
            "worker_rss": reading.worker_rss if reading else 0,
        }


def bare(device: DeviceReading) -> DeviceReading:
    """Without what follows from other fields of the same line or of its neighbours."""
    return msgspec.structs.replace(
        device, owners={}, estimated=[], peak_used=0, peak_t=0.0, warn_free=0, critical_free=0
    )
