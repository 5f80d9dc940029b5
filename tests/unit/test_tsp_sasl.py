"""PLAIN and DIGEST-MD5: the RFC's own example, a recorded one's form, and what must not pass."""

from __future__ import annotations

import base64
import contextlib
import random

import pytest

from lab.errors import RemoteProtocolError
from lab.tsp import Status, digest_ha1
from lab.tsp.sasl import (
    DigestClient,
    DigestServer,
    _proof,
    check_plain,
    decode_line,
    encode_line,
    format_plain,
    parse_directives,
    parse_plain,
)
from lab.tsp.status import MessageError
from tests.pair import credentials


def exchange(user: str = "ann", password: str = "secret") -> tuple[DigestServer, DigestClient, bytes]:
    server = DigestServer("lab", random.Random(1))
    client = DigestClient(user, password, "broker", random.Random(2))
    return server, client, client.respond(server.challenge())


def test_arithmetic_gives_the_example_of_rfc_2831() -> None:
    ha1 = digest_ha1("chris", "elwood.innosoft.com", "secret")
    example = ("OA6MG9tEQGm2hh", "OA6MHXh6VqTrRk", "00000001", "imap/elwood.innosoft.com")
    assert _proof(ha1, *example, "AUTHENTICATE") == "d388dad90d4bbd760a152321f2143af7"
    assert _proof(ha1, *example, "") == "ea40f60335c427b5527b84dbabcdfffd"


def test_right_password_passes_and_the_broker_proves_itself() -> None:
    server, client, response = exchange()
    user, rspauth = server.check(response, credentials)
    assert user == "ann"
    assert client.verify(rspauth) == b""


def test_challenge_has_the_five_directives_that_gogoc_reads_unchecked() -> None:
    fields = parse_directives(decode_line(DigestServer("lab", random.Random(1)).challenge())[0])
    assert set(fields) == {"realm", "nonce", "qop", "algorithm", "charset"}
    assert (fields["realm"], fields["qop"], fields["algorithm"]) == ("lab", "auth", "md5-sess")


def test_response_has_the_directives_of_gogoc_and_the_service_tsp() -> None:
    fields = parse_directives(decode_line(exchange()[2])[0])
    assert list(fields) == "charset username realm nonce nc cnonce digest-uri response qop".split()
    assert (fields["username"], fields["digest-uri"], fields["nc"]) == ("ann", "tsp/broker", "00000001")


def test_unquoted_challenge_of_the_rfc_figure_is_answered() -> None:
    challenge = encode_line("realm=hexos,nonce=1113908968,qop=auth,algorithm=md5-sess,charset=utf8")
    response = decode_line(DigestClient("ann", "secret", "hexos", random.Random(1)).respond(challenge))[0]
    assert 'realm="hexos"' in response
    assert 'digest-uri="tsp/hexos"' in response
    assert response.startswith("charset=utf8,")


def test_response_is_good_once() -> None:
    server, _, response = exchange()
    server.check(response, credentials)
    with pytest.raises(MessageError):
        server.check(response, credentials)


def test_wrong_response_uses_the_nonce_up_too() -> None:
    server, _, response = exchange(password="wrong")
    with pytest.raises(MessageError):
        server.check(response, credentials)
    right = DigestClient("ann", "secret", "broker", random.Random(2))
    with pytest.raises(MessageError):
        server.check(right.respond(server.challenge()), credentials)


def test_nonces_differ_and_follow_the_seed() -> None:
    rng = random.Random(5)
    challenges = [DigestServer("lab", rng).challenge() for _ in range(50)]
    assert len(set(challenges)) == 50
    assert DigestServer("lab", random.Random(5)).challenge() == challenges[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nc=00000001", "nc=00000002"),
        ("qop=auth", "qop=auth-int"),
        ('realm="lab"', 'realm="other"'),
        ('username="ann"', 'username="bob"'),
        ('username="ann"', 'username="ann",authzid="bob"'),
        ('digest-uri="tsp/broker"', 'digest-uri="imap/broker"'),
        ('digest-uri="tsp/broker"', 'digest-uri="tsp/other"'),
        ("cnonce=", "conce="),
        ("response=", "response=0"),
        ("qop=auth", "qop=auth,qop=auth"),
        ("qop=auth", "qop=auth,="),
    ],
)
def test_changed_response_is_refused_with_300(old: str, new: str) -> None:
    server, _, response = exchange()
    text = decode_line(response)[0]
    assert old in text
    with pytest.raises(MessageError) as caught:
        server.check(encode_line(text.replace(old, new)), credentials)
    assert caught.value.status is Status.AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    "rest", [b"200 Success", b"200 Success\r\n", b"\r\n200 Authentication successful\r\n", b"\0200 ok"]
)
def test_rspauth_glued_to_the_status_is_taken_apart(rest: bytes) -> None:
    server, client, response = exchange()
    _, rspauth = server.check(response, credentials)
    assert rspauth.strip().endswith(b"==")
    assert client.verify(rspauth.strip() + rest) == rest.strip(b"\r\n\0 ")


def test_broker_that_does_not_know_the_password_is_found_out() -> None:
    server = DigestServer("lab", random.Random(1))
    client = DigestClient("ann", "secret", "broker", random.Random(2))
    forged = DigestClient("ann", "guess", "broker", random.Random(2))
    challenge = server.challenge()
    client.respond(challenge)
    _, rspauth = server.check(forged.respond(challenge), lambda user: digest_ha1(user, "lab", "guess"))
    with pytest.raises(RemoteProtocolError, match="did not prove"):
        client.verify(rspauth)


@pytest.mark.parametrize(
    "challenge",
    [
        b"not base64 !",
        b"",
        base64.b64encode(b"realm=x,qop=auth,algorithm=md5-sess"),
        base64.b64encode(b"realm=x,nonce=1,qop=auth,algorithm=md5"),
        base64.b64encode(b"realm=x,nonce=1,qop=auth-conf,algorithm=md5-sess"),
        base64.b64encode(b'realm="x,nonce=1'),
    ],
)
def test_challenge_that_cannot_be_answered_is_refused(challenge: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        DigestClient("ann", "secret", "broker", random.Random(1)).respond(challenge)


@pytest.mark.parametrize("user", ["ann", "ann@example.org", 'quo"te\\back', "jörg", "安娜", "a,b=c"])
@pytest.mark.parametrize("password", ["secret", "", "pässwörd", "密码", 'a"b\\c,d=e'])
def test_any_user_and_password_pass_when_they_are_right(user: str, password: str) -> None:
    server, client, response = exchange(user, password)
    found, rspauth = server.check(response, lambda name: digest_ha1(name, "lab", password) if name == user else None)
    assert found == user
    assert client.verify(rspauth) == b""


def test_directives_are_read_with_quotes_escapes_and_spaces() -> None:
    text = ' Realm = "a, \\"b\\"" , , nonce=1,realm=second,QOP="auth, auth-int" '
    assert parse_directives(text) == {"realm": 'a, "b"', "nonce": "1", "qop": "auth, auth-int"}


@pytest.mark.parametrize("filler", [" ", ",", "a", '"', "\\", "=", "a=", "a ", '\\"', 'a="', " ,"])
def test_directives_of_a_hostile_peer_cost_no_more_than_their_length(filler: str) -> None:
    # A pattern that tries blanks twice takes minutes for this; the test's own timeout would end it.
    for text in ("a=" + filler * 4000 + "x", filler * 4000 + "=", 'a="' + filler * 4000):
        with contextlib.suppress(MessageError):
            parse_directives(text * 4)


def test_plain_is_raw_with_a_nul_before_each_part() -> None:
    assert format_plain("ann", "secret") == b"\0ann\0secret\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"\0ann\0secret\r\n",
        b"\0ann\0secret",
        b"\0\0ann\0secret\n\0",  # behind the terminator of gogoc's previous line
        b"ann\0ann\0secret\r\n",  # acting for oneself
    ],
)
def test_plain_is_read_in_every_known_form(body: bytes) -> None:
    assert parse_plain(body) == ("ann", "secret")
    assert check_plain(body, "lab", credentials) == "ann"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0",
        b"ann",
        b"\0ann",
        b"bob\0ann\0secret",
        b"a\0b\0c\0d",
        b"\0ann\0wrong",
        b"\0bob\0secret",
        b"\xff\0\xff",
    ],
)
def test_wrong_credentials_are_refused_with_300(body: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        check_plain(body, "lab", credentials)
    assert caught.value.status is Status.AUTHENTICATION_FAILED


def test_unknown_user_and_wrong_password_are_told_the_same() -> None:
    with pytest.raises(MessageError) as unknown:
        check_plain(b"\0bob\0secret", "lab", credentials)
    with pytest.raises(MessageError) as wrong:
        check_plain(b"\0ann\0wrong", "lab", credentials)
    assert str(unknown.value) == str(wrong.value)
