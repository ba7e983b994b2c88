// Sends a token with the `ws` package and prints what it receives, one JSON object per line.
//
// usage: token_client.mjs URL header|subprotocol|message TOKEN
//
// Ends when the server closes, and prints a line with the close code. If the handshake is refused,
// prints a line with the status.
import WebSocket from 'ws';

const [url, way, token] = process.argv.slice(2);
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

const protocols = ['fanfare.v1'];
if (way === 'subprotocol') protocols.push(`fanfare.token.${token}`);
const headers = way === 'header' ? { Authorization: `Bearer ${token}` } : {};
const socket = new WebSocket(url, protocols, { headers });
socket.on('unexpected-response', (_request, response) => {
  print({ status: response.statusCode });
  process.exit(0);
});
socket.on('error', (error) => fail(`error: ${error.message}`));
socket.on('open', () => {
  print({ protocol: socket.protocol });
  if (way === 'message') socket.send(JSON.stringify({ type: 'auth', token, ref: 1 }));
});
socket.on('message', (data) => print(JSON.parse(data.toString())));
socket.on('close', (code) => print({ closed: code }));
