/**
 * Media sections: what they may send, with which codecs and header extensions, and the few things their description
 * must say that no browser API can. Used by `trunkline-client.js`.
 *
 * @module media
 */

/** The dependency descriptor: with it a relay finds frames and layers of every codec without reading payload. */
export const DEPENDENCY_DESCRIPTOR =
  'https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension';

/**
 * Header extensions of video that browsers leave out of some offers: which layers a packet belongs to, which ones are
 * sent now and at what rate, when it was sent (for estimates of what the line carries), and which encoding it is of.
 */
const VIDEO_EXTENSIONS = [
  DEPENDENCY_DESCRIPTOR,
  'http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00',
  'http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01',
  'urn:ietf:params:rtp-hdrext:sdes:mid',
  'urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id',
  'urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id',
];

/**
 * What a participant may send, in the order of its media sections: kind, and whether it belongs to a shared screen.
 *
 * @type {Record<string, {kind: 'audio' | 'video', slides: boolean}>}
 */
export const SOURCES = {
  microphone: { kind: 'audio', slides: false },
  camera: { kind: 'video', slides: false },
  screen: { kind: 'video', slides: true },
  screen_audio: { kind: 'audio', slides: true },
};

/**
 * Encodings of a camera, the smallest first: a quarter, a half and the full height of 720 lines. More bits look better
 * and take more of the sender's line; the first is all that those with 300 kbit/s see.
 */
const CAMERA = [
  { rid: 'q', scaleResolutionDownBy: 4, maxBitrate: 150_000 },
  { rid: 'h', scaleResolutionDownBy: 2, maxBitrate: 500_000 },
  { rid: 'f', scaleResolutionDownBy: 1, maxBitrate: 1_700_000 },
];

/** Encodings of a screen: writing must stay readable, so the smaller one has fewer pictures rather than pixels. */
const SCREEN = [
  { rid: 'h', scaleResolutionDownBy: 1, maxBitrate: 400_000, maxFramerate: 5 },
  { rid: 'f', scaleResolutionDownBy: 1, maxBitrate: 2_500_000 },
];

/**
 * Layers within one encoding, by codec, for those that can: three sizes and three frame rates, where only key frames
 * of one size refer to another.
 */
const SCALABLE = { VP9: 'L3T3_KEY', AV1: 'L3T3_KEY' };
/** Three frame rates in each encoding of simulcast. VP8 has them without being asked. */
const TEMPORAL = { VP9: 'L1T3', AV1: 'L1T3', H264: 'L1T3' };

/** The preferred first: with what came before in each packet, speech survives a fifth of all packets being lost. */
const AUDIO_CODECS = ['red', 'opus'];
/** While somebody is there who would not hear that. */
const PLAIN_AUDIO_CODECS = ['opus', 'red'];

/** Codecs whose packetizer looks into frames: encrypted ones pass only unpacketized. */
const RAW_CODECS = ['AV1', 'H264'];

/**
 * What a source is encoded as, for `addTransceiver`.
 *
 * @param {string} source see {@link SOURCES}
 * @param {string[]} videoCodecs the preferred first
 * @param {'simulcast' | 'svc'} [layers] `svc`: one encoding that holds all sizes, where the codec can; when not given
 *   for those that can
 * @returns {RTCRtpEncodingParameters[] | undefined} undefined for audio
 */
export function encodings(source, videoCodecs, layers) {
  const { kind, slides } = SOURCES[source];
  if (kind === 'audio') return undefined;
  const codec = videoCodecs[0]?.toUpperCase();
  const all = slides ? SCREEN : CAMERA;
  // A screen in several sizes would be read in none but the largest.
  if (SCALABLE[codec] && layers !== 'simulcast') {
    return [{ maxBitrate: all.at(-1).maxBitrate, scalabilityMode: slides ? TEMPORAL[codec] : SCALABLE[codec] }];
  }
  const mode = TEMPORAL[codec];
  return all.map((each) => (mode ? { ...each, scalabilityMode: mode } : { ...each }));
}

/**
 * Chooses what a new media section offers: codecs by preference, with retransmission, and for video the header
 * extensions that browsers leave out of plain offers.
 *
 * @param {RTCRtpTransceiver} transceiver
 * @param {'audio' | 'video'} kind
 * @param {'send' | 'receive'} direction
 * @param {string[]} videoCodecs names without `video/`, the preferred first
 */
export function prepare(transceiver, kind, direction, videoCodecs) {
  prefer(transceiver, kind, direction, kind === 'audio' ? AUDIO_CODECS : videoCodecs);
  if (kind === 'video') askForExtensions(transceiver);
}

/**
 * Chooses whether sound is to be sent with redundancy: the next offer says so.
 *
 * @param {RTCRtpTransceiver} transceiver
 * @param {boolean} redundant
 */
export function preferRedundancy(transceiver, redundant) {
  prefer(transceiver, 'audio', 'send', redundant ? AUDIO_CODECS : PLAIN_AUDIO_CODECS);
}

function prefer(transceiver, kind, direction, names) {
  const { codecs } = (direction === 'send' ? RTCRtpSender : RTCRtpReceiver).getCapabilities(kind) ?? { codecs: [] };
  const named = (name) =>
    codecs.filter(({ mimeType }) => mimeType.toLowerCase() === `${kind}/${name}`.toLowerCase());
  const wanted = names.flatMap(named);
  if (wanted.length > 0) transceiver.setCodecPreferences?.([...wanted, ...named('rtx')]);
}

/**
 * Asks for the header extensions of video. Before every offer: browsers forget those that the last answer left out, and
 * a section that did not send before needs more.
 *
 * @param {RTCRtpTransceiver} transceiver
 */
export function askForExtensions(transceiver) {
  if (!transceiver.setHeaderExtensionsToNegotiate) return;
  const extensions = transceiver.getHeaderExtensionsToNegotiate();
  for (const extension of extensions) {
    if (VIDEO_EXTENSIONS.includes(extension.uri)) extension.direction = 'sendrecv';
  }
  transceiver.setHeaderExtensionsToNegotiate(extensions);
}

/**
 * Splits a description at its media sections. The first part is that of the session.
 *
 * @param {string} sdp
 * @returns {string[]} parts that join to the same text
 */
export function sections(sdp) {
  return sdp.split(/(?=^m=)/m);
}

/**
 * The name of a media section.
 *
 * @param {string} section
 * @returns {string | undefined}
 */
export function midOf(section) {
  return /^a=mid:(\S+)/m.exec(section)?.[1];
}

/**
 * Offers raw packetization for the codecs that need it once frames are encrypted.
 *
 * @param {string} sdp
 * @returns {string}
 */
export function offerRawPacketization(sdp) {
  return sections(sdp).map((section) => (section.startsWith('m=video') ? withRaw(section) : section)).join('');
}

/**
 * Says that silence need not be sent (`usedtx`, RFC 7587, section 6.1). No browser API does: a client sends so when the
 * answer asks for it, and the relay's answers say what the offer did.
 *
 * @param {string} sdp
 * @returns {string}
 */
export function offerSilence(sdp) {
  return sections(sdp).map((section) => (section.startsWith('m=audio') ? withSilence(section) : section)).join('');
}

/**
 * Marks sections as a shared screen or its sound (RFC 4796).
 *
 * @param {string} sdp
 * @param {string[]} mids
 * @returns {string}
 */
export function markSlides(sdp, mids) {
  const marked = (section) => section.replace(/^a=mid:\S+\r\n/m, '$&a=content:slides\r\n');
  return sections(sdp).map((section) => (mids.includes(midOf(section)) ? marked(section) : section)).join('');
}

function withRaw(section) {
  return section.replace(/^a=rtpmap:(\d+) ([^/\r\n]+)\/.*\r\n/gm, (line, payloadType, codec) => {
    const raw = `a=packetization:${payloadType} raw\r\n`;
    return RAW_CODECS.includes(codec.toUpperCase()) && !section.includes(raw) ? line + raw : line;
  });
}

function withSilence(section) {
  const payloadType = /^a=rtpmap:(\d+) opus\//im.exec(section)?.[1];
  if (payloadType === undefined || section.includes('usedtx=')) return section;
  const parameters = new RegExp(`^a=fmtp:${payloadType} .+$`, 'm');
  if (parameters.test(section)) return section.replace(parameters, '$&;usedtx=1');
  return section.replace(/^a=rtpmap:\d+ opus\/.*\r\n/im, `$&a=fmtp:${payloadType} usedtx=1\r\n`);
}
