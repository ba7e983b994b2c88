// Subscribes with the `ws` package and prints what it receives, one JSON object per line.
//
// usage: ws_client.mjs URL COUNT [deflate]
//
// After COUNT publications it pings, waits for the pong and closes with 1000. With `deflate` it
// offers permessage-deflate with the package's defaults, prints the negotiated extension, and sends
// a compressed command.
import WebSocket from 'ws';

const [url, count] = [process.argv[2], Number(process.argv[3])];
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

let received = 0;
const deflates = process.argv[4] === 'deflate';
const socket = new WebSocket(url, 'fanfare.v1', { perMessageDeflate: deflates });
socket.on('error', (error) => fail(`error: ${error.message}`));
let extensions;
socket.on('upgrade', (response) => { extensions = response.headers['sec-websocket-extensions']; });
socket.on('open', () => {
  print({ protocol: socket.protocol });
  if (!deflates) return;
  print({ extensions });
  // The package compresses messages of 1024 bytes or more.
  socket.send(JSON.stringify({ type: 'ping', ref: 7, pad: 'x'.repeat(2000) }));
});
socket.on('pong', (data) => { print({ pong: data.toString() }); socket.close(1000, 'done'); });
socket.on('close', (code) => print({ closed: code }));
socket.on('message', (data, isBinary) => {
  if (isBinary) return fail('a binary message');
  const message = JSON.parse(data.toString());
  print(message);
  if (message.type === undefined && ++received === count) socket.ping('still there');
});
