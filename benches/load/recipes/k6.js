// WebSocket users for k6. USERS is the number of users. Each user subscribes, reads for SECONDS and
// disconnects.
//
// usage: k6 run -e USERS=1000 -e SECONDS=30 -e URL='ws://127.0.0.1:8080/ws?channel=load' k6.js
//
// In the output, `ws_connecting` is the time to connect, `publications` is the number of
// deliveries, and `faults` is the number of publications of `fanfare bench` that were missing,
// duplicated or out of order. The run fails if `faults` is not zero. k6 cannot read event streams,
// because its HTTP requests end with the response.
import { check } from 'k6';
import { Counter } from 'k6/metrics';
import ws from 'k6/ws';

const url = __ENV.URL || 'ws://127.0.0.1:8080/ws?channel=load';
const seconds = Number(__ENV.SECONDS || 30);
const publications = new Counter('publications');
const faults = new Counter('faults');

export const options = {
  scenarios: {
    subscribers: {
      executor: 'per-vu-iterations',
      vus: Number(__ENV.USERS || 1000),
      iterations: 1,
      maxDuration: `${seconds + 60}s`,
    },
  },
  thresholds: { faults: ['count==0'], checks: ['rate==1'] },
};

export default function subscriber() {
  let next = 0;
  const response = ws.connect(url, {}, (socket) => {
    socket.on('message', (text) => {
      const message = JSON.parse(text);
      if (message.type !== undefined || message.data.n === undefined) return;
      const number = Number(message.data.n);
      publications.add(1);
      if (next !== 0 && number !== next) faults.add(1);
      next = number + 1;
    });
    socket.setTimeout(() => socket.close(), seconds * 1000);
  });
  check(response, { 'is accepted': (answer) => answer && answer.status === 101 });
}
