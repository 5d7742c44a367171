"""vmsgr and wrong words, missing, stale, silent and foreign daemons: one line, the documented exit code."""
import os
import socket
import time

import fake
import pytest

pytestmark = pytest.mark.fast

USAGE = [
    ([], "no command given"),
    (["stauts"], "unknown command 'stauts'; did you mean 'status'?"),
    (["conn"], "did you mean 'conns'?"),
    (["frobnicate"], "unknown command 'frobnicate'; see"),
    (["status", "--jsno"], "unknown option '--jsno'; did you mean '--json'?"),
    (["status", "extra"], "unexpected word 'extra'"),
    (["status", "--socket"], "--socket"),
    (["routes", "tset", "::1"], "did you mean 'test'?"),
    (["routes", "test"], "ADDR is required"),
    (["explain"], "PID is required"),
    (["explain", "1", "2", "--to", "10.0.0.1:1"], "either FD or --to"),
    (["explain", "1", "--to", "nowhere"], "is not an address"),
    (["doctor"], "no program given"),
    (["doctor", "--to", "x", "true"], "is not an address"),
    (["doctor", "no-such-program"], "no-such-program: not found in PATH"),
    (["explain", "one", "1"], "PID: "),
    (["explain", "1", "-1"], "FD: Value -1 not in range"),
    (["conns", "--pid", "x"], "--pid"),
    (["run"], "no program given"),
    (["run", "--bogus", "--", "true"], "unknown option '--bogus'"),
    (["pong"], "did you mean 'ping'?"),
    (["ping"], "PEER is required"),
    (["ping", "nowhere"], "'nowhere' is no ADDR:PORT"),
    (["ping", "127.0.0.1:0"], "port 0 is for listening"),
    (["ping", ":1", "--conut", "3"], "did you mean '--count'?"),
    (["ping", ":1", "--count", "0"], "--count"),
    (["drain", "--status", "--cancel"], "write one of them"),
    (["perf", ":1", "--serve", ":0"], "either PEER or --serve"),
    (["perf", "--sizes", "64,x"], "--sizes"),
    (["perf", "--seconds", "0"], "--seconds"),
    (["send"], "PEER is required"),
    (["send", "10.0.0.1"], "is no ADDR:PORT"),
    (["recv"], "ADDRESS is required"),
    (["recv", ":0", "--json"], "--json needs a FILE"),
    (["recv", ":0", "a", "b"], "unexpected word 'b'"),
    (["--sokcet", "/x", "status"], "did you mean '--socket'?"),
]


@pytest.mark.parametrize("words,says", USAGE)
def test_wrong_usage_is_one_line_and_exit_2(vmsgr, words, says):
    vmsgr(*words).refused(2, "vmsgr: ", says)


def test_every_command_has_help_with_an_example(vmsgr):
    for words in ([], ["run"], ["status"], ["conns"], ["routes"], ["trunks"], ["explain"], ["doctor"], ["ping"], ["perf"],
                  ["send"], ["recv"], ["drain"]):
        done = vmsgr(*words, "--help")
        assert done.code == 0 and "Examples:\n  vmsgr " in done.out, (words, done)
    assert vmsgr("--version").out.startswith("vmsgr 0.")


ASKING = [["status"], ["drain"], ["drain", "--status"], ["conns"], ["trunks"], ["routes"], ["routes", "test", "127.0.0.1:80"], ["status", "--json"],
          ["ping", ":1"], ["perf"], ["recv", ":0"], ["perf", "--serve", ":0"]]


@pytest.mark.parametrize("words", ASKING)
def test_missing_daemon_is_exit_3_and_says_how_to_start_one(vmsgr, here, words):
    vmsgr(*words, "--socket", f"{here}/none.sock").refused(
        3, f"no vmsgrd at {here}/none.sock", "vmsgrd --config FILE", "--socket")


def test_socket_comes_from_the_environment_and_the_option_wins(vmsgr, here):
    env = {"VMSGR_SOCKET": f"{here}/a.sock"}
    vmsgr("status", env=env).refused(3, f"{here}/a.sock")
    vmsgr("--socket", f"{here}/b.sock", "status", env=env).refused(3, f"{here}/b.sock")


def test_stale_socket_is_said_to_be_stale(vmsgr, here):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.bind(f"{here}/v.sock")
    s.close()
    vmsgr("status", "--socket", f"{here}/v.sock").refused(3, "left by one that ended")


def test_what_is_no_socket_is_said_so(vmsgr, here, write):
    vmsgr("status", "--socket", write("x")).refused(3, "is not a socket")
    vmsgr("status", "--socket", f"{write('x')}/y").refused(3, "no vmsgrd at")
    vmsgr("status", "--socket", "/" + "x" * 120).refused(3, "at most 107 characters")
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind(f"{here}/stream.sock")
    s.listen()
    vmsgr("status", "--socket", f"{here}/stream.sock").refused(3, "is not vmsgrd's control socket")
    s.close()


def test_socket_without_permission_names_mode_and_group(vmsgr, here):
    with fake.Fake(f"{here}/v.sock", []):
        os.chmod(f"{here}/v.sock", 0o660)
        vmsgr("status", "--socket", f"{here}/v.sock", user=65534).refused(
            3, "no permission for", "mode 0660, group root")


def test_silent_daemon_ends_after_two_seconds(vmsgr, here):
    with fake.Fake(f"{here}/v.sock", []):
        started = time.monotonic()
        vmsgr("status", "--socket", f"{here}/v.sock").refused(
            3, f"vmsgrd at {here}/v.sock does not answer within 2 s (stopped or overloaded?)")
        assert 1.8 < time.monotonic() - started < 4


WELCOME = [fake.welcome()]
BAD_ANSWERS = [
    ([[fake.welcome(version=5)]], "speaks version 5", "this vmsgr speaks 4"),
    ([[fake.welcome(version=5)[:64]]], "speaks version 5", "install both"),
    ([[fake.welcome(magic=1)]], "no welcome", "another version"),
    ([[b"x"]], "no welcome", "another version"),
    ([[fake.welcome()[:100]]], "a welcome of 100 bytes", "another version"),
    ([[fake.welcome(status=13, text=b"uid 0 is not\nlet in")]], "refused: uid 0 is not", "let in"),
    ([[fake.welcome(status=11)]], "refused: Resource temporarily unavailable", ""),
    ([None], "closed the connection without an answer", "log"),
    ([WELCOME, None], "closed the connection without an answer", "log"),
    ([WELCOME, [fake.reply(status=12)]], "could not answer: Cannot allocate memory", ""),
    ([WELCOME, [*fake.document_of("{")[:-1], fake.reply(status=12)]], "could not answer: Cannot allocate memory", ""),
    ([WELCOME, [fake.reply(serial=2)]], "no reply to a question", ""),
    ([WELCOME, [b"nonsense"]], "no reply to a question", ""),
    ([WELCOME, [fake.reply(length=1000) + b"short"]], "no reply to a question", ""),
    ([WELCOME, [fake.reply(length=1 << 40) + b"short"]], "no reply to a question", ""),
    ([WELCOME, fake.document_of("{}")[:-1]], "does not answer within 2 s", ""),
    ([WELCOME, fake.document_of("not json")], "no JSON object", ""),
    ([WELCOME, fake.document_of("[1]")], "no JSON object", ""),
]


@pytest.mark.parametrize("answers,says,also", BAD_ANSWERS)
def test_bad_answers_are_one_line_and_exit_3(vmsgr, here, answers, says, also):
    with fake.Fake(f"{here}/v.sock", answers):
        vmsgr("status", "--socket", f"{here}/v.sock").refused(3, says, also)


def test_bad_routes_of_a_daemon_are_refused(vmsgr, here):
    with fake.Fake(f"{here}/v.sock", [WELCOME, fake.document_of("what is this", 64)]):
        vmsgr("routes", "--socket", f"{here}/v.sock").refused(3, "routes that cannot be read")


@pytest.mark.parametrize("document", ["{}", '{"daemon": 1, "sessions": {}, "connections": [1, null], "totals": []}',
                                      '{"sessions": [{"pid": "x"}], "connections": [{"bytes_in": "y"}]}'])
def test_status_of_another_daemon_is_shown_as_far_as_it_goes(vmsgr, here, document):
    for words in (["status"], ["conns"], ["status", "--json"], ["conns", "--json"]):
        with fake.Fake(f"{here}/v.sock", [WELCOME, fake.document_of(document)]):
            done = vmsgr(*words, "--socket", f"{here}/v.sock")
            assert done.code == 0 and done.err == "", (words, done)
        os.unlink(f"{here}/v.sock")
