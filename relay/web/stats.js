/**
 * Sums up what `RTCPeerConnection.getStats()` reports, for people who look into a call and for tests.
 *
 * @module stats
 */

const INBOUND = [
  'packetsReceived',
  'packetsLost',
  'bytesReceived',
  'framesDecoded',
  'keyFramesDecoded',
  'framesDropped',
  'freezeCount',
  'nackCount',
  'pliCount',
  'totalAudioEnergy',
  'totalSamplesReceived',
  'concealedSamples',
  'silentConcealedSamples',
];
const OUTBOUND = [
  'packetsSent',
  'bytesSent',
  'retransmittedPacketsSent',
  'framesEncoded',
  'keyFramesEncoded',
  'nackCount',
  'pliCount',
];

/**
 * @typedef {object} SlotStats
 * @property {string} slot the `mid`
 * @property {'audio' | 'video'} kind
 * @property {?string} participant who is in it
 * @property {?string} codec such as `video/VP8`
 * @property {number} frameHeight height of the last decoded picture, 0 before the first and for audio
 * @property {number} frameWidth
 * Further: packetsReceived, packetsLost, bytesReceived, framesDecoded, keyFramesDecoded, framesDropped, freezeCount,
 * nackCount, pliCount, totalAudioEnergy, totalSamplesReceived, concealedSamples, silentConcealedSamples, as the
 * standard defines them; 0 when not reported.
 *
 * @typedef {object} SourceStats
 * @property {string} source
 * @property {string} mid
 * @property {?string} codec
 * @property {number} frameHeight of the largest encoding that is sent
 * @property {object[]} encodings each with rid, active, frameHeight, framesPerSecond, scalabilityMode, bytesSent,
 *   framesEncoded, targetBitrate; the smallest first
 * Further: packetsSent, bytesSent, retransmittedPacketsSent, framesEncoded, keyFramesEncoded, nackCount, pliCount, of
 * all encodings.
 */

/**
 * @param {RTCStatsReport} report
 * @param {Array<{mid: string, kind: string, participant: ?string}>} slots
 * @param {Array<{source: string, mid: string}>} senders
 * @returns {{slots: SlotStats[], sources: SourceStats[], transport: object}}
 */
export function summarise(report, slots, senders) {
  const all = [...report.values()];
  const codecOf = (entry) => report.get(entry?.codecId)?.mimeType ?? null;
  const of = (type, mid) => all.filter((entry) => entry.type === type && entry.mid === mid);
  return {
    slots: slots.map(({ mid, kind, participant }) => {
      const entries = of('inbound-rtp', mid);
      const last = entries.at(-1);
      return {
        slot: mid,
        kind,
        participant,
        codec: codecOf(last),
        frameHeight: last?.frameHeight ?? 0,
        frameWidth: last?.frameWidth ?? 0,
        ...sums(entries, INBOUND),
      };
    }),
    sources: senders.map(({ source, mid }) => {
      const entries = of('outbound-rtp', mid);
      const frameHeight = Math.max(0, ...entries.map((entry) => entry.frameHeight ?? 0));
      const encodings = entries.map((entry) => encoding(entry)).sort((one, other) => one.frameHeight - other.frameHeight);
      return { source, mid, codec: codecOf(entries.at(-1)), frameHeight, ...sums(entries, OUTBOUND), encodings };
    }),
    transport: transport(report, all),
  };
}

function encoding({ rid, active, frameHeight, framesPerSecond, scalabilityMode, bytesSent, framesEncoded, targetBitrate }) {
  return {
    rid: rid ?? null,
    active: active ?? true,
    frameHeight: frameHeight ?? 0,
    framesPerSecond: framesPerSecond ?? 0,
    scalabilityMode: scalabilityMode ?? null,
    bytesSent: bytesSent ?? 0,
    framesEncoded: framesEncoded ?? 0,
    targetBitrate: targetBitrate ?? 0,
  };
}

function sums(entries, names) {
  return Object.fromEntries(
    names.map((name) => [name, entries.reduce((sum, entry) => sum + (entry[name] ?? 0), 0)]),
  );
}

function transport(report, all) {
  const found = all.find((entry) => entry.type === 'transport');
  const pair = report.get(found?.selectedCandidatePairId);
  return {
    dtlsState: found?.dtlsState ?? 'new',
    tlsVersion: found?.tlsVersion ?? null,
    dtlsCipher: found?.dtlsCipher ?? null,
    srtpCipher: found?.srtpCipher ?? null,
    pair: pair && {
      protocol: report.get(pair.localCandidateId)?.protocol ?? null,
      localType: report.get(pair.localCandidateId)?.candidateType ?? null,
      remoteType: report.get(pair.remoteCandidateId)?.candidateType ?? null,
      rttMs: Math.round((pair.currentRoundTripTime ?? 0) * 1000),
      changes: found?.selectedCandidatePairChanges ?? 0,
    },
  };
}
