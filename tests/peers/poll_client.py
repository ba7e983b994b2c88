"""Polls with Python's own http.client and prints each publication, one JSON object per line.

usage: poll_client.py URL COUNT

All polls use one connection, and each poll continues from the id of the last answer. Ends with
status 0 when COUNT publications have arrived without a gap. The first line has the first position.
"""

import http.client
import json
import sys
import urllib.parse

url, count = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2])
conn = http.client.HTTPConnection(url.netloc, timeout=20)
conn.connect()
first = conn.sock
since, seen = "", 0
while seen < count:
    conn.request("GET", f"{url.path}?{url.query}&timeout=10&since={since}")
    response = conn.getresponse()
    assert response.status == 200, response.status
    answer = json.load(response)
    assert response.headers["ETag"] == f'"{answer["id"]}"'
    assert not answer["gap"], answer
    assert conn.sock is first, "not kept alive"
    if not since:
        print(json.dumps({"id": answer["id"]}), flush=True)
    for publication in answer["publications"]:
        print(json.dumps(publication), flush=True)
        seen += 1
    since = answer["id"]
