// Runs many subscribers in Node, with the packages `ws` and `eventsource`.
//
// usage: client.mjs URL CONNS SECONDS
//
// A ws:// URL opens WebSockets, an http:// URL opens event streams. `fanfare bench` must send the
// publications. On every connection, the publication numbers must arrive once and in order,
// starting with any number. The timestamps in publications are from the machine's monotonic clock,
// so latencies are correct only on the same machine. The program prints counts and latencies after
// SECONDS. The exit status is 1 if a publication was missing, duplicated or out of order, or if a
// connection was lost.
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [url, conns, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
/** The most connections that are being opened at a time. */
const OPENING_MAX = 100;
const counts = { open: 0, deliveries: 0, missing: 0, duplicatedOrLate: 0, gaps: 0, lost: 0 };
const latencies = [];
let isOver = false;

/** Checks the payloads of one connection. */
function checker() {
  let next = 0;
  return (payload) => {
    if (payload?.n === undefined) return;
    const number = Number(payload.n);
    latencies.push(Number(process.hrtime.bigint() - BigInt(payload.t)) / 1e6);
    counts.deliveries += 1;
    if (next !== 0 && number < next) counts.duplicatedOrLate += 1;
    if (next !== 0 && number > next) counts.missing += number - next;
    next = Math.max(next, number + 1);
  };
}

/** Resolves when the connection is subscribed. */
function openWebSocket() {
  return new Promise((resolve, reject) => {
    const check = checker();
    const socket = new WebSocket(url, { perMessageDeflate: false });
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.type === 'subscribed') resolve(() => socket.terminate());
      if (message.type === 'gap') counts.gaps += 1;
      if (message.type === undefined) check(message.data);
    });
    socket.on('close', () => { if (!isOver) counts.lost += 1; });
    socket.on('error', reject);
  });
}

/** Resolves when the stream is open. A reconnect counts as a loss here. */
function openEventStream() {
  return new Promise((resolve, reject) => {
    const check = checker();
    const source = new EventSource(url);
    source.onopen = () => resolve(() => source.close());
    source.onmessage = (event) => check(JSON.parse(event.data));
    source.addEventListener('fanfare.gap', () => { counts.gaps += 1; });
    source.onerror = (error) => {
      if (!isOver) counts.lost += 1;
      reject(error);
    };
  });
}

const open = url.startsWith('ws') ? openWebSocket : openEventStream;
const began = performance.now();
const closers = [];
let left = conns;
const openSome = async () => {
  while (left > 0) {
    left -= 1;
    closers.push(await open());
    counts.open += 1;
  }
};
await Promise.all(Array.from({ length: OPENING_MAX }, openSome));
console.log(`${counts.open} connections in ${((performance.now() - began) / 1e3).toFixed(2)} s`);
await new Promise((resolve) => { setTimeout(resolve, seconds * 1e3); });
isOver = true;
for (const close of closers) close();

latencies.sort((a, b) => a - b);
const at = (part) => (latencies[Math.ceil(part * latencies.length) - 1] ?? NaN).toFixed(2);
console.log(`deliveries ${counts.deliveries}, missing ${counts.missing}, duplicated or out of order `
  + `${counts.duplicatedOrLate}, gaps ${counts.gaps}, connections lost ${counts.lost}`);
console.log(`latency ms: p50 ${at(0.5)} p90 ${at(0.9)} p99 ${at(0.99)} max ${at(1)}`);
process.exit(counts.missing + counts.duplicatedOrLate + counts.lost > 0 ? 1 : 0);
