// Put into every page after calls.js: a camera whose pictures are marked and fill their bit rate, and a detour for media
// through a network that a test makes slow.
(() => {
  /** The colour of the mark in the upper left corner, by who sends. */
  const MARKS = { ann: [208, 40, 40], bob: [40, 150, 40], carl: [40, 60, 208] };
  const [WIDTH, HEIGHT] = [1280, 720];
  /** Few pictures a second: several pages encode and decode on few cores. */
  const PICTURES_PER_S = 10;
  /** Grains of the picture's lower half. Larger ones are seen in small pictures, too; more contrast takes more bits. */
  const GRAIN = 8;
  const CONTRAST = 90;

  /** Something that moves everywhere and can be told apart. */
  const camera = (name) => {
    const grains = new OffscreenCanvas((2 * WIDTH) / GRAIN, (2 * HEIGHT) / GRAIN);
    const brush = grains.getContext('2d');
    const image = brush.createImageData(grains.width, grains.height);
    for (let at = 0; at < image.data.length; at += 4) {
      const grey = 128 + (Math.random() - 0.5) * CONTRAST;
      image.data.set([grey, grey, grey, 255], at);
    }
    brush.putImageData(image, 0, 0);
    const canvas = Object.assign(document.createElement('canvas'), { width: WIDTH, height: HEIGHT });
    const context = canvas.getContext('2d');
    context.imageSmoothingEnabled = false;
    setInterval(() => {
      const [left, top] = [Math.random() * WIDTH, Math.random() * HEIGHT];
      context.drawImage(grains, -left, -top, 2 * WIDTH, 2 * HEIGHT);
      context.fillStyle = `rgb(${MARKS[name].join()})`;
      context.fillRect(0, 0, WIDTH, HEIGHT / 2);
    }, 1000 / PICTURES_PER_S);
    return canvas.captureStream(PICTURES_PER_S);
  };

  const nobody = () => ({ name: null, distance: Infinity });
  /** Who is marked in what a slot shows; null while that is nobody. */
  const marked = async (slot) => {
    const video = Object.assign(document.createElement('video'), { muted: true, srcObject: slot.stream });
    await video.play();
    await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
    const context = new OffscreenCanvas(16, 9).getContext('2d');
    context.drawImage(video, 0, 0, 16, 9);
    video.srcObject = null;
    const [seen] = [context.getImageData(3, 1, 1, 1).data];
    const nearest = Object.entries(MARKS).reduce((best, [name, mark]) => {
      const distance = Math.hypot(...mark.map((part, at) => part - seen[at]));
      return distance < best.distance ? { name, distance } : best;
    }, nobody());
    return nearest.distance < 60 ? nearest.name : null;
  };

  /** From now on this browser takes no redundant sound, as there are some. */
  const withoutRedundancy = () => {
    const ask = RTCRtpReceiver.getCapabilities.bind(RTCRtpReceiver);
    RTCRtpReceiver.getCapabilities = (kind) => {
      const all = ask(kind);
      return { ...all, codecs: all.codecs.filter(({ mimeType }) => mimeType !== 'audio/red') };
    };
  };

  /** Sound without a pause. */
  const steadyTone = () => {
    const context = new AudioContext();
    const oscillator = context.createOscillator();
    const destination = context.createMediaStreamDestination();
    oscillator.connect(destination);
    oscillator.start();
    return destination.stream.getAudioTracks()[0];
  };

  /** What a camera is sent as: one encoding, by its name. */
  const encoding = async (rid, call = window.trunklineCall) => {
    const { sources } = await call.stats();
    return sources.find(({ source }) => source === 'camera').encodings.find((each) => each.rid === rid) ?? null;
  };

  /** How high what a slot decodes is, since the last look; 0 while it decodes nothing. */
  const heightOf = async (participant, call = window.trunklineCall) => {
    const { slots } = await call.stats();
    return slots.find((slot) => slot.kind === 'video' && slot.participant === participant)?.frameHeight ?? 0;
  };

  /** A slow machine sends fewer pictures from now on, not smaller ones. */
  const keepSize = async () => {
    const senders = window.test.connections.flatMap((connection) => connection.getSenders());
    for (const sender of senders.filter(({ track }) => track?.kind === 'video')) {
      await sender.setParameters({ ...sender.getParameters(), degradationPreference: 'maintain-resolution' });
    }
  };

  /** Joins in this page as the other tests' page does, but with codecs of one's own choice, and with nothing to see. */
  const join = async ({ name, tone, plain, steady, key, ...options }) => {
    if (plain) withoutRedundancy();
    const { TrunklineCall } = await import('/call/trunkline-client.js');
    const { decodeBase64 } = await import('/call/link.js');
    const call = new TrunklineCall();
    window.trunklineCall = call;
    const video = name ? camera(name).getVideoTracks()[0] : null;
    const audio = tone ? steadyTone() : null;
    await call.join({ ...options, key: decodeBase64(key), audio, video });
    if (steady) await keepSize();
  };

  /** The payload type that the relay wants sound in: the first of its answer. */
  let soundType = null;
  const soundPayloadType = () => soundType;

  const { mediaDevices } = navigator;
  const ask = mediaDevices?.getUserMedia.bind(mediaDevices);
  if (ask) mediaDevices.getUserMedia = async (wanted) => (wanted.video && window.camera ? camera(window.camera) : ask(wanted));

  // The relay's address in its answer gives way to that of the network in between.
  const set = RTCPeerConnection.prototype.setRemoteDescription;
  RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
    const { from, to } = window.detour ?? {};
    soundType = sdp.match(/^m=audio \S+ \S+ (\d+)/m)?.[1] ?? null;
    const instead = (line, head, port) => (Number(port) === from ? `${head} ${to}` : line);
    return set.call(this, { type, sdp: sdp.replace(/^(a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1) (\d+)/gim, instead) });
  };

  Object.assign(window.test, { encoding, heightOf, join, marked, soundPayloadType });
})();
