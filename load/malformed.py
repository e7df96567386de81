"""Malformed requests, drawn by a seed: the same seed gives the same requests.

Half of them are valid requests with one to three faults, each of a kind that FAULTS names. A quarter are valid
requests with bytes changed at random, mostly in the body, if there is one. A quarter are both.
"""
import json

TOKEN = "a-token-for-measuring"
# What is valid after all must change nothing, or the node would rightly keep more than before: one campaign is
# closed, and the other does not exist. Bodies are checked all the same.
CLOSED, UNKNOWN = "fuzz-closed", "fuzz-unknown"
ISSUE = {"campaign_id": CLOSED, "user_id": "fuzz1"}
TERMS = {"quota": 5, "title": "ü", "per_user_limit": 1, "listed": False, "opens_at": "2026-11-27T12:00:00Z",
         "closes_at": None, "code": {"prefix": "A-", "length": 64, "charset": "01"}}

# method, target, body, whether it needs the token, for every call of both listeners
CALLS = [
    ("POST", "/coupon/issue", ISSUE, False),
    ("GET", "/coupon/requests/AwE_abc-?wait=0", None, False),
    ("GET", "/campaigns?limit=5&after=a", None, False),
    ("GET", "/campaigns/honest", None, False),
    ("GET", "/campaigns/honest/users/u%31/coupons", None, False),
    ("GET", "/openapi.json", None, False),
    ("GET", "/admin/campaigns?limit=5", None, True),
    ("GET", f"/admin/campaigns/{CLOSED}", None, True),
    ("PUT", f"/admin/campaigns/{CLOSED}", TERMS, True),
    ("PATCH", f"/admin/campaigns/{UNKNOWN}", {"quota": 6, "opens_at": None, "title": "b"}, True),
    ("POST", f"/admin/campaigns/{UNKNOWN}/pause", {}, True),
    ("POST", f"/admin/campaigns/{UNKNOWN}/resume", {}, True),
    ("POST", f"/admin/campaigns/{UNKNOWN}/release", None, True),
    ("POST", "/admin/partitions/1/skip", {"offset": 7, "reason": "lost"}, True),
    ("GET", "/health/ready", None, False),
    ("GET", "/metrics", None, False),
]
METHODS = ["get", "BREW", "CONNECT", "DELETE", "OPTIONS", "TRACE", "HEAD", "PATCH", "PRI", "POST" * 20, "", "GE\0T", "é"]
TARGETS = ["", "*", "/", "//", "/admin", "/admin/campaigns/", "/campaigns/..", "/campaigns/%2e%2e", "/campaigns/%ff",
           "/campaigns/a%00b", "/campaigns/" + "a" * 65, "/campaigns/A_b", "/coupon/requests/" + "A" * 900,
           "/coupon/requests/%00", "/campaigns/honest/users/%C3%A9/coupons", "/campaigns/honest/users/../coupons",
           "/admin/partitions/99999999999/skip", "/admin/partitions/-1/skip", "http://evil.example/campaigns",
           "http://localhost/campaigns", "localhost:80", "/camp aigns", "/campaigns#a", "/" + "a" * 9_000, "/../../etc/passwd"]
QUERIES = ["limit=0", "limit=1001", "limit=-1", "limit=", "limit=1&limit=2", "limit=99999999999999999999", "after=A_",
           "after=%ff", "after=%", "wait=31", "wait=1e1", "wait=0&wait=0", "x=1", "&" * 33, "a=" + "b" * 2_100, "=&=&=", "%00=%00",
           "limit=%31%30&after=%zz", "?limit=1", "limit[]=1", "limit=１"]
VALUES = [None, True, -1, 0, 1.5, 1e308, 2**64, 2**31, "", "a" * 600, "é", "\0", "\ud800", [], {}, [[[[]]]], {"a": {"a": {}}},
          "2026-02-30T00:00:00Z", "2026-11-27T12:00:60Z", "A_b", "a b", "..", "spring", 10**30]
JSONS = ["", "{", "[]", "null", "1", '"a"', "{}", "[" * 300, '{"a":' * 150, "\ufeff{}", "{'a':1}", '{"a":1,}', "{\"a\":\"\\ud800\"}",
         '{"campaign_id":"honest","campaign_id":"honest","user_id":"u"}', '{"quota":1e400}', '{"quota":01}', "NaN", "{}{}", "\0"]
TYPES = ["", "text/plain", "application/json, text/plain", "application/jsonx", "APPLICATION/JSON;charset=utf-16", "a" * 300, "\t"]
CODINGS = ["gzip", "", "identity, identity", "br", "gzip, gzip", "deflate", "x" * 300]
TOKENS = ["Bearer", "Bearer ", "Bearer wrong", "Basic dTpw", f"bearer {TOKEN}x", TOKEN, "Bearer " + "a" * 3_000, f"Bearer {TOKEN} x", "\xff"]
KEYS = ["", '""', '"a', "a" * 256, "a b", "é", "a,b", "a\tb", "\x7f"]
HOSTS = ["", "evil.example", "localhost:0x50", "[::1", "127.0.0.1:99999999", "a,b", "localhost/", "é", "localhost@evil.example"]
PREFERS = ["wait=-1", "wait=99999999999999999999", 'wait="', "wait", ",,,", "wait=1;", 'wait="0', "=" * 500]
LINES = ["no colon", ": no name", "a b: c", "X: \0", "X:\r\n folded", "X" * 3_000 + ": a", "X: " + "a" * 17_000, "Expect: 100-continue",
         "Expect: a", "Upgrade: websocket\r\nConnection: upgrade", "Upgrade: h2c", "Connection: close, keep-alive", "Via: a",
         "Content-Length: -1", "Content-Length: 5, 6", "Content-Length: 99999999999999999999", "Content-Length: 0x5", "Content-Length: 4",
         "Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: ",
         "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked", "Trailer: a", "TE: trailers", "Range: bytes=0-", "Cookie: " + "a" * 5_000]
CHUNKS = [b"zz\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\na", b"5\r\nab", b"5;" + b"a" * 9_000 + b"\r\nabcde\r\n0\r\n\r\n",
          b"0\r\nX: a\r\n\r\n", b"0\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"5\nabcde\n0\n\n", b"05\r\nabcde\r\n00\r\n\r\n", b"2\r\nabcd\r\n0\r\n\r\n"]
VERSIONS = ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "HTTP/1.1 ", "", "HTTP/11"]
NO_HTTP = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 50, b"\0" * 200,
           b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x01\x05\0\0\0\x01\x82\x84\x86\x41", b"GET", b"SSH-2.0-OpenSSH\r\n", b"<xml/>", b"*1\r\n$4\r\nPING\r\n"]
PARTS = [b"\r\n", b"\0", b"%", b"\xff", b" ", b":", b"\t", b"GET ", b"Host: a\r\n", b"Content-Length: 7\r\n", b"{", b"\"", b"&a" * 40, b"x" * 17_000,
         b"\\u0000", b"[" * 300, b"1e400", b"-1", b"/../", b"?"]


class Request:
    """A valid request until a fault changes it."""

    def __init__(self, draw):
        self.method, self.target, self.body, self.is_admin = draw.choice(CALLS)
        self.version, self.host, self.lines, self.raw = "HTTP/1.1", "localhost", [], None
        self.type, self.coding = "application/json", None
        self.token = f"Bearer {TOKEN}" if self.is_admin else None
        if self.body is not None:
            self.raw = json.dumps(self.body).encode()

    def bytes(self, chunked=None):
        lines = [f"{self.method} {self.target} {self.version}"]
        named = [("Host", self.host), ("Authorization", self.token), ("Content-Encoding", self.coding),
                 ("Content-Type", self.type if self.raw is not None else None)]
        lines += [f"{name}: {value}" for name, value in named if value is not None]
        if chunked is not None:
            lines.append("Transfer-Encoding: chunked")
        elif self.raw is not None:
            lines.append(f"Content-Length: {len(self.raw)}")
        head = "\r\n".join(lines + self.lines) + "\r\n\r\n"
        return head.encode("utf-8", "replace") + (chunked if chunked is not None else self.raw or b"")


def wrong_json(request, draw):
    """Changes one member of the body, at any depth, or adds one."""
    body = json.loads(json.dumps(request.body if request.body else ISSUE))
    at = body["code"] if "code" in body and draw.random() < 0.3 else body
    at[draw.choice([*at, "x", "Quota", "user-id"])] = draw.choice(VALUES)
    request.raw = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def set_to(name, values):
    def fault(request, draw):
        setattr(request, name, draw.choice(values))
    return fault


def with_line(line, values):
    def fault(request, draw):
        request.lines.append(line + draw.choice(values))
    return fault


def wrong_query(request, draw):
    request.target = request.target.split("?")[0] + "?" + draw.choice(QUERIES)


def wrong_text(request, draw):
    request.raw = draw.choice(JSONS).encode("utf-8", "surrogatepass")


def oversize(request, draw):
    request.raw = draw.choice([b" ", b"a", b"["]) * draw.choice([1_025, 4_097, 20_000, 300_000])


FAULTS = {
    "method": set_to("method", METHODS),
    "target": set_to("target", TARGETS),
    "query": wrong_query,
    "version": set_to("version", VERSIONS),
    "host": set_to("host", [*HOSTS, None]),
    "token": set_to("token", [*TOKENS, None]),
    "type": set_to("type", [*TYPES, None]),
    "coding": set_to("coding", CODINGS),
    "json": wrong_json,
    "text": wrong_text,
    "size": oversize,
    "key": with_line("Idempotency-Key: ", KEYS),
    "two keys": with_line("X-Idempotency-Key: a\r\nIdempotency-Key: ", KEYS),
    "prefer": with_line("Prefer: ", PREFERS),
    "line": with_line("", LINES),
    "twice": with_line("", ["Host: localhost", "Content-Type: application/json", "Authorization: Bearer a", "Content-Length: 1"]),
    "many lines": with_line("\r\n".join(["X: a"] * 120), [""]),
}


def mutated(text, draw):
    """Changes bytes at random."""
    text = bytearray(text)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text) + 1)
        act = draw.randrange(5)
        if act == 0:
            text[at:at + draw.randint(1, 8)] = b""
        elif act == 1:
            text[at:at] = draw.choice(PARTS)
        elif act == 2 and text:
            text[at % len(text)] = draw.randrange(256)
        elif act == 3:
            text[at:at] = text[at:at + draw.randint(1, 30)]
        else:
            other = Request(draw).bytes()
            text[at:] = other[draw.randrange(len(other)):]
    return bytes(text)


def malformed(draw):
    """Returns a request and the listener that has its call: 0 public, 1 admin."""
    if draw.random() < 0.02:
        return draw.choice(NO_HTTP), draw.randrange(2)
    request, kind, chunked = Request(draw), draw.randrange(4), None
    if kind < 3:
        for _ in range(draw.randint(1, 3)):
            FAULTS[draw.choice(list(FAULTS))](request, draw)
        if draw.random() < 0.05:
            chunked = draw.choice(CHUNKS)
    if kind > 1 and request.raw and draw.random() < 0.7:
        request.raw = mutated(request.raw, draw)
        kind = 0
    listener = int(request.is_admin or request.target.startswith(("/health", "/metrics")))
    if draw.random() < 0.05:
        listener = 1 - listener
    text = request.bytes(chunked)
    return (mutated(text, draw) if kind > 1 else text), listener
