from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from bridge.errors import UsageError, VerificationError
from bridge.rules import signing
from bridge.rules.signing import HmacSecret, Huddle01Secret, InvalidHeaderError, InvalidSecretError

V1_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
V1A_SECRET = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
V1A_PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'
NOW = datetime.fromtimestamp(STAMP, tz=UTC)


def headers(signature: str, *, webhook_id: str = MESSAGE, timestamp: int | str = STAMP) -> dict[str, str]:
    return {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def signed(*secrets: str, body: bytes = BODY) -> str:
    parsed = [signing.parse_secret(secret) for secret in secrets]
    return signing.sign(parsed, webhook_id=MESSAGE, timestamp=STAMP, body=body)


@pytest.mark.parametrize(
    ("secret", "webhook_id", "timestamp", "body", "expected"),
    [
        (V1_SECRET, MESSAGE, STAMP, BODY, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1649367553,
            b'{"email":"test@example.com","username":"test_user"}',
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            V1A_SECRET,
            MESSAGE,
            STAMP,
            BODY,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        ),
    ],
)
def test_signatures_are_those_of_the_specification(
    secret: str, webhook_id: str, timestamp: int, body: bytes, expected: str
) -> None:
    secrets = [signing.parse_secret(secret)]

    assert signing.sign(secrets, webhook_id=webhook_id, timestamp=timestamp, body=body) == expected


def test_a_signing_key_carries_the_public_key_of_the_specification() -> None:
    secret = signing.parse_secret(V1A_SECRET)

    assert isinstance(secret, signing.Ed25519Secret)
    assert str(secret.public_key) == V1A_PUBLIC
    assert signing.parse_key(V1A_PUBLIC) == secret.public_key


@given(body=st.text(), key=st.binary(min_size=24, max_size=64))
def test_the_reference_library_accepts_what_is_signed_here(body: str, key: bytes) -> None:
    raw = body.encode()
    stamp = int(datetime.now(tz=UTC).timestamp())
    text = signing.generate_secret(key)
    signature = signing.sign([signing.parse_secret(text)], webhook_id=MESSAGE, timestamp=stamp, body=raw)

    Webhook(text).verify(raw, headers(signature, timestamp=stamp), json_parse=False)


@given(body=st.text(min_size=1), position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=127))
def test_one_changed_byte_fails_here_and_in_the_reference_library(body: str, position: int, flip: int) -> None:
    raw = bytearray(body.encode("ascii", errors="replace"))
    stamp = int(datetime.now(tz=UTC).timestamp())
    signature = signing.sign([signing.parse_secret(V1_SECRET)], webhook_id=MESSAGE, timestamp=stamp, body=bytes(raw))
    raw[position % len(raw)] ^= flip
    changed = bytes(raw)
    sent = headers(signature, timestamp=stamp)

    with pytest.raises(WebhookVerificationError):
        Webhook(V1_SECRET).verify(changed, sent, json_parse=False)
    with pytest.raises(VerificationError, match="no signature"):
        signing.verify([signing.parse_key(V1_SECRET)], headers=sent, body=changed, now=datetime.now(tz=UTC))


@given(body=st.binary(), seed=st.binary(min_size=32, max_size=32))
def test_a_public_key_verifies_the_signatures_of_its_signing_key(body: bytes, seed: bytes) -> None:
    secret = signing.parse_secret(signing.generate_signing_key(seed))
    assert isinstance(secret, signing.Ed25519Secret)
    signature = signing.sign([secret], webhook_id=MESSAGE, timestamp=STAMP, body=body)

    for key in (secret, signing.parse_key(str(secret.public_key))):
        assert signing.verify([key], headers=headers(signature), body=body, now=NOW) == MESSAGE
        with pytest.raises(VerificationError):
            signing.verify([key], headers=headers(signature), body=body + b" ", now=NOW)


def test_while_rotating_the_old_and_the_new_secret_both_verify() -> None:
    new = signing.generate_secret(b"n" * 32)
    signature = signed(new, V1_SECRET)

    assert signature == f"{signed(new)} {signed(V1_SECRET)}"
    for trusted in (new, V1_SECRET):
        signing.verify([signing.parse_key(trusted)], headers=headers(signature), body=BODY, now=NOW)
    other = signing.parse_key(signing.generate_secret(b"o" * 32))
    with pytest.raises(VerificationError):
        signing.verify([other], headers=headers(signature), body=BODY, now=NOW)


def test_header_names_are_read_in_any_case() -> None:
    capitalized = {name.title(): value for name, value in headers(signed(V1_SECRET)).items()}

    assert signing.verify([signing.parse_key(V1_SECRET)], headers=capitalized, body=BODY, now=NOW) == MESSAGE


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_a_timestamp_within_five_minutes_is_accepted(offset: int) -> None:
    now = NOW + timedelta(seconds=offset)

    signing.verify([signing.parse_key(V1_SECRET)], headers=headers(signed(V1_SECRET)), body=BODY, now=now)


@pytest.mark.parametrize(("offset", "word"), [(301, "past"), (-301, "future")])
def test_a_timestamp_further_off_is_refused(offset: int, word: str) -> None:
    now = NOW + timedelta(seconds=offset)

    with pytest.raises(VerificationError, match=f"301 s in the {word}"):
        signing.verify([signing.parse_key(V1_SECRET)], headers=headers(signed(V1_SECRET)), body=BODY, now=now)


@pytest.mark.parametrize("timestamp", ["1614265330.5", "+1614265330", "1_614", "١٦١٤", "soon", "9" * 15, "9" * 5000])
def test_a_timestamp_that_is_not_unix_seconds_is_refused(timestamp: str) -> None:
    sent = headers(signed(V1_SECRET), timestamp=timestamp)

    with pytest.raises(VerificationError, match="webhook-timestamp"):
        signing.verify([signing.parse_key(V1_SECRET)], headers=sent, body=BODY, now=NOW)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(missing: str) -> None:
    sent = headers(signed(V1_SECRET)) | {missing: " "}

    with pytest.raises(VerificationError, match=missing):
        signing.verify([signing.parse_key(V1_SECRET)], headers=sent, body=BODY, now=NOW)


@pytest.mark.parametrize(
    "signature",
    ["v1", "v1,", ",", "v1,%%%", "v1,\udcff", "v1a,AAAA", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="],
)
def test_a_malformed_or_unknown_signature_does_not_match(signature: str) -> None:
    keys = [signing.parse_key(V1_SECRET), signing.parse_key(V1A_PUBLIC)]

    with pytest.raises(VerificationError, match="no signature"):
        signing.verify(keys, headers=headers(signature), body=BODY, now=NOW)


@given(raw=st.binary(min_size=24, max_size=64))
def test_a_generated_secret_is_read_back(raw: bytes) -> None:
    assert signing.parse_secret(signing.generate_secret(raw)) == HmacSecret(key=raw)


@pytest.mark.parametrize("size", [0, 23, 65])
def test_a_secret_of_another_length_is_neither_made_nor_read(size: int) -> None:
    with pytest.raises(InvalidSecretError, match="24 to 64"):
        signing.generate_secret(b"x" * size)
    with pytest.raises(InvalidSecretError, match="24 to 64"):
        signing.parse_secret("whsec_" + base64.b64encode(b"x" * size).decode())


def test_a_secret_without_its_padding_is_read() -> None:
    assert signing.parse_secret(signing.generate_secret(b"x" * 32).rstrip("=")) == HmacSecret(key=b"x" * 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hunter2hunter2", "whsec_"),
        ("", "whsec_"),
        ("whsec_hunter2 not base64", "not base64"),
        ("whsk_" + base64.b64encode(b"hunter2").decode(), "not of 7"),
        ("whsk_" + base64.b64encode(b"h" * 64).decode(), "not the public key"),
        ("whpk_" + base64.b64encode(b"h" * 31).decode(), "not of 31"),
    ],
)
def test_an_unusable_secret_is_explained_but_not_repeated(text: str, message: str) -> None:
    with pytest.raises(InvalidSecretError, match=message) as caught:
        signing.parse_secret(text)

    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


def test_a_public_key_cannot_sign() -> None:
    with pytest.raises(InvalidSecretError, match="only verify"):
        signing.parse_secret(V1A_PUBLIC)


def test_a_signing_key_is_made_of_exactly_32_bytes() -> None:
    with pytest.raises(InvalidSecretError, match="32 random bytes"):
        signing.generate_signing_key(b"x" * 31)


def test_no_representation_of_a_secret_shows_it() -> None:
    key = b"super-secret-super-secret!"
    shown = repr(
        [
            signing.parse_secret(signing.generate_secret(key)),
            signing.parse_secret(signing.generate_signing_key(b"super-secret-super-secret-32byte")),
            Huddle01Secret(key=b"ak_super-secret"),
        ]
    )

    assert "super" not in shown
    assert base64.b64encode(key).decode()[:8] not in shown


def test_an_id_with_a_full_stop_is_not_signed() -> None:
    with pytest.raises(ValueError, match="full stop"):
        signing.sign([signing.parse_secret(V1_SECRET)], webhook_id="a.b", timestamp=STAMP, body=BODY)


def test_the_huddle01_header_is_the_one_that_a_huddle01_receiver_computes() -> None:
    # printf '%s' 'evt_1.1724857378134.{…}' | openssl dgst -sha256 -hmac 'ak_schlüssel'
    canonical = '{"id":"evt_1","event":"peer:joined","payload":{"id":"peerId-ü"}}'.encode()
    header = Huddle01Secret(key="ak_schlüssel".encode()).sign("evt_1", 1724857378134, canonical)

    assert header == "t=1724857378134,sha256=c01a8eceaaf11b880946efe7bc560086e5269ba0a3120686a9800f07e04049ba"


@pytest.mark.parametrize(
    "name",
    ["webhook-id", "Webhook-Signature", "WEBHOOK-ANYTHING", "content-type", "Content-Length", "host", "user-agent",
     "transfer-encoding", "Connection", "huddle01-signature", "bridge-replay", "Bridge-Test", "expect", " host ",
     "accept-encoding", ":authority"],
)  # fmt: skip
def test_headers_that_would_break_the_signature_or_the_request_are_forbidden(name: str) -> None:
    assert signing.forbidden_header(name)
    with pytest.raises(InvalidHeaderError):
        signing.check_header(name, "value")


@pytest.mark.parametrize("name", ["authorization", "X-Auth", "x-webhook-token", "cookie"])
def test_other_headers_are_allowed(name: str) -> None:
    assert not signing.forbidden_header(name)
    signing.check_header(name, "Bearer abc; def=\t~")


@pytest.mark.parametrize("name", ["", "x auth", "x-ümlaut", "x\r\ny", "x:y"])
def test_a_name_that_is_not_a_header_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidHeaderError, match="not a header name"):
        signing.check_header(name, "value")


@pytest.mark.parametrize("value", ["secret\r\nevil: 1", "secret\n", "secret\r", "secret\0", "secret ü"])
def test_a_value_that_could_start_a_new_header_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidHeaderError, match="printable ASCII") as caught:
        signing.check_header("x-auth", value)

    assert "secret" not in str(caught.value)
