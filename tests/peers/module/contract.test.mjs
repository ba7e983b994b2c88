// Answers of a server that the tests write by hand: POST of publications, and ends of channels.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';

import { client } from './support.mjs';

const handmade = async (t, handle) => {
  const listener = http.createServer(handle);
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.close();
    listener.closeAllConnections();
  });
  return `http://127.0.0.1:${listener.address().port}`;
};

const json = (response, status, value) =>
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));

test('a POST is repeated with its key while the server is busy, and not after a refusal', async (t) => {
  const posts = [];
  const url = await handmade(t, async (request, response) => {
    const { searchParams } = new URL(request.url, 'http://host');
    const body = Buffer.concat(await request.toArray()).toString();
    posts.push([searchParams.get('channel'), searchParams.get('dedupe'), body, request.headers.authorization]);
    if (posts.length === 1) json(response, 503, { code: 'restarting' });
    else if (posts.length === 2) json(response, 200, { type: 'ok', id: '1-1' });
    else json(response, 503, { code: 'journal_unsynced' });
  });
  const c = client(t, url, { transports: ['poll'], token: 'T' });
  assert.deepEqual(await c.publish('R&D', { n: 1 }, { dedupe: 'k' }), { type: 'ok', id: '1-1' });
  const expected = ['R&D', 'k', '{"n":1}', 'Bearer T'];
  assert.deepEqual(posts, [expected, expected]);
  await assert.rejects(c.publish('a', 1), { code: 'journal_unsynced' });
  assert.equal(posts.length, 3);
});

for (const transport of ['event_stream', 'poll']) {
  test(`${transport} ends the loop of a channel that has ended`, async (t) => {
    const publication = { channel: 'a', id: '1-1', data: 1 };
    const url = await handmade(t, (request, response) => {
      if (request.url.startsWith('/poll')) {
        json(response, 200, { id: '1-2', gap: false, publications: [publication], ended: ['a'] });
      } else {
        response.writeHead(200, { 'Content-Type': 'text/event-stream' });
        response.write(`event:fanfare.position\nid: 1-0\n\nid: 1-1\ndata: ${JSON.stringify(publication)}\n\n`);
        response.write('event: fanfare.end\ndata: {"channel":"a","id":"1-2"}\n\n');
      }
    });
    const c = client(t, url, { transports: [transport] });
    const got = [];
    for await (const { data } of c.subscribe('a')) got.push(data);
    assert.deepEqual(got, [1]);
    assert.equal(c.seen.end[0].channel, 'a');
  });
}
