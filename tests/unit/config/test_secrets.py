from __future__ import annotations

import pytest

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.config.environment import Environment
from kdcube.config.secrets import SecretReference, SecretSettings, Vault
from kdcube.protocol.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("MODEL_KEY", SecretReference("MODEL_KEY")),
        ("file:model-key.txt", SecretReference("model-key.txt", Vault.FILE)),
        ("env:MODEL_KEY", SecretReference("MODEL_KEY", Vault.ENV)),
        ("sm:acme/support#model key", SecretReference("acme/support", Vault.SECRETS_MANAGER, "model key")),
        (
            "sm:arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/support-AbCdEf",
            SecretReference(
                "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/support-AbCdEf", Vault.SECRETS_MANAGER
            ),
        ),
        ("ssm:/acme/support/key", SecretReference("/acme/support/key", Vault.PARAMETER_STORE)),
        (
            "ssm:arn:aws:ssm:eu-central-1:111122223333:parameter/acme/key#a",
            SecretReference("arn:aws:ssm:eu-central-1:111122223333:parameter/acme/key", Vault.PARAMETER_STORE, "a"),
        ),
    ],
)
def test_references(text, reference):
    assert SecretReference.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a b",
            "sk-hunter2",
            "vault:x",
            "file:",
            "file:../hunter2",
            "file:/etc/shadow",
            "file:.hunter2",
            "file:a/b",
        ),
        *(
            "env:a-b",
            "env:",
            "sm:",
            "sm:a b",
            "sm:a#",
            "sm:a#b#c",
            "sm:arn:aws:ssm:x:1:parameter/a",
            "ssm:a:b",
            "ssm:é",
        ),
        *("REDIS_URL", "env:DATABASE_URL", "env:AWS_SECRET_ACCESS_KEY", "env:ECS_AGENT_URI", "sm:a\nb", "hunter2:x"),
    ],
)
def test_what_is_no_reference_is_told_without_repeating_it(text):
    with pytest.raises(ValueError, match=r"must|names") as error:
        SecretReference.parse(text)
    assert "hunter2" not in str(error.value)


def entry(secrets) -> BundleEntry:
    return BundleEntry.model_validate({"id": "a", "path": "/a", "secrets": secrets})


def test_names_or_references_are_granted_and_stay_as_they_were_written():
    assert entry(["A", "B"]).secret_references == {"A": SecretReference("A"), "B": SecretReference("B")}
    given = {"A": "sm:x#y", "AWS_SECRET_ACCESS_KEY": "env:MINE"}
    granted = entry(given)
    assert granted.secret_references["AWS_SECRET_ACCESS_KEY"] == SecretReference("MINE", Vault.ENV)
    assert granted.model_dump(mode="json")["secrets"] == given
    assert BundleEntry.model_validate_json(granted.model_dump_json()) == granted
    assert BundleEntry.model_validate_json(entry(["A"]).model_dump_json()) == entry(["A"])


@pytest.mark.parametrize(
    ("secrets", "told"),
    [
        (["A", "sk-hunter2"], r"secrets\.1 must be a name"),
        (["sm:hunter2"], r"secrets\.0 must be a name .* references go into an object"),
        ([1], r"secrets\.0 must be a name"),
        ({"A": "hunter2"}, r"secrets\.A must be a reference, not the secret itself: file:NAME"),
        ({"A": 1}, r"secrets\.A must be a reference"),
        ({"A": "file:../hunter2"}, r"secrets\.A names nothing that file: can hold"),
        ({"A": "env:REDIS_URL"}, r"secrets\.A names REDIS_URL, which no bundle is given"),
        ({"hunter2-x": "env:A"}, r"secrets has a name that is none"),
        ("hunter2", r"secrets must be a list of names, or an object"),
    ],
)
def test_what_is_no_grant_is_told_with_its_place_and_without_what_stands_there(secrets, told):
    with pytest.raises(ValueError, match=told) as error:
        entry(secrets)
    assert "hunter2" not in "".join(detail["msg"] for detail in error.value.errors(include_input=False))  # type: ignore[attr-defined]


def test_variables_that_hold_secrets_of_some_bundle():
    registry = BundleRegistry.model_validate(
        {
            "bundles": {
                "a": {"path": "/a", "secrets": ["A"]},
                "b": {"path": "/b", "secrets": {"B": "env:C", "D": "sm:d"}},
                "c": {"git_url": "https://h/c", "git_token": "env:T", "git_ssh_key": "file:k"},
            }
        }
    )
    assert registry.secret_variables == {"A", "C", "T"}
    assert registry.own_keys == {"https://h/c"}


def test_settings(tmp_path):
    environment = Environment({"KDCUBE_SECRETS_DIR": str(tmp_path), "AWS_DEFAULT_REGION": "eu-west-1", "A": "hunter2"})
    settings = SecretSettings.read(environment, [SecretReference("A"), SecretReference("B", Vault.ENV)])
    assert (settings.folder, settings.region, settings.max_age_s, settings.stale_s) == (
        tmp_path,
        "eu-west-1",
        300,
        3600,
    )
    assert {"A", "B", "AWS_PROFILE"} <= environment.asked
    value = settings.variable("A")
    assert value is not None and value.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)
    with pytest.raises(ConfigurationError, match="which is no folder"):
        SecretSettings.read(Environment({"KDCUBE_SECRETS_DIR": str(tmp_path / "absent")}))
