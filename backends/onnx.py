"""Runs any ONNX model.

    python -m mgmt_backends.onnx --model FILE [--threads N]

`{"describe": true}` answers `{"inputs": {name: {"dtype", "shape"}}, "outputs": {...}}`; a dimension is a number,
or a name where the model leaves it open. `{"inputs": {name: tensor}}` runs the model and answers `{"outputs":
{name: tensor}, "latency_ms"}`; `"outputs": [name, ...]` in the request asks for some of them only.

A tensor is `{"dtype": "float32", "shape": [2, 3], "data": bytes}` (C order, little endian) or, in requests, nested
lists. Answers use the first form; strings, which have no bytes form, come as nested lists in `data`.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mgmt.protocol.errors import MgmtError
from mgmt.serve import serve, value_handler

DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Runner:
    """One model file in one onnxruntime session; runs may overlap."""

    def __init__(self, path: str, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._session: Any = None

    def setup(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                self._path, options, providers=["CPUExecutionProvider"]
            )
        except _refusals() as error:
            raise SystemExit(f"cannot load {self._path}: {error}") from None
        self._dtypes = {tensor.name: DTYPES.get(tensor.type) for tensor in self._session.get_inputs()}

    def __call__(self, request: Any) -> dict[str, Any]:
        match request:
            case {"describe": True, **rest} if not rest:
                return {
                    "inputs": _describe(self._session.get_inputs()),
                    "outputs": _describe(self._session.get_outputs()),
                }
            case {"inputs": dict(inputs), **rest} if rest.keys() <= {"outputs"}:
                return self._run(inputs, rest.get("outputs"))
        text = 'a request is {"describe": true} or {"inputs": {name: tensor}, "outputs": [name, ...]}'
        raise MgmtError("bad-body", text)

    def _run(self, inputs: dict[str, Any], wanted: Any) -> dict[str, Any]:
        unknown = sorted(inputs.keys() - self._dtypes.keys())
        if unknown:
            known = ", ".join(self._dtypes)
            raise MgmtError(
                "bad-body", f"the model has no input {unknown[0]!r}; it has: {known}", field="inputs"
            )
        arrays = {name: _array(name, value, self._dtypes[name]) for name, value in inputs.items()}
        names = [tensor.name for tensor in self._session.get_outputs()]
        if wanted is not None:
            if not isinstance(wanted, list) or not wanted or not all(name in names for name in wanted):
                raise MgmtError("bad-body", f"outputs is a list of: {', '.join(names)}", field="outputs")
            names = wanted
        started_s = time.perf_counter()
        try:
            results = self._session.run(names, arrays)
        except _refusals() as error:  # a missing input, a wrong shape
            raise MgmtError("bad-body", f"the model refuses these inputs: {error}", field="inputs") from None
        latency_ms = 1000 * (time.perf_counter() - started_s)
        return {
            "outputs": {name: _tensor(name, array) for name, array in zip(names, results, strict=True)},
            "latency_ms": latency_ms,
        }


def _refusals() -> tuple[type[Exception], ...]:
    """The errors of onnxruntime, which have no base class of their own; ValueError is its Python layer's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (value for value in vars(state).values() if isinstance(value, type))
    return (ValueError, *(value for value in found if issubclass(value, Exception)))


def _describe(tensors: Any) -> dict[str, Any]:
    return {
        tensor.name: {"dtype": DTYPES.get(tensor.type, tensor.type), "shape": list(tensor.shape)}
        for tensor in tensors
    }


def _array(name: str, value: Any, dtype: str | None) -> Any:
    """The numpy array of a tensor in a request."""
    import numpy

    try:
        match value:
            case {"dtype": str(told), "shape": list(shape), "data": bytes(data), **rest} if not rest:
                if told not in DTYPES.values() or told == "str":
                    raise MgmtError(
                        "bad-body", f"{name}: dtype {told!r} has no bytes form", field=f"inputs.{name}"
                    )
                return numpy.frombuffer(data, numpy.dtype(told).newbyteorder("<")).reshape(shape)
            case list() | int() | float() | bool() | str():
                return numpy.array(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise MgmtError("bad-body", f"{name}: not a tensor: {error}", field=f"inputs.{name}") from None
    text = f'{name}: a tensor is {{"dtype", "shape", "data"}} or nested lists'
    raise MgmtError("bad-body", text, field=f"inputs.{name}")


def _tensor(name: str, array: Any) -> dict[str, Any]:
    """The wire form of a result; sequences and maps, which are no tensors, are refused."""
    import numpy

    if not isinstance(array, numpy.ndarray):
        raise MgmtError("backend-error", f"output {name!r} is a {type(array).__name__}, not a tensor")
    if array.dtype.kind in "OUS":
        return {"dtype": "str", "shape": list(array.shape), "data": array.tolist()}
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little.tobytes()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="mgmt_backends.onnx", description="Serve an ONNX model.")
    parser.add_argument("--model", required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: as many as onnxruntime wants")
    args = parser.parse_args()
    runner = Runner(args.model, args.threads)
    return serve(value_handler(runner), setup=runner.setup)


if __name__ == "__main__":
    sys.exit(main())
