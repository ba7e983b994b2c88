// Subscribes with the `eventsource` package and prints what it receives, one JSON object per line.
//
// usage: eventsource_client.mjs URL COUNT
//
// The package reconnects by itself with `Last-Event-ID`, as browsers do. The script prints
// {"opened":n} each time a stream has opened and {"lost":n} each time a stream has ended.
import { EventSource } from 'eventsource';

const [url, count] = [process.argv[2], Number(process.argv[3])];
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

let [received, opened, lost] = [0, 0, 0];
const source = new EventSource(url);
const take = (event) => {
  print({ id: event.lastEventId, event: event.type, data: event.data });
  if (++received === count) source.close();
};
source.addEventListener('open', () => print({ opened: ++opened }));
source.addEventListener('error', (event) => {
  if (source.readyState === EventSource.CLOSED) fail(`gave up: ${event.message ?? event.code}`);
  print({ lost: ++lost });
});
source.addEventListener('message', take);
source.addEventListener('price', take);
source.addEventListener('fanfare.gap', (event) => print({ gap: JSON.parse(event.data) }));
