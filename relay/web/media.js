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
 * What a participant may send, in the order of its media sections: kind, whether it belongs to a shared screen, and
 * the most a video stream may take in bits per second.
 *
 * @type {Record<string, {kind: 'audio' | 'video', slides: boolean, bitrateMax?: number}>}
 */
export const SOURCES = {
  microphone: { kind: 'audio', slides: false },
  camera: { kind: 'video', slides: false, bitrateMax: 1_500_000 },
  screen: { kind: 'video', slides: true, bitrateMax: 2_500_000 },
  screen_audio: { kind: 'audio', slides: true },
};

const AUDIO_CODECS = ['opus', 'red'];

/** Codecs whose packetizer looks into frames: encrypted ones pass only unpacketized. */
const RAW_CODECS = ['AV1', 'H264'];

/**
 * Chooses what a new media section offers: codecs by preference, with retransmission, and for video the dependency
 * descriptor, which browsers leave out of plain offers.
 *
 * @param {RTCRtpTransceiver} transceiver
 * @param {'audio' | 'video'} kind
 * @param {'send' | 'receive'} direction
 * @param {string[]} videoCodecs names without `video/`, the preferred first
 */
export function prepare(transceiver, kind, direction, videoCodecs) {
  const { codecs } = (direction === 'send' ? RTCRtpSender : RTCRtpReceiver).getCapabilities(kind) ?? { codecs: [] };
  const named = (name) =>
    codecs.filter(({ mimeType }) => mimeType.toLowerCase() === `${kind}/${name}`.toLowerCase());
  const wanted = (kind === 'audio' ? AUDIO_CODECS : videoCodecs).flatMap(named);
  if (wanted.length > 0) transceiver.setCodecPreferences?.([...wanted, ...named('rtx')]);
  if (kind === 'video' && transceiver.setHeaderExtensionsToNegotiate) {
    const extensions = transceiver.getHeaderExtensionsToNegotiate();
    for (const extension of extensions) {
      if (extension.uri === DEPENDENCY_DESCRIPTOR) extension.direction = 'sendrecv';
    }
    transceiver.setHeaderExtensionsToNegotiate(extensions);
  }
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
