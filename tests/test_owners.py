"""Owners of memory: never negative, together what is used, and honest about what is no measurement."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.owners import CRITICAL_FREE_BYTES, WARN_FREE_BYTES, Peaks, explained, of_gpu, of_ram
from engine.protocol import DeviceReading, EngineStats, EngineView, ModelInfo, Reading

MIB = 1024**2
FIGURES = {"weights": 10_000 * MIB, "kv": 1_500 * MIB, "compute": 100 * MIB, "output": 20 * MIB, "host": 900 * MIB}


def _gpu(used: int, process: int | None = None, index: int = 0) -> DeviceReading:
    return DeviceReading(
        name="g", kind="gpu", index=index, total=1 << 40, used=used, free=(1 << 40) - used, process=process
    )


def _ram(used: int) -> DeviceReading:
    return DeviceReading(name="RAM", kind="ram", total=1 << 40, used=used, free=(1 << 40) - used)


sizes = st.integers(0, 1 << 36)
memories = st.dictionaries(st.sampled_from([*FIGURES, "new"]), sizes)


@given(used=sizes, process=st.none() | sizes, memory=memories, gpus=st.integers(1, 3))
def test_a_gpu_adds_up(used: int, process: int | None, memory: dict[str, int], gpus: int) -> None:
    owners, estimated = of_gpu(_gpu(used, process), memory, gpus=gpus)
    assert sum(owners.values()) == used
    assert all(size > 0 for size in owners.values())
    assert set(estimated) <= set(owners)
    assert list(owners) == [n for n in ("weights", "kv", "compute", "context", "other") if n in owners]


@given(used=sizes, memory=memories, offloaded=st.booleans(), runner=sizes, worker=sizes)
def test_ram_adds_up(used: int, memory: dict[str, int], offloaded: bool, runner: int, worker: int) -> None:
    owners, estimated = of_ram(_ram(used), memory, offloaded=offloaded, runner_rss=runner, worker_rss=worker)
    assert sum(owners.values()) == used
    assert all(size > 0 for size in owners.values())
    assert set(estimated) <= set(owners)
    ours = sum(owners.get(name, 0) for name in ("weights", "kv", "compute", "context"))
    assert ours <= worker, "no more than what is resident"
    if offloaded:
        assert not {"weights", "kv", "compute"} & set(owners), "they are counted on the GPU"


def test_a_driver_that_tells_nonsense_makes_no_negative_owner() -> None:
    owners, _ = of_gpu(_gpu(-5, 100), FIGURES, gpus=1)
    assert owners == {}


def test_a_card_with_known_process() -> None:
    owners, estimated = of_gpu(_gpu(13_000 * MIB, 12_000 * MIB), FIGURES, gpus=1)
    assert owners == {
        "weights": 10_000 * MIB,
        "kv": 1_500 * MIB,
        "compute": 120 * MIB,
        "context": 380 * MIB,
        "other": 1_000 * MIB,
    }
    assert estimated == ["context"]


def test_a_card_that_hides_its_processes_has_no_context() -> None:
    owners, estimated = of_gpu(_gpu(13_000 * MIB), FIGURES, gpus=1)
    assert "context" not in owners
    assert owners["other"] == 1_380 * MIB
    assert estimated == ["other"]
    assert of_gpu(_gpu(500), {}, gpus=1) == ({"other": 500}, [])


def test_figures_larger_than_what_is_used_are_cut_and_said() -> None:
    owners, estimated = of_gpu(_gpu(10_500 * MIB, 10_400 * MIB), FIGURES, gpus=1)
    assert owners == {"weights": 10_000 * MIB, "kv": 500 * MIB}
    assert "kv" in estimated


def test_several_cards_share_and_the_share_is_an_estimate() -> None:
    owners, estimated = of_gpu(_gpu(7_000 * MIB, 6_500 * MIB), FIGURES, gpus=2)
    assert owners["weights"] == 5_000 * MIB
    assert {"weights", "kv", "compute", "context"} <= set(estimated)


def test_ram_without_a_gpu() -> None:
    figures = {"weights": 2_000 * MIB, "kv": 300 * MIB, "compute": 50 * MIB}
    owners, estimated = of_ram(_ram(8_000 * MIB), figures, offloaded=False, runner_rss=60 * MIB, worker_rss=2_500 * MIB)
    assert owners == {
        "weights": 2_000 * MIB,
        "kv": 300 * MIB,
        "compute": 50 * MIB,
        "runner": 60 * MIB,
        "context": 150 * MIB,
        "other": 5_440 * MIB,
    }
    assert estimated == ["weights", "kv", "compute", "context"]
    loading, _ = of_ram(_ram(8_000 * MIB), figures, offloaded=False, runner_rss=0, worker_rss=1_000 * MIB)
    assert loading == {"weights": 1_000 * MIB, "other": 7_000 * MIB}, "not more than is resident yet"


def test_a_reading_is_explained_with_peaks_and_thresholds() -> None:
    peaks = Peaks()
    engine = EngineView(
        state="ready", info=ModelInfo(name="m", path="m", gpu_offload=True), stats=EngineStats(memory=FIGURES)
    )

    def at(t: float, used: int) -> Reading:
        devices = [_gpu(used, used), _ram(5_000 * MIB), DeviceReading(name="?", kind="gpu", index=1)]
        return explained(Reading(t=t, devices=devices, worker_rss=900 * MIB, runner_rss=50 * MIB), engine, peaks)

    at(1.0, 12_000 * MIB)
    at(2.0, 14_000 * MIB)
    gpu, ram, unknown = at(3.0, 13_000 * MIB).devices
    assert (gpu.peak_used, gpu.peak_t) == (14_000 * MIB, 2.0)
    assert (gpu.warn_free, gpu.critical_free) == (WARN_FREE_BYTES, CRITICAL_FREE_BYTES) == (512 * MIB, 256 * MIB)
    assert ram.owners == {"runner": 50 * MIB, "context": 900 * MIB, "other": 4_050 * MIB}
    assert (ram.peak_used, ram.peak_t) == (5_000 * MIB, 1.0)
    assert unknown.owners == {}, "a card that tells no sizes has no owners"
    loading = EngineView(state="loading")
    (gpu,) = explained(Reading(t=1, devices=[_gpu(500, 300)]), loading, Peaks()).devices
    assert (gpu.owners, gpu.estimated) == ({"weights": 300, "other": 200}, ["weights"])
    on_cpu = EngineView(state="ready", info=ModelInfo(name="m", path="m"), stats=EngineStats(memory={"kv": 100}))
    gpu, ram = explained(Reading(t=1, devices=[_gpu(9), _ram(999)], worker_rss=500), on_cpu, Peaks()).devices
    assert gpu.owners == {"other": 9}
    assert ram.owners == {"kv": 100, "context": 400, "other": 499}
