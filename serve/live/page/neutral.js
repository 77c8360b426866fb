// What the weights know of people, said beside the picture; and the driving face that counts as neutral, which weights
// that never saw a person need before a real face drives them well.

import {driver} from './driver.js';
import {listen, say, session} from './line.js';
import {notice} from './notices.js';

const $ = id => document.getElementById(id);
const box = $('neutral');
let declined = false; // the user has taken it back while this face drives

listen('hello', ({weights, notes}) => {
  $('weights').hidden = !weights;
  box.checked = false;
  $('notes').textContent = notes.join(' ');
  if (!weights) return;
  for (const part of ['title', 'sentence', 'remedy']) $(`weights-${part}`).textContent = weights[part];
  $('weights-commands').textContent = weights.commands.join('\n');
});

listen('driver', () => {
  declined = false;
  if (!wish() && session.hello && box.checked) say({do: 'neutral', on: false}); // it was another face's
});
listen('portrait', () => { if (!box.checked) wish(); });
listen('lost', () => notice('neutral', ''));

// Asks for the face that shall count as neutral: who sits before a camera can hold still, a file begins as it begins.
function wish() {
  const real = driver.kind === 'camera' || driver.kind === 'file';
  if (!real || declined || !session.hello?.weights?.neutral) return false;
  say({do: 'neutral', on: true, when: driver.kind === 'camera' ? 'still' : 'first'});
  return true;
}

function take(on) {
  declined = !on;
  say({do: 'neutral', on});
}

listen('neutral', ({on, waits, by_itself}) => {
  box.checked = on;
  if (waits === 'still') notice('neutral', 'look straight ahead and relax your face for a second: it then counts as neutral, '
    + 'so that your eyes and smile are read right', 0, [['Take it now', () => take(true)], ['No', () => take(false)]]);
  else if (waits) notice('neutral', 'the first face of this video will count as neutral', 0, [['No', () => take(false)]]);
  else if (by_itself) notice('neutral', 'this face counts as neutral now: the portrait rests where you rest', 15,
    [['Take another', () => take(true)], ['Undo', () => take(false)]]);
  else notice('neutral', '');
});

box.onchange = () => {
  take(box.checked);
  box.checked = !box.checked; // until the server says so
};
