from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from perdure.canister import CanisterFacts, Context, Env, Limits, Method, Return, Trap, WasmState
from perdure.embedder import CompiledModule, Compiler, Engine, WasmInstance, shared_engine
from perdure.instrument import Options
from perdure.storage import TemporaryImage, TemporaryStore

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
FACTS = CanisterFacts(canister_id=b"\0\0\0\0\0\0\0\x01\x01\x01", controllers=frozenset([b"\x04"]))


class Harness:
    """Compiles text or a canister of the test set, instantiates it over temporary images, and calls it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.compiler = Compiler(engine, None)
        self.store = TemporaryStore()
        self.instances: list[WasmInstance] = []

    def compile(self, source: str, options: Options | None = None) -> CompiledModule:
        if source.endswith((".wasm", ".gz")):
            return self.compiler.compile((MODULES / source).read_bytes(), options)
        return self.compiler.compile(bytes(wasmtime.wat2wasm(source)), options)

    def state(self) -> WasmState:
        return WasmState({name: TemporaryImage(self.store) for name in ("heap", "stable")})

    def fresh(self, module: CompiledModule | str, state: WasmState | None = None) -> WasmInstance:
        if isinstance(module, str):
            module = self.compile(module)
        instance = module.instantiate(state or self.state())
        self.instances.append(instance)
        instance.commit()
        return instance

    @staticmethod
    def env(context: Context = Context.UPDATE, arg: bytes = b"", limits: Limits | None = None, **more: object) -> Env:
        return Env(context=context, facts=FACTS, limits=limits or Limits(), arg=arg, time_ns=10**18, **more)  # type: ignore[arg-type]

    def run(self, instance: WasmInstance, name: str, arg: bytes = b"", limits: Limits | None = None) -> Trap | Return:
        for kind, context in (("update", Context.UPDATE), ("query", Context.NON_REPLICATED_QUERY)):
            if f"canister_{kind} {name}" in instance.module.exported_methods:
                return instance.run(Method(f"canister_{kind} {name}"), self.env(context, arg, limits))
        return instance.run(Method(name), self.env(arg=arg, limits=limits))

    def reply(self, instance: WasmInstance, name: str, arg: bytes = b"") -> bytes:
        outcome = self.run(instance, name, arg)
        assert isinstance(outcome, Return), outcome
        assert outcome.response is not None
        return outcome.response.data  # type: ignore[union-attr]


@pytest.fixture(params=["", "pagemap", "bytes"])
def any_harness(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> object:
    """A harness for each way of finding changed pages."""
    harness = Harness(engines(request.param))
    yield harness
    for instance in harness.instances:
        instance.close()


@pytest.fixture
def harness() -> object:
    """A harness over the shared engine."""
    harness = Harness(shared_engine())
    yield harness
    for instance in harness.instances:
        instance.close()


@pytest.fixture(scope="session")
def engines() -> Callable[[str], Engine]:
    """Engines by way of finding changed pages, made once."""
    made: dict[str, Engine] = {}

    def engine(portable: str) -> Engine:
        if portable not in made:
            made[portable] = Engine(portable=portable)
        return made[portable]

    return engine
