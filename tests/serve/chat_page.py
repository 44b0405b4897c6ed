"""The chat page in headless Chromium: type, send, see text stream, stop; a screenshot is kept.

    python3 tests/serve/chat_page.py http://127.0.0.1:8080 FOLDER PICTURE.png

Talks Chromium's DevTools protocol over a websocket (package websockets). FOLDER: for its profile.
"""
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request

from websockets.sync.client import connect

url, folder, picture = sys.argv[1:4]


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


def check(page):
    answers = "document.querySelectorAll('.turn.assistant')"
    page.call("Runtime.enable")
    page.call("Page.enable")
    page.call("Page.navigate", url=url)
    page.until("document.getElementById('model')?.textContent === 'tinystories656k'")
    page.js("document.getElementById('tokens').value = 60; document.getElementById('temperature').value = 0")
    page.type("Once upon a time")
    page.key("Enter", 13)
    page.until(f"{answers}.length === 1 && {answers}[0].textContent.length > 40")
    page.until("document.getElementById('stop').hidden")
    assert "tokens/s" in page.js("document.getElementById('rate').textContent")
    assert page.js("turns.length") == 2
    # a long one, stopped in the midst: a fetch that never ends by itself must not be waited for
    page.js("document.getElementById('tokens').value = 480; document.getElementById('temperature').value = 1")
    page.type("Tell me more")
    page.key("Enter", 13)
    page.js("document.getElementById('stop').click()")
    page.until("document.getElementById('stop').hidden && !document.getElementById('send').hidden")
    assert page.js("document.querySelectorAll('.bad').length") == 0
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
    try:
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
        address = next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None) as socket:
            check(Page(socket))
    finally:
        browser.terminate()
        browser.wait()
    print("the page works; see", picture)


main()
