// Subscribes with the `ws` package and prints what it receives, one JSON object a line.
//
// usage: ws_client.mjs URL COUNT
//
// After COUNT publications it pings, waits for the pong and closes with 1000.
import WebSocket from 'ws';

const [url, count] = [process.argv[2], Number(process.argv[3])];
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

let received = 0;
const socket = new WebSocket(url, 'fanfare.v1', { perMessageDeflate: false });
socket.on('error', (error) => fail(`error: ${error.message}`));
socket.on('open', () => print({ protocol: socket.protocol }));
socket.on('pong', (data) => { print({ pong: data.toString() }); socket.close(1000, 'done'); });
socket.on('close', (code) => print({ closed: code }));
socket.on('message', (data, isBinary) => {
  if (isBinary) return fail('a binary message');
  const message = JSON.parse(data.toString());
  print(message);
  if (message.type === undefined && ++received === count) socket.ping('still there');
});
