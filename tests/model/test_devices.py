"""Which device is chosen, with the number of GPUs pretended."""

import os

import pytest
import torch

from scdmc.errors import ScDMCError
from scdmc.model.devices import (
    CUBLAS_WORKSPACE,
    choose_device,
    computing_dtype,
    cpu_has_bfloat16,
    deterministic_operations,
    pretraining_dtype,
    say_that_float32_is_slow,
)


@pytest.mark.parametrize(("chosen", "kept"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_operations_are_deterministic_where_that_is_wanted_and_as_before_afterwards(monkeypatch, chosen, kept):
    monkeypatch.setenv(CUBLAS_WORKSPACE, chosen or "")
    if chosen is None:
        monkeypatch.delenv(CUBLAS_WORKSPACE)

    def put():
        with deterministic_operations(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert os.environ[CUBLAS_WORKSPACE] == kept
            torch.empty(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    with deterministic_operations(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert os.environ.get(CUBLAS_WORKSPACE) == chosen
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        put()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def pretend_gpus(monkeypatch, available, are_usable=True):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: are_usable and available > 0)


@pytest.mark.parametrize(
    ("available", "asked", "expected"),
    [(0, None, "cpu"), (0, 0, "cpu"), (2, None, "cuda"), (2, 1, "cuda"), (2, 0, "cpu")],
)
def test_the_gpu_is_taken_where_there_is_one(monkeypatch, available, asked, expected):
    pretend_gpus(monkeypatch, available)
    assert choose_device(asked).type == expected


@pytest.mark.parametrize(
    ("available", "asked", "processes", "message"),
    [
        (0, 1, 1, "--num_gpus 1: this machine has 0"),
        (2, 3, 3, "--num_gpus 3: this machine has 2"),
        (4, 2, 1, "torchrun --nproc_per_node=2"),
        (1, None, 2, "2 processes, but this machine has 1 GPUs"),
    ],
)
def test_gpus_that_cannot_be_had_are_refused(monkeypatch, available, asked, processes, message):
    pretend_gpus(monkeypatch, available)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(ScDMCError, match=message):
        choose_device(asked)


@pytest.mark.parametrize("asked", [None, 1])
def test_gpus_that_torch_cannot_use_are_an_error_and_not_the_cpu(monkeypatch, asked):
    def start():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nMore lines")

    pretend_gpus(monkeypatch, 1, are_usable=False)
    monkeypatch.setattr(torch.cuda, "init", start)
    with pytest.raises(ScDMCError, match=r"has 1 GPUs that torch .* cannot use: The NVIDIA driver .*12020\); install"):
        choose_device(asked)
    assert choose_device(0).type == "cpu"


@pytest.mark.parametrize(
    ("device", "dtype", "has_bfloat16", "is_said"),
    [("cuda", "float32", True, True), ("cuda", "bfloat16", True, False), ("cuda", "float32", False, False),
     ("cpu", "float32", True, False)],
)  # fmt: skip
def test_float32_on_a_gpu_that_has_bfloat16_is_said_once(monkeypatch, caplog, device, dtype, has_bfloat16, is_said):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    say_that_float32_is_slow.cache_clear()
    for _ in range(2):
        assert computing_dtype(dtype, torch.device(device)) == getattr(torch, dtype)
    assert ["--dtype bfloat16 is faster" in message for message in caplog.messages] == [True] * is_said


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "expected"),
    [("cuda", True, torch.bfloat16), ("cuda", False, torch.float32), ("cpu", True, torch.float32)],
)
def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch, device, has_bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert computing_dtype("auto", torch.device(device)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512f amx_bf16 amx_tile", torch.bfloat16), ("avx512_bf16", torch.bfloat16),
     ("avx2 avx512f amx_tile", torch.float32), (None, torch.float32)],
)  # fmt: skip
def test_pre_training_on_a_cpu_computes_in_bfloat16_where_it_has_instructions(monkeypatch, tmp_path, flags, expected):
    described = tmp_path / "cpuinfo"
    if flags is not None:
        described.write_text(f"processor\t: 0\nmodel name\t: amx_bf16?\nflags\t\t: fpu {flags}\nbugs\t: none\n")
    found = cpu_has_bfloat16(described)
    assert found == (expected == torch.bfloat16)
    monkeypatch.setattr("scdmc.model.devices.cpu_has_bfloat16", lambda: found)
    cpu = torch.device("cpu")
    assert pretraining_dtype("auto", cpu) == expected
    assert pretraining_dtype("float32", cpu) == computing_dtype("auto", cpu) == torch.float32
    assert pretraining_dtype("bfloat16", cpu) == torch.bfloat16


def test_the_script_of_pre_training_asks_what_the_processor_has(monkeypatch, load_script):
    script = load_script("pretrain/scDMC_pretrain.py")
    for has_bfloat16, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("scdmc.model.devices.cpu_has_bfloat16", lambda found=has_bfloat16: found)
        arguments = script.parse_arguments(["--data_path", "cells.parquet", "--output_dir", "out"])
        script.fill_in_device_flags(arguments, torch.device("cpu"))
        assert arguments.dtype == expected
