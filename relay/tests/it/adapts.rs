//! Calls that adapt, between pages of a real Chromium: what each receives over its own line, and what is sent of a camera
//! that is sent in several encodings or layers. Everything is encrypted end to end.

use std::net::SocketAddr;

use serde_json::{Value, json};
use trunkline_browser::{Browser, Page};
use trunkline_testkit::shaper::{Direction, Protocol, Rate, Shaper, Which};

use crate::calls::{KEY, PATIENCE, errors, script, start_browser, token};
use crate::process::Relay;

/// Lines, in bits per second: one that carries the whole picture, and one that carries half of its height.
const WIDE_BPS: u64 = 3_000_000;
const NARROW_BPS: u64 = 500_000;

/// What waits in front of a line: a quarter of a second. More hides losses behind delay.
const QUEUE_PER_S: u64 = 4;

/// Times that a picture may stand still in a test. A line that gets narrow all at once loses some packets before anybody
/// can know.
const FREEZES_MAX: u64 = 4;

/// The picture is sent in 180, 360 and 720 lines, or three quarters of that where the sender's machine is too slow.
const WHOLE: u64 = 720;
const WHOLE_AT_LEAST: u64 = 540;
const HALF: u64 = 360;

/// Windows in which one picture is shown nearly whole, and in a corner.
const LARGE: (u32, u32) = (1280, 900);
const SMALL: (u32, u32) = (320, 420);

/// Pictures for which it is watched that something else is not sent: two seconds.
const WATCHED_FRAMES: u64 = 20;

/// Lets a page make sound by itself.
const TONES: &str = "--autoplay-policy=no-user-gesture-required";

/// Packets that a line loses, for how much sound, and how much of that may have to be made up. Redundancy of one packet
/// leaves a twenty-fifth; some comes too late on a busy machine.
const LOSS: f64 = 0.2;
const SOUND_SAMPLES: u64 = 5 * 48_000;
const MADE_UP_MAX: f64 = 0.1;

/// A relay, a call on it, and a browser.
struct Stage {
    relay: Relay,
    call: String,
    media: SocketAddr,
    browser: Browser,
}

impl Stage {
    async fn new() -> Self {
        let relay = Relay::running();
        let made = relay.json(&["call", "create"]);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let media = text("calluri").parse().unwrap();
        Self { call: text("call_id"), media, relay, browser: start_browser(&[TONES]).await }
    }

    /// A line of a participant's own, as wide as can be.
    fn line(&self, seed: u64) -> Line {
        Line(Shaper::start(self.media, seed).unwrap())
    }

    /// Prepares a page: whose camera it has, and the line that its media goes over.
    async fn prepare(&self, page: &Page, camera: Option<&str>, line: Option<&Line>) {
        let detour = line.map(|line| json!({ "from": self.media.port(), "to": line.0.addr().port() }));
        let settings = format!("window.detour = {}; window.camera = {};", json!(detour), json!(camera));
        for source in [settings.as_str(), include_str!("calls.js"), include_str!("adapts.js")] {
            script(page, source).await;
        }
    }

    /// Somebody who sends a camera from the example page.
    async fn sender(&self, page: &Page, name: &str) {
        self.prepare(page, Some(name), None).await;
        self.enter(page, &token(&self.relay, &self.call, name, &[])).await;
        page.click("#microphone").await.unwrap();
    }

    /// Somebody who watches in the example page, over a line.
    async fn viewer(&self, page: &Page, name: &str, line: Option<&Line>) {
        page.set_size(LARGE.0, LARGE.1).await.unwrap();
        self.prepare(page, None, line).await;
        self.enter(page, &token(&self.relay, &self.call, name, &["--viewer"])).await;
    }

    async fn enter(&self, page: &Page, token: &str) {
        let Self { relay, call, .. } = self;
        page.open(&format!("http://{}/call?call={call}&token={token}#key={KEY}", relay.address))
            .await
            .unwrap();
        page.click("#join").await.unwrap();
        page.wait_until("window.trunklineCall?.state === 'connected'", PATIENCE).await.unwrap();
    }

    /// Joins without the page's tiles: what is sent and received is for the test to say.
    async fn join(&self, page: &Page, name: &str, options: Value) {
        self.prepare(page, None, None).await;
        page.open(&format!("http://{}/call", self.relay.address)).await.unwrap();
        let sends = options.get("name").or(options.get("sends")).is_some();
        let token = token(&self.relay, &self.call, name, if sends { &[] } else { &["--viewer"] });
        let mut all = json!({ "callId": self.call, "token": token, "key": KEY, "sends": sends });
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        page.run("return test.join(arguments[0])", &[all]).await.unwrap();
        page.wait_until("window.trunklineCall.state === 'connected'", PATIENCE).await.unwrap();
    }
}

/// The line to one participant.
struct Line(Shaper);

impl Line {
    /// Carries so much to the participant from now on. What comes from it is not limited.
    fn carries(&self, bits_per_s: u64) {
        let bytes_per_s = bits_per_s / 8;
        let rate = Rate { bytes_per_s, queue_bytes: bytes_per_s / QUEUE_PER_S };
        self.0.change(Which::Only(Protocol::Udp, Direction::FromTarget), |profile| profile.rate = Some(rate));
    }

    /// Loses such a share of what goes to the participant from now on.
    fn loses(&self, loss: f64) {
        self.0.change(Which::Only(Protocol::Udp, Direction::FromTarget), |profile| profile.loss = loss);
    }
}

/// Waits until a slot shows somebody in a height, and gives it.
async fn shows(page: &Page, participant: &str, condition: &str) {
    let height = format!("(await test.heightOf('{participant}'))");
    page.wait_until(&format!("((height) => {condition})({height})"), PATIENCE).await.unwrap();
}

/// Waits until a slot has decoded so many more pictures of somebody.
async fn decodes_more(page: &Page, participant: &str, frames: u64) {
    let now = format!("(await test.slot('{participant}', 'camera'))?.framesDecoded ?? 0");
    let before = page.value(&now).await.unwrap().as_u64().unwrap();
    page.wait_until(&format!("({now}) >= {}", before + frames), PATIENCE).await.unwrap();
}

async fn freezes(page: &Page, participant: &str) -> u64 {
    let count = format!("(await test.slot('{participant}', 'camera')).freezeCount");
    page.value(&count).await.unwrap().as_u64().unwrap()
}

/// Samples of sound that came from somebody, and how many of them were made up.
async fn heard(page: &Page, participant: &str) -> (u64, u64) {
    let slot = page.value(&format!("test.slot('{participant}', 'microphone')")).await.unwrap();
    let samples = |name: &str| slot[name].as_u64().unwrap();
    (samples("totalSamplesReceived"), samples("concealedSamples") - samples("silentConcealedSamples"))
}

/// Waits until an encoding of a page's camera is switched on or off.
async fn sends(page: &Page, rid: &str, active: bool) {
    let switched = format!("(await test.encoding('{rid}'))?.active === {active}");
    page.wait_until(&switched, PATIENCE).await.unwrap();
}

async fn bytes_sent(page: &Page, rid: &str) -> u64 {
    page.value(&format!("(await test.encoding('{rid}')).bytesSent")).await.unwrap().as_u64().unwrap()
}

/// Waits until the smallest encoding has sent so many more pictures.
async fn sends_more(page: &Page, frames: u64) {
    let now = "(await test.encoding('q')).framesEncoded";
    let before = page.value(now).await.unwrap().as_u64().unwrap();
    page.wait_until(&format!("{now} >= {}", before + frames), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_received_height_follows_the_line_down_and_up() {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    let line = stage.line(1);
    line.carries(WIDE_BPS);
    stage.sender(&ann, "ann").await;
    stage.viewer(&bob, "bob", Some(&line)).await;
    shows(&bob, "ann", &format!("height >= {WHOLE_AT_LEAST}")).await;
    let before = freezes(&bob, "ann").await;

    line.carries(NARROW_BPS);
    shows(&bob, "ann", &format!("height > 0 && height <= {HALF}")).await;
    decodes_more(&bob, "ann", WATCHED_FRAMES).await;

    line.carries(WIDE_BPS);
    shows(&bob, "ann", &format!("height >= {WHOLE_AT_LEAST}")).await;
    decodes_more(&bob, "ann", WATCHED_FRAMES).await;
    let froze = freezes(&bob, "ann").await - before;
    println!("stood still {froze} times");
    assert!(froze <= FREEZES_MAX, "{froze}");
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_nobody_has_room_for_is_not_sent_until_somebody_has() {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    stage.sender(&ann, "ann").await;
    stage.viewer(&bob, "bob", None).await;
    shows(&bob, "ann", &format!("height >= {WHOLE_AT_LEAST}")).await;

    bob.set_size(SMALL.0, SMALL.1).await.unwrap();
    sends(&ann, "f", false).await;
    // What was on its way still arrives.
    sends_more(&ann, 1).await;
    let before = bytes_sent(&ann, "f").await;
    sends_more(&ann, WATCHED_FRAMES).await;
    assert_eq!(bytes_sent(&ann, "f").await, before);
    shows(&bob, "ann", &format!("height > 0 && height <= {HALF}")).await;
    decodes_more(&bob, "ann", WATCHED_FRAMES).await;

    bob.set_size(LARGE.0, LARGE.1).await.unwrap();
    sends(&ann, "f", true).await;
    shows(&bob, "ann", &format!("height >= {WHOLE_AT_LEAST}")).await;
    assert!(bytes_sent(&ann, "f").await > before);
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn one_receivers_line_is_nobody_elses_matter() {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    let carl = stage.browser.new_page().await.unwrap();
    let (wide, narrow) = (stage.line(1), stage.line(2));
    wide.carries(WIDE_BPS);
    narrow.carries(WIDE_BPS);
    stage.sender(&ann, "ann").await;
    stage.viewer(&bob, "bob", Some(&wide)).await;
    stage.viewer(&carl, "carl", Some(&narrow)).await;
    for page in [&bob, &carl] {
        shows(page, "ann", &format!("height >= {WHOLE_AT_LEAST}")).await;
    }
    let before = freezes(&bob, "ann").await;
    let lowest = "window.lowest = Infinity; setInterval(async () => { \
        window.lowest = Math.min(window.lowest, await test.heightOf('ann')); }, 100)";
    bob.run(lowest, &[]).await.unwrap();

    narrow.carries(NARROW_BPS);
    shows(&carl, "ann", &format!("height > 0 && height <= {HALF}")).await;
    for page in [&bob, &carl] {
        decodes_more(page, "ann", WATCHED_FRAMES).await;
    }
    let lowest = bob.value("window.lowest").await.unwrap();
    assert!(lowest.as_u64() >= Some(WHOLE_AT_LEAST), "{lowest}: bob's line is as wide as before");
    assert!(freezes(&bob, "ann").await - before <= 1);
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn sound_survives_the_loss_of_every_fifth_packet() {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    let line = stage.line(1);
    stage
        .join(&ann, "ann", json!({ "tone": true, "sends": true, "slots": { "audio": 0, "video": 0 } }))
        .await;
    stage.viewer(&bob, "bob", Some(&line)).await;
    let slot = "(await test.slot('ann', 'microphone'))";
    bob.wait_until(&format!("{slot}?.totalSamplesReceived > 48000"), PATIENCE).await.unwrap();

    line.loses(LOSS);
    let lost = format!("{slot}.packetsLost");
    let before = (bob.value(&lost).await.unwrap().as_u64().unwrap(), heard(&bob, "ann").await);
    let until = before.1.0 + SOUND_SAMPLES;
    bob.wait_until(&format!("{slot}.totalSamplesReceived > {until}"), PATIENCE).await.unwrap();
    let (lost, after) =
        (bob.value(&lost).await.unwrap().as_u64().unwrap() - before.0, heard(&bob, "ann").await);
    let (came, made_up) = (after.0 - before.1.0, after.1 - before.1.1);
    println!("{lost} packets lost; {made_up} of {came} samples made up");
    assert!(lost > 20, "{lost}");
    assert!((made_up as f64) < MADE_UP_MAX * came as f64, "{made_up} of {came} samples made up");
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn who_takes_no_redundant_sound_hears_everybody_and_costs_others_theirs_only_meanwhile() {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    let none = json!({ "audio": 0, "video": 0 });
    let one = json!({ "audio": 1, "video": 0 });
    stage.join(&ann, "ann", json!({ "tone": true, "sends": true, "slots": none })).await;
    ann.wait_until("test.soundPayloadType() !== null", PATIENCE).await.unwrap();
    let redundant = ann.value("test.soundPayloadType()").await.unwrap();

    stage.join(&bob, "bob", json!({ "plain": true, "slots": one })).await;
    ann.wait_until(&format!("test.soundPayloadType() !== {redundant}"), PATIENCE).await.unwrap();
    bob.wait_until("(await test.slot('ann', 'microphone'))?.packetsReceived > 50", PATIENCE).await.unwrap();

    bob.run("return trunklineCall.leave()", &[]).await.unwrap();
    ann.wait_until(&format!("test.soundPayloadType() === {redundant}"), PATIENCE).await.unwrap();
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

/// Ann sends with a codec, bob asks for her picture in two heights: both are right, and open with the key.
async fn is_seen_in_two_heights(codec: &str, layers: &str) {
    let stage = Stage::new().await;
    let (ann, bob) = (stage.browser.first_page(), stage.browser.new_page().await.unwrap());
    let sent =
        json!({ "name": "ann", "codecs": [codec], "layers": layers, "slots": { "audio": 0, "video": 0 } });
    stage.join(&ann, "ann", sent).await;
    let watched = json!({ "codecs": [codec], "slots": { "audio": 0, "video": 1 } });
    stage.join(&bob, "bob", watched).await;
    let whole = format!("height >= {WHOLE_AT_LEAST}");
    let quarter = format!("height > 0 && height < {HALF}");
    for (room, condition) in [(WHOLE, &whole), (WHOLE / 4, &quarter), (WHOLE, &whole)] {
        let tell = "trunklineCall.setHeight(trunklineCall.slots[0].mid, arguments[0])";
        bob.run(tell, &[json!(room)]).await.unwrap();
        let height = "(await test.heightOf('ann'))";
        let seen = bob.wait_until(&format!("((height) => {condition})({height})"), PATIENCE).await;
        if let Err(error) = seen {
            let [sent, seen] = [&ann, &bob].map(|page| page.value("trunklineCall.stats()"));
            panic!(
                "room for {room}: {error}\nsent: {:#}\nseen: {:#}",
                sent.await.unwrap(),
                seen.await.unwrap()
            );
        }
        decodes_more(&bob, "ann", WATCHED_FRAMES).await;
        assert_eq!(bob.value("test.marked(trunklineCall.slots[0])").await.unwrap(), "ann");
    }
    let stats = bob.value("trunklineCall.stats()").await.unwrap();
    assert_eq!(stats["slots"][0]["codec"], format!("video/{codec}"), "{stats:#}");
    assert!(stats["frames"]["opened"].as_u64() > Some(0), "{stats:#}");
    assert_eq!(stats["frames"]["dropped"], 0, "{stats:#}");
    assert_eq!(errors(&stage.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn vp8_in_three_encodings_is_seen_in_the_height_there_is_room_for() {
    is_seen_in_two_heights("VP8", "simulcast").await;
}

#[tokio::test]
async fn vp9_in_one_encoding_of_three_layers_is_seen_in_the_height_there_is_room_for() {
    is_seen_in_two_heights("VP9", "svc").await;
}

#[tokio::test]
async fn av1_in_one_encoding_of_three_layers_is_seen_in_the_height_there_is_room_for() {
    is_seen_in_two_heights("AV1", "svc").await;
}

#[tokio::test]
async fn av1_in_three_encodings_is_seen_in_the_height_there_is_room_for() {
    is_seen_in_two_heights("AV1", "simulcast").await;
}

#[tokio::test]
async fn h264_in_three_encodings_is_seen_in_the_height_there_is_room_for() {
    is_seen_in_two_heights("H264", "simulcast").await;
}
