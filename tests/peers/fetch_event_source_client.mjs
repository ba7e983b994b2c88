// Reads an event stream with `@microsoft/fetch-event-source` and prints every event that the
// package dispatches.
//
// usage: fetch_event_source_client.mjs URL COUNT
//
// The output has the format of event_stream_client.py. The package reconnects by itself with
// `Last-Event-ID`, but after a clean end only if `onclose` throws.
import { fetchEventSource } from '@microsoft/fetch-event-source';

const [url, count] = [process.argv[2], Number(process.argv[3])];
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

// The package expects a browser: it listens for visibility changes and uses the timers of `window`.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };

let [received, opened, isOpen] = [0, 0, false];
const end = new AbortController();
await fetchEventSource(url, {
  signal: end.signal,
  async onopen(response) {
    if (response.status !== 200) fail(`status ${response.status}`);
    isOpen = true;
    print({ opened: ++opened });
  },
  onmessage({ id, event, data }) {
    if (received === count) return;
    print({ id, event: event || 'message', data });
    if (!event.startsWith('fanfare.') && ++received === count) end.abort();
  },
  onclose() { throw new Error('the stream ended'); },
  onerror() {
    if (isOpen) print({ lost: opened });
    isOpen = false;
  },
});
