/**
 * Two connections in one page with encryption in between: whether frames of a codec survive it.
 */
import { FrameEncryption } from '/call/encryption.js';
import { offerRawPacketization, prepare } from '/call/media.js';

/** Enough to be sure that it was not the first, lucky frame. */
const FRAMES = 20;

/**
 * Sends the camera from one connection to the other.
 *
 * @param {string} codec
 * @returns {Promise<{codec: ?string, decoded: number, sealed: number, opened: number, dropped: number}>} as soon as
 *   enough frames were decoded, or after ten seconds
 */
export async function run(codec) {
  const encryption = await FrameEncryption.start(crypto.getRandomValues(new Uint8Array(16)), () => {});
  const [sender, receiver] = [new RTCPeerConnection(), new RTCPeerConnection()];
  sender.onicecandidate = ({ candidate }) => receiver.addIceCandidate(candidate);
  receiver.onicecandidate = ({ candidate }) => sender.addIceCandidate(candidate);
  const stream = await navigator.mediaDevices.getUserMedia({ video: true });

  const out = sender.addTransceiver(stream.getTracks()[0], { direction: 'sendonly' });
  encryption.send(out.sender, 'video', 'out');
  prepare(out, 'video', 'send', [codec]);
  const offer = await sender.createOffer();
  await sender.setLocalDescription({ type: 'offer', sdp: offerRawPacketization(offer.sdp) });
  await receiver.setRemoteDescription({ type: 'offer', sdp: offerRawPacketization(sender.localDescription.sdp) });

  const [into] = receiver.getTransceivers();
  encryption.receive(into.receiver, 'video', 'in');
  prepare(into, 'video', 'receive', [codec]);
  const video = Object.assign(document.createElement('video'), { muted: true, autoplay: true });
  video.srcObject = new MediaStream([into.receiver.track]);
  document.body.append(video);
  const answer = await receiver.createAnswer();
  await receiver.setLocalDescription({ type: 'answer', sdp: offerRawPacketization(answer.sdp) });
  await sender.setRemoteDescription({ type: 'answer', sdp: offerRawPacketization(receiver.localDescription.sdp) });

  let inbound;
  for (let tries = 0; tries < 100 && !(inbound?.framesDecoded >= FRAMES); tries += 1) {
    await new Promise((resolve) => {
      setTimeout(resolve, 100);
    });
    inbound = [...(await receiver.getStats()).values()].find(({ type }) => type === 'inbound-rtp');
    inbound = inbound && { ...inbound, codec: (await receiver.getStats()).get(inbound.codecId)?.mimeType };
  }
  const counts = await encryption.counts();
  for (const track of stream.getTracks()) track.stop();
  for (const each of [sender, receiver]) each.close();
  encryption.stop();
  return { codec: inbound?.codec ?? null, decoded: inbound?.framesDecoded ?? 0, ...counts };
}
