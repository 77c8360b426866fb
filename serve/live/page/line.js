// The line to the server, a WebSocket, and who on the page hears what comes over it.

export const session = {hello: null, ready: false}; // what the server said first; whether it has a portrait to drive

const hearers = new Map();
let socket = null;

// Besides what the server says in `is`: `picture` (bytes), `lost` (the line has closed), `driver` (another face drives).
export function listen(kind, hears) { hearers.set(kind, [...hearers.get(kind) ?? [], hears]); }
export function emit(kind, message = {}) { for (const hears of hearers.get(kind) ?? []) hears(message); }

export function connect() {
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/session`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = ({data}) => {
    if (typeof data !== 'string') return emit('picture', data);
    const message = JSON.parse(data);
    if (message.is === 'hello') begin(message);
    emit(message.is, message);
  };
  socket.onclose = () => { begin(null); emit('lost'); };
}

function begin(hello) { Object.assign(session, {hello, ready: false}); }

// The socket while it is open, else null.
export function line() { return socket?.readyState === WebSocket.OPEN ? socket : null; }

export function say(message) { line()?.send(JSON.stringify(message)); }
