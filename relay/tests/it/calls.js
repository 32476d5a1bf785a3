// Put into every page before its own scripts: sees connections from outside, and asks what slots receive.
(() => {
  const connections = [];
  const states = [];
  const Native = RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...options) {
      super(...options);
      connections.push(this);
      this.addEventListener('connectionstatechange', () => {
        if (this === connections[0]) states.push(this.connectionState);
      });
    }
  };

  const slotOf = (participant, source) =>
    window.trunklineCall.slots.find((slot) => slot.participant === participant && slot.source === source);

  /** What a slot receives, with what is in it; null when nobody's `source` is in any. */
  const slot = async (participant, source) => {
    const { mid } = slotOf(participant, source) ?? {};
    if (mid === undefined) return null;
    const { slots } = await window.trunklineCall.stats();
    return { ...window.trunklineCall.slots.find((each) => each.mid === mid), ...slots.find((each) => each.slot === mid) };
  };

  /** The longest time in which a slot decoded no frame, until `stop` is called. */
  const watch = (participant, source) => {
    const [track] = slotOf(participant, source).stream.getTracks();
    const connection = connections.find((each) => each.getReceivers().some((receiver) => receiver.track === track));
    const began = performance.now();
    let [frames, first, changed, gap, running] = [null, 0, began, 0, true];
    const look = async () => {
      for (const entry of (await connection.getStats(track)).values()) {
        if (entry.type !== 'inbound-rtp' || entry.framesDecoded === frames) continue;
        first = frames === null ? entry.framesDecoded : first;
        frames = entry.framesDecoded;
        changed = performance.now();
      }
      gap = Math.max(gap, performance.now() - changed);
      if (running) setTimeout(look, 30);
    };
    look();
    return () => {
      running = false;
      return { gapMs: Math.round(gap), frames: frames - first, watchedMs: Math.round(performance.now() - began) };
    };
  };

  /**
   * The longest time in which somebody's picture did not change, whatever happens to connections, until the function
   * that comes back is called. That waits for one more picture.
   */
  const watchPicture = (participant) => {
    const began = performance.now();
    let [last, changed, gap, running, pictures] = [0, began, 0, true, 0];
    const look = async () => {
      const frames = (await slot(participant, 'camera').catch(() => null))?.framesDecoded ?? 0;
      const now = performance.now();
      gap = Math.max(gap, now - changed);
      // A new connection counts from zero.
      if (frames > 0 && frames !== last) {
        [changed, pictures] = [now, pictures + 1];
      }
      last = frames;
      if (running) setTimeout(look, 30);
    };
    look();
    return async () => {
      const before = pictures;
      while (pictures === before && performance.now() - changed < 20_000) {
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
      running = false;
      return { gapMs: Math.round(gap), pictures, watchedMs: Math.round(performance.now() - began) };
    };
  };

  /** Joins as often as asked, one after another; milliseconds from the request to being connected. */
  const joins = async (options, times) => {
    const { TrunklineCall } = await import('/call/trunkline-client.js');
    const durations = [];
    for (let count = 0; count < times; count += 1) {
      const call = new TrunklineCall();
      const connected = new Promise((resolve, reject) => {
        call.addEventListener('state', ({ detail: { state } }) => state === 'connected' && resolve());
        call.addEventListener('ended', ({ detail: { reason } }) => reject(new Error(reason)));
      });
      await call.join(options);
      await connected;
      const { timing } = await call.stats();
      durations.push(timing.connectedMs - timing.offeredMs);
      call.leave();
    }
    return durations;
  };

  window.test = { connections, joins, slot, states, watch, watchPicture };
})();
