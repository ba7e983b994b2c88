// Parts that the tests of the module share: a server, a proxy that fails on purpose, and waiting
// with a deadline.
//
// FANFARE names the binary under test.
import { spawn, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import './page.mjs';
import { connect } from '../../../src/web/fanfare.min.js';

const packages = createRequire(new URL('../../.deps/node/', import.meta.url));
export const { WebSocket } = packages('ws');
export const { chromium } = packages('playwright-core');
export const BINARY = process.env.FANFARE ?? 'fanfare';

const PATIENCE_MS = 20_000;

/** Waits until the condition returns a value that is true, and returns the value. */
export const until = async (what, condition, patience = PATIENCE_MS) => {
  const deadline = Date.now() + patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((done) => setTimeout(done, 5));
  }
};

const children = new Set();

/** Returns a folder that is removed after the test. */
export const folder = (t) => {
  const path = mkdtempSync(join(tmpdir(), 'fanfare-module-'));
  t.after(async () => {
    // A server that runs may still write to the folder.
    for (const { child, exit } of children) {
      child.kill('SIGKILL');
      await exit;
    }
    children.clear();
    rmSync(path, { recursive: true, force: true });
  });
  return path;
};

/** Starts a server in a folder. `listen` fixes the port, for a second start. */
export const serve = async (t, { config = '', path = folder(t), port = 0 } = {}) => {
  const file = join(path, 'fanfare.toml');
  const feed = join(path, 'feed.sock');
  writeFileSync(file, config);
  const child = spawn(
    BINARY,
    ['serve', '--config', file, '--feed', feed, '--listen', `127.0.0.1:${port}`,
      '--admin', '127.0.0.1:0', '--workers', '2'],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const exit = once(child, 'exit');
  children.add({ child, exit });
  const lines = createInterface(child.stdout);
  const [ready] = await once(lines, 'line');
  const match = /ready: http:\/\/([^:]+:(\d+)).*admin=(http:\/\/\S+)/.exec(ready);
  const feeder = await Feeder.connect(t, feed);
  return {
    url: `http://${match[1]}`,
    port: +match[2],
    publish: (channel, data, more) => feeder.send({ channel, data, ack: true, ...more }),
    command: (line) => feeder.send(line),
    metric: async (name) => {
      const text = await (await fetch(`${match[3]}/metrics`)).text();
      return +text.split('\n').find((line) => line.startsWith(`${name} `))?.slice(name.length + 1);
    },
    kill: (signal) => {
      child.kill(signal);
      return exit;
    },
  };
};

/** A connection to the feed. */
class Feeder {
  #socket;
  #waiting = [];

  static async connect(t, path) {
    const feeder = new Feeder();
    feeder.#socket = net.connect(path);
    feeder.#socket.on('error', () => {});
    t.after(() => feeder.#socket.destroy());
    await once(feeder.#socket, 'connect');
    createInterface(feeder.#socket).on('line', (line) => feeder.#waiting.shift()(JSON.parse(line)));
    return feeder;
  }

  /** Sends a line and returns its answer. */
  send(line) {
    return new Promise((answered) => {
      this.#waiting.push(answered);
      this.#socket.write(`${JSON.stringify(line)}\n`);
    });
  }
}

/**
 * A proxy in front of a server. `blocked` maps a path to what happens to its requests: `refuse`
 * (an answer of the proxy), `mute` (no answer) or `hold` (the header passes, but no content).
 * `silent` stops all bytes of open connections.
 */
export const proxy = async (t, server) => {
  const self = { blocked: {}, silent: false, requests: [], port: server.port };
  const sockets = new Set();
  const listener = net.createServer((client) => {
    sockets.add(client);
    client.on('error', () => {});
    client.once('data', (head) => {
      const path = /^\w+ (\/\w*)/.exec(head)?.[1];
      self.requests.push(path);
      const how = self.blocked[path];
      if (how === 'mute') return;
      if (how === 'refuse') {
        client.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nConnection: close\r\n\r\nblocked');
        return;
      }
      const upstream = net.connect(self.port, '127.0.0.1');
      sockets.add(upstream);
      upstream.on('error', () => client.destroy());
      upstream.on('close', () => client.destroy());
      client.on('close', () => upstream.destroy());
      // Each request has a connection of its own, so that the next one is seen, too.
      upstream.write(String(head).replace(/connection: keep-alive/i, 'Connection: close'));
      client.on('data', (bytes) => self.silent || upstream.write(bytes));
      let isHeld = false;
      upstream.on('data', (bytes) => {
        if (self.silent || isHeld) return;
        if (how === 'hold') {
          isHeld = true;
          bytes = bytes.subarray(0, bytes.indexOf('\r\n\r\n') + 4);
        }
        client.write(bytes);
      });
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.close();
    self.cut();
  });
  self.url = `http://127.0.0.1:${listener.address().port}`;
  self.cut = () => sockets.forEach((socket) => socket.destroy());
  return self;
};

/** Connects, and records all events and publications of the client. */
export const client = (t, url, options = {}) => {
  const self = connect(url, { WebSocket, ...options });
  t.after(() => self.close());
  const seen = { state: [], gap: [], direct: [], end: [], error: [], got: [] };
  for (const type of Object.keys(seen)) self.on(type, (value) => seen[type].push(value));
  return Object.assign(self, {
    seen,
    /** The payloads so far. */
    data: () => seen.got.map(({ data }) => data),
    follow: (channel, how) => self.subscribe(channel, (publication) => seen.got.push(publication), how),
    until: (what, condition) => until(`${what}; ${JSON.stringify(seen.state)}`, () => condition(self)),
  });
};

/** Returns a token. */
export const token = (path, ...flags) => String(execFileSync(BINARY, ['token', '--key', path, ...flags])).trim();
