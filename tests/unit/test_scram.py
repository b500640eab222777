"""Checks both halves of the exchange, against RFC 7677's example, against another implementation, and against messages
that lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle

import pytest
import scramp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ClientExchange,
    LoginKeys,
    NotAVerifierError,
    NotTheBackendError,
    OtherVerifierError,
    ServerExchange,
    Verifier,
    WrongPasswordError,
    mock,
)
from secretproxy.scram.binding import end_point, end_point_of_der, end_point_of_pem
from secretproxy.wire.errors import ProtocolViolationError
from tests.support.certificates import signed_by

PASSWORD = "pencil"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
BINDING = bytes(range(32))


def salted(password: str = PASSWORD, salt: bytes = SALT, iterations: int = 4096) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def client_key(password: str = PASSWORD, salt: bytes = SALT, iterations: int = 4096) -> bytes:
    return hmac.digest(salted(password, salt, iterations), b"Client Key", "sha256")


def verifier(password: str = PASSWORD, salt: bytes = SALT, iterations: int = 4096) -> Verifier:
    key = client_key(password, salt, iterations)
    server_key = hmac.digest(salted(password, salt, iterations), b"Server Key", "sha256")
    return Verifier(iterations, salt, hashlib.sha256(key).digest(), server_key)


def test_the_example_of_rfc_7677_and_the_key_that_its_proof_gives_away() -> None:
    exchange = ServerExchange(MECHANISM, None, nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    exchange.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    challenge = exchange.challenge(verifier(), doomed=False)
    assert challenge == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    answer, keys = exchange.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert answer == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    # Proof XOR ClientSignature is ClientKey: a proof over any other message can be made from it.
    message = b"any other"
    signature = hmac.digest(verifier().stored_key, message, "sha256")
    assert keys.proof(message) == bytes(one ^ other for one, other in zip(client_key(), signature, strict=True))


def exchanged(
    client: scramp.ScramClient, server: ServerExchange, known: Verifier, *, doomed: bool = False
) -> LoginKeys:
    """Plays an exchange of another implementation's client with ours."""
    server.first(client.get_client_first().encode())
    client.set_server_first(server.challenge(known, doomed=doomed).decode())
    answer, keys = server.final(client.get_client_final().encode())
    client.set_server_final(answer.decode())
    return keys


@pytest.mark.parametrize("mechanism", [MECHANISM, MECHANISM_PLUS])
def test_another_implementation_logs_in_and_its_key_is_good_for_a_login_of_our_own(mechanism: bytes) -> None:
    binding = BINDING if mechanism == MECHANISM_PLUS else None
    client = scramp.ScramClient(
        [mechanism.decode()], "user", PASSWORD, channel_binding=binding and ("tls-server-end-point", binding)
    )
    keys = exchanged(client, ServerExchange(mechanism, binding), verifier())
    # Towards the backend the same key is used in another connection, bound to another certificate.
    there = ServerExchange(mechanism, binding and binding[::-1])
    ours = ClientExchange(
        keys, [MECHANISM_PLUS, MECHANISM], secured=binding is not None, binding=binding and binding[::-1]
    )
    assert ours.mechanism == mechanism
    there.first(ours.first())
    answer, again = there.final(ours.final(there.challenge(verifier(), doomed=False)))
    ours.finish(answer)
    assert again.proof(b"message") == keys.proof(b"message")


def test_a_wrong_password_and_an_unknown_user_fail_alike() -> None:
    for known, doomed, password in (
        (verifier(), False, "wrong"),
        (verifier(), True, PASSWORD),
        (mock(b"key", b"nobody"), True, PASSWORD),
    ):
        client = scramp.ScramClient(["SCRAM-SHA-256"], "user", password)
        with pytest.raises(WrongPasswordError):
            exchanged(client, ServerExchange(MECHANISM, None), known, doomed=doomed)


def test_an_unknown_users_verifier_is_the_same_at_every_try_and_looks_like_any() -> None:
    one, again, other = mock(b"key", b"nobody"), mock(b"key", b"nobody"), mock(b"key", b"no one")
    assert (one.salt, one.stored_key, one.iterations) == (again.salt, again.stored_key, again.iterations)
    assert one.salt != other.salt and one.salt != mock(b"another key", b"nobody").salt
    assert len(one.salt) == len(SALT) and one.iterations == 4096


NONCE = b"r=fyko+d2lbbFgONRv9qkxdawL"


@pytest.mark.parametrize(
    ("mechanism", "binding", "message", "text", "sqlstate"),
    [
        (MECHANISM, None, b"", "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"n,,n=," + NONCE + b"\0", "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"x,,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"n;,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (
            MECHANISM,
            None,
            b"n,a=other,n=," + NONCE,
            "client uses authorization identity, but it is not supported",
            "0A000",
        ),
        (MECHANISM, None, b"n,x,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"n,,m=x,n=," + NONCE, "client requires an unsupported SCRAM extension", "0A000"),
        (MECHANISM, None, b"n,," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"n,,n", "malformed SCRAM message", "08P01"),
        (MECHANISM, None, b"n,,n=,r=with space", "non-printable characters in SCRAM nonce", "08P01"),
        (MECHANISM, None, b"n,,n=,r=", "non-printable characters in SCRAM nonce", "08P01"),
        (MECHANISM, None, b"n,,n=,r=x,\xff", "malformed SCRAM message", "08P01"),
        # In TLS: `y` says that our offer was struck out on its way.
        (MECHANISM, BINDING, b"y,,n=," + NONCE, "SCRAM channel binding negotiation error", "28000"),
        (MECHANISM, BINDING, b"p=tls-server-end-point,,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM_PLUS, BINDING, b"n,,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM_PLUS, BINDING, b"y,,n=," + NONCE, "malformed SCRAM message", "08P01"),
        (MECHANISM_PLUS, BINDING, b"p=tls-unique,,n=," + NONCE, "unsupported SCRAM channel-binding type", "08P01"),
    ],
)
def test_first_messages_that_postgresql_refuses(
    mechanism: bytes, binding: bytes | None, message: bytes, text: str, sqlstate: str
) -> None:
    with pytest.raises(ProtocolViolationError) as caught:
        ServerExchange(mechanism, binding).first(message)
    assert (str(caught.value), caught.value.sqlstate) == (text, sqlstate)


def test_flags_that_are_taken() -> None:
    for binding, message in (
        (None, b"n,,n=," + NONCE),
        (None, b"y,,n=," + NONCE),
        (BINDING, b"n,,n=," + NONCE),
        (None, b"n,,n=a user that nobody reads," + NONCE + b",x=an extension"),
    ):
        ServerExchange(MECHANISM, binding).first(message)


@pytest.mark.parametrize("mechanism", [b"SCRAM-SHA-1", b"", b"SCRAM-SHA-256-PLUS", b"scram-sha-256"])
def test_mechanisms_that_were_not_offered(mechanism: bytes) -> None:
    with pytest.raises(ProtocolViolationError, match="invalid SASL authentication mechanism"):
        ServerExchange(mechanism, None)


@pytest.mark.parametrize(
    ("final", "text", "sqlstate"),
    [
        (b"", "malformed SCRAM message", "08P01"),
        (b"c=biws,r={nonce}", "malformed SCRAM message", "08P01"),
        (b"c=biws,r={nonce},p=short", "malformed SCRAM message", "08P01"),
        (b"c=biws,r={nonce},p=" + base64.b64encode(bytes(32)) + b",x=more", "malformed SCRAM message", "08P01"),
        (b"c=biws,r=other,p=" + base64.b64encode(bytes(32)), "invalid SCRAM response", "08P01"),
        (
            b"c=eSws,r={nonce},p=" + base64.b64encode(bytes(32)),
            "unexpected SCRAM channel-binding attribute in client-final-message",
            "08P01",
        ),
        (b"r={nonce},c=biws,p=" + base64.b64encode(bytes(32)), "malformed SCRAM message", "08P01"),
    ],
)
def test_final_messages_that_postgresql_refuses(final: bytes, text: str, sqlstate: str) -> None:
    exchange = ServerExchange(MECHANISM, None, nonce=b"ours")
    exchange.first(b"n,,n=,r=theirs")
    exchange.challenge(verifier(), doomed=False)
    with pytest.raises(ProtocolViolationError) as caught:
        exchange.final(final.replace(b"{nonce}", b"theirsours"))
    assert (str(caught.value), caught.value.sqlstate) == (text, sqlstate)


def test_a_login_that_is_bound_to_another_certificate() -> None:
    client = scramp.ScramClient(
        ["SCRAM-SHA-256-PLUS"], "user", PASSWORD, channel_binding=("tls-server-end-point", bytes(32))
    )
    with pytest.raises(ProtocolViolationError, match="SCRAM channel binding check failed") as caught:
        exchanged(client, ServerExchange(MECHANISM_PLUS, BINDING), verifier())
    assert caught.value.sqlstate == "28000"


@settings(deadline=None)
@given(st.binary(max_size=120), st.binary(max_size=120), st.sampled_from([MECHANISM, MECHANISM_PLUS]))
def test_whatever_is_said_only_protocol_errors_or_a_wrong_password_come_of_it(
    first: bytes, final: bytes, mechanism: bytes
) -> None:
    exchange = ServerExchange(mechanism, BINDING)
    try:
        exchange.first(first)
        exchange.challenge(verifier(), doomed=False)
        exchange.final(final)
    except (ProtocolViolationError, WrongPasswordError):
        return
    raise AssertionError("noise has logged in")


@settings(deadline=None)
@given(st.data())
def test_a_message_changed_in_any_byte_does_not_log_in(data: st.DataObject) -> None:
    client = scramp.ScramClient(["SCRAM-SHA-256"], "user", PASSWORD)
    server = ServerExchange(MECHANISM, None)
    server.first(client.get_client_first().encode())
    client.set_server_first(server.challenge(verifier(), doomed=False).decode())
    final = bytearray(client.get_client_final().encode())
    # The last character of a proof in base64 has bits that mean nothing.
    place = data.draw(st.integers(0, len(final) - 3))
    final[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ProtocolViolationError, WrongPasswordError)):
        server.final(bytes(final))


def login(offered: list[bytes], *, secured: bool, binding: bytes | None) -> ClientExchange:
    return ClientExchange(LoginKeys(client_key(), verifier()), offered, secured=secured, binding=binding, nonce=b"ours")


def test_what_our_half_says_of_channel_binding() -> None:
    both = [MECHANISM_PLUS, MECHANISM]
    assert login(both, secured=True, binding=BINDING).first() == b"p=tls-server-end-point,,n=,r=ours"
    # Not offered in TLS: the server is told that it could have been.
    assert login([MECHANISM], secured=True, binding=BINDING).first() == b"y,,n=,r=ours"
    # A certificate without a defined hash, or no TLS.
    assert login(both, secured=True, binding=None).first() == b"n,,n=,r=ours"
    assert login([MECHANISM], secured=False, binding=None).first() == b"n,,n=,r=ours"
    with pytest.raises(ProtocolViolationError, match="offers no SCRAM-SHA-256"):
        login([b"OAUTHBEARER"], secured=False, binding=None)


def test_a_backend_with_another_verifier_is_told_nothing() -> None:
    for challenge in (
        b"r=oursTheirs,s=" + base64.b64encode(bytes(16)) + b",i=4096",
        b"r=oursTheirs,s=" + base64.b64encode(SALT) + b",i=4097",
    ):
        with pytest.raises(OtherVerifierError):
            login([MECHANISM], secured=False, binding=None).final(challenge)
    for challenge in (b"r=ours,s=" + base64.b64encode(SALT) + b",i=4096", b"r=x,s=,i=1", b"", b"r=oursx"):
        with pytest.raises((ProtocolViolationError, OtherVerifierError)):
            login([MECHANISM], secured=False, binding=None).final(challenge)


def test_a_backend_that_does_not_know_the_user_is_not_believed() -> None:
    for answer in (b"v=" + base64.b64encode(bytes(32)), b"v=", b"v=!"):
        ours = login([MECHANISM], secured=False, binding=None)
        ours.final(b"r=oursTheirs,s=" + base64.b64encode(SALT) + b",i=4096")
        with pytest.raises(NotTheBackendError):
            ours.finish(answer)
    with pytest.raises(NotTheBackendError):
        login([MECHANISM], secured=False, binding=None).finish(b"v=")


def test_stored_verifiers() -> None:
    text = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        f"{base64.b64encode(verifier().stored_key).decode()}:{base64.b64encode(verifier().server_key).decode()}"
    )
    found = Verifier.parse(text)
    assert (found.salt, found.stored_key, found.server_key, found.iterations) == (
        SALT,
        verifier().stored_key,
        verifier().server_key,
        4096,
    )
    for wrong in (
        "",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "a password",
        text.replace("SHA-256", "SHA-1"),
        text.replace("$4096:", "$0:"),
        text.replace("$4096:", "$99999999999:"),
        text[:-1],
        text[:-8],
        text + "=",
        text.replace("W22Z", "W2!Z"),
        text + "\n",
    ):
        with pytest.raises(NotAVerifierError) as caught:
            Verifier.parse(wrong)
        assert not wrong or wrong not in str(caught.value)


def test_keys_show_themselves_nowhere_and_are_wiped() -> None:
    keys = LoginKeys(client_key(), verifier())
    for shown in (repr(keys), f"{keys}", repr(verifier()), f"{verifier()}", repr(ServerExchange(MECHANISM, None))):
        assert not any(part in shown for part in (client_key().hex(), repr(client_key())[2:10], "stored"))
    for value in (keys, verifier()):
        with pytest.raises(TypeError):
            pickle.dumps(value)
    before = keys.proof(b"message")
    keys.wipe()
    assert keys.proof(b"message") == hmac.digest(verifier().stored_key, b"message", "sha256") != before


EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


@pytest.mark.parametrize(
    ("certificate", "algorithm"),
    [
        (signed_by(EC_KEY, hashes.SHA256()), "sha256"),
        (signed_by(EC_KEY, hashes.SHA384()), "sha384"),
        (signed_by(RSA_KEY, hashes.SHA512()), "sha512"),
        (signed_by(RSA_KEY, hashes.SHA384(), PSS), "sha384"),
        (signed_by(ed25519.Ed25519PrivateKey.generate(), None), None),
    ],
    ids=["ecdsa-256", "ecdsa-384", "rsa-512", "rsa-pss-384", "ed25519"],
)
def test_the_hash_of_a_certificate_is_that_of_its_signature(
    certificate: x509.Certificate, algorithm: str | None
) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    der = certificate.public_bytes(Encoding.DER)
    expected = None if algorithm is None else hashlib.new(algorithm, der).digest()
    assert (
        end_point(certificate)
        == end_point_of_der(der)
        == end_point_of_pem(certificate.public_bytes(Encoding.PEM))
        == expected
    )


def test_a_sha1_certificate_is_hashed_with_sha256() -> None:
    """RFC 5929: MD5 and SHA-1 are replaced. Such a certificate can no longer be made here, so its algorithm is all
    there is of it."""

    class Old:
        signature_hash_algorithm = hashes.SHA1()

        def fingerprint(self, algorithm: hashes.HashAlgorithm) -> bytes:
            return algorithm.name.encode()

    assert end_point(Old()) == b"sha256"  # type: ignore[arg-type]


def test_what_is_no_certificate_has_no_binding() -> None:
    assert end_point_of_der(b"") is None and end_point_of_der(None) is None and end_point_of_pem(b"-----BEGIN") is None
