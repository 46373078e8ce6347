import subprocess
import sys

import pytest

from kdcube.sdk import Bundle, BundleError, OperationContext, Turn
from kdcube.sdk.testing import TEST_USER, OperationError, run_operation, run_turn

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("id", ["", "two words", "a/b", "-x"])
def test_bundle_id_is_checked(id):
    with pytest.raises(ValueError, match="must be 1 to 128 characters"):
        Bundle(id)


def test_max_attempts_is_checked():
    with pytest.raises(ValueError, match="1 or more"):
        Bundle("a@1", max_attempts=0)


def test_handlers_must_be_async_functions():
    bundle = Bundle("a@1")
    with pytest.raises(TypeError, match="must be an `async def`"):
        bundle.on_message(lambda turn: None)

    async def generator(turn):
        yield "x"

    with pytest.raises(TypeError, match=r"await turn\.delta"):
        bundle.on_message(generator)


def test_objects_with_an_async_call_are_handlers():
    class Agent:
        async def __call__(self, turn: Turn) -> None: ...

    Bundle("a@1").on_message(Agent())


def test_second_registration_is_refused():
    bundle = Bundle("a@1")

    @bundle.on_message
    async def handler(turn: Turn) -> None: ...

    with pytest.raises(ValueError, match="keep one"):
        bundle.on_message(handler)

    @bundle.operation("sum")
    async def operation(ctx: OperationContext, data: object) -> None: ...

    with pytest.raises(ValueError, match="registered already"):
        bundle.operation("sum")
    with pytest.raises(ValueError, match="letters, digits"):
        bundle.operation("a b")


async def test_bundle_without_message_handler_says_so():
    result = await run_turn(Bundle("a@1"))
    assert result.error.code == "no_message_handler"


async def test_operation_gets_context_and_data():
    bundle = Bundle("a@1")

    @bundle.operation("sum")
    async def add(ctx: OperationContext, data):
        return {"sum": sum(data) + ctx.config["more"], "key": ctx.secret("KEY"), "user": ctx.user.id}

    answer = await run_operation(bundle, "sum", [1, 2], config={"more": 3}, secrets={"KEY": "v"})
    assert answer == {"sum": 6, "key": "v", "user": "test-user"}


async def test_operation_errors():
    bundle = Bundle("a@1")

    @bundle.operation("fail")
    async def fail(ctx: OperationContext, data):
        if data:
            raise BundleError("told", "Told so.")
        return object()

    with pytest.raises(OperationError, match="told: Told so"):
        await run_operation(bundle, "fail", 1)
    with pytest.raises(OperationError, match="must be JSON"):
        await run_operation(bundle, "fail")
    with pytest.raises(OperationError, match="unknown_operation"):
        await run_operation(bundle, "other")


def test_secrets_do_not_show_in_a_context():
    assert "s3cret" not in repr(OperationContext(TEST_USER, {}, {"KEY": "s3cret"}))


def test_sdk_imports_no_service_and_no_client_library():
    code = "import sys, kdcube.sdk, kdcube.sdk.host, kdcube.sdk.testing; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name.split(".")[1] for name in modules if name.startswith("kdcube.")}
    assert ours == {"sdk", "protocol"}
    assert not {"structlog", "pydantic", "redis", "asyncpg", "starlette"} & set(modules)
