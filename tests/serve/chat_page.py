"""The chat page in headless Chromium: type, send, see text stream, stop; a screenshot is kept.

    python3 tests/serve/chat_page.py http://127.0.0.1:8080 FOLDER PICTURE.png

Talks Chromium's DevTools protocol over a websocket (package websockets). FOLDER: for its profile. Between
browser and server stands a gate that lets events of a stream through one by one, as many as the test
says: what the page shows in the midst of an answer does not depend on how fast the model is.
"""
import base64
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

from websockets.sync.client import connect

url, folder, picture = sys.argv[1:4]


class Gate(http.server.BaseHTTPRequestHandler):
    """Passes everything on; of streams no more events than `allowed`, and in place of those in `silent`
    a comment, as if their tokens had no text."""
    protocol_version = "HTTP/1.0"  # a connection an answer
    state = threading.Condition()
    allowed, passed, left = 10 ** 9, 0, False  # left: the browser went away in the midst of a stream
    silent = (10, 11, 20)

    @classmethod
    def allow(cls, n):
        with cls.state:
            cls.allowed, cls.passed, cls.left, cls.silent = n, 0, False, ()
            cls.state.notify_all()

    def log_message(self, *_):
        pass

    def upstream(self):
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection.request(self.command, self.path, body, dict(self.headers))
        return connection, connection.getresponse()

    def pass_event(self, line):
        cls = type(self)
        with cls.state:
            if line.startswith(b"data: "):
                while cls.passed >= cls.allowed:
                    try:
                        gone = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
                    except BlockingIOError:
                        gone = False
                    if gone:
                        raise BrokenPipeError
                    cls.state.wait(0.02)
                cls.passed += 1
                line = b": nothing\n" if cls.passed in cls.silent else line
        self.wfile.write(line)
        self.wfile.flush()

    def do_GET(self):
        connection, answer = self.upstream()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding"):
                self.send_header(key, value)
        self.end_headers()
        try:
            if "event-stream" in answer.getheader("Content-Type", ""):
                for line in answer:
                    self.pass_event(line)
            else:
                self.wfile.write(answer.read())
        except (BrokenPipeError, ConnectionResetError):
            type(self).left = True
        connection.close()

    do_POST = do_GET


class Page:
    def __init__(self, socket):
        self.socket, self.n, self.complaints = socket, 0, []

    def call(self, method, **params):
        self.n += 1
        self.socket.send(json.dumps({"id": self.n, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"])
            if message.get("id") == self.n:
                assert "error" not in message, message
                return message["result"]

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression):
        for _ in range(600):
            if self.js(expression):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; the page: {self.js('document.body.innerText')}")

    def type(self, text):
        self.js("document.getElementById('input').focus()")
        self.call("Input.insertText", text=text)

    def key(self, name, code):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                      **({"text": "\r"} if name == "Enter" and kind == "keyDown" else {}))


def open_browser():
    browser = subprocess.Popen(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
         "--lang=en", f"--user-data-dir={folder}", "--window-size=900,700", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    where = os.path.join(folder, "DevToolsActivePort")
    for _ in range(600):
        if os.path.exists(where) and open(where).read().count("\n") >= 1:
            break
        time.sleep(0.1)
    return browser, int(open(where).read().split()[0])


def check(page, address):
    answers = "document.querySelectorAll('.turn.assistant')"
    page.call("Runtime.enable")
    page.call("Page.enable")
    page.call("Page.navigate", url=address)
    page.until("document.getElementById('model')?.textContent === 'tinystories656k'")
    page.js("document.getElementById('tokens').value = 60; document.getElementById('temperature').value = 0")
    page.type("Once upon a time")
    page.key("Enter", 13)
    page.until(f"{answers}.length === 1 && {answers}[0].textContent.length > 40")
    page.until("document.getElementById('stop').hidden")
    # as many tokens as there may be, though not each has a piece of text of its own
    rate = page.js("document.getElementById('rate').textContent")
    assert re.match(r"60 tokens, [0-9.]+ tokens/s · The answer was cut", rate), rate
    assert page.js("turns.length") == 2
    # text streams: three events (the first has no text), and the page shows what they hold and waits
    page.js("document.getElementById('tokens').value = 480; document.getElementById('temperature').value = 1")
    Gate.allow(3)
    page.type("Tell me more")
    page.key("Enter", 13)
    page.until(f"{answers}.length === 2 && turns[3]?.content.length > 0")
    words = "turns[3].content.length"
    few = page.js(words)
    page.until(f"!document.getElementById('stop').hidden && document.getElementById('send').hidden")
    assert page.js("document.querySelector('#talk').getAttribute('aria-busy')") == "true"
    Gate.allow(2)  # two more, and the text grows while the answer is under way
    page.until(f"{words} > {few}")
    assert page.js(f"{answers}[1].textContent.endsWith(turns[3].content)")
    assert not page.js("document.getElementById('stop').hidden")
    # stopped in the midst: what came stays, nothing more comes, and the connection is given up
    some = page.js(words)
    page.key("Escape", 27)
    page.until("document.getElementById('stop').hidden && !document.getElementById('send').hidden")
    for _ in range(600):
        if Gate.left:
            break
        time.sleep(0.05)
    assert Gate.left, "the browser still waits for the answer"
    Gate.allow(10 ** 9)
    assert page.js(words) == some and page.js("document.querySelectorAll('.bad').length") == 0
    # and the conversation goes on
    page.js("document.getElementById('tokens').value = 5")
    page.type("Once more")
    page.key("Enter", 13)
    page.until("turns.length === 6 && document.getElementById('stop').hidden")
    # another colour and another language
    page.js("language.value = 'zh'; language.dispatchEvent(new Event('change'))")
    assert page.js("document.getElementById('send').textContent") == "发送"
    page.js("theme.value = 'dark'; theme.dispatchEvent(new Event('change'))")
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 28)"
    page.js("document.getElementById('toggle').click()")
    unnamed = page.js("[...document.querySelectorAll('input,select,textarea,button')].filter(e => "
                      "!e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim()).length")
    assert unnamed == 0, "a control has no name"
    shot = page.call("Page.captureScreenshot", format="png")["data"]
    open(picture, "wb").write(base64.b64decode(shot))
    assert not page.complaints, page.complaints


def main():
    browser, port = open_browser()
    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    try:
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
        page = next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"]
        with connect(page, max_size=None) as websocket:
            check(Page(websocket), f"http://127.0.0.1:{gate.server_port}")
    finally:
        browser.terminate()
        browser.wait()
    print("the page works; see", picture)


main()
