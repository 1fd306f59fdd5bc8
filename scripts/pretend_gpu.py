"""Run a command of ddrank as on a CUDA GPU where there is none: python scripts/pretend_gpu.py ddrank.run method=dm …

Tensors that are sent to the GPU say that they are on cuda:0, are computed on the CPU, and refuse what CUDA refuses: to
be mixed with tensors of the CPU, pinned, or turned into arrays. So the branches for GPUs are gone through, and a tensor
on the wrong side is found. Neither speed, memory, roundings nor compiled networks are a GPU's; attention kernels and
several processes are beyond it (`engine.workers=1` and `engine.compile=false` are set). Needs Linux, a C compiler and
a build of PyTorch with CUDA; written on the internals of PyTorch 2.15.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = "DDRANK_PRETENDED_GPU"
ALWAYS = ("engine.workers=1", "engine.compile=false")
# Of CUDA's libraries, what PyTorch asks before it computes anything: one device, without a context or a graph.
NAMES = (
    *("cuCtxGetCurrent", "cuCtxSetCurrent", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"),
    *("cuFuncGetAttribute", "cuFuncSetAttribute", "cuFuncSetCacheConfig", "cuGetErrorString", "cuLaunchKernel"),
    *("cuLaunchCooperativeKernel", "cuLinkAddData_v2", "cuLinkComplete", "cuLinkCreate_v2", "cuModuleGetFunction"),
    *("cuModuleLoad", "cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleUnload", "cuPointerGetAttribute"),
    *("cuOccupancyMaxActiveBlocksPerMultiprocessor", "cuTensorMapEncodeTiled", "cudaSetDevice", "cudaGetLastError"),
    *("cudaPeekAtLastError", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaStreamQuery"),
)
STUBS = (
    "".join(f"int {name}() {{ return 0; }}\n" for name in NAMES)
    + """
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = 0; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
"""
)


def main() -> None:
    if len(sys.argv) < 2 or not sys.argv[1].startswith("ddrank."):
        sys.exit(f"usage: python {sys.argv[0]} ddrank.run|ddrank.distill|ddrank.doctor ARGUMENTS")
    if PRELOADED not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "libcuda.so.1"
            flags = ("-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-x", "c", "-o", library, "-")
            subprocess.run(["cc", *flags], input=STUBS, text=True, check=True)
            environment = os.environ | {"LD_PRELOAD": os.fspath(library), PRELOADED: "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
    module, *arguments = sys.argv[1:]
    pretend()
    sys.argv = [module, *arguments, *ALWAYS]
    sys.path[0] = os.getcwd()  # as `python -m` has it
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def pretend() -> None:
    """Have this process see a GPU. What patches must not disturb is imported before."""
    import kornia  # noqa: F401
    import lightning.pytorch  # noqa: F401
    import torch
    import torch._dynamo
    import torchvision  # noqa: F401

    cuda, state = torch.cuda, torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        **{"is_available": True, "device_count": 1, "current_device": 0, "is_initialized": False},
        **{"get_device_name": "a pretended GPU", "get_device_capability": (9, 0), "is_bf16_supported": True},
        **{"mem_get_info": (70 << 30, 80 << 30), "max_memory_allocated": 1 << 30, "memory_allocated": 1 << 30},
        **{"get_rng_state": state, "get_rng_state_all": [state], "set_rng_state": None, "set_rng_state_all": None},
        **dict.fromkeys(("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats", "set_device")),
        **dict.fromkeys(("manual_seed", "manual_seed_all")),
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, answer=answer, **__: answer)
    for module in [module for name, module in sys.modules.items() if name.startswith("lightning")]:
        for name, answer in (
            ("num_cuda_devices", 1),
            ("is_cuda_available", True),
            ("_check_cuda_matmul_precision", None),
        ):
            if hasattr(module, name):
                setattr(module, name, lambda *_, answer=answer: answer)
    torch.backends.cudnn.enabled = False  # its operators are no CPU's
    torch.autograd.set_multithreading_enabled(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    _mode().__enter__()


def _mode() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
    from torch.utils._pytree import tree_leaves, tree_map

    aten, device = torch.ops.aten, torch.device("cuda", 0)
    between = {aten._to_copy, aten.copy_, aten.set_}  # devices
    indexing = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
    strict = {aten.stack, aten.cat, aten.mm, aten.addmm, aten.bmm, aten.convolution, aten.embedding, aten.index_select}

    class OnGPU(torch.Tensor):
        """A tensor of the CPU, `inner`, that says it is on the GPU."""

        @staticmethod
        def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> OnGPU:
            lies = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
            kind = {"dtype": inner.dtype, "device": device, "requires_grad": requires_grad}
            made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **lies, **kind)
            made.inner = inner
            return made

        __torch_function__ = torch._C._disabled_torch_function_impl

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None) -> Any:
            return run(func, args, kwargs or {})

        def tolist(self) -> Any:
            return self.inner.tolist()

        def numpy(self, *_: Any, **__: Any) -> Any:
            raise TypeError("can't convert a tensor on cuda:0 to numpy: copy it to the CPU first")

        __array__ = numpy

        def __repr__(self) -> str:
            return f"OnGPU({self.inner!r})"

    def run(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in leaves if isinstance(leaf, OnGPU)]
        packet, wanted = func.overloadpacket, kwargs.get("device")
        if packet in (aten.pin_memory, aten._pin_memory):
            if there:
                raise RuntimeError("only tensors of the CPU can be pinned")
            return args[0]
        if packet is aten.is_pinned:
            return not there
        if there and packet not in between:
            refuse_mixed(func, packet, args, leaves)
        plain, named = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnGPU) else leaf, (args, dict(kwargs)))
        on_gpu = bool(there) if wanted is None else torch.device(wanted).type == "cuda"
        if wanted is not None and on_gpu:
            named["device"] = torch.device("cpu")
        if named.get("pin_memory"):
            named["pin_memory"] = False
        generator = named.get("generator")
        if on_gpu and generator is not None:
            raise RuntimeError(f"{func}: expected a generator on the GPU, found one of {generator.device}")
        out = func(*plain, **named)
        if packet in (aten.copy_, aten.set_):
            return args[0]
        if not on_gpu:
            return out
        wrapped = tree_map(lambda leaf: OnGPU(leaf) if type(leaf) is torch.Tensor else leaf, out)
        if not there:
            return wrapped
        try:
            return return_and_correct_aliasing(func, args, kwargs, wrapped)
        except Exception:
            if func._schema.is_mutable:
                raise
            return wrapped

    def refuse_mixed(func: Callable, packet: Any, args: Sequence, leaves: Sequence[torch.Tensor]) -> None:
        """As CUDA does: numbers without a dimension may come from the CPU, and so may what counts rows."""
        if packet in indexing:
            values = args[2:3] if packet not in (aten.index, aten._unsafe_index) else ()
            leaves = [args[0], *(value for value in values if value.dim())]
            odd = [leaf for leaf in leaves if not isinstance(leaf, OnGPU)]
        else:
            odd = [leaf for leaf in leaves if not isinstance(leaf, OnGPU) and (leaf.dim() or packet in strict)]
        if odd:
            shapes = [f"{tuple(leaf.shape)} on {'cuda:0' if isinstance(leaf, OnGPU) else 'cpu'}" for leaf in leaves]
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {', '.join(shapes)}")

    class Pretending(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None) -> Any:
            if func is torch.ops.prim.device.default:
                return device if isinstance(args[0], OnGPU) else torch.device("cpu")
            return run(func, args, kwargs or {})

    return Pretending()


if __name__ == "__main__":
    main()
