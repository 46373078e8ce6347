"""Vaults in AWS: Secrets Manager and the Parameter Store of Systems Manager.

boto3 is imported with the first reference that needs it, and called in threads of its own: it blocks.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from kdcube.config.secrets import SecretReference, SecretSettings, Vault
from kdcube.secrets.vault import MAX_BYTES, SecretUnreadable
from kdcube.telemetry.redaction import redact_text

_THREADS = 4
_CONNECT_S, _READ_S, _ATTEMPTS = 2.0, 4.0, 2
_REASON_MAX_CHARS = 300

_SAID_NO = {
    "ResourceNotFoundException": "there is no such secret in {where}",
    "ParameterNotFound": "there is no such parameter in {where}",
    "ParameterVersionNotFound": "there is no such version of the parameter in {where}",
    "AccessDeniedException": "this service's role may not read it in {where} ({code})",
    "AccessDenied": "this service's role may not read it in {where} ({code})",
    "UnauthorizedOperation": "this service's role may not read it in {where} ({code})",
    "DecryptionFailure": "it cannot be decrypted with its key ({code})",
    "InvalidRequestException": "it is marked for deletion, or has no current value ({code})",
    "InvalidParameterException": "AWS does not take that name ({code})",
    "ValidationException": "AWS does not take that name ({code})",
    "InvalidKeyId": "its key cannot be used ({code})",
    "KMSAccessDeniedException": "this service's role may not use its key ({code})",
}
"""By AWS's error code. Whatever else goes wrong (throttling, timeouts, no credentials) says nothing of the secret."""


class Aws:
    """Clients of AWS by service and region, and the threads that use them. Both vaults share it."""

    def __init__(self, settings: SecretSettings, **session: Any) -> None:
        """``session``: arguments of ``boto3.Session``, for tests; without them it finds its credentials itself."""
        self._settings = settings
        self._session_arguments = session
        self._session: Any = None
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="secrets")

    def vault(self, vault: Vault) -> AwsVault:
        ask = _ask_secrets_manager if vault is Vault.SECRETS_MANAGER else _ask_parameter_store
        service = "secretsmanager" if vault is Vault.SECRETS_MANAGER else "ssm"
        return AwsVault(self, service, ask, self._settings.max_age_s)

    async def call(self, work: Callable[[], str]) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def client(self, service: str, region: str | None) -> Any:
        """Blocks. Raises ImportError, and what boto3 raises."""
        region = region or self._settings.region
        with self._making:  # boto3's sessions are for one thread, its clients for all
            if (client := self._clients.get((service, region))) is None:
                if self._session is None:
                    self._session = importlib.import_module("boto3").Session(**self._session_arguments)
                config = importlib.import_module("botocore.config").Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                    max_pool_connections=_THREADS,
                    user_agent_extra="kdcube",
                )
                client = self._session.client(
                    service, region_name=region, endpoint_url=self._settings.endpoint, config=config
                )
                self._clients[service, region] = client
            return client

    def close(self) -> None:
        """What is being read is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class AwsVault:
    """One of AWS's services that hold secrets."""

    def __init__(
        self, aws: Aws, service: str, ask: Callable[[Any, SecretReference], str], keeps_s: float | None
    ) -> None:
        self._aws = aws
        self._service = service
        self._ask = ask
        self.keeps_s = keeps_s

    async def read(self, reference: SecretReference) -> str:
        return await self._aws.call(lambda: self._read(reference))

    def close(self) -> None:
        self._aws.close()

    def _read(self, reference: SecretReference) -> str:
        region = reference.name.split(":")[3] if reference.name.startswith("arn:") else None
        try:
            value = self._ask(self._aws.client(self._service, region), reference)
        except SecretUnreadable:
            raise
        except ImportError:
            raise SecretUnreadable(reference, "boto3 is not installed here: install kdcube[aws]") from None
        except Exception as error:  # noqa: BLE001 - of a library that has hundreds; all say that it was not read
            raise self._told(error, reference) from None
        if len(value.encode()) > MAX_BYTES:
            raise SecretUnreadable(reference, f"it is larger than {MAX_BYTES} bytes")
        return value

    def _told(self, error: Exception, reference: SecretReference) -> SecretUnreadable:
        response: Any = getattr(error, "response", None)  # of botocore's ClientError
        code = str(cast("dict[str, Any]", response)["Error"].get("Code", "")) if isinstance(response, dict) else ""
        where = "Secrets Manager" if self._service == "secretsmanager" else "the Parameter Store"
        if said := _SAID_NO.get(code):
            return SecretUnreadable(reference, said.format(where=where, code=code))
        words = code or f"{type(error).__name__}: {' '.join(redact_text(str(error)).split())[:_REASON_MAX_CHARS]}"
        return SecretUnreadable(reference, f"{where} cannot be asked ({words})", away=True)


def _ask_secrets_manager(client: Any, reference: SecretReference) -> str:
    answer = client.get_secret_value(SecretId=reference.name)
    text = answer.get("SecretString")
    if not isinstance(text, str) or not text:
        raise SecretUnreadable(reference, "it holds bytes or nothing, not text")
    return text


def _ask_parameter_store(client: Any, reference: SecretReference) -> str:
    answer = client.get_parameter(Name=reference.name, WithDecryption=True)
    return str(answer["Parameter"]["Value"])
