// Acknowledgement windows: the server sends at most `window` publications beyond the last one that
// the application has processed. The rest waits in the server's log, not in the page's memory.
//
// Windows need a WebSocket. On the other transports the publications arrive without a window.

/**
 * Subscribes with a window. A publication counts as processed when the loop asks for the next one.
 *
 *     for await (const order of acknowledged(client, 'orders', { window: 10 })) await store(order);
 */
export async function* acknowledged(client, channel, { window = 16, ...options } = {}) {
  let processed = 0;
  for await (const publication of client.subscribe(channel, { ...options, window })) {
    yield publication;
    // One `ack` for half a window keeps the flow steady with few messages.
    if (++processed % Math.ceil(window / 2) === 0) acknowledge(client, channel, publication.id);
  }
}

// An `ack` that fails is not repeated: the next one includes it, and so does the position from
// which a new connection resumes.
const acknowledge = (client, channel, id) => {
  client.request({ type: 'ack', channel, id }).catch(() => {});
};
