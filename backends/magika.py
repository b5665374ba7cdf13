"""The content type of files: the neural network of the `magika` package, served through `callable`.

    python -m mgmt_backends.callable mgmt_backends.magika:Classifier

A request is `{"path": str}`, `{"data": bytes}`, or a list of these; an answer, or each of the list, is `{"label",
"description", "mime", "group", "score", "latency_ms"}`, score from 0 to 1. Needs the extra `mgmt[magika]`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from mgmt.protocol.errors import MgmtError


class Classifier:
    """Loads the network once; one item costs a few milliseconds on one core."""

    def __init__(self) -> None:
        self._magika: Any = None

    def setup(self) -> None:
        try:
            from magika import Magika
        except ModuleNotFoundError as error:
            if error.name != "magika":
                raise
            raise SystemExit("the package magika is not installed: pip install 'mgmt[magika]'") from None
        self._magika = Magika()
        self._magika.identify_bytes(b"warm-up: the first run allocates what the others use")

    def __call__(self, request: Any) -> Any:
        if isinstance(request, list):
            return [self._classify(item) for item in request]
        return self._classify(request)

    def _classify(self, item: Any) -> dict[str, Any]:
        started_s = time.perf_counter()
        match item:
            case {"data": bytes(data), **rest} if not rest:
                result = self._magika.identify_bytes(data)
            case {"path": str(path), **rest} if not rest:
                result = self._magika.identify_path(path)
                if not result.ok:
                    text = f"{path}: {result.status}; the path is read by the backend, in {os.getcwd()}"
                    raise MgmtError("bad-body", text, field="path")
            case _:
                raise MgmtError("bad-body", 'a request is {"path": str}, {"data": bytes}, or a list of these')
        return {
            "label": str(result.output.label),
            "description": result.output.description,
            "mime": result.output.mime_type,
            "group": result.output.group,
            "score": float(result.score),
            "latency_ms": 1000 * (time.perf_counter() - started_s),
        }
