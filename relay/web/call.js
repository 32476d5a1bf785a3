/** The page: from an invitation to a call, and what a person does in it. */
import { canEncrypt } from './encryption.js';
import { decodeBase64, makeKey, readInvitation, readToken, writeInvitation } from './link.js';
import { importBaseKey, safetyCode } from './sframe.js';
import { Tiles, callTitle, connectionText, initials } from './tiles.js';
import { TrunklineCall } from './trunkline-client.js';

const JOIN_PROBLEMS = {
  0: 'The relay cannot be reached. Check your connection, then try again.',
  401: 'This invitation is not valid, or not any more. Ask for a new one.',
  403: 'This invitation is for another call.',
  404: 'There is no such call, or it is over.',
  409: 'The call is full.',
  422: 'The relay cannot work with this browser’s offer.',
  429: 'Too many attempts. Wait a moment, then try again.',
  503: 'The relay takes no new participants at the moment. Try again in a few minutes.',
};
const FAREWELLS = {
  left: ['You left the call', ''],
  replaced: ['You are in this call elsewhere', 'You joined it anew in another window or on another device.'],
  timed_out: ['The connection was lost', 'Nothing was heard from this browser any more.'],
  refused: ['The connection was refused', 'The secure connection to the relay could not be made.'],
  call_ended: ['The call is over', 'It ended for everybody. You can close this page.'],
  drained: ['The call was interrupted', 'The relay is being taken down. You may be able to join again.'],
  lost: ['The connection was lost', 'All attempts to come back failed.'],
  unauthorized: ['The invitation is not valid any more', 'Ask for a new one to come back.'],
};
/** Reasons after which the same invitation joins nothing any more. */
const FINAL = ['call_ended', 'unauthorized'];
const DEVICE_PROBLEMS = {
  NotAllowedError: 'Access was denied. You can allow it in the browser’s settings of this page.',
  NotFoundError: 'None was found.',
  NotReadableError: 'Another program uses it.',
};
const ENCRYPTED = {
  title: 'End-to-end encrypted',
  text: 'Sound and pictures are encrypted with a key that only those who have the link know. The relay cannot see or hear them. Compare this code with the others: it is the same for all who hold the same key.',
};
const NOT_ENCRYPTED = {
  title: 'Not end-to-end encrypted',
  text: 'The link of this call has no key. Sound and pictures are encrypted on their way to the relay, but the relay could see and hear them.',
};

const $ = (id) => document.getElementById(id);
const invitation = readInvitation(location);
const tiles = new Tiles($('tiles'), $('tile-template'), choosePin, (slot, height) => call?.setHeight(slot, height));
/** @type {?TrunklineCall} */
let call = null;
let self = null;
let code = null;
const tracks = { microphone: null, camera: null };
let selfView = null;
/** Why devices could not be used, by source. */
let deviceProblems = {};
/** @type {?MediaStream} */
let screen = null;

// The lobby.

function showLobby() {
  const linked = invitation.callId !== '' && invitation.token !== '';
  $('invitation').hidden = linked;
  $('call-id').value = invitation.callId;
  $('token').value = invitation.token;
  $('key').value = invitation.key;
  const { participant, role } = readToken(invitation.token);
  $('greeting').hidden = !linked || !participant;
  $('greeting').textContent = `You join as ${participant}${role === 'viewer' ? ', to watch and listen' : ''}.`;
  document.querySelector('.switches').hidden = role === 'viewer';
  showLobbyEncryption();
  show('lobby');
}

function showLobbyEncryption() {
  const encrypted = $('key').value.trim() !== '';
  $('lobby-encryption').dataset.encrypted = encrypted;
  $('lobby-encryption').querySelector('use').setAttribute('href', encrypted ? '#i-lock' : '#i-open');
  const without = 'Not end-to-end encrypted: the relay could see and hear this call.';
  $('lobby-encryption').querySelector('span').textContent = encrypted ? 'End-to-end encrypted' : without;
}

async function join() {
  const entered = { callId: $('call-id').value.trim(), token: $('token').value.trim(), key: $('key').value.trim() };
  $('call-id').setAttribute('aria-invalid', entered.callId === '');
  $('token').setAttribute('aria-invalid', entered.token === '');
  if (entered.callId === '' || entered.token === '') return problem('Enter the call and your join token.');
  let key;
  code = null;
  if (entered.key) {
    if (!canEncrypt()) return problem('This call is end-to-end encrypted, and this browser cannot do that.');
    try {
      key = decodeBase64(entered.key);
      code = await safetyCode(await importBaseKey(key));
    } catch {
      return problem('The encryption key is damaged: it must be at least 16 bytes of base64url.');
    }
  }
  problem('');
  $('join').disabled = true;
  const { participant, role } = readToken(entered.token);
  self = participant;
  call = new TrunklineCall();
  window.trunklineCall = call;
  listen(call);
  try {
    // Devices may take as long as a person thinks about a prompt; the call does not wait for them.
    const { callId, token } = entered;
    await call.join({ callId, token, key, sends: role !== 'viewer' });
  } catch (error) {
    call = null;
    sessionStorage.removeItem('joined');
    return problem(JOIN_PROBLEMS[error.status] ?? error.message, error.status === 422 ? error.message : '');
  } finally {
    $('join').disabled = false;
  }
  history.replaceState(null, '', writeInvitation(entered));
  sessionStorage.setItem('joined', entered.callId);
  enterRoom(entered.callId, role);
}

function problem(text, detail = '') {
  $('problem').textContent = detail ? `${text} (${detail})` : text;
  $('problem').hidden = text === '';
}

function show(view) {
  for (const id of ['lobby', 'room', 'farewell']) $(id).hidden = id !== view;
}

// The room.

function enterRoom(callId, role) {
  show('room');
  // For those who look for it in logs and consoles.
  $('room-title').title = `Call ${callId}`;
  for (const id of ['microphone', 'camera', 'screen']) $(id).hidden = role === 'viewer';
  $('screen').hidden ||= !navigator.mediaDevices?.getDisplayMedia;
  showEncryption();
  deviceProblems = {};
  banner('');
  for (const { kind, mid, stream } of call.slots) {
    if (kind !== 'audio') continue;
    const audio = Object.assign(document.createElement('audio'), { autoplay: true, srcObject: stream });
    audio.dataset.slot = mid;
    $('sounds').append(audio);
    audio.play().catch(({ name }) => {
      if (name === 'NotAllowedError') banner('The browser holds the sound back.', 'Play sound', playSound);
    });
  }
  render();
  $('leave').focus();
  if (role === 'viewer') return;
  for (const source of ['microphone', 'camera']) {
    if ($(`with-${source}`).checked) switchOn(source);
  }
}

function playSound() {
  banner('');
  for (const audio of $('sounds').children) audio.play();
}

function listen(events) {
  const mine = (handler) => ({ detail }) => {
    if (events === call) handler(detail);
  };
  const on = (name, handler) => events.addEventListener(name, mine(handler));
  on('state', ({ state }) => {
    if (state === 'connected') connection('good', 'Connected');
    if (state === 'reconnecting') {
      connection('poor', 'Reconnecting…');
      announce('The connection was lost. Reconnecting.');
    }
  });
  on('roster', (change) => {
    announceRoster(change);
    render();
  });
  on('slots', render);
  on('speakers', render);
  on('undecryptable', render);
  on('quality', ({ participant, quality, cause }) => {
    render();
    if (participant !== self) return;
    connection(quality, connectionText(true, { quality, cause }));
  });
  on('moved', () => announce('The call moves to another relay.'));
  on('ended', ({ reason }) => leaveRoom(reason));
}

function connection(level, text) {
  $('connection').dataset.level = level;
  $('connection').textContent = text;
}

function render() {
  if (!call) return;
  const { slots, roster, speakers, qualities } = call;
  tiles.update({ slots, roster, speakers, qualities, self, selfView });
  $('room-title').textContent = callTitle([...roster.keys()].filter((name) => name !== self));
  $('alone').hidden = [...roster.keys()].some((name) => name !== self);
  renderPeople();
  for (const [id, icon] of [['microphone', 'mic'], ['camera', 'camera']]) {
    const on = !call.isMuted(id);
    $(id).setAttribute('aria-pressed', on);
    $(id).querySelector('use').setAttribute('href', on ? `#i-${icon}` : `#i-${icon}-off`);
  }
  $('screen').setAttribute('aria-pressed', screen !== null);
}

function showPeople(shown) {
  $('people').hidden = !shown;
  $('people-toggle').setAttribute('aria-expanded', shown);
}

function renderPeople() {
  const { roster, speakers, qualities } = call;
  $('people-title').textContent = `Participants (${roster.size})`;
  const focused = document.activeElement?.closest('#people-list li')?.dataset.name;
  const names = [...roster.keys()].sort((first, second) => first.localeCompare(second));
  const rows = names.map((name) => {
    const row = $('person-template').content.firstElementChild.cloneNode(true);
    const { role, sources } = roster.get(name);
    const muted = (source) => sources.find((each) => each.source === source)?.muted ?? true;
    const pinned = call.slots.some((slot) => slot.pinned && slot.participant === name);
    const what = [role === 'viewer' && 'watching', role !== 'viewer' && muted('microphone') && 'muted'];
    if (!muted('screen')) what.push('shares a screen');
    row.dataset.name = name;
    row.classList.toggle('speaking', speakers.includes(name));
    row.querySelector('.initials').textContent = initials(name);
    row.querySelector('.who').textContent = name === self ? `${name} (you)` : name;
    row.querySelector('.what').textContent = what.filter(Boolean).join(', ');
    const quality = qualities.get(name);
    const connection = row.querySelector('.connection');
    connection.hidden = !quality;
    if (quality) {
      connection.dataset.level = quality.quality;
      connection.textContent = connectionText(name === self, quality);
    }
    const button = row.querySelector('button');
    button.disabled = name === self || role === 'viewer';
    button.setAttribute('aria-pressed', pinned);
    button.title = pinned ? 'Unpin' : 'Pin';
    button.addEventListener('click', () => choosePin({ participant: name, source: null, pinned }));
    return row;
  });
  $('people-list').replaceChildren(...rows);
  rows.find((row) => row.dataset.name === focused)?.querySelector('button').focus();
}

/** Pins who was chosen, or lets the relay choose again. One participant is pinned at a time. */
function choosePin({ participant, source, pinned }) {
  const video = call.slots.filter(({ kind }) => kind === 'video');
  for (const slot of video.filter((each) => each.pinned)) call.pin({ slot: slot.mid });
  if (pinned) return;
  const shows = (slot) => slot.participant === participant && (source === null || slot.source === source);
  const slot = video.find(shows) ?? video.find((each) => each.participant === null) ?? video.at(-1);
  if (!slot) return;
  const height = tiles.featuredHeight ?? Math.round($('stage').clientHeight * devicePixelRatio);
  call.pin({ slot: slot.mid, participant, source: source ?? undefined, height });
}

/** Names that were announced; none before the first roster. */
let announced = null;

function announceRoster({ complete, participants, left }) {
  const { roster } = call;
  if (complete || announced === null) {
    announce(`${roster.size} ${roster.size === 1 ? 'person is' : 'people are'} in the call.`);
    announced = new Set(roster.keys());
    return;
  }
  const joined = participants.map((entry) => entry.participant).filter((name) => !announced.has(name));
  for (const name of joined) announced.add(name);
  for (const name of left) announced.delete(name);
  const said = [joined.length > 0 && `${joined.join(', ')} joined.`, left.length > 0 && `${left.join(', ')} left.`];
  announce(said.filter(Boolean).join(' '));
}

function announce(text) {
  if (text) $('announcements').textContent = text;
}

function banner(text, action = '', onAction = null) {
  $('banner').hidden = text === '';
  $('banner').querySelector('span').textContent = text;
  $('banner-action').hidden = action === '';
  $('banner-action').textContent = action;
  $('banner-action').onclick = onAction;
}

function showEncryption() {
  const { title, text } = call.encrypted ? ENCRYPTED : NOT_ENCRYPTED;
  $('encryption').dataset.encrypted = call.encrypted;
  $('encryption').querySelector('use').setAttribute('href', call.encrypted ? '#i-lock' : '#i-open');
  $('encryption').querySelector('span').textContent = title;
  $('encryption-title').textContent = title;
  $('encryption-text').textContent = text;
  $('safety-code').hidden = !call.encrypted;
  $('safety-code').textContent = code ?? '';
}

// Devices.

async function switchOn(source) {
  const constraints = source === 'microphone'
    ? { audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true } }
    : { video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } } };
  const into = call;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    deviceProblem(source, DEVICE_PROBLEMS[error.name] ?? error.message);
    return;
  }
  const [track] = stream.getTracks();
  if (into !== call) return track.stop();
  tracks[source] = track;
  track.addEventListener('ended', () => switchOff(source));
  if (source === 'camera') selfView = stream;
  await call.setTrack(source, track);
  call.mute(source, false);
  render();
}

/** Both devices may fail, mostly for the same reason. */
function deviceProblem(source, text) {
  deviceProblems[source] = text;
  const { microphone, camera } = deviceProblems;
  const each = [microphone && `Microphone: ${microphone}`, camera && `Camera: ${camera}`].filter(Boolean).join(' ');
  banner(microphone === camera ? `Microphone and camera: ${text}` : each, 'Dismiss', () => {
    deviceProblems = {};
    banner('');
  });
}

async function switchOff(source) {
  tracks[source]?.stop();
  tracks[source] = null;
  if (source === 'camera') selfView = null;
  await call?.setTrack(source, null);
  render();
}

/** A microphone stays open, so that unmuting is immediate; a camera is switched off, and its light with it. */
async function toggle(source) {
  if (tracks[source] && source === 'camera') return switchOff(source);
  if (!tracks[source]) return switchOn(source);
  call.mute(source, !call.isMuted(source));
  render();
}

async function toggleScreen() {
  if (screen) return stopScreen();
  let stream;
  try {
    stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { max: 15 } }, audio: true });
  } catch (error) {
    // Changing one's mind in the browser's dialog is no problem to report.
    if (error.name !== 'NotAllowedError') banner(`Screen: ${error.message}`, 'Dismiss', () => banner(''));
    return;
  }
  const [track] = stream.getVideoTracks();
  track.contentHint = 'detail';
  track.addEventListener('ended', stopScreen);
  screen = stream;
  try {
    await call.shareScreen(stream);
    announce('You share your screen.');
  } catch (error) {
    endScreen();
    banner(`The screen cannot be shared: ${error.message}`, 'Dismiss', () => banner(''));
  }
  render();
}

async function stopScreen() {
  if (!screen) return;
  endScreen();
  await call?.stopScreen().catch(() => {});
  announce('You do not share your screen any more.');
  render();
}

function endScreen() {
  for (const track of screen?.getTracks() ?? []) track.stop();
  screen = null;
}

// The end.

function leaveRoom(reason) {
  call = null;
  sessionStorage.removeItem('joined');
  for (const source of ['microphone', 'camera']) switchOff(source);
  endScreen();
  tiles.clear();
  $('sounds').replaceChildren();
  showPeople(false);
  $('encryption-dialog').close();
  const [title, text] = FAREWELLS[reason] ?? ['The call ended', ''];
  $('farewell-title').textContent = title;
  $('farewell-text').textContent = text;
  $('farewell-text').hidden = text === '';
  $('again').hidden = FINAL.includes(reason);
  show('farewell');
  $('farewell-title').focus();
}

$('join-form').addEventListener('submit', (event) => {
  event.preventDefault();
  join();
});
$('key').addEventListener('input', showLobbyEncryption);
$('make-key').addEventListener('click', () => {
  $('key').value = makeKey();
  showLobbyEncryption();
});
$('microphone').addEventListener('click', () => toggle('microphone'));
$('camera').addEventListener('click', () => toggle('camera'));
$('screen').addEventListener('click', toggleScreen);
$('people-toggle').addEventListener('click', () => showPeople($('people').hidden));
$('people').addEventListener('keydown', ({ key }) => {
  if (key !== 'Escape') return;
  showPeople(false);
  $('people-toggle').focus();
});
$('encryption').addEventListener('click', () => $('encryption-dialog').showModal());
// A page that comes back from the browser's memory left the call when it went there.
addEventListener('pageshow', ({ persisted }) => {
  if (persisted) location.reload();
});
$('leave').addEventListener('click', () => call?.leave());
$('again').addEventListener('click', () => {
  showLobby();
  join();
});

showLobby();
// A reload is not a departure.
if (invitation.callId !== '' && sessionStorage.getItem('joined') === invitation.callId) join();
