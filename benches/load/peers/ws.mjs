// A server with the Node package `ws`. The server broadcasts in the way that the package documents.
//
// usage: ws.mjs [--shared-frame] --feed PATH
//
// A feeder writes publications to a Unix socket, one per line. The program ends when the feeder
// disconnects. With --shared-frame, the package's undocumented Sender frames each publication once
// for all clients, as in Socket.IO.
import net from 'node:net';
import http from 'node:http';
import readline from 'node:readline';
import WebSocket, { Sender, WebSocketServer } from 'ws';

const sharesFrame = process.argv.includes('--shared-frame');
const feedPath = process.argv[process.argv.indexOf('--feed') + 1];

const server = http.createServer();
const sockets = new WebSocketServer({ server, path: '/ws', perMessageDeflate: false });
sockets.on('connection', (socket) => socket.on('error', () => socket.terminate()));

function broadcast(line) {
  for (const client of sockets.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(line);
  }
}

function broadcastFrame(line) {
  const options = { fin: true, rsv1: false, opcode: 1, mask: false, readOnly: false };
  const frame = Sender.frame(Buffer.from(line), options);
  for (const client of sockets.clients) {
    if (client.readyState === WebSocket.OPEN) client._sender.sendFrame(frame);
  }
}

const feed = net.createServer((feeder) => {
  feed.close();
  const lines = readline.createInterface({ input: feeder });
  lines.on('line', sharesFrame ? broadcastFrame : broadcast);
  lines.on('close', () => process.exit(0));
});
feed.listen(feedPath, () => {
  // The backlog is large enough for a connect storm, but the kernel limits it to somaxconn.
  server.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => {
    console.log(`ready: http://127.0.0.1:${server.address().port}`);
  });
});
