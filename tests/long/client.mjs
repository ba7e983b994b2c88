// Subscribes with an npm package and prints what the package delivers, one JSON object per line.
//
// usage: client.mjs eventsource-client|launchdarkly-eventsource|undici|
//                   reconnecting-websocket|websocket URL COUNT
//
// Ends with status 0 after COUNT publications. The output has the format of eventsource_client.mjs
// for event streams and of ws_client.mjs for WebSockets.
const [library, url, count] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
// This timer keeps the process alive, which the timers of some packages do not do.
setTimeout(() => fail('not done in 60 s'), 60_000);

let [received, opened, isOpen] = [0, 0, false];
const open = () => { isOpen = true; print({ opened: ++opened }); };
// Reports the end of an open stream once. Most packages also report a failed reconnect as an error.
const lose = () => { if (isOpen) print({ lost: opened }); isOpen = false; };

// Prints a dispatched event of any type.
function take(id, event, data) {
  if (received === count) return;
  print({ id, event, data });
  if (!event.startsWith('fanfare.') && ++received === count) process.exit(0);
}

// Uses a package whose interface is that of a browser's EventSource.
function follow(source) {
  source.addEventListener('open', open);
  source.addEventListener('error', lose);
  // launchdarkly-eventsource has different events for the end of a stream and for an error.
  source.addEventListener('end', lose);
  for (const type of ['message', 'price']) {
    source.addEventListener(type, (event) => take(event.lastEventId, event.type, event.data));
  }
}

// Uses a package whose interface is that of a browser's WebSocket.
function converse(socket) {
  socket.addEventListener('open', () => print({ protocol: socket.protocol }));
  socket.addEventListener('close', (event) => {
    print({ closed: event.code });
    process.exit(0);
  });
  socket.addEventListener('message', ({ data }) => {
    const message = JSON.parse(data);
    print(message);
    if (message.type === undefined && ++received === count) socket.close(1000, 'done');
  });
}

const libraries = {
  async 'eventsource-client'() {
    const { createEventSource } = await import('eventsource-client');
    createEventSource({
      url,
      onConnect: open,
      onDisconnect: lose,
      onMessage: ({ id, event, data }) => take(id, event ?? 'message', data),
    });
  },
  async 'launchdarkly-eventsource'() {
    const { EventSource } = (await import('launchdarkly-eventsource')).default;
    follow(new EventSource(url));
  },
  async undici() {
    const { EventSource } = await import('undici');
    follow(new EventSource(url));
  },
  async 'reconnecting-websocket'() {
    const [{ default: Socket }, { WebSocket }] = await Promise.all(
      [import('reconnecting-websocket'), import('undici')],
    );
    const socket = new (Socket.default ?? Socket)(url, 'fanfare.v1', { WebSocket });
    converse(socket);
  },
  async websocket() {
    const { w3cwebsocket } = (await import('websocket')).default;
    const socket = new w3cwebsocket(url, 'fanfare.v1');
    socket.addEventListener ??= (type, act) => { socket[`on${type}`] = act; };
    converse(socket);
  },
};
await libraries[library]();
