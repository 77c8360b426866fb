// The figures below the result: frames per second, latency and its parts, over the last two seconds.

const PARTS = ['capture', 'network', 'queue', 'compute', 'encode'];
const WINDOW_MS = 2000;
const $ = id => document.getElementById(id);

let samples = [];
const median = values => values.length ? values.sort((a, b) => a - b)[values.length >> 1] : NaN;

// A result has been shown: milliseconds of its parts and in total.
export function count(sample) { samples.push({...sample, at: performance.now()}); }

export function showFigures(dropped, way) {
  const now = performance.now();
  samples = samples.filter(sample => now - sample.at < WINDOW_MS);
  const has = samples.length > 1;
  const unit = (value, name) => `${value}<small>${name}</small>`;
  $('fps').textContent = has ? (1000 * samples.length / WINDOW_MS).toFixed(1) : '–';
  $('latency').innerHTML = has ? unit(Math.round(median(samples.map(s => s.total))), 'ms') : '–';
  $('dropped').textContent = dropped;
  const parts = PARTS.map(name => has ? median(samples.map(s => s[name])) : 0), whole = parts.reduce((a, b) => a + b, 0);
  PARTS.forEach((name, i) => {
    $('bar').querySelector(`.${name}`).style.width = has ? `${98 * parts[i] / whole}%` : '0';
    $('parts').querySelector(`span.${name} b`).textContent = has ? `${parts[i].toFixed(parts[i] < 10 ? 1 : 0)} ms` : '–';
  });
  Object.assign(document.body.dataset, {fps: $('fps').textContent, latency: $('latency').textContent, way});
}

// Pictures of a video stream carry no number: what the browser measured of the stream stands for their way.
export async function streamParts(peer) {
  let capture = 0, inbound = 0, round = 0;
  const mean = (total, number) => number ? 1000 * total / number : 0;
  for (const entry of (await peer.getStats()).values()) {
    if (entry.type === 'outbound-rtp' && entry.kind === 'video') capture = mean(entry.totalEncodeTime, entry.framesEncoded);
    if (entry.type === 'inbound-rtp' && entry.kind === 'video')
      inbound = mean(entry.jitterBufferDelay, entry.jitterBufferEmittedCount) + mean(entry.totalDecodeTime, entry.framesDecoded);
    if (entry.type === 'candidate-pair' && entry.nominated) round = 1000 * (entry.currentRoundTripTime ?? 0);
  }
  return {capture, network: round + inbound};
}
