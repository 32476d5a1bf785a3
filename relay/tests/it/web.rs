//! The example client: how it is served, and, in a real Chromium, what it offers, shows and encrypts. A relay is
//! played by `web/test/mirror.js` inside the page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use trunkline_browser::{Browser, Devices, Error, Options, Page};
use trunkline_relay::sdp::{CodecName, Local, Offer, answer};
use trunkline_relay::web::router;
use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Content, Description, Extension, IceCredentials, Kind, Section};

mod tiles;

/// For what a page does by itself: media over loopback takes about a second to flow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw";
const OTHER_KEY: &str = "Dw4NDAsKCQgHBgUEAwIBAA";

/// `{"sub": "anna", "call": "weekly", "role": "presenter", "exp": 4000000000}`, unsigned: nobody here verifies it.
const ANNAS_TOKEN: &str =
    "e30.eyJzdWIiOiJhbm5hIiwiY2FsbCI6IndlZWtseSIsInJvbGUiOiJwcmVzZW50ZXIiLCJleHAiOjQwMDAwMDAwMDB9.x";

/// Serves the client, and the modules that test it, on a port of this machine.
async fn serve() -> String {
    let tests = Router::new()
        .route("/call/test/sframe.js", javascript(include_str!("../../web/test/sframe.js")))
        .route("/call/test/units.js", javascript(include_str!("../../web/test/units.js")))
        .route("/call/test/loopback.js", javascript(include_str!("../../web/test/loopback.js")))
        .route("/call/test/mirror.js", javascript(include_str!("../../web/test/mirror.js")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router().merge(tests)).await });
    format!("http://{address}")
}

fn javascript(text: &'static str) -> axum::routing::MethodRouter {
    get(async move || ([(header::CONTENT_TYPE, "text/javascript")], text))
}

fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::new()
}

/// Where screenshots go, for people to look at.
fn screenshot(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"))
}

#[tokio::test]
async fn each_file_is_served_with_its_type_its_tag_and_a_strict_policy() {
    let base = serve().await;
    let client = client();
    for (path, media_type) in [
        ("/call", "text/html; charset=utf-8"),
        ("/call/style.css", "text/css; charset=utf-8"),
        ("/call/icon.svg", "image/svg+xml"),
        ("/call/call.js", "text/javascript; charset=utf-8"),
        ("/call/sframe-worker.js", "text/javascript; charset=utf-8"),
    ] {
        let response = client.get(format!("{base}{path}?call=x&token=y")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), media_type);
        assert_eq!(header("cache-control"), "no-cache");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert!(header("permissions-policy").contains("display-capture=(self)"));
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(policy.contains("; worker-src 'self';"), "{policy}");
        let sockets =
            format!("connect-src 'self' ws://{host} wss://{host};", host = &base["http://".len()..]);
        assert!(policy.contains(&sockets), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        let tag = header("etag");
        let again = client.get(format!("{base}{path}")).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(again.bytes().await.unwrap().len(), 0);
        let other =
            client.get(format!("{base}{path}")).header("if-none-match", "\"x\"").send().await.unwrap();
        assert_eq!(other.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_host_that_is_none_stays_out_of_the_policy() {
    let base = serve().await;
    let request = client().get(format!("{base}/call")).header("host", "a.test; script-src *");
    let response = request.send().await.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("connect-src 'self';") && !policy.contains('*'), "{policy}");
}

#[tokio::test]
async fn every_file_that_is_referred_to_exists() {
    let base = serve().await;
    let client = client();
    let mut known = BTreeSet::from(["/call".to_owned()]);
    let mut open: Vec<String> = known.iter().cloned().collect();
    while let Some(path) = open.pop() {
        let response = client.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        for found in references(&response.text().await.unwrap()) {
            if known.insert(found.clone()) {
                open.push(found);
            }
        }
    }
    let expected =
        ["call.js", "style.css", "icon.svg", "trunkline-client.js", "sframe-worker.js", "sframe.js"];
    for file in expected {
        assert!(known.contains(&format!("/call/{file}")), "{file} is not reached from the page: {known:?}");
    }
}

/// Paths in quotes that begin with `./` (modules) or `/call/` (the page).
fn references(text: &str) -> Vec<String> {
    let quoted = text.split(['\'', '"']);
    let local = quoted.filter(|part| part.starts_with("./") || part.starts_with("/call/"));
    let local = local.filter(|part| !part.contains(char::is_whitespace));
    local.map(|part| part.strip_prefix('.').map_or(part.to_owned(), |rest| format!("/call{rest}"))).collect()
}

#[tokio::test]
async fn the_page_loads_without_errors_and_asks_for_an_invitation() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    page.open(&format!("{base}/call")).await.unwrap();
    page.wait_until("document.querySelector('#lobby-encryption span').textContent !== ''", PATIENCE)
        .await
        .unwrap();
    page.click("#join").await.unwrap();
    assert_eq!(page.text("#problem").await.unwrap(), "Enter the call and your join token.");
    page.screenshot(&screenshot("form")).await.unwrap();
    assert_named(&page).await;
    assert_fits(&page, 320, "form-narrow").await;

    page.open(&format!("{base}/call?call=weekly&token={ANNAS_TOKEN}#key={KEY}")).await.unwrap();
    page.wait_until("!document.querySelector('#greeting').hidden", PATIENCE).await.unwrap();
    assert_eq!(page.text("#greeting").await.unwrap(), "You join as anna.");
    assert_eq!(page.text("#lobby-encryption").await.unwrap(), "End-to-end encrypted");
    assert_named(&page).await;
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn sframe_keeps_its_promises_in_a_browser() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    page.open(&format!("{base}/call")).await.unwrap();
    let result = page.value("(await import('/call/test/sframe.js')).run()").await.unwrap();
    assert_eq!(result, json!({ "held": 10, "failures": [] }));
}

#[tokio::test]
async fn the_small_parts_keep_their_promises_in_a_browser() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    page.open(&format!("{base}/call")).await.unwrap();
    let result = page.value("(await import('/call/test/units.js')).run()").await.unwrap();
    assert_eq!(result, json!({ "held": 21, "failures": [] }));
}

#[tokio::test]
async fn frames_of_every_codec_survive_encryption() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    page.open(&format!("{base}/call")).await.unwrap();
    for codec in ["VP8", "VP9", "AV1", "H264"] {
        let run = format!("(await import('/call/test/loopback.js')).run('{codec}')");
        let result = page.value(&run).await.unwrap();
        assert_eq!(result["codec"], format!("video/{codec}"), "{result}");
        assert!(result["decoded"].as_u64().unwrap() >= 20, "{codec}: {result}");
        assert_eq!(result["dropped"], 0, "{codec}: {result}");
    }
}

#[tokio::test]
async fn an_offer_asks_for_the_dependency_descriptor_everywhere_and_reserves_a_screen() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    let offer = page.value("window.mirror.offers[0]").await.unwrap();
    let offer = offer.as_str().unwrap();
    let sections: Vec<&str> = offer.split("\nm=").skip(1).collect();
    let video: Vec<&&str> = sections.iter().filter(|section| section.starts_with("video")).collect();
    assert_eq!(sections.len(), 16, "4 sources, 3 audio and 9 video slots");
    assert_eq!(video.len(), 11);
    for section in &video {
        assert!(section.contains("dependency-descriptor-rtp-header-extension"), "{section}");
        let first = section.lines().find(|line| line.starts_with("a=rtpmap:")).unwrap();
        assert!(first.ends_with("VP8/90000"), "{first}");
    }
    let slides: Vec<&&str> =
        sections.iter().filter(|section| section.contains("a=content:slides\r")).collect();
    assert_eq!(slides.len(), 2, "a screen and its sound");
    assert!(slides.iter().all(|section| section.contains("a=inactive")), "reserved, not sending yet");
    assert!(!offer.contains("a=candidate"), "nothing waits for candidates");
    assert!(!offer.contains("a=packetization"), "VP8 needs none");
    let first = understood(offer, None);

    page.click("#screen").await.unwrap();
    page.wait_until("window.mirror.offers.length === 2", PATIENCE).await.unwrap();
    let offer = page.value("window.mirror.offers[1]").await.unwrap();
    let second = understood(offer.as_str().unwrap(), Some(&first));
    let sending =
        |description: &Description| description.sections.iter().filter_map(content).collect::<Vec<_>>();
    assert_eq!(sending(&first), [Content::Main; 2]);
    assert_eq!(sending(&second), [Content::Main, Content::Main, Content::Slides, Content::Slides]);
    let slides = offer.as_str().unwrap().split("\nm=").filter(|section| section.contains("a=content:slides"));
    let video: Vec<&str> = slides.filter(|section| section.starts_with("video")).collect();
    assert!(matches!(video[..], [section] if section.contains("a=sendonly")), "{video:?}");
    page.wait_until("(await window.trunklineCall.stats()).sources[2].framesEncoded > 0", PATIENCE)
        .await
        .unwrap();
    page.click("#screen").await.unwrap();
    page.wait_until("window.mirror.offers.length === 3", PATIENCE).await.unwrap();
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn encrypted_video_and_audio_arrive_both_ways() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    let received = "(async () => { const { slots, frames } = await window.trunklineCall.stats(); \
        const sum = (name) => slots.reduce((total, slot) => total + slot[name], 0); \
        return sum('framesDecoded') > 20 && sum('totalAudioEnergy') > 0.001 && frames.opened > 40 \
        && frames.sealed > 40 && slots.find((slot) => slot.kind === 'video').frameHeight > 0; })()";
    page.wait_until(received, PATIENCE).await.unwrap();
    let sent = "(async () => { const { frames, energy } = await window.mirror.decoded(); \
        return frames > 20 && energy > 0.0001; })()";
    page.wait_until(sent, PATIENCE).await.unwrap();
    let stats = page.value("window.trunklineCall.stats()").await.unwrap();
    assert_eq!(stats["frames"]["dropped"], 0, "{stats:#}");
    assert_eq!(stats["transport"]["dtlsState"], "connected", "{stats:#}");
    assert!(stats["timing"]["connectedMs"].as_u64().is_some(), "{stats:#}");
    assert_eq!(page.text("#encryption").await.unwrap(), "End-to-end encrypted");
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_decodes_with_another_key_and_the_page_says_so() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, OTHER_KEY, &mirror(KEY, &["ben"])).await.unwrap();
    page.wait_until("!document.querySelector('.tile[data-participant=ben] .warning').hidden", PATIENCE)
        .await
        .unwrap();
    let stats = page.value("window.trunklineCall.stats()").await.unwrap();
    assert!(stats["frames"]["dropped"].as_u64().unwrap() >= 10, "{stats:#}");
    assert_eq!(stats["frames"]["opened"], 0);
    for slot in stats["slots"].as_array().unwrap() {
        assert_eq!(slot["framesDecoded"], 0, "{slot}");
        assert_eq!(slot["totalAudioEnergy"].as_f64(), Some(0.0), "{slot}");
    }
    page.wait_until("(await window.mirror.decoded()).packets > 50", PATIENCE).await.unwrap();
    let decoded = page.value("window.mirror.decoded()").await.unwrap();
    assert_eq!((&decoded["frames"], decoded["energy"].as_f64()), (&json!(0), Some(0.0)), "{decoded}");
    page.screenshot(&screenshot("other-key")).await.unwrap();
}

#[tokio::test]
async fn a_room_shows_who_is_there_and_follows_what_is_pinned() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben", "chloe", "dmitri", "eva"])).await.unwrap();
    page.wait_until("document.querySelectorAll('.tile').length === 5", PATIENCE).await.unwrap();
    all_pictures_move(&page, 5).await;
    page.run("window.mirror.tell({ event: 'speakers', speakers: ['chloe'] })", &[]).await.unwrap();
    page.wait_until("document.querySelector('.tile.speaking').dataset.participant === 'chloe'", PATIENCE)
        .await
        .unwrap();
    page.screenshot(&screenshot("room")).await.unwrap();

    page.click("#people-toggle").await.unwrap();
    assert_named(&page).await;
    page.screenshot(&screenshot("room-people")).await.unwrap();
    page.click("#people-toggle").await.unwrap();
    page.click("#encryption").await.unwrap();
    let code = page.text("#safety-code").await.unwrap();
    assert_eq!(code.len(), "1234 1234 1234".len(), "{code}");
    page.screenshot(&screenshot("room-encryption")).await.unwrap();
    page.press('\u{e00c}').await.unwrap();

    page.click(".tile[data-participant=dmitri] .pin").await.unwrap();
    page.wait_until("document.querySelector('.tile.featured').dataset.participant === 'dmitri'", PATIENCE)
        .await
        .unwrap();
    let asked =
        page.value("window.mirror.asked.findLast((request) => request.pin?.participant).pin").await.unwrap();
    assert_eq!((asked["participant"].as_str(), asked["source"].as_str()), (Some("dmitri"), Some("camera")));
    assert!(asked["height"].as_u64().unwrap() > 100, "{asked}");
    page.screenshot(&screenshot("room-pinned")).await.unwrap();
    page.set_preference("prefers-color-scheme", "dark").await.unwrap();
    page.screenshot(&screenshot("room-dark")).await.unwrap();
    assert_fits(&page, 320, "room-narrow").await;
    page.press('\u{e007}').await.unwrap();
    page.wait_until("document.querySelector('.tile.featured') === null", PATIENCE).await.unwrap();
    assert_fits(&page, 320, "room-narrow-grid").await;

    page.run(
        "window.mirror.tell({ event: 'roster', complete: false, participants: [], left: ['eva'] })",
        &[],
    )
    .await
    .unwrap();
    page.wait_until("document.querySelector('#announcements').textContent === 'eva left.'", PATIENCE)
        .await
        .unwrap();
    page.click("#microphone").await.unwrap();
    let muted = "window.mirror.asked.some(({ mute }) => mute?.source === 'microphone' && mute.muted)";
    page.wait_until(muted, PATIENCE).await.unwrap();
    page.click("#leave").await.unwrap();
    page.wait_until("window.mirror.left && !document.querySelector('#farewell').hidden", PATIENCE)
        .await
        .unwrap();
    page.screenshot(&screenshot("farewell")).await.unwrap();
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_call_that_moves_is_joined_again_and_pictures_go_on() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    let decoded = "(await window.trunklineCall.stats()).slots.some((slot) => slot.framesDecoded > 5)";
    page.wait_until(decoded, PATIENCE).await.unwrap();
    page.run(
        "window.states = []; window.tracks = window.trunklineCall.slots.map(({ stream }) => stream.getTracks()[0]); \
         window.trunklineCall.addEventListener('state', ({ detail }) => window.states.push(detail.state)); \
         window.mirror.tell({ event: 'moved' })",
        &[],
    )
    .await
    .unwrap();
    let switched = "window.trunklineCall.slots.every(({ stream }, at) => \
        stream.getTracks().length === 1 && stream.getTracks()[0] !== window.tracks[at])";
    page.wait_until(switched, PATIENCE).await.unwrap();
    // Nobody saw an interruption.
    assert_eq!(page.value("window.mirror.offers.length").await.unwrap(), 2);
    assert_eq!(page.value("window.states").await.unwrap(), json!([]));
    page.wait_until("window.mirror.left", PATIENCE).await.unwrap();
    page.wait_until(decoded, PATIENCE).await.unwrap();
    all_pictures_move(&page, 2).await;
    let sent = "await window.mirror.decoded().then(({ frames }) => frames > 5)";
    page.wait_until(sent, PATIENCE).await.unwrap();
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn ice_servers_are_those_the_relay_names_and_no_join_waits_long_for_them() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    page.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": include_str!("calls.js") }))
        .await
        .unwrap();
    let mut options = mirror(KEY, &["ben"]);
    let turn = "<turn:127.0.0.1:9?transport=tcp>; rel=\"ice-server\"; username=\"1:a\"; credential=\"b\"";
    options["links"] = json!(turn);
    enter(&page, &base, KEY, &options).await.unwrap();
    let servers = page.value("test.connections[0].getConfiguration().iceServers").await.unwrap();
    assert_eq!(servers[0]["username"], "1:a", "{servers}");
    assert_eq!(page.value("window.mirror.iceServersAsked").await.unwrap(), 1);

    options["links"] = json!("never");
    enter(&page, &base, KEY, &options).await.unwrap();
    let offered = page.value("(await window.trunklineCall.stats()).timing.offeredMs").await.unwrap();
    assert!(offered.as_u64().unwrap() >= 500, "it was waited for: {offered}");
}

#[tokio::test]
async fn a_reload_joins_again_unless_one_left() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    page.reload().await.unwrap();
    // Without the mirror nobody answers: that it was tried is what counts.
    page.wait_until("document.querySelector('#problem').textContent !== ''", PATIENCE).await.unwrap();
    page.wait_until("window.trunklineCall.state === 'ended'", PATIENCE).await.unwrap();

    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    page.click("#leave").await.unwrap();
    page.reload().await.unwrap();
    assert_eq!(page.text("#greeting").await.unwrap(), "You join as anna.");
    assert_eq!(page.value("window.trunklineCall ?? null").await.unwrap(), Value::Null);
}

#[tokio::test]
async fn without_devices_one_listens_and_hears_why() {
    let base = serve().await;
    let browser = Browser::start(&Options { devices: Devices::Denied, ..Options::default() }).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, "", &mirror("", &["ben"])).await.unwrap();
    let told = "document.querySelector('#banner span').textContent.startsWith('Microphone and camera: Access was denied')";
    page.wait_until(told, PATIENCE).await.unwrap();
    let heard = "(await window.trunklineCall.stats()).slots.some((slot) => slot.framesDecoded > 5)";
    page.wait_until(heard, PATIENCE).await.unwrap();
    assert_eq!(page.text("#encryption").await.unwrap(), "Not end-to-end encrypted");
    page.screenshot(&screenshot("denied")).await.unwrap();
}

#[tokio::test]
async fn a_refused_join_says_what_to_do() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    for (status, part) in
        [(401, "not valid"), (403, "another call"), (404, "no such call"), (409, "full"), (503, "Try again")]
    {
        let mut options = mirror("", &[]);
        options["refuse"] = json!(status);
        prepare(&page, &base, "", &options).await.unwrap();
        page.click("#join").await.unwrap();
        let said = format!("document.querySelector('#problem').textContent.includes('{part}')");
        page.wait_until(&said, PATIENCE).await.unwrap();
    }
}

/// What the relay makes of an offer.
fn understood(offer: &str, previous: Option<&Description>) -> Description {
    let ice = IceCredentials { ufrag: "ufrag".to_owned(), pwd: "password".to_owned() };
    let local = Local {
        ice: &ice,
        fingerprint: &[7; 32],
        candidates: &[],
        role: Role::Presenter,
        codecs: &[CodecName::Opus, CodecName::Vp8],
    };
    let mut ssrcs = 1..;
    let draw = &mut || ssrcs.next().unwrap();
    let description = answer(&Offer::parse(offer).unwrap(), previous, &local, draw).unwrap().description;
    assert_eq!(description.sections.iter().filter(|section| section.receive.is_some()).count(), 12);
    for section in description.sections.iter().filter(|section| section.kind == Kind::Video) {
        assert!(section.extensions.id(Extension::DependencyDescriptor).is_some(), "{section:?}");
    }
    description
}

fn content(section: &Section) -> Option<Content> {
    section.send.as_ref().map(|upstream| upstream.content)
}

/// Options of `install()` in `web/test/mirror.js`.
fn mirror(key: &str, people: &[&str]) -> Value {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key).unwrap();
    let people: Vec<Value> = people.iter().map(|name| json!({ "participant": name })).collect();
    let key = if key.is_empty() { Value::Null } else { json!(bytes) };
    json!({ "self": "anna", "key": key, "people": people })
}

/// Opens anna's invitation and puts the mirror in the relay's place.
async fn prepare(page: &Page, base: &str, key: &str, mirror: &Value) -> Result<(), Error> {
    // Only what stands before `#` makes a page load anew.
    page.open("about:blank").await?;
    let fragment = if key.is_empty() { String::new() } else { format!("#key={key}") };
    page.open(&format!("{base}/call?call=weekly&token={ANNAS_TOKEN}{fragment}")).await?;
    let install =
        "return import('/call/test/mirror.js').then(({ install }) => install(arguments[0])).then(() => 0)";
    let install = install.replace("arguments[0]", "options");
    page.run(&format!("const options = arguments[0]; {install}"), std::slice::from_ref(mirror))
        .await
        .map(drop)
}

/// Joins as anna, with camera and microphone.
async fn enter(page: &Page, base: &str, key: &str, mirror: &Value) -> Result<(), Error> {
    prepare(page, base, key, mirror).await?;
    page.click("#join").await?;
    page.wait_until("window.trunklineCall?.state === 'connected'", PATIENCE).await.map(drop)
}

async fn all_pictures_move(page: &Page, count: usize) {
    let moving = format!(
        "[...document.querySelectorAll('.tile video')].filter((video) => video.videoWidth > 0 \
         && video.currentTime > 0 && !video.paused).length === {count}"
    );
    page.wait_until(&moving, PATIENCE).await.unwrap();
}

/// What went wrong in any page, by its console.
async fn errors(browser: &Browser) -> Vec<String> {
    let console = browser.console().await.unwrap();
    console.iter().filter(|entry| entry.is_error()).map(ToString::to_string).collect()
}

async fn assert_named(page: &Page) {
    let controls = page.accessible_names("button, input, [role=img], dialog[open]").await.unwrap();
    assert!(!controls.is_empty());
    // What is hidden has neither role nor name.
    let hidden = ["", "none", "generic"];
    for (role, name) in controls.iter().filter(|(role, _)| !hidden.contains(&role.as_str())) {
        assert!(!name.is_empty(), "a {role} without a name: {controls:?}");
    }
}

async fn assert_fits(page: &Page, width: u32, name: &str) {
    page.set_size(width, 640).await.unwrap();
    page.wait_until(&format!("innerWidth === {width}"), PATIENCE).await.unwrap();
    page.screenshot(&screenshot(name)).await.unwrap();
    let overflow = page.value("document.documentElement.scrollWidth - innerWidth").await.unwrap();
    assert_eq!(overflow, 0, "{name} is wider than {width} pixels");
}
