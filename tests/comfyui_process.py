"""A ComfyUI in the test process: the real modules, nodes and executor, and a server that keeps what it is told."""

import asyncio
import importlib
import inspect
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sid_pack.sid_core.headless.client import failure, refusal


@dataclass(frozen=True)
class RunResult:
    """What came of a graph: `outputs` is what nodes show, `values` what they hand on, `events` what was sent."""

    success: bool
    error: str | None
    outputs: dict[str, dict[str, Any]]
    values: dict[str, list[list[Any]]]
    events: list[tuple[Any, Any]]

    def value(self, node_id: str, slot: int = 0) -> Any:
        """One output of a node, which must not have run over a list."""
        (value,) = self.values[node_id][slot]
        return value


@dataclass(frozen=True)
class ComfyUIProcess:
    """ComfyUI, imported and with its nodes registered. There is one in a process, as its modules are global."""

    base_directory: Path
    server: Any

    @classmethod
    def start(cls, path: Path, pack: Path, base_directory: Path) -> "ComfyUIProcess":
        """Import the ComfyUI at `path` as its main.py does, working in `base_directory`, and load the pack."""
        _import_comfyui(path, base_directory)
        import comfy.utils
        import nodes

        loop = asyncio.new_event_loop()
        server = _recording_server(loop)
        loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        loop.run_until_complete(_load_pack(pack))
        comfy.utils.set_progress_bar_global_hook(_progress_hook(server))
        return cls(base_directory, server)

    def executor(self) -> Callable[[dict[str, Any]], RunResult]:
        """A function that runs graphs in one executor, and so with one cache."""
        import execution

        # 0.3.75 needs "ram"; newer versions need "ram_inactive" too.
        cache_args = {"lru": 0, "ram": 0, "ram_inactive": 0}
        executor = execution.PromptExecutor(self.server, execution.CacheType.CLASSIC, cache_args)
        return lambda graph: self._run(executor, graph)

    def _run(self, executor: Any, graph: dict[str, Any]) -> RunResult:
        import execution

        prompt_id = str(uuid.uuid4())
        self.server.events.clear()
        valid, error, targets, node_errors = asyncio.run(execution.validate_prompt(prompt_id, graph, None))
        if not valid or node_errors:
            message = refusal(graph, {"error": error, "node_errors": node_errors})
            return RunResult(False, message, {}, {}, [])
        # Progress events are only sent where a client has asked for the run.
        executor.execute(graph, prompt_id, {"client_id": "pytest"}, targets)
        events = list(self.server.events)
        failures = (failure(graph, kind, data) for kind, data in events)
        return RunResult(
            success=executor.success,
            error=next(filter(None, failures), None),
            outputs=executor.history_result["outputs"],
            values=asyncio.run(_values(executor, graph)),
            events=events,
        )


def _import_comfyui(path: Path, base_directory: Path) -> None:
    (base_directory / "custom_nodes").mkdir()
    sys.path.insert(0, str(path))
    arguments = sys.argv
    sys.argv = ["pytest", "--cpu", "--use-pytorch-cross-attention", "--base-directory", str(base_directory)]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        # The order matters: importing nodes puts comfy/ first on sys.path, where its utils.py hides the package utils.
        for name in ("comfy.cli_args", "utils.extra_config", "execution", "nodes", "server"):
            importlib.import_module(name)
    finally:
        sys.argv = arguments


def _recording_server(loop: asyncio.AbstractEventLoop) -> Any:
    """The real PromptServer, so that what nodes use of it is there; it listens nowhere and keeps its events."""
    import server

    class RecordingServer(server.PromptServer):
        def __init__(self) -> None:
            self.events: list[tuple[Any, Any]] = []
            super().__init__(loop)

        def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
            self.events.append((event, data))

    return RecordingServer()


async def _load_pack(pack: Path) -> None:
    """Load the pack by ComfyUI's loader, which names modules by their path, without a second copy of its modules."""
    import nodes

    importlib.import_module("sid_pack.nodes.extension")
    loader_name = str(pack).replace(".", "_x_")
    for name, module in list(sys.modules.items()):
        if name.startswith("sid_pack."):
            sys.modules[loader_name + name.removeprefix("sid_pack")] = module
    assert await nodes.load_custom_node(str(pack)), "ComfyUI could not load the pack; the log says why"


def _progress_hook(server: Any) -> Callable[..., None]:
    """What main.py does for each step of a ProgressBar: check for an interrupt, and tell the client."""
    import comfy.model_management
    from comfy_execution.utils import get_executing_context

    def hook(
        value: float, total: float, preview: Any, prompt_id: str | None = None, node_id: str | None = None
    ) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        context = get_executing_context()
        node_id = node_id or (context.node_id if context else server.last_node_id)
        server.send_sync("progress", {"value": value, "max": total, "node": node_id})

    return hook


async def _values(executor: Any, graph: dict[str, Any]) -> dict[str, list[list[Any]]]:
    values = {}
    for node_id in graph:
        entry = executor.caches.outputs.get(node_id)
        entry = await entry if inspect.isawaitable(entry) else entry  # a coroutine in newer versions
        if entry is not None:
            values[node_id] = entry.outputs
    return values
